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

/* How a gradient is stored: like its parameter, or as something that each element is converted from, rounded once. */
typedef enum { FASTOPT_G_LIKE_P, FASTOPT_G_FLOAT16, FASTOPT_G_FLOAT32, FASTOPT_G_FLOAT64 } fastopt_format;

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

/* The shape of a state buffer: the parameter's; the same without its last axis, or without its last but one; an element
 * for each index of each axis, one axis after the other. */
typedef enum { FASTOPT_WHOLE, FASTOPT_ROWS, FASTOPT_COLUMNS, FASTOPT_AXES } fastopt_extent;

/* How a rule passes over memory: once; twice, since it needs sums over all tensors that share its hyperparameters, or
 * over a whole tensor; or by the rows and columns of matrices. */
typedef enum { FASTOPT_ONE_PASS, FASTOPT_TOGETHER, FASTOPT_ALONE, FASTOPT_MATRICES } fastopt_gathering;

/* An update rule.  The lists of names end with NULL.
 *
 * Most rules pass over memory once.  A rule that gathers passes twice: the first pass sums what the second one needs to
 * know of all tensors that share its hyperparameters (TOGETHER) or of a whole tensor (ALONE).  A rule of MATRICES,
 * which the last two axes of a tensor make, makes some number of passes, each of which can tell the next one something
 * of each row and each column. */
typedef struct {
    const char *name;
    int index;                                /* its row in rules.def */
    const char *state[FASTOPT_MAX_STATE + 1]; /* buffers of the parameter's dtype, by the paper's letters */
    const char *hyper[FASTOPT_MAX_HYPER + 1]; /* the learning rate comes first */
    const char *carry[FASTOPT_MAX_CARRY + 1]; /* doubles kept from step to step, set by the rule itself on step 1 */
    fastopt_gathering gathers;
    int passes;                                  /* that gather; of MATRICES all of them */
    fastopt_extent extent[FASTOPT_MAX_STATE];    /* of each state buffer */
    int starts;                                  /* whether the first step sets state of all elements */
    int catches_up;                              /* whether it has a closed form for steps whose gradient was 0, */
    const char *catch_up[FASTOPT_MAX_HYPER + 1]; /* and the hyperparameters that this form reads */
} fastopt_rule;

/* The elements of the rule's s-th state buffer for a parameter of this shape. */
ptrdiff_t fastopt_state_size(const fastopt_rule *rule, int s, int ndim, const ptrdiff_t *shape);

/* What happens around the rule, in the same pass over memory, by parameter. */
typedef struct {
    double weight_decay;      /* L2: the rule sees g + weight_decay * p */
    double decoupled_decay;   /* p is multiplied by 1 - lr * decoupled_decay - independent_decay before the rule */
    double independent_decay; /* decay that the learning rate does not scale */
    int maximize;             /* the rule sees -g */
    double ema_decay;         /* with tensor->ema: ema += (1 - ema_decay) * (p - ema) after the rule */
    int64_t swa_start;        /* with tensor->swa: the mean of p after rounds swa_start, swa_start + swa_every, ... */
    int64_t swa_every;
    int64_t lookahead_every; /* with tensor->slow, each so many steps: slow += lookahead_rate * (p - slow), p = slow */
    double lookahead_rate;
} fastopt_options;

/* How to walk a parameter and a gradient that are not one aligned contiguous run in the same order.  The state is
 * always contiguous, in the order of this walk (last axis fastest). */
typedef struct {
    int ndim;
    ptrdiff_t shape[FASTOPT_MAX_NDIM];
    ptrdiff_t p_stride[FASTOPT_MAX_NDIM]; /* in bytes */
    ptrdiff_t g_stride[FASTOPT_MAX_NDIM];
} fastopt_layout;

/* The values that a hyperparameter had on the steps so far.  A bias correction divides by 1 minus their product. */
typedef struct {
    double value;   /* on the last steps, */
    int64_t since;  /* before which this many were made; */
    double product; /* of the values on these, */
    double age;     /* and the sum of the weights of their gradients in the running mean, each times its age in steps */
} fastopt_decay;

