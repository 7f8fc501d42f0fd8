/* MADGRAD.  Defazio & Jelassi, "Adaptivity without compromise: a momentumized, adaptive, dual averaged gradient method
 * for stochastic optimization", 2021, https://arxiv.org/abs/2101.11075, Algorithm 1.
 *
 * lambda = lr sqrt(t)
 * s += lambda g
 * nu += lambda g^2
 * z = x0 - s / (cbrt(nu) + eps)                 x0 = p before the first step
 * p = (1 - c) p + c z,                          c = 1 - momentum
 *
 * lambda g^2 is computed as the square of sqrt(lambda) g, so that the bound of lost_sum holds. */

static void FN(madgrad_scalars)(const fastopt_inputs *in, void *scalars)
{
    const madgrad_hyper *h = in->hyper;
    FN(madgrad_k) *k = scalars;
    const double lambda = h->lr * sqrt((double)in->t);
    k->lambda = (T)lambda;
    k->root_lambda = (T)sqrt(lambda);
    k->eps = (T)(h->eps + fastopt_pow(FN(lost_sum)(in->t), 1.0 / 3));
    k->c = (T)(1 - h->momentum);
    k->first = in->t == 1; /* whether the step sets x0 */
    k->zero = 0;
}

static void FN(madgrad)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(madgrad_state) *state = buffers;
    const FN(madgrad_k) *k = scalars;
    T *restrict s = state->s, *restrict nu = state->nu, *restrict x0 = state->x0;
    const T lambda = k->lambda, root_lambda = k->root_lambda, eps = k->eps, c = k->c, first = k->first, zero = k->zero;
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            x0[i] = p[i] - zero; /* unlike a copy, this flushes subnormals */
    for (ptrdiff_t i = 0; i < n; i++) {
        const T root = root_lambda * g[i];
        s[i] += lambda * g[i];
        nu[i] += root * root;
        const T z = x0[i] - s[i] / (FN(cube_root)(nu[i]) + eps);
        p[i] += c * (z - p[i]);
    }
}

static const FN(rule_ops) FN(madgrad_ops) = {
    .scalars = FN(madgrad_scalars),
    .update = FN(madgrad),
};
