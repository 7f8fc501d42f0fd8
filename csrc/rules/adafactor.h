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

enum { FN(ADAFACTOR_EPS), FN(ADAFACTOR_SHRINK), FN(ADAFACTOR_RATE), FN(ADAFACTOR_SQUARES) };

/* 1 - beta */
static inline double FN(adafactor_rest)(const double *h, int64_t t)
{
    return fastopt_exp(h[1] * fastopt_log((double)t));
}

static inline double FN(adafactor_eps)(const double *h)
{
    return h[2] <= DBL_MAX ? h[2] : EPSILON;
}

/* eps1, or the least root beside which the squares that count as 0 do not show.  Those of a matrix may be of one row or
 * column, `length` times as large as the mean. */
static inline T FN(adafactor_least)(const double *h, int64_t t, ptrdiff_t length)
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

/* From the size of p: the rate before the size of u divides it. */
static inline double FN(adafactor_alpha)(const double *h, int64_t t, double size)
{
    const double slowing = 1 / sqrt((double)t), rho = h[0] < slowing ? h[0] : slowing;
    return MAX(size, h[3]) * rho;
}

static inline T FN(adafactor_rate)(const double *h, double alpha, double size)
{
    const double excess = size / h[4];
    return (T)(alpha / MAX(excess, 1));
}

static void FN(adafactor_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)carry;
    k[FN(ADAFACTOR_EPS)] = FN(adafactor_least)(h, t, 1);
    k[FN(ADAFACTOR_SHRINK)] = (T)(1 - h[0] * h[5]);
    FN(set_squares)(1 - FN(adafactor_rest)(h, t), k + FN(ADAFACTOR_SQUARES));
}

/* ---- Matrices ---- */

/* What a step keeps: 1 - beta, and the rate before the size of u is known. */
enum { FN(ADAFACTOR_OF_SQUARES), FN(ADAFACTOR_ALPHA) };

/* Takes the mean of `count` squares into a running mean. */
static inline T FN(adafactor_mix)(T mean, double squares, ptrdiff_t count, double rest)
{
    return (T)((1 - rest) * (double)mean + rest * (squares / (double)count));
}

/* First pass: squares by row and by column, and the size of p. */
static void FN(adafactor_squares)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                  ptrdiff_t n, const fastopt_edges *edges)
{
    (void)k;
    const fastopt_matrices *m = edges->tensor->engine.matrices;
    const double rest = m->kept[FN(ADAFACTOR_OF_SQUARES)];
    T *restrict R = state[0], *restrict C = state[1];
    double *restrict of_columns = edges->of_columns;
    for (ptrdiff_t i = 0; i < n; i++)
        of_columns[i] += (double)g[i] * (double)g[i];
    *edges->of_row += FN(sum_squares)(g, n);
    if (edges->ends_row)
        *R = FN(adafactor_mix)(*R, *edges->of_row, m->columns, rest);
    if (edges->ends_columns)
        for (ptrdiff_t i = 0; i < n; i++)
            C[i] = FN(adafactor_mix)(C[i], of_columns[i], m->rows, rest);
    FN(add_squares)(&edges->sums[0], p, n);
}

/* R / max(mean of R, eps1) */
static inline T FN(adafactor_share)(T *const *state, const fastopt_edges *edges)
{
    return (T)((double)*state[0] / *edges->of_matrix);
}

/* Second pass: the size of u. */
static void FN(adafactor_size)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                               ptrdiff_t n, const fastopt_edges *edges)
{
    (void)p;
    const T *restrict C = state[1];
    const T R = FN(adafactor_share)(state, edges), eps = k[FN(ADAFACTOR_EPS)];
    T u[SPAN];
    for (ptrdiff_t i = 0; i < n; i++)
        u[i] = g[i] / FN(adafactor_root)(R * C[i], eps);
    FN(add_squares)(&edges->sums[0], u, n);
}

static void FN(adafactor)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                          ptrdiff_t n, const fastopt_edges *edges)
{
    const T *restrict C = state[1];
    const T R = FN(adafactor_share)(state, edges), eps = k[FN(ADAFACTOR_EPS)], shrink = k[FN(ADAFACTOR_SHRINK)],
            rate = k[FN(ADAFACTOR_RATE)];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = shrink * p[i] - rate * (g[i] / FN(adafactor_root)(R * C[i], eps));
}

static const FN(pass_of) FN(adafactor_passes)[] = {FN(adafactor_squares), FN(adafactor_size), FN(adafactor)};

/* Mixes squares that were summed in `parts` parts into n running means. */
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

static void FN(adafactor_turn)(const fastopt_tensor *tensor, fastopt_matrices *m, int made, const fastopt_sum *sums,
                               T *k)
{
    const double *h = tensor->hyper;
    const ptrdiff_t strips = m->strips / m->matrices; /* where they are of a part of a matrix */
    if (made == 0) {
        k[FN(ADAFACTOR_EPS)] = FN(adafactor_least)(h, tensor->step, m->rows > m->columns ? m->rows : m->columns);
        m->kept[FN(ADAFACTOR_OF_SQUARES)] = FN(adafactor_rest)(h, tensor->step);
    } else if (made == 1) {
        const double rest = m->kept[FN(ADAFACTOR_OF_SQUARES)], eps = MAX(FN(adafactor_eps)(h), DBL_MIN);
        for (ptrdiff_t i = 0; i < m->matrices; i++) {
            T *R = (T *)tensor->state[0] + i * m->rows, *C = (T *)tensor->state[1] + i * m->columns;
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
        m->kept[FN(ADAFACTOR_ALPHA)] = FN(adafactor_alpha)(h, tensor->step, FN(rms)(&sums[0], tensor->n));
    } else if (made == 2) {
        k[FN(ADAFACTOR_RATE)] = FN(adafactor_rate)(h, m->kept[FN(ADAFACTOR_ALPHA)], FN(rms)(&sums[0], tensor->n));
    }
}

/* ---- Vectors ---- */

static void FN(adafactor_vector_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    FN(adafactor_scalars)(h, decays, t, carry, k);
}

static void FN(adafactor_vector_gather)(const T *restrict p, const T *restrict g, T *const *restrict state,
                                        const T *restrict k, ptrdiff_t n, fastopt_sum *sums)
{
    T *restrict v = state[0];
    const T eps = k[FN(ADAFACTOR_EPS)];
    const FN(squares) squares = FN(squares_at)(k + FN(ADAFACTOR_SQUARES));
    T u[BLOCK];
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = FN(take)(v[i], g[i] * g[i], squares);
        u[i] = g[i] / FN(adafactor_root)(v[i], eps);
    }
    FN(add_squares)(&sums[0], p, n);
    FN(add_squares)(&sums[1], u, n);
}

static void FN(adafactor_vector_combine)(const double *h, const fastopt_decay *decays, int64_t t,
                                         const fastopt_sum *sums, ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)carry;
    const double alpha = FN(adafactor_alpha)(h, t, FN(rms)(&sums[0], n));
    k[FN(ADAFACTOR_RATE)] = FN(adafactor_rate)(h, alpha, FN(rms)(&sums[1], n));
}

static void FN(adafactor_vector)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                                 ptrdiff_t n)
{
    const T *restrict v = state[0];
    const T eps = k[FN(ADAFACTOR_EPS)], shrink = k[FN(ADAFACTOR_SHRINK)], rate = k[FN(ADAFACTOR_RATE)];
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = shrink * p[i] - rate * (g[i] / FN(adafactor_root)(v[i], eps));
}
