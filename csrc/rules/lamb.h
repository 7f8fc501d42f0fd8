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
    const double weight1 = FN(weight)(h, decays, 1, t), root2 = sqrt(1 - fastopt_product(h, decays, 2, t));
    k[0] = FN(keep)(h[1]);
    k[1] = FN(rest)(h[1]);
    k[2] = (T)(root2 / weight1);
    k[3] = (T)(h[3] * root2 + sqrt(FN(lost_mean)(h[2], t)));
    k[4] = (T)h[4];
    FN(set_squares)(h[2], k + 5);
}

static void FN(lamb_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                            ptrdiff_t n, fastopt_sum *sums)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T beta1 = k[0], rest1 = k[1], unbias = k[2], eps_t = k[3], decay = k[4];
    const FN(squares) squares = FN(squares_at)(k + 5);
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        u[i] = unbias * m[i] / (SQRT(v[i]) + eps_t) + decay * p[i];
    }
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], u, n);
}

static void FN(lamb_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
                             ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)t, (void)n, (void)carry;
    const double of_p = fastopt_root(&sums[0], 1), of_u = fastopt_root(&sums[1], 1);
    const double ratio = of_p == 0 || of_u == 0 ? 1 : of_p / of_u;
    k[8] = (T)(h[0] * ratio);
}

static void FN(lamb)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    (void)g;
    const T *restrict m = state[0], *restrict v = state[1];
    const T unbias = k[2], eps_t = k[3], decay = k[4], rate = k[8];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= rate * (unbias * m[i] / (SQRT(v[i]) + eps_t) + decay * p[i]);
}
