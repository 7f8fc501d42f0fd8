/* Averaged SGD.  Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the schedule:
 * Xu, "Towards optimal one pass large scale learning with averaged stochastic gradient descent", 2011,
 * https://arxiv.org/abs/1107.2490.
 *
 * p = (1 - lambd eta) p - eta g
 * ax += mu (p - ax),  mu = 1 / max(1, t - 1 - t0);        while mu is 1, ax is p
 * eta = lr / (1 + lambd lr t)^alpha                       for the next step; lr on the first */

static void FN(asgd_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays;
    const double lr = h[0], lambd = h[1], alpha = h[2], t0 = h[3], eta = t == 1 ? lr : carry[0];
    const double averaged = (double)(t - 1) - t0, base = 1 + lambd * lr * (double)t;
    k[0] = (T)(1 - lambd * eta);
    k[1] = (T)eta;
    k[2] = (T)(averaged > 1 ? 1 / averaged : 1);
    carry[0] = lr * fastopt_exp(-alpha * fastopt_log(base < DBL_MAX ? base : DBL_MAX));
}

static void FN(asgd)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict ax = state[0];
    const T shrink = k[0], eta = k[1], mu = k[2];
    for (ptrdiff_t i = 0; i < n; i++) {
        p[i] = shrink * p[i] - eta * g[i];
        ax[i] = mu == 1 ? p[i] : ax[i] + mu * (p[i] - ax[i]);
    }
}
