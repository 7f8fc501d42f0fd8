/* MARS-AdamW.  Yuan et al., "MARS: unleashing the power of variance reduction for training large models", 2024,
 * https://arxiv.org/abs/2411.10438, in its practical form, which uses the gradient of the previous step.
 *
 * c = g + gamma beta1 / (1 - beta1) (g - prev),   c / |c| where |c| > 1, the norm of the whole parameter
 * m = beta1 m + (1 - beta1) c
 * v = beta2 v + (1 - beta2) c^2
 * p -= lr m_hat / (sqrt(v_hat) + eps),            m_hat and v_hat as in Adam
 * prev = g */

BEGINS_WITH(marsadamw, adam, eps);

static void FN(marsadamw_scalars)(const fastopt_inputs *in, void *scalars)
{
    const marsadamw_hyper *h = in->hyper;
    FN(marsadamw_k) *k = scalars;
    FN(adam_scalars)(in, &k->adam);
    k->ahead = (T)(h->gamma * h->beta1 / (1 - h->beta1));
    k->zero = 0;
}

static void FN(marsadamw_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                 ptrdiff_t n, fastopt_sum *sums)
{
    const FN(marsadamw_state) *state = buffers;
    const FN(marsadamw_k) *k = scalars;
    (void)p;
    const T *restrict prev = state->prev;
    const T ahead = k->ahead;
    T c[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++)
        c[i] = g[i] + ahead * (g[i] - prev[i]);
    FN(add_squares)(&sums[0], c, n);
}

static void FN(marsadamw_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    FN(marsadamw_k) *k = scalars;
    (void)in;
    const double of_c = fastopt_root(&sums[0], 1);
    k->scale = (T)(of_c > 1 ? 1 / of_c : 1);
}

static void FN(marsadamw)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(marsadamw_state) *state = buffers;
    const FN(marsadamw_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v, *restrict prev = state->prev;
    const T lr_t = k->adam.lr_t, beta1 = k->adam.beta1, rest1 = k->adam.rest1, eps_t = k->adam.eps_t, ahead = k->ahead,
            scale = k->scale, zero = k->zero;
    const FN(squares) squares = k->adam.squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T c = scale * (g[i] + ahead * (g[i] - prev[i]));
        m[i] = beta1 * m[i] + rest1 * c;
        v[i] = FN(next_mean)(v[i], c * c, squares);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) + eps_t);
        prev[i] = g[i] - zero; /* unlike a copy, this flushes subnormals */
    }
}

static const FN(rule_ops) FN(marsadamw_ops) = {
    .scalars = FN(marsadamw_scalars),
    .gather = FN(marsadamw_gather),
    .combine = FN(marsadamw_combine),
    .update = FN(marsadamw),
};
