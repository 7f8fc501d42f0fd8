# Arrays: one description for the arrays of every library, and the checks that need nothing else.

cdef enum:
    # Dtypes as DLPack has them: 256 times the kind (integer, unsigned, float, bfloat) plus the number of bits.
    OTHER_DTYPE = 0  # none of these, or not in native byte order
    INT8 = 0x008, INT16 = 0x010, INT64 = 0x040
    UINT8 = 0x108
    FLOAT16 = 0x210, FLOAT32 = 0x220, FLOAT64 = 0x240
    BFLOAT16 = 0x410

    FIRST_REGISTERED = 256  # NumPy's number of the first dtype that a library has registered

    # Devices as DLPack has them.
    CPU = 1

    # Flags of arrays, in NumPy's bits.
    CONTIGUOUS = 0x001
    ALIGNED = 0x100
    WRITABLE = 0x400
    FLAT = CONTIGUOUS | ALIGNED  # can be walked as one run of elements

cdef str FLOATS = "float32 or float64 in native byte order"
cdef str FORMATS = "float16, bfloat16, float32 or float64 in native byte order"


cdef struct array_view:
    # An array of any library. Shape and strides lie in memory of the array, or of the function that fills this in.
    void *data
    const Py_ssize_t *shape
    const Py_ssize_t *strides
    Py_ssize_t unit  # bytes that a stride of 1 stands for: 1 in NumPy, the size of an element in DLPack
    int ndim
    int dtype
    int device
    int flags
    const void *home  # of a tensor alone: where it keeps its shape, or its own address where that is not known


cdef struct Span:
    uintptr_t low, high  # addresses of the first byte and one past the last byte; equal if there are no bytes


# ---- Descriptions ----

cdef int bfloat16_number = -1  # NumPy's number of the dtype of ml_dtypes, once fastopt has met one of its arrays


cdef int registered_dtype(cnp.ndarray a) noexcept:
    """The dtype of an array whose dtype another library has registered with NumPy."""
    global bfloat16_number
    if cnp.PyArray_TYPE(a) != bfloat16_number and a.dtype.name == "bfloat16" and cnp.PyArray_ITEMSIZE(a) == 2:
        bfloat16_number = cnp.PyArray_TYPE(a)
    return BFLOAT16 if cnp.PyArray_TYPE(a) == bfloat16_number else OTHER_DTYPE


cdef extern from *:
    """
    /* The dtypes of DLPack by NumPy's numbers: a table, where branches would take twice as many instructions. */
    static const short numpy_dtypes[] = {
        [NPY_BYTE] = 0x008, [NPY_SHORT] = 0x010, [NPY_LONG] = sizeof(long) == 8 ? 0x040 : 0,
        [NPY_LONGLONG] = 0x040, [NPY_UBYTE] = 0x108,
        [NPY_HALF] = 0x210, [NPY_FLOAT] = 0x220, [NPY_DOUBLE] = 0x240,
    };
    enum { NUMPY_DTYPES = sizeof numpy_dtypes / sizeof *numpy_dtypes };
    """
    const short *numpy_dtypes
    enum: NUMPY_DTYPES


cdef inline int numpy_dtype(cnp.ndarray a) noexcept:
    cdef int number = cnp.PyArray_TYPE(a)
    if not cnp.PyArray_ISNOTSWAPPED(a):
        return OTHER_DTYPE
    if <unsigned>number < NUMPY_DTYPES:
        return numpy_dtypes[number]
    return registered_dtype(a) if number >= FIRST_REGISTERED else OTHER_DTYPE


cdef inline void describe_numpy(cnp.ndarray a, array_view *view) noexcept:
    view.data = cnp.PyArray_DATA(a)
    view.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(a)
    view.strides = <const Py_ssize_t *>cnp.PyArray_STRIDES(a)
    view.unit = 1
    view.ndim = cnp.PyArray_NDIM(a)
    view.dtype = numpy_dtype(a)
    view.device = CPU
    view.flags = cnp.PyArray_FLAGS(a)


cdef inline bint is_plain_array(object value) except -1:
    """Whether a value is an ndarray whose elements are its memory; the mask of a masked array would be ignored."""
    return cnp.PyArray_CheckExact(value) or (
        isinstance(value, cnp.ndarray) and not isinstance(value, np.ma.MaskedArray))


cdef inline bint describe(object value, array_view *view) except -1:
    """Fill in the description of an array or tensor; returns False for a value that is neither, or cannot be read here."""
    cdef const KnownType *kind
    if cnp.PyArray_CheckExact(value):
        describe_numpy(<cnp.ndarray>value, view)
        return True
    # Known types of tensors come first, since isinstance() walks the base classes of a tensor.
    kind = known_type(value)
    if kind != NULL and kind.reader != NULL:
        return describe_tensor(value, kind.reader, view)
    return describe_others(value, view)


