/* rules.def and hyper.def as data. */
#include "hyper.h"
#include "platform.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define NAMES(...)   {__VA_ARGS__}
#define EXTENTS(...) {__VA_ARGS__}
#define NONE         {0}

static const fastopt_rule rules[RULES] = {
#define RULE(name, state, hyper, carry) {#name, RULE_##name, state, hyper, carry, FASTOPT_ONE_PASS, 0, NONE},
#define GATHER_RULE(name, state, hyper, carry, scope)                                                                  \
    {#name, RULE_##name, state, hyper, carry, FASTOPT_##scope, 1, NONE},
#define MATRIX_RULE(name, state, extents, hyper, carry, passes)                                                        \
    {#name, RULE_##name, state, hyper, carry, FASTOPT_MATRICES, passes, extents},
#include "rules.def"
#undef RULE
};

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
    static const struct {
        int can;
        const char *hyper[FASTOPT_MAX_HYPER];
    } catch_up[RULES] = {
#define CATCH_UP(name, hyper) [RULE_##name] = {1, hyper},
#include "rules.def"
#undef CATCH_UP
    };
    return catch_up[rule->index].can ? catch_up[rule->index].hyper : NULL;
}

const char *const *fastopt_rule_corrected(const fastopt_rule *rule)
{
    static const char *const names[RULES][FASTOPT_MAX_HYPER + 1] = {
#define CORRECTED(name, hyper) [RULE_##name] = hyper,
#include "rules.def"
#undef CORRECTED
    };
    return names[rule->index];
}

int fastopt_rule_takes_rows(const fastopt_rule *rule)
{
    static const int starts[RULES] = {
#define STARTS(name) [RULE_##name] = 1,
#include "rules.def"
#undef STARTS
    };
    return rule->gathers == FASTOPT_ONE_PASS && !starts[rule->index];
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
    static const void *volatile found[RULES][FASTOPT_MAX_HYPER];
    const void *volatile *known = &found[rule->index][i];
    const fastopt_hyper *hyper = load_pointer(known);
    if (!hyper) {
        hyper = fastopt_find_hyper(rule->hyper[i]);
        store_pointer(known, hyper);
    }
    return hyper;
}

int fastopt_in_range(const fastopt_hyper *hyper, double value)
{
    return value >= hyper->low && (value < hyper->high || (hyper->closed && value == hyper->high));
}
