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

static void FN(sm3_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[0] = (T)h[0];
    const int sums = h[2] == 1;
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = sums ? 1 : FN(keep)(h[2]);
    k[4] = sums ? 1 : FN(rest)(h[2]);
    k[5] = (T)(h[3] + (sums ? FN(lost_sum)(t) : FN(lost_mean)(h[2], t)));
    k[6] = (T)INFINITY;
}

/* The entries of mu of a row: one for each axis but the last.  Returns how many. */
static int FN(sm3_entries)(const fastopt_tensor *tensor, ptrdiff_t row, T **entries)
{
    const int leading = tensor->ndim - 1;
    T *mu = tensor->state[1];
    for (int axis = 0; axis < leading; mu += tensor->shape[axis++])
        entries[axis] = mu;
    for (int axis = leading - 1; axis >= 0; axis--) {
        entries[axis] += row % tensor->shape[axis];
        row /= tensor->shape[axis];
    }
    return leading;
}

/* The least of them. */
static T FN(sm3_least)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    T *entries[FASTOPT_MAX_NDIM], least = (T)INFINITY;
    const int leading = FN(sm3_entries)(tensor, row, entries);
    for (int axis = 0; axis < leading; axis++)
        least = MIN(least, *entries[axis]);
    return least;
}

static void FN(sm3)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n,
                    const fastopt_edges *edges)
{
    T *restrict m = state[0];
    const T *restrict mu = state[1];
    double *restrict columns = edges->of_columns;
    const T lr = k[0], beta = k[1], rest = k[2], b2 = k[3], w = k[4], eps = k[5], infinity = k[6];
    const T of_row = FN(sm3_least)(edges->tensor, edges->row);
    T nu[SPAN], lanes[LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++) {
        nu[i] = b2 * MIN(of_row, mu[i]) + w * (g[i] * g[i]);
        const T u = g[i] / SQRT((nu[i] == 0 ? infinity : nu[i]) + eps);
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
    *edges->of_row = MAX(*edges->of_row, (double)lanes[0]);
}

static const FN(pass_of) FN(sm3_passes)[] = {FN(sm3)};

static void FN(sm3_turn)(const fastopt_tensor *tensor, fastopt_matrices *m, int made, const fastopt_sum *sums, T *k)
{
    (void)sums, (void)k;
    if (made == 0)
        return;
    const ptrdiff_t all = fastopt_state_size(tensor->rule, 1, tensor->ndim, tensor->shape);
    T *mu = tensor->state[1], *last = mu + all - m->columns, *entries[FASTOPT_MAX_NDIM];
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

static void FN(sm3_vector_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(sm3_scalars)(h, decays, t, carry, k);
}

static void FN(sm3_vector)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                           ptrdiff_t n)
{
    T *restrict m = state[0], *restrict mu = state[1];
    const T lr = k[0], beta = k[1], rest = k[2], b2 = k[3], w = k[4], eps = k[5], infinity = k[6];
    for (ptrdiff_t i = 0; i < n; i++) {
        mu[i] = b2 * mu[i] + w * (g[i] * g[i]);
        const T u = g[i] / SQRT((mu[i] == 0 ? infinity : mu[i]) + eps);
        m[i] = beta * m[i] + rest * u;
        p[i] -= lr * m[i];
    }
}
