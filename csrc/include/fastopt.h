/* fastopt: optimizer steps on a CPU, as fast as memory allows.
 *
 * The public C API.  A tensor says where a parameter, its gradient and its state live and which rule moves it;
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
 * The result does not depend, to the last bit, on the number of threads, the instruction set or the alignment; nor,
 * but for clip_norm and for rules that look at all of a tensor or of all tensors (docs/guarantees.md names them), on
 * how one array is cut into tensors. */
#ifndef FASTOPT_H
#define FASTOPT_H

#define FASTOPT_VERSION "0.1.0"

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
    FASTOPT_MAX_NDIM = 64,    /* axes of a strided tensor, as in NumPy */
};

typedef enum { FASTOPT_FLOAT32, FASTOPT_FLOAT64 } fastopt_dtype;

/* How a buffer is stored.  A rule computes in the tensor's dtype; elements in another format are loaded into it, and
 * rounded when they are stored.  Some formats have a second part, the buffer's rest. */
typedef enum {
    FASTOPT_NATIVE, /* as the tensor's dtype */
    FASTOPT_AS_FLOAT16,
    FASTOPT_AS_BFLOAT16,
    FASTOPT_AS_FLOAT32,
    FASTOPT_AS_FLOAT64,
    FASTOPT_SPLIT16,           /* a float32 as the bfloat16 next to it and, in the rest, 16 bits more: exact */
    FASTOPT_SPLIT8,            /* a float of 24 bits as the bfloat16 next to it and 8 bits more */
    FASTOPT_MASTER_FLOAT16,    /* a float16, and in the rest the float32 that it is the rounding of; where it is not, */
    FASTOPT_MASTER_BFLOAT16,   /* it has been overwritten, and counts.  The same of a bfloat16 */
    FASTOPT_CODES_SIGNED,      /* codes of 8 bits, and in the rest one scale for every 64 elements */
    FASTOPT_CODES_NONNEGATIVE, /* the same for elements that are never negative */
} fastopt_format;

/* A format.  rest_bytes is 0 where there is no rest; sizes of FASTOPT_NATIVE are 0. */
typedef struct {
    const char *name;
    int bytes, rest_bytes;         /* of an element, and of an entry of the rest */
    int group;                     /* elements that share an entry of the rest */
    int rounds;                    /* whether fastopt_rounding matters to it */
    int of_p, of_g;                /* which buffers can be stored so; of state, */
    int of_signed, of_nonnegative; /* which kinds */
} fastopt_format_info;

/* By fastopt_format; NULL past the last. */
const fastopt_format_info *fastopt_format_at(int format);

/* The formats of a tensor's buffers, each a fastopt_format. */
typedef struct {
    uint8_t p, g, state[FASTOPT_MAX_STATE];
    uint8_t unused[2]; /* zeros */
} fastopt_formats;

/* How elements are rounded when they are stored: to the nearest number, halfway to the even one; or to one of the two
 * nearest at random, so that the mean is right.  Then the random numbers are a hash of seed, key, step and the place of
 * the element in the whole parameter. */
typedef enum { FASTOPT_NEAREST, FASTOPT_STOCHASTIC } fastopt_rounding;

typedef enum {
    FASTOPT_OK,
    FASTOPT_BAD_HYPER,  /* a hyperparameter or option is out of range */
    FASTOPT_BAD_TENSOR, /* a missing rule, buffer or hyperparameter, or a step below 1 */
    FASTOPT_NONFINITE,  /* check_finite found NaN or infinity */
    FASTOPT_NO_MEMORY,  /* for the sums that a norm is made of */
    FASTOPT_BAD_ISA,    /* FASTOPT_ISA names an instruction set that is not available here */
} fastopt_status;

/* A hyperparameter is valid when low <= x, and x < high (x <= high where the range is closed). */
typedef struct {
    const char *name;
    double low, high;
    int closed;
    const char *range; /* the same in words */
} fastopt_hyper;

