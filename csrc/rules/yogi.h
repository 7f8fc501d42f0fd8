/* Yogi.  Zaheer et al., "Adaptive methods for nonconvex optimization", 2018, with Adam's bias corrections.
 *
 * m = beta1 m + (1 - beta1) g
 * v = v - (1 - beta2) sign(v - g^2) g^2
 * p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t) */

SAME_HYPER(yogi, adam);

static void FN(yogi)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(yogi_state) *state = buffers;
    const FN(adam_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T lr_t = k->lr_t, beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t, rest2 = k->squares.rest;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        const T square = g[i] * g[i];
        v[i] -= rest2 * (SIGN(v[i] - square) * square);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(yogi_ops) = {
    .scalars = FN(adam_scalars),
    .update = FN(yogi),
};
