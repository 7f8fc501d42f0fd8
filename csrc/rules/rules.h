/* Numbers for the rows of hyper.def and rules.def; for each rule a struct of its hyperparameters and one of its carried
 * doubles, with the names of its row. */
#ifndef FASTOPT_RULES_H
#define FASTOPT_RULES_H

#include "../include/fastopt.h"

enum {
#define HYPER(name, ...) HYPER_##name,
#include "hyper.def"
#undef HYPER
    HYPERS
};

enum {
#define RULE(name, ...) RULE_##name,
#include "rules.def"
#undef RULE
    RULES
};

#define H(x) double x;
#define D(x) double x;
#define C(x) double x;
#define RULE(name, state, hyper, carry, ...)                                                                           \
    typedef struct {                                                                                                   \
        hyper                                                                                                          \
    } name##_hyper;                                                                                                    \
    typedef struct {                                                                                                   \
        carry double end; /* no struct is empty */                                                                     \
    } name##_carry;
#include "rules.def"
#undef RULE
#undef H
#undef D
#undef C

extern const fastopt_hyper fastopt_hypers[HYPERS];

static inline int in_range(const fastopt_hyper *hyper, double value)
{
    return value >= hyper->low && (value < hyper->high || (hyper->closed && value == hyper->high));
}

/* Whether hyperparameters of a rule lie in their ranges. */
int fastopt_valid_hyper(const fastopt_rule *rule, const double *hyper);

#define IN_RANGE(name, value) in_range(&fastopt_hypers[HYPER_##name], value)

#endif
