/* The rules, the stages, and the way of a block through them, for one T.  Included twice by kernels.inl.h. */
#include "catch_up.h"
#include "means.h"
#include "stages.h"
#include "traffic.h"

/* The state and the scalars of each rule, by the names in its row. */
#define S(x)       T *x;
#define K(x)       T x;
#define SQUARES(x) FN(squares) x;
#define PART(x)    FN(x##_k) x;
#define RULE(name, state, hyper, carry, scalars, ...)                                                                  \
    typedef struct {                                                                                                   \
        state char end; /* no struct is empty */                                                                       \
    } FN(name##_state);                                                                                                \
    typedef struct {                                                                                                   \
        scalars                                                                                                        \
    } FN(name##_k);                                                                                                    \
    _Static_assert(sizeof(FN(name##_k)) <= FASTOPT_MAX_SCALARS * sizeof(T), #name " has too many scalars");
#include "rules.def"
#undef RULE
#undef S
#undef K
#undef SQUARES
#undef PART

/* For rules that share the functions of another one, whose hyperparameters theirs must be, or begin with. */
#define SAME_HYPER(rule, other) _Static_assert(sizeof(rule##_hyper) == sizeof(other##_hyper), #rule " and " #other)
#define BEGINS_WITH(rule, other, last)                                                                                 \
    _Static_assert(offsetof(rule##_hyper, last) == offsetof(other##_hyper, last), #rule " and " #other)

typedef void FN(update_of)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n);
typedef void FN(pass)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                      const fastopt_edges *edges);

/* What a rule does.  `buffers` points to the struct of its state, `scalars` to that of its scalars, `hyper` to that of
 * its hyperparameters.
 *
 * scalars   computes the scalars of a step
 * update    the loop of the step; of a rule that gathers, its second pass
 * gather    the first pass of a rule that gathers: adds to its sums
 * combine   completes the scalars of such a rule from its sums
 * passes    the passes of a rule of matrices over a span, one after the other
 * prepare   prepares the next pass of such a rule from the results of the passes so far
 * catch_up  makes up for steps whose gradient was 0; NULL where nothing moves in them */
typedef struct {
    void (*scalars)(const fastopt_inputs *in, void *scalars);
    FN(update_of) *update;
    void (*gather)(const T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n,
                   fastopt_sum *sums);
    void (*combine)(const fastopt_inputs *in, const fastopt_sum *sums, void *scalars);
    FN(pass) *const *passes;
    void (*prepare)(const fastopt_tensor *tensor, fastopt_matrices *m, int made, const fastopt_sum *sums,
                    void *scalars);
    void (*catch_up)(T *restrict p, const void *buffers, const void *hyper, int64_t skipped, ptrdiff_t n);
} FN(rule_ops);

#define RULE_FILES
#include "rules.def"
#undef RULE_FILES

static const FN(rule_ops) *FN(ops_of)(const fastopt_tensor *tensor)
{
#define RULE(name, ...) &FN(name##_ops),
    static const FN(rule_ops) *const ops[RULES] = {
#include "rules.def"
    };
#undef RULE
    return ops[tensor->rule->index];
}

static fastopt_inputs FN(inputs_of)(const fastopt_tensor *tensor)
{
    return (fastopt_inputs){tensor->hyper, tensor->decays, tensor->step, tensor->carry, tensor->n};
}

static void FN(scalars)(fastopt_tensor *tensor)
{
    const fastopt_inputs in = FN(inputs_of)(tensor);
    FN(ops_of)(tensor)->scalars(&in, tensor->engine.K_STORE);
}

static void FN(combine)(fastopt_tensor *tensor, const fastopt_sum *sums)
{
    const fastopt_inputs in = FN(inputs_of)(tensor);
    if (FN(ops_of)(tensor)->combine)
        FN(ops_of)(tensor)->combine(&in, sums, tensor->engine.K_STORE);
}

static void FN(prepare)(fastopt_tensor *tensor, int made, const fastopt_sum *sums)
{
    FN(ops_of)(tensor)->prepare(tensor, tensor->engine.matrices, made, sums, tensor->engine.K_STORE);
}

/* Elements at to at + n of a tensor, the way a rule sees them: in its own memory where that can be, in the scratch
 * where anything has to be done first. */
typedef struct {
    ptrdiff_t at, n; /* where in the memory of p and of the state */
    T *p;
    const T *g;
    T *state[FASTOPT_MAX_STATE];
    T p_scratch[BLOCK], g_scratch[BLOCK];
} FN(block);

/* Elements at to at + n, of one row, make up for the steps that it has missed. */
static void FN(make_up)(const fastopt_tensor *tensor, ptrdiff_t at, ptrdiff_t n)
{
    const int64_t skipped = tensor->step - 1 - tensor->seen[at / tensor->row_length];
    if (skipped <= 0 || !FN(ops_of)(tensor)->catch_up)
        return;
    T *state[FASTOPT_MAX_STATE];
    for (int s = 0; tensor->rule->state[s]; s++)
        state[s] = (T *)tensor->state[s] + at;
    FN(ops_of)(tensor)->catch_up((T *)tensor->p + at, state, tensor->hyper, skipped, n);
}

static void FN(catch_up)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t at = begin, n; at < end; at += n) {
        n = tensor->row_length - at % tensor->row_length;
        if (n > end - at)
            n = end - at;
        FN(make_up)(tensor, at, n);
    }
}

/* The gradient from element at on, in another format. */
NOINLINE static const T *FN(load_other)(const fastopt_tensor *tensor, ptrdiff_t at, ptrdiff_t n, T *scratch)
{
    const ptrdiff_t size = (ptrdiff_t)fastopt_format_size(tensor->g_format);
    if (tensor->layout)
        FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, at, n, LOAD,
                         tensor->g_format);
    else
        FN(convert)(scratch, (const char *)tensor->g + at * size, size, n, tensor->g_format);
    return scratch;
}

/* The gradient from element at on, of up to n elements; it may be of fewer, which n then says. */
static const T *FN(load_g)(const fastopt_tensor *tensor, ptrdiff_t at, ptrdiff_t *n, T *scratch)
{
    if (tensor->rows) {
        const ptrdiff_t row = at / tensor->row_length, column = at - row * tensor->row_length;
        if (*n > tensor->row_length - column)
            *n = tensor->row_length - column;
        return (const T *)tensor->row_gradients[row] + column;
    }
    if (tensor->g_format)
        return FN(load_other)(tensor, at, *n, scratch);
    if (!tensor->layout)
        return (const T *)tensor->g + at;
    FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, at, *n, LOAD, 0);
    return scratch;
}

/* Rows lie anywhere: the first lines of one are fetched while some before it are updated. */
static void FN(prefetch)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    if (row * tensor->row_length >= tensor->n)
        return;
    const size_t size = (size_t)tensor->row_length * sizeof(T), fetched = size < FETCHED ? size : FETCHED;
    const size_t at = (size_t)tensor->rows[row] * size;
    if (tensor->seen)
        PREFETCH(&tensor->seen[tensor->rows[row]]);
    fetch(tensor->row_gradients[row], fetched);
    fetch((const char *)tensor->p + at, fetched);
    for (int s = 0; tensor->rule->state[s]; s++)
        fetch((const char *)tensor->state[s] + at, fetched);
}

