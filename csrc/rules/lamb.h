/* LAMB.  You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
 * https://arxiv.org/abs/1904.00962.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * u = m_hat / (sqrt(v_hat) + eps) + weight_decay p
 * p -= lr |p| / |u| u,                           lr u where either norm is 0 */

static void FN(lamb_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    k[0] = (T)h[1];
    k[1] = (T)(1 - h[1]);
    k[2] = (T)h[2];
    k[3] = (T)(1 - h[2]);
    k[4] = (T)(1 / (1 - fastopt_product(h, decays, 1, t)));
    k[5] = (T)(1 / sqrt(1 - fastopt_product(h, decays, 2, t)));
    k[6] = (T)h[3];
    k[7] = (T)h[4];
}

static void FN(lamb_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                            ptrdiff_t n, double *sums)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T beta1 = k[0], rest1 = k[1], beta2 = k[2], rest2 = k[3], unbias1 = k[4], unbias2 = k[5], eps = k[6],
            decay = k[7];
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * (g[i] * g[i]);
        u[i] = unbias1 * m[i] / (SQRT(v[i]) * unbias2 + eps) + decay * p[i];
    }
    sums[0] += FN(sum_squares)(p, n);
    sums[1] += FN(sum_squares)(u, n);
}

static void FN(lamb_combine)(const double *h, const fastopt_decay *decays, int64_t t, const double *sums, ptrdiff_t n,
                             double *carry, T *k)
{
    (void)decays, (void)t, (void)n, (void)carry;
    const double ratio = sums[0] == 0 || sums[1] == 0 ? 1 : sqrt(sums[0]) / sqrt(sums[1]);
    k[8] = (T)(h[0] * ratio);
}

static void FN(lamb)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    (void)g;
    const T *restrict m = state[0], *restrict v = state[1];
    const T unbias1 = k[4], unbias2 = k[5], eps = k[6], decay = k[7], rate = k[8];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= rate * (unbias1 * m[i] / (SQRT(v[i]) * unbias2 + eps) + decay * p[i]);
}
