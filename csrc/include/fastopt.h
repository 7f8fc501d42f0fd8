/* fastopt: optimizer steps on a CPU, as fast as memory allows.
 *
 * The public C API.  A tensor describes a parameter, its gradient, its state and the rule that updates it;
 * fastopt_step() updates any number of tensors in place, in one call:
 *
 *     float p[n], g[n], m[n], v[n];                        m and v start as zeros
 *     const double hyper[] = {1e-3, 0.9, 0.999, 1e-8};     in the order of rule->hyper
 *     fastopt_tensor t = {.rule = fastopt_find_rule("adam"), .dtype = FASTOPT_FLOAT32,
 *                         .p = p, .g = g, .state = {m, v}, .n = n, .hyper = hyper};
 *     for (t.step = 1; t.step <= steps; t.step++) {
 *         ...                                              fill g
 *         fastopt_step(&t, 1, 2);                          on two threads
 *     }
 *
 * The bits of the result do not depend on the number of threads, the instruction set or the alignment.  They do not
 * depend on how an array is cut into tensors either, except with clip_norm and with rules that use rows, a whole tensor
 * or all tensors (docs/guarantees.md names them). */
#ifndef FASTOPT_H
#define FASTOPT_H

#define FASTOPT_VERSION "0.2.0"

/* A program that was compiled with this header also works with other libraries of the same ABI version: enumerations
 * and structs grow at their end only, and every call that takes tensors passes the sizes of the caller's structs
 * (fastopt_sizes).  docs/c-api.md has the rules. */
#define FASTOPT_ABI_VERSION 1

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FASTOPT_MAX_STATE = 4,    /* state buffers of a rule */
    FASTOPT_MAX_CARRY = 2,    /* doubles a rule carries from step to step, per tensor */
    FASTOPT_MAX_HYPER = 9,    /* hyperparameters of a rule */
    FASTOPT_MAX_SCALARS = 12, /* scalars a rule's loop reads, computed once per step */
    FASTOPT_MAX_SUMS = 4,     /* sums over a parameter that a rule gathers */
    FASTOPT_MAX_NDIM = 64,    /* axes of a strided tensor, as in NumPy */
};

typedef enum { FASTOPT_FLOAT32, FASTOPT_FLOAT64 } fastopt_dtype;

/* The format of a buffer.  A rule computes in the tensor's dtype; elements in another format are converted to it, and
 * rounded when they are stored.  Some formats have a second buffer, the rest. */
typedef enum {
    FASTOPT_NATIVE, /* as the tensor's dtype */
    FASTOPT_AS_FLOAT16,
    FASTOPT_AS_BFLOAT16,
    FASTOPT_AS_FLOAT32,
    FASTOPT_AS_FLOAT64,
    FASTOPT_SPLIT16,           /* a float32 as the nearest bfloat16 and, in the rest, 16 more bits: exact */
    FASTOPT_SPLIT8,            /* a float of 24 bits as the nearest bfloat16 and, in the rest, 8 more bits */
    FASTOPT_MASTER_FLOAT16,    /* a float16 and, in the rest, the float32 from which it was rounded; if the float32
                                  does not round to it, the caller has overwritten the float16, and this is the value */
    FASTOPT_MASTER_BFLOAT16,   /* the same with a bfloat16 */
    FASTOPT_CODES_SIGNED,      /* codes of 8 bits and, in the rest, a scale for each 64 elements */
    FASTOPT_CODES_NONNEGATIVE, /* the same for elements that are never negative */
} fastopt_format;

/* A format.  rest_bytes is 0 if there is no rest; the sizes of FASTOPT_NATIVE are 0. */
typedef struct {
    const char *name;
    int bytes, rest_bytes;         /* per element, and per entry of the rest */
    int group;                     /* elements that share an entry of the rest */
    int rounds;                    /* whether fastopt_rounding applies to it */
    int of_p, of_g;                /* whether p can have it; whether g can have it */
    int of_signed, of_nonnegative; /* the same for state of each kind */
} fastopt_format_info;

/* The format with this number, a fastopt_format; NULL past the last one. */
const fastopt_format_info *fastopt_format_at(int format);

