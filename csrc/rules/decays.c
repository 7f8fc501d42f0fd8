#include "decays.h"

#include "rules.h"

/* Whether bias corrections use the i-th hyperparameter of a rule. */
static inline int corrects(const fastopt_rule *rule, int i)
{
    return rule->tables->hyper[i].corrects;
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
    for (int i = 0; tensor->rule->hyper[i]; i++) {
        fastopt_decay *decay = &tensor->decays[i];
        if (!corrects(tensor->rule, i))
            continue;
        if (tensor->step == 1)
            *decay = (fastopt_decay){tensor->hyper[i], 0, 1, 0};
        else if (decay->value != tensor->hyper[i])
            change(decay, tensor->hyper[i], tensor->step - 1);
    }
}

int fastopt_valid_decays(const fastopt_tensor *tensor)
{
    for (int i = 0; tensor->step > 1 && tensor->rule->hyper[i]; i++) {
        const fastopt_decay *decay = &tensor->decays[i];
        if (corrects(tensor->rule, i) &&
            (!in_range(fastopt_rule_hyper(tensor->rule, i), decay->value) || decay->since < 0 ||
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
    for (int i = 0; a->rule->hyper[i]; i++) {
        const fastopt_decay *x = &a->decays[i], *y = &b->decays[i];
        if (corrects(a->rule, i) && (x->since != y->since || x->product != y->product || x->age != y->age))
            return 0;
    }
    return 1;
}
