/* Prodigy.  Mishchenko & Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2024,
 * https://arxiv.org/abs/2306.06101.  d estimates the distance to the solution, over all tensors.
 *
 * dlr = d lr sqrt(1 - beta2^t) / (1 - beta1^t)
 * m = beta1 m + (1 - beta1) d g
 * v = beta2 v + (1 - beta2) (d g)^2
 * s = beta3 s + d / d0 dlr g,                   d / d0 d g with safeguard_warmup
 * r = beta3 r + d / d0 dlr <g, p0 - p>
 * d = max(d, d_coef r / |s|_1)
 * p -= dlr (m / (sqrt(v) + d eps) + weight_decay p) */

static void FN(prodigy_scalars)(const fastopt_inputs *in, void *scalars)
{
    const prodigy_hyper *h = in->hyper;
    prodigy_carry *carry = in->carry;
    FN(prodigy_k) *k = scalars;
    const double d = in->t == 1 ? h->d0 : carry->d;
    const double weight1 = FN(weight)(in, &h->beta1);
    const double dlr = d * h->lr * sqrt(1 - fastopt_product(in, &h->beta2)) / weight1;
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->d = (T)d;
    k->beta3 = (T)h->beta3;
    k->weight = (T)(d / h->d0 * (h->safeguard_warmup != 0 ? d : dlr));
    k->dlr = (T)dlr;
    k->decay = (T)h->decay;
    k->squares = FN(squares_of)(h->beta2);
    k->first = in->t == 1;
}

static void FN(prodigy_gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                               ptrdiff_t n, fastopt_sum *sums)
{
    const FN(prodigy_state) *state = buffers;
    const FN(prodigy_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v, *restrict s = state->s, *restrict p0 = state->p0;
    const T beta1 = k->beta1, rest1 = k->rest1, d = k->d, beta3 = k->beta3, weight = k->weight, first = k->first;
    const FN(squares) squares = k->squares;
    T moved[BLOCK], size[BLOCK], one[BLOCK];
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            p0[i] = p[i] - (first - 1); /* minus 0: unlike a copy, this flushes subnormals */
    for (ptrdiff_t i = 0; i < n; i++) {
        const T scaled = d * g[i];
        m[i] = beta1 * m[i] + rest1 * scaled;
        v[i] = FN(next_mean)(v[i], scaled * scaled, squares);
        s[i] = beta3 * s[i] + weight * g[i];
        moved[i] = p0[i] - p[i];
        size[i] = ABS(s[i]);
        one[i] = 1;
    }
    sums[0].sum += FN(sum_products)(g, moved, n);
    sums[1].sum += FN(sum_products)(size, one, n);
}

static void FN(prodigy_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const prodigy_hyper *h = in->hyper;
    prodigy_carry *carry = in->carry;
    FN(prodigy_k) *k = scalars;
    const double d = in->t == 1 ? h->d0 : carry->d;
    const double weight1 = FN(weight)(in, &h->beta1);
    const double dlr = d * h->lr * sqrt(1 - fastopt_product(in, &h->beta2)) / weight1;
    carry->r = h->beta3 * (in->t == 1 ? 0 : carry->r) + d / h->d0 * dlr * sums[0].sum;
    const double estimate = sums[1].sum == 0 ? 0 : h->d_coef * carry->r / sums[1].sum;
    carry->d = MAX(estimate, d);
    k->eps = (T)(carry->d * h->eps + sqrt(FN(lost_mean)(h->beta2, in->t)));
}

static void FN(prodigy)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(prodigy_state) *state = buffers;
    const FN(prodigy_k) *k = scalars;
    (void)g;
    const T *restrict m = state->m, *restrict v = state->v;
    const T minus_dlr = -k->dlr, decay = k->decay, eps = k->eps;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] += minus_dlr * (m[i] / (SQRT(v[i]) + eps) + decay * p[i]);
}

static double FN(prodigy_decay_rate)(const void *hyper, const void *scalars)
{
    const FN(prodigy_k) *k = scalars;
    (void)hyper;
    return (double)k->dlr;
}

static const FN(rule_ops) FN(prodigy_ops) = {
    .scalars = FN(prodigy_scalars),
    .gather = FN(prodigy_gather),
    .combine = FN(prodigy_combine),
    .update = FN(prodigy),
    .decay_rate = FN(prodigy_decay_rate),
};