/* The shape of a state buffer: that of the parameter (WHOLE), without its last axis (ROWS) or without its last but one
 * (COLUMNS); or an element for each index of each axis, one axis after the other (AXES). */
typedef enum { FASTOPT_WHOLE, FASTOPT_ROWS, FASTOPT_COLUMNS, FASTOPT_AXES } fastopt_extent;

/* The values of a state buffer: of any sign; never negative; or such that the rule needs each bit, so that the buffer
 * is stored natively. */
typedef enum { FASTOPT_SIGNED, FASTOPT_NONNEGATIVE, FASTOPT_EXACT } fastopt_kind;

/* The passes of a rule over memory.
 *
 * ONE_PASS  one
 * BY_ROW    one: the sum of squares of a row of the last axis, which stays in the cache, comes before its update
 * TOGETHER  two: the first computes sums over all tensors that share hyperparameters, the second uses them
 * ALONE     two: the first computes sums over one tensor
 * MATRICES  several: each can compute results of each row and each column of the matrices that the last two axes of a
 *           tensor make, and the next one uses them */
typedef enum { FASTOPT_ONE_PASS, FASTOPT_BY_ROW, FASTOPT_TOGETHER, FASTOPT_ALONE, FASTOPT_MATRICES } fastopt_gathering;

/* An update rule.  The lists of names end with NULL. */
typedef struct {
    const char *name;
    int index;                                /* its row in rules.def */
    const char *state[FASTOPT_MAX_STATE + 1]; /* buffers of the parameter's dtype, by the paper's letters */
    const fastopt_kind *kind;                 /* of each state buffer */
    const char *hyper[FASTOPT_MAX_HYPER + 1]; /* the learning rate comes first */
    const char *carry[FASTOPT_MAX_CARRY + 1]; /* doubles kept from step to step, set by the rule itself on step 1 */
    fastopt_gathering gathers;
    int passes;                                  /* passes before the last one; of MATRICES all passes */
    fastopt_extent extent[FASTOPT_MAX_STATE];    /* of each state buffer */
    int gather_writes;                           /* whether the pass that gathers writes the state, not the last one */
    int starts;                                  /* whether the first step sets state of all elements */
    int decays_apart;                            /* whether the decay of the rule, its hyperparameter decay, only takes
                                                    a share of p, so that it can be cautious */
    int catches_up;                              /* whether it has a closed form for steps whose gradient is 0, */
    const char *catch_up[FASTOPT_MAX_HYPER + 1]; /* and the hyperparameters that this form reads */
} fastopt_rule;

/* The elements of the rule's s-th state buffer for a parameter of this shape. */
ptrdiff_t fastopt_state_size(const fastopt_rule *rule, int s, int ndim, const ptrdiff_t *shape);

/* Operations around the rule, in the same pass over memory, for one parameter. */
typedef struct {
    double weight_decay;      /* L2: the rule sees g + weight_decay * p */
    double decoupled_decay;   /* p is multiplied by 1 - lr * decoupled_decay - independent_decay before the rule */
    double independent_decay; /* decay that the learning rate does not scale */
    int cautious_decay;       /* these two, or the decay of a rule that decays_apart, take their share of p after the
                                 rule instead, and only of elements that the rule moves towards 0 or leaves */
    int corrected_decay;      /* decoupled decay and the decay of the rule are scaled by lr / largest lr, the largest of
                                 lr, peak_lr and the tensor's largest_lr */
    double peak_lr;           /* with corrected_decay: the peak of the schedule of lr where it is known, else 0 */
    int maximize;             /* the rule sees -g */
    double ema_decay;         /* with tensor->ema: ema += (1 - ema_decay) * (p - ema) after the rule */
    int64_t swa_start;        /* with tensor->swa: the mean of p after rounds swa_start, swa_start + swa_every, ... */
    int64_t swa_every;
    int64_t
        lookahead_every; /* with tensor->slow, on every so many steps: slow += lookahead_rate * (p - slow), p = slow */
    double lookahead_rate;
} fastopt_options;

