/* LAMB.  You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
 * https://arxiv.org/abs/1904.00962.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * u = m_hat / (sqrt(v_hat) + eps) + weight_decay p
 * p -= lr |p| / |u| u,                           lr u where either norm is 0 */

static void FN(lamb_scalars)(const fastopt_inputs *in, void *scalars)
{
    const lamb_hyper *h = in->hyper;
    FN(lamb_k) *k = scalars;
    const double weight1 = FN(weight)(in, &h->beta1), root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->unbias = (T)(root2 / weight1);
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->decay = (T)h->decay;
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(lamb_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                            ptrdiff_t n, fastopt_sum *sums)
{
    const FN(lamb_state) *state = buffers;
    const FN(lamb_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T beta1 = k->beta1, rest1 = k->rest1, unbias = k->unbias, eps_t = k->eps_t, decay = k->decay;
    const FN(squares) squares = k->squares;
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        u[i] = unbias * m[i] / (SQRT(v[i]) + eps_t) + decay * p[i];
    }
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], u, n);
}

static void FN(lamb_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const lamb_hyper *h = in->hyper;
    FN(lamb_k) *k = scalars;
    const double of_p = fastopt_root(&sums[0], 1), of_u = fastopt_root(&sums[1], 1);
    const double ratio = of_p == 0 || of_u == 0 ? 1 : of_p / of_u;
    k->rate = (T)(h->lr * ratio);
}

static void FN(lamb)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(lamb_state) *state = buffers;
    const FN(lamb_k) *k = scalars;
    (void)g;
    const T *restrict m = state->m, *restrict v = state->v;
    const T unbias = k->unbias, eps_t = k->eps_t, decay = k->decay, rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= rate * (unbias * m[i] / (SQRT(v[i]) + eps_t) + decay * p[i]);
}

static const FN(rule_ops) FN(lamb_ops) = {
    .scalars = FN(lamb_scalars),
    .gather = FN(lamb_gather),
    .combine = FN(lamb_combine),
    .update = FN(lamb),
};
