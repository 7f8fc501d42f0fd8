/* Adam.  Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.  AMSGrad: Reddi, Kale & Kumar,
 * "On the convergence of Adam and beyond", 2018.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2;        AMSGrad: vmax = max(vmax, v) takes the place of v below
 * p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)
 *
 * The root of 1 - beta2^t goes from the loop into the two scalars
 * p -= lr_t m / (sqrt(v) + eps_t),  lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t),  eps_t = eps sqrt(1 - beta2^t) */

static void FN(adam_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    const double weight1 = FN(weight)(h, decays, 1, t), root2 = sqrt(1 - fastopt_product(h, decays, 2, t));
    k[0] = (T)(h[0] * root2 / weight1);
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = (T)(h[3] * root2 + sqrt(FN(lost_mean)(h[2], t)));
    FN(set_squares)(h[2], k + 4);
}

static void FN(adam)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], eps_t = k[3];
    const FN(squares) squares = FN(squares_at)(k + 4);
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) + eps_t);
    }
}

static void FN(amsgrad_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(adam_scalars)(h, decays, t, carry, k);
}

static void FN(amsgrad)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1], *restrict vmax = state[2];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], eps_t = k[3];
    const FN(squares) squares = FN(squares_at)(k + 4);
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        vmax[i] = MAX(vmax[i], v[i]);
        p[i] -= lr_t * m[i] / (SQRT(vmax[i]) + eps_t);
    }
}
