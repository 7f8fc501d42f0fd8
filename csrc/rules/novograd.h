/* NovoGrad.  Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep
 * networks", 2019, https://arxiv.org/abs/1905.11286.
 *
 * v = beta2 v + (1 - beta2) |g|^2,              one number per tensor, |g|^2 on the first step
 * m = beta1 m + g / (sqrt(v) + eps) + weight_decay p
 * p -= lr m */

static void FN(novograd_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[1];
    k[2] = (T)h[4];
}

static void FN(novograd_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                ptrdiff_t n, double *sums)
{
    (void)p, (void)state, (void)k;
    sums[0] += FN(sum_squares)(g, n);
}

static void FN(novograd_combine)(const double *h, const fastopt_decay *decays, int64_t t, const double *sums,
                                 ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)n;
    carry[0] = t == 1 ? sums[0] : h[2] * carry[0] + (1 - h[2]) * sums[0];
    const double root = sqrt(carry[0]) + h[3], scale = root == 0 ? 0 : 1 / root;
    k[3] = (T)(scale > LARGEST ? LARGEST : scale);
}

static void FN(novograd)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict m = state[0];
    const T lr = k[0], beta1 = k[1], decay = k[2], scale = k[3];
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + (scale * g[i] + decay * p[i]);
        p[i] -= lr * m[i];
    }
}
