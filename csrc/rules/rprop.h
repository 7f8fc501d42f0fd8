/* Rprop.  Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
 * 1993; without weight backtracking: Igel & Huesken, "Improving the Rprop learning algorithm", 2000, iRprop-.
 *
 * g prev > 0    step = min(step eta_plus, step_max)
 * g prev < 0    step = max(step eta_minus, step_min);  g = 0, so that the next gradient finds no change of sign
 * p -= sign(g) step
 * prev = g
 *
 * Steps start from the learning rate, which is not read again.  The loop multiplies signs, not gradients, whose product
 * may underflow. */

/* MAX and ?: copy a number without arithmetic, which may or may not flush a subnormal. */
static inline T FN(flushed)(double x)
{
    return (T)x < SMALLEST ? 0 : (T)x;
}

static void FN(rprop_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rprop_hyper *h = in->hyper;
    FN(rprop_k) *k = scalars;
    k->lr = FN(flushed)(h->lr);
    k->eta_minus = FN(flushed)(h->eta_minus);
    k->eta_plus = FN(flushed)(h->eta_plus);
    k->step_min = FN(flushed)(h->step_min);
    k->step_max = FN(flushed)(h->step_max);
    k->first = in->t == 1;
    k->zero = 0;
}

static void FN(rprop)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(rprop_state) *state = buffers;
    const FN(rprop_k) *k = scalars;
    T *restrict prev = state->prev, *restrict step = state->step_size;
    const T lr = k->lr, eta_minus = k->eta_minus, eta_plus = k->eta_plus, step_min = k->step_min,
            step_max = k->step_max, first = k->first, zero = k->zero;
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            step[i] = lr;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T sign = (T)(g[i] > 0) - (T)(g[i] < 0), before = (T)(prev[i] > 0) - (T)(prev[i] < 0);
        const T change = sign * before;
        const T grown = change > 0 ? eta_plus : 1, eta = change < 0 ? eta_minus : grown;
        const T raised = MAX(step[i] * eta, step_min);
        step[i] = raised > step_max ? step_max : raised;
        p[i] -= (change < 0 ? 0 : sign) * step[i];
        prev[i] = change < 0 ? 0 : g[i] - zero; /* unlike a copy, this flushes subnormals */
    }
}

static const FN(rule_ops) FN(rprop_ops) = {
    .scalars = FN(rprop_scalars),
    .update = FN(rprop),
};
