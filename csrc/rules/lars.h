/* LARS.  You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017,
 * https://arxiv.org/abs/1708.03888, with g the gradient that L2 decay has joined.
 *
 * ratio = trust_coefficient |p| / (|g| + eps),  1 where either norm is 0
 * b = momentum b + lr ratio g
 * p -= b;                                       Nesterov: p -= momentum b + lr ratio g */

static void FN(lars_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[1];
}

static void FN(lars_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                            ptrdiff_t n, double *sums)
{
    (void)state, (void)k;
    sums[0] += FN(sum_squares)(p, n);
    sums[1] += FN(sum_squares)(g, n);
}

static void FN(lars_combine)(const double *h, const fastopt_decay *decays, int64_t t, const double *sums, ptrdiff_t n,
                             double *carry, T *k)
{
    (void)decays, (void)t, (void)n, (void)carry;
    const double ratio = sums[0] == 0 || sums[1] == 0 ? 1 : h[2] * sqrt(sums[0]) / (sqrt(sums[1]) + h[3]);
    k[1] = (T)(h[0] * ratio);
}

static void FN(lars)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict b = state[0];
    const T mu = k[0], rate = k[1];
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + rate * g[i];
        p[i] -= b[i];
    }
}

static void FN(lars_nesterov_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(lars_scalars)(h, decays, t, carry, k);
}

static void FN(lars_nesterov_gather)(const T *restrict p, const T *restrict g, T *const *restrict state,
                                     const T *restrict k, ptrdiff_t n, double *sums)
{
    FN(lars_gather)(p, g, state, k, n, sums);
}

static void FN(lars_nesterov_combine)(const double *h, const fastopt_decay *decays, int64_t t, const double *sums,
                                      ptrdiff_t n, double *carry, T *k)
{
    FN(lars_combine)(h, decays, t, sums, n, carry, k);
}

static void FN(lars_nesterov)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                              ptrdiff_t n)
{
    T *restrict b = state[0];
    const T mu = k[0], rate = k[1];
    for (ptrdiff_t i = 0; i < n; i++) {
        const T step = rate * g[i];
        b[i] = mu * b[i] + step;
        p[i] -= mu * b[i] + step;
    }
}