/* The formats of a tensor's buffers, each a fastopt_format. */
typedef struct {
    uint8_t p, g, state[FASTOPT_MAX_STATE];
    uint8_t unused[2]; /* zeros */
} fastopt_formats;

/* Rounding of stored elements: to the nearest number, ties to even; or at random to one of the two nearest numbers, so
 * that the mean is right.  The random numbers are a hash of seed, key, step and the index of the element in the whole
 * parameter. */
typedef enum { FASTOPT_NEAREST, FASTOPT_STOCHASTIC } fastopt_rounding;

typedef enum {
    FASTOPT_OK,
    FASTOPT_BAD_HYPER,  /* a hyperparameter or option is out of range */
    FASTOPT_BAD_TENSOR, /* a rule, buffer, shape or format is missing or does not fit, or step is below 1 */
    FASTOPT_NONFINITE,  /* check_finite found NaN or infinity */
    FASTOPT_NO_MEMORY,  /* there is no memory for partial sums, or for copies of structs */
    FASTOPT_BAD_ISA,    /* FASTOPT_ISA names an instruction set that is not available here */
    FASTOPT_BAD_ABI,    /* the header of the caller has another ABI version, or the caller has set fields that this
                           library does not have */
    FASTOPT_NOT_SUMMED, /* sum_parts failed; the step has ended before its last pass */
} fastopt_status;

/* A status in words, for messages. */
const char *fastopt_status_text(fastopt_status status);

/* A hyperparameter is valid when low <= x, and x < high (x <= high where the range is closed). */
typedef struct {
    const char *name;
    double low, high;
    int closed;
    const char *range; /* the range in words */
} fastopt_hyper;

/* The shape of a state buffer: the shape of the parameter (WHOLE); the same without the last axis (ROWS) or without the
 * last but one (COLUMNS); or one element for each index of each axis, axis after axis (AXES). */
typedef enum { FASTOPT_WHOLE, FASTOPT_ROWS, FASTOPT_COLUMNS, FASTOPT_AXES } fastopt_extent;

/* The values of a state buffer: any sign; never negative; or needed to the last bit, so that the buffer is always
 * stored natively. */
typedef enum { FASTOPT_SIGNED, FASTOPT_NONNEGATIVE, FASTOPT_EXACT } fastopt_kind;

/* The passes of a rule over memory.
 *
 * ONE_PASS  one
 * BY_ROW    one, row by row: the sum of squares of a row of the last axis, then its update while it is in the cache
 * BY_GROUP  two: the first computes sums over all tensors that share hyperparameters, the second uses them
 * BY_TENSOR two: the first computes sums over one tensor, the second uses them
 * MATRICES  several: each can compute a result for each row and each column of the matrices of the last two axes; the
 *           next pass uses these */
typedef enum {
    FASTOPT_ONE_PASS,
    FASTOPT_BY_ROW,
    FASTOPT_BY_GROUP,
    FASTOPT_BY_TENSOR,
    FASTOPT_MATRICES
} fastopt_gathering;

/* An update rule.  The lists of names end with NULL. */
typedef struct {
    const char *name;
    int index;                                /* its row in rules.def; -1: from fastopt_rule_create() */
    const char *state[FASTOPT_MAX_STATE + 1]; /* buffers in the tensor's dtype, named by the letters of the paper */
    const fastopt_kind *kind;                 /* of each state buffer */
    const char *hyper[FASTOPT_MAX_HYPER + 1]; /* the learning rate comes first */
    const char *carry[FASTOPT_MAX_CARRY + 1]; /* doubles kept from step to step; the rule sets them on step 1 */
    fastopt_gathering gathers;
    int passes;                                  /* passes before the last one; for MATRICES, all passes */
    fastopt_extent extent[FASTOPT_MAX_STATE];    /* of each state buffer */
    int gather_writes;                           /* whether the first pass writes the state, not the last one */
    int caller_writes;                           /* whether the caller computes state between GATHER and UPDATE, from
                                                    all elements of the parameter */
    int starts;                                  /* whether step 1 initialises the state of all elements */
    int separate_decay;                          /* whether the hyperparameter decay of the rule is a separate term, a
                                                  share of p, so that it can be cautious */
    int catches_up;                              /* whether it has a closed form for steps with a gradient of 0 */
    const char *catch_up[FASTOPT_MAX_HYPER + 1]; /* the hyperparameters that this form reads */
    const struct fastopt_rule_tables *tables;    /* for the library: its functions and ranges */
} fastopt_rule;

