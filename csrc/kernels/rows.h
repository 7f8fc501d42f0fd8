/* Rows of a parameter: catching up on missed steps, prefetching, updates row by row. */

/* The s-th state buffer from the entry of the element at `offset`; for a rule of matrices, from its beginning. */
static T *FN(state_at)(const fastopt_tensor *tensor, int s, ptrdiff_t offset)
{
    T *state = tensor->state[s];
    if (tensor->rule->extent[s] == FASTOPT_WHOLE)
        return state + offset;
    return tensor->rule->gathers == FASTOPT_BY_ROW ? state + offset / tensor->shape[tensor->ndim - 1] : state;
}

/* Lets n elements of p and state catch up on the steps that their rows have missed; returns whether some row has. */
static int FN(catch_up_rows)(const fastopt_tensor *tensor, T *p, T *const *state, ptrdiff_t offset, ptrdiff_t n)
{
    int any = 0;
    for (ptrdiff_t i = 0, run; i < n && FN(ops_of)(tensor)->catch_up; i += run) {
        const ptrdiff_t row = (offset + i) / tensor->row_length, left = (row + 1) * tensor->row_length - offset - i;
        const int64_t skipped = tensor->step - 1 - tensor->last_step[row];
        run = left < n - i ? left : n - i;
        if (skipped <= 0)
            continue;
        T *of_row[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            of_row[s] = state[s] + i;
        FN(ops_of)(tensor)->catch_up(p + i, of_row, tensor->hyper, skipped, run);
        any = 1;
    }
    return any;
}

/* Prefetches memory. */
static void FN(fetch)(const void *memory, size_t size)
{
    for (size_t line = 0; line < size; line += LINE)
        PREFETCH((const char *)memory + line);
}

/* The same as FN(prefetch) for a tensor with other formats. */
NOINLINE static void FN(prefetch_formats)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    const size_t length = (size_t)tensor->row_length, first = (size_t)tensor->rows[row] * length;
    for (int s = -1; s < 0 || tensor->rule->state[s]; s++) {
        if (s >= 0 && tensor->rule->extent[s] != FASTOPT_WHOLE) {
            FN(fetch)(FN(state_at)(tensor, s, (ptrdiff_t)first), sizeof(T));
            continue;
        }
        const int format = s < 0 ? tensor->formats.p : tensor->formats.state[s];
        const char *data = s < 0 ? tensor->p : tensor->state[s];
        const size_t size = format ? (size_t)fastopt_format_infos[format].bytes : sizeof(T), bytes = length * size;
        FN(fetch)(data + first * size, bytes < FETCHED_BYTES ? bytes : FETCHED_BYTES);
    }
    FN(fetch)(tensor->row_gradients[row], length * sizeof(T) < FETCHED_BYTES ? length * sizeof(T) : FETCHED_BYTES);
}

/* Prefetches the first lines of a row, which may lie anywhere in memory, while earlier rows are updated. */
static void FN(prefetch)(const fastopt_tensor *tensor, ptrdiff_t row)
{
    if (row * tensor->row_length >= tensor->n)
        return;
    const size_t size = (size_t)tensor->row_length * sizeof(T), fetched = size < FETCHED_BYTES ? size : FETCHED_BYTES;
    const ptrdiff_t offset = (ptrdiff_t)tensor->rows[row] * tensor->row_length;
    if (tensor->last_step)
        PREFETCH(&tensor->last_step[tensor->rows[row]]);
    if (tensor->engine.grain) {
        FN(prefetch_formats)(tensor, row);
        return;
    }
    FN(fetch)(tensor->row_gradients[row], fetched);
    FN(fetch)((const T *)tensor->p + offset, fetched);
    for (int s = 0; tensor->rule->state[s]; s++)
        FN(fetch)(FN(state_at)(tensor, s, offset), tensor->rule->extent[s] == FASTOPT_WHOLE ? fetched : sizeof(T));
}

/* Updates rows without stages, in the memory of the caller.  Not inlined, like update_by_blocks. */
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
