# Arrays: their formats, shapes and memory.

cdef inline bint is_native_float(cnp.ndarray a) noexcept:
    return (cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 or cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT64) \
        and cnp.PyArray_ISNOTSWAPPED(a)


cdef inline int format_of(cnp.ndarray g, int type_num) noexcept:
    """How a gradient of a parameter of this type is stored, or -1 where it is in none of the formats."""
    cdef int of_g = cnp.PyArray_TYPE(g)
    if not cnp.PyArray_ISNOTSWAPPED(g):
        return -1
    if of_g == type_num:
        return FASTOPT_NATIVE
    if of_g == cnp.NPY_FLOAT32:
        return FASTOPT_AS_FLOAT32
    if of_g == cnp.NPY_FLOAT64:
        return FASTOPT_AS_FLOAT64
    return FASTOPT_AS_FLOAT16 if of_g == cnp.NPY_FLOAT16 else -1


SMALLEST_FLOAT32 = np.finfo(np.float32).smallest_normal
FORMATS = "float16, float32 or float64 in native byte order"  # of gradients


cdef inline bint is_plain_array(object value):
    """Whether a value is an ndarray that means what its memory holds: a mask would be passed over."""
    return cnp.PyArray_CheckExact(value) or (
        isinstance(value, cnp.ndarray) and not isinstance(value, np.ma.MaskedArray))


cdef Py_ssize_t length_of(object value) except -1:
    """The length of a sequence, or the largest there can be."""
    try:
        return len(value)
    except OverflowError:
        return PY_SSIZE_T_MAX


cdef str type_name(object value):
    return type(value).__name__


def order_of(cnp.ndarray a):
    """The axes of an array from the slowest to the fastest in memory: the order in which it is walked."""
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        return tuple(range(a.ndim))
    return tuple(sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis])))


cdef inline bint differ(const cnp.npy_intp *a, const Py_ssize_t *b, int ndim) noexcept:
    """Whether shapes or strides differ: there are so few axes that a call of memcmp would take longer."""
    cdef int d
    for d in range(ndim):
        if a[d] != b[d]:
            return True
    return False


cdef void bounds_of(cnp.ndarray a, uintptr_t *low, uintptr_t *high) noexcept:
    cdef uintptr_t begin = <uintptr_t>cnp.PyArray_DATA(a), end = begin
    cdef Py_ssize_t reach
    cdef int d
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) == 0:
            low[0] = high[0] = begin
            return
        reach = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if reach < 0:
            begin += reach
        else:
            end += reach
    low[0] = begin
    high[0] = end + cnp.PyArray_ITEMSIZE(a)


cdef bint share_memory(cnp.ndarray a, cnp.ndarray b):
    """Exactly whether two arrays have a byte in common; where that is too hard to find out, assume so."""
    try:
        return np.shares_memory(a, b, max_work=100_000)
    except np.exceptions.TooHardError:
        return True


cdef bint overlaps_itself(cnp.ndarray a):
    """Whether two elements of an array may share memory (sure for all arrays made by slicing and transposing)."""
    cdef Py_ssize_t reach = cnp.PyArray_ITEMSIZE(a)
    if cnp.PyArray_SIZE(a) == 0:
        return False
    for axis in reversed(order_of(a)):
        if a.shape[axis] > 1:
            if abs(a.strides[axis]) < reach:
                return True
            reach += (a.shape[axis] - 1) * abs(a.strides[axis])
    return False


def check_parameter(str label, object p):
    """Raise unless fastopt can update this array in place."""
    if not is_plain_array(p):
        raise TypeError(f"{label} must be a numpy.ndarray, got {type_name(p)}")
    if not is_native_float(p):
        raise TypeError(f"{label} must have dtype float32 or float64 in native byte order, got {p.dtype.str!r}"
                        f" ({p.dtype})")
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>p):
        raise ValueError(f"{label} must be writable, got a read-only array")
    if overlaps_itself(p):
        raise ValueError(f"{label} must not overlap itself, got strides {p.strides} for shape {p.shape}")


def check_disjoint(str owner, list labels, list arrays):
    """Raise ValueError, naming the owner and the labels of both, when two of the arrays share memory."""
    cdef uintptr_t low, high
    cdef list rows = [], reaching = []
    for label, array in zip(labels, arrays):
        bounds_of(array, &low, &high)
        if low < high:
            rows.append((low, high, label, array))
    rows.sort(key=lambda row: row[0])
    for row in rows:
        reaching = [other for other in reaching if other[1] > row[0]]
        for other in reaching:
            if share_memory(row[3], other[3]):
                what = "is the same array as" if row[3] is other[3] else "shares memory with"
                raise ValueError(f"{owner}: {row[2]} {what} {other[2]}, each must have its own memory")
        reaching.append(row)


cdef struct Span:
    uintptr_t low, high


cdef int by_address(const void *a, const void *b) noexcept nogil:
    return ((<const Span *>a).low > (<const Span *>b).low) - ((<const Span *>a).low < (<const Span *>b).low)
