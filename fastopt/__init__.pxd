# `cimport fastopt`: the C API in Cython, with the names of fastopt.h.  Extensions need the folder fastopt.get_include() to
# compile and link nothing.

from fastopt.c_header cimport *
from fastopt._core cimport (
    c_abi_version as fastopt_abi_version,
    c_average,
    c_catch_up,
    c_compiler as fastopt_compiler,
    c_decode as fastopt_decode,
    c_encode as fastopt_encode,
    c_find_hyper as fastopt_find_hyper,
    c_find_rule as fastopt_find_rule,
    c_finite as fastopt_finite,
    c_format_at as fastopt_format_at,
    c_in_range as fastopt_in_range,
    c_isa as fastopt_isa,
    c_openmp as fastopt_openmp,
    c_row_gradients as fastopt_row_gradients,
    c_rule_at as fastopt_rule_at,
    c_rule_catch_up as fastopt_rule_catch_up,
    c_rule_corrected as fastopt_rule_corrected,
    c_rule_create as fastopt_rule_create,
    c_rule_destroy as fastopt_rule_destroy,
    c_rule_hyper as fastopt_rule_hyper,
    c_rule_takes_rows as fastopt_rule_takes_rows,
    c_state_size as fastopt_state_size,
    c_status_text as fastopt_status_text,
    c_step,
    c_step_with,
    c_unique_rows as fastopt_unique_rows,
    c_version as fastopt_version,
)
from cpython.pycapsule cimport PyCapsule_GetPointer


# These pass the sizes that the header of the extension has.

cdef inline fastopt_status fastopt_step(fastopt_tensor *tensors, Py_ssize_t count, int num_threads) noexcept nogil:
    return c_step(fastopt_header_sizes(), tensors, count, num_threads)


cdef inline fastopt_status fastopt_step_with(fastopt_tensor *tensors, Py_ssize_t count, fastopt_call *call) noexcept nogil:
    return c_step_with(fastopt_header_sizes(), tensors, count, call)


cdef inline fastopt_status fastopt_average(fastopt_tensor *tensors, Py_ssize_t count, int num_threads) noexcept nogil:
    return c_average(fastopt_header_sizes(), tensors, count, num_threads)


cdef inline fastopt_status fastopt_catch_up(fastopt_tensor *tensors, Py_ssize_t count, int num_threads) noexcept nogil:
    return c_catch_up(fastopt_header_sizes(), tensors, count, num_threads)


cdef inline fastopt_bound_step *fastopt_bound(object bound) except NULL:
    """The step in the result of `Optimizer.bind`, which must outlive it."""
    return <fastopt_bound_step *>PyCapsule_GetPointer(bound.capsule, FASTOPT_BOUND_STEP)
