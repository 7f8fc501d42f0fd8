/* FTRL-Proximal.  McMahan et al., "Ad click prediction: a view from the trenches", 2013, Algorithm 1; generalized to
 * any power of the sum of squares, of which the paper takes the square root.
 *
 * sigma = ((n + g^2)^a - n^a) / lr,                a = -lr_power
 * z += g - sigma p
 * n += g^2
 * p = -sign(z) max(|z| - lambda1, 0) / ((beta + n^a) / lr + lambda2)
 *
 * If g is 0, z and n keep their values, and the last line gives p. */

static inline T FN(ftrl_point)(T z, T power, T lr, T lambda1, T added)
{
    const T size = MAX(ABS(z) - lambda1, 0);
    return 0 - SIGN(z) * (lr * size / (power + added));
}

static void FN(ftrl_scalars)(const fastopt_inputs *in, void *scalars)
{
    const ftrl_hyper *h = in->hyper;
    FN(ftrl_k) *k = scalars;
    const double inverse = h->lr > 0 ? 1 / h->lr : 0;
    k->lr = (T)h->lr;
    k->inverse = (T)(inverse > LARGEST ? LARGEST : inverse);
    k->lambda1 = (T)h->lambda1;
    k->added = (T)(h->offset + h->lr * h->lambda2 + sqrt(FN(lost_sum)(in->t)));
}

static void FN(ftrl)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t count)
{
    const FN(ftrl_state) *state = buffers;
    const FN(ftrl_k) *k = scalars;
    T *restrict z = state->z, *restrict n = state->n;
    const T lr = k->lr, inverse = k->inverse, lambda1 = k->lambda1, added = k->added;
    for (ptrdiff_t i = 0; i < count; i++) {
        const T next = n[i] + g[i] * g[i], root = SQRT(next);
        const T sigma = (root - SQRT(n[i])) * inverse;
        z[i] += g[i] - sigma * p[i];
        n[i] = next;
        p[i] = FN(ftrl_point)(z[i], root, lr, lambda1, added);
    }
}

static void FN(ftrl_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t count)
{
    const ftrl_hyper *h = hyper;
    const FN(ftrl_state) *state = buffers;
    (void)skipped;
    const T *restrict z = state->z, *restrict n = state->n;
    const T lr = (T)h->lr, lambda1 = (T)h->lambda1, added = (T)(h->offset + h->lr * h->lambda2 + sqrt(SMALLEST));
    for (ptrdiff_t i = 0; i < count; i++)
        p[i] = FN(ftrl_point)(z[i], SQRT(n[i]), lr, lambda1, added);
}

static const FN(rule_ops) FN(ftrl_ops) = {
    .scalars = FN(ftrl_scalars),
    .update = FN(ftrl),
    .catch_up = FN(ftrl_catch_up),
};

BEGINS_WITH(ftrl_power, ftrl, offset);

/* The scalars of the power: a in two parts, and the term that is added. */
static void FN(ftrl_power_of)(double a, double offset, double lr, double lambda2, double lost, FN(ftrl_power_k) *k)
{
    const double unit = sizeof(T) == sizeof(float) ? 0x1p15 : 0x1p40, high = floor(a * unit) / unit;
    k->a = (T)high;
    k->a_low = (T)(a - high);
    k->at_0 = a == 0;
    k->ftrl.added = (T)(offset + lr * lambda2 + (a > 0 ? fastopt_pow(lost, a) : 0));
}

static void FN(ftrl_power_scalars)(const fastopt_inputs *in, void *scalars)
{
    const ftrl_power_hyper *h = in->hyper;
    FN(ftrl_power_k) *k = scalars;
    FN(ftrl_scalars)(in, &k->ftrl);
    FN(ftrl_power_of)(-h->lr_power, h->offset, h->lr, h->lambda2, FN(lost_sum)(in->t), k);
}

static void FN(ftrl_power)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                           ptrdiff_t count)
{
    const FN(ftrl_power_state) *state = buffers;
    const FN(ftrl_power_k) *k = scalars;
    T *restrict z = state->z, *restrict n = state->n;
    const T lr = k->ftrl.lr, inverse = k->ftrl.inverse, lambda1 = k->ftrl.lambda1, added = k->ftrl.added;
    const T a = k->a, a_low = k->a_low, at_0 = k->at_0;
    for (ptrdiff_t i = 0; i < count; i++) {
        const T next = n[i] + g[i] * g[i], power = FN(power)(next, a, a_low, at_0);
        const T sigma = (power - FN(power)(n[i], a, a_low, at_0)) * inverse;
        z[i] += g[i] - sigma * p[i];
        n[i] = next;
        p[i] = FN(ftrl_point)(z[i], power, lr, lambda1, added);
    }
}

static void FN(ftrl_power_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped,
                                    ptrdiff_t count)
{
    const ftrl_power_hyper *h = hyper;
    const FN(ftrl_power_state) *state = buffers;
    (void)skipped;
    FN(ftrl_power_k) k;
    FN(ftrl_power_of)(-h->lr_power, h->offset, h->lr, h->lambda2, SMALLEST, &k);
    const T *restrict z = state->z, *restrict n = state->n;
    const T lr = (T)h->lr, lambda1 = (T)h->lambda1;
    for (ptrdiff_t i = 0; i < count; i++)
        p[i] = FN(ftrl_point)(z[i], FN(power)(n[i], k.a, k.a_low, k.at_0), lr, lambda1, k.ftrl.added);
}

static const FN(rule_ops) FN(ftrl_power_ops) = {
    .scalars = FN(ftrl_power_scalars),
    .update = FN(ftrl_power),
    .catch_up = FN(ftrl_power_catch_up),
};
