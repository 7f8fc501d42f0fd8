/* The rows of hyper.def and rules.def by number, and a struct of the hyperparameters and of the carried doubles of each
 * rule, by the names in its row. */
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

#define IN_RANGE(name, value) fastopt_in_range(&fastopt_hypers[HYPER_##name], value)

#endif