/* The number of elements of the rule's s-th state buffer for a parameter of this shape. */
ptrdiff_t fastopt_state_size(const fastopt_rule *rule, int s, int ndim, const ptrdiff_t *shape);

/* Operations around the rule, in the same pass over memory, for one parameter. */
typedef struct {
    double weight_decay;      /* L2: the rule sees g + weight_decay * p */
    double decoupled_decay;   /* p is multiplied by 1 - lr * decoupled_decay - independent_decay before the rule */
    double independent_decay; /* decay that the learning rate does not scale */
    int cautious_decay;       /* decoupled decay, independent decay and the decay of a rule with separate_decay take
                                 their share of p after the rule, and only from elements that the rule moves towards 0
                                 or does not move */
    int corrected_decay; /* decoupled decay and the decay of the rule are scaled by lr / (the largest of lr, peak_lr
                            and the tensor's largest_lr) */
    double peak_lr;      /* with corrected_decay: the peak of the schedule of lr if it is known, else 0 */
    int maximize;        /* the rule sees -g */
    double ema_decay;    /* with tensor->ema: ema += (1 - ema_decay) * (p - ema) after the rule */
    int64_t swa_start;   /* with tensor->swa: the mean of p after rounds swa_start, swa_start + swa_every, ... */
    int64_t swa_every;
    int64_t lookahead_every; /* with tensor->slow, every lookahead_every steps: slow += lookahead_rate * (p - slow), p =
                                slow */
    double lookahead_rate;
} fastopt_options;

/* The strides of a parameter and a gradient, unless both are contiguous, aligned and in the same order.  The state is
 * always contiguous, in the order of this shape (last axis fastest). */
typedef struct {
    int ndim;
    ptrdiff_t shape[FASTOPT_MAX_NDIM];
    ptrdiff_t p_stride[FASTOPT_MAX_NDIM]; /* in bytes */
    ptrdiff_t g_stride[FASTOPT_MAX_NDIM];
} fastopt_layout;

/* The history of a hyperparameter.  A bias correction divides by 1 minus the product of its values over all steps. */
typedef struct {
    double value;   /* the current value */
    int64_t since;  /* the number of steps before it became the current one */
    double product; /* the product of the values in those steps */
    double age;     /* the sum, over those steps, of a gradient's weight in the running mean times its age in steps */
} fastopt_decay;

