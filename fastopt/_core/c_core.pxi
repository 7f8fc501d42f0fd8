# Declarations of the C core, from fastopt.h.

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    const void *Py_TYPE(object value)


cdef extern from "fastopt.h" nogil:
    enum:
        FASTOPT_ROWS_BEYOND
        FASTOPT_MAX_STATE, FASTOPT_MAX_HYPER, FASTOPT_MAX_CARRY, FASTOPT_MAX_NDIM, FASTOPT_BY_GROUP, FASTOPT_MATRICES
        FASTOPT_ONE_PASS, FASTOPT_BY_ROW
        FASTOPT_ALL, FASTOPT_GATHER, FASTOPT_UPDATE

    ctypedef enum fastopt_dtype:
        FASTOPT_FLOAT32, FASTOPT_FLOAT64

    ctypedef enum fastopt_format:
        FASTOPT_NATIVE, FASTOPT_AS_FLOAT16, FASTOPT_AS_BFLOAT16, FASTOPT_AS_FLOAT32, FASTOPT_AS_FLOAT64

    enum:
        FASTOPT_NEAREST, FASTOPT_STOCHASTIC

    ctypedef enum fastopt_kind:
        FASTOPT_SIGNED, FASTOPT_NONNEGATIVE, FASTOPT_EXACT

    ctypedef struct fastopt_format_info:
        const char *name
        int bytes, rest_bytes, group, rounds, of_p, of_g, of_signed, of_nonnegative

    ctypedef struct fastopt_formats:
        unsigned char p, g
        unsigned char *state

    ctypedef enum fastopt_status:
        FASTOPT_OK, FASTOPT_BAD_HYPER, FASTOPT_NONFINITE, FASTOPT_NO_MEMORY, FASTOPT_NOT_SUMMED

    const fastopt_format_info *fastopt_format_at(int format)
    fastopt_status fastopt_decode(fastopt_format format, const void *data, const void *rest, Py_ssize_t n, float *out)
    fastopt_status fastopt_encode(fastopt_format format, const float *x, Py_ssize_t n, void *data, void *rest)

    ctypedef enum fastopt_extent:
        FASTOPT_WHOLE, FASTOPT_ROWS, FASTOPT_COLUMNS, FASTOPT_AXES

    ctypedef struct fastopt_hyper:
        const char *range

    ctypedef struct fastopt_rule:
        const char *name
        const char **state
        const char **hyper
        const char **carry
        int gathers, gather_writes, caller_writes
        int separate_decay
        fastopt_extent *extent
        const fastopt_kind *kind

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
        void *p_rest
        void **state_rest
        Py_ssize_t offset, whole_n, row_count
        int rounding
        uint64_t seed, key
        void **state
        fastopt_formats formats
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
        int64_t round, begun, averaged
        int64_t *averaged_rows
        const int64_t *rows
        Py_ssize_t row_length
        double *largest_lr
        const void **row_gradients
        int64_t *last_step

    ctypedef struct fastopt_tuner:
        int threads

    ctypedef int fastopt_sum_parts(void *data, double *values, Py_ssize_t columns) noexcept

    ctypedef struct fastopt_call:
        int num_threads
        fastopt_tuner *tuner
        int check_finite
        double grad_scale, clip_norm, clip_value
        int part
        int zero_grads
        double grad_norm
        fastopt_sum_parts *sum_parts
        void *data

    fastopt_status fastopt_step(fastopt_tensor *tensors, Py_ssize_t count, int num_threads)
    fastopt_status fastopt_step_with(fastopt_tensor *tensors, Py_ssize_t count, fastopt_call *call)
    Py_ssize_t fastopt_unique_rows(const int64_t *rows, Py_ssize_t count, int64_t limit, int64_t *unique,
                                   Py_ssize_t *places)
    void fastopt_row_gradients(fastopt_dtype dtype, const void *values, const Py_ssize_t *places, Py_ssize_t count,
                               Py_ssize_t row_length, const void **gradients, void *sums)
    fastopt_status fastopt_catch_up(fastopt_tensor *tensors, Py_ssize_t count, int num_threads)
    fastopt_status fastopt_average(fastopt_tensor *tensors, Py_ssize_t count, int num_threads)
    const char *const *fastopt_rule_catch_up(const fastopt_rule *rule)
    const char *const *fastopt_rule_corrected(const fastopt_rule *rule)
    int fastopt_rule_takes_rows(const fastopt_rule *rule)
    int fastopt_finite(const fastopt_tensor *tensor)
    const fastopt_rule *fastopt_find_rule(const char *name)
    const fastopt_rule *fastopt_rule_at(int index)
    const fastopt_hyper *fastopt_find_hyper(const char *name)
    const fastopt_hyper *fastopt_rule_hyper(const fastopt_rule *rule, int i)
    int fastopt_in_range(const fastopt_hyper *hyper, double value)
    const char *fastopt_isa()
    const char *fastopt_version()
    const char *fastopt_compiler()
    int fastopt_openmp()

cdef extern from "fastopt_testing.h" nogil:
    const char *fastopt_isa_at(int index)
    int fastopt_use_isa(const char *name)
    fastopt_status fastopt_traffic(const fastopt_tensor *tensor, int num_threads)
