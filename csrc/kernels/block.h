/* The way of a block: load, stages, rule, stages, store. */

/* Scratch for p, g, p before the rule, and each state buffer of a block.  Two that began at the same place of a page
 * would slow down each other's loads; a state buffer can have whole groups around the block. */
enum { FN(SCRATCHES) = 3 + FASTOPT_MAX_STATE };
#define SCRATCH_SIZE(n) ((n) + 4 * GROUP)

/* n elements of a tensor as the rule sees them: in the memory of the caller where possible, in scratch where stages
 * come first or elements are stored in another form. */
typedef struct {
    ptrdiff_t offset, n; /* the first one in the memory of p and of the state, and the number */
    T *p;
    const T *g;
    T *state[FASTOPT_MAX_STATE];
    T *before;                                /* p as it was before the rule, for cautious decay */
    T *p_scratch, *g_scratch, *state_scratch; /* the last for each state buffer, scratch_size apart */
    ptrdiff_t scratch_size;
} FN(block);

/* A block of up to `size` elements, and its scratch. */
#define BLOCK_OF(block, size)                                                                                          \
    _Alignas(LINE) T scratch[FN(SCRATCHES)][SCRATCH_SIZE(size)];                                                       \
    FN(block)                                                                                                          \
    block;                                                                                                             \
    block.p_scratch = scratch[0];                                                                                      \
    block.g_scratch = scratch[1];                                                                                      \
    block.before = scratch[2];                                                                                         \
    block.state_scratch = scratch[3];                                                                                  \
    block.scratch_size = SCRATCH_SIZE(size)

/* ---- The gradient ---- */

/* n elements of a gradient in another format. */
NOINLINE static const T *FN(load_other_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n, T *scratch)
{
    const fastopt_buffer buffer = {(void *)tensor->g, NULL, tensor->formats.g};
    FN(load_format)(scratch, &buffer, tensor->layout, tensor->layout ? tensor->layout->g_stride : NULL, offset, n);
    return scratch;
}

/* Up to n elements of the gradient; sets n to the number. */
static const T *FN(load_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t *n, T *scratch)
{
    if (tensor->rows) {
        const ptrdiff_t row = offset / tensor->row_length, column = offset - row * tensor->row_length;
        if (*n > tensor->row_length - column)
            *n = tensor->row_length - column;
        return (const T *)tensor->row_gradients[row] + column;
    }
    if (tensor->formats.g)
        return FN(load_other_g)(tensor, offset, *n, scratch);
    if (!tensor->layout)
        return (const T *)tensor->g + offset;
    FN(copy_strided)(scratch, (void *)tensor->g, tensor->layout, tensor->layout->g_stride, offset, *n, LOAD);
    return scratch;
}

static void FN(zero_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n)
{
    const fastopt_buffer buffer = {(void *)tensor->g, NULL, tensor->formats.g};
    const size_t size = buffer.format ? (size_t)fastopt_format_infos[buffer.format].bytes : sizeof(T);
    if (!tensor->layout) {
        memset((char *)tensor->g + (size_t)offset * size, 0, (size_t)n * size);
        return;
    }
    double zeros[BLOCK];
    memset(zeros, 0, (size_t)n * sizeof *zeros);
    if (buffer.format)
        FN(copy_strided_format)(zeros, &buffer, tensor->layout, tensor->layout->g_stride, offset, n, STORE);
    else
        FN(copy_strided)(zeros, buffer.data, tensor->layout, tensor->layout->g_stride, offset, n, STORE);
}

/* ---- The parameter and the state ---- */

static inline const ptrdiff_t *FN(p_stride)(const fastopt_tensor *tensor)
{
    return tensor->layout ? tensor->layout->p_stride : NULL;
}

/* n elements of the parameter. */
static inline T *FN(load_p)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n, T *scratch)
{
    if (tensor->formats.p) {
        const fastopt_buffer buffer = {tensor->p, tensor->p_rest, tensor->formats.p};
        FN(load_format)(scratch, &buffer, tensor->layout, FN(p_stride)(tensor), offset, n);
        return scratch;
    }
    if (!tensor->layout)
        return (T *)tensor->p + offset;
    FN(copy_strided)(scratch, tensor->p, tensor->layout, tensor->layout->p_stride, offset, n, LOAD);
    return scratch;
}

