# Gradients of rows, and the rows that an accumulator keeps.

SMALLEST_FLOAT32 = np.finfo(np.float32).smallest_normal


@cython.final
cdef class RowGrad:
    """The gradient of some rows of a parameter, such as an embedding table: a step reads and writes no other row.

    Parameters
    ----------
    rows : array of int, shape (k,)
        Indices of rows along the first axis of the parameter, each at least 0.  A row may occur several times: its
        values are added up in their order.
    values : array, shape (k, ...), with the other axes of the parameter
        The gradients of these rows: float16, bfloat16, float32 or float64, converted to the dtype in which the rule
        computes.

    Raises
    ------
    TypeError, ValueError
        For rows that are not integers or are negative, and for values that do not have one entry per row.

    Notes
    -----
    The parameter must be C-contiguous.  The step is lazy, as in torch's SparseAdam: it leaves other rows alone.  Their
    running means do not decay, momentum does not move them, and weight decay does not shrink them.  Steps, and with them
    bias corrections, are counted for the whole parameter.  If a zero gradient changes nothing under the rule, as with
    `SGD` without momentum, this equals the step with zeros in the other rows.  For rules with a closed form of missed
    steps, such as `SGD` with momentum, the option ``catch_up=True`` gives the same result, to rounding.  The averages of
    ``ema_decay`` and ``swa`` include the missed steps of a row in closed form, to rounding, when its next gradient comes or
    when they are read.  A RowGrad is refused by rules that need the whole parameter in each step, such as `LAMB`, by rules
    whose first step sets all of their state, such as `Rprop`, with ``lookahead``, which moves all rows, and with a
    schedule as ``ema_decay``.  ``zero_grads`` does not set it to zero.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = np.ones((1000, 2))
    >>> opt = fastopt.SGD(table, lr=0.5)
    >>> opt.step(fastopt.RowGrad([3, 7], np.ones((2, 2))))
    >>> table[2:5]
    array([[1. , 1. ],
           [0.5, 0.5],
           [1. , 1. ]])
    """

    cdef readonly cnp.ndarray rows, values

    def __cinit__(self, rows=None, values=None, *others, **unknown):
        if values is None or others or unknown:
            from .calls import problem
            given = [value for value in (rows, values) if value is not None]
            raise TypeError(problem("RowGrad", ["rows", "values"], [], ["rows", "values"], [*given, *others], unknown))
        rows = np.asarray(rows)
        if rows.shape == (0,):
            rows = rows.astype(np.int64)  # an empty list has no dtype of its own
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise TypeError(f"RowGrad: rows must be a one-dimensional array of integers, got {rows.dtype} of shape"
                            f" {rows.shape}")
        if not is_plain_array(values):
            raise TypeError(f"RowGrad: values must be a numpy.ndarray, got {type_name(values)}")
        values = np.asarray(values)  # without the overrides of a subclass
        if values.ndim < 1 or len(values) != len(rows):
            raise ValueError(f"RowGrad: values must have one entry for each of the {len(rows)} rows, got shape"
                             f" {values.shape}")
        if len(rows) and rows.min() < 0:
            raise ValueError(f"RowGrad: rows must be >= 0, got {rows.min()}")
        if len(rows) and rows.dtype == np.uint64 and rows.max() > np.iinfo(np.int64).max:
            raise ValueError(f"RowGrad: rows must be < 2**63, got {rows.max()}")
        self.rows = np.array(rows, np.int64)
        self.values = values

    def __repr__(self):
        return f"RowGrad({len(self.rows)} rows, {self.values.dtype})"

    def __reduce__(self):
        return RowGrad, (self.rows, self.values)


@cython.final
cdef class KeptRows:
    """Gradients of rows, kept in the order in which they came, in a few pieces; the first piece has each row once."""

    cdef list pieces
    cdef Py_ssize_t summed, count  # rows in the first piece, and in all of them

    cdef RowGrad rows(self):
        """All rows, each once; the values of a row are summed in the order in which they came."""
        if len(self.pieces) > 1:
            self.pieces = [summed_rows(self.pieces)]
            self.count = self.summed = len((<RowGrad>self.pieces[0]).rows)
        return <RowGrad>self.pieces[0]


