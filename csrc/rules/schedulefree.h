/* Schedule-free SGD and AdamW.  Defazio et al., "The road less scheduled", 2024, https://arxiv.org/abs/2405.15682.
 *
 * lr_t = lr min(1, t / warmup_steps)
 * c = w / (w_1 + ... + w),  w = t^r max(lr_1, ..., lr_t)^weight_lr_power;         0 while the weights are 0
 * SGD      u = g
 * AdamW    v = beta2 v + (1 - beta2) g^2
 *          u = g / (sqrt(v_hat) + eps) + weight_decay p
 * z -= lr_t u                                                       z = p before the first step
 * x = (1 - c) x + c z
 * p = (1 - beta) z + beta x                                         where gradients are taken: the paper's y
 *
 * x is not kept: with x = (p - (1 - beta) z) / beta the last two lines are
 * p += c (z - p) - lr_t (1 - beta (1 - c)) u, with z as it was. */

/* The first four scalars; `averaging` is warmup_steps, r and weight_lr_power. */
static void FN(schedulefree_scalars)(double lr, double beta, const double *averaging, int64_t t, double *carry, T *k)
{
    const double lr_t = (double)t < averaging[0] ? lr * ((double)t / averaging[0]) : lr;
    const double before = t == 1 ? 0 : carry[1], largest = lr_t > before ? lr_t : before;
    const double weight = fastopt_pow((double)t, averaging[1]) * fastopt_pow(largest, averaging[2]);
    const double sum = (t == 1 ? 0 : carry[0]) + weight, c = sum > 0 ? weight / sum : 0;
    carry[0] = sum;
    carry[1] = largest;
    k[0] = (T)lr_t;
    k[1] = (T)c;
    k[2] = (T)(lr_t * (1 - beta * (1 - c)));
    k[3] = t == 1; /* whether z is still to be set */
    k[4] = 0;
}

static void FN(schedulefreesgd_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays;
    FN(schedulefree_scalars)(h[0], h[1], h + 2, t, carry, k);
}

static void FN(schedulefreesgd)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                ptrdiff_t n)
{
    T *restrict z = state[0];
    const T lr_t = k[0], c = k[1], rate = k[2], first = k[3], zero = k[4];
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            z[i] = p[i] - zero; /* which flushes subnormals, as a copy would not */
    for (ptrdiff_t i = 0; i < n; i++) {
        p[i] = p[i] + c * (z[i] - p[i]) - rate * g[i];
        z[i] -= lr_t * g[i];
    }
}

static void FN(schedulefreeadamw_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(schedulefree_scalars)(h[0], h[1], h + 5, t, carry, k);
    const double root2 = sqrt(1 - fastopt_product(h, decays, 2, t));
    k[5] = (T)root2;
    k[6] = (T)(h[3] * root2 + sqrt(FN(lost_mean)(h[2], t)));
    k[7] = (T)h[4];
    FN(set_squares)(h[2], k + 8);
}

static void FN(schedulefreeadamw)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                  ptrdiff_t n)
{
    T *restrict z = state[0], *restrict v = state[1];
    const T minus_lr_t = -k[0], c = k[1], rate = k[2], first = k[3], zero = k[4];
    const T root2 = k[5], eps_t = k[6], decay = k[7];
    const FN(squares) squares = FN(squares_at)(k + 8);
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            z[i] = p[i] - zero;
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        const T u = root2 * g[i] / (SQRT(v[i]) + eps_t) + decay * p[i];
        p[i] = p[i] + c * (z[i] - p[i]) - rate * u;
        z[i] += minus_lr_t * u;
    }
}
