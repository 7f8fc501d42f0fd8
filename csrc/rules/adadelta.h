/* Adadelta.  Zeiler, "ADADELTA: an adaptive learning rate method", 2012.
 *
 * E = rho E + (1 - rho) g^2
 * d = sqrt(D + eps) / sqrt(E + eps) * g        one root of the quotient: the same value with one rounding less
 * D = rho D + (1 - rho) d^2
 * p -= lr d
 *
 * Where g is 0, E and D decay and p stays. */

static void FN(adadelta_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adadelta_hyper *h = in->hyper;
    FN(adadelta_k) *k = scalars;
    k->lr = (T)h->lr;
    k->eps = (T)h->eps;
    k->eps_below = (T)(h->eps + FN(lost_mean)(h->rho, in->t));
    k->rho = FN(keep)(h->rho);
    k->rest = FN(rest)(h->rho);
}

static void FN(adadelta)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adadelta_state) *state = buffers;
    const FN(adadelta_k) *k = scalars;
    T *restrict E = state->E, *restrict D = state->D;
    const T lr = k->lr, eps = k->eps, eps_below = k->eps_below;
    const T rho = k->rho, rest = k->rest;
    for (ptrdiff_t i = 0; i < n; i++) {
        E[i] = rho * E[i] + rest * (g[i] * g[i]);
        const T d = SQRT((D[i] + eps) / (E[i] + eps_below)) * g[i];
        D[i] = rho * D[i] + rest * (d * d);
        p[i] -= lr * d;
    }
}

static void FN(adadelta_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n)
{
    const adadelta_hyper *h = hyper;
    const FN(adadelta_state) *state = buffers;
    (void)p;
    FN(decay)(state->E, h->rho, skipped, n);
    FN(decay)(state->D, h->rho, skipped, n);
}

static const FN(rule_ops) FN(adadelta_ops) = {
    .scalars = FN(adadelta_scalars),
    .update = FN(adadelta),
    .catch_up = FN(adadelta_catch_up),
};
