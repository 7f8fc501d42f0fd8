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

enum { FN(PRODIGY_FIRST) = 9 }; /* scalar: whether p0 is still to be set */

static void FN(prodigy_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    const double d = t == 1 ? h[5] : carry[0];
    const double dlr = d * h[0] * sqrt(1 - fastopt_product(h, decays, 2, t)) / (1 - fastopt_product(h, decays, 1, t));
    k[0] = (T)h[1];
    k[1] = (T)((1 - h[1]) * d);
    k[2] = (T)h[2];
    k[3] = (T)((1 - h[2]) * (d * d));
    k[4] = (T)h[3];
    k[5] = (T)(d / h[5] * (h[8] != 0 ? d : dlr));
    k[6] = (T)dlr;
    k[7] = (T)h[7];
    k[FN(PRODIGY_FIRST)] = t == 1;
    k[10] = 0;
}

static void FN(prodigy_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                               ptrdiff_t n, double *sums)
{
    T *restrict m = state[0], *restrict v = state[1], *restrict s = state[2], *restrict p0 = state[3];
    const T beta1 = k[0], rest1 = k[1], beta2 = k[2], rest2 = k[3], beta3 = k[4], weight = k[5], zero = k[10];
    T moved[BLOCK], size[BLOCK], one[BLOCK];
    if (k[FN(PRODIGY_FIRST)] != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            p0[i] = p[i] - zero; /* which flushes subnormals, as a copy would not */
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * (g[i] * g[i]);
        s[i] = beta3 * s[i] + weight * g[i];
        moved[i] = p0[i] - p[i];
        size[i] = ABS(s[i]);
        one[i] = 1;
    }
    sums[0] += FN(sum_products)(g, moved, n);
    sums[1] += FN(sum_products)(size, one, n);
}

static void FN(prodigy_combine)(const double *h, const fastopt_decay *decays, int64_t t, const double *sums,
                                ptrdiff_t n, double *carry, T *k)
{
    (void)n;
    const double d = t == 1 ? h[5] : carry[0];
    const double dlr = d * h[0] * sqrt(1 - fastopt_product(h, decays, 2, t)) / (1 - fastopt_product(h, decays, 1, t));
    carry[1] = h[3] * (t == 1 ? 0 : carry[1]) + d / h[5] * dlr * sums[0];
    const double estimate = sums[1] == 0 ? 0 : h[6] * carry[1] / sums[1];
    carry[0] = estimate > d ? estimate : d;
    k[8] = (T)(carry[0] * h[4]);
}

static void FN(prodigy)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    (void)g;
    const T *restrict m = state[0], *restrict v = state[1];
    const T dlr = k[6], decay = k[7], eps = k[8];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= dlr * (m[i] / (SQRT(v[i]) + eps) + decay * p[i]);
}
