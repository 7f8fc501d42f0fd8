/* AdaBelief.  Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", 2020,
 * https://arxiv.org/abs/2010.07468, Algorithm 2.
 *
 * m = beta1 m + (1 - beta1) g
 * s = beta2 s + (1 - beta2) (g - m)^2 + eps
 * p -= lr m_hat / (sqrt(s_hat) + eps),  m_hat = m / (1 - beta1^t),  s_hat = s / (1 - beta2^t) */

static void FN(adabelief_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(adam_scalars)(h, decays, t, carry, k);
    k[7] = (T)h[3];
}

static void FN(adabelief)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                          ptrdiff_t n)
{
    T *restrict m = state[0], *restrict s = state[1];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], eps_t = k[3], eps = k[7];
    const FN(squares) squares = FN(squares_at)(k + 4);
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        const T surprise = g[i] - m[i];
        s[i] = FN(take)(s[i], surprise * surprise, squares) + eps;
        p[i] -= lr_t * m[i] / (SQRT(s[i]) + eps_t);
    }
}
