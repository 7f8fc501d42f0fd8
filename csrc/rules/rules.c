/* rules.def and hyper.def as data. */
#include "rules.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The name of a hyperparameter in a property; it compiles only if the rule has it. */
#define NAME(rule, x) (sizeof(((rule##_hyper *)0)->x) ? #x : NULL)

#define S(x)                    FASTOPT_SIGNED,
#define N(x)                    FASTOPT_NONNEGATIVE,
#define X(x)                    FASTOPT_EXACT,
#define RULE(rule, state_, ...) {state_ FASTOPT_SIGNED},
static const fastopt_kind kinds[RULES][FASTOPT_MAX_STATE + 1] = {
#include "rules.def"
};
#undef RULE
#undef S
#undef N
#undef X

#define H(x)
#define D(x)                          #x,
#define RULE(name, state, hyper, ...) {hyper NULL},
static const char *const corrected[RULES][FASTOPT_MAX_HYPER + 1] = {
#include "rules.def"
};
#undef RULE
#undef H
#undef D

#define H(x)                           {&fastopt_hypers[HYPER_##x], 0},
#define D(x)                           {&fastopt_hypers[HYPER_##x], 1},
#define OPS_OF(isa, row)               fastopt_ops_f32_##isa + (row), fastopt_ops_f64_##isa + (row),
#define RULE(rule, state, hyper_, ...) {{FASTOPT_ISAS(OPS_OF, RULE_##rule)}, {hyper_}, corrected[RULE_##rule]},
static const struct fastopt_rule_tables tables[RULES] = {
#include "rules.def"
};
#undef RULE
#undef OPS_OF
#undef H
#undef D

#define S(x) #x,
#define N(x) #x,
#define X(x) #x,
#define H(x) #x,
#define D(x) #x,
#define C(x) #x,
static const fastopt_rule rules[RULES] = {
#define RULE(rule, state_, hyper_, carry_, scalars, ...)                                                               \
    {.name = #rule,                                                                                                    \
     .index = RULE_##rule,                                                                                             \
     .state = {state_ NULL},                                                                                           \
     .kind = kinds[RULE_##rule],                                                                                       \
     .hyper = {hyper_ NULL},                                                                                           \
     .carry = {carry_ NULL},                                                                                           \
     .tables = &tables[RULE_##rule],                                                                                   \
     __VA_ARGS__},
#include "rules.def"
#undef RULE
};
#undef S
#undef N
#undef X
#undef H
#undef D
#undef C

const fastopt_hyper fastopt_hypers[HYPERS] = {
#define HYPER(name, low, high, closed, range) {#name, low, high, closed, range},
#include "hyper.def"
#undef HYPER
};

const fastopt_rule *fastopt_rule_at(int index)
{
    return index >= 0 && index < RULES ? &rules[index] : NULL;
}

const char *const *fastopt_rule_catch_up(const fastopt_rule *rule)
{
    return rule->catches_up ? rule->catch_up : NULL;
}

const char *const *fastopt_rule_corrected(const fastopt_rule *rule)
{
    return rule->tables->corrected;
}

int fastopt_rule_takes_rows(const fastopt_rule *rule)
{
    return rule->gathers <= FASTOPT_BY_ROW && !rule->starts;
}

const fastopt_rule *fastopt_find_rule(const char *name)
{
    for (int i = 0; i < RULES; i++)
        if (!strcmp(rules[i].name, name))
            return &rules[i];
    return NULL;
}

ptrdiff_t fastopt_state_size(const fastopt_rule *rule, int s, int ndim, const ptrdiff_t *shape)
{
    const fastopt_extent extent = rule->extent[s];
    ptrdiff_t size = 1, axes = 0;
    for (int axis = 0; axis < ndim; axis++) {
        axes += shape[axis];
        if (extent == FASTOPT_WHOLE || axis != (extent == FASTOPT_ROWS ? ndim - 1 : ndim - 2))
            size *= shape[axis];
    }
    return extent == FASTOPT_AXES ? axes : size;
}

const fastopt_hyper *fastopt_find_hyper(const char *name)
{
    for (int i = 0; i < HYPERS; i++)
        if (!strcmp(fastopt_hypers[i].name, name))
            return &fastopt_hypers[i];
    return NULL;
}

const fastopt_hyper *fastopt_rule_hyper(const fastopt_rule *rule, int i)
{
    return rule->tables->hyper[i].range;
}

int fastopt_valid_hyper(const fastopt_rule *rule, const double *hyper)
{
    for (int i = 0; rule->hyper[i]; i++)
        if (!in_range(fastopt_rule_hyper(rule, i), hyper[i]))
            return 0;
    return 1;
}

int fastopt_in_range(const fastopt_hyper *hyper, double value)
{
    return in_range(hyper, value);
}
