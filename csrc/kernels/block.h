/* The steps of a block: load, stages, rule, stages, store. */

/* Scratch for p, g, p before the rule, and each state buffer of a block.  Two scratch arrays at the same offset of a
 * page would slow down each other's loads.  A state buffer with codes also holds the rest of the groups at both ends.
 */
enum { FN(SCRATCHES) = 3 + FASTOPT_MAX_STATE };
#define SCRATCH_SIZE(n) ((n) + 2 * GROUP + LINE / 4)

/* A state buffer in another format. */
typedef struct {
    fastopt_buffer buffer;
    const FN(format_ops) *ops;
    ptrdiff_t mask; /* the size of a group, less 1 */
    int s;          /* the index of the buffer in the state */
    int random;     /* the index of its random numbers; below 0: rounded to nearest */
} FN(stored);

/* n elements of a tensor as the rule sees them: in the memory of the caller if possible, in scratch if stages come
 * first or elements are strided or in another format. */
typedef struct {
    ptrdiff_t offset, n; /* the index of the first one in p and in the state; their number */
    T *p;
    const T *g;
    T *state[FASTOPT_MAX_STATE];
    T *p_before;                              /* p before the rule, for cautious decay */
    T *p_scratch, *g_scratch, *state_scratch; /* state_scratch has an array for each state buffer, scratch_size apart */
    ptrdiff_t scratch_size;
    FN(stored) stored[FASTOPT_MAX_STATE]; /* found once, for all blocks of a tensor */
    int n_stored;
    ptrdiff_t mask;  /* the largest one of these */
    ptrdiff_t whole; /* elements of the whole state */
} FN(block);

/* Sets `stored` and the numbers after it. */
NOINLINE static void FN(find_stored)(FN(block) *block, const fastopt_tensor *tensor)
{
    int random = fastopt_format_infos[tensor->formats.p].rounds; /* p has the first numbers */
    block->whole = tensor->rows ? tensor->row_count * tensor->row_length : tensor->n;
    for (int s = 0; tensor->rule->state[s]; s++) {
        const fastopt_format format = tensor->formats.state[s];
        const fastopt_format_info *info = &fastopt_format_infos[format];
        if (!format)
            continue;
        block->stored[block->n_stored++] = (FN(stored)){
            .buffer = {tensor->state[s], tensor->state_rest[s], format},
            .ops = &FN(formats)[format],
            .mask = info->group - 1,
            .s = s,
            .random = tensor->rounding && info->rounds ? random++ : -1,
        };
        block->mask |= info->group - 1;
    }
}

/* Declares a block of up to `size` elements of a tensor, and its scratch. */
#define DECLARE_BLOCK(block, tensor, size)                                                                             \
    _Alignas(LINE) T scratch[FN(SCRATCHES)][SCRATCH_SIZE(size)];                                                       \
    FN(block)                                                                                                          \
    block;                                                                                                             \
    block.p_scratch = scratch[0];                                                                                      \
    block.g_scratch = scratch[1];                                                                                      \
    block.p_before = scratch[2];                                                                                       \
    block.state_scratch = scratch[3];                                                                                  \
    block.scratch_size = SCRATCH_SIZE(size);                                                                           \
    block.n_stored = 0;                                                                                                \
    block.mask = 0;                                                                                                    \
    if (tensor->engine.grain)                                                                                          \
    FN(find_stored)(&block, tensor)

/* ---- The gradient ---- */

/* n elements of a gradient in another format. */
NOINLINE static const T *FN(load_stored_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n, T *scratch)
{
    const fastopt_buffer buffer = {(void *)tensor->g, NULL, tensor->formats.g};
    FN(load_format)(scratch, &buffer, tensor->layout, tensor->layout ? tensor->layout->g_stride : NULL, offset, n);
    return scratch;
}

