/* Adagrad.  Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning", 2011.
 *
 * G += g^2
 * p -= lr / (1 + (t-1) lr_decay) * g / (sqrt(G) + eps) */

static void FN(adagrad_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[0] = (T)(h[0] / (1 + (double)(t - 1) * h[1]));
    k[1] = (T)(h[2] + sqrt(FN(lost_sum)(t)));
}

static void FN(adagrad)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict G = state[0];
    const T lr_t = k[0], eps = k[1];
    for (ptrdiff_t i = 0; i < n; i++) {
        G[i] += g[i] * g[i];
        p[i] -= lr_t * g[i] / (SQRT(G[i]) + eps);
    }
}

static void FN(adagrad_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped, ptrdiff_t n)
{
    (void)p, (void)state, (void)h, (void)skipped, (void)n; /* nothing moves where the gradient is 0 */
}
