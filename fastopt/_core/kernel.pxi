# The functional form: rules as functions on the caller's own buffers.

cdef extern from *:
    """
    /* A rule as a built-in function: Python then hands the keywords over as they are, without a dict. */
    typedef PyObject *(*fastopt_kernel)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
    static PyObject *fastopt_function(PyMethodDef *def, const char *name, const char *doc, fastopt_kernel call,
                                      PyObject *self, PyObject *module)
    {
        def->ml_name = name;
        def->ml_doc = doc;
        def->ml_meth = (PyCFunction)(void (*)(void))call;
        def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
        return PyCFunction_NewEx(def, self, module);
    }
    """
    ctypedef struct PyMethodDef:
        pass
    object fastopt_function(PyMethodDef *definition, const char *name, const char *doc, void *call, object self,
                            object module)


cdef enum:
    EXTRAS = 6  # keywords that every rule takes
cdef tuple EXTRA_NAMES = ("step", "weight_decay", "decoupled_decay", "independent_decay", "maximize", "num_threads")


@cython.final
cdef class Kernel:
    """A function of fastopt.kernels: its rule, its names and its checks."""

    cdef const fastopt_rule *rule
    cdef PyMethodDef definition
    cdef str name
    cdef bytes c_name, c_doc
    cdef tuple buffers, keywords  # the keywords: hyperparameters, then EXTRA_NAMES
    cdef int n_state, n_carry, n_hyper

    def __init__(self, str name):
        self.rule = rule_named(name)
        self.name = name
        state, hyper, carry = names_of(self.rule.state), names_of(self.rule.hyper), names_of(self.rule.carry)
        self.buffers = ("p", "g", *state, *carry)
        self.keywords = tuple(map(intern, (*hyper, *EXTRA_NAMES)))
        self.n_state, self.n_carry, self.n_hyper = len(state), len(carry), len(hyper)

    def function(self, str doc):
        """The callable, with a signature and this docstring."""
        hyper = ", ".join(self.keywords[:self.n_hyper])
        self.c_name = self.name.encode()
        self.c_doc = (
            f"{self.name}({', '.join(self.buffers)}, /, *, step, {hyper}, weight_decay=0.0, decoupled_decay=0.0,"
            f" independent_decay=0.0, maximize=False, num_threads=None)\n--\n\n{doc}"
        ).encode()
        return fastopt_function(&self.definition, self.c_name, self.c_doc, <void *>call_kernel, self, "fastopt.kernels")

    cdef int number(self, int keyword, PyObject *given, double *value) except -1:
        """Read a number and check its range."""
        cdef const fastopt_hyper *hyper
        value[0] = PyFloat_AS_DOUBLE(<object>given) if type(<object>given) is float else self.converted(keyword, given)
        value[0] += 0.0  # -0 is 0
        hyper = fastopt_rule_hyper(self.rule, keyword) if keyword < self.n_hyper else fastopt_find_hyper("weight_decay")
        if not fastopt_in_range(hyper, value[0]):
            raise ValueError(f"{self.name}: {self.keywords[keyword]} must be {hyper.range.decode()}, got {value[0]!r}")
        return 0

    cdef double converted(self, int keyword, PyObject *given) except? -1:
        """Convert a number that is not of type float to a double."""
        try:
            return unwrapped(<object>given) if isinstance(<object>given, np.ndarray) else <object>given
        except OverflowError:
            raise ValueError(f"{self.name}: {self.keywords[keyword]} must be a number that a float can hold,"
                             f" got {brief(<object>given)}") from None

    cdef int64_t count(self, int keyword, object value, int64_t most) except -1:
        """Read an integer and check its range."""
        cdef int overflow = 0
        cdef int64_t number
        if type(value) is not int:
            if isinstance(value, np.ndarray):
                value = unwrapped(value)
            if not isinstance(value, (int, np.integer)):
                raise TypeError(f"{self.name}: {self.keywords[keyword]} must be an integer, got {brief(value)}")
            value = int(value)
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow or number < 1 or number > most:
            raise ValueError(f"{self.name}: {self.keywords[keyword]} must be {'>= 1' if value < 1 else f'<= {most}'},"
                             f" got {value}")
        return number

    cdef int sort(self, PyObject *const *values, PyObject *names, PyObject **given) except -1:
        """Put the values of keywords where `keywords` has their names; NULL for those that are not given."""
        cdef Py_ssize_t i, n = 0 if names == NULL else PyTuple_GET_SIZE(<object>names)
        cdef int k, known = self.n_hyper + EXTRAS
        for k in range(known):
            given[k] = NULL
        for i in range(n):
            name = <object>PyTuple_GET_ITEM(<object>names, i)
            for k in range(known):
                if <PyObject *>name == <PyObject *>PyTuple_GET_ITEM(self.keywords, k):
                    break
            else:
                if name not in self.keywords:
                    from .calls import nearest
                    raise TypeError(f"{self.name}: keywords must be among {', '.join(self.keywords)}, got"
                                    f" {name}{nearest(name, self.keywords)}")
                k = self.keywords.index(name)
            given[k] = values[i]
        for k in range(self.n_hyper + 1):
            if given[k] == NULL:
                raise TypeError(f"{self.name}: {self.keywords[k]} must be given")
        return 0

    cdef int call(self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) except -1:
        cdef fastopt_tensor t
        cdef fastopt_options options
        cdef double hyper[FASTOPT_MAX_HYPER]
        cdef double carry[FASTOPT_MAX_CARRY]
        cdef PyObject *given[FASTOPT_MAX_HYPER + EXTRAS]
        cdef int i, j, threads
        cdef Py_ssize_t size
        cdef uintptr_t low[2 + FASTOPT_MAX_STATE + FASTOPT_MAX_CARRY]
        cdef uintptr_t high[2 + FASTOPT_MAX_STATE + FASTOPT_MAX_CARRY]
        cdef cnp.ndarray p, a
        cdef fastopt_extent extent
        cdef fastopt_status status
        if n != 2 + self.n_state + self.n_carry:
            raise TypeError(f"{self.name}: buffers must be {', '.join(self.buffers)}, got {n} of them"
                            f" (what comes after them is given by name)")
        self.sort(arguments + n, names, given)
        for i in range(self.n_hyper):
            self.number(i, given[i], &hyper[i])
        memset(&t, 0, sizeof(t))
        memset(&options, 0, sizeof(options))
        i = self.n_hyper
        t.step = self.count(i, <object>given[i], <int64_t>1 << 62)
        threads = 0
        if given[i + 1] != NULL:
            self.number(i + 1, given[i + 1], &options.weight_decay)
        if given[i + 2] != NULL:
            self.number(i + 2, given[i + 2], &options.decoupled_decay)
        if given[i + 3] != NULL:
            self.number(i + 3, given[i + 3], &options.independent_decay)
        if given[i + 4] != NULL:
            if not isinstance(<object>given[i + 4], (bool, np.bool_)):
                raise TypeError(f"{self.name}: maximize must be True or False, got {brief(<object>given[i + 4])}")
            options.maximize = bool(<object>given[i + 4])
        if given[i + 5] != NULL and <object>given[i + 5] is not None:
            threads = self.count(i + 5, <object>given[i + 5], 1 << 30)

        for i in range(2 + self.n_state + self.n_carry):
            value = <object>arguments[i]
            if not is_plain_array(value):
                raise TypeError(f"{self.name}: {self.buffers[i]} must be a numpy.ndarray, got {type_name(value)}")
            a = <cnp.ndarray>value
            if i == 0:
                p = a
                if not is_native_float(p):
                    raise TypeError(f"{self.name}: p must have dtype float32 or float64 in native byte order,"
                                    f" got {p.dtype.str!r} ({p.dtype})")
                size = cnp.PyArray_SIZE(p)
                if self.rule.gathers == FASTOPT_MATRICES and cnp.PyArray_NDIM(p) < 2:
                    raise ValueError(f"{self.name}: p must have at least two axes, got shape {value.shape}")
            if i < 2 + self.n_state:
                extent = self.rule.extent[i - 2] if i > 1 else FASTOPT_WHOLE
                if i == 1:
                    if format_of(a, cnp.PyArray_TYPE(p)) < 0:
                        raise TypeError(f"{self.name}: g must have dtype {FORMATS}, got {a.dtype.str!r} ({a.dtype})")
                    t.formats.g = <unsigned char>format_of(a, cnp.PyArray_TYPE(p))
                elif cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(p) or not cnp.PyArray_ISNOTSWAPPED(a):
                    raise TypeError(f"{self.name}: {self.buffers[i]} must have p's dtype {p.dtype},"
                                    f" got {a.dtype.str!r} ({a.dtype})")
                if extent != FASTOPT_WHOLE:
                    required = shape_of(extent, (<object>p).shape)
                    if value.shape != required:
                        raise ValueError(f"{self.name}: {self.buffers[i]} must have shape {required} for p of shape"
                                         f" {(<object>p).shape}, got {value.shape}")
                elif cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(p) or \
                        differ(cnp.PyArray_DIMS(a), <Py_ssize_t *>cnp.PyArray_DIMS(p), cnp.PyArray_NDIM(p)):
                    raise ValueError(f"{self.name}: {self.buffers[i]} must have p's shape {(<object>p).shape},"
                                     f" got {value.shape}")
            elif cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT64 or not cnp.PyArray_ISNOTSWAPPED(a) or cnp.PyArray_SIZE(a) != 1:
                raise TypeError(f"{self.name}: {self.buffers[i]} must be a float64 array of one element,"
                                f" got {a.dtype.str!r} of shape {value.shape}")
            if not cnp.PyArray_IS_C_CONTIGUOUS(a) or not cnp.PyArray_ISALIGNED(a):
                raise ValueError(f"{self.name}: {self.buffers[i]} must be C-contiguous and aligned,"
                                 f" got strides {value.strides} for shape {value.shape}")
            if i != 1 and not cnp.PyArray_ISWRITEABLE(a):
                raise ValueError(f"{self.name}: {self.buffers[i]} must be writable, got a read-only array")
            low[i] = <uintptr_t>cnp.PyArray_DATA(a)
            high[i] = low[i] + cnp.PyArray_NBYTES(a)
            for j in range(i):
                if low[i] < high[j] and low[j] < high[i]:
                    raise ValueError(f"{self.name}: {self.buffers[i]} must not share memory with"
                                     f" {self.buffers[j]}, but it does")
        t.rule = self.rule
        t.dtype = FASTOPT_FLOAT32 if cnp.PyArray_TYPE(p) == cnp.NPY_FLOAT32 else FASTOPT_FLOAT64
        t.n = size
        t.ndim = cnp.PyArray_NDIM(p)
        t.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(p)
        t.p = <void *>low[0]
        t.g = <const void *>low[1]
        for i in range(self.n_state):
            t.state[i] = <void *>low[2 + i]
        t.carry = carry
        for i in range(self.n_carry):
            carry[i] = (<double *>low[2 + self.n_state + i])[0]
        t.hyper = hyper
        t.options = &options
        t.layout = NULL
        if threads == 0:
            threads = default_threads
        if size < KEEP_GIL_BELOW:
            status = fastopt_step(&t, 1, threads)
        else:
            with nogil:
                status = fastopt_step(&t, 1, threads)
        if status != FASTOPT_OK:
            raise RuntimeError(f"{self.name}: the C core refused the step with status {status}")
        for i in range(self.n_carry):
            (<double *>low[2 + self.n_state + i])[0] = carry[i]
        return 0


cdef object call_kernel(PyObject *kernel, PyObject *const *arguments, Py_ssize_t n, PyObject *names):
    (<Kernel>kernel).call(arguments, n, names)


def kernel(str name, str doc):
    """A rule as a function on the caller's own buffers; see fastopt.kernels."""
    return Kernel(name).function(doc)
