/* The table of kernels, which one file per instruction set fills.  System headers are included here, before the target
 * pragmas of these files. */
#ifndef FASTOPT_KERNELS_H
#define FASTOPT_KERNELS_H

#include "../math/exact.h"
#include "../math/norm.h"
#include "../platform.h"
#include "../rules/decays.h"
#include "../rules/rules.h"
#include "../storage/formats.h"
#include "../storage/random.h"
#include "sizes.h"
#include "weight_decay.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The operations of a pass on every gradient. */
typedef struct {
    double scale, clip_value; /* multiply by scale, then clip; infinity: do not clip */
    int own_scales;           /* multiply by tensor->engine.scale instead */
    int zero_grads;
    int plain; /* none of these */
} fastopt_pass;

/* A tensor as matrices over its last two axes, cut into tiles of about TILE elements: strips of rows, cut into columns.
 * A strip holds rows of one matrix, or several whole matrices that are small.  A pass visits a tile row by row, and a
 * row span by span.
 *
 * The result of a pass for the part of a row or column in one tile is stored separately, so that it does not depend on
 * threads.  If a tile holds the whole row (or column), and matrices do not share state, the pass updates the state
 * directly: results of short rows would take as much memory as the tensor. */
typedef struct fastopt_matrices {
    ptrdiff_t matrices, rows, columns;
    ptrdiff_t strips, strip_rows, column_tiles;
    ptrdiff_t last_axis; /* index of the first entry of the last axis in a state buffer of AXES */
    double kept[2];      /* numbers that the rule passes from pass to pass */
    double *of_matrices; /* the same, by matrix; NULL if matrices share state */
    double *of_rows;     /* results by matrix, tile of columns and row; NULL: the pass updates the state */
    double *of_columns;  /* results by strip and column; NULL: likewise */
} fastopt_matrices;

/* The first row of a strip, counted through all matrices.  A strip never crosses the end of a matrix that is cut. */
static inline ptrdiff_t fastopt_strip_begin(const fastopt_matrices *m, ptrdiff_t strip)
{
    if (m->strip_rows < m->rows) {
        const ptrdiff_t of_matrix = m->strips / m->matrices;
        return strip / of_matrix * m->rows + strip % of_matrix * m->strip_rows;
    }
    return strip < m->strips ? strip * m->strip_rows : m->matrices * m->rows;
}

/* Inputs and outputs of a pass for one span. */
typedef struct {
    const fastopt_tensor *tensor;
    ptrdiff_t row;              /* counted through all matrices */
    const double *of_matrix;    /* the entry of its matrix in of_matrices, or NULL */
    double *of_row;             /* output for this row in this tile; starts as 0, and each span adds to it */
    double *of_columns;         /* output for each column in this tile, likewise */
    int ends_row, ends_columns; /* whether the output covers the whole row, or the whole columns: then the pass updates
                                   the state */
    fastopt_sum *sums;          /* output for the tile; the pass adds to it */
} fastopt_span;

/* The number of elements of the whole parameter. */
static inline ptrdiff_t fastopt_whole_n(const fastopt_tensor *tensor)
{
    return tensor->whole_n ? tensor->whole_n : tensor->n;
}

/* Memory of a buffer or of its rest: `bytes` for each group of elements. */
typedef struct {
    char *memory;
    ptrdiff_t bytes, group;
    int is_read_only;
} fastopt_stream;

/* The functions of one dtype, for elements begin to end of a tensor.
 *
 * scalars   computes the scalars of the next step, in tensor->engine.k_store
 * update    makes the step
 * gather    makes the first pass of a rule that gathers: adds to its sums
 * combine   finishes the scalars of such a rule, from its sums
 * catch_up  lets rows catch up on missed steps
 * average   updates the averages of a tensor at rest
 * tile      makes a pass of a rule of matrices over a tile
 * prepare   prepares the next pass of such a rule from the results of the passes so far
 * norm      adds the squares of the gradient to a sum
 * finite    whether the gradient is
 * traffic   moves the bytes of a step, without the rule
 * move      the same for buffers in other formats
 * load_all  loads a whole buffer that is stored in another format
 * store_all stores one, rounded to nearest */
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
    void (*move)(const fastopt_stream *streams, int count, ptrdiff_t begin, ptrdiff_t end);
    void (*load_all)(const fastopt_buffer *from, ptrdiff_t n, void *out);
    void (*store_all)(const void *x, const fastopt_buffer *to, ptrdiff_t n);
} fastopt_typed_kernels;

typedef struct {
    const char *isa;
    fastopt_typed_kernels by_dtype[2];
} fastopt_kernels;

#define TABLE(isa, ...) extern const fastopt_kernels fastopt_kernels_##isa;
FASTOPT_ISAS(TABLE)
#undef TABLE

/* The table in use; NULL if FASTOPT_ISA names an instruction set that is not available. */
const fastopt_kernels *fastopt_active_kernels(void);

#endif
