/* Adam.  Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.  AMSGrad: Reddi, Kale & Kumar,
 * "On the convergence of Adam and beyond", 2018.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2;        AMSGrad: vmax = max(vmax, v) takes the place of v below
 * p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)
 *
 * The root of 1 - beta2^t goes from the loop into the two scalars
 * p -= lr_t m / (sqrt(v) + eps_t),  lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t),  eps_t = eps sqrt(1 - beta2^t) */

static void FN(adam_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adam_hyper *h = in->hyper;
    FN(adam_k) *k = scalars;
    const double weight1 = FN(weight)(in, &h->beta1), root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->lr_t = (T)(h->lr * root2 / weight1);
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(adam)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adam_state) *state = buffers;
    const FN(adam_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T lr_t = k->lr_t, beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(adam_ops) = {
    .scalars = FN(adam_scalars),
    .update = FN(adam),
};

SAME_HYPER(amsgrad, adam);

static void FN(amsgrad)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(amsgrad_state) *state = buffers;
    const FN(adam_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v, *restrict vmax = state->vmax;
    const T lr_t = k->lr_t, beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        vmax[i] = MAX(vmax[i], v[i]);
        p[i] -= lr_t * m[i] / (SQRT(vmax[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(amsgrad_ops) = {
    .scalars = FN(adam_scalars),
    .update = FN(amsgrad),
};