static void FN(load)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages, ptrdiff_t at,
                     ptrdiff_t n)
{
    block->at = at;
    block->n = n;
    block->g = FN(load_g)(tensor, at, &block->n, block->g_scratch);
    if (tensor->rows) {
        const ptrdiff_t row = at / tensor->row_length;
        block->at = ((ptrdiff_t)tensor->rows[row] - row) * tensor->row_length + at;
        if (at == row * tensor->row_length)
            FN(prefetch)(tensor, row + AHEAD);
    }
    if (tensor->engine.behind) {
        const ptrdiff_t left = tensor->row_length - block->at % tensor->row_length;
        if (block->n > left)
            block->n = left;
        if (tensor->seen)
            FN(make_up)(tensor, block->at, block->n);
    }
    block->p = (T *)tensor->p + block->at;
    if (tensor->layout) {
        block->p = block->p_scratch;
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, at, n, LOAD, 0);
    }
    for (int s = 0; tensor->rule->state[s]; s++)
        block->state[s] = (T *)tensor->state[s] + (tensor->rule->extent[s] == FASTOPT_WHOLE ? block->at : 0);
    if (stages->on_g) {
        FN(stage_g)(block->g_scratch, block->g, block->p, stages, block->n);
        block->g = block->g_scratch;
    }
}