/* Up to n elements of the gradient, all of one row if it is of rows; sets n to their number. */
static const T *FN(load_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t *n, T *scratch)
{
    if (tensor->rows) {
        const ptrdiff_t row = offset / tensor->row_length, column = offset - row * tensor->row_length;
        if (*n > tensor->row_length - column)
            *n = tensor->row_length - column;
        return (const T *)tensor->row_gradients[row] + column;
    }
    if (tensor->formats.g)
        return FN(load_stored_g)(tensor, offset, *n, scratch);
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

/* The number of elements from `begin` to the end of the block, or of its last group. */
static inline ptrdiff_t FN(size_in_groups)(const FN(block) *block, ptrdiff_t begin, ptrdiff_t mask)
{
    const ptrdiff_t end = (block->offset + block->n + mask) & ~mask;
    return (mask && end > block->whole ? block->whole : end) - begin;
}

/* Loads the state buffers whose format is not native. */
NOINLINE static void FN(load_state)(FN(block) *block)
{
    for (int i = 0; i < block->n_stored; i++) {
        const FN(stored) *stored = &block->stored[i];
        const ptrdiff_t lead = block->offset & stored->mask, begin = block->offset - lead;
        T *scratch = block->state_scratch + stored->s * block->scratch_size;
        stored->ops->load(scratch, &stored->buffer, begin, FN(size_in_groups)(block, begin, stored->mask));
        block->state[stored->s] = scratch + lead;
    }
}

/* Random numbers of a block.  Each number serves two buffers: its lower half and its upper half. */
typedef struct {
    uint32_t numbers[BLOCK + 2 * GROUP];
    uint64_t key;
    int pair; /* of buffers that the numbers are for; below 0: none yet */
} FN(random);

/* The random numbers with this index, for the elements from `begin` on; NULL below 0. */
static inline const uint32_t *FN(random_from)(FN(random) *random, const FN(block) *block, const fastopt_tensor *tensor,
                                              int index, ptrdiff_t begin)
{
    if (index < 0)
        return NULL;
    const ptrdiff_t first = block->offset & ~block->mask;
    if (random->pair != index / 2) {
        random->pair = index / 2;
        FN(fill_random)(random->numbers, random->key, random->pair, tensor->offset + first,
                        FN(size_in_groups)(block, first, block->mask));
    }
    return random->numbers + (begin - first);
}

/* Stores p and the state buffers whose format is not native. */
NOINLINE static void FN(store_formats)(const FN(block) *block, const fastopt_tensor *tensor, uint64_t key, int of_p,
                                       int of_state)
{
    FN(random) random;
    random.key = key;
    random.pair = -1;
    if (of_p && tensor->formats.p) {
        const fastopt_buffer buffer = {tensor->p, tensor->p_rest, tensor->formats.p};
        const int index = tensor->rounding && fastopt_format_infos[buffer.format].rounds ? 0 : -1;
        FN(store_format)(block->p, &buffer, tensor->layout, FN(p_stride)(tensor), block->offset, block->n,
                         FN(random_from)(&random, block, tensor, index, block->offset), 0);
    }
    for (int i = 0; of_state && i < block->n_stored; i++) {
        const FN(stored) *stored = &block->stored[i];
        const ptrdiff_t lead = block->offset & stored->mask, begin = block->offset - lead;
        stored->ops->store(block->state[stored->s] - lead, &stored->buffer, begin,
                           FN(size_in_groups)(block, begin, stored->mask),
                           FN(random_from)(&random, block, tensor, stored->random, begin), stored->random % 2 * 16);
    }
}

/* Sets block->p and block->state. */
static inline void FN(load_p_and_state)(FN(block) *block, const fastopt_tensor *tensor)
{
    block->p = FN(load_p)(tensor, block->offset, block->n, block->p_scratch);
    for (int s = 0; tensor->rule->state[s]; s++)
        block->state[s] = FN(state_at)(tensor, s, block->offset);
    if (block->n_stored)
        FN(load_state)(block);
}

/* ---- Load and finish ---- */

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
        FN(catch_up_rows)(tensor, block->p, block->state, block->offset, block->n);
    if (stages->on_g) {
        FN(stage_g)(block->g_scratch, block->g, block->p, stages, block->n);
        block->g = block->g_scratch;
    }
}

/* The stages after the rule, and the store. */
static inline void FN(finish)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages)
{
    if (stages->cautious != 0)
        FN(stage_cautious)(block->p, block->p_before, stages, block->n);
    if (stages->after_rule)
        FN(stage_averages_after)(block->p, tensor, stages, block->offset, block->n);
    if (tensor->engine.grain)
        FN(store_formats)(block, tensor, tensor->engine.random_key, 1, !tensor->rule->gather_writes);
    if (tensor->layout && !tensor->formats.p)
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, block->offset, block->n, STORE);
    if (stages->zero)
        FN(zero_g)(tensor, block->offset, block->n);
}

/* For a pass that does not write p: applies the stage to a copy, so that the pass sees the same p as the last pass. */
static void FN(stage_copy_of_p)(FN(block) *block, const FN(stages) *stages)
{
    if (block->p != block->p_scratch)
        memcpy(block->p_scratch, block->p, (size_t)block->n * sizeof(T));
    block->p = block->p_scratch;
    FN(stage_p)(block->p, stages, block->n);
}

