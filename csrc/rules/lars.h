/* LARS.  You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017,
 * https://arxiv.org/abs/1708.03888.  g includes L2 decay.
 *
 * ratio = trust_coefficient |p| / (|g| + eps),  1 where either norm is 0
 * b = momentum b + lr ratio g
 * p -= b;                                       Nesterov: p -= momentum b + lr ratio g */

static void FN(lars_scalars)(const fastopt_inputs *in, void *scalars)
{
    const lars_hyper *h = in->hyper;
    FN(lars_k) *k = scalars;
    k->mu = (T)h->momentum;
}

static void FN(lars_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                            ptrdiff_t n, fastopt_sum *sums)
{
    (void)buffers, (void)scalars;
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], g, n);
}

static void FN(lars_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const lars_hyper *h = in->hyper;
    FN(lars_k) *k = scalars;
    const double of_p = fastopt_root(&sums[0], 1), of_g = fastopt_root(&sums[1], 1);
    const double ratio = of_p == 0 || of_g == 0 ? 1 : h->trust_coefficient * of_p / (of_g + h->eps);
    k->rate = (T)(h->lr * ratio);
}

static void FN(lars)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(lars_state) *state = buffers;
    const FN(lars_k) *k = scalars;
    T *restrict b = state->b;
    const T mu = k->mu, rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + rate * g[i];
        p[i] -= b[i];
    }
}

static const FN(rule_ops) FN(lars_ops) = {
    .scalars = FN(lars_scalars),
    .gather = FN(lars_gather),
    .combine = FN(lars_combine),
    .update = FN(lars),
};

SAME_HYPER(lars_nesterov, lars);

static void FN(lars_nesterov)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(lars_nesterov_state) *state = buffers;
    const FN(lars_k) *k = scalars;
    T *restrict b = state->b;
    const T mu = k->mu, rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T step = rate * g[i];
        b[i] = mu * b[i] + step;
        p[i] -= mu * b[i] + step;
    }
}

static const FN(rule_ops) FN(lars_nesterov_ops) = {
    .scalars = FN(lars_scalars),
    .gather = FN(lars_gather),
    .combine = FN(lars_combine),
    .update = FN(lars_nesterov),
};