static void FN(zero_g)(const fastopt_tensor *tensor, ptrdiff_t at, ptrdiff_t n, T *scratch)
{
    const size_t size = tensor->g_format ? fastopt_format_size(tensor->g_format) : sizeof(T);
    if (!tensor->layout) {
        memset((char *)tensor->g + (size_t)at * size, 0, (size_t)n * size);
        return;
    }
    memset(scratch, 0, (size_t)n * sizeof(T));
    FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, at, n, STORE,
                     tensor->g_format);
}

/* What comes after the rule. */
static inline void FN(finish)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages)
{
    if (stages->after)
        FN(stage_averages)(block->p, tensor, stages, block->at, block->n);
    if (tensor->layout)
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, block->at, block->n, STORE, 0);
    if (stages->zero)
        FN(zero_g)(tensor, block->at, block->n, block->g_scratch);
}

/* A pass that leaves p as it is sees it as the last pass will, which writes it. */
static void FN(stage_p_apart)(FN(block) *block, const FN(stages) *stages)
{
    memcpy(block->p_scratch, block->p, (size_t)block->n * sizeof(T));
    block->p = block->p_scratch;
    FN(stage_p)(block->p, stages, block->n);
}

/* Rows with nothing around the rule, each in the memory of the caller. */
static void FN(update_rows)(const fastopt_tensor *tensor, FN(update_of) *loop, ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t length = tensor->row_length;
    ptrdiff_t row = begin / length, column = begin % length;
    for (ptrdiff_t at = begin, n; at < end; at += n, row++, column = 0) {
        n = length - column < end - at ? length - column : end - at;
        FN(prefetch)(tensor, row + AHEAD);
        const ptrdiff_t to = (ptrdiff_t)tensor->rows[row] * length + column;
        T *state[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            state[s] = (T *)tensor->state[s] + to;
        loop((T *)tensor->p + to, (const T *)tensor->row_gradients[row] + column, state, tensor->engine.k, n);
    }
}

static void FN(update)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end)
{
    FN(update_of) *const loop = FN(ops_of)(tensor)->update;
    const T *k = tensor->engine.k;
    FN(block) block;
    if (FN(no_stages)(tensor, pass)) {
        if (tensor->rows) {
            FN(update_rows)(tensor, loop, begin, end);
            return;
        }
        for (int s = 0; tensor->rule->state[s]; s++)
            block.state[s] = (T *)tensor->state[s] + begin;
        loop((T *)tensor->p + begin, (const T *)tensor->g + begin, block.state, k, end - begin);
        return;
    }
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    for (ptrdiff_t at = begin; at < end; at += block.n) {
        FN(load)(&block, tensor, &stages, at, end - at < STRIP ? end - at : STRIP);
        if (stages.before)
            FN(stage_missed)(block.p, tensor, &stages, block.at, block.n);
        if (stages.on_p)
            FN(stage_p)(block.p, &stages, block.n);
        loop(block.p, block.g, block.state, k, block.n);
        FN(finish)(&block, tensor, &stages);
    }
}

/* Averages of a parameter that is not stepped take it in as it is. */
static void FN(average)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    FN(rates) rates = FN(rates_of)(tensor, tensor->averaged, tensor->round);
    T scratch[BLOCK];
    for (ptrdiff_t at = begin, n; at < end; at += n) {
        n = end - at < BLOCK ? end - at : BLOCK;
        if (tensor->averaged_rows) {
            const ptrdiff_t row = at / tensor->row_length, left = (row + 1) * tensor->row_length - at;
            rates = FN(rates_of)(tensor, tensor->averaged_rows[row], tensor->round);
            n = n < left ? n : left;
        }
        const T *p = (const T *)tensor->p + at;
        if (tensor->layout) {
            FN(copy_strided)(scratch, tensor->p, tensor->layout, tensor->layout->p_stride, at, n, LOAD, 0);
            p = scratch;
        }
        FN(take_in)(tensor, rates, p, at, n);
    }
}

static void FN(gather)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end,
                       fastopt_sum *sums)
{
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    FN(block) block;
    for (ptrdiff_t at = begin; at < end; at += block.n) {
        FN(load)(&block, tensor, &stages, at, end - at < BLOCK ? end - at : BLOCK);
        if (stages.on_p)
            FN(stage_p_apart)(&block, &stages);
        FN(ops_of)(tensor)->gather(block.p, block.g, block.state, tensor->engine.k, block.n, sums);
    }
}

