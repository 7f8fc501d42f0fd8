/* Row-wise Adagrad: Adagrad with one sum of squares for each row, as FBGEMM and TorchRec have it for embedding tables.
 * Adagrad: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning", 2011; by row: Gupta, Bengio &
 * Weston, "Training highly multiclass classifiers", 2014, section 3.6.
 *
 * G of a row += mean of g^2 over the row
 * p -= lr / (sqrt(G) + eps) g
 *
 * A vector has a G for each element, as in Adagrad.  A mean loses less than 2 SMALLEST because some squares count as 0.
 */

static void FN(rowwiseadagrad_scalars)(const fastopt_inputs *in, void *scalars)
{
    const rowwiseadagrad_hyper *h = in->hyper;
    FN(rowwiseadagrad_k) *k = scalars;
    k->lr = (T)h->lr;
    k->eps = (T)(h->eps + sqrt(2 * FN(lost_sum)(in->t)));
}

static void FN(rowwiseadagrad_row)(const void *buffers, double mean_square, void *scalars)
{
    const FN(rowwiseadagrad_state) *state = buffers;
    FN(rowwiseadagrad_k) *k = scalars;
    *state->G += (T)mean_square;
    const T rate = k->lr / (SQRT(*state->G) + k->eps);
    k->rate = MIN(rate, LARGEST);
}

static void FN(rowwiseadagrad)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                               ptrdiff_t n)
{
    const FN(rowwiseadagrad_k) *k = scalars;
    (void)buffers;
    const T rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] -= rate * g[i];
}

static const FN(rule_ops) FN(rowwiseadagrad_ops) = {
    .scalars = FN(rowwiseadagrad_scalars),
    .row = FN(rowwiseadagrad_row),
    .update = FN(rowwiseadagrad),
};

SAME_HYPER(rowwiseadagrad_vector, rowwiseadagrad);

static void FN(rowwiseadagrad_vector)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                      ptrdiff_t n)
{
    const FN(rowwiseadagrad_vector_state) *state = buffers;
    const FN(rowwiseadagrad_k) *k = scalars;
    T *restrict G = state->G;
    const T lr = k->lr, eps = k->eps;
    for (ptrdiff_t i = 0; i < n; i++) {
        G[i] += g[i] * g[i];
        p[i] -= lr * g[i] / (SQRT(G[i]) + eps);
    }
}

static const FN(rule_ops) FN(rowwiseadagrad_vector_ops) = {
    .scalars = FN(rowwiseadagrad_scalars),
    .update = FN(rowwiseadagrad_vector),
};
