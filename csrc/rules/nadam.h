/* NAdam.  Dozat, "Incorporating Nesterov momentum into Adam", 2016.
 *
 * mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2);  an infinite momentum_decay is the constant momentum mu_t = beta1
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * p -= lr (mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)) / (sqrt(v_hat) + eps) */

static inline double FN(nadam_mu)(double beta1, double momentum_decay, uint64_t t)
{
    const double log_base = -0.040821994520255166; /* ln 0.96 */
    return beta1 * (1 - 0.5 * fastopt_exp((double)t * momentum_decay * log_base));
}

static void FN(nadam_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    const double mu = FN(nadam_mu)(h[1], h[4], (uint64_t)t), mu_next = FN(nadam_mu)(h[1], h[4], (uint64_t)t + 1);
    const double product = (t == 1 ? 1 : carry[0]) * mu;
    carry[0] = product;
    const double root2 = sqrt(1 - fastopt_product(h, decays, 2, t));
    k[0] = (T)(h[0] * root2 * mu_next / (1 - product * mu_next));
    k[1] = (T)(h[0] * root2 * (1 - mu) / (1 - product));
    k[2] = FN(keep)(h[1]);
    k[3] = FN(rest)(h[1]);
    k[4] = (T)(h[3] * root2 + sqrt(FN(lost_mean)(h[2], t)));
    FN(set_squares)(h[2], k + 5);
}

static void FN(nadam)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T lr_m = k[0], lr_g = k[1], beta1 = k[2], rest1 = k[3], eps_t = k[4];
    const FN(squares) squares = FN(squares_at)(k + 5);
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        p[i] -= (lr_m * m[i] + lr_g * g[i]) / (SQRT(v[i]) + eps_t);
    }
}