typedef struct {
    const fastopt_rule *rule;
    fastopt_dtype dtype;
    ptrdiff_t n;                    /* elements */
    void *p;                        /* the parameter, updated in place */
    const void *g;                  /* its gradient; NULL leaves the tensor alone */
    fastopt_format g_format;        /* 0: like the parameter */
    void *state[FASTOPT_MAX_STATE]; /* the rule's buffers, updated in place */
    double *carry;                  /* the rule's carried doubles, updated in place */
    int64_t step;                   /* the step about to be made, counted from 1 */
    int ndim;                       /* axes of the parameter, and its shape: for rules of MATRICES alone */
    const ptrdiff_t *shape;
    const double *hyper;   /* the rule's hyperparameters; tensors that share the pointer share the work */
    fastopt_decay *decays; /* one for each of them, where those of fastopt_rule_corrected() may change from step
                              to step: filled in on step 1, then updated; NULL: they are the same on all steps */
    ptrdiff_t clip_group;  /* with clip_norm: tensors side by side with the same number are clipped by one norm */
    double grad_norm;      /* comes back: with clip_norm, that norm, divided by grad_scale, not clipped */
    const fastopt_options *options; /* NULL: none */
    const fastopt_layout *layout;   /* NULL: p and g are contiguous and aligned */
    void *ema, *swa, *slow;         /* buffers like those of the state, each NULL unless options ask for it; whatever is
                                       in them, they begin as p is before step 1 */
    int64_t round;    /* with ema or swa: which step of all tensors this is, from 1; 0: it is step, none are missed */
    int64_t begun;    /* with round: the last one before step 1, which sets it: swa counts from there on */
    int64_t averaged; /* with round: the last one that ema and swa have taken in, below 0 where they are to begin; the
                         step makes up for those between, as if p had stood still (see fastopt_average), and sets it */
    int64_t *averaged_rows; /* the same of each row of p, in its place: for rows with ema or swa */
    const int64_t *rows;    /* not NULL: the gradient is that of n / row_length rows of p and of the state, each of */
    ptrdiff_t row_length;   /* them once; without layout and slow */
    const void *const *row_gradients; /* with rows: the gradient of each of them; g then only must not be NULL */
    int64_t *seen; /* not NULL: of each row of p the last step that met it; the rule makes up for the steps since then,
                      whose gradient was zero, when it meets the row again (see fastopt_rule_catch_up) */
    struct {       /* filled in by the engine */
        ptrdiff_t start; /* elements, or pieces, in the tensors before this one */
        struct fastopt_matrices *matrices;
        int has_missed_rows; /* whether rows may have missed steps */
        int64_t gathered;    /* the step that FASTOPT_GATHER has prepared; 0: none */
        double scale;        /* what the gradient is multiplied by */
        const void *k;       /* this step's scalars: k_store of this tensor or of one before it */
        union {
            float f32[FASTOPT_MAX_SCALARS];
            double f64[FASTOPT_MAX_SCALARS];
        } k_store;
    } engine;
} fastopt_tensor;

/* One optimizer step for all tensors with a gradient, on at most num_threads threads (at least 1), of the library's
 * own: who calls from each of several threads, as in a region of OpenMP, asks for 1.  Everything is checked first:
 * unless FASTOPT_OK comes back, nothing was written. */