/* Elements of a state buffer in another format: those of a block and, with codes, of all groups that it meets. */
typedef struct {
    fastopt_buffer buffer;
    ptrdiff_t offset, n, before; /* `before` of them are not the block's, but come before it */
} FN(stored);

static FN(stored) FN(stored_state)(const fastopt_tensor *tensor, int s, ptrdiff_t offset, ptrdiff_t n)
{
    const fastopt_format format = tensor->formats.state[s];
    const ptrdiff_t group = fastopt_format_infos[format].group, before = offset % group;
    const ptrdiff_t all = tensor->rows ? tensor->row_count * tensor->row_length : tensor->n;
    const ptrdiff_t end = (offset + n + group - 1) / group * group;
    return (FN(stored)){{tensor->state[s], tensor->state_rest[s], format},
                        offset - before,
                        (group > 1 && end > all ? all : end) - (offset - before),
                        before};
}

/* Sets block->state, where some format is not native. */
NOINLINE static void FN(load_state)(FN(block) *block, const fastopt_tensor *tensor)
{
    for (int s = 0; tensor->rule->state[s]; s++) {
        if (!tensor->formats.state[s])
            continue;
        const FN(stored) stored = FN(stored_state)(tensor, s, block->offset, block->n);
        T *scratch = block->state_scratch + s * block->scratch_size;
        FN(formats)[stored.buffer.format].load(scratch, &stored.buffer, stored.offset, stored.n);
        block->state[s] = scratch + stored.before;
    }
}

/* The random numbers of a block.  Each serves two buffers, by its upper and its lower half. */
typedef struct {
    uint32_t numbers[BLOCK + 2 * GROUP];
    ptrdiff_t offset, n; /* of their elements */
    uint64_t key;
    int count; /* of the buffers that have been rounded by them */
    int shift; /* of the half that is next */
} FN(random);

/* Those for the next buffer in this format, elements offset to offset + n; NULL where it is rounded to nearest. */
static const uint32_t *FN(next_random)(FN(random) *random, const fastopt_tensor *tensor, fastopt_format format,
                                       ptrdiff_t offset, ptrdiff_t n)
{
    if (!tensor->rounding || !fastopt_format_infos[format].rounds)
        return NULL;
    random->shift = random->count % 2 * 16;
    if (!random->shift || random->offset != offset || random->n < n)
        FN(fill_random)(random->numbers, random->key, random->count / 2, tensor->offset + offset, n);
    random->count++;
    random->offset = offset;
    random->n = n;
    return random->numbers;
}

/* Stores elements that are not native: those of p, those of the state. */
NOINLINE static void FN(store_formats)(const FN(block) *block, const fastopt_tensor *tensor, uint64_t key, int of_p,
                                       int of_state)
{
    FN(random) random;
    random.key = key;
    /* A state buffer has the same numbers in passes that do not store p. */
    random.count = !of_p && fastopt_format_infos[tensor->formats.p].rounds;
    random.offset = -1;
    random.shift = 0;
    if (of_p && tensor->formats.p) {
        const fastopt_buffer buffer = {tensor->p, tensor->p_rest, tensor->formats.p};
        const uint32_t *numbers = FN(next_random)(&random, tensor, buffer.format, block->offset, block->n);
        FN(store_format)(block->p, &buffer, tensor->layout, FN(p_stride)(tensor), block->offset, block->n, numbers,
                         random.shift);
    }
    for (int s = 0; of_state && tensor->rule->state[s]; s++) {
        if (!tensor->formats.state[s])
            continue;
        const FN(stored) stored = FN(stored_state)(tensor, s, block->offset, block->n);
        const uint32_t *numbers = FN(next_random)(&random, tensor, stored.buffer.format, stored.offset, stored.n);
        FN(formats)[stored.buffer.format].store(block->state[s] - stored.before, &stored.buffer, stored.offset,
                                                stored.n, numbers, random.shift);
    }
}

