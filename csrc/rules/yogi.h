/* Yogi.  Zaheer et al., "Adaptive methods for nonconvex optimization", 2018, with Adam's bias corrections.
 *
 * m = beta1 m + (1 - beta1) g
 * v = v - (1 - beta2) sign(v - g^2) g^2
 * p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t) */

static void FN(yogi_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(adam_scalars)(h, decays, t, carry, k);
}

static void FN(yogi)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], eps_t = k[3], rest2 = k[5];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        const T square = g[i] * g[i];
        v[i] -= rest2 * (SIGN(v[i] - square) * square);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) + eps_t);
    }
}
