/* Rules of the caller's own, as records like those of rules.def. */
#include "kernels.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* A rule and all that its record points to.  In memory the names follow it. */
typedef struct {
    fastopt_rule rule;
    struct fastopt_rule_tables tables;
    fastopt_kind kind[FASTOPT_MAX_STATE];
    fastopt_hyper range[FASTOPT_MAX_HYPER];
    const char *corrected[FASTOPT_MAX_HYPER + 1];
    int n_hyper, n_scalars, n_combined, n_sums;
    fastopt_scalars *scalars;
    fastopt_combine *combine;
    fastopt_reduction reductions[FASTOPT_MAX_SUMS];
    struct fastopt_own_ops *ops;
    const void *records[2]; /* by dtype */
} fastopt_own_rule;

/* The arrays behind the pointers of fastopt_scalar_inputs. */
typedef struct {
    double product[FASTOPT_MAX_HYPER], weight[FASTOPT_MAX_HYPER], lost_mean[FASTOPT_MAX_HYPER];
} own_numbers;

static double reduced_to(fastopt_reduction reduction, const fastopt_sum *sum, double n)
{
    switch (reduction) {
    case FASTOPT_SUM:
        return sum->sum;
    case FASTOPT_MEAN:
        return sum->sum / n;
    case FASTOPT_NORM:
        return fastopt_root(sum, 1);
    default:
        return fastopt_root(sum, n);
    }
}

#define FN_(name, type) name##_##type##_own
#define T               float
#define FN(name)        FN_(name, f32)
#define SMALLEST        FLT_MIN
#define EPSILON         FLT_EPSILON
#define BELOW(x)        nextafterf(x, -INFINITY)
#include "own_rules.inl.h"
#undef T
#undef FN
#undef SMALLEST
#undef EPSILON
#undef BELOW

#define T        double
#define FN(name) FN_(name, f64)
#define SMALLEST DBL_MIN
#define EPSILON  DBL_EPSILON
#define BELOW(x) nextafter(x, -INFINITY)
#include "own_rules.inl.h"

struct fastopt_own_ops {
    rule_ops_f32_own f32;
    rule_ops_f64_own f64;
};

/* ---- Checks ---- */

typedef struct {
    char *text;
    size_t length;
} problem_text;

/* Writes a problem; returns 0, as checks do that fail. */
static int refuse(const problem_text *problem, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (problem->length)
        vsnprintf(problem->text, problem->length, format, arguments);
    va_end(arguments);
    return 0;
}

static int is_identifier(const char *name)
{
    const char *c = name;
    if (!c || !*c || (*c >= '0' && *c <= '9'))
        return 0;
    while ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '_')
        c++;
    return !*c;
}

static int valid_state(const fastopt_rule_spec *spec, const problem_text *problem)
{
    for (int s = 0; spec->state && spec->state[s]; s++) {
        const char *name = spec->state[s];
        if (s == FASTOPT_MAX_STATE)
            return refuse(problem, "state must have at most %d buffers, got more", FASTOPT_MAX_STATE);
        if (!is_identifier(name))
            return refuse(problem, "state[%d] must be an identifier, got \"%s\"", s, name);
        for (int before = 0; before < s; before++)
            if (!strcmp(spec->state[before], name))
                return refuse(problem, "names of state must differ, got %s twice", name);
        if (spec->kind && (unsigned)spec->kind[s] > FASTOPT_EXACT)
            return refuse(problem, "kind of %s must be a fastopt_kind, got %d", name, (int)spec->kind[s]);
    }
    return 1;
}

