/* ADOPT.  Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", 2024,
 * https://arxiv.org/abs/2411.02853, Algorithm 2.
 *
 * m = beta1 m + (1 - beta1) clip(g / max(sqrt(v), eps), c_t),  c_t = (t - 1)^(1/4)
 * p -= lr m
 * v = beta2 v + (1 - beta2) g^2,                               v = g^2 on the first step
 *
 * The paper counts steps from 0, and its step 0 sets only v.  Here this is step 1, whose c_t of 0 keeps m and p. */

static void FN(adopt_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adopt_hyper *h = in->hyper;
    FN(adopt_k) *k = scalars;
    k->lr = (T)h->lr;
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->eps_t = (T)(h->eps + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->clip = (T)sqrt(sqrt((double)(in->t - 1)));
    k->squares = FN(squares_of)(in->t == 1 ? 0 : h->beta2);
}

static void FN(adopt)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(adopt_state) *state = buffers;
    const FN(adopt_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T lr = k->lr, beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t, clip = k->clip;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T root = SQRT(v[i]), r = g[i] / (root < eps_t ? eps_t : root); /* each choice keeps NaN */
        const T raised = r < -clip ? -clip : r, clipped = raised > clip ? clip : raised;
        m[i] = beta1 * m[i] + rest1 * clipped;
        p[i] -= lr * m[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
    }
}

static void FN(adopt_catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n)
{
    const adopt_hyper *h = hyper;
    const FN(adopt_state) *state = buffers;
    FN(coast)(p, state->m, h->lr, h->beta1, skipped, n);
    FN(decay)(state->v, h->beta2, skipped, n);
}

static const FN(rule_ops) FN(adopt_ops) = {
    .scalars = FN(adopt_scalars),
    .update = FN(adopt),
    .catch_up = FN(adopt_catch_up),
};
