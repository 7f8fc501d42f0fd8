/* StableAdamW.  Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2023,
 * https://arxiv.org/abs/2304.13013, Algorithm 2, with the names of Adam.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * rms = sqrt(mean of g^2 / max(v_hat, eps^2))
 * p -= lr / max(1, rms) (m_hat / (sqrt(v_hat) + eps) + weight_decay p)
 *
 * The paper puts the bias corrections into the betas, which is equivalent.  All but the rate is as in LAMB. */

SAME_HYPER(stableadamw, lamb);

static void FN(stableadamw_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                   ptrdiff_t n, fastopt_sum *sums)
{
    const FN(stableadamw_state) *state = buffers;
    const FN(lamb_k) *k = scalars;
    (void)p;
    T *restrict m = state->m, *restrict v = state->v;
    const T beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        const T root = SQRT(v[i]);
        u[i] = g[i] / (root < eps_t ? eps_t : root); /* keeps NaN */
    }
    FN(add_squares)(&sums[0], u, n);
}

static void FN(stableadamw_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const stableadamw_hyper *h = in->hyper;
    FN(lamb_k) *k = scalars;
    const double root2 = sqrt(1 - fastopt_product(in, &h->beta2)), rms = root2 * fastopt_root(&sums[0], (double)in->n);
    k->rate = (T)(h->lr / MAX(rms, 1.0));
}

static const FN(rule_ops) FN(stableadamw_ops) = {
    .scalars = FN(lamb_scalars),
    .gather = FN(stableadamw_gather),
    .combine = FN(stableadamw_combine),
    .update = FN(lamb),
};
