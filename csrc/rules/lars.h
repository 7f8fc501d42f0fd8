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
                            ptrdiff_t n, fastopt_sum *sums)
{
    (void)state, (void)k;
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], g, n);
}

static void FN(lars_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
                             ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)t, (void)n, (void)carry;
    const double of_p = fastopt_root(&sums[0], 1), of_g = fastopt_root(&sums[1], 1);
    const double ratio = of_p == 0 || of_g == 0 ? 1 : h[2] * of_p / (of_g + h[3]);
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
                                     const T *restrict k, ptrdiff_t n, fastopt_sum *sums)
{
    FN(lars_gather)(p, g, state, k, n, sums);
}

static void FN(lars_nesterov_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
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
