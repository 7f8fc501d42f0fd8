# The functions of the C core; fastopt/c_header.pxd has their types.

from fastopt.c_header cimport *

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag
        void *tp_getattro

    PyTypeObject *Py_TYPE(object value)
    unsigned long thread_ident "PyThread_get_thread_ident"() nogil


cdef extern from "fastopt.h" nogil:
    const fastopt_format_info *fastopt_format_at(int format)
    fastopt_status fastopt_decode(fastopt_format format, const void *data, const void *rest, Py_ssize_t n, float *out)
    fastopt_status fastopt_encode(fastopt_format format, const float *x, Py_ssize_t n, void *data, void *rest)
    const char *fastopt_status_text(fastopt_status status)
    Py_ssize_t fastopt_state_size(const fastopt_rule *rule, int s, int ndim, const Py_ssize_t *shape)
    fastopt_status fastopt_step_sized(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count, int num_threads)
    fastopt_status fastopt_step_with_sized(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                                           fastopt_call *call)
    fastopt_status fastopt_catch_up_sized(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                                          int num_threads)
    fastopt_status fastopt_average_sized(fastopt_sizes sizes, fastopt_tensor *tensors, Py_ssize_t count,
                                         int num_threads)
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
    fastopt_rule *fastopt_rule_create(const fastopt_rule_spec *spec, char *problem, size_t length)
    void fastopt_rule_destroy(fastopt_rule *rule)
    const char *fastopt_isa()
    const char *fastopt_version()
    int fastopt_abi_version()
    const char *fastopt_compiler()
    int fastopt_openmp()

cdef extern from "fastopt_testing.h" nogil:
    const char *fastopt_isa_at(int index)
    int fastopt_use_isa(const char *name)
    fastopt_status fastopt_traffic(const fastopt_tensor *tensor, int num_threads)
