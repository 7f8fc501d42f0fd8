# The functions that fastopt/_core.pxd declares for other modules in Cython.

cdef fastopt_status c_step(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                           int num_threads) noexcept nogil:
    return fastopt_step_sized(sizes, tensors, count, num_threads)

cdef fastopt_status c_step_with(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                                fastopt_call *call) noexcept nogil:
    return fastopt_step_with_sized(sizes, tensors, count, call)

cdef fastopt_status c_average(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                              int num_threads) noexcept nogil:
    return fastopt_average_sized(sizes, tensors, count, num_threads)

cdef fastopt_status c_catch_up(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                               int num_threads) noexcept nogil:
    return fastopt_catch_up_sized(sizes, tensors, count, num_threads)

cdef const char *c_status_text(fastopt_status status) noexcept nogil:
    return fastopt_status_text(status)

cdef const fastopt_rule *c_find_rule(const char *name) noexcept nogil:
    return fastopt_find_rule(name)

cdef const fastopt_rule *c_rule_at(int index) noexcept nogil:
    return fastopt_rule_at(index)

cdef Py_ssize_t c_state_size(const fastopt_rule *rule, int s, int ndim, const Py_ssize_t *shape) noexcept nogil:
    return fastopt_state_size(rule, s, ndim, shape)

cdef const fastopt_hyper *c_find_hyper(const char *name) noexcept nogil:
    return fastopt_find_hyper(name)

cdef const fastopt_hyper *c_rule_hyper(const fastopt_rule *rule, int i) noexcept nogil:
    return fastopt_rule_hyper(rule, i)

cdef int c_in_range(const fastopt_hyper *hyper, double value) noexcept nogil:
    return fastopt_in_range(hyper, value)

cdef int c_finite(const fastopt_tensor *tensor) noexcept nogil:
    return fastopt_finite(tensor)

cdef const fastopt_format_info *c_format_at(int format) noexcept nogil:
    return fastopt_format_at(format)

cdef fastopt_status c_decode(fastopt_format format, const void *data, const void *rest, Py_ssize_t n,
                             float *out) noexcept nogil:
    return fastopt_decode(format, data, rest, n, out)

cdef fastopt_status c_encode(fastopt_format format, const float *x, Py_ssize_t n, void *data,
                             void *rest) noexcept nogil:
    return fastopt_encode(format, x, n, data, rest)

cdef int c_rule_takes_rows(const fastopt_rule *rule) noexcept nogil:
    return fastopt_rule_takes_rows(rule)

cdef const char *const *c_rule_catch_up(const fastopt_rule *rule) noexcept nogil:
    return fastopt_rule_catch_up(rule)

cdef const char *const *c_rule_corrected(const fastopt_rule *rule) noexcept nogil:
    return fastopt_rule_corrected(rule)

cdef Py_ssize_t c_unique_rows(const int64_t *rows, Py_ssize_t count, int64_t limit, int64_t *unique,
                              Py_ssize_t *places) noexcept nogil:
    return fastopt_unique_rows(rows, count, limit, unique, places)

cdef void c_row_gradients(fastopt_dtype dtype, const void *values, const Py_ssize_t *places, Py_ssize_t count,
                          Py_ssize_t row_length, const void **gradients, void *sums) noexcept nogil:
    fastopt_row_gradients(dtype, values, places, count, row_length, gradients, sums)

cdef fastopt_rule *c_rule_create(const fastopt_rule_spec *spec, char *problem, size_t length) noexcept nogil:
    return fastopt_rule_create(spec, problem, length)

cdef void c_rule_destroy(fastopt_rule *rule) noexcept nogil:
    fastopt_rule_destroy(rule)

cdef const char *c_isa() noexcept nogil:
    return fastopt_isa()

cdef const char *c_version() noexcept nogil:
    return fastopt_version()

cdef int c_abi_version() noexcept nogil:
    return fastopt_abi_version()

cdef const char *c_compiler() noexcept nogil:
    return fastopt_compiler()

cdef int c_openmp() noexcept nogil:
    return fastopt_openmp()
