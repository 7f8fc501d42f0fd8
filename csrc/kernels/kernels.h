/* What a kernel file provides: one table per instruction set.  System headers come in here, before the target pragmas
 * of the files that include this. */
#ifndef FASTOPT_KERNELS_H
#define FASTOPT_KERNELS_H

#include "../math/exact.h"
#include "../math/norm.h"
#include "../platform.h"
#include "../rules/decays.h"
#include "../rules/rules.h"
#include "../storage/formats.h"
#include "sizes.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FASTOPT_X86_TARGETS 1
#else
#define FASTOPT_X86_TARGETS 0
#endif

/* What a pass over all tensors does to every gradient. */
typedef struct {
    double scale, clip_value; /* multiply by scale; infinity: do not clip */
    int own_scales;           /* multiply by that of the tensor instead */
    int zero_grads;
    int plain; /* none of these is to be done */
} fastopt_pass;

/* A tensor as matrices over its last two axes, cut into tiles of about TILE elements: strips of rows, cut into columns.
 * A strip is of one matrix, or of several whole ones that are small.  A tile is passed over row by row, and a row span
 * by span.
 *
 * What a pass finds out about the part of a row or a column that lies in a tile has a place of its own, so that it does
 * not depend on the threads.  Where a tile has all of a row, or of a column, and the state of a matrix is its own, the
 * pass can tell the state at once, and there is no such place: notes of every row would be as large as the tensor where
 * rows are short. */
typedef struct fastopt_matrices {
    ptrdiff_t matrices, rows, columns;
    ptrdiff_t strips, strip_rows, column_tiles;
    ptrdiff_t last_axis; /* where the entries of the last axis begin in a state buffer of AXES */
    double kept[2];      /* for the rule, from pass to pass of a step */
    double *of_matrices; /* likewise, by matrix; NULL where they share state */
    double *of_rows;     /* by matrix, tile of columns and row; NULL: the state is told */
    double *of_columns;  /* by strip and column; likewise */
} fastopt_matrices;

/* The first row of a strip, counted through all matrices.  Strips of a part of a matrix end where it does. */
static inline ptrdiff_t fastopt_strip_begin(const fastopt_matrices *m, ptrdiff_t strip)
{
    if (m->strip_rows < m->rows) {
        const ptrdiff_t of_matrix = m->strips / m->matrices;
        return strip / of_matrix * m->rows + strip % of_matrix * m->strip_rows;
    }
    return strip < m->strips ? strip * m->strip_rows : m->matrices * m->rows;
}

/* What a pass is told and tells of the span that is at hand. */
typedef struct {
    const fastopt_tensor *tensor;
    ptrdiff_t row;              /* counted through all matrices */
    const double *of_matrix;    /* what is kept of its matrix, or NULL */
    double *of_row;             /* of the row's spans in this tile, to be added to what was 0 */
    double *of_columns;         /* of each column's rows in this tile, likewise */
    int ends_row, ends_columns; /* whether that is all of the row, of the columns: the state is to be told */
    fastopt_sum *sums;          /* of the tile, to be added to */
} fastopt_edges;

/* The functions of one dtype, for elements begin to end of a tensor, on the memory of the caller.
 *
 * scalars   fills tensor->engine.k_store for the step about to be made
 * update    makes the step
 * gather    makes the first pass of a rule that gathers, and adds to its sums
 * combine   finishes the scalars of such a rule, from its sums
 * catch_up  makes up for the steps that rows have missed
 * average   has averages take in the parameter as it is
 * tile      makes a pass of a rule of matrices over a tile
 * prepare   prepares the next pass of such a rule from the results of the passes so far
 * norm      adds the squares of the gradient to a sum
 * finite    whether the gradient is
 * traffic   moves the bytes of a step without the rule */
typedef struct {
    void (*scalars)(fastopt_tensor *tensor);
    void (*update)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end);
    void (*gather)(const fastopt_tensor *tensor, const fastopt_pass *pass, ptrdiff_t begin, ptrdiff_t end,
                   fastopt_sum *sums);
    void (*combine)(fastopt_tensor *tensor, const fastopt_sum *sums);
    void (*catch_up)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end);
    void (*average)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end);
    void (*tile)(const fastopt_tensor *tensor, const fastopt_pass *pass, int pass_index, ptrdiff_t tile,
                 fastopt_sum *sums);
    void (*prepare)(fastopt_tensor *tensor, int pass_index, const fastopt_sum *sums);
    void (*norm)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end, fastopt_sum *sum);
    int (*finite)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end);
    void (*traffic)(void *p, const void *g, void *const *state, int n_state, ptrdiff_t begin, ptrdiff_t end);
} fastopt_typed_kernels;

typedef struct {
    const char *isa;
    fastopt_typed_kernels of[2]; /* by fastopt_dtype */
} fastopt_kernels;

extern const fastopt_kernels fastopt_kernels_baseline;
#if FASTOPT_X86_TARGETS
extern const fastopt_kernels fastopt_kernels_avx2;
extern const fastopt_kernels fastopt_kernels_avx512;
#endif

/* The table in use; NULL while FASTOPT_ISA names one that is not available. */
const fastopt_kernels *fastopt_active_kernels(void);

#endif