/* Sets block->p and block->state. */
static inline void FN(load_p_and_state)(FN(block) *block, const fastopt_tensor *tensor)
{
    block->p = FN(load_p)(tensor, block->offset, block->n, block->p_scratch);
    for (int s = 0; tensor->rule->state[s]; s++)
        block->state[s] = FN(state_at)(tensor, s, block->offset);
    if (tensor->engine.grain)
        FN(load_state)(block, tensor);
}

/* ---- The way ---- */

static void FN(load)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages, ptrdiff_t offset,
                     ptrdiff_t n)
{
    block->offset = offset;
    block->n = n;
    block->g = FN(load_g)(tensor, offset, &block->n, block->g_scratch);
    if (tensor->rows) {
        const ptrdiff_t row = offset / tensor->row_length;
        block->offset = ((ptrdiff_t)tensor->rows[row] - row) * tensor->row_length + offset;
        if (offset == row * tensor->row_length)
            FN(prefetch)(tensor, row + ROWS_AHEAD);
    }
    FN(load_p_and_state)(block, tensor);
    if (tensor->engine.has_missed_rows && tensor->last_step)
        FN(make_up)(tensor, block->p, block->state, block->offset, block->n);
    if (stages->on_g) {
        FN(stage_g)(block->g_scratch, block->g, block->p, stages, block->n);
        block->g = block->g_scratch;
    }
}

/* The stages after the rule. */
static inline void FN(finish)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages)
{
    if (stages->cautious != 0)
        FN(stage_cautious)(block->p, block->before, stages, block->n);
    if (stages->after)
        FN(stage_averages)(block->p, tensor, stages, block->offset, block->n);
    if (tensor->engine.grain)
        FN(store_formats)(block, tensor, tensor->engine.random_key, 1, !tensor->rule->gather_writes);
    if (tensor->layout && !tensor->formats.p)
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, block->offset, block->n, STORE);
    if (stages->zero)
        FN(zero_g)(tensor, block->offset, block->n);
}

/* A pass that leaves p as it is sees it as the last pass will, which writes it. */
static void FN(stage_p_apart)(FN(block) *block, const FN(stages) *stages)
{
    if (block->p != block->p_scratch)
        memcpy(block->p_scratch, block->p, (size_t)block->n * sizeof(T));
    block->p = block->p_scratch;
    FN(stage_p)(block->p, stages, block->n);
}

/* An update with stages.  Not inlined: its scratch and its registers would slow down updates without. */
NOINLINE static void FN(update_by_blocks)(const fastopt_tensor *tensor, const fastopt_pass *pass, FN(update_of) *loop,
                                          ptrdiff_t begin, ptrdiff_t end)
{
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    BLOCK_OF(block, STRIP);
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < STRIP ? end - offset : STRIP);
        if (stages.before)
            FN(stage_missed)(block.p, tensor, &stages, block.offset, block.n);
        if (stages.on_p)
            FN(stage_p)(block.p, &stages, block.n);
        if (stages.cautious != 0)
            memcpy(block.before, block.p, (size_t)block.n * sizeof(T));
        loop(block.p, block.g, block.state, tensor->engine.k, block.n);
        FN(finish)(&block, tensor, &stages);
    }
}

/* An update of a rule BY_ROW, of the rows that begin within these elements: such rows are not cut.  A row of one block
 * is loaded once. */
