/* AdEMAMix.  Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older", 2024,
 * https://arxiv.org/abs/2409.03137.
 *
 * m1 = beta1 m1 + (1 - beta1) g
 * m2 = beta3_t m2 + (1 - beta3_t) g
 * v = beta2 v + (1 - beta2) g^2
 * p -= lr (m1_hat + alpha_t m2) / (sqrt(v_hat) + eps),  m1_hat = m1 / (1 - beta1^t),  v_hat = v / (1 - beta2^t)
 *
 * Over `warmup` steps alpha_t grows to alpha along a line, and beta3_t from beta1 to beta3 so that the half-life of m2
 * does nearly so: with x = t / warmup,  1 / ln(beta3_t) = (1 - x) / ln(beta1) + x / ln(beta3). */

static inline double FN(ademamix_log)(double beta)
{
    return beta > 0 ? fastopt_log(beta) : -INFINITY;
}

static void FN(ademamix_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    double alpha = h[5], beta3 = h[3];
    if ((double)t < h[6]) {
        const double x = (double)t / h[6];
        const double warm = fastopt_exp(1 / ((1 - x) / FN(ademamix_log)(h[1]) + x / FN(ademamix_log)(beta3)));
        alpha *= x;
        beta3 = warm < beta3 ? warm : beta3;
    }
    const double weight1 = FN(weight)(h, decays, 1, t), root2 = sqrt(1 - fastopt_product(h, decays, 2, t));
    k[0] = (T)(h[0] * root2 / weight1);
    k[1] = (T)(h[0] * root2 * alpha);
    k[2] = FN(keep)(h[1]);
    k[3] = FN(rest)(h[1]);
    k[4] = FN(keep)(beta3);
    k[5] = FN(rest)(beta3);
    k[6] = (T)(h[4] * root2 + sqrt(FN(lost_mean)(h[2], t)));
    FN(set_squares)(h[2], k + 7);
}

static void FN(ademamix)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m1 = state[0], *restrict m2 = state[1], *restrict v = state[2];
    const T lr_1 = k[0], lr_2 = k[1], beta1 = k[2], rest1 = k[3], beta3 = k[4], rest3 = k[5], eps_t = k[6];
    const FN(squares) squares = FN(squares_at)(k + 7);
    for (ptrdiff_t i = 0; i < n; i++) {
        m1[i] = beta1 * m1[i] + rest1 * g[i];
        m2[i] = beta3 * m2[i] + rest3 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        p[i] -= (lr_1 * m1[i] + lr_2 * m2[i]) / (SQRT(v[i]) + eps_t);
    }
}
