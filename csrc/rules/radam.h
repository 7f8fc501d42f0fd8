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
 * paper rectifies if rho > 4, where the variance exists; torch and the paper's code if rho > 5, where the estimate of
 * the variance is reliable. */

static void FN(radam_scalars)(const fastopt_inputs *in, void *scalars)
{
    const radam_hyper *h = in->hyper;
    FN(radam_k) *k = scalars;
    const double product2 = fastopt_product(in, &h->beta2), rho_inf = 2 / (1 - h->beta2) - 1;
    const double window = rho_inf - 2 * fastopt_age_deficit(in, &h->beta2), rho = window < rho_inf ? window : rho_inf;
    const int rectified = rho > 5;
    double lr_t = h->lr / FN(weight)(in, &h->beta1);
    if (rectified)
        lr_t *= sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) * sqrt(1 - product2);
    k->lr_t = (T)lr_t;
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->eps = (T)(h->eps + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
    k->rectified = (T)rectified;
}

static void FN(radam)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(radam_state) *state = buffers;
    const FN(radam_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T minus_lr_t = -k->lr_t, beta1 = k->beta1, rest1 = k->rest1, eps = k->eps, rectified = k->rectified;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] += minus_lr_t * m[i] / (rectified != 0 ? SQRT(v[i]) + eps : 1);
    }
}

static const FN(rule_ops) FN(radam_ops) = {
    .scalars = FN(radam_scalars),
    .update = FN(radam),
};