cdef bint describe_others(object value, array_view *view) except -1:
    """The same for a value that is neither an ndarray nor of a known type of tensors."""
    cdef tensor_reader reader
    if is_plain_array(value):
        describe_numpy(<cnp.ndarray>value, view)
        return True
    reader = reader_of(value)
    return reader != NULL and describe_tensor(value, reader, view)


# ---- Dtypes ----

cdef inline Py_ssize_t itemsize(const array_view *a) noexcept nogil:
    return (a.dtype & 0xff) // 8


cdef inline bint is_float(const array_view *a) noexcept nogil:
    """Whether a rule computes in the dtype of this array."""
    return a.dtype == FLOAT32 or a.dtype == FLOAT64


cdef inline bint is_stored_float(const array_view *a) noexcept nogil:
    """Whether a parameter can have the dtype of this array."""
    return is_float(a) or a.dtype == FLOAT16 or a.dtype == BFLOAT16


cdef inline int computed_in(const array_view *p) noexcept nogil:
    """The dtype in which the rule computes for a parameter."""
    return FLOAT64 if p.dtype == FLOAT64 else FLOAT32


cdef inline fastopt_dtype core_dtype(const array_view *p) noexcept nogil:
    return FASTOPT_FLOAT64 if p.dtype == FLOAT64 else FASTOPT_FLOAT32


cdef inline int format_of(const array_view *g, int computed) noexcept nogil:
    """The format of a gradient where the rule computes in this dtype, or -1 if there is none."""
    if g.dtype == computed:
        return FASTOPT_NATIVE
    if g.dtype == FLOAT32:
        return FASTOPT_AS_FLOAT32
    if g.dtype == FLOAT64:
        return FASTOPT_AS_FLOAT64
    if g.dtype == BFLOAT16:
        return FASTOPT_AS_BFLOAT16
    return FASTOPT_AS_FLOAT16 if g.dtype == FLOAT16 else -1


# ---- Shapes and strides ----

cdef inline Py_ssize_t stride(const array_view *a, int d) noexcept nogil:
    """The bytes between two elements along an axis."""
    return a.strides[d] * a.unit


cdef inline bint same_shape(const array_view *a, const array_view *b) noexcept nogil:
    """Whether shapes are equal: a loop, since a call of memcmp takes longer for a few axes."""
    cdef int d
    if a.ndim != b.ndim:
        return False
    for d in range(a.ndim):
        if a.shape[d] != b.shape[d]:
            return False
    return True


cdef inline bint same_memory(const array_view *a, const array_view *laid_out) noexcept nogil:
    """Whether an array is the same elements at the same addresses as one whose strides are in bytes."""
    cdef int d
    if a.data != laid_out.data or a.dtype != laid_out.dtype or a.ndim != laid_out.ndim:
        return False
    for d in range(a.ndim):
        if a.shape[d] != laid_out.shape[d] or stride(a, d) != laid_out.strides[d]:
            return False
    return True


cdef Py_ssize_t size_of(const array_view *a) noexcept nogil:
    cdef Py_ssize_t size = 1
    cdef int d
    for d in range(a.ndim):
        size *= a.shape[d]
    return size


cdef tuple shape_of(const array_view *a):
    return tuple([a.shape[d] for d in range(a.ndim)])


cdef tuple strides_of(const array_view *a):
    return tuple([stride(a, d) for d in range(a.ndim)])


cdef tuple axes_of(const array_view *a):
    """The axes of an array from the slowest to the fastest in memory."""
    cdef tuple strides = strides_of(a)
    if a.flags & CONTIGUOUS:
        return tuple(range(a.ndim))
    return tuple(sorted(range(a.ndim), key=lambda axis: -abs(strides[axis])))


def order_of(cnp.ndarray a):
    """The axes of an array from the slowest to the fastest in memory: the order in which it is walked."""
    cdef array_view view
    describe_numpy(a, &view)
    return axes_of(&view)


# ---- Memory ----

cdef Span span_of(const array_view *a) noexcept nogil:
    """The addresses between which the elements of an array lie."""
    cdef uintptr_t low = <uintptr_t>a.data, high = low
    cdef Py_ssize_t reach
    cdef int d
    for d in range(a.ndim):
        if a.shape[d] == 0:
            return Span(<uintptr_t>a.data, <uintptr_t>a.data)
        reach = (a.shape[d] - 1) * stride(a, d)
        if reach < 0:
            low += reach
        else:
            high += reach
    return Span(low, high + itemsize(a))


