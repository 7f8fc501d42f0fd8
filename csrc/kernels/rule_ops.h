/* For one T: the record of the functions of a rule. */

typedef void FN(update_of)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n);
typedef void FN(terms_of)(const T *p, const T *g, const void *buffers, const void *scalars, const void *terms,
                          ptrdiff_t n);
typedef void FN(pass)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                      const fastopt_span *span);

/* The functions of a rule.  `buffers` points to the struct of its state, `scalars` and `hyper` to the structs of its
 * scalars and hyperparameters.
 *
 * scalars   computes the scalars of a step
 * update    the loop of the step; for a rule that gathers, the second pass
 * row       for a rule BY_ROW: updates its state and scalars from the mean of the squares of one row
 * gather    the first pass of a rule that gathers: adds to its sums
 * terms     in its place for a rule of the caller's own: writes the terms of n_sums sums, to which reductions belong
 * combine   completes the scalars of such a rule from its sums
 * passes    the passes of a rule of matrices over a span, in order
 * prepare   prepares the next pass of such a rule from the results of the passes so far
 * decay_rate  for a rule with separate_decay: a step subtracts decay_rate * decay * p from p
 * catch_up  catches up on steps with a gradient of 0; NULL if such a step changes nothing */
typedef struct {
    void (*scalars)(const fastopt_inputs *in, void *scalars);
    FN(update_of) *update;
    void (*row)(const void *buffers, double mean_square, void *scalars);
    void (*gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                   fastopt_sum *sums);
    FN(terms_of) *terms;
    int n_sums;
    const fastopt_reduction *reductions;
    void (*combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars);
    FN(pass) *const *passes;
    void (*prepare)(const fastopt_tensor *tensor, fastopt_matrices *m, int pass_index, const fastopt_sum *sums,
                    void *scalars);
    double (*decay_rate)(const void *hyper, const void *scalars);
    void (*catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n);
} FN(rule_ops);
