/* Rows of a parameter: they make up for missed steps, are fetched ahead, and are updated one by one. */

/* n elements of one row make up for the steps that it has missed. */
static void FN(make_up)(const fastopt_tensor *tensor, ptrdiff_t offset, ptrdiff_t n)
{
    const int64_t skipped = tensor->step - 1 - tensor->last_step[offset / tensor->row_length];
    if (skipped <= 0 || !FN(ops_of)(tensor)->catch_up)
        return;
    T *state[FASTOPT_MAX_STATE];
    for (int s = 0; tensor->rule->state[s]; s++)
        state[s] = (T *)tensor->state[s] + offset;
    FN(ops_of)(tensor)->catch_up((T *)tensor->p + offset, state, tensor->hyper, skipped, n);
}

static void FN(catch_up)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t offset = begin, n; offset < end; offset += n) {
        n = tensor->row_length - offset % tensor->row_length;
        if (n > end - offset)
            n = end - offset;
        FN(make_up)(tensor, offset, n);
    }
}

/* Begins to bring memory into the cache. */
static void FN(fetch)(const void *memory, size_t size)
{
    for (size_t line = 0; line < size; line += LINE)
        PREFETCH((const char *)memory + line);
}

/* Rows lie anywhere in memory: the first lines of one are fetched while rows before it are updated. */
static void FN(prefetch)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    if (row * tensor->row_length >= tensor->n)
        return;
    const size_t size = (size_t)tensor->row_length * sizeof(T), fetched = size < FETCHED_BYTES ? size : FETCHED_BYTES;
    const size_t offset = (size_t)tensor->rows[row] * size;
    if (tensor->last_step)
        PREFETCH(&tensor->last_step[tensor->rows[row]]);
    FN(fetch)(tensor->row_gradients[row], fetched);
    FN(fetch)((const char *)tensor->p + offset, fetched);
    for (int s = 0; tensor->rule->state[s]; s++)
        FN(fetch)((const char *)tensor->state[s] + offset, fetched);
}

/* Updates rows without stages, each in the memory of the caller.  Not inlined, as update_by_blocks. */
NOINLINE static void FN(update_rows)(const fastopt_tensor *tensor, FN(update_of) *loop, ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t length = tensor->row_length;
    ptrdiff_t row = begin / length, column = begin % length;
    for (ptrdiff_t offset = begin, n; offset < end; offset += n, row++, column = 0) {
        n = length - column < end - offset ? length - column : end - offset;
        FN(prefetch)(tensor, row + ROWS_AHEAD);
        const ptrdiff_t to = (ptrdiff_t)tensor->rows[row] * length + column;
        T *state[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            state[s] = (T *)tensor->state[s] + to;
        loop((T *)tensor->p + to, (const T *)tensor->row_gradients[row] + column, state, tensor->engine.k, n);
    }
}
