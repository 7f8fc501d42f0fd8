/* Rprop.  Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
 * 1993; without weight backtracking: Igel & Huesken, "Improving the Rprop learning algorithm", 2000, iRprop-.
 *
 * g prev > 0    step = min(step eta_plus, step_max)
 * g prev < 0    step = max(step eta_minus, step_min);  g = 0, so that the next gradient finds no change of sign
 * p -= sign(g) step
 * prev = g
 *
 * Steps start from the learning rate, which is not read again.  Signs are compared, not multiplied gradients, whose
 * product may be too small for its type. */

static void FN(rprop_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    for (int i = 0; i < 5; i++) {
        k[i] = (T)h[i];
        if (k[i] < SMALLEST) /* a subnormal that is picked, not computed with, would stay one or not */
            k[i] = 0;
    }
    k[5] = t == 1;
    k[6] = 0;
}

static void FN(rprop)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict prev = state[0], *restrict step = state[1];
    const T lr = k[0], eta_minus = k[1], eta_plus = k[2], step_min = k[3], step_max = k[4], first = k[5], zero = k[6];
    if (first != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            step[i] = lr;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T sign = (T)(g[i] > 0) - (T)(g[i] < 0), before = (T)(prev[i] > 0) - (T)(prev[i] < 0);
        const T turn = sign * before;
        const T grown = turn > 0 ? eta_plus : 1, eta = turn < 0 ? eta_minus : grown;
        const T raised = MAX(step[i] * eta, step_min);
        step[i] = raised > step_max ? step_max : raised;
        p[i] -= (turn < 0 ? 0 : sign) * step[i];
        prev[i] = turn < 0 ? 0 : g[i] - zero; /* which flushes subnormals, as a copy would not */
    }
}
