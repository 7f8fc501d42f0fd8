/* Prodigy.  Mishchenko & Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2024,
 * https://arxiv.org/abs/2306.06101.  d is the estimate of the distance to the solution, of all tensors together.
 *
 * dlr = d lr sqrt(1 - beta2^t) / (1 - beta1^t)
 * m = beta1 m + (1 - beta1) d g
 * v = beta2 v + (1 - beta2) (d g)^2
 * s = beta3 s + d / d0 dlr g,                   d / d0 d g with safeguard_warmup
 * r = beta3 r + d / d0 dlr <g, p0 - p>
 * d = max(d, d_coef r / |s|_1)
 * p -= dlr (m / (sqrt(v) + d eps) + weight_decay p) */

enum { FN(PRODIGY_FIRST) = 11 }; /* scalar: whether p0 is still to be set */

static void FN(prodigy_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    const double d = t == 1 ? h[5] : carry[0];
    const double weight1 = FN(weight)(h, decays, 1, t);
    const double dlr = d * h[0] * sqrt(1 - fastopt_product(h, decays, 2, t)) / weight1;
    k[0] = FN(keep)(h[1]);
    k[1] = FN(rest)(h[1]);
    k[2] = (T)d;
    k[3] = (T)h[3];
    k[4] = (T)(d / h[5] * (h[8] != 0 ? d : dlr));
    k[5] = (T)dlr;
    k[6] = (T)h[7];
    FN(set_squares)(h[2], k + 8);
    k[FN(PRODIGY_FIRST)] = t == 1;
}

static void FN(prodigy_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                               ptrdiff_t n, fastopt_sum *sums)
{
    T *restrict m = state[0], *restrict v = state[1], *restrict s = state[2], *restrict p0 = state[3];
    const T beta1 = k[0], rest1 = k[1], d = k[2], beta3 = k[3], weight = k[4], first = k[FN(PRODIGY_FIRST)];
    const FN(squares) squares = FN(squares_at)(k + 8);
    T moved[BLOCK], size[BLOCK], one[BLOCK];
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            p0[i] = p[i] - (first - 1); /* 0, which flushes subnormals, as a copy would not */
    for (ptrdiff_t i = 0; i < n; i++) {
        const T scaled = d * g[i];
        m[i] = beta1 * m[i] + rest1 * scaled;
        v[i] = FN(take)(v[i], scaled * scaled, squares);
        s[i] = beta3 * s[i] + weight * g[i];
        moved[i] = p0[i] - p[i];
        size[i] = ABS(s[i]);
        one[i] = 1;
    }
    sums[0].sum += FN(sum_products)(g, moved, n);
    sums[1].sum += FN(sum_products)(size, one, n);
}

static void FN(prodigy_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
                                ptrdiff_t n, double *carry, T *k)
{
    (void)n;
    const double d = t == 1 ? h[5] : carry[0];
    const double weight1 = FN(weight)(h, decays, 1, t);
    const double dlr = d * h[0] * sqrt(1 - fastopt_product(h, decays, 2, t)) / weight1;
    carry[1] = h[3] * (t == 1 ? 0 : carry[1]) + d / h[5] * dlr * sums[0].sum;
    const double estimate = sums[1].sum == 0 ? 0 : h[6] * carry[1] / sums[1].sum;
    carry[0] = MAX(estimate, d);
    k[7] = (T)(carry[0] * h[4] + sqrt(FN(lost_mean)(h[2], t)));
}

static void FN(prodigy)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    (void)g;
    const T *restrict m = state[0], *restrict v = state[1];
    const T minus_dlr = -k[5], decay = k[6], eps = k[7];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] += minus_dlr * (m[i] / (SQRT(v[i]) + eps) + decay * p[i]);
}
