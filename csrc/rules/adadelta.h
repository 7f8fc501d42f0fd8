/* Adadelta.  Zeiler, "ADADELTA: an adaptive learning rate method", 2012.
 *
 * E = rho E + (1 - rho) g^2
 * d = sqrt(D + eps) / sqrt(E + eps) * g        one root of the quotient: the same value with one rounding less
 * D = rho D + (1 - rho) d^2
 * p -= lr d
 *
 * Where g is 0, E and D decay and p stays. */

static void FN(adadelta_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[2];
    k[2] = (T)(h[2] + FN(lost_mean)(h[1], t));
    k[3] = FN(keep)(h[1]);
    k[4] = FN(rest)(h[1]);
}

static void FN(adadelta)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict E = state[0], *restrict D = state[1];
    const T lr = k[0], eps = k[1], eps_below = k[2];
    const T rho = k[3], rest = k[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        E[i] = rho * E[i] + rest * (g[i] * g[i]);
        const T d = SQRT((D[i] + eps) / (E[i] + eps_below)) * g[i];
        D[i] = rho * D[i] + rest * (d * d);
        p[i] -= lr * d;
    }
}

static void FN(adadelta_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped,
                                  ptrdiff_t n)
{
    (void)p;
    FN(decay)(state[0], h[1], skipped, n);
    FN(decay)(state[1], h[1], skipped, n);
}