typedef struct {
    const fastopt_rule *rule;
    fastopt_dtype dtype;
    ptrdiff_t n;                    /* elements */
    void *p;                        /* the parameter, updated in place */
    const void *g;                  /* its gradient; NULL leaves the tensor alone */
    void *state[FASTOPT_MAX_STATE]; /* the rule's buffers, updated in place */
    fastopt_formats formats; /* of p, g and state; zeros: all native.  p must be native with FASTOPT_FLOAT64; state must
                                be native unless it has p's shape; rules of MATRICES take no codes */
    void *p_rest, *state_rest[FASTOPT_MAX_STATE]; /* the rests, contiguous like the state */
    ptrdiff_t offset;  /* index of its first element in the whole parameter, so that a part is stored like the whole; a
                          multiple of 64 with codes */
    ptrdiff_t whole_n; /* elements of the whole parameter, if this is a part of it; else 0 */
    fastopt_rounding rounding;
    uint64_t seed, key; /* of the random numbers; each parameter has its own key */
    double *carry;      /* the rule's carried doubles, updated in place */
    int64_t step;       /* the next step, counted from 1 */
    int ndim;           /* axes of the parameter, and its shape: for rules of MATRICES and BY_ROW */
    const ptrdiff_t *shape;
    const double *hyper;            /* the rule's hyperparameters; tensors that share the pointer share scalars */
    fastopt_decay *decays;          /* one for each hyperparameter, written by each step; NULL if those of
                                       fastopt_rule_corrected() never change */
    ptrdiff_t clip_group;           /* with clip_norm: adjacent tensors with the same number share one norm */
    double grad_norm;               /* output, with clip_norm: the norm of its clip group after grad_scale, before
                                       clipping */
    const fastopt_options *options; /* NULL: none */
    const fastopt_layout *layout;   /* NULL: p and g are contiguous and aligned */
    void *ema, *swa, *slow;         /* averages of p, in its shape and dtype; NULL: none; step 1 sets them to p before
                                       the step */
    double *largest_lr; /* with corrected_decay, updated: the largest learning rate so far, 0 before step 1; NULL: the
                           caller knows peak_lr */
    int64_t round;      /* with ema or swa: the step of the list of tensors, counted from 1; 0: the same as step */
    int64_t begun;      /* with round, set by step 1: the round before step 1; swa counts from there */
    int64_t averaged;   /* with round, updated: the last round that ema and swa include, below 0 if none; the next step
                           adds the rounds in between with p as it is (see fastopt_average) */
    int64_t *averaged_rows; /* with rows and ema or swa: the same for each row of p; `averaged` is not read */
    const int64_t *rows;    /* not NULL: the gradient has only these n / row_length rows of p, which must all differ;
                               not with layout or slow */
    ptrdiff_t row_length;
    ptrdiff_t row_count;              /* with rows: the number of rows of p, read if some state has codes */
    const void *const *row_gradients; /* with rows: the gradient of each; g must not be NULL, but is not read */
    int64_t *last_step;  /* not NULL: the last step of each row of p; the next step first catches up on the steps in
                            between, with gradients of zero (see fastopt_rule_catch_up) */
    struct {             /* set by the engine */
        ptrdiff_t start; /* the units of work in the tensors before this one */
        struct fastopt_matrices *matrices;
        int has_missed_rows; /* whether rows may have missed steps */
        ptrdiff_t grain;     /* a thread's part begins at a multiple of it; 0: all formats are native */
        uint64_t random_key; /* of this step */
        int64_t gathered;    /* the step that GATHER has prepared; 0: none */
        double scale;        /* factor of the gradient */
        const void *k;       /* the scalars of this step: in k_store of this tensor or of an earlier one */
        union {
            float f32[FASTOPT_MAX_SCALARS];
            double f64[FASTOPT_MAX_SCALARS];
        } k_store;
    } engine;
} fastopt_tensor;

/* A tuner chooses the number of threads by the mean time of the steps in the caller's loop.  Threads that make a loop
 * of steps alone faster can make steps slower if other threads of the caller use the CPUs.  A tuner starts as zeros and
 * belongs to one list of tensors and one part of their step. */
enum { FASTOPT_MAX_CHOICES = 9 }; /* 1, 2, 4, ... 256 threads */
typedef struct {
    int threads, limit;                 /* the choice, 0: none yet; the largest choice allowed */
    int trial, trial_steps;             /* the number of threads on trial, 0: none; steps left in the trial */
    int tried_more;                     /* whether the last trial was of more threads than the choice */
    int ignored_steps;                  /* steps to come whose time is ignored, at least */
    double seconds_left;                /* time until these steps, or the trial, may end */
    int is_new;                         /* whether no time has been recorded */
    int since_trial;                    /* steps since the last trial */
    double time[FASTOPT_MAX_CHOICES];   /* for each choice: the sum of seconds per element; recent steps weigh more */
    double square[FASTOPT_MAX_CHOICES]; /* for each choice: the sum of their squares, with the same weights */
    double weight[FASTOPT_MAX_CHOICES]; /* for each choice: the sum of the weights */
    double step_weight;                 /* the weight of the next step */
    double credit;                      /* seconds per element that trials may cost */
    int n_recent;                       /* the number of times written to `recent` */
    int changed_medians;                /* how often in a row the median of `recent` was far from first_median */
    double recent[8];                   /* a ring buffer: times of the last steps with the choice */
    double first_median;                /* the first median of `recent` after the choice */
} fastopt_tuner;

/* A step can be made in two calls, on the same tensors in the same memory.  GATHER computes norms, scalars and sums,
 * and checks the gradients.  UPDATE makes the step with them; it does not read grad_scale, clip_norm and check_finite,
 * and returns FASTOPT_BAD_TENSOR unless a GATHER came before.  Between the two the caller may write the state that the
 * rule leaves to it, such as the u of Muon. */
