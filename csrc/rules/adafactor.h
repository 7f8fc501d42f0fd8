/* Adafactor.  Shazeer & Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018,
 * https://arxiv.org/abs/1804.04235, in the form of torch.optim.
 *
 * beta = 1 - t^beta2_decay
 * R = beta R + (1 - beta) mean of g^2 over each row               both, for each matrix of the last two axes
 * C = beta C + (1 - beta) mean of g^2 over each column
 * v = R C / max(mean of R, eps1)
 * vectors    v = beta v + (1 - beta) g^2
 * u = g / max(sqrt(v), eps1)
 * p = (1 - lr weight_decay) p
 * p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) / max(1, rms(u) / d) u,  with rms(p) from before the decay */

/* 1 - beta */
static inline double FN(adafactor_rest)(const adafactor_hyper *h, int64_t t)
{
    return fastopt_exp(h->beta2_decay * fastopt_log((double)t));
}

static inline double FN(adafactor_eps)(const adafactor_hyper *h)
{
    return h->eps1 <= DBL_MAX ? h->eps1 : EPSILON;
}

/* eps1, or the smallest root beside which squares that count as 0 do not matter.  In a matrix, all of them may be in
 * one row or column of this length. */
static inline T FN(adafactor_least)(const adafactor_hyper *h, int64_t t, ptrdiff_t length)
{
    const double eps = FN(adafactor_eps)(h);
    const double least = 0x1p8 * sqrt((double)length * FN(lost_mean)(1 - FN(adafactor_rest)(h, t), t));
    return (T)(eps > least ? eps : least);
}

static inline T FN(adafactor_root)(T v, T least)
{
    const T root = SQRT(v);
    return least > root ? least : root;
}

static inline double FN(rms)(const fastopt_sum *sum, ptrdiff_t n)
{
    return fastopt_root(sum, (double)n);
}

/* The rate before it is divided by the size of u, from the size of p. */
static inline double FN(adafactor_alpha)(const adafactor_hyper *h, int64_t t, double size)
{
    const double slowing = 1 / sqrt((double)t), rho = h->lr < slowing ? h->lr : slowing;
    return MAX(size, h->eps2) * rho;
}

static inline T FN(adafactor_rate)(const adafactor_hyper *h, double alpha, double size)
{
    const double excess = size / h->d;
    return (T)(alpha / MAX(excess, 1));
}

static void FN(adafactor_scalars)(const fastopt_inputs *in, void *scalars)
{
    const adafactor_hyper *h = in->hyper;
    FN(adafactor_k) *k = scalars;
    k->eps = FN(adafactor_least)(h, in->t, 1);
    k->shrink = (T)(1 - h->lr * h->decay);
    k->squares = FN(squares_of)(1 - FN(adafactor_rest)(h, in->t));
}

static double FN(adafactor_decay_rate)(const void *hyper, const void *scalars)
{
    const adafactor_hyper *h = hyper;
    (void)scalars;
    return h->lr;
}

/* ---- Matrices ---- */

/* Indices in m->kept: 1 - beta, and the rate before it is divided by the size of u. */
enum { FN(ADAFACTOR_OF_SQUARES), FN(ADAFACTOR_ALPHA) };

/* Adds the mean of `count` squares to a running mean. */
static inline T FN(adafactor_mix)(T mean, double squares, ptrdiff_t count, double rest)
{
    return (T)((1 - rest) * (double)mean + rest * (squares / (double)count));
}

/* First pass: squares by row and by column, and the size of p. */
static void FN(adafactor_squares)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                  ptrdiff_t n, const fastopt_span *span)
{
    (void)scalars;
    const FN(adafactor_state) *state = buffers;
    const fastopt_matrices *m = span->tensor->engine.matrices;
    const double rest = m->kept[FN(ADAFACTOR_OF_SQUARES)];
    T *restrict R = state->R, *restrict C = state->C;
    double *restrict of_columns = span->of_columns;
    for (ptrdiff_t i = 0; i < n; i++)
        of_columns[i] += (double)g[i] * (double)g[i];
    *span->of_row += FN(sum_squares)(g, n);
    if (span->ends_row)
        *R = FN(adafactor_mix)(*R, *span->of_row, m->columns, rest);
    if (span->ends_columns)
        for (ptrdiff_t i = 0; i < n; i++)
            C[i] = FN(adafactor_mix)(C[i], of_columns[i], m->rows, rest);
    FN(add_squares)(&span->sums[0], p, n);
}

/* R / max(mean of R, eps1) */
static inline T FN(adafactor_share)(const FN(adafactor_state) *state, const fastopt_span *span)
{
    return (T)((double)*state->R / *span->of_matrix);
}

/* Second pass: the size of u. */
static void FN(adafactor_size)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                               ptrdiff_t n, const fastopt_span *span)
{
    (void)p;
    const FN(adafactor_state) *state = buffers;
    const FN(adafactor_k) *k = scalars;
    const T *restrict C = state->C;
    const T R = FN(adafactor_share)(state, span), eps = k->eps;
    T u[SPAN];
    for (ptrdiff_t i = 0; i < n; i++)
        u[i] = g[i] / FN(adafactor_root)(R * C[i], eps);
    FN(add_squares)(&span->sums[0], u, n);
}

