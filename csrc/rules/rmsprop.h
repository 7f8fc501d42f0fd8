/* RMSprop.  Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning", 2012; centered: Graves,
 * "Generating sequences with recurrent neural networks", 2013.
 *
 * plain      v = alpha v + (1 - alpha) g^2;  r = sqrt(v) + eps
 * centered   s = alpha s + (1 - alpha) alpha (g - a)^2;  a = alpha a + (1 - alpha) g;  r = sqrt(s) + eps
 *
 * s is the variance v - a^2, computed without cancellation: West, "Updating mean and variance estimates", 1979.
 *
 * p -= lr g / r;  with momentum  b = momentum b + g / r;  p -= lr b */

BEGINS_WITH(rmsprop_momentum, rmsprop, eps);
BEGINS_WITH(rmsprop_centered, rmsprop, eps);
BEGINS_WITH(rmsprop_centered_momentum, rmsprop, eps);

static void FN(rmsprop_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rmsprop_hyper *h = in->hyper;
    FN(rmsprop_k) *k = scalars;
    k->lr = (T)h->lr;
    k->eps = (T)(h->eps + sqrt(FN(lost_mean)(h->alpha, in->t)));
    k->squares = FN(squares_of)(h->alpha);
}

static void FN(rmsprop_momentum_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rmsprop_momentum_hyper *h = in->hyper;
    FN(rmsprop_momentum_k) *k = scalars;
    FN(rmsprop_scalars)(in, &k->rmsprop);
    k->mu = (T)h->momentum;
}

static void FN(rmsprop_centered_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rmsprop_centered_hyper *h = in->hyper;
    FN(rmsprop_centered_k) *k = scalars;
    FN(rmsprop_scalars)(in, &k->rmsprop);
    k->alpha = FN(keep)(h->alpha);
    k->rest = FN(rest)(h->alpha);
}

static void FN(rmsprop_centered_momentum_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rmsprop_centered_momentum_hyper *h = in->hyper;
    FN(rmsprop_centered_momentum_k) *k = scalars;
    FN(rmsprop_scalars)(in, &k->rmsprop);
    k->alpha = FN(keep)(h->alpha);
    k->rest = FN(rest)(h->alpha);
    k->mu = (T)h->momentum;
}

static void FN(rmsprop)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(rmsprop_state) *state = buffers;
    const FN(rmsprop_k) *k = scalars;
    T *restrict v = state->v;
    const T minus_lr = -k->lr, eps = k->eps;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] += minus_lr * g[i] / (SQRT(v[i]) + eps);
    }
}

static void FN(rmsprop_centered)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                 ptrdiff_t n)
{
    const FN(rmsprop_centered_state) *state = buffers;
    const FN(rmsprop_centered_k) *k = scalars;
    T *restrict s = state->s, *restrict a = state->a;
    const T minus_lr = -k->rmsprop.lr, eps = k->rmsprop.eps, alpha = k->alpha, rest = k->rest;
    const FN(squares) squares = k->rmsprop.squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T d = g[i] - a[i];
        s[i] = FN(next_mean)(s[i], alpha * (d * d), squares);
        a[i] = alpha * a[i] + rest * g[i];
        p[i] += minus_lr * g[i] / (SQRT(s[i]) + eps);
    }
}

static void FN(rmsprop_momentum)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                 ptrdiff_t n)
{
    const FN(rmsprop_momentum_state) *state = buffers;
    const FN(rmsprop_momentum_k) *k = scalars;
    T *restrict v = state->v, *restrict b = state->b;
    const T minus_lr = -k->rmsprop.lr, eps = k->rmsprop.eps, mu = k->mu;
    const FN(squares) squares = k->rmsprop.squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        b[i] = mu * b[i] + g[i] / (SQRT(v[i]) + eps);
        p[i] += minus_lr * b[i];
    }
}

static void FN(rmsprop_centered_momentum)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                          ptrdiff_t n)
{
    const FN(rmsprop_centered_momentum_state) *state = buffers;
    const FN(rmsprop_centered_momentum_k) *k = scalars;
    T *restrict s = state->s, *restrict a = state->a, *restrict b = state->b;
    const T minus_lr = -k->rmsprop.lr, eps = k->rmsprop.eps, mu = k->mu, alpha = k->alpha, rest = k->rest;
    const FN(squares) squares = k->rmsprop.squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T d = g[i] - a[i];
        s[i] = FN(next_mean)(s[i], alpha * (d * d), squares);
        a[i] = alpha * a[i] + rest * g[i];
        b[i] = mu * b[i] + g[i] / (SQRT(s[i]) + eps);
        p[i] += minus_lr * b[i];
    }
}

static void FN(rmsprop_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n)
{
    const rmsprop_hyper *h = hyper;
    const FN(rmsprop_state) *state = buffers;
    (void)p;
    FN(decay)(state->v, h->alpha, skipped, n);
}

/* The decay of a variance s and a mean a. */
static void FN(decay_variance)(T *restrict s, T *restrict a, double alpha, int64_t skipped, ptrdiff_t n)
{
    const double power = fastopt_rough_power(alpha, skipped);
    const T left = (T)power, from_a = (T)(power * (1 - power));
    for (ptrdiff_t i = 0; i < n; i++) {
        s[i] = left * s[i] + from_a * (a[i] * a[i]);
        a[i] *= left;
    }
}

static void FN(rmsprop_centered_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped,
                                          ptrdiff_t n)
{
    (void)p;
    const rmsprop_centered_hyper *h = hyper;
    const FN(rmsprop_centered_state) *state = buffers;
    FN(decay_variance)(state->s, state->a, h->alpha, skipped, n);
}

static void FN(rmsprop_momentum_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped,
                                          ptrdiff_t n)
{
    const rmsprop_momentum_hyper *h = hyper;
    const FN(rmsprop_momentum_state) *state = buffers;
    FN(decay)(state->v, h->alpha, skipped, n);
    FN(coast)(p, state->b, h->lr, h->momentum, skipped, n);
}

static void FN(rmsprop_centered_momentum_catch_up)(T *restrict p, const void *buffers, const void *hyper,
                                                   int64_t skipped, ptrdiff_t n)
{
    const rmsprop_centered_momentum_hyper *h = hyper;
    const FN(rmsprop_centered_momentum_state) *state = buffers;
    FN(decay_variance)(state->s, state->a, h->alpha, skipped, n);
    FN(coast)(p, state->b, h->lr, h->momentum, skipped, n);
}

static const FN(rule_ops) FN(rmsprop_ops) = {
    .scalars = FN(rmsprop_scalars),
    .update = FN(rmsprop),
    .catch_up = FN(rmsprop_catch_up),
};

static const FN(rule_ops) FN(rmsprop_centered_ops) = {
    .scalars = FN(rmsprop_centered_scalars),
    .update = FN(rmsprop_centered),
    .catch_up = FN(rmsprop_centered_catch_up),
};

static const FN(rule_ops) FN(rmsprop_momentum_ops) = {
    .scalars = FN(rmsprop_momentum_scalars),
    .update = FN(rmsprop_momentum),
    .catch_up = FN(rmsprop_momentum_catch_up),
};

static const FN(rule_ops) FN(rmsprop_centered_momentum_ops) = {
    .scalars = FN(rmsprop_centered_momentum_scalars),
    .update = FN(rmsprop_centered_momentum),
    .catch_up = FN(rmsprop_centered_momentum_catch_up),
};
