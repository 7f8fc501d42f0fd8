# The types of fastopt.h and its inline functions, for Cython.  Arrays are declared as pointers, whose elements can be set.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "fastopt.h" nogil:
    const char *FASTOPT_VERSION

    enum:
        FASTOPT_ABI_VERSION
        FASTOPT_MAX_STATE, FASTOPT_MAX_CARRY, FASTOPT_MAX_HYPER, FASTOPT_MAX_SCALARS, FASTOPT_MAX_SUMS
        FASTOPT_MAX_NDIM
        FASTOPT_MAX_CHOICES
        FASTOPT_ROWS_NO_MEMORY, FASTOPT_ROWS_BEYOND

    ctypedef enum fastopt_dtype:
        FASTOPT_FLOAT32, FASTOPT_FLOAT64

    ctypedef enum fastopt_format:
        FASTOPT_NATIVE, FASTOPT_AS_FLOAT16, FASTOPT_AS_BFLOAT16, FASTOPT_AS_FLOAT32, FASTOPT_AS_FLOAT64
        FASTOPT_SPLIT16, FASTOPT_SPLIT8, FASTOPT_MASTER_FLOAT16, FASTOPT_MASTER_BFLOAT16
        FASTOPT_CODES_SIGNED, FASTOPT_CODES_NONNEGATIVE

    ctypedef struct fastopt_format_info:
        const char *name
        int bytes, rest_bytes, group, rounds, of_p, of_g, of_signed, of_nonnegative

    ctypedef struct fastopt_formats:
        uint8_t p, g
        uint8_t *state

    ctypedef enum fastopt_rounding:
        FASTOPT_NEAREST, FASTOPT_STOCHASTIC

    ctypedef enum fastopt_status:
        FASTOPT_OK, FASTOPT_BAD_HYPER, FASTOPT_BAD_TENSOR, FASTOPT_NONFINITE, FASTOPT_NO_MEMORY, FASTOPT_BAD_ISA
        FASTOPT_BAD_ABI, FASTOPT_NOT_SUMMED

    ctypedef struct fastopt_hyper:
        const char *name
        double low, high
        int closed
        const char *range

    ctypedef enum fastopt_extent:
        FASTOPT_WHOLE, FASTOPT_ROWS, FASTOPT_COLUMNS, FASTOPT_AXES

    ctypedef enum fastopt_kind:
        FASTOPT_SIGNED, FASTOPT_NONNEGATIVE, FASTOPT_EXACT

    ctypedef enum fastopt_gathering:
        FASTOPT_ONE_PASS, FASTOPT_BY_ROW, FASTOPT_BY_GROUP, FASTOPT_BY_TENSOR, FASTOPT_MATRICES

    ctypedef struct fastopt_rule:
        const char *name
        int index
        const char **state
        const fastopt_kind *kind
        const char **hyper
        const char **carry
        fastopt_gathering gathers
        int passes
        fastopt_extent *extent
        int gather_writes, caller_writes, starts, separate_decay, catches_up
        const char **catch_up

    ctypedef struct fastopt_options:
        double weight_decay, decoupled_decay, independent_decay
        int cautious_decay, corrected_decay
        double peak_lr
        int maximize
        double ema_decay
        int64_t swa_start, swa_every, lookahead_every
        double lookahead_rate

    ctypedef struct fastopt_layout:
        int ndim
        Py_ssize_t *shape
        Py_ssize_t *p_stride
        Py_ssize_t *g_stride

    ctypedef struct fastopt_decay:
        double value
        int64_t since
        double product, age

    ctypedef struct fastopt_tensor:
        const fastopt_rule *rule
        fastopt_dtype dtype
        Py_ssize_t n
        void *p
        const void *g
        void **state
        fastopt_formats formats
        void *p_rest
        void **state_rest
        Py_ssize_t offset, whole_n
        fastopt_rounding rounding
        uint64_t seed, key
        double *carry
        int64_t step
        int ndim
        const Py_ssize_t *shape
        const double *hyper
        fastopt_decay *decays
        Py_ssize_t clip_group
        double grad_norm
        const fastopt_options *options
        const fastopt_layout *layout
        void *ema
        void *swa
        void *slow
        double *largest_lr
        int64_t round, begun, averaged
        int64_t *averaged_rows
        const int64_t *rows
        Py_ssize_t row_length, row_count
        const void **row_gradients
        int64_t *last_step

    ctypedef struct fastopt_scalar_inputs:
        const double *hyper
        const double *product
        const double *weight
        const double *lost_mean

    ctypedef void fastopt_scalars(int64_t t, const fastopt_scalar_inputs *given, double *scalars)
    ctypedef void fastopt_loop_float32(float *p, const float *g, const void *state, const void *scalars, Py_ssize_t n)
    ctypedef void fastopt_loop_float64(double *p, const double *g, const void *state, const void *scalars, Py_ssize_t n)

    ctypedef enum fastopt_reduction:
        FASTOPT_SUM, FASTOPT_MEAN, FASTOPT_NORM, FASTOPT_RMS

    ctypedef void fastopt_gather_float32(const float *p, const float *g, const void *state, const void *scalars,
                                         const void *terms, Py_ssize_t n)
    ctypedef void fastopt_gather_float64(const double *p, const double *g, const void *state, const void *scalars,
                                         const void *terms, Py_ssize_t n)
    ctypedef void fastopt_combine(int64_t t, const fastopt_scalar_inputs *given, const double *reduced, double *scalars)

    ctypedef struct fastopt_rule_spec:
        size_t size
        const char *name
        const char *const *state
        const fastopt_kind *kind
        const fastopt_hyper *hyper
        const int *corrected
        int n_scalars
        fastopt_scalars *scalars
        fastopt_loop_float32 *float32
        fastopt_loop_float64 *float64
        int n_sums
        const fastopt_reduction *reductions
        fastopt_gather_float32 *gather_float32
        fastopt_gather_float64 *gather_float64
        int gather_writes, n_combined
        fastopt_combine *combine

    ctypedef struct fastopt_tuner:
        int threads, limit, trial, trial_steps, tried_more, ignored_steps
        double seconds_left
        int is_new, since_trial
        double *time
        double *square
        double *weight
        double step_weight, credit
        int n_recent, changed_medians
        double *recent
        double first_median

    ctypedef enum fastopt_part:
        FASTOPT_ALL, FASTOPT_GATHER, FASTOPT_UPDATE

    ctypedef int fastopt_sum_parts(void *data, double *values, Py_ssize_t columns) noexcept

    ctypedef struct fastopt_call:
        int num_threads
        fastopt_tuner *tuner
        int check_finite
        double grad_scale, clip_norm, clip_value
        fastopt_part part
        int zero_grads
        double grad_norm
        fastopt_sum_parts *sum_parts
        void *data

    ctypedef struct fastopt_sizes:
        uint32_t abi_version, tensor, options, call

    fastopt_sizes fastopt_header_sizes()

    const char *FASTOPT_BOUND_STEP

    ctypedef struct fastopt_bound_step:
        int (*step)(void *bound) noexcept nogil
        void *bound
