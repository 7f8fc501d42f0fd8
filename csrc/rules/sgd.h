/* Gradient descent, and the two momenta.
 *
 * SGD        p -= lr * g                                  Robbins & Monro 1951
 * Momentum   b = momentum * b + (1 - dampening) * g;  p -= lr * b                      Polyak 1964
 * Nesterov   b = momentum * b + g;  p -= lr * (g + momentum * b)        Sutskever et al. 2013
 *
 * The learning rate stays outside the buffer, so that changing it takes effect at once.  On the first step b = g,
 * whatever the dampening.
 *
 * After k steps whose gradient is 0 the buffer is momentum^k b, and p has moved by -lr (momentum + ... + momentum^k) b,
 * with Nesterov's momentum by momentum times as much. */

static void FN(sgd_scalars)(const fastopt_inputs *in, void *scalars)
{
    const sgd_hyper *h = in->hyper;
    FN(sgd_k) *k = scalars;
    k->lr = (T)h->lr;
}

static void FN(sgd)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    (void)buffers;
    const FN(sgd_k) *k = scalars;
    const T lr = k->lr;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= lr * g[i];
}

static const FN(rule_ops) FN(sgd_ops) = {
    .scalars = FN(sgd_scalars),
    .update = FN(sgd),
};

static void FN(momentum_scalars)(const fastopt_inputs *in, void *scalars)
{
    const momentum_hyper *h = in->hyper;
    FN(momentum_k) *k = scalars;
    k->lr = (T)h->lr;
    k->mu = (T)h->momentum;
    k->undamped = in->t == 1 || h->momentum == 0 ? 1 : (T)(1 - h->dampening);
}

static void FN(momentum)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(momentum_state) *state = buffers;
    const FN(momentum_k) *k = scalars;
    T *restrict b = state->b;
    const T lr = k->lr, mu = k->mu, undamped = k->undamped;
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + undamped * g[i];
        p[i] -= lr * b[i];
    }
}

static void FN(momentum_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n)
{
    const momentum_hyper *h = hyper;
    const FN(momentum_state) *state = buffers;
    FN(coast)(p, state->b, h->lr, h->momentum, skipped, n);
}

static const FN(rule_ops) FN(momentum_ops) = {
    .scalars = FN(momentum_scalars),
    .update = FN(momentum),
    .catch_up = FN(momentum_catch_up),
};

static void FN(nesterov_scalars)(const fastopt_inputs *in, void *scalars)
{
    const nesterov_hyper *h = in->hyper;
    FN(nesterov_k) *k = scalars;
    k->lr = (T)h->lr;
    k->mu = (T)h->momentum;
}

static void FN(nesterov)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(nesterov_state) *state = buffers;
    const FN(nesterov_k) *k = scalars;
    T *restrict b = state->b;
    const T lr = k->lr, mu = k->mu;
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + g[i];
        p[i] -= lr * (g[i] + mu * b[i]);
    }
}

static void FN(nesterov_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n)
{
    const nesterov_hyper *h = hyper;
    const FN(nesterov_state) *state = buffers;
    FN(coast)(p, state->b, h->lr * h->momentum, h->momentum, skipped, n);
}

static const FN(rule_ops) FN(nesterov_ops) = {
    .scalars = FN(nesterov_scalars),
    .update = FN(nesterov),
    .catch_up = FN(nesterov_catch_up),
};
