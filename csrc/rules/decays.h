/* Decays that change.  In a running mean that starts from 0, the weights of the gradients add up to 1 minus the product
 * of its decays so far; bias corrections divide by this number.  If the decay is the same in all steps, the product is
 * decay^t, as the papers and the rules here write it. */
#ifndef FASTOPT_DECAYS_H
#define FASTOPT_DECAYS_H

#include "../include/fastopt.h"
#include "../math/exact.h"

/* Inputs of the scalars of a step. */
typedef struct {
    const void *hyper; /* the struct of the rule's hyperparameters */
    const fastopt_decay *decays;
    int64_t t;   /* the step, counted from 1 */
    void *carry; /* the struct of the doubles that the rule carries */
    ptrdiff_t n; /* elements of the whole parameter */
    const fastopt_rule *rule;
} fastopt_inputs;

/* The product of a hyperparameter, a field of in->hyper, over steps 1 to t. */
static inline double fastopt_product(const fastopt_inputs *in, const double *beta)
{
    if (!in->decays)
        return fastopt_power(*beta, in->t);
    const fastopt_decay *decay = &in->decays[beta - (const double *)in->hyper];
    return decay->product * fastopt_power(*beta, in->t - decay->since);
}

/* The mean age of the gradients in a running mean after step t, in steps, subtracted from its limit, which is
 * beta / (1 - beta).  If the decay is the same in all steps: t beta^t / (1 - beta^t). */
double fastopt_age_deficit(const fastopt_inputs *in, const double *beta);

/* Records the values of the next step in tensor->decays. */
void fastopt_note_decays(fastopt_tensor *tensor);

/* Whether tensor->decays can be the result of the steps so far. */
int fastopt_valid_decays(const fastopt_tensor *tensor);

/* Whether two tensors of one rule have the same products, after fastopt_note_decays(). */
int fastopt_same_decays(const fastopt_tensor *a, const fastopt_tensor *b);

#endif
