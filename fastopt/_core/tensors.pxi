# Tensors of other libraries, read through DLPack's C exchange table. If torch has no such table, by their methods.

cdef struct DLDevice:
    int32_t type
    int32_t id


cdef struct DLDataType:
    uint8_t kind
    uint8_t bits
    uint16_t lanes


cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    const int64_t *shape
    const int64_t *strides  # in elements
    uint64_t byte_offset


# -1, maybe with an exception, where the elements are not in memory.
ctypedef int (*tensor_reader)(void *tensor, DLTensor *description) noexcept


cdef struct ExchangeTable:
    # Version 1 of DLPack. A table of another version points to an older one, or to NULL.
    uint32_t major, minor
    const ExchangeTable *older
    void *allocate
    void *managed_from_object
    void *object_from_managed
    tensor_reader describe
    void *current_stream


cdef extern from "Python.h":
    ctypedef object (*getter)(object, void *)

    ctypedef struct PyGetSetDef:
        getter get
        void *closure

    ctypedef struct PyGetSetDescrObject:
        PyGetSetDef *d_getset

    PyTypeObject PyGetSetDescr_Type
    object PyObject_GenericGetAttr(object, object)


cdef struct KnownType:
    const void *type
    tensor_reader reader  # NULL: its values are no tensors
    const PyGetSetDef *grad  # the function of the attribute of this name, or NULL where it is not known
    unsigned int version  # of the type, for which that was looked up


cdef enum:
    MOST_TYPES = 8
    MOST_READ = 4

cdef KnownType known_types[MOST_TYPES]  # those that came first; others are looked up each time
cdef int n_known_types = 0
cdef list known_types_lock = []
cdef double nothing = 0  # where tensors without elements lie
cdef int64_t axes_read[MOST_READ][2 * FASTOPT_MAX_NDIM]  # shapes and strides of the last tensors read by their methods
cdef int n_read = 0


cdef tensor_reader look_up(object kind) except? NULL:
    """The function that describes tensors of a type, or NULL where its values are none."""
    global n_known_types
    cdef const ExchangeTable *table = NULL
    cdef tensor_reader reader = NULL
    cdef object capsule
    cdef int i
    if sizeof(Py_ssize_t) == sizeof(int64_t) and not issubclass(kind, np.ndarray):
        capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
        if PyCapsule_IsValid(capsule, "dlpack_exchange_api"):
            table = <const ExchangeTable *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        while table != NULL and table.major != 1:
            table = table.older
        if table != NULL:
            reader = table.describe
        elif issubclass(kind, getattr(sys.modules.get("torch"), "Tensor", ())):
            reader = read_by_methods
    with cython.critical_section(known_types_lock):
        for i in range(n_known_types):
            if known_types[i].type == <void *>kind:
                return reader
        if n_known_types < MOST_TYPES:
            Py_INCREF(kind)
            known_types[n_known_types] = KnownType(<void *>kind, reader, NULL, 0)
            if reader != NULL:
                find_grad(kind, &known_types[n_known_types])
            n_known_types += 1
    return reader


cdef int find_grad(object kind, KnownType *known) except -1:
    """Look up the function of the attribute `grad` of a type, unless the type finds its attributes in a way of its own."""
    cdef PyTypeObject *of_kind = <PyTypeObject *>kind
    cdef const PyGetSetDef *found
    attribute = getattr(kind, "grad", None)
    if Py_TYPE(attribute) == &PyGetSetDescr_Type and of_kind.tp_getattro == <void *>PyObject_GenericGetAttr:
        found = (<PyGetSetDescrObject *>attribute).d_getset
        if found.get != NULL and of_kind.tp_version_tag != 0:
            known.grad, known.version = found, of_kind.tp_version_tag
    return 0


cdef inline const KnownType *known_type(object value) noexcept:
    """The type of a value where it is a known one, or NULL."""
    cdef int i
    for i in range(n_known_types):
        if known_types[i].type == Py_TYPE(value):
            return &known_types[i]
    return NULL


cdef inline tensor_reader reader_of(object value) except? NULL:
    """The function that describes a tensor, or NULL for a value that is none."""
    cdef const KnownType *kind = known_type(value)
    return kind.reader if kind != NULL else look_up(type(value))


cdef inline object grad_of(object tensor):
    """The `grad` of a tensor: by the function of its type, unless the type has changed since that was looked up."""
    cdef const KnownType *kind = known_type(tensor)
    if kind != NULL and kind.grad != NULL and kind.version == Py_TYPE(tensor).tp_version_tag:
        return kind.grad.get(tensor, kind.grad.closure)
    return tensor.grad


