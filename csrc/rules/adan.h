/* Adan.  Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
 * https://arxiv.org/abs/2208.06677, with betas that are kept, 1 - beta in the paper, and its code's bias corrections.
 *
 * d = g - prev,                               prev = g on the first step
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) d
 * n = beta3 n + (1 - beta3) (g + beta2 d)^2
 * p -= lr (m_hat + beta2 v_hat) / (sqrt(n_hat) + eps),  m_hat = m / (1 - beta1^t) and so on
 * prev = g */

static void FN(adan_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    const double weight1 = FN(weight)(h, decays, 1, t);
    const double weight2 = FN(weight)(h, decays, 2, t), root3 = sqrt(FN(weight)(h, decays, 3, t));
    k[0] = (T)(h[0] * root3 / weight1);
    k[1] = (T)(h[0] * root3 * h[2] / weight2);
    k[2] = FN(keep)(h[1]);
    k[3] = FN(rest)(h[1]);
    k[4] = FN(keep)(h[2]);
    k[5] = FN(rest)(h[2]);
    k[6] = (T)(h[4] * root3 + sqrt(FN(lost_mean)(h[3], t)));
    k[7] = FN(keep)(h[3]);
    k[8] = FN(rest)(h[3]);
    k[9] = t == 1;
    k[10] = 0;
}

static void FN(adan)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t count)
{
    T *restrict m = state[0], *restrict v = state[1], *restrict n = state[2], *restrict prev = state[3];
    const T lr_m = k[0], lr_v = k[1], beta1 = k[2], rest1 = k[3], beta2 = k[4], rest2 = k[5], eps_t = k[6],
            beta3 = k[7], rest3 = k[8], first = k[9], zero = k[10];
    if (first != 0)
        for (ptrdiff_t i = 0; i < count; i++)
            prev[i] = g[i] - zero; /* which flushes subnormals, as a copy would not */
    for (ptrdiff_t i = 0; i < count; i++) {
        const T d = g[i] - prev[i], ahead = g[i] + beta2 * d;
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * d;
        n[i] = beta3 * n[i] + rest3 * (ahead * ahead);
        p[i] -= (lr_m * m[i] + lr_v * v[i]) / (SQRT(n[i]) + eps_t);
        prev[i] = g[i] - zero;
    }
}
