#include "decays.h"

#include "../platform.h"
#include "rules.h"

#include <string.h>

/* The hyperparameters of a rule that bias corrections use: bit i for the i-th. */
static unsigned corrected(const fastopt_rule *rule)
{
    static const void *volatile cache[RULES]; /* 2 * bits + 1, so that 0 means: not yet computed */
    uintptr_t bits = (uintptr_t)load_pointer(&cache[rule->index]);
    if (!bits) {
        bits = 1;
        for (const char *const *name = fastopt_rule_corrected(rule); *name; name++)
            for (int i = 0; rule->hyper[i]; i++)
                if (!strcmp(rule->hyper[i], *name))
                    bits |= (uintptr_t)2 << i;
        store_pointer(&cache[rule->index], (const void *)bits);
    }
    return (unsigned)(bits >> 1);
}

double fastopt_age_deficit(const fastopt_inputs *in, const double *beta)
{
    const fastopt_decay constant = {*beta, 0, 1, 0};
    const fastopt_decay *decay = in->decays ? &in->decays[beta - (const double *)in->hyper] : &constant;
    const int64_t n = in->t - decay->since;
    const double power = fastopt_power(*beta, n), product = decay->product * power, limit = *beta / (1 - *beta);
    return ((double)n * product + power * ((1 - decay->product) * limit - decay->age)) / (1 - product);
}

/* Changes the value after `step` steps. */
static void change(fastopt_decay *decay, double value, int64_t step)
{
    const int64_t n = step - decay->since;
    const double power = fastopt_power(decay->value, n), limit = decay->value / (1 - decay->value);
    const double age = power * (decay->age - (double)n * decay->product) + (1 - power) * limit;
    decay->age = age<0 ? 0 : age>(double) step ? (double)step : age; /* rounding errors can leave this range */
    decay->product *= power;
    decay->since = step;
    decay->value = value;
}

void fastopt_note_decays(fastopt_tensor *tensor)
{
    unsigned bits = corrected(tensor->rule);
    for (int i = 0; bits; i++, bits >>= 1) {
        fastopt_decay *decay = &tensor->decays[i];
        if (!(bits & 1))
            continue;
        if (tensor->step == 1)
            *decay = (fastopt_decay){tensor->hyper[i], 0, 1, 0};
        else if (decay->value != tensor->hyper[i])
            change(decay, tensor->hyper[i], tensor->step - 1);
    }
}

int fastopt_valid_decays(const fastopt_tensor *tensor)
{
    unsigned bits = tensor->step == 1 ? 0 : corrected(tensor->rule);
    for (int i = 0; bits; i++, bits >>= 1) {
        const fastopt_decay *decay = &tensor->decays[i];
        if (bits & 1 && (!in_range(fastopt_rule_hyper(tensor->rule, i), decay->value) || decay->since < 0 ||
                         decay->since >= tensor->step || !(decay->product >= 0 && decay->product <= 1) ||
                         !(decay->age >= 0 && decay->age <= (double)decay->since)))
            return 0;
    }
    return 1;
}

int fastopt_same_decays(const fastopt_tensor *a, const fastopt_tensor *b)
{
    if (!a->decays || !b->decays)
        return 0;
    unsigned bits = corrected(a->rule);
    for (int i = 0; bits; i++, bits >>= 1) {
        const fastopt_decay *x = &a->decays[i], *y = &b->decays[i];
        if (bits & 1 && (x->since != y->since || x->product != y->product || x->age != y->age))
            return 0;
    }
    return 1;
}
