/* Averaged SGD.  Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the schedule:
 * Xu, "Towards optimal one pass large scale learning with averaged stochastic gradient descent", 2011,
 * https://arxiv.org/abs/1107.2490.
 *
 * p = (1 - lambd eta) p - eta g
 * ax += mu (p - ax),  mu = 1 / max(1, t - 1 - t0);        while mu is 1, ax is p
 * eta = lr / (1 + lambd lr t)^alpha                       for the next step; lr on the first */

static void FN(asgd_scalars)(const fastopt_inputs *in, void *scalars)
{
    const asgd_hyper *h = in->hyper;
    asgd_carry *carry = in->carry;
    FN(asgd_k) *k = scalars;
    const double lr = h->lr, lambd = h->lambd, alpha = h->alpha, t0 = h->t0, eta = in->t == 1 ? lr : carry->eta;
    const double averaged = (double)(in->t - 1) - t0, base = 1 + lambd * lr * (double)in->t;
    k->shrink = (T)(1 - lambd * eta);
    k->eta = (T)eta;
    k->mu = (T)(averaged > 1 ? 1 / averaged : 1);
    carry->eta = lr * fastopt_exp(-alpha * fastopt_log(base < DBL_MAX ? base : DBL_MAX));
}

static void FN(asgd)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(asgd_state) *state = buffers;
    const FN(asgd_k) *k = scalars;
    T *restrict ax = state->ax;
    const T shrink = k->shrink, eta = k->eta, mu = k->mu;
    for (ptrdiff_t i = 0; i < n; i++) {
        p[i] = shrink * p[i] - eta * g[i];
        ax[i] = mu == 1 ? p[i] : ax[i] + mu * (p[i] - ax[i]);
    }
}

static const FN(rule_ops) FN(asgd_ops) = {
    .scalars = FN(asgd_scalars),
    .update = FN(asgd),
};
