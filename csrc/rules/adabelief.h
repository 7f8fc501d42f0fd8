/* AdaBelief.  Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", 2020,
 * https://arxiv.org/abs/2010.07468, Algorithm 2.
 *
 * m = beta1 m + (1 - beta1) g
 * s = beta2 s + (1 - beta2) (g - m)^2 + eps
 * p -= lr m_hat / (sqrt(s_hat) + eps),  m_hat = m / (1 - beta1^t),  s_hat = s / (1 - beta2^t) */

SAME_HYPER(adabelief, adam);

static void FN(adabelief_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adabelief_hyper *h = in->hyper;
    FN(adabelief_k) *k = scalars;
    FN(adam_scalars)(in, &k->adam);
    k->eps = (T)h->eps;
}

static void FN(adabelief)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adabelief_state) *state = buffers;
    const FN(adabelief_k) *k = scalars;
    T *restrict m = state->m, *restrict s = state->s;
    const T lr_t = k->adam.lr_t, beta1 = k->adam.beta1, rest1 = k->adam.rest1, eps_t = k->adam.eps_t, eps = k->eps;
    const FN(squares) squares = k->adam.squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        const T surprise = g[i] - m[i];
        s[i] = FN(next_mean)(s[i], surprise * surprise, squares) + eps;
        p[i] -= lr_t * m[i] / (SQRT(s[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(adabelief_ops) = {
    .scalars = FN(adabelief_scalars),
    .update = FN(adabelief),
};