/* The strides of a parameter and a gradient that are not both contiguous, aligned and in the same order.  The state is
 * always contiguous, in the order of this shape (last axis fastest). */
typedef struct {
    int ndim;
    ptrdiff_t shape[FASTOPT_MAX_NDIM];
    ptrdiff_t p_stride[FASTOPT_MAX_NDIM]; /* in bytes */
    ptrdiff_t g_stride[FASTOPT_MAX_NDIM];
} fastopt_layout;

/* The values that a hyperparameter had on the steps so far.  A bias correction divides by 1 minus their product. */
typedef struct {
    double value;   /* the current value */
    int64_t since;  /* steps made before it was the current one */
    double product; /* of the values on those steps */
    double age;     /* the sum over those steps of the gradient's weight in the running mean times its age in steps */
} fastopt_decay;

typedef struct {
    const fastopt_rule *rule;
    fastopt_dtype dtype;
    ptrdiff_t n;                    /* elements */
    void *p;                        /* the parameter, updated in place */
    const void *g;                  /* its gradient; NULL leaves the tensor alone */
    void *state[FASTOPT_MAX_STATE]; /* the rule's buffers, updated in place */
    fastopt_formats formats;        /* of these; zeros: all native.  p is native with FASTOPT_FLOAT64.  A state buffer
                                       is native unless it has p's shape; rules of MATRICES have no codes */
    void *p_rest, *state_rest[FASTOPT_MAX_STATE]; /* the second parts, contiguous as state is */
    ptrdiff_t offset; /* of its first element in the whole parameter: with codes, a multiple of 64; so that a part of a
                         parameter is stored as the whole would be */
    fastopt_rounding rounding;
    uint64_t seed, key; /* of the random numbers; `key` is one for each parameter */
    double *carry;      /* the rule's carried doubles, updated in place */
    int64_t step;       /* the step about to be made, counted from 1 */
    int ndim;           /* axes of the parameter, and its shape: for rules of MATRICES and BY_ROW */
    const ptrdiff_t *shape;
    const double *hyper; /* the rule's hyperparameters; scalars are computed once for tensors that share the pointer */
    fastopt_decay *decays;          /* one for each hyperparameter, filled in on step 1 and then updated, if those of
                                       fastopt_rule_corrected() can change from step to step; NULL: they cannot */
    ptrdiff_t clip_group;           /* with clip_norm: adjacent tensors with the same number are clipped by one norm */
    double grad_norm;               /* output, with clip_norm: this norm, divided by grad_scale, before clipping */
    const fastopt_options *options; /* NULL: none */
    const fastopt_layout *layout;   /* NULL: p and g are contiguous and aligned */
    void *ema, *swa, *slow;         /* averages of p, shaped like it; NULL unless options ask for it; step 1 sets them
                                       to p as it was before */
    double *largest_lr; /* with corrected_decay, updated: the largest learning rate of the steps so far, 0 before step
                           1; NULL: the caller knows peak_lr */
    int64_t round;    /* with ema or swa: the step of the whole list of tensors, counted from 1; 0: the same as step */
    int64_t begun;    /* with round, set by step 1: the round before it, from which swa counts */
    int64_t averaged; /* with round, updated: the last round that ema and swa include, below 0 if they include none; a
                         step includes the rounds since then with p as it is (see fastopt_average) */
    int64_t *averaged_rows; /* with rows and ema or swa: the same for each row of p, instead of averaged */
    const int64_t *rows;    /* not NULL: the gradient is one of these n / row_length rows of p, all different; without
                               layout and slow */
    ptrdiff_t row_length;
    ptrdiff_t row_count;              /* with rows: those of p, read if some state has codes */
    const void *const *row_gradients; /* with rows: the gradient of each; g is not read, but must not be NULL */
    int64_t *last_step; /* not NULL: the last step of each row of p; before the next one the rule makes up for the steps
                           between, whose gradient was zero (see fastopt_rule_catch_up) */
    struct {            /* set by the engine */
        ptrdiff_t start; /* the number of units of work in the tensors before this one */
        struct fastopt_matrices *matrices;
        int has_missed_rows; /* whether rows may have missed steps */
        ptrdiff_t grain;     /* unless all formats are native: a thread's part begins at a multiple of it */
        uint64_t random_key; /* of this step */
        int64_t gathered;    /* the step that FASTOPT_GATHER has prepared; 0: none */
        double scale;        /* factor of the gradient */
        const void *k;       /* this step's scalars: k_store of this tensor or of one before it */
        union {
            float f32[FASTOPT_MAX_SCALARS];
            double f64[FASTOPT_MAX_SCALARS];
        } k_store;
    } engine;
} fastopt_tensor;