typedef enum { FASTOPT_ALL, FASTOPT_GATHER, FASTOPT_UPDATE } fastopt_part;

/* Adds up sums over processes, so that a step has sums over whole parameters.  Each process has a part of some
 * parameters.  `values` has `columns` numbers for each tensor of the call, tensor by tensor.  If a tensor is a part,
 * the function replaces its numbers by their sums over all parts of the parameter.  Other numbers stay.  Returns 0 if
 * it fails.
 *
 * The engine calls it on the thread that makes the step: for the norms of clip_norm, for check_finite, and after the
 * passes of rules that gather.  All processes call it equally often if they step the same parameters with the same
 * options.  After a pass of a rule with gather_writes or of MATRICES, the state has changed already: if the function
 * fails there, the state does not fit the parameter. */
typedef int fastopt_sum_parts(void *data, double *values, ptrdiff_t columns);

typedef struct {
    int num_threads;      /* at least 1; with a tuner, the most that it may choose */
    fastopt_tuner *tuner; /* NULL: num_threads is used */
    int check_finite;     /* return FASTOPT_NONFINITE for gradients with NaN or infinity, after one pass over them */
    double grad_scale;    /* gradients are first divided by it; 0: no division */
    double clip_norm;     /* above 0: gradients are scaled by min(1, clip_norm / (norm of their clip group + 1e-6)); a
                             norm of NaN makes them NaN; infinity: norms are computed, and nothing is clipped */
    double clip_value;    /* above 0: each element is then clipped to +-clip_value; infinity: no clipping */
    fastopt_part part;    /* of the step that this call makes */
    int zero_grads;       /* set gradients, but not gradients of rows, to zero after use: their memory must be writable,
                             and no two may overlap */
    double grad_norm;     /* output, with clip_norm: the norm of all gradients after grad_scale, before clipping */
    fastopt_sum_parts *sum_parts; /* NULL: this process has all of each parameter */
    void *data;                   /* the first argument of sum_parts */
} fastopt_call;

/* The ABI version and the sizes of the caller's structs.  The functions below that end with _sized are in the library;
 * the inline functions after them pass the sizes of this header.  A library with other sizes works on copies. */
typedef struct {
    uint32_t abi_version, tensor, options, call;
} fastopt_sizes;

fastopt_status fastopt_step_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads);
fastopt_status fastopt_step_with_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count,
                                       fastopt_call *call);
fastopt_status fastopt_average_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads);
fastopt_status fastopt_catch_up_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

static inline fastopt_sizes fastopt_header_sizes(void)
{
    const fastopt_sizes sizes = {FASTOPT_ABI_VERSION, sizeof(fastopt_tensor), sizeof(fastopt_options),
                                 sizeof(fastopt_call)};
    return sizes;
}

/* Makes one optimizer step for all tensors with a gradient, on at most num_threads threads (at least 1): the thread of
 * the caller and threads of the library.  A caller that makes steps on several threads of its own, as in a region of
 * OpenMP, passes 1.  Everything is checked before the first write: unless it returns FASTOPT_OK, nothing was written
 * (but see fastopt_sum_parts). */
static inline fastopt_status fastopt_step(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    return fastopt_step_sized(fastopt_header_sizes(), tensors, count, num_threads);
}

/* fastopt_step() with options. */
static inline fastopt_status fastopt_step_with(fastopt_tensor *tensors, ptrdiff_t count, fastopt_call *call)
{
    return fastopt_step_with_sized(fastopt_header_sizes(), tensors, count, call);
}

/* Updates ema and swa of tensors without a gradient, if their step is above 1 and their round is set.  All rounds after
 * `averaged` count with p as it is now.  For k rounds this is ema = p + ema_decay^k (ema - p), to rounding. */
static inline fastopt_status fastopt_average(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    return fastopt_average_sized(fastopt_header_sizes(), tensors, count, num_threads);
}

/* Lets all rows of tensors with last_step and g (which is not read) catch up on missed steps, up to the step before the
 * next one. */
static inline fastopt_status fastopt_catch_up(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    return fastopt_catch_up_sized(fastopt_header_sizes(), tensors, count, num_threads);
}

