/* The internal interface of the engine.
 *
 * step.c    the order of a step
 * plan.c    checks, scalars, rows that have missed steps
 * passes.c  a pass over the tensors, cut into units that threads claim
 * sums.c    norms, clipping factors, and the first passes of rules that gather
 * tiles.c   matrices, cut into tiles
 * sizes.c   structs of programs that were compiled with another version of the header */
#ifndef FASTOPT_ENGINE_H
#define FASTOPT_ENGINE_H

#include "../kernels/kernels.h"

enum {
    CHUNK = 16 * 1024, /* elements per claim and per piece: large enough to hide the atomic operation, small enough
                          that a thread that loses its core delays the others little */
    CACHE_LINE = 64,
};

/* Unit of work of a pass.  Elements: of all tensors, of tensors without tiles, or of tensors at rest, which have
 * averages but no gradient.  For sums: pieces of CHUNK elements of a tensor, and tiles of matrices.  Pieces and tiles
 * are fixed and have their own sums, so that results do not depend on threads. */
typedef enum { ELEMENTS, ELEMENTS_WITHOUT_TILES, ELEMENTS_AT_REST, PIECES, GATHERED_PIECES } fastopt_unit;

typedef struct fastopt_job fastopt_job;
typedef struct fastopt_share fastopt_share;

/* Works on units begin to end of a tensor. */
typedef void fastopt_visit(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end);

/* One step: passes over the tensors that have a gradient. */
struct fastopt_job {
    const fastopt_kernels *kernels;
    fastopt_call *call;
    fastopt_tensor *tensors;
    ptrdiff_t count, elements;
    int gathers;          /* whether some rule gathers */
    int notes_steps;      /* whether some tensor or row records its last step or round */
    ptrdiff_t n_matrices; /* tensors that have tiles */
    int pass_index;       /* of the gathering passes */
    int threads;
    fastopt_pass pass;
    fastopt_sum (*sums)[FASTOPT_MAX_SUMS]; /* of every piece */
    double *of_parts;                      /* the sums of every tensor over its parts; NULL: there are no parts */
    double seconds_waited;                 /* for these sums */
    volatile ptrdiff_t nonfinite;          /* chunks with NaN or infinity */
    /* The current pass. */
    fastopt_unit unit;
    ptrdiff_t units, claim; /* their number, and the number that a thread claims at a time */
    fastopt_visit *visit;
    fastopt_share *shares;
    int n_shares;
};

/* Whether a tensor has tiles. */
static inline int has_tiles(const fastopt_tensor *t)
{
    return t->g && t->n && t->rule->gathers == FASTOPT_MATRICES;
}

/* Whether the rule of a tensor takes part in the current gathering pass. */
static inline int gathers_now(const fastopt_job *job, const fastopt_tensor *t)
{
    return t->g && job->pass_index < t->rule->passes;
}

/* Whether a tensor has averages that move although it makes no step.  A step in this round has moved them already. */
static inline int is_averaged_at_rest(const fastopt_tensor *t)
{
    const int lacks_rounds = t->averaged_rows || t->averaged != t->round;
    return !t->g && (t->ema || t->swa) && t->step > 1 && t->round > 0 && lacks_rounds;
}

/* The end of part i when `whole` is cut into equal parts.  Neither product overflows. */
static inline ptrdiff_t part_end(ptrdiff_t whole, int parts, int i)
{
    return whole / parts * (i + 1) + whole % parts * (i + 1) / parts;
}

/* ---- plan.c ---- */

/* Whether all tensors with a gradient can make a step.  Sets their grains. */
fastopt_status fastopt_check(fastopt_tensor *tensors, ptrdiff_t count);

/* Whether the averages of all tensors at rest can be updated.  Sets their grains. */
fastopt_status fastopt_check_averages(fastopt_tensor *tensors, ptrdiff_t count);

/* Computes the scalars of this step, once for tensors that share them. */
void fastopt_compute_scalars(const fastopt_job *job);

/* Sets has_missed_rows of each tensor. */
void fastopt_find_missed_rows(fastopt_job *job);

/* Records that tensors with a gradient, or their rows, include this step, plus `offset`. */
void fastopt_note_steps(const fastopt_job *job, int64_t offset);

/* Records that the averages of tensors at rest include this round. */
void fastopt_note_rounds(fastopt_tensor *tensors, ptrdiff_t count);

/* ---- passes.c ---- */

/* Sets the start of each tensor among the units of a pass. */
void fastopt_locate(fastopt_job *job, fastopt_unit unit);

/* Sets the number of elements and the largest useful number of threads. */
void fastopt_begin_passes(fastopt_job *job, fastopt_unit unit, int num_threads);

/* Visits all units, on several threads. */
void fastopt_make_pass(fastopt_job *job, fastopt_unit unit, fastopt_visit *visit);

/* ---- sums.c ---- */

enum { FEW_PIECES = 64 };

/* Allocates the sums of all pieces, or uses `few` if they fit.  Returns 0 if there is no memory. */
int fastopt_allocate_sums(fastopt_job *job, fastopt_sum (*few)[FASTOPT_MAX_SUMS]);

/* Multiplies the factor of every gradient by the factor that clips it by the norm of its clip group. */
fastopt_status fastopt_clip_by_norm(fastopt_job *job);

/* FASTOPT_NONFINITE if this process has found NaN or infinity in a gradient, or another one in a part of it. */
fastopt_status fastopt_agree_on_finite(fastopt_job *job);

/* Stores the factors of a GATHER in the tensors, and loads them for the UPDATE. */
void fastopt_store_factors(const fastopt_job *job);
void fastopt_load_factors(fastopt_job *job);

/* Makes the first passes of rules that gather; the last pass then runs like a rule of one pass. */
fastopt_status fastopt_gather(fastopt_job *job);

/* ---- tiles.c ---- */

/* Cuts all matrices into tiles and allocates the results of their passes; the caller frees the block.  NULL: no memory.
 */
void *fastopt_lay_out_matrices(fastopt_job *job);

/* ---- sizes.c ---- */

/* Copies a struct of a caller into one of this library; fields that the caller does not have are zeros.  Returns 0 if
 * the caller has set fields that this library does not have. */
int fastopt_read_struct(void *own, size_t own_size, const void *theirs, size_t size);

/* The reverse, for results. */
void fastopt_write_struct(void *theirs, size_t size, const void *own, size_t own_size);

/* A call of the C API on tensors. */
typedef fastopt_status fastopt_operation(fastopt_tensor *tensors, ptrdiff_t count, void *argument);

/* Runs the operation on copies of tensors whose structs have these sizes. */
fastopt_status fastopt_on_copies(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count,
                                 fastopt_operation *operation, void *argument);

#endif
