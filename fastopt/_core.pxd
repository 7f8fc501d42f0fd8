# The functions of the C core, for other modules in Cython: these get pointers to them when they are imported, so that they
# link nothing and use the instruction set and the team of threads of this module.

from fastopt.c_header cimport *
from libc.stdint cimport int64_t

cdef fastopt_status c_step(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                           int num_threads) noexcept nogil
cdef fastopt_status c_step_with(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                                fastopt_call *call) noexcept nogil
cdef fastopt_status c_average(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                              int num_threads) noexcept nogil
cdef fastopt_status c_catch_up(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                               int num_threads) noexcept nogil
cdef const char *c_status_text(fastopt_status status) noexcept nogil
cdef const fastopt_rule *c_find_rule(const char *name) noexcept nogil
cdef const fastopt_rule *c_rule_at(int index) noexcept nogil
cdef Py_ssize_t c_state_size(const fastopt_rule *rule, int s, int ndim, const Py_ssize_t *shape) noexcept nogil
cdef const fastopt_hyper *c_find_hyper(const char *name) noexcept nogil
cdef const fastopt_hyper *c_rule_hyper(const fastopt_rule *rule, int i) noexcept nogil
cdef int c_in_range(const fastopt_hyper *hyper, double value) noexcept nogil
cdef int c_finite(const fastopt_tensor *tensor) noexcept nogil
cdef const fastopt_format_info *c_format_at(int format) noexcept nogil
cdef fastopt_status c_decode(fastopt_format format, const void *data, const void *rest, Py_ssize_t n,
                             float *out) noexcept nogil
cdef fastopt_status c_encode(fastopt_format format, const float *x, Py_ssize_t n, void *data,
                             void *rest) noexcept nogil
cdef int c_rule_takes_rows(const fastopt_rule *rule) noexcept nogil
cdef const char *const *c_rule_catch_up(const fastopt_rule *rule) noexcept nogil
cdef const char *const *c_rule_corrected(const fastopt_rule *rule) noexcept nogil
cdef Py_ssize_t c_unique_rows(const int64_t *rows, Py_ssize_t count, int64_t limit, int64_t *unique,
                              Py_ssize_t *places) noexcept nogil
cdef void c_row_gradients(fastopt_dtype dtype, const void *values, const Py_ssize_t *places, Py_ssize_t count,
                          Py_ssize_t row_length, const void **gradients, void *sums) noexcept nogil
cdef fastopt_rule *c_rule_create(const fastopt_rule_spec *spec, char *problem, size_t length) noexcept nogil
cdef void c_rule_destroy(fastopt_rule *rule) noexcept nogil
cdef const char *c_isa() noexcept nogil
cdef const char *c_version() noexcept nogil
cdef int c_abi_version() noexcept nogil
cdef const char *c_compiler() noexcept nogil
cdef int c_openmp() noexcept nogil