static void FN(adafactor)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                          const fastopt_span *span)
{
    const FN(adafactor_state) *state = buffers;
    const FN(adafactor_k) *k = scalars;
    const T *restrict C = state->C;
    const T R = FN(adafactor_share)(state, span), eps = k->eps, shrink = k->shrink, rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = shrink * p[i] - rate * (g[i] / FN(adafactor_root)(R * C[i], eps));
}

static FN(pass) *const FN(adafactor_passes)[] = {FN(adafactor_squares), FN(adafactor_size), FN(adafactor)};

/* Adds squares, summed in `parts` parts, to n running means. */
static void FN(adafactor_mix_parts)(T *means, ptrdiff_t n, const double *squares, ptrdiff_t parts, ptrdiff_t count,
                                    double rest)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        double sum = 0;
        for (ptrdiff_t part = 0; part < parts; part++)
            sum += squares[part * n + i];
        means[i] = FN(adafactor_mix)(means[i], sum, count, rest);
    }
}

static void FN(adafactor_prepare)(const fastopt_tensor *tensor, fastopt_matrices *m, int pass_index,
                                  const fastopt_sum *sums, void *scalars)
{
    const adafactor_hyper *h = (const void *)tensor->hyper;
    const FN(adafactor_state) *state = (const void *)tensor->state;
    FN(adafactor_k) *k = scalars;
    const ptrdiff_t strips = m->strips / m->matrices; /* per matrix, if matrices are cut */
    if (pass_index == 0) {
        k->eps = FN(adafactor_least)(h, tensor->step, m->rows > m->columns ? m->rows : m->columns);
        m->kept[FN(ADAFACTOR_OF_SQUARES)] = FN(adafactor_rest)(h, tensor->step);
    } else if (pass_index == 1) {
        const double rest = m->kept[FN(ADAFACTOR_OF_SQUARES)], eps = MAX(FN(adafactor_eps)(h), DBL_MIN);
        for (ptrdiff_t i = 0; i < m->matrices; i++) {
            T *R = state->R + i * m->rows, *C = state->C + i * m->columns;
            if (m->of_rows)
                FN(adafactor_mix_parts)(R, m->rows, m->of_rows + i * m->column_tiles * m->rows, m->column_tiles,
                                        m->columns, rest);
            if (m->of_columns)
                FN(adafactor_mix_parts)(C, m->columns, m->of_columns + i * strips * m->columns, strips, m->rows, rest);
            double mean = 0;
            for (ptrdiff_t row = 0; row < m->rows; row++)
                mean += (double)R[row];
            mean /= (double)m->rows;
            m->of_matrices[i] = mean < eps ? eps : mean;
        }
        m->kept[FN(ADAFACTOR_ALPHA)] = FN(adafactor_alpha)(h, tensor->step, FN(rms)(&sums[0], fastopt_whole_n(tensor)));
    } else if (pass_index == 2) {
        k->rate = FN(adafactor_rate)(h, m->kept[FN(ADAFACTOR_ALPHA)], FN(rms)(&sums[0], fastopt_whole_n(tensor)));
    }
}

static const FN(rule_ops) FN(adafactor_ops) = {
    .scalars = FN(adafactor_scalars),
    .passes = FN(adafactor_passes),
    .prepare = FN(adafactor_prepare),
    .decay_rate = FN(adafactor_decay_rate),
};

/* ---- Vectors ---- */

SAME_HYPER(adafactor_vector, adafactor);

static void FN(adafactor_vector_gather)(const T *restrict p, const T *restrict g, const void *buffers,
                                        const void *scalars, ptrdiff_t n, fastopt_sum *sums)
{
    const FN(adafactor_vector_state) *state = buffers;
    const FN(adafactor_k) *k = scalars;
    T *restrict v = state->v;
    const T eps = k->eps;
    const FN(squares) squares = k->squares;
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        u[i] = g[i] / FN(adafactor_root)(v[i], eps);
    }
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], u, n);
}

static void FN(adafactor_vector_combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars)
{
    const adafactor_hyper *h = in->hyper;
    FN(adafactor_k) *k = scalars;
    const double alpha = FN(adafactor_alpha)(h, in->t, FN(rms)(&sums[0], in->n));
    k->rate = FN(adafactor_rate)(h, alpha, FN(rms)(&sums[1], in->n));
}

static void FN(adafactor_vector)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars,
                                 ptrdiff_t n)
{
    const FN(adafactor_vector_state) *state = buffers;
    const FN(adafactor_k) *k = scalars;
    const T *restrict v = state->v;
    const T eps = k->eps, shrink = k->shrink, rate = k->rate;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = shrink * p[i] - rate * (g[i] / FN(adafactor_root)(v[i], eps));
}

static const FN(rule_ops) FN(adafactor_vector_ops) = {
    .scalars = FN(adafactor_scalars),
    .gather = FN(adafactor_vector_gather),
    .combine = FN(adafactor_vector_combine),
    .update = FN(adafactor_vector),
    .decay_rate = FN(adafactor_decay_rate),
};