/* A step that another language has bound to parameters and gradients: step(bound) makes it.  Returns a fastopt_status,
 * FASTOPT_OK also for a step that the optimizer skips. */
typedef struct {
    int (*step)(void *bound);
    void *bound;
} fastopt_bound_step;
#define FASTOPT_BOUND_STEP "fastopt_bound_step" /* the name of the PyCapsule that Python's optimizers give */

/* Whether a rule accepts gradients of rows: it needs no sums over a whole parameter, and its first step does not set
 * state of all elements. */
int fastopt_rule_takes_rows(const fastopt_rule *rule);

/* For gradients of rows: writes the rows without repetition to `unique`, in the order of their first occurrence, and
 * the index in `unique` of each given row to `places`.  Returns the number of unique rows, or one of these errors. */
enum { FASTOPT_ROWS_NO_MEMORY = -1, FASTOPT_ROWS_BEYOND = -2 /* a row is not in [0, limit) */ };
ptrdiff_t fastopt_unique_rows(const int64_t *rows, ptrdiff_t count, int64_t limit, int64_t *unique, ptrdiff_t *places);

/* After fastopt_unique_rows(): points gradients[i] to the gradient of unique row i.  This is the row of `values`
 * itself, or, if the row occurs several times, the sum of its rows of `values`, added up in the order of occurrence.
 * `gradients` starts as NULLs; `sums` has room for one row per repetition. */
void fastopt_row_gradients(fastopt_dtype dtype, const void *values, const ptrdiff_t *places, ptrdiff_t count,
                           ptrdiff_t row_length, const void **gradients, void *sums);

/* The hyperparameters that a rule reads to catch up on steps with a gradient of zero.  The result equals those steps,
 * to rounding, if these hyperparameters have not changed since.  NULL: the rule cannot catch up.  With weight decay no
 * rule can. */
const char *const *fastopt_rule_catch_up(const fastopt_rule *rule);

/* The hyperparameters of a rule whose powers correct the bias of running means that start from 0; ends with NULL. */
const char *const *fastopt_rule_corrected(const fastopt_rule *rule);

/* Whether a tensor's gradient has neither NaN nor infinity. */
int fastopt_finite(const fastopt_tensor *tensor);

/* ---- Rules of the caller's own ---- */

/* The loops of a rule: update n elements of p and of its state from g.  `state` points to the array of pointers to the
 * state buffers, which have the type of p.  `scalars` points to an array of the same type: the hyperparameters, then
 * the scalars, then the combined scalars.  Buffers do not overlap.  Each element must depend on its own p, g and state
 * alone, so that results do not depend on threads and slices.  Loops run on several threads at once, with subnormals
 * flushed to zero. */
typedef void fastopt_loop_float32(float *p, const float *g, const void *state, const void *scalars, ptrdiff_t n);
typedef void fastopt_loop_float64(double *p, const double *g, const void *state, const void *scalars, ptrdiff_t n);

/* Inputs of the scalars of a step: arrays with an entry for each hyperparameter.  The last three arrays have numbers
 * for hyperparameters that are `corrected`, and 0 for others. */
typedef struct {
    const double *hyper;
    const double *product;   /* the product of its values over steps 1 to t: beta^t if it never changes */
    const double *weight;    /* the weight of all gradients in the mean m = beta m + (1 - beta) g, with beta as the loop
                                reads it: 1 - product, corrected for the rounding of beta */
    const double *lost_mean; /* the largest error of the mean of squares v = beta v + (1 - beta) g^2, since subnormals
                                are flushed to zero */
} fastopt_scalar_inputs;

/* Computes the scalars of step t (from 1), which the loop reads rounded to its type. */
typedef void fastopt_scalars(int64_t t, const fastopt_scalar_inputs *in, double *scalars);

/* A number from the terms of all elements of a parameter, computed in double: their sum; their mean; the root of the
 * sum of their squares; the root of the mean of their squares. */
typedef enum { FASTOPT_SUM, FASTOPT_MEAN, FASTOPT_NORM, FASTOPT_RMS } fastopt_reduction;

/* The first pass of a rule that needs such numbers: for n elements, writes the term of each reduction.  `terms` points
 * to the array of pointers to the terms; the other arguments are as in the loops.  The combined scalars are not set
 * yet. */