static int valid_hyper(const fastopt_rule_spec *spec, const problem_text *problem)
{
    const fastopt_hyper *hyper = spec->hyper;
    if (!hyper || !hyper[0].name || strcmp(hyper[0].name, "lr"))
        return refuse(problem, "the first hyperparameter must be lr, got %s",
                      hyper && hyper[0].name ? hyper[0].name : "none");
    if (hyper[0].low != 0 || hyper[0].high <= DBL_MAX || hyper[0].closed)
        return refuse(problem, "lr must be from 0 to infinity, which does not belong to the range");
    for (int i = 0; hyper[i].name; i++) {
        if (i == FASTOPT_MAX_HYPER)
            return refuse(problem, "hyper must have at most %d entries, got more", FASTOPT_MAX_HYPER);
        if (!is_identifier(hyper[i].name))
            return refuse(problem, "hyper[%d] must have an identifier as name, got \"%s\"", i, hyper[i].name);
        for (int before = 0; before < i; before++)
            if (!strcmp(hyper[before].name, hyper[i].name))
                return refuse(problem, "names of hyperparameters must differ, got %s twice", hyper[i].name);
        if (!(hyper[i].low < hyper[i].high || (hyper[i].closed && hyper[i].low == hyper[i].high)))
            return refuse(problem, "the range of %s must hold a number, got %g to %g", hyper[i].name, hyper[i].low,
                          hyper[i].high);
        if (!hyper[i].range)
            return refuse(problem, "the range of %s must be given in words too", hyper[i].name);
        if (spec->corrected && spec->corrected[i] &&
            !(hyper[i].low >= 0 && (hyper[i].high < 1 || (hyper[i].high == 1 && !hyper[i].closed))))
            return refuse(problem, "the range of %s must lie in [0, 1), since it corrects a bias, got %s",
                          hyper[i].name, hyper[i].range);
    }
    return 1;
}

static int count_hyper(const fastopt_rule_spec *spec)
{
    int n = 0;
    while (spec->hyper[n].name)
        n++;
    return n;
}

static int valid_sums(const fastopt_rule_spec *spec, const problem_text *problem)
{
    const int needed = spec->n_sums != 0;
    const char *const words = needed ? "given" : "NULL";
    if (spec->n_sums < 0 || spec->n_sums > FASTOPT_MAX_SUMS)
        return refuse(problem, "n_sums must be from 0 to %d, got %d", FASTOPT_MAX_SUMS, spec->n_sums);
    if ((spec->reductions != NULL) != needed)
        return refuse(problem, "reductions must be %s with n_sums %d", words, spec->n_sums);
    for (int s = 0; s < spec->n_sums; s++)
        if ((unsigned)spec->reductions[s] > FASTOPT_RMS)
            return refuse(problem, "reductions[%d] must be a fastopt_reduction, got %d", s, (int)spec->reductions[s]);
    if ((spec->gather_float32 != NULL) != needed || (spec->gather_float64 != NULL) != needed)
        return refuse(problem, "%s must be %s with n_sums %d",
                      (spec->gather_float32 != NULL) != needed ? "gather_float32" : "gather_float64", words,
                      spec->n_sums);
    if (spec->gather_writes && !needed)
        return refuse(problem, "gather_writes must be 0 with n_sums 0");
    if ((spec->combine != NULL) != needed)
        return refuse(problem, "combine must be %s with n_sums %d", words, spec->n_sums);
    const int most = needed ? FASTOPT_MAX_SCALARS - count_hyper(spec) : 0;
    if (spec->n_combined < needed || spec->n_combined > most)
        return refuse(problem, "n_combined must be from %d to %d with n_sums %d, got %d", needed, most, spec->n_sums,
                      spec->n_combined);
    return 1;
}

