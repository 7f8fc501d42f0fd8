/* SM3-II.  Anil, Gupta, Koren & Singer, "Memory-efficient adaptive optimization", 2019,
 * https://arxiv.org/abs/1901.11150, with the momentum of the authors' code, as in optax.
 *
 * nu = b2 min over the axes of mu + w g^2,          w = 1 - b2, but 1 where b2 is 1
 * mu of each axis = max of nu over all the others
 * u = g / sqrt(nu + eps),                           0 where nu is 0
 * m = momentum m + (1 - momentum) u
 * p -= lr m
 *
 * A vector has one mu for each element, which is nu. */

static void FN(sm3_scalars)(const fastopt_inputs *in, void *scalars)
{
    const sm3_hyper *h = in->hyper;
    FN(sm3_k) *k = scalars;
    k->lr = (T)h->lr;
    const int sums = h->b2 == 1;
    k->beta = FN(keep)(h->momentum);
    k->rest = FN(rest)(h->momentum);
    k->b2 = sums ? 1 : FN(keep)(h->b2);
    k->w = sums ? 1 : FN(rest)(h->b2);
    k->eps = (T)(h->eps + (sums ? FN(lost_sum)(in->t) : FN(lost_mean)(h->b2, in->t)));
    k->infinity = (T)INFINITY;
    k->zero = 0; /* a variable: compilers would build the constant again in each iteration */
}

/* The entries of mu for a row: one for each axis but the last.  Returns their number. */
static int FN(sm3_entries)(const fastopt_tensor *tensor, ptrdiff_t row, T **entries)
{
    const int leading = tensor->ndim - 1;
    T *mu = ((const FN(sm3_state) *)(const void *)tensor->state)->mu;
    for (int axis = 0; axis < leading; mu += tensor->shape[axis++])
        entries[axis] = mu;
    for (int axis = leading - 1; axis >= 0; axis--) {
        entries[axis] += row % tensor->shape[axis];
        row /= tensor->shape[axis];
    }
    return leading;
}

/* The smallest of these entries. */
static T FN(sm3_least)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    T *entries[FASTOPT_MAX_NDIM], least = (T)INFINITY;
    const int leading = FN(sm3_entries)(tensor, row, entries);
    for (int axis = 0; axis < leading; axis++)
        least = MIN(least, *entries[axis]);
    return least;
}

static void FN(sm3)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                    const fastopt_span *span)
{
    const FN(sm3_state) *state = buffers;
    const FN(sm3_k) *k = scalars;
    T *restrict m = state->m;
    const T *restrict mu = state->mu;
    double *restrict columns = span->of_columns;
    const T lr = k->lr, beta = k->beta, rest = k->rest, b2 = k->b2, w = k->w, eps = k->eps, infinity = k->infinity,
            zero = k->zero;
    const T of_row = FN(sm3_least)(span->tensor, span->row);
    T nu[SPAN], lanes[LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++) {
        nu[i] = b2 * MIN(of_row, mu[i]) + w * (g[i] * g[i]);
        const T root = SQRT(nu[i] + eps), u = g[i] / (nu[i] == zero ? infinity : root);
        m[i] = beta * m[i] + rest * u;
        p[i] -= lr * m[i];
    }
    for (ptrdiff_t i = 0; i < n; i++)
        columns[i] = MAX(columns[i], (double)nu[i]);
    const ptrdiff_t whole = n - n % LANES;
    for (ptrdiff_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = MAX(lanes[lane], nu[i + lane]);
    for (ptrdiff_t i = whole; i < n; i++)
        lanes[0] = MAX(lanes[0], nu[i]);
    for (int lane = 1; lane < LANES; lane++)
        lanes[0] = MAX(lanes[0], lanes[lane]);
    *span->of_row = MAX(*span->of_row, (double)lanes[0]);
}

static FN(pass) *const FN(sm3_passes)[] = {FN(sm3)};

static void FN(sm3_prepare)(const fastopt_tensor *tensor, fastopt_matrices *m, int pass_index, const fastopt_sum *sums,
                            void *scalars)
{
    (void)sums, (void)scalars;
    if (pass_index == 0)
        return;
    const ptrdiff_t all = m->last_axis + m->columns;
    T *mu = ((const FN(sm3_state) *)(const void *)tensor->state)->mu, *last = mu + m->last_axis,
      *entries[FASTOPT_MAX_NDIM];
    memset(mu, 0, (size_t)all * sizeof(T));
    for (ptrdiff_t row = 0; row < m->matrices * m->rows; row++) {
        const double *of_tiles = m->of_rows + row / m->rows * m->column_tiles * m->rows + row % m->rows;
        T largest = 0;
        for (ptrdiff_t tile = 0; tile < m->column_tiles; tile++)
            largest = MAX(largest, (T)of_tiles[tile * m->rows]);
        const int leading = FN(sm3_entries)(tensor, row, entries);
        for (int axis = 0; axis < leading; axis++)
            *entries[axis] = MAX(*entries[axis], largest);
    }
    for (ptrdiff_t strip = 0; strip < m->strips; strip++)
        for (ptrdiff_t i = 0; i < m->columns; i++)
            last[i] = MAX(last[i], (T)m->of_columns[strip * m->columns + i]);
}

static const FN(rule_ops) FN(sm3_ops) = {
    .scalars = FN(sm3_scalars),
    .passes = FN(sm3_passes),
    .prepare = FN(sm3_prepare),
};

SAME_HYPER(sm3_vector, sm3);

static void FN(sm3_vector)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(sm3_vector_state) *state = buffers;
    const FN(sm3_k) *k = scalars;
    T *restrict m = state->m, *restrict mu = state->mu;
    const T lr = k->lr, beta = k->beta, rest = k->rest, b2 = k->b2, w = k->w, eps = k->eps, infinity = k->infinity,
            zero = k->zero;
    for (ptrdiff_t i = 0; i < n; i++) {
        mu[i] = b2 * mu[i] + w * (g[i] * g[i]);
        const T root = SQRT(mu[i] + eps), u = g[i] / (mu[i] == zero ? infinity : root);
        m[i] = beta * m[i] + rest * u;
        p[i] -= lr * m[i];
    }
}

static const FN(rule_ops) FN(sm3_vector_ops) = {
    .scalars = FN(sm3_scalars),
    .update = FN(sm3_vector),
};