typedef void fastopt_gather_float32(const float *p, const float *g, const void *state, const void *scalars,
                                    const void *terms, ptrdiff_t n);
typedef void fastopt_gather_float64(const double *p, const double *g, const void *state, const void *scalars,
                                    const void *terms, ptrdiff_t n);

/* Computes the combined scalars of step t from the reductions over the parameter. */
typedef void fastopt_combine(int64_t t, const fastopt_scalar_inputs *in, const double *reduced, double *scalars);

/* A rule of the caller's own, for fastopt_rule_create().  Lists end with NULL, or with an entry whose name is NULL;
 * names are identifiers. */
typedef struct {
    size_t size; /* sizeof(fastopt_rule_spec): a later library knows by it which fields the caller has */
    const char *name;
    const char *const *state;   /* NULL: none; at most FASTOPT_MAX_STATE */
    const fastopt_kind *kind;   /* of each state buffer; NULL: all FASTOPT_SIGNED */
    const fastopt_hyper *hyper; /* at most FASTOPT_MAX_HYPER, each with its range also in words; the first is lr, from 0
                                   to infinity */
    const int *corrected;       /* for each hyperparameter whether it corrects the bias of a running mean: then its
                                   range lies in [0, 1).  NULL: none does */
    int n_scalars;              /* with the hyperparameters at most FASTOPT_MAX_SCALARS */
    fastopt_scalars *scalars;   /* NULL if there are none */
    fastopt_loop_float32 *float32;
    fastopt_loop_float64 *float64;
    /* For a rule that needs sums over a whole parameter; zeros for others. */
    int n_sums;                          /* at most FASTOPT_MAX_SUMS */
    const fastopt_reduction *reductions; /* of each sum */
    fastopt_gather_float32 *gather_float32;
    fastopt_gather_float64 *gather_float64;
    int gather_writes;        /* whether the first pass writes the state; the loop then must not */
    int n_combined;           /* combined scalars: the loop reads them after the others; all are at most
                                 FASTOPT_MAX_SCALARS */
    fastopt_combine *combine; /* computes them */
} fastopt_rule_spec;

/* Makes a rule, which tensors use like a built-in one.  It copies the spec, except the functions.  If the spec is not
 * valid or there is no memory, it returns NULL and writes the problem in words to `problem`, a buffer of `length` bytes
 * or NULL. */
fastopt_rule *fastopt_rule_create(const fastopt_rule_spec *spec, char *problem, size_t length);

/* Frees a rule from fastopt_rule_create(), which no tensor may use from then on; NULL is ignored. */
void fastopt_rule_destroy(fastopt_rule *rule);

/* ---- Queries ---- */

/* The rule of this name, or NULL; the rule at this index, or NULL past the last. */
const fastopt_rule *fastopt_find_rule(const char *name);
const fastopt_rule *fastopt_rule_at(int index);

/* The range of a built-in hyperparameter or option by name, or NULL; the range of the i-th hyperparameter of a rule;
 * whether a value lies in a range. */
const fastopt_hyper *fastopt_find_hyper(const char *name);
const fastopt_hyper *fastopt_rule_hyper(const fastopt_rule *rule, int i);
int fastopt_in_range(const fastopt_hyper *hyper, double value);

/* Decodes a whole buffer, in a format other than FASTOPT_NATIVE, to floats; encodes floats in such a format, rounded to
 * nearest. */
fastopt_status fastopt_decode(fastopt_format format, const void *data, const void *rest, ptrdiff_t n, float *out);
fastopt_status fastopt_encode(fastopt_format format, const float *x, ptrdiff_t n, void *data, void *rest);

/* The instruction set in use: the fastest that this CPU can run, or the one that FASTOPT_ISA names.  NULL if that is
 * not available; then every step returns FASTOPT_BAD_ISA. */
const char *fastopt_isa(void);

/* The version of the library, its FASTOPT_ABI_VERSION, and the compiler that built it. */
const char *fastopt_version(void);
int fastopt_abi_version(void);
const char *fastopt_compiler(void);
int fastopt_openmp(void); /* the OpenMP date, such as 201511, if OpenMP starts the threads; 0 if the system does */

#ifdef __cplusplus
}
#endif
#endif