fastopt_status fastopt_step(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* With a tuner the number of threads is chosen by the mean of what steps take with it: threads that pay in a loop of
 * nothing but steps can slow a step where the caller's own threads occupy the CPUs.  A tuner starts as zeros and
 * belongs to one list of tensors and one part of their step. */
enum { FASTOPT_MAX_CHOICES = 9 }; /* 1, 2, 4, ... 256 threads */
typedef struct {
    int threads, limit;                 /* the choice so far, 0: none yet; the most it may be */
    int trial, left;                    /* the number being tried, 0: none; steps to its end */
    int up;                             /* whether the last trial was of more threads */
    int settling;                       /* steps that are not counted */
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

/* A step in two calls, on the same tensors in the same memory: GATHER computes norms, scalars and sums, and checks the
 * gradients; UPDATE makes the step with them, so that its own grad_scale, clip_norm and check_finite are not looked at.
 * Without GATHER it is refused with FASTOPT_BAD_TENSOR.  Between the two the caller may change the state that the rule
 * leaves to him. */
typedef enum { FASTOPT_ALL, FASTOPT_GATHER, FASTOPT_UPDATE } fastopt_part;

typedef struct {
    int num_threads;      /* at least 1; with a tuner the most it may choose */
    fastopt_tuner *tuner; /* NULL: num_threads as it is */
    int check_finite;     /* refuse gradients with NaN or infinity: FASTOPT_NONFINITE, after one pass over them */
    double grad_scale;    /* gradients are divided by it before all else; 0: they are not */
    double clip_norm;     /* above 0: gradients are scaled by min(1, clip_norm / (norm of their clip group + 1e-6)); a
                             norm of NaN makes them NaN; infinity: norms are measured alone */
    double clip_value;    /* above 0: then each element is clipped to +-clip_value; infinity: it is not */
    fastopt_part part;    /* of the step that this call makes */
    int zero_grads;       /* set gradients (but not those of rows) to zero once they have been used: their memory must
                             be writable, and no two of them may overlap */
    double grad_norm; /* comes back: with clip_norm, the norm of all gradients, divided by grad_scale, not clipped */
} fastopt_call;

/* fastopt_step() with more to say. */
fastopt_status fastopt_step_with(fastopt_tensor *tensors, ptrdiff_t count, fastopt_call *call);

/* Has ema and swa of tensors without a gradient, but with step above 1 and a round, take in p as it is, once for each
 * round after `averaged`: in closed form, ema = p + ema_decay^k (ema - p) for k rounds, to rounding. */
fastopt_status fastopt_average(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* Whether gradients of rows will do for a rule: it needs no sums over all of a parameter, and its first step does not
 * set state of all elements. */
int fastopt_rule_takes_rows(const fastopt_rule *rule);

/* For gradients of rows: the numbers of the rows without repetition, in the order in which they first come, and for
 * each of the given ones its place among them.  Returns how many there are, or why it cannot tell. */
enum { FASTOPT_ROWS_NO_MEMORY = -1, FASTOPT_ROWS_BEYOND = -2 /* a row is not in [0, limit) */ };
ptrdiff_t fastopt_unique_rows(const int64_t *rows, ptrdiff_t count, int64_t limit, int64_t *unique, ptrdiff_t *places);

/* And for each of those its gradient: the row of values itself, or where it comes several times their sum, in the order
 * in which they come.  gradients starts as NULLs; sums has room for as many rows as there are repetitions. */
void fastopt_row_gradients(fastopt_dtype dtype, const void *values, const ptrdiff_t *places, ptrdiff_t count,
                           ptrdiff_t row_length, const void **gradients, void *sums);

/* Has all rows of tensors with seen and g (which is not read) make up for the steps before the one about to be made. */
fastopt_status fastopt_catch_up(fastopt_tensor *tensors, ptrdiff_t count, int num_threads);

/* The hyperparameters by which a rule makes up for steps whose gradient was zero, as if each had been made, to
 * rounding, if they have not changed since; NULL: it cannot.  It cannot with weight decay either. */
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

/* The instruction set in use: the fastest that this CPU can run, or what FASTOPT_ISA names.  NULL, and every step fails,
 * where that is not available. */
const char *fastopt_isa(void);

/* What the library was built with. */
const char *fastopt_version(void);
const char *fastopt_compiler(void);

#ifdef __cplusplus
}
#endif
#endif
