# Gradients of rows, and rows that an accumulator keeps.

SMALLEST_FLOAT32 = np.finfo(np.float32).smallest_normal


@cython.final
cdef class RowGrad:
    """The gradient of some rows of a parameter, such as an embedding table: a step reads and writes no other row.

    Parameters
    ----------
    rows : array of int, shape (k,)
        Which rows of the parameter (along its first axis), each at least 0.  A row may come several times: its values
        are summed, in the order in which they come.
    values : array, shape (k, *parameter.shape[1:])
        Their gradients, as float16, bfloat16, float32 or float64; what is not the parameter's dtype is converted.

    Raises
    ------
    TypeError, ValueError
        For rows that are not integers or are negative, and for values that are not one entry per row.

    Notes
    -----
    The parameter must be C-contiguous.  The step is lazy, as that of torch's SparseAdam: rows that are not named keep
    parameter and state as they are, so running means do not decay there, momentum does not move them, weight decay does
    not shrink them; the count of steps, and with it the bias correction, is that of the whole parameter.  For `SGD`
    without momentum and `Adagrad` that is exactly the step with a gradient that is zero elsewhere; for `SGD` with
    momentum, `RMSprop` and `Adadelta` it is with the optimizer's option ``catch_up=True``.  The averages of ``ema_decay``
    and ``swa`` take in rows that stood still in closed form, to rounding, when they are met or asked for.  Rules that
    need all of a parameter (its norm, or to start state from it), ``lookahead``, which moves all of it, an
    ``ema_decay`` that is a schedule, and zeroing do not go with it.
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
        values = np.asarray(values)  # whatever a subclass says of itself
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
    """Rows that have been gathered, in the order in which they came: a few pieces, the first with each row once."""

    cdef list pieces
    cdef Py_ssize_t summed, count  # rows in the first piece, and in all of them

    cdef RowGrad rows(self):
        """All of them, each row once, the values of one row summed in the order in which they came."""
        if len(self.pieces) > 1:
            self.pieces = [summed_rows(self.pieces)]
            self.count = self.summed = len((<RowGrad>self.pieces[0]).rows)
        return <RowGrad>self.pieces[0]


cdef cnp.ndarray converted(cnp.ndarray values, object dtype):
    """A copy of gradients in the dtype of their parameter, as a step converts them: subnormals of float32 count as 0."""
    cdef cnp.ndarray copy
    with np.errstate(all="ignore"):
        copy = np.array(values, dtype, order="C")
        if copy.dtype == np.float64 and values.dtype.name in ("float32", "bfloat16"):
            copy *= abs(copy) >= SMALLEST_FLOAT32
    return copy


cdef KeptRows added_rows(KeptRows before, RowGrad gradient, object dtype):
    """Rows that have been kept, and a copy of further ones; summed once they are twice as many as when they were last."""
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
    """Each of some rows once, and the addresses of their values, those of one row summed in the order of `rows`.

    `values` are C-contiguous, `length` for each row. Returns the rows, as many addresses, and the sums among which some of
    them lie; or None where a row is not below the limit.
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
    """Each row of several pieces once, the values of one row summed in the order in which they come."""
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