static int valid_spec(const fastopt_rule_spec *spec, const problem_text *problem)
{
    if (spec->size != sizeof *spec)
        return refuse(problem, "size must be sizeof(fastopt_rule_spec), %zu for this library, got %zu", sizeof *spec,
                      spec->size);
    if (!is_identifier(spec->name))
        return refuse(problem, "name must be an identifier, got \"%s\"", spec->name ? spec->name : "");
    if (!valid_state(spec, problem) || !valid_hyper(spec, problem))
        return 0;
    const int most = FASTOPT_MAX_SCALARS - count_hyper(spec) - spec->n_combined;
    if (!valid_sums(spec, problem))
        return 0;
    if (spec->n_scalars < 0 || spec->n_scalars > most)
        return refuse(problem, "n_scalars must be from 0 to %d, so that the loop reads at most %d numbers, got %d",
                      most, FASTOPT_MAX_SCALARS, spec->n_scalars);
    if (!spec->scalars != !spec->n_scalars)
        return refuse(problem, "scalars must be %s with n_scalars %d", spec->n_scalars ? "a function" : "NULL",
                      spec->n_scalars);
    if (!spec->float32 || !spec->float64)
        return refuse(problem, "%s must be a loop, got NULL", spec->float32 ? "float64" : "float32");
    return 1;
}

/* ---- The record ---- */

static size_t text_size(const fastopt_rule_spec *spec)
{
    size_t size = strlen(spec->name) + 1;
    for (int s = 0; spec->state && spec->state[s]; s++)
        size += strlen(spec->state[s]) + 1;
    for (int i = 0; spec->hyper[i].name; i++)
        size += strlen(spec->hyper[i].name) + strlen(spec->hyper[i].range) + 2;
    return size;
}

/* Copies a string to `*end` and moves this behind it. */
static const char *copy(char **end, const char *text)
{
    const size_t size = strlen(text) + 1;
    const char *copied = memcpy(*end, text, size);
    *end += size;
    return copied;
}

fastopt_rule *fastopt_rule_create(const fastopt_rule_spec *spec, char *problem, size_t length)
{
    const problem_text text = {problem, problem ? length : 0};
    if (!valid_spec(spec, &text))
        return NULL;
    fastopt_own_rule *own = calloc(1, sizeof *own + sizeof *own->ops + text_size(spec));
    if (!own) {
        refuse(&text, "there is no memory");
        return NULL;
    }
    own->ops = (struct fastopt_own_ops *)(own + 1);
    char *end = (char *)(own->ops + 1);
    own->rule.name = copy(&end, spec->name);
    own->rule.index = -1;
    for (int s = 0; spec->state && spec->state[s]; s++) {
        own->rule.state[s] = copy(&end, spec->state[s]);
        own->kind[s] = spec->kind ? spec->kind[s] : FASTOPT_SIGNED;
    }
    own->n_hyper = count_hyper(spec);
    own->n_scalars = spec->n_scalars;
    own->scalars = spec->scalars;
    own->n_combined = spec->n_combined;
    own->combine = spec->combine;
    own->n_sums = spec->n_sums;
    if (own->n_sums) {
        memcpy(own->reductions, spec->reductions, (size_t)own->n_sums * sizeof *own->reductions);
        own->rule.gathers = FASTOPT_BY_TENSOR;
        own->rule.passes = 1;
        own->rule.gather_writes = spec->gather_writes != 0;
    }
    for (int i = 0, n = 0; i < own->n_hyper; i++) {
        own->range[i] = spec->hyper[i];
        own->rule.hyper[i] = own->range[i].name = copy(&end, spec->hyper[i].name);
        own->range[i].range = copy(&end, spec->hyper[i].range);
        own->tables.hyper[i].range = &own->range[i];
        own->tables.hyper[i].corrects = spec->corrected && spec->corrected[i];
        if (own->tables.hyper[i].corrects)
            own->corrected[n++] = own->rule.hyper[i];
    }
    own->records[FASTOPT_FLOAT32] = own_ops_f32_own(&own->ops->f32, own, spec->float32, spec->gather_float32);
    own->records[FASTOPT_FLOAT64] = own_ops_f64_own(&own->ops->f64, own, spec->float64, spec->gather_float64);
    for (int place = 0; place < OPS; place++)
        own->tables.ops[place] = &own->records[place % 2];
    own->tables.corrected = own->corrected;
    own->rule.kind = own->kind;
    own->rule.tables = &own->tables;
    return &own->rule;
}

void fastopt_rule_destroy(fastopt_rule *rule)
{
    free(rule);
}
