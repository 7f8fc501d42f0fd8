/* NovoGrad.  Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep
 * networks", 2019, https://arxiv.org/abs/1905.11286.
 *
 * v = beta2 v + (1 - beta2) |g|^2,              one number per tensor, |g|^2 on the first step
 * m = beta1 m + g / (sqrt(v) + eps) + weight_decay p
 * p -= lr m
 *
 * v is stored as v 2^v_exponent, where the exponent is 0 unless |g|^2 is beyond the range of double. */

static void FN(novograd_scalars)(const fastopt_inputs *in, void *scalars)
{
    const novograd_hyper *h = in->hyper;
    FN(novograd_k) *k = scalars;
    k->lr = (T)h->lr;
    k->beta1 = (T)h->beta1;
    k->decay = (T)h->decay;
}

static void FN(novograd_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                ptrdiff_t n, fastopt_sum *sums)
{
    (void)p, (void)buffers, (void)scalars;
    FN(add_squares)(&sums[0], g, n);
}

/* The running mean if v or |g|^2 is beyond the range of double, with the larger exponent of the two. */
NOINLINE static double FN(novograd_scaled_root)(double beta2, int64_t t, const fastopt_sum *sum, novograd_carry *carry)
{
    int of_square;
    const int of_v = carry->v_exponent > 0 ? SUM_EXPONENT : carry->v_exponent < 0 ? -SUM_EXPONENT : 0;
    const double square = fastopt_scaled(sum, &of_square);
    int exponent = of_square;
    double v = square;
    if (t > 1) {
        if (square == 0 || (carry->v != 0 && of_v > of_square))
            exponent = of_v;
        v = beta2 * ldexp(carry->v, of_v - exponent) + (1 - beta2) * ldexp(square, of_square - exponent);
    }
    if ((exponent > 0 && v < 0x1p-300) || (exponent < 0 && v > 0x1p300)) {
        v = ldexp(v, exponent);
        exponent = 0;
    }
    carry->v = v;
    carry->v_exponent = exponent;
    return ldexp(sqrt(v), exponent / 2);
}

static void FN(novograd_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const novograd_hyper *h = in->hyper;
    novograd_carry *carry = in->carry;
    FN(novograd_k) *k = scalars;
    double root;
    if (fastopt_is_usual(sums) && (in->t == 1 || carry->v_exponent == 0)) {
        carry->v = in->t == 1 ? sums->sum : h->beta2 * carry->v + (1 - h->beta2) * sums->sum;
        carry->v_exponent = 0;
        root = sqrt(carry->v);
    } else {
        root = FN(novograd_scaled_root)(h->beta2, in->t, sums, carry);
    }
    root += h->eps;
    const double scale = root == 0 ? 0 : 1 / root;
    k->scale = (T)(scale > LARGEST ? LARGEST : scale);
}

static void FN(novograd)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(novograd_state) *state = buffers;
    const FN(novograd_k) *k = scalars;
    T *restrict m = state->m;
    const T lr = k->lr, beta1 = k->beta1, decay = k->decay, scale = k->scale;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + (scale * g[i] + decay * p[i]);
        p[i] -= lr * m[i];
    }
}

static const FN(rule_ops) FN(novograd_ops) = {
    .scalars = FN(novograd_scalars),
    .gather = FN(novograd_gather),
    .combine = FN(novograd_combine),
    .update = FN(novograd),
};
