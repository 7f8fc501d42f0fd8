/* For one T: the structs of state and scalars of each built-in rule, the table of their records, and the calls of a
 * tensor's rule. */

/* The state and the scalars of each rule, by the names in its row. */
#define S(x)       T *x;
#define N(x)       T *x;
#define X(x)       T *x;
#define K(x)       T x;
#define SQUARES(x) FN(squares) x;
#define PART(x)    FN(x##_k) x;
#define RULE(name, state, hyper, carry, scalars, ...)                                                                  \
    typedef struct {                                                                                                   \
        state char end; /* no struct is empty */                                                                       \
    } FN(name##_state);                                                                                                \
    typedef struct {                                                                                                   \
        scalars                                                                                                        \
    } FN(name##_k);                                                                                                    \
    _Static_assert(sizeof(FN(name##_k)) <= FASTOPT_MAX_SCALARS * sizeof(T), #name " has too many scalars");
#include "../rules/rules.def"
#undef RULE
#undef S
#undef N
#undef X
#undef K
#undef SQUARES
#undef PART

/* For rules that use functions of another rule: they must have its hyperparameters, or begin with them. */
#define SAME_HYPER(rule, other) _Static_assert(sizeof(rule##_hyper) == sizeof(other##_hyper), #rule " and " #other)
#define BEGINS_WITH(rule, other, last)                                                                                 \
    _Static_assert(offsetof(rule##_hyper, last) == offsetof(other##_hyper, last), #rule " and " #other)

#define RULE_FILES
#include "../rules/rules.def"
#undef RULE_FILES

#define RULE(name, ...) &FN(name##_ops),
const void *const FN(fastopt_ops)[RULES] = {
#include "../rules/rules.def"
};
#undef RULE

static inline const FN(rule_ops) *FN(ops_of)(const fastopt_tensor *tensor)
{
    return *tensor->rule->tables->ops[FN(OPS)];
}

static fastopt_inputs FN(inputs_of)(const fastopt_tensor *tensor)
{
    return (fastopt_inputs){tensor->hyper, tensor->decays,          tensor->step,
                            tensor->carry, fastopt_whole_n(tensor), tensor->rule};
}

static void FN(scalars)(fastopt_tensor *tensor)
{
    fastopt_inputs in = FN(inputs_of)(tensor);
    double hyper[FASTOPT_MAX_HYPER];
    if (fastopt_changes_own_decay(tensor)) {
        const int own = fastopt_own_decay(tensor->rule);
        for (int i = 0; tensor->rule->hyper[i]; i++)
            hyper[i] = tensor->hyper[i];
        hyper[own] *= tensor->options->cautious_decay ? 0 : fastopt_correction(tensor);
        in.hyper = hyper;
    }
    FN(ops_of)(tensor)->scalars(&in, tensor->engine.K_STORE);
}

/* The share of p that the own decay of a rule takes with cautious decay, which replaces the decay within the rule. */
static double FN(own_cautious_decay)(const fastopt_tensor *tensor)
{
    if (!tensor->options || !tensor->options->cautious_decay || !tensor->rule->separate_decay)
        return 0;
    const double decay = tensor->hyper[fastopt_own_decay(tensor->rule)];
    if (decay == 0) /* also if the rate is infinite */
        return 0;
    return FN(ops_of)(tensor)->decay_rate(tensor->hyper, tensor->engine.k) * decay * fastopt_correction(tensor);
}

static void FN(combine)(fastopt_tensor *tensor, const fastopt_sum *sums)
{
    const fastopt_inputs in = FN(inputs_of)(tensor);
    if (FN(ops_of)(tensor)->combine)
        FN(ops_of)(tensor)->combine(&in, sums, tensor->engine.K_STORE);
}

static void FN(prepare)(fastopt_tensor *tensor, int pass_index, const fastopt_sum *sums)
{
    FN(ops_of)(tensor)->prepare(tensor, tensor->engine.matrices, pass_index, sums, tensor->engine.K_STORE);
}
