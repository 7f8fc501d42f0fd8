/* Lion.  Chen et al., "Symbolic discovery of optimization algorithms", 2023, https://arxiv.org/abs/2302.06675.
 *
 * c = beta1 m + (1 - beta1) g
 * p -= lr sign(c)
 * m = beta2 m + (1 - beta2) g */

static void FN(lion_scalars)(const fastopt_inputs *in, void *scalars)
{
    const lion_hyper *h = in->hyper;
    FN(lion_k) *k = scalars;
    k->lr = (T)h->lr;
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->beta2 = FN(keep)(h->beta2);
    k->rest2 = FN(rest)(h->beta2);
}

static void FN(lion)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(lion_state) *state = buffers;
    const FN(lion_k) *k = scalars;
    T *restrict m = state->m;
    const T lr = k->lr, beta1 = k->beta1, rest1 = k->rest1, beta2 = k->beta2, rest2 = k->rest2;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T c = beta1 * m[i] + rest1 * g[i];
        p[i] -= lr * SIGN(c);
        m[i] = beta2 * m[i] + rest2 * g[i];
    }
}

static const FN(rule_ops) FN(lion_ops) = {
    .scalars = FN(lion_scalars),
    .update = FN(lion),
};
