/* Decays that change.  A running mean that starts from 0 has given the gradients 1 minus the product of its decays so
 * far as their weight: bias corrections divide by that.  With one decay on all steps the product is decay^t, as the
 * papers and the rules here write it. */
#ifndef FASTOPT_DECAYS_H
#define FASTOPT_DECAYS_H

#include "exact.h"
#include "fastopt.h"

/* The product of hyperparameter i over steps 1 to t. */
static inline double fastopt_product(const double *h, const fastopt_decay *decays, int i, int64_t t)
{
    return decays ? decays[i].product * fastopt_power(h[i], t - decays[i].since) : fastopt_power(h[i], t);
}

/* By how many steps the mean age of the gradients in a running mean is, after step t, below its limit, which is
 * h[i] / (1 - h[i]).  With one decay on all steps: t h[i]^t / (1 - h[i]^t). */
double fastopt_age_deficit(const double *h, const fastopt_decay *decays, int i, int64_t t);

/* Notes in tensor->decays the values of the step about to be made. */
void fastopt_note_decays(fastopt_tensor *tensor);

/* Whether tensor->decays can have come from the steps before. */
int fastopt_valid_decays(const fastopt_tensor *tensor);

/* Whether the products of two tensors of one rule are the same, once the values of the step are noted. */
int fastopt_same_decays(const fastopt_tensor *a, const fastopt_tensor *b);

#endif
