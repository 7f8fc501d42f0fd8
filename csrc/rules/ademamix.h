/* AdEMAMix.  Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older", 2024,
 * https://arxiv.org/abs/2409.03137.
 *
 * m1 = beta1 m1 + (1 - beta1) g
 * m2 = beta3_t m2 + (1 - beta3_t) g
 * v = beta2 v + (1 - beta2) g^2
 * p -= lr (m1_hat + alpha_t m2) / (sqrt(v_hat) + eps),  m1_hat = m1 / (1 - beta1^t),  v_hat = v / (1 - beta2^t)
 *
 * Over `warmup` steps alpha_t grows linearly to alpha, and beta3_t grows from beta1 to beta3 so that the half-life of
 * m2 grows nearly linearly: with x = t / warmup,  1 / ln(beta3_t) = (1 - x) / ln(beta1) + x / ln(beta3).
 *
 * Simplified: Morwani et al., "Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD variants",
 * 2025, https://arxiv.org/abs/2502.02431.
 *
 * m = beta1 m + g
 * v = beta2 v + (1 - beta2) g^2
 * p -= lr (m + alpha g) / (sqrt(v_hat) + eps) */

static inline double FN(ademamix_log)(double beta)
{
    return beta > 0 ? fastopt_log(beta) : -INFINITY;
}

static void FN(ademamix_scalars)(const fastopt_inputs *in, void *scalars)
{
    const ademamix_hyper *h = in->hyper;
    FN(ademamix_k) *k = scalars;
    double alpha = h->mix, beta3 = h->beta3;
    if ((double)in->t < h->warmup) {
        const double x = (double)in->t / h->warmup;
        const double warm = fastopt_exp(1 / ((1 - x) / FN(ademamix_log)(h->beta1) + x / FN(ademamix_log)(beta3)));
        alpha *= x;
        beta3 = warm < beta3 ? warm : beta3;
    }
    const double weight1 = FN(weight)(in, &h->beta1), root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->lr_1 = (T)(h->lr * root2 / weight1);
    k->lr_2 = (T)(h->lr * root2 * alpha);
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->beta3 = FN(keep)(beta3);
    k->rest3 = FN(rest)(beta3);
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(ademamix)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(ademamix_state) *state = buffers;
    const FN(ademamix_k) *k = scalars;
    T *restrict m1 = state->m1, *restrict m2 = state->m2, *restrict v = state->v;
    const T lr_1 = k->lr_1, lr_2 = k->lr_2, beta1 = k->beta1, rest1 = k->rest1, beta3 = k->beta3, rest3 = k->rest3,
            eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m1[i] = beta1 * m1[i] + rest1 * g[i];
        m2[i] = beta3 * m2[i] + rest3 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] -= (lr_1 * m1[i] + lr_2 * m2[i]) / (SQRT(v[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(ademamix_ops) = {
    .scalars = FN(ademamix_scalars),
    .update = FN(ademamix),
};

static void FN(simplifiedademamix_scalars)(const fastopt_inputs *in, void *scalars)
{
    const simplifiedademamix_hyper *h = in->hyper;
    FN(simplifiedademamix_k) *k = scalars;
    const double root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->lr_t = (T)(h->lr * root2);
    k->beta1 = (T)h->beta1;
    k->alpha = (T)h->mix;
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(simplifiedademamix)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                   ptrdiff_t n)
{
    const FN(simplifiedademamix_state) *state = buffers;
    const FN(simplifiedademamix_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T lr_t = k->lr_t, beta1 = k->beta1, alpha = k->alpha, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] -= lr_t * (m[i] + alpha * g[i]) / (SQRT(v[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(simplifiedademamix_ops) = {
    .scalars = FN(simplifiedademamix_scalars),
    .update = FN(simplifiedademamix),
};
