/* Signum, the sign of momentum.  Bernstein et al., "signSGD: compressed optimisation for non-convex problems", 2018,
 * https://arxiv.org/abs/1802.04434.
 *
 * m = beta m + (1 - beta) g
 * p -= lr sign(m) */

static void FN(signum_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
}

static void FN(signum)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0];
    const T lr = k[0], beta = k[1], rest = k[2];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta * m[i] + rest * g[i];
        p[i] -= lr * SIGN(m[i]);
    }
}
