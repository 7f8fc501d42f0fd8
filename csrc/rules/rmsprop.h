/* RMSprop.  Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning", 2012; centered: Graves,
 * "Generating sequences with recurrent neural networks", 2013.
 *
 * plain      v = alpha v + (1 - alpha) g^2;  r = sqrt(v) + eps
 * centered   s = alpha s + (1 - alpha) alpha (g - a)^2;  a = alpha a + (1 - alpha) g;  r = sqrt(s) + eps
 *
 * s is the variance v - a^2, of which nothing cancels: West, "Updating mean and variance estimates", 1979.
 *
 * p -= lr g / r;  with momentum  b = momentum b + g / r;  p -= lr b */

static void FN(rmsprop_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)(h[2] + sqrt(FN(lost_mean)(h[1], t)));
    FN(set_squares)(h[1], k + 2);
}

static void FN(rmsprop_momentum_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(rmsprop_scalars)(h, decays, t, carry, k);
    k[5] = (T)h[3];
}

static void FN(rmsprop_centered_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(rmsprop_scalars)(h, decays, t, carry, k);
    k[6] = FN(keep)(h[1]);
    k[7] = FN(rest)(h[1]);
}

static void FN(rmsprop_centered_momentum_scalars)(const double *h, const fastopt_decay *decays, int64_t t,
                                                  double *carry, T *k)
{
    FN(rmsprop_centered_scalars)(h, decays, t, carry, k);
    k[5] = (T)h[3];
}

static void FN(rmsprop)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict v = state[0];
    const T minus_lr = -k[0], eps = k[1];
    const FN(squares) squares = FN(squares_at)(k + 2);
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        p[i] += minus_lr * g[i] / (SQRT(v[i]) + eps);
    }
}

static void FN(rmsprop_centered)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                 ptrdiff_t n)
{
    T *restrict s = state[0], *restrict a = state[1];
    const T minus_lr = -k[0], eps = k[1], alpha = k[6], rest = k[7];
    const FN(squares) squares = FN(squares_at)(k + 2);
    for (ptrdiff_t i = 0; i < n; i++) {
        const T d = g[i] - a[i];
        s[i] = FN(take)(s[i], alpha * (d * d), squares);
        a[i] = alpha * a[i] + rest * g[i];
        p[i] += minus_lr * g[i] / (SQRT(s[i]) + eps);
    }
}

static void FN(rmsprop_momentum)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                 ptrdiff_t n)
{
    T *restrict v = state[0], *restrict b = state[1];
    const T minus_lr = -k[0], eps = k[1], mu = k[5];
    const FN(squares) squares = FN(squares_at)(k + 2);
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        b[i] = mu * b[i] + g[i] / (SQRT(v[i]) + eps);
        p[i] += minus_lr * b[i];
    }
}

static void FN(rmsprop_centered_momentum)(T *restrict p, const T *restrict g, T *const *restrict state,
                                          const T *restrict k, ptrdiff_t n)
{
    T *restrict s = state[0], *restrict a = state[1], *restrict b = state[2];
    const T minus_lr = -k[0], eps = k[1], mu = k[5], alpha = k[6], rest = k[7];
    const FN(squares) squares = FN(squares_at)(k + 2);
    for (ptrdiff_t i = 0; i < n; i++) {
        const T d = g[i] - a[i];
        s[i] = FN(take)(s[i], alpha * (d * d), squares);
        a[i] = alpha * a[i] + rest * g[i];
        b[i] = mu * b[i] + g[i] / (SQRT(s[i]) + eps);
        p[i] += minus_lr * b[i];
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
    (void)p;
    T *restrict s = state[0], *restrict a = state[1];
    const double power = fastopt_rough_power(h[1], skipped);
    const T left = (T)power, from_a = (T)(power * (1 - power));
    for (ptrdiff_t i = 0; i < n; i++) {
        s[i] = left * s[i] + from_a * (a[i] * a[i]);
        a[i] *= left;
    }
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
