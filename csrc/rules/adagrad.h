/* Adagrad.  Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning", 2011.
 *
 * G += g^2
 * p -= lr / (1 + (t-1) lr_decay) * g / (sqrt(G) + eps) */

static void FN(adagrad_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adagrad_hyper *h = in->hyper;
    FN(adagrad_k) *k = scalars;
    k->lr_t = (T)(h->lr / (1 + (double)(in->t - 1) * h->lr_decay));
    k->eps = (T)(h->eps + sqrt(FN(lost_sum)(in->t)));
}

static void FN(adagrad)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adagrad_state) *state = buffers;
    const FN(adagrad_k) *k = scalars;
    T *restrict G = state->G;
    const T lr_t = k->lr_t, eps = k->eps;
    for (ptrdiff_t i = 0; i < n; i++) {
        G[i] += g[i] * g[i];
        p[i] -= lr_t * g[i] / (SQRT(G[i]) + eps);
    }
}

static const FN(rule_ops) FN(adagrad_ops) = {
    .scalars = FN(adagrad_scalars),
    .update = FN(adagrad),
};
