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
 * with Nesterov's momentum by momentum times that. */

static void FN(sgd_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
}

static void FN(sgd)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    (void)state;
    const T lr = k[0];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= lr * g[i];
}

static void FN(sgd_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped, ptrdiff_t n)
{
    (void)p, (void)state, (void)h, (void)skipped, (void)n; /* nothing moves where the gradient is 0 */
}

static void FN(momentum_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[1];
    k[2] = t == 1 || h[1] == 0 ? 1 : (T)(1 - h[2]);
}

static void FN(momentum)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict b = state[0];
    const T lr = k[0], mu = k[1], undamped = k[2];
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + undamped * g[i];
        p[i] -= lr * b[i];
    }
}

static void FN(momentum_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped,
                                  ptrdiff_t n)
{
    FN(coast)(p, state[0], h[0], h[1], skipped, n);
}

static void FN(nesterov_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = (T)h[1];
}

static void FN(nesterov)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict b = state[0];
    const T lr = k[0], mu = k[1];
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + g[i];
        p[i] -= lr * (g[i] + mu * b[i]);
    }
}

static void FN(nesterov_catch_up)(T *restrict p, T *const *restrict state, const double *h, int64_t skipped,
                                  ptrdiff_t n)
{
    FN(coast)(p, state[0], h[0] * h[1], h[1], skipped, n);
}
