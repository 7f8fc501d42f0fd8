/* Numbers for the rows of hyper.def and rules.def; for each rule a struct of its hyperparameters and one of its carried
 * doubles, with the names of its row. */
#ifndef FASTOPT_RULES_H
#define FASTOPT_RULES_H

#include "../include/fastopt.h"
#include "../platform.h"

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

/* The places of a rule's records of functions, by instruction set and, in the order of fastopt_dtype, by dtype. */
enum {
#define PLACES(isa, ...) OPS_f32_##isa, OPS_f64_##isa,
    FASTOPT_ISAS(PLACES)
#undef PLACES
        OPS
};

/* The records of the built-in rules, which the kernels of each instruction set define. */
#define RECORDS(isa, ...) extern const void *const fastopt_ops_f32_##isa[RULES], *const fastopt_ops_f64_##isa[RULES];
FASTOPT_ISAS(RECORDS)
#undef RECORDS

struct fastopt_rule_tables {
    const void *const *ops[OPS]; /* each points to the pointer to a record (kernels/rule_ops.h) */
    struct {
        const fastopt_hyper *range;
        int corrects; /* whether it corrects the bias of a running mean */
    } hyper[FASTOPT_MAX_HYPER];
    const char *const *corrected; /* the names of those that do */
};

static inline int in_range(const fastopt_hyper *hyper, double value)
{
    return value >= hyper->low && (value < hyper->high || (hyper->closed && value == hyper->high));
}

/* Whether hyperparameters of a rule lie in their ranges. */
int fastopt_valid_hyper(const fastopt_rule *rule, const double *hyper);

#define IN_RANGE(name, value) in_range(&fastopt_hypers[HYPER_##name], value)

#endif
