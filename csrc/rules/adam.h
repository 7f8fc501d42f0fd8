/* Adam.  Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.  AMSGrad: Reddi, Kale & Kumar,
 * "On the convergence of Adam and beyond", 2018.
 *
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2;        AMSGrad: vmax = max(vmax, v) takes the place of v below
 * p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t) */

static void FN(adam_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)carry;
    k[0] = (T)(h[0] / (1 - fastopt_product(h, decays, 1, t)));
    k[1] = (T)h[1];
    k[2] = (T)(1 - h[1]);
    k[3] = (T)h[2];
    k[4] = (T)(1 - h[2]);
    k[5] = (T)(1 / sqrt(1 - fastopt_product(h, decays, 2, t)));
    k[6] = (T)h[3];
}

static void FN(adam)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], beta2 = k[3], rest2 = k[4], unbias2 = k[5], eps = k[6];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * (g[i] * g[i]);
        p[i] -= lr_t * m[i] / (SQRT(v[i]) * unbias2 + eps);
    }
}

static void FN(amsgrad_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(adam_scalars)(h, decays, t, carry, k);
}

static void FN(amsgrad)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0], *restrict v = state[1], *restrict vmax = state[2];
    const T lr_t = k[0], beta1 = k[1], rest1 = k[2], beta2 = k[3], rest2 = k[4], unbias2 = k[5], eps = k[6];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * (g[i] * g[i]);
        vmax[i] = MAX(vmax[i], v[i]);
        p[i] -= lr_t * m[i] / (SQRT(vmax[i]) * unbias2 + eps);
    }
}
