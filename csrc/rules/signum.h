/* Signum, the sign of momentum.  Bernstein et al., "signSGD: compressed optimisation for non-convex problems", 2018,
 * https://arxiv.org/abs/1802.04434.
 *
 * m = beta m + (1 - beta) g
 * p -= lr sign(m) */

static void FN(signum_scalars)(const fastopt_inputs *in, void *scalars)
{
    const signum_hyper *h = in->hyper;
    FN(signum_k) *k = scalars;
    k->lr = (T)h->lr;
    k->beta = FN(keep)(h->beta);
    k->rest = FN(rest)(h->beta);
}

static void FN(signum)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(signum_state) *state = buffers;
    const FN(signum_k) *k = scalars;
    T *restrict m = state->m;
    const T lr = k->lr, beta = k->beta, rest = k->rest;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta * m[i] + rest * g[i];
        p[i] -= lr * SIGN(m[i]);
    }
}

static const FN(rule_ops) FN(signum_ops) = {
    .scalars = FN(signum_scalars),
    .update = FN(signum),
};