/* An update with stages.  Not inlined: its scratch and registers would slow down updates without stages. */
NOINLINE static void FN(update_by_blocks)(const fastopt_tensor *tensor, const fastopt_pass *pass, FN(update_of) *loop,
                                          ptrdiff_t begin, ptrdiff_t end)
{
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    DECLARE_BLOCK(block, tensor, STRIP);
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < STRIP ? end - offset : STRIP);
        if (stages.averages_before)
            FN(stage_averages_before)(block.p, tensor, &stages, block.offset, block.n);
        if (stages.on_p)
            FN(stage_p)(block.p, &stages, block.n);
        if (stages.cautious != 0)
            memcpy(block.p_before, block.p, (size_t)block.n * sizeof(T));
        loop(block.p, block.g, block.state, tensor->engine.k, block.n);
        FN(finish)(&block, tensor, &stages);
    }
}

/* An update of a rule BY_ROW: visits the rows that begin in this range, so that no row is cut.  A row of at most one
 * block is loaded once. */
NOINLINE static void FN(update_by_rows)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin,
                                        ptrdiff_t end)
{
    const FN(rule_ops) *ops = FN(ops_of)(tensor);
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    const ptrdiff_t columns = tensor->shape[tensor->ndim - 1];
    DECLARE_BLOCK(block, tensor, BLOCK);
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
            if (stages.averages_before)
                FN(stage_averages_before)(block.p, tensor, &stages, block.offset, block.n);
            if (stages.on_p)
                FN(stage_p)(block.p, &stages, block.n);
            if (stages.cautious != 0)
                memcpy(block.p_before, block.p, (size_t)block.n * sizeof(T));
            ops->update(block.p, block.g, block.state, k, block.n);
            FN(finish)(&block, tensor, &stages);
        }
    }
}

static void FN(update)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end)
{
    FN(update_of) *const loop = FN(ops_of)(tensor)->update;
    if (FN(ops_of)(tensor)->row) {
        FN(update_by_rows)(tensor, pass, begin, end);
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

/* Updates the averages of a parameter without a gradient, from its values as they are. */
static void FN(average)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    const FN(rates) rates = FN(rates_of)(tensor, tensor->averaged, tensor->round);
    T scratch[BLOCK];
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = end - offset < BLOCK ? end - offset : BLOCK;
        const T *p = FN(load_p)(tensor, offset, n, scratch);
        if (tensor->averaged_rows)
            FN(update_averages_by_row)(tensor, tensor->round, p, offset, n);
        else
            FN(update_averages)(tensor, rates, p, offset, n);
    }
}

/* Lets rows catch up on missed steps, between two steps. */
static void FN(catch_up)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    DECLARE_BLOCK(block, tensor, STRIP);
    for (block.offset = begin; block.offset < end; block.offset += block.n) {
        block.n = end - block.offset < STRIP ? end - block.offset : STRIP;
        FN(load_p_and_state)(&block, tensor);
        if (FN(catch_up_rows)(tensor, block.p, block.state, block.offset, block.n) && tensor->engine.grain)
            FN(store_formats)(&block, tensor, ~tensor->engine.random_key, 1, 1); /* not the key of the step */
    }
}

/* Adds the terms of a rule of the caller's own to its sums. */
NOINLINE static void FN(add_terms)(const FN(rule_ops) *ops, const FN(block) *block, const void *k, fastopt_sum *sums)
{
    _Alignas(LINE) T terms[FASTOPT_MAX_SUMS][SCRATCH_SIZE(BLOCK)];
    T *const of_sums[] = {terms[0], terms[1], terms[2], terms[3]};
    _Static_assert(FASTOPT_MAX_SUMS == sizeof of_sums / sizeof *of_sums, "a pointer for each sum");
    ops->terms(block->p, block->g, block->state, k, of_sums, block->n);
    for (int s = 0; s < ops->n_sums; s++)
        if (ops->reductions[s] == FASTOPT_SUM || ops->reductions[s] == FASTOPT_MEAN)
            sums[s].sum += FN(sum_terms)(terms[s], block->n);
        else
            FN(add_squares)(&sums[s], terms[s], block->n);
}

static void FN(gather)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end,
                       fastopt_sum *sums)
{
    const FN(rule_ops) *ops = FN(ops_of)(tensor);
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    DECLARE_BLOCK(block, tensor, BLOCK);
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < BLOCK ? end - offset : BLOCK);
        if (stages.on_p)
            FN(stage_copy_of_p)(&block, &stages);
        if (ops->terms)
            FN(add_terms)(ops, &block, tensor->engine.k, sums);
        else
            ops->gather(block.p, block.g, block.state, tensor->engine.k, block.n, sums);
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