NOINLINE static void FN(update_each_row)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin,
                                         ptrdiff_t end)
{
    const FN(rule_ops) *ops = FN(ops_of)(tensor);
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    const ptrdiff_t columns = tensor->shape[tensor->ndim - 1];
    BLOCK_OF(block, BLOCK);
    T k[FASTOPT_MAX_SCALARS];
    memcpy(k, tensor->engine.k, sizeof k);
    for (ptrdiff_t row = (begin + columns - 1) / columns * columns; row < end; row += columns) {
        const ptrdiff_t past = row + columns;
        double sum = 0;
        for (ptrdiff_t offset = row; offset < past; offset += block.n) {
            FN(load)(&block, tensor, &stages, offset, past - offset < BLOCK ? past - offset : BLOCK);
            sum += FN(sum_squares)(block.g, block.n);
        }
        ops->row(block.state, sum / (double)columns, k);
        for (ptrdiff_t offset = row; offset < past; offset += block.n) {
            if (columns > BLOCK)
                FN(load)(&block, tensor, &stages, offset, past - offset < BLOCK ? past - offset : BLOCK);
            if (stages.before)
                FN(stage_missed)(block.p, tensor, &stages, block.offset, block.n);
            if (stages.on_p)
                FN(stage_p)(block.p, &stages, block.n);
            if (stages.cautious != 0)
                memcpy(block.before, block.p, (size_t)block.n * sizeof(T));
            ops->update(block.p, block.g, block.state, k, block.n);
            FN(finish)(&block, tensor, &stages);
        }
    }
}

static void FN(update)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end)
{
    FN(update_of) *const loop = FN(ops_of)(tensor)->update;
    if (FN(ops_of)(tensor)->row) {
        FN(update_each_row)(tensor, pass, begin, end);
    } else if (!FN(no_stages)(tensor, pass)) {
        FN(update_by_blocks)(tensor, pass, loop, begin, end);
    } else if (tensor->rows) {
        FN(update_rows)(tensor, loop, begin, end);
    } else {
        T *state[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            state[s] = FN(state_at)(tensor, s, begin);
        loop((T *)tensor->p + begin, (const T *)tensor->g + begin, state, tensor->engine.k, end - begin);
    }
}

/* Averages of a parameter that is not stepped take it in as it is. */
static void FN(average)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    const FN(rates) rates = FN(rates_of)(tensor, tensor->averaged, tensor->round);
    T scratch[BLOCK];
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = end - offset < BLOCK ? end - offset : BLOCK;
        const T *p = FN(load_p)(tensor, offset, n, scratch);
        if (tensor->averaged_rows)
            FN(take_in_rows)(tensor, tensor->round, p, offset, n);
        else
            FN(take_in)(tensor, rates, p, offset, n);
    }
}

/* Makes up for the steps that rows have missed, between steps. */
static void FN(catch_up)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    BLOCK_OF(block, STRIP);
    for (block.offset = begin; block.offset < end; block.offset += block.n) {
        block.n = end - block.offset < STRIP ? end - block.offset : STRIP;
        FN(load_p_and_state)(&block, tensor);
        if (FN(make_up)(tensor, block.p, block.state, block.offset, block.n) && tensor->engine.grain)
            FN(store_formats)(&block, tensor, ~tensor->engine.random_key, 1, 1); /* another key than the step's */
    }
}

static void FN(gather)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end,
                       fastopt_sum *sums)
{
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    BLOCK_OF(block, BLOCK);
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < BLOCK ? end - offset : BLOCK);
        if (stages.on_p)
            FN(stage_p_apart)(&block, &stages);
        FN(ops_of)(tensor)->gather(block.p, block.g, block.state, tensor->engine.k, block.n, sums);
        if (tensor->engine.grain && tensor->rule->gather_writes)
            FN(store_formats)(&block, tensor, tensor->engine.random_key, 0, 1);
    }
}

static void FN(norm)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end, fastopt_sum *sum)
{
    T scratch[BLOCK];
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = end - offset < BLOCK ? end - offset : BLOCK;
        const T *g = FN(load_g)(tensor, offset, &n, scratch);
        FN(add_squares)(sum, g, n);
    }
}

static int FN(finite)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    T scratch[BLOCK];
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = end - offset < BLOCK ? end - offset : BLOCK;
        const T *g = FN(load_g)(tensor, offset, &n, scratch);
        int bad = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            bad |= !(ABS(g[i]) <= LARGEST);
        if (bad)
            return 0;
    }
    return 1;
}
