/* NovoGrad.  Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep
 * networks", 2019, https://arxiv.org/abs/1905.11286.
 *
 * v = beta2 v + (1 - beta2) |g|^2,              one number per tensor, |g|^2 on the first step
 * m = beta1 m + g / (sqrt(v) + eps) + weight_decay p
 * p -= lr m
 *
 * v is kept as v 2^v_exponent: an exponent other than 0 is that of squares beyond the doubles. */

static void FN(novograd_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[1];
    k[2] = (T)h[4];
}

static void FN(novograd_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                ptrdiff_t n, fastopt_sum *sums)
{
    (void)p, (void)state, (void)k;
    FN(add_squares)(&sums[0], g, n);
}

/* The running mean where v or |g|^2 is beyond the doubles: in the larger unit of the two. */
NOINLINE static double FN(novograd_scaled_root)(double beta2, int64_t t, const fastopt_sum *sum, double *carry)
{
    int of_square;
    const int of_v = carry[1] > 0 ? SUM_EXPONENT : carry[1] < 0 ? -SUM_EXPONENT : 0;
    const double square = fastopt_scaled(sum, &of_square);
    int exponent = of_square;
    double v = square;
    if (t > 1) {
        if (square == 0 || (carry[0] != 0 && of_v > of_square))
            exponent = of_v;
        v = beta2 * ldexp(carry[0], of_v - exponent) + (1 - beta2) * ldexp(square, of_square - exponent);
    }
    if ((exponent > 0 && v < 0x1p-300) || (exponent < 0 && v > 0x1p300)) {
        v = ldexp(v, exponent);
        exponent = 0;
    }
    carry[0] = v;
    carry[1] = exponent;
    return ldexp(sqrt(v), exponent / 2);
}

static void FN(novograd_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
                                 ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)n;
    double root;
    if (fastopt_is_usual(sums) && (t == 1 || carry[1] == 0)) {
        carry[0] = t == 1 ? sums->sum : h[2] * carry[0] + (1 - h[2]) * sums->sum;
        carry[1] = 0;
        root = sqrt(carry[0]);
    } else {
        root = FN(novograd_scaled_root)(h[2], t, sums, carry);
    }
    root += h[3];
    const double scale = root == 0 ? 0 : 1 / root;
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
