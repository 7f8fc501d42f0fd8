/* Lion.  Chen et al., "Symbolic discovery of optimization algorithms", 2023, https://arxiv.org/abs/2302.06675.
 *
 * c = beta1 m + (1 - beta1) g
 * p -= lr sign(c)
 * m = beta2 m + (1 - beta2) g */

static void FN(lion_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = FN(keep)(h[2]);
    k[4] = FN(rest)(h[2]);
}

static void FN(lion)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0];
    const T lr = k[0], beta1 = k[1], rest1 = k[2], beta2 = k[3], rest2 = k[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        const T c = beta1 * m[i] + rest1 * g[i];
        p[i] -= lr * SIGN(c);
        m[i] = beta2 * m[i] + rest2 * g[i];
    }
}
