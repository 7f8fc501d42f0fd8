/* Adan.  Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
 * https://arxiv.org/abs/2208.06677, with beta for 1 - beta of the paper, and the bias corrections of its code.
 *
 * d = g - prev,                               prev = g on the first step
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) d
 * n = beta3 n + (1 - beta3) (g + beta2 d)^2
 * p -= lr (m_hat + beta2 v_hat) / (sqrt(n_hat) + eps),  m_hat = m / (1 - beta1^t) and so on
 * prev = g */

static void FN(adan_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adan_hyper *h = in->hyper;
    FN(adan_k) *k = scalars;
    const double weight1 = FN(weight)(in, &h->beta1);
    const double weight2 = FN(weight)(in, &h->beta2), root3 = sqrt(FN(weight)(in, &h->beta3));
    k->lr_m = (T)(h->lr * root3 / weight1);
    k->lr_v = (T)(h->lr * root3 * h->beta2 / weight2);
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->beta2 = FN(keep)(h->beta2);
    k->rest2 = FN(rest)(h->beta2);
    k->eps_t = (T)(h->eps * root3 + sqrt(FN(lost_mean)(h->beta3, in->t)));
    k->beta3 = FN(keep)(h->beta3);
    k->rest3 = FN(rest)(h->beta3);
    k->first = in->t == 1;
    k->zero = 0;
}

static void FN(adan)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t count)
{
    const FN(adan_state) *state = buffers;
    const FN(adan_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v, *restrict n = state->n, *restrict prev = state->prev;
    const T lr_m = k->lr_m, lr_v = k->lr_v, beta1 = k->beta1, rest1 = k->rest1, beta2 = k->beta2, rest2 = k->rest2,
            eps_t = k->eps_t, beta3 = k->beta3, rest3 = k->rest3, first = k->first, zero = k->zero;
    if (first != 0)
        for (ptrdiff_t i = 0; i < count; i++)
            prev[i] = g[i] - zero; /* unlike a copy, this flushes subnormals */
    for (ptrdiff_t i = 0; i < count; i++) {
        const T d = g[i] - prev[i], ahead = g[i] + beta2 * d;
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * d;
        n[i] = beta3 * n[i] + rest3 * (ahead * ahead);
        p[i] -= (lr_m * m[i] + lr_v * v[i]) / (SQRT(n[i]) + eps_t);
        prev[i] = g[i] - zero;
    }
}

static const FN(rule_ops) FN(adan_ops) = {
    .scalars = FN(adan_scalars),
    .update = FN(adan),
};
