/* Adamax.  Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, where eps = 0.
 *
 * m = beta1 m + (1 - beta1) g
 * u = max(beta2 u, |g| + eps)
 * p -= lr / (1 - beta1^t) * m / u,  and 0 where u is 0 */

static void FN(adamax_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adamax_hyper *h = in->hyper;
    FN(adamax_k) *k = scalars;
    k->lr_t = (T)(h->lr / FN(weight)(in, &h->beta1));
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->beta2 = (T)h->beta2;
    k->eps = (T)h->eps;
    k->zero = 0; /* a variable: compilers would drop the subtraction of a constant 0, which flushes p */
}

static void FN(adamax)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adamax_state) *state = buffers;
    const FN(adamax_k) *k = scalars;
    T *restrict m = state->m, *restrict u = state->u;
    const T lr_t = k->lr_t, beta1 = k->beta1, rest1 = k->rest1, beta2 = k->beta2, eps = k->eps, zero = k->zero;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        u[i] = MAX(beta2 * u[i], ABS(g[i]) + eps);
        p[i] -= u[i] == 0 ? zero : lr_t * m[i] / u[i];
    }
}

static const FN(rule_ops) FN(adamax_ops) = {
    .scalars = FN(adamax_scalars),
    .update = FN(adamax),
};
