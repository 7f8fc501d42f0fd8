/* The numbers of one step for options of weight decay that depend on the learning rate or the update. */
#ifndef FASTOPT_WEIGHT_DECAY_H
#define FASTOPT_WEIGHT_DECAY_H

#include "../rules/rules.h"

/* The largest learning rate of a tensor so far, including this step. */
static inline double fastopt_largest_lr(const fastopt_tensor *t)
{
    double largest = t->hyper[0];
    if (t->options->peak_lr > largest)
        largest = t->options->peak_lr;
    return t->largest_lr && *t->largest_lr > largest ? *t->largest_lr : largest;
}

/* The factor of decay that the learning rate scales: lr / largest lr with corrected decay, else 1. */
static inline double fastopt_correction(const fastopt_tensor *t)
{
    if (!t->options || !t->options->corrected_decay)
        return 1;
    const double largest = fastopt_largest_lr(t);
    return largest > 0 ? t->hyper[0] / largest : 1;
}

/* The index of `decay`, the own decay of a rule, among its hyperparameters; -1: it has none. */
static inline int fastopt_own_decay(const fastopt_rule *rule)
{
    for (int i = 0; rule->hyper[i]; i++)
        if (fastopt_rule_hyper(rule, i) == &fastopt_hypers[HYPER_decay])
            return i;
    return -1;
}

/* Whether the options change the own decay of the rule, and with it the scalars of the step. */
static inline int fastopt_changes_own_decay(const fastopt_tensor *t)
{
    return t->options && (t->options->cautious_decay || t->options->corrected_decay) && fastopt_own_decay(t->rule) >= 0;
}

#endif
