# cython: language_level=3
"""An extension of a user: steps of the C API, and bound steps of an optimizer, without the GIL."""

cimport cython
cimport fastopt
from fastopt cimport FASTOPT_FLOAT32, FASTOPT_OK, fastopt_step, fastopt_tensor
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
