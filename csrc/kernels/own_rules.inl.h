/* For one T: the record of a rule of the caller's own. */
#include "means.h"
#include "rule_ops.h"

/* The scalars that the loop reads: the hyperparameters, each rounded within its range, then the results of the rule's
 * function. */
static void FN(own_scalars)(const fastopt_inputs *in, void *scalars)
{
    const fastopt_own_rule *own = (const fastopt_own_rule *)in->rule;
    const double *hyper = in->hyper;
    T *k = scalars;
    double product[FASTOPT_MAX_HYPER] = {0}, weight[FASTOPT_MAX_HYPER] = {0}, lost_mean[FASTOPT_MAX_HYPER] = {0};
    double results[FASTOPT_MAX_SCALARS] = {0};
    for (int i = 0; i < own->n_hyper; i++) {
        const fastopt_hyper *range = own->tables.hyper[i].range;
        k[i] = (T)hyper[i];
        if (!range->closed && range->high <= DBL_MAX && (double)k[i] >= range->high)
            k[i] = BELOW(k[i]);
        if (own->n_scalars && own->tables.hyper[i].corrects) {
            product[i] = fastopt_product(in, &hyper[i]);
            weight[i] = FN(weight_of)(hyper[i], product[i], in->t);
            lost_mean[i] = FN(lost_mean)(hyper[i], in->t);
        }
    }
    if (own->n_scalars) {
        const fastopt_scalar_inputs inputs = {hyper, product, weight, lost_mean};
        own->scalars(in->t, &inputs, results);
    }
    for (int i = 0; i < own->n_scalars; i++)
        k[own->n_hyper + i] = (T)results[i];
}

/* Writes the record of a rule with this loop. */
static const void *FN(own_ops)(FN(rule_ops) *ops, FN(update_of) *loop)
{
    *ops = (FN(rule_ops)){.scalars = FN(own_scalars), .update = loop};
    return ops;
}
