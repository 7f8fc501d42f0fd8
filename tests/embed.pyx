# cython: language_level=3
"""An extension of a user: steps of the C API, and bound steps of an optimizer, without the GIL."""

cimport cython
cimport fastopt
from fastopt cimport FASTOPT_FLOAT32, FASTOPT_OK, fastopt_step, fastopt_tensor
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "Python.h":
    int PyGILState_Check() nogil  # 1 while this thread has the GIL


@cython.boundscheck(False)
cdef void fill(float[::1] g, int step) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(g.shape[0]):
        g[i] = (i + step) % 7 - 3


def adam_in_c(float[::1] p, float[::1] g, float[::1] m, float[::1] v, int steps, double lr):
    """Steps of Adam on buffers of the caller; the number of steps that were made without the GIL."""
    cdef fastopt_tensor t
    cdef double[4] hyper = [lr, 0.9, 0.999, 1e-8]
    cdef int step, without = 0
    memset(&t, 0, sizeof(t))
    t.rule = fastopt.fastopt_find_rule(b"adam")
    t.dtype = FASTOPT_FLOAT32
    t.n = p.shape[0]
    t.p = &p[0]
    t.g = &g[0]
    t.state[0] = &m[0]
    t.state[1] = &v[0]
    t.hyper = hyper
    with nogil:
        for step in range(1, steps + 1):
            t.step = step
            fill(g, step)
            if fastopt_step(&t, 1, 2) != FASTOPT_OK:
                break
            without += not PyGILState_Check()
    return without


def bound_steps(bound, float[::1] g, int steps):
    """Bound steps; the statuses of the calls."""
    cdef fastopt.fastopt_bound_step *of_c = fastopt.fastopt_bound(bound)
    cdef int step
    cdef int[64] statuses
    with nogil:
        for step in range(1, steps + 1):
            fill(g, step)
            statuses[step - 1] = of_c.step(of_c.bound)
    return [statuses[step] for step in range(steps)]


def bound_steps_with_gil(bound, float[::1] g, int steps):
    cdef fastopt.fastopt_bound_step *of_c = fastopt.fastopt_bound(bound)
    for step in range(1, steps + 1):
        fill(g, step)
        if of_c.step(of_c.bound):
            break


# ---- A rule of the extension's own ----

ctypedef fused real:
    float
    double


cdef inline void push(real *p, const real *g, const void *state, const void *scalars, Py_ssize_t n) noexcept nogil:
    """Momentum; the scalars are lr, momentum, and the rate of the step."""
    cdef real *b = (<real **>state)[0]
    cdef const real *k = <const real *>scalars
    cdef Py_ssize_t i
    for i in range(n):
        b[i] = k[1] * b[i] + g[i]
        p[i] -= k[2] * b[i]


cdef void push_float32(float *p, const float *g, const void *state, const void *scalars, Py_ssize_t n) noexcept nogil:
    push(p, g, state, scalars, n)


cdef void push_float64(double *p, const double *g, const void *state, const void *scalars, Py_ssize_t n) noexcept nogil:
    push(p, g, state, scalars, n)


cdef void rate_of(int64_t t, const fastopt.fastopt_scalar_inputs *given, double *scalars) noexcept nogil:
    scalars[0] = given.hyper[0] / t


def own_rule(float[::1] p, float[::1] g, float[::1] b, int steps, double lr, str name):
    """Steps of a rule of this extension; its problem, or the number of steps that were made without the GIL."""
    cdef fastopt_tensor t
    cdef fastopt.fastopt_rule_spec spec
    cdef fastopt.fastopt_hyper[3] ranges
    cdef const char *state[2]
    cdef double[2] hyper = [lr, 0.5]
    cdef char[200] problem
    cdef int step, without = 0
    cdef bytes of_name = name.encode()
    memset(&t, 0, sizeof(t))
    memset(&spec, 0, sizeof(spec))
    memset(ranges, 0, sizeof(ranges))
    ranges[0] = fastopt.fastopt_hyper(b"lr", 0, INFINITY, 0, b"finite and >= 0")
    ranges[1] = fastopt.fastopt_hyper(b"momentum", 0, 1, 0, b"in [0, 1)")
    state[0], state[1] = b"b", NULL
    spec.size = sizeof(spec)
    spec.name, spec.state, spec.hyper = of_name, state, ranges
    spec.n_scalars, spec.scalars = 1, rate_of
    spec.float32, spec.float64 = push_float32, push_float64
    cdef fastopt.fastopt_rule *rule = fastopt.fastopt_rule_create(&spec, problem, sizeof(problem))
    if rule == NULL:
        return problem.decode()
    t.rule, t.dtype, t.n = rule, FASTOPT_FLOAT32, p.shape[0]
    t.p, t.g, t.state[0], t.hyper = &p[0], &g[0], &b[0], hyper
    with nogil:
        for step in range(1, steps + 1):
            t.step = step
            fill(g, step)
            if fastopt_step(&t, 1, 2) != FASTOPT_OK:
                break
            without += not PyGILState_Check()
        fastopt.fastopt_rule_destroy(rule)
    return without


# ---- Gradients of rows ----

def sgd_of_rows(float[:, ::1] p, int64_t[::1] rows, float[:, ::1] values, double lr):
    """A step of SGD with a gradient of rows; the number of rows without repetition."""
    cdef fastopt.fastopt_status status
    cdef fastopt_tensor t
    cdef double[1] hyper = [lr]
    cdef int64_t[16] unique
    cdef Py_ssize_t[16] places
    cdef const void *gradients[16]
    cdef float[256] sums
    memset(&t, 0, sizeof(t))
    memset(gradients, 0, sizeof(gradients))
    t.rule = fastopt.fastopt_find_rule(b"sgd")
    if not fastopt.fastopt_rule_takes_rows(t.rule):
        return -1
    with nogil:
        t.n = fastopt.fastopt_unique_rows(&rows[0], rows.shape[0], p.shape[0], unique, places)
        fastopt.fastopt_row_gradients(FASTOPT_FLOAT32, &values[0, 0], places, rows.shape[0], p.shape[1], gradients, sums)
        t.dtype, t.step, t.hyper = FASTOPT_FLOAT32, 1, hyper
        t.p, t.g = &p[0, 0], &values[0, 0]
        t.rows, t.row_gradients, t.row_length, t.row_count = unique, gradients, p.shape[1], p.shape[0]
        t.n *= t.row_length
        status = fastopt_step(&t, 1, 1)
    return t.n // t.row_length if status == FASTOPT_OK else -1