cdef inline bint meet(Span a, Span b) noexcept nogil:
    """Whether two spans that are not empty have an address in common."""
    return a.low < b.high and b.low < a.high


cdef int by_address(const void *a, const void *b) noexcept nogil:
    return ((<const Span *>a).low > (<const Span *>b).low) - ((<const Span *>a).low < (<const Span *>b).low)


cdef object as_bytes(const array_view *a):
    """A NumPy array of these elements as raw bytes, for any dtype; writable if the array is."""
    cdef cnp.npy_intp strides[FASTOPT_MAX_NDIM]
    cdef int d
    for d in range(a.ndim):
        strides[d] = stride(a, d)
    return cnp.PyArray_New(cnp.ndarray, a.ndim, <cnp.npy_intp *>a.shape, cnp.NPY_VOID, strides, a.data, itemsize(a),
                           a.flags & WRITABLE, None)


cdef bint share_memory(const array_view *a, const array_view *b) except -1:
    """Whether two arrays have a byte in common: exact, except that it is True where NumPy gives up."""
    if not meet(span_of(a), span_of(b)):
        return False
    try:
        return np.shares_memory(as_bytes(a), as_bytes(b), max_work=100_000)
    except np.exceptions.TooHardError:
        return True


cdef bint overlaps_any(const array_view *a, object arrays) except -1:
    """Whether an array shares memory with one of several."""
    cdef array_view other
    for array in arrays:
        if describe(array, &other) and share_memory(a, &other):
            return True
    return False


cdef bint overlaps_itself(const array_view *a) except -1:
    """Whether two elements of an array may share memory; exact for arrays made by slicing and transposing."""
    cdef Py_ssize_t reach = itemsize(a)
    cdef int axis
    if size_of(a) == 0:
        return False
    for axis in reversed(axes_of(a)):
        if a.shape[axis] > 1:
            if abs(stride(a, axis)) < reach:
                return True
            reach += (a.shape[axis] - 1) * abs(stride(a, axis))
    return False


# ---- Refusals: the errors that checks of arrays raise ----

cdef str type_name(object value):
    return type(value).__name__


cdef str dtype_name(object array):
    """The dtype of an array as messages show it."""
    return f"{array.dtype.str!r} ({array.dtype})" if isinstance(array, cnp.ndarray) else str(array.dtype)


cdef int refuse_type(str label, object value, str required="a numpy.ndarray") except -1:
    if is_tensor(value):
        raise ValueError(f"{label} must {unreadable(value)}")
    raise TypeError(f"{label} must be {required}, got {type_name(value)}")


cdef int refuse_dtype(str label, object array, str required) except -1:
    raise TypeError(f"{label} must have dtype {required}, got {dtype_name(array)}")


cdef int refuse_shape(str label, const array_view *a, str required) except -1:
    raise ValueError(f"{label} must have {required}, got {shape_of(a)}")


cdef int refuse_strides(str label, const array_view *a, str required) except -1:
    raise ValueError(f"{label} must {required}, got strides {strides_of(a)} for shape {shape_of(a)}")


cdef int refuse_read_only(str label, str purpose="") except -1:
    raise ValueError(f"{label} must be writable{purpose}, got a read-only array")


def check_parameter(str label, object p):
    """Raise unless fastopt can update this array in place."""
    cdef array_view view
    if not describe(p, &view):
        return refuse_type(label, p)
    if not is_stored_float(&view):
        return refuse_dtype(label, p, FORMATS)
    if not view.flags & WRITABLE:
        return refuse_read_only(label)
    if overlaps_itself(&view):
        return refuse_strides(label, &view, "not overlap itself")


def check_disjoint(str owner, list labels, list arrays):
    """Raise ValueError, naming the owner and the labels of both, when two of the arrays share memory."""
    cdef array_view view, other
    cdef list rows = [], reaching = []
    for label, array in zip(labels, arrays):
        if describe(array, &view):
            span = span_of(&view)
            if span.low < span.high:
                rows.append((span.low, span.high, label, array))
    rows.sort(key=lambda row: row[0])
    for row in rows:
        describe(row[3], &view)
        reaching = [before for before in reaching if before[1] > row[0]]
        for before in reaching:
            describe(before[3], &other)
            if share_memory(&view, &other):
                relation = "is the same array as" if row[3] is before[3] else "shares memory with"
                raise ValueError(f"{owner}: {row[2]} {relation} {before[2]}: each must have its own memory")
        reaching.append(row)
