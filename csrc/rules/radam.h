/* RAdam.  Liu et al., "On the variance of the adaptive learning rate and beyond", 2020,
 * https://arxiv.org/abs/1908.03265.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * rho_inf = 2 / (1 - beta2) - 1
 * rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
 * rho > 5    p -= lr r m_hat sqrt(1 - beta2^t) / (sqrt(v) + eps),
 *            r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
 * otherwise  p -= lr m_hat
 * where m_hat = m / (1 - beta1^t), and rho is 1 plus twice the mean age of the gradients in v, at most rho_inf.  The
 * paper rectifies above 4, where the variance exists; torch and the paper's code above 5, where its estimate can be
 * trusted. */

static void FN(radam_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    const double product2 = fastopt_product(h, decays, 2, t), rho_inf = 2 / (1 - h[2]) - 1;
    const double window = rho_inf - 2 * fastopt_age_deficit(h, decays, 2, t), rho = window < rho_inf ? window : rho_inf;
    const int rectified = rho > 5;
    double lr_t = h[0] / FN(weight)(h, decays, 1, t);
    if (rectified)
        lr_t *= sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) * sqrt(1 - product2);
    k[0] = (T)lr_t;
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = (T)(h[3] + sqrt(FN(lost_mean)(h[2], t)));
    FN(set_squares)(h[2], k + 4);
    k[7] = (T)rectified;
}

static void FN(radam)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T minus_lr_t = -k[0], beta1 = k[1], rest1 = k[2], eps = k[3], rectified = k[7];
    const FN(squares) squares = FN(squares_at)(k + 4);
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        p[i] += minus_lr_t * m[i] / (rectified != 0 ? SQRT(v[i]) + eps : 1);
    }
}
