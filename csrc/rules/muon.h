/* Muon, without its Newton-Schulz iteration.  Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
 * 2024, https://kellerjordan.github.io/posts/muon/, with the running mean of torch.optim.
 *
 * b = momentum b + (1 - momentum) g
 * u = b;                                        Nesterov: u = momentum b + (1 - momentum) g
 * u = about the nearest orthogonal matrix of u, which the caller computes between the two passes
 * p -= lr u
 *
 * The first pass does not write b, so that nothing has changed if the caller gives up between the passes. */

static void FN(muon_scalars)(const fastopt_inputs *in, void *scalars)
{
    const muon_hyper *h = in->hyper;
    FN(muon_k) *k = scalars;
    k->lr = (T)h->lr;
    k->mu = FN(keep)(h->momentum);
    k->rest = FN(rest)(h->momentum);
    k->of_b = h->nesterov != 0 ? k->mu : 1;
    k->of_g = h->nesterov != 0 ? k->rest : 0;
}

static void FN(muon_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                            ptrdiff_t n, fastopt_sum *sums)
{
    const FN(muon_state) *state = buffers;
    const FN(muon_k) *k = scalars;
    (void)p, (void)sums;
    const T *restrict b = state->b;
    T *restrict u = state->u;
    const T mu = k->mu, rest = k->rest, of_b = k->of_b, of_g = k->of_g;
    for (ptrdiff_t i = 0; i < n; i++)
        u[i] = of_b * (mu * b[i] + rest * g[i]) + of_g * g[i];
}

static void FN(muon)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(muon_state) *state = buffers;
    const FN(muon_k) *k = scalars;
    T *restrict b = state->b;
    const T *restrict u = state->u;
    const T lr = k->lr, mu = k->mu, rest = k->rest;
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + rest * g[i];
        p[i] -= lr * u[i];
    }
}

static const FN(rule_ops) FN(muon_ops) = {
    .scalars = FN(muon_scalars),
    .gather = FN(muon_gather),
    .update = FN(muon),
};
