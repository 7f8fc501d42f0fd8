/* A pass of a rule of matrices over one tile. */

static void FN(tile)(const fastopt_tensor *tensor, const fastopt_pass *pass, int pass_index, ptrdiff_t tile,
                     fastopt_sum *sums)
{
    FN(pass) *const run_pass = FN(ops_of)(tensor)->passes[pass_index];
    const fastopt_matrices *m = tensor->engine.matrices;
    const int last = pass_index == tensor->rule->passes - 1;
    const FN(stages) stages = FN(stages_of)(tensor, pass);
    DECLARE_BLOCK(block, tensor, SPAN);

    const ptrdiff_t strip = tile / m->column_tiles, column_tile = tile % m->column_tiles;
    const ptrdiff_t first = column_tile * TILE_COLUMNS;
    const ptrdiff_t width = first + TILE_COLUMNS < m->columns ? TILE_COLUMNS : m->columns - first;
    const ptrdiff_t begin = fastopt_strip_begin(m, strip), end = fastopt_strip_begin(m, strip + 1);
    /* Short rows are loaded several at a time. */
    const ptrdiff_t rows_at_once = m->columns < SPAN ? SPAN / m->columns : 1;
    double columns[TILE_COLUMNS], of_row;
    double *of_columns = m->of_columns ? m->of_columns + strip * m->columns + first : columns;
    memset(of_columns, 0, (size_t)width * sizeof *columns);
    fastopt_span span = {.tensor = tensor, .sums = sums};
    ptrdiff_t matrix = begin / m->rows, row_in_matrix = begin % m->rows;

    for (ptrdiff_t row = begin, rows; row < end; row += rows) {
        rows = rows_at_once < end - row ? rows_at_once : end - row;
        for (ptrdiff_t offset = 0; offset < width; offset += SPAN) {
            const ptrdiff_t n = width - offset < SPAN ? width - offset : SPAN, column = first + offset;
            FN(load)(&block, tensor, &stages, row * m->columns + column, rows * n);
            if (stages.averages_before && last)
                FN(stage_averages_before)(block.p, tensor, &stages, block.offset, block.n);
            if (stages.on_p && last)
                FN(stage_p)(block.p, &stages, rows * n);
            else if (stages.on_p)
                FN(stage_copy_of_p)(&block, &stages);
            if (stages.cautious != 0 && last)
                memcpy(block.p_before, block.p, (size_t)block.n * sizeof(T));
            for (ptrdiff_t i = 0; i < rows; i++) {
                T *state[FASTOPT_MAX_STATE];
                for (int s = 0; tensor->rule->state[s]; s++) {
                    const fastopt_extent extent = tensor->rule->extent[s];
                    state[s] = block.state[s] + (extent == FASTOPT_WHOLE     ? i * n
                                                 : extent == FASTOPT_ROWS    ? row + i
                                                 : extent == FASTOPT_COLUMNS ? matrix * m->columns + column
                                                                             : m->last_axis + column);
                }
                span.row = row + i;
                span.of_matrix = m->of_matrices ? m->of_matrices + matrix : NULL;
                span.of_row = m->of_rows
                                  ? m->of_rows + (matrix * m->column_tiles + column_tile) * m->rows + row_in_matrix
                                  : &of_row;
                if (offset == 0)
                    *span.of_row = 0;
                span.of_columns = of_columns + offset;
                span.ends_row = !m->of_rows && offset + n == width;
                span.ends_columns = !m->of_columns && row_in_matrix == m->rows - 1;
                run_pass(block.p + i * n, block.g + i * n, state, tensor->engine.k, n, &span);
                if (offset + n == width && ++row_in_matrix == m->rows) {
                    row_in_matrix = 0;
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