cdef cnp.ndarray converted(cnp.ndarray values, object dtype):
    """A copy of gradients in this dtype, converted as in a step: subnormals of float32 become 0."""
    cdef cnp.ndarray copy
    with np.errstate(all="ignore"):
        copy = np.array(values, dtype, order="C")
        if copy.dtype == np.float64 and values.dtype.name in ("float32", "bfloat16"):
            copy *= abs(copy) >= SMALLEST_FLOAT32
    return copy


cdef KeptRows added_rows(KeptRows before, RowGrad gradient, object dtype):
    """Kept rows with a copy of further ones appended; they are summed when their number has doubled since the last sum."""
    cdef KeptRows after = KeptRows.__new__(KeptRows)
    cdef RowGrad piece = RowGrad(gradient.rows, converted(gradient.values, dtype))
    after.pieces = [piece] if before is None else [*before.pieces, piece]
    after.summed = 0 if before is None else before.summed
    after.count = len(piece.rows) + (0 if before is None else before.count)
    if after.count > 2 * after.summed:
        after.pieces = [summed_rows(after.pieces)]
        after.count = after.summed = len((<RowGrad>after.pieces[0]).rows)
    return after


cdef tuple sum_rows(cnp.ndarray rows, cnp.ndarray values, Py_ssize_t length, int64_t limit):
    """Each row once, with the address of its values; values of a row that repeats are summed in the order of `rows`.

    `values` are C-contiguous, `length` per row. Returns the rows, their addresses, and the array of sums, to which some
    addresses point; or None if a row is not below the limit.
    """
    cdef Py_ssize_t count = cnp.PyArray_SIZE(rows), found
    cdef cnp.ndarray unique = np.empty(count, np.int64), places = np.empty(count, np.intp), addresses, sums
    cdef fastopt_dtype dtype = FASTOPT_FLOAT32 if cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT32 else FASTOPT_FLOAT64
    found = fastopt_unique_rows(<const int64_t *>cnp.PyArray_DATA(rows), count, limit,
                                <int64_t *>cnp.PyArray_DATA(unique), <Py_ssize_t *>cnp.PyArray_DATA(places))
    if found == FASTOPT_ROWS_BEYOND:
        return None
    if found < 0:
        raise MemoryError
    addresses, sums = np.zeros(found, np.uintp), np.empty((count - found, length), values.dtype)
    fastopt_row_gradients(dtype, cnp.PyArray_DATA(values), <const Py_ssize_t *>cnp.PyArray_DATA(places), count, length,
                          <const void **>cnp.PyArray_DATA(addresses), cnp.PyArray_DATA(sums))
    return unique[:found], addresses, sums


cdef RowGrad summed_rows(list pieces):
    """Several pieces as one with each row once; the values of a row are summed in their order."""
    cdef cnp.ndarray rows = np.concatenate([(<RowGrad>piece).rows for piece in pieces])
    cdef cnp.ndarray values = np.concatenate([(<RowGrad>piece).values for piece in pieces])
    cdef Py_ssize_t i, count = cnp.PyArray_SIZE(rows)
    cdef Py_ssize_t length = cnp.PyArray_SIZE(values) // count if count else 0
    cdef size_t row_size = length * cnp.PyArray_ITEMSIZE(values)
    cdef cnp.ndarray addresses, result
    unique, addresses, sums = sum_rows(rows, values, length, INT64_MAX)
    result = np.empty((len(unique), *(<object>values).shape[1:]), values.dtype)
    for i in range(len(unique) if row_size else 0):
        memcpy(<char *>cnp.PyArray_DATA(result) + i * row_size, (<void **>cnp.PyArray_DATA(addresses))[i], row_size)
    return RowGrad(unique, result)
