/* The way of a block: load, stages, rule, stages, store. */

/* n elements of a tensor as the rule sees them: in the memory of the caller where possible, in the scratch where stages
 * come first. */
typedef struct {
    ptrdiff_t offset, n; /* the first one in the memory of p and of the state, and the number */
    T *p;
    const T *g;
    T *state[FASTOPT_MAX_STATE];
    T p_scratch[BLOCK], g_scratch[BLOCK];
} FN(block);

/* n elements of a gradient in another format. */
NOINLINE static const T *FN(load_other)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n, T *scratch)
{
    const ptrdiff_t size = (ptrdiff_t)fastopt_format_size(tensor->g_format);
    if (tensor->layout)
        FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, offset, n, LOAD,
                         tensor->g_format);
    else
        FN(convert)(scratch, (const char *)tensor->g + offset * size, size, n, tensor->g_format);
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
    if (tensor->g_format)
        return FN(load_other)(tensor, offset, *n, scratch);
    if (!tensor->layout)
        return (const T *)tensor->g + offset;
    FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, offset, *n, LOAD, 0);
    return scratch;
}

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
    if (tensor->engine.has_missed_rows) {
        const ptrdiff_t left = tensor->row_length - block->offset % tensor->row_length;
        if (block->n > left)
            block->n = left;
        if (tensor->last_step)
            FN(make_up)(tensor, block->offset, block->n);
    }
    block->p = (T *)tensor->p + block->offset;
    if (tensor->layout) {
        block->p = block->p_scratch;
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, offset, n, LOAD, 0);
    }
    for (int s = 0; tensor->rule->state[s]; s++)
        block->state[s] = (T *)tensor->state[s] + (tensor->rule->extent[s] == FASTOPT_WHOLE ? block->offset : 0);
    if (stages->on_g) {
        FN(stage_g)(block->g_scratch, block->g, block->p, stages, block->n);
        block->g = block->g_scratch;
    }
}

static void FN(zero_g)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n, T *scratch)
{
    const size_t size = tensor->g_format ? fastopt_format_size(tensor->g_format) : sizeof(T);
    if (!tensor->layout) {
        memset((char *)tensor->g + (size_t)offset * size, 0, (size_t)n * size);
        return;
    }
    memset(scratch, 0, (size_t)n * sizeof(T));
    FN(copy_strided)(scratch, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, offset, n, STORE,
                     tensor->g_format);
}

/* The stages after the rule. */
static inline void FN(finish)(FN(block) *block, const fastopt_tensor *tensor, const FN(stages) *stages)
{
    if (stages->after)
        FN(stage_averages)(block->p, tensor, stages, block->offset, block->n);
    if (tensor->layout)
        FN(copy_strided)(block->p, tensor->p, tensor->layout, tensor->layout->p_stride, block->offset, block->n, STORE,
                         0);
    if (stages->zero)
        FN(zero_g)(tensor, block->offset, block->n, block->g_scratch);
}

/* A pass that leaves p as it is sees it as the last pass will, which writes it. */
static void FN(stage_p_apart)(FN(block) *block, const FN(stages) *stages)
{
    memcpy(block->p_scratch, block->p, (size_t)block->n * sizeof(T));
    block->p = block->p_scratch;
    FN(stage_p)(block->p, stages, block->n);
}

/* An update with stages.  Not inlined: its scratch and its registers would slow down updates without. */
NOINLINE static void FN(update_by_blocks)(const fastopt_tensor *tensor, const fastopt_pass *pass, FN(update_of) *loop,
                                          ptrdiff_t begin, ptrdiff_t end)
{
    FN(block) block;
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < STRIP ? end - offset : STRIP);
        if (stages.before)
            FN(stage_missed)(block.p, tensor, &stages, block.offset, block.n);
        if (stages.on_p)
            FN(stage_p)(block.p, &stages, block.n);
        loop(block.p, block.g, block.state, tensor->engine.k, block.n);
        FN(finish)(&block, tensor, &stages);
    }
}

static void FN(update)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end)
{
    FN(update_of) *const loop = FN(ops_of)(tensor)->update;
    if (!FN(no_stages)(tensor, pass)) {
        FN(update_by_blocks)(tensor, pass, loop, begin, end);
    } else if (tensor->rows) {
        FN(update_rows)(tensor, loop, begin, end);
    } else {
        T *state[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            state[s] = (T *)tensor->state[s] + begin;
        loop((T *)tensor->p + begin, (const T *)tensor->g + begin, state, tensor->engine.k, end - begin);
    }
}

/* Averages of a parameter that is not stepped take it in as it is. */
static void FN(average)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    FN(rates) rates = FN(rates_of)(tensor, tensor->averaged, tensor->round);
    T scratch[BLOCK];
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = end - offset < BLOCK ? end - offset : BLOCK;
        if (tensor->averaged_rows) {
            const ptrdiff_t row = offset / tensor->row_length, left = (row + 1) * tensor->row_length - offset;
            rates = FN(rates_of)(tensor, tensor->averaged_rows[row], tensor->round);
            n = n < left ? n : left;
        }
        const T *p = (const T *)tensor->p + offset;
        if (tensor->layout) {
            FN(copy_strided)(scratch, tensor->p, tensor->layout, tensor->layout->p_stride, offset, n, LOAD, 0);
            p = scratch;
        }
        FN(take_in)(tensor, rates, p, offset, n);
    }
}

static void FN(gather)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end,
                       fastopt_sum *sums)
{
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    FN(block) block;
    for (ptrdiff_t offset = begin; offset < end; offset += block.n) {
        FN(load)(&block, tensor, &stages, offset, end - offset < BLOCK ? end - offset : BLOCK);
        if (stages.on_p)
            FN(stage_p_apart)(&block, &stages);
        FN(ops_of)(tensor)->gather(block.p, block.g, block.state, tensor->engine.k, block.n, sums);
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
