/* Schedule-free SGD and AdamW.  Defazio et al., "The road less scheduled", 2024, https://arxiv.org/abs/2405.15682.
 *
 * lr_t = lr min(1, t / warmup_steps)
 * c = w / (w_1 + ... + w),  w = t^r max(lr_1, ..., lr_t)^weight_lr_power;         0 while the weights are 0
 * SGD      u = g
 * AdamW    v = beta2 v + (1 - beta2) g^2
 *          u = g / (sqrt(v_hat) + eps) + weight_decay p
 * z -= lr_t u                                                       z = p before the first step
 * x = (1 - c) x + c z
 * p = (1 - beta) z + beta x                                         the point of the gradients: y in the paper
 *
 * x is not stored: with x = (p - (1 - beta) z) / beta the last two lines are
 * p += c (z - p) - lr_t (1 - beta (1 - c)) u, with the old z. */

/* The scalars of both; beta is the momentum of SGD. */
static void FN(schedulefree_scalars)(const fastopt_inputs *in, double lr, double beta, double warmup_steps, double r,
                                     double weight_lr_power, FN(schedulefreesgd_k) *k)
{
    schedulefreesgd_carry *carry = in->carry;
    const double t = (double)in->t, lr_t = t < warmup_steps ? lr * (t / warmup_steps) : lr;
    const double before = in->t == 1 ? 0 : carry->lr_max, largest = lr_t > before ? lr_t : before;
    const double weight = fastopt_pow(t, r) * fastopt_pow(largest, weight_lr_power);
    const double sum = (in->t == 1 ? 0 : carry->weight_sum) + weight, c = sum > 0 ? weight / sum : 0;
    carry->weight_sum = sum;
    carry->lr_max = largest;
    k->lr_t = (T)lr_t;
    k->c = (T)c;
    k->rate = (T)(lr_t * (1 - beta * (1 - c)));
    k->first = in->t == 1; /* whether the step sets z */
    k->zero = 0;
}

static void FN(schedulefreesgd_scalars)(const fastopt_inputs *in, void *scalars)
{
    const schedulefreesgd_hyper *h = in->hyper;
    FN(schedulefree_scalars)(in, h->lr, h->momentum, h->warmup_steps, h->r, h->weight_lr_power, scalars);
}

static void FN(schedulefreesgd)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                ptrdiff_t n)
{
    const FN(schedulefreesgd_state) *state = buffers;
    const FN(schedulefreesgd_k) *k = scalars;
    T *restrict z = state->z;
    const T lr_t = k->lr_t, c = k->c, rate = k->rate, first = k->first, zero = k->zero;
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            z[i] = p[i] - zero; /* unlike a copy, this flushes subnormals */
    for (ptrdiff_t i = 0; i < n; i++) {
        p[i] = p[i] + c * (z[i] - p[i]) - rate * g[i];
        z[i] -= lr_t * g[i];
    }
}

static const FN(rule_ops) FN(schedulefreesgd_ops) = {
    .scalars = FN(schedulefreesgd_scalars),
    .update = FN(schedulefreesgd),
};

static void FN(schedulefreeadamw_scalars)(const fastopt_inputs *in, void *scalars)
{
    const schedulefreeadamw_hyper *h = in->hyper;
    FN(schedulefreeadamw_k) *k = scalars;
    FN(schedulefree_scalars)(in, h->lr, h->beta1, h->warmup_steps, h->r, h->weight_lr_power, &k->schedulefreesgd);
    const double root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->root2 = (T)root2;
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->decay = (T)h->decay;
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(schedulefreeadamw)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                  ptrdiff_t n)
{
    const FN(schedulefreeadamw_state) *state = buffers;
    const FN(schedulefreeadamw_k) *k = scalars;
    T *restrict z = state->z, *restrict v = state->v;
    const T minus_lr_t = -k->schedulefreesgd.lr_t, c = k->schedulefreesgd.c, rate = k->schedulefreesgd.rate,
            first = k->schedulefreesgd.first, zero = k->schedulefreesgd.zero;
    const T root2 = k->root2, eps_t = k->eps_t, decay = k->decay;
    const FN(squares) squares = k->squares;
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            z[i] = p[i] - zero;
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        const T u = root2 * g[i] / (SQRT(v[i]) + eps_t) + decay * p[i];
        p[i] = p[i] + c * (z[i] - p[i]) - rate * u;
        z[i] += minus_lr_t * u;
    }
}

static const FN(rule_ops) FN(schedulefreeadamw_ops) = {
    .scalars = FN(schedulefreeadamw_scalars),
    .update = FN(schedulefreeadamw),
};