cdef int read_by_methods(void *tensor, DLTensor *description) noexcept:
    """Describe a tensor of a torch that has no exchange table: under the GIL, the last few descriptions stay valid."""
    global n_read
    cdef object value = <object>tensor
    cdef int64_t *axes = axes_read[n_read % MOST_READ]
    cdef int d
    try:
        if value.layout is not sys.modules["torch"].strided or value.dim() > FASTOPT_MAX_NDIM:
            return -1
        n_read += 1
        description.data = <void *><uintptr_t>value.data_ptr()
        description.byte_offset = 0
        description.device.type = CPU if value.device.type == "cpu" else 0
        description.ndim = value.dim()
        description.shape, description.strides = axes, axes + FASTOPT_MAX_NDIM
        for d in range(description.ndim):
            axes[d], axes[FASTOPT_MAX_NDIM + d] = value.shape[d], value.stride(d)
        name = str(value.dtype)
        kind = 4 if name == "torch.bfloat16" else 5 if value.is_complex() else 2 if value.is_floating_point() else 0
        description.dtype = DLDataType(kind, 8 * value.element_size(), 1)
        return 0
    except Exception:
        return -1


cdef bint describe_tensor(object value, tensor_reader reader, array_view *view) except -1:
    """Fill in the description of a tensor; returns False where its elements are not in memory."""
    cdef DLTensor tensor
    cdef Py_ssize_t size = 1, d
    if reader(<void *>value, &tensor):
        PyErr_Clear()
        return False
    if tensor.device.type != CPU or tensor.ndim > FASTOPT_MAX_NDIM:
        return False
    view.data = <char *>tensor.data + tensor.byte_offset
    view.shape = <const Py_ssize_t *>tensor.shape
    view.home = <const void *>value if reader == read_by_methods else <const void *>view.shape
    view.strides = <const Py_ssize_t *>tensor.strides
    view.unit = tensor.dtype.bits // 8
    view.ndim = tensor.ndim
    view.dtype = 256 * tensor.dtype.kind + tensor.dtype.bits if tensor.dtype.lanes == 1 else OTHER_DTYPE
    view.device = CPU
    view.flags = WRITABLE | CONTIGUOUS
    for d in reversed(range(tensor.ndim)):
        if tensor.shape[d] != 1 and tensor.strides[d] != size:
            view.flags = WRITABLE
        size *= tensor.shape[d]
    if size == 0:
        view.flags |= CONTIGUOUS
        view.data = &nothing
    elif tensor.data == NULL:  # of a subclass that holds other tensors
        return False
    if view.unit == 0 or <uintptr_t>view.data % <uintptr_t>view.unit == 0:
        view.flags |= ALIGNED
    # Only parts of complex tensors are marked as negated: they have strides, or too few elements to show them.
    return (view.flags & CONTIGUOUS and size > 1) or not is_negated(value)


cdef bint is_negated(object value) except -1:
    """Whether the elements of a tensor are the negatives of those in its memory."""
    is_neg = getattr(value, "is_neg", None)
    return is_neg is not None and is_neg()


# ---- Tensors that cannot be described ----

cpdef bint is_tensor(object value) except -1:
    """Whether a value is a tensor of a library that can be read, here or elsewhere."""
    return reader_of(value) != NULL


cdef str unreadable(object value):
    """Why a tensor cannot be read: the requirement, and the tensor found."""
    device, layout = str(getattr(value, "device", "cpu")), str(getattr(value, "layout", "strided"))
    if device != "cpu":
        return f"be on the CPU, got a tensor on {device}"
    if not layout.endswith("strided"):
        return f"be dense, got a tensor of layout {layout}"
    if is_negated(value):
        return "have its elements in memory, got a tensor with the negative bit: call resolve_neg()"
    return f"have memory of its own, got a {type_name(value)}"


def check_tensor(str label, object value):
    """Raise unless a value is a tensor whose elements can be read in its memory."""
    cdef array_view view
    if not describe(value, &view) or is_negated(value):
        refuse_type(label, value, "a tensor")


cdef bint is_sparse(object value) except -1:
    """Whether a value is a sparse tensor that lists places and values."""
    return is_tensor(value) and getattr(value, "is_sparse", False) is True


cdef RowGrad rows_of(str label, object value):
    """The rows of a sparse tensor."""
    if value.sparse_dim() != 1:
        raise ValueError(f"{label} must be sparse along its first axis alone, got a tensor sparse along {value.sparse_dim()}")
    if str(value.device) != "cpu":
        raise ValueError(f"{label} must be on the CPU, got a tensor on {value.device}")
    value = value.detach()
    rows, values = value._indices()[0], value._values()
    if str(values.dtype).endswith("bfloat16"):
        values = values.float()  # of which NumPy has no dtype
    return RowGrad(rows.numpy(), values.numpy())
