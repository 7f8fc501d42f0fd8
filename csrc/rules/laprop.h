/* LaProp.  Ziyin, Wang & Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020,
 * https://arxiv.org/abs/2002.04839, Algorithm 1, with beta1 for mu and beta2 for nu.
 *
 * n = beta2 n + (1 - beta2) g^2
 * m = beta1 m + (1 - beta1) g / (sqrt(n_hat) + eps),  n_hat = n / (1 - beta2^t)
 * p -= lr m_hat,                                      m_hat = m / (1 - beta1^t)
 *
 * The root of 1 - beta2^t goes from the loop into the two scalars
 * m = beta1 m + rest1_t g / (sqrt(n) + eps_t),  rest1_t = (1 - beta1) sqrt(1 - beta2^t),  eps_t = eps sqrt(1 - beta2^t)
 */

static void FN(laprop_scalars)(const fastopt_inputs *in, void *scalars)
{
    const laprop_hyper *h = in->hyper;
    FN(laprop_k) *k = scalars;
    const double root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->lr_t = (T)(h->lr / FN(weight)(in, &h->beta1));
    k->beta1 = FN(keep)(h->beta1);
    k->rest1_t = (T)(FN(rest)(h->beta1) * root2);
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(laprop)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t count)
{
    const FN(laprop_state) *state = buffers;
    const FN(laprop_k) *k = scalars;
    T *restrict m = state->m, *restrict n = state->n;
    const T lr_t = k->lr_t, beta1 = k->beta1, rest1_t = k->rest1_t, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < count; i++) {
        n[i] = FN(next_mean)(n[i], g[i] * g[i], squares);
        m[i] = beta1 * m[i] + rest1_t * g[i] / (SQRT(n[i]) + eps_t);
        p[i] -= lr_t * m[i];
    }
}

static const FN(rule_ops) FN(laprop_ops) = {
    .scalars = FN(laprop_scalars),
    .update = FN(laprop),
};
