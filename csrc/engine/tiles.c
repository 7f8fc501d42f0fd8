/* Matrices, cut into tiles. */
#include "engine.h"

#include <stdlib.h>

/* Cuts a tensor into tiles, whose results begin at `results`; returns the number of doubles of these results. */
static size_t cut_into_tiles(const fastopt_tensor *t, fastopt_matrices *m, double *results)
{
    *m = (fastopt_matrices){.matrices = 1, .rows = t->shape[t->ndim - 2], .columns = t->shape[t->ndim - 1]};
    int shared = 0;
    for (int s = 0; t->rule->state[s]; s++)
        shared |= t->rule->extent[s] == FASTOPT_AXES;
    for (int axis = 0; axis < t->ndim - 2; axis++)
        m->matrices *= t->shape[axis];
    for (int axis = 0; axis < t->ndim - 1; axis++)
        m->last_axis += t->shape[axis];
    m->column_tiles = (m->columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    m->strip_rows = TILE / (m->column_tiles > 1 ? TILE_COLUMNS : m->columns);
    if (m->strip_rows < TILE_ROWS)
        m->strip_rows = TILE_ROWS;
    const int whole_columns = m->strip_rows >= m->rows;
    if (!whole_columns) {
        m->strips = m->matrices * ((m->rows + m->strip_rows - 1) / m->strip_rows);
    } else {
        const ptrdiff_t matrices_per_strip = m->column_tiles > 1 ? 1 : m->strip_rows / m->rows;
        m->strip_rows = matrices_per_strip * m->rows;
        m->strips = (m->matrices + matrices_per_strip - 1) / matrices_per_strip;
    }

    const ptrdiff_t by_matrix = shared ? 0 : m->matrices;
    const ptrdiff_t by_row = shared || m->column_tiles > 1 ? m->matrices * m->rows * m->column_tiles : 0;
    const ptrdiff_t by_column = shared || !whole_columns ? m->strips * m->columns : 0;
    if (results) {
        m->of_matrices = by_matrix ? results : NULL;
        m->of_rows = by_row ? results + by_matrix : NULL;
        m->of_columns = by_column ? results + by_matrix + by_row : NULL;
    }
    return (size_t)(by_matrix + by_row + by_column);
}

void *fastopt_lay_out_matrices(fastopt_job *job)
{
    size_t doubles = 0;
    fastopt_matrices m;
    for (ptrdiff_t i = 0; i < job->count; i++)
        if (has_tiles(&job->tensors[i]))
            doubles += cut_into_tiles(&job->tensors[i], &m, NULL);
    fastopt_matrices *all = malloc((size_t)job->n_matrices * sizeof *all + doubles * sizeof(double)), *next = all;
    if (!all)
        return NULL;
    double *results = (double *)(all + job->n_matrices);
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        if (has_tiles(t)) {
            t->engine.matrices = next;
            results += cut_into_tiles(t, next++, results);
        }
    }
    return all;
}
