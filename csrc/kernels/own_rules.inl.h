/* For one T: the record of a rule of the caller's own. */
#include "means.h"
#include "rule_ops.h"

/* The inputs of the rule's functions, whose numbers are written to `numbers`. */
static fastopt_scalar_inputs FN(own_inputs)(const fastopt_inputs *in, own_numbers *numbers)
{
    const fastopt_own_rule *own = (const fastopt_own_rule *)in->rule;
    const double *hyper = in->hyper;
    memset(numbers, 0, sizeof *numbers);
    for (int i = 0; i < own->n_hyper; i++)
        if (own->tables.hyper[i].corrects) {
            numbers->product[i] = fastopt_product(in, &hyper[i]);
            numbers->weight[i] = FN(weight_of)(hyper[i], numbers->product[i], in->t);
            numbers->lost_mean[i] = FN(lost_mean)(hyper[i], in->t);
        }
    return (fastopt_scalar_inputs){hyper, numbers->product, numbers->weight, numbers->lost_mean};
}

/* The scalars that the loop reads: the hyperparameters, each rounded within its range, then the results of the rule's
 * function. */
static void FN(own_scalars)(const fastopt_inputs *in, void *scalars)
{
    const fastopt_own_rule *own = (const fastopt_own_rule *)in->rule;
    const double *hyper = in->hyper;
    T *k = scalars;
    for (int i = 0; i < own->n_hyper; i++) {
        const fastopt_hyper *range = own->tables.hyper[i].range;
        k[i] = (T)hyper[i];
        if (!range->closed && range->high <= DBL_MAX && (double)k[i] >= range->high)
            k[i] = BELOW(k[i]);
    }
    if (own->n_scalars) {
        double results[FASTOPT_MAX_SCALARS] = {0};
        own_numbers numbers;
        const fastopt_scalar_inputs inputs = FN(own_inputs)(in, &numbers);
        own->scalars(in->t, &inputs, results);
        for (int i = 0; i < own->n_scalars; i++)
            k[own->n_hyper + i] = (T)results[i];
    }
}

/* The combined scalars, from the sums over the parameter. */
static void FN(own_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const fastopt_own_rule *own = (const fastopt_own_rule *)in->rule;
    T *k = (T *)scalars + own->n_hyper + own->n_scalars;
    double reduced[FASTOPT_MAX_SUMS], results[FASTOPT_MAX_SCALARS] = {0};
    own_numbers numbers;
    const fastopt_scalar_inputs inputs = FN(own_inputs)(in, &numbers);
    for (int s = 0; s < own->n_sums; s++)
        reduced[s] = reduced_to(own->reductions[s], &sums[s], (double)in->n);
    own->combine(in->t, &inputs, reduced, results);
    for (int i = 0; i < own->n_combined; i++)
        k[i] = (T)results[i];
}

/* Writes the record of a rule with this loop and, if it has sums, this first pass. */
static const void *FN(own_ops)(FN(rule_ops) *ops, const fastopt_own_rule *own, FN(update_of) *loop, FN(terms_of) *terms)
{
    *ops = (FN(rule_ops)){.scalars = FN(own_scalars), .update = loop};
    if (own->n_sums) {
        ops->terms = terms;
        ops->n_sums = own->n_sums;
        ops->reductions = own->reductions;
        ops->combine = FN(own_combine);
    }
    return ops;
}