static void FN(norm)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end, fastopt_sum *sum)
{
    T scratch[BLOCK];
    for (ptrdiff_t at = begin, n; at < end; at += n) {
        n = end - at < BLOCK ? end - at : BLOCK;
        const T *g = FN(load_g)(tensor, at, &n, scratch);
        FN(add_squares)(sum, g, n);
    }
}

static int FN(finite)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    T scratch[BLOCK];
    for (ptrdiff_t at = begin, n; at < end; at += n) {
        n = end - at < BLOCK ? end - at : BLOCK;
        const T *g = FN(load_g)(tensor, at, &n, scratch);
        int bad = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            bad |= !(ABS(g[i]) <= LARGEST);
        if (bad)
            return 0;
    }
    return 1;
}

static void FN(tile)(const fastopt_tensor *tensor, const fastopt_pass *pass, int made, ptrdiff_t tile,
                     fastopt_sum *sums)
{
    FN(pass) *const make = FN(ops_of)(tensor)->passes[made];
    const fastopt_matrices *m = tensor->engine.matrices;
    const int last = made == tensor->rule->passes - 1;
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    FN(block) block;

    const ptrdiff_t strip = tile / m->column_tiles, column_tile = tile % m->column_tiles;
    const ptrdiff_t first = column_tile * TILE_COLUMNS;
    const ptrdiff_t width = first + TILE_COLUMNS < m->columns ? TILE_COLUMNS : m->columns - first;
    const ptrdiff_t begin = fastopt_strip_begin(m, strip), end = fastopt_strip_begin(m, strip + 1);
    /* Short rows are loaded several at a time. */
    const ptrdiff_t at_once = m->columns < SPAN ? SPAN / m->columns : 1;
    double columns[TILE_COLUMNS], of_row;
    double *of_columns = m->of_columns ? m->of_columns + strip * m->columns + first : columns;
    memset(of_columns, 0, (size_t)width * sizeof *columns);
    fastopt_edges edges = {.tensor = tensor, .sums = sums};
    ptrdiff_t matrix = begin / m->rows, place = begin % m->rows; /* of a row in its matrix */

    for (ptrdiff_t row = begin, rows; row < end; row += rows) {
        rows = at_once < end - row ? at_once : end - row;
        for (ptrdiff_t at = 0; at < width; at += SPAN) {
            const ptrdiff_t n = width - at < SPAN ? width - at : SPAN, column = first + at;
            FN(load)(&block, tensor, &stages, row * m->columns + column, rows * n);
            if (stages.before && last)
                FN(stage_missed)(block.p, tensor, &stages, block.at, block.n);
            if (stages.on_p && last)
                FN(stage_p)(block.p, &stages, rows * n);
            else if (stages.on_p)
                FN(stage_p_apart)(&block, &stages);
            for (ptrdiff_t i = 0; i < rows; i++) {
                T *state[FASTOPT_MAX_STATE];
                for (int s = 0; tensor->rule->state[s]; s++) {
                    const fastopt_extent extent = tensor->rule->extent[s];
                    state[s] = block.state[s] + (extent == FASTOPT_WHOLE     ? i * n
                                                 : extent == FASTOPT_ROWS    ? row + i
                                                 : extent == FASTOPT_COLUMNS ? matrix * m->columns + column
                                                                             : m->last_axis + column);
                }
                edges.row = row + i;
                edges.of_matrix = m->of_matrices ? m->of_matrices + matrix : NULL;
                edges.of_row =
                    m->of_rows ? m->of_rows + (matrix * m->column_tiles + column_tile) * m->rows + place : &of_row;
                if (at == 0)
                    *edges.of_row = 0;
                edges.of_columns = of_columns + at;
                edges.ends_row = !m->of_rows && at + n == width;
                edges.ends_columns = !m->of_columns && place == m->rows - 1;
                make(block.p + i * n, block.g + i * n, state, tensor->engine.k, n, &edges);
                if (at + n == width && ++place == m->rows) {
                    place = 0;
                    matrix++;
                    if (!m->of_columns)
                        memset(columns, 0, (size_t)width * sizeof *columns);
                }
            }
            if (last)
                FN(finish)(&block, tensor, &stages);
        }
    }
}
