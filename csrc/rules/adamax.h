/* Adamax.  Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, where eps = 0.
 *
 * m = beta1 m + (1 - beta1) g
 * u = max(beta2 u, |g| + eps)
 * p -= lr / (1 - beta1^t) * m / u,  and 0 where u is 0 */

static void FN(adamax_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    k[0] = (T)(h[0] / FN(weight)(h, decays, 1, t));
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = (T)h[2];
    k[4] = (T)h[3];
    k[5] = 0; /* as a variable: compilers drop the subtraction of a constant 0, and with it the flushing of p */
}

static void FN(adamax)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict u = state[1];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], beta2 = k[3], eps = k[4], none = k[5];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        u[i] = MAX(beta2 * u[i], ABS(g[i]) + eps);
        p[i] -= u[i] == 0 ? none : lr_t * m[i] / u[i];
    }
}
