# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=True
"""The bridge from NumPy arrays to the C core: check every array, fill the descriptors, make one call.

A `Table` is laid out once, when an optimizer is made.  Each step checks only what can have changed since (pointers,
shapes, flags).
"""

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_Next
from cpython.exc cimport PyErr_Clear
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_AsSsize_t
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcmp, memcpy, memset

import os
import sys
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from itertools import islice
from reprlib import repr as brief
from sys import intern
from weakref import WeakSet

import numpy as np

from .scalars import is_integer, is_number, unwrapped

cnp.import_array()

# One module in several files, so that the C core is linked once: its team of threads and its instruction set are static.
# Each file uses only files above it, except for two classes, declared here, and the description of tensors.
cdef class Members
cdef class Table

include "c_core.pxi"         # fastopt.h, as Cython reads it
include "core_info.pxi"      # queries of the C core: rules, ranges, instruction sets, build
include "arrays.pxi"         # one description of arrays, their dtypes, shapes and memory
include "settings.pxi"       # a group's rule, hyperparameters and options
include "row_gradients.pxi"  # gradients of rows, and their sums
include "tensors.pxi"        # tensors of other libraries, described alike
include "containers.pxi"     # lists and mappings that hold the user's arrays
include "lock.pxi"           # the lock of an optimizer
include "structure.pxi"      # nests of gradients
include "parameters.pxi"     # descriptors of parameters and state, their memory and decays
include "averages.pxi"       # averages of parameters that no step updates
include "members.pxi"        # tables that step as one
include "binder.pxi"         # gradients: checked and bound to descriptors
include "runner.pxi"         # the call of the C core: options, threads, skipped steps
include "accumulator.pxi"    # sums of gradients
include "table.pxi"          # an optimizer: all of the above, its step, schedules and saved state
include "bound.pxi"          # steps on bound gradients for C, without the GIL where they need no Python
include "exported.pxi"       # functions of the C core for other modules in Cython
include "kernel.pxi"         # rules as functions on the caller's own buffers