/* Makes one optimizer step for all tensors with a gradient, on at most num_threads threads (at least 1) of the
 * library's own.  Callers that make steps on several threads of theirs, as in a region of OpenMP, pass 1.  Everything
 * is checked before the first write: unless it returns FASTOPT_OK, nothing was written. */
fastopt_status fastopt_step(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* A tuner chooses the number of threads by the mean time of steps: threads that pay in a loop of nothing but steps can
 * slow a step where the caller's own threads occupy the CPUs.  A tuner starts as zeros and belongs to one list of
 * tensors and one part of their step. */
enum { FASTOPT_MAX_CHOICES = 9 }; /* 1, 2, 4, ... 256 threads */
typedef struct {
    int threads, limit;                 /* the choice so far, 0: none yet; the most it may be */
    int trial, left;                    /* the number being tried, 0: none; steps to its end */
    int up;                             /* whether the last trial was of more threads */
    int settling;                       /* steps that are not counted, at least */
    double seconds;                     /* that these, or those of the trial, still take, at least */
    int fresh;                          /* whether no step has been */
    int calm;                           /* steps since the last trial */
    double time[FASTOPT_MAX_CHOICES];   /* of each choice the sum of seconds per element, weighted by age, */
    double square[FASTOPT_MAX_CHOICES]; /* the sum of their squares, */
    double weight[FASTOPT_MAX_CHOICES]; /* and the sum of weights */
    double now;                         /* the weight of a step now */
    double credit;                      /* seconds per element that trials may cost */
    int n_recent;                       /* of the last steps with the choice */
    int doubts;                         /* times in a row that their median was another */
    double recent[8];                   /* a ring of their times */
    double typical;                     /* their median when the choice was new */
} fastopt_tuner;

/* A step can be made in two calls, on the same tensors in the same memory.  GATHER computes norms, scalars and sums,
 * and checks the gradients.  UPDATE makes the step with them; it does not read grad_scale, clip_norm and check_finite,
 * and returns FASTOPT_BAD_TENSOR without a GATHER before.  Between the two the caller may change the state that the
 * rule leaves to it. */
typedef enum { FASTOPT_ALL, FASTOPT_GATHER, FASTOPT_UPDATE } fastopt_part;

typedef struct {
    int num_threads;      /* at least 1; with a tuner the most it may choose */
    fastopt_tuner *tuner; /* NULL: num_threads is used */
    int check_finite;     /* return FASTOPT_NONFINITE for gradients with NaN or infinity, after one pass over them */
    double grad_scale;    /* gradients are first divided by it; 0: they are not */
    double clip_norm;     /* above 0: gradients are scaled by min(1, clip_norm / (norm of their clip group + 1e-6)); a
                             norm of NaN makes them NaN; infinity: norms are computed, nothing is clipped */
    double clip_value;    /* above 0: each element is then clipped to +-clip_value; infinity: it is not */
    fastopt_part part;    /* of the step that this call makes */
    int zero_grads;       /* set gradients, but not gradients of rows, to zero after use: their memory must be writable,
                             and no two may overlap */
    double grad_norm; /* output, with clip_norm: the norm of all gradients, divided by grad_scale, before clipping */
} fastopt_call;

/* fastopt_step() with options of the call. */
fastopt_status fastopt_step_with(fastopt_tensor *tensors, ptrdiff_t count, fastopt_call *call);

/* Updates ema and swa of tensors without a gradient, whose step is above 1 and whose round is set, with p as it is for
 * all rounds after `averaged`: in closed form, ema = p + ema_decay^k (ema - p) for k rounds, to rounding. */
fastopt_status fastopt_average(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* Whether a rule accepts gradients of rows: it needs no sums over a whole parameter, and its first step does not set
 * state of all elements. */
int fastopt_rule_takes_rows(const fastopt_rule *rule);

/* For gradients of rows: writes the rows without repetition to `unique`, in the order of their first occurrence, and
 * for each of the given rows its index there to `places`.  Returns the number of unique rows, or one of these. */
enum { FASTOPT_ROWS_NO_MEMORY = -1, FASTOPT_ROWS_BEYOND = -2 /* a row is not in [0, limit) */ };
ptrdiff_t fastopt_unique_rows(const int64_t *rows, ptrdiff_t count, int64_t limit, int64_t *unique, ptrdiff_t *places);

/* And points gradients[i] to the gradient of unique row i: to the row of values itself, or for a row that occurs
 * several times to the sum, in the order of occurrence.  `gradients` starts as NULLs; `sums` has room for one row for
 * each repetition. */
void fastopt_row_gradients(fastopt_dtype dtype, const void *values, const ptrdiff_t *places, ptrdiff_t count,
                           ptrdiff_t row_length, const void **gradients, void *sums);

/* Makes all rows of tensors with last_step and g (which is not read) catch up with the step before the one about to be
 * made. */
fastopt_status fastopt_catch_up(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* The hyperparameters that a rule reads to make up for steps whose gradient was zero.  The result is that of the steps,
 * to rounding, if these hyperparameters have not changed since.  NULL: the rule cannot; with weight decay none can. */
const char *const *fastopt_rule_catch_up(const fastopt_rule *rule);

/* The hyperparameters of a rule whose powers correct the bias of running means that start from 0; NULL past the last.
 */
const char *const *fastopt_rule_corrected(const fastopt_rule *rule);

/* Whether a tensor's gradient has neither NaN nor infinity. */
int fastopt_finite(const fastopt_tensor *tensor);

/* The rule of that name, or NULL; the rules by index, NULL past the last. */
const fastopt_rule *fastopt_find_rule(const char *name);
const fastopt_rule *fastopt_rule_at(int index);

/* The range of a hyperparameter or option by name, or NULL; whether a value lies in it. */
const fastopt_hyper *fastopt_find_hyper(const char *name);
const fastopt_hyper *fastopt_rule_hyper(const fastopt_rule *rule, int i); /* of its i-th hyperparameter, faster */
int fastopt_in_range(const fastopt_hyper *hyper, double value);

/* The elements of a whole buffer in a format that is not native as float, and a buffer of these elements, rounded to
 * nearest. */
fastopt_status fastopt_decode(fastopt_format format, const void *data, const void *rest, ptrdiff_t n, float *out);
fastopt_status fastopt_encode(fastopt_format format, const float *x, ptrdiff_t n, void *data, void *rest);

/* The instruction set in use: the fastest that this CPU can run, or what FASTOPT_ISA names.  NULL, and every step
 * fails, where that is not available. */
const char *fastopt_isa(void);

/* The version of the library, and the compiler that built it. */
const char *fastopt_version(void);
const char *fastopt_compiler(void);
int fastopt_openmp(void); /* the OpenMP date, such as 201511, where OpenMP makes the threads; 0 where the system does */

#ifdef __cplusplus
}
#endif
#endif
