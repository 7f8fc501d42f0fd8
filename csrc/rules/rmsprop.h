/* RMSprop.  Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning", 2012; centered: Graves,
 * "Generating sequences with recurrent neural networks", 2013.
 *
 * v = alpha v + (1 - alpha) g^2
 * plain      r = sqrt(v) + eps
 * centered   a = alpha a + (1 - alpha) g;  r = sqrt(v - a^2) + eps        the variance is held at 0 or above
 *
 * p -= lr g / r;  with momentum  b = momentum b + g / r;  p -= lr b */

static void FN(rmsprop_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[1];
    k[2] = (T)(1 - h[1]);
    k[3] = (T)h[2];
}

static void FN(rmsprop_momentum_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(rmsprop_scalars)(h, decays, t, carry, k);
    k[4] = (T)h[3];
}

static void FN(rmsprop_centered_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(rmsprop_scalars)(h, decays, t, carry, k);
}

static void FN(rmsprop_centered_momentum_scalars)(const double *h, const fastopt_decay *decays, int64_t t,
                                                  double *carry, T *k)
{
    FN(rmsprop_momentum_scalars)(h, decays, t, carry, k);
}

static void FN(rmsprop)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict v = state[0];
    const T lr = k[0], alpha = k[1], rest = k[2], eps = k[3];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = alpha * v[i] + rest * (g[i] * g[i]);
        p[i] -= lr * g[i] / (SQRT(v[i]) + eps);
    }
}

static void FN(rmsprop_centered)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                 ptrdiff_t n)
{
    T *restrict v = state[0], *restrict a = state[1];
    const T lr = k[0], alpha = k[1], rest = k[2], eps = k[3];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = alpha * v[i] + rest * (g[i] * g[i]);
        a[i] = alpha * a[i] + rest * g[i];
        p[i] -= lr * g[i] / (SQRT(ABOVE_ZERO(v[i] - a[i] * a[i])) + eps);
    }
}

static void FN(rmsprop_momentum)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                 ptrdiff_t n)
{
    T *restrict v = state[0], *restrict b = state[1];
    const T lr = k[0], alpha = k[1], rest = k[2], eps = k[3], mu = k[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = alpha * v[i] + rest * (g[i] * g[i]);
        b[i] = mu * b[i] + g[i] / (SQRT(v[i]) + eps);
        p[i] -= lr * b[i];
    }
}

static void FN(rmsprop_centered_momentum)(T *restrict p, const T *restrict g, T *const *restrict state,
                                          const T *restrict k, ptrdiff_t n)
{
    T *restrict v = state[0], *restrict a = state[1], *restrict b = state[2];
    const T lr = k[0], alpha = k[1], rest = k[2], eps = k[3], mu = k[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = alpha * v[i] + rest * (g[i] * g[i]);
        a[i] = alpha * a[i] + rest * g[i];
        b[i] = mu * b[i] + g[i] / (SQRT(ABOVE_ZERO(v[i] - a[i] * a[i])) + eps);
        p[i] -= lr * b[i];
    }
}

static void FN(rmsprop_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped, ptrdiff_t n)
{
    (void)p;
    FN(decay)(state[0], h[1], skipped, n);
}

static void FN(rmsprop_centered_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped,
                                          ptrdiff_t n)
{
    FN(rmsprop_catch_up)(p, state, h, skipped, n);
    FN(decay)(state[1], h[1], skipped, n);
}

static void FN(rmsprop_momentum_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped,
                                          ptrdiff_t n)
{
    FN(rmsprop_catch_up)(p, state, h, skipped, n);
    FN(coast)(p, state[1], h[0], h[3], skipped, n);
}

static void FN(rmsprop_centered_momentum_catch_up)(T *restrict p, T *const *restrict state, const double *h,
                                                   int64_t skipped, ptrdiff_t n)
{
    FN(rmsprop_centered_catch_up)(p, state, h, skipped, n);
    FN(coast)(p, state[2], h[0], h[3], skipped, n);
}
