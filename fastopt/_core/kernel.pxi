# The functional form: rules as functions on the caller's own buffers.

cdef extern from *:
    """
    /* Makes a rule a built-in function, to which Python passes keywords without a dict. */
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
    EXTRAS = 8  # keywords that every rule takes
cdef tuple EXTRA_NAMES = ("step", "weight_decay", "decoupled_decay", "independent_decay", "peak_lr", "cautious_decay",
                          "maximize", "num_threads")


@cython.final
cdef class Kernel:
    """A function of fastopt.kernels: its rule, its names and its checks."""

    cdef const fastopt_rule *rule
    cdef PyMethodDef definition
    cdef str name
    cdef bytes c_name, c_doc
    cdef tuple buffers, keywords  # the keywords: hyperparameters, then EXTRA_NAMES
    cdef int n_state, n_carry, n_hyper
    cdef bint takes_matrices  # whether some state has another shape than the parameter

    def __init__(self, str name):
        self.rule = rule_named(name)
        self.name = name
        state, hyper, carry = names_of(self.rule.state), names_of(self.rule.hyper), names_of(self.rule.carry)
        self.buffers = ("p", "g", *state, *carry)
        self.keywords = tuple(map(intern, (*hyper, *EXTRA_NAMES)))
        self.n_state, self.n_carry, self.n_hyper = len(state), len(carry), len(hyper)
        self.takes_matrices = any([self.rule.extent[s] != FASTOPT_WHOLE for s in range(self.n_state)])

    def function(self, str doc):
        """The callable, with a signature and this docstring."""
        hyper = ", ".join(self.keywords[:self.n_hyper])
        self.c_name = self.name.encode()
        self.c_doc = (
            f"{self.name}({', '.join(self.buffers)}, /, *, step, {hyper}, weight_decay=0.0, decoupled_decay=0.0,"
            f" independent_decay=0.0, peak_lr=0.0, cautious_decay=False, maximize=False, num_threads=None)"
            f"\n--\n\n{doc}"
        ).encode()
        return fastopt_function(&self.definition, self.c_name, self.c_doc, <void *>call_kernel, self, "fastopt.kernels")

    cdef int read_number(self, int keyword, PyObject *given, double *value) except -1:
        """Read a number and check its range."""
        cdef const fastopt_hyper *hyper
        value[0] = PyFloat_AS_DOUBLE(<object>given) if type(<object>given) is float else self.converted(keyword, given)
        value[0] += 0.0  # -0 is 0
        hyper = fastopt_rule_hyper(self.rule, keyword) if keyword < self.n_hyper else \
            fastopt_find_hyper("lr" if keyword == self.n_hyper + 4 else "weight_decay")
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

    cdef bint read_flag(self, int keyword, object value) except -1:
        """Read a truth value."""
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.name}: {self.keywords[keyword]} must be True or False, got {brief(value)}")
        return bool(value)

    cdef int check_cautious(self, const fastopt_options *options, const double *hyper) except -1:
        """Raise for cautious decay of a rule whose own decay is not 0 and cannot be cautious."""
        cdef int own = self.keywords.index("decay") if "decay" in self.keywords else -1
        if options.cautious_decay and own >= 0 and hyper[own] and not self.rule.separate_decay:
            raise ValueError(f"{self.name}: decay must be 0 with cautious_decay, since this rule mixes it into its step,"
                             f" got {hyper[own]!r}")
        return 0

    cdef int64_t read_integer(self, int keyword, object value, int64_t largest) except -1:
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
        if overflow or number < 1 or number > largest:
            raise ValueError(f"{self.name}: {self.keywords[keyword]} must be {'>= 1' if value < 1 else f'<= {largest}'},"
                             f" got {value}")
        return number

    cdef int match_keywords(self, PyObject *const *values, PyObject *names, PyObject **given) except -1:
        """Sort the values into the order of `keywords`; NULL for keywords that are not given."""
        cdef Py_ssize_t i, n = 0 if names == NULL else PyTuple_GET_SIZE(<object>names)
        cdef int k, count = self.n_hyper + EXTRAS
        for k in range(count):
            given[k] = NULL
        for i in range(n):
            name = <object>PyTuple_GET_ITEM(<object>names, i)
            for k in range(count):
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

    cdef int check(self, PyObject *const *arguments, array_view *arrays) except -1:
        """Describe all arrays, and raise unless the rule can read and update them."""
        cdef array_view *p = arrays
        cdef array_view *a
        cdef Span spans[2 + FASTOPT_MAX_STATE + FASTOPT_MAX_CARRY]
        cdef int i, j
        for i in range(2 + self.n_state + self.n_carry):
            value = <object>arguments[i]
            a = &arrays[i]
            if not describe(value, a):
                return refuse_type(self.label(i), value)
            if i == 0:
                if not is_float(p):
                    return refuse_dtype(self.label(i), value, FLOATS)
                if self.takes_matrices and p.ndim < 2:
                    return refuse_shape(self.label(i), a, "at least two axes")
            elif i == 1:
                if format_of(a, p.dtype) < 0:
                    return refuse_dtype(self.label(i), value, FORMATS)
                if not same_shape(a, p):
                    return refuse_shape(self.label(i), a, f"p's shape {shape_of(p)}")
            elif i < 2 + self.n_state:
                if a.dtype != p.dtype:
                    return refuse_dtype(self.label(i), value, f"{(<object>arguments[0]).dtype} as p has")
                if self.rule.extent[i - 2] != FASTOPT_WHOLE:
                    required = state_shape(self.rule.extent[i - 2], shape_of(p))
                    if shape_of(a) != required:
                        return refuse_shape(self.label(i), a, f"shape {required} for p of shape {shape_of(p)}")
                elif not same_shape(a, p):
                    return refuse_shape(self.label(i), a, f"p's shape {shape_of(p)}")
            elif a.dtype != FLOAT64 or size_of(a) != 1:
                raise TypeError(f"{self.label(i)} must be a float64 array of one element, got {dtype_name(value)}"
                                f" of shape {shape_of(a)}")
            if a.flags & FLAT != FLAT:
                return refuse_strides(self.label(i), a, "be C-contiguous and aligned")
            if i != 1 and not a.flags & WRITABLE:
                return refuse_read_only(self.label(i))
            spans[i] = span_of(a)
            for j in range(i):
                if meet(spans[i], spans[j]):
                    raise ValueError(f"{self.label(i)} must not share memory with {self.buffers[j]}, but it does")
        return 0

    cdef str label(self, int i):
        """The name of an array in messages."""
        return f"{self.name}: {self.buffers[i]}"

    cdef int call(self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) except -1:
        cdef fastopt_tensor t
        cdef fastopt_options options
        cdef double hyper[FASTOPT_MAX_HYPER]
        cdef double carry[FASTOPT_MAX_CARRY]
        cdef PyObject *given[FASTOPT_MAX_HYPER + EXTRAS]
        cdef array_view arrays[2 + FASTOPT_MAX_STATE + FASTOPT_MAX_CARRY]
        cdef int i, threads
        cdef Py_ssize_t size
        cdef fastopt_status status
        if n != 2 + self.n_state + self.n_carry:
            raise TypeError(f"{self.name}: buffers must be {', '.join(self.buffers)}, got {n} of them"
                            f" (all other arguments are given by name)")
        self.match_keywords(arguments + n, names, given)
        for i in range(self.n_hyper):
            self.read_number(i, given[i], &hyper[i])
        memset(&t, 0, sizeof(t))
        memset(&options, 0, sizeof(options))
        i = self.n_hyper
        t.step = self.read_integer(i, <object>given[i], <int64_t>1 << 62)
        threads = 0
        if given[i + 1] != NULL:
            self.read_number(i + 1, given[i + 1], &options.weight_decay)
        if given[i + 2] != NULL:
            self.read_number(i + 2, given[i + 2], &options.decoupled_decay)
        if given[i + 3] != NULL:
            self.read_number(i + 3, given[i + 3], &options.independent_decay)
        if given[i + 4] != NULL:
            self.read_number(i + 4, given[i + 4], &options.peak_lr)
            options.corrected_decay = options.peak_lr > 0
        if given[i + 5] != NULL:
            options.cautious_decay = self.read_flag(i + 5, <object>given[i + 5])
            self.check_cautious(&options, hyper)
        if given[i + 6] != NULL:
            options.maximize = self.read_flag(i + 6, <object>given[i + 6])
        if given[i + 7] != NULL and <object>given[i + 7] is not None:
            threads = self.read_integer(i + 7, <object>given[i + 7], 1 << 30)

        self.check(arguments, arrays)
        t.rule = self.rule
        t.dtype = core_dtype(arrays)
        t.n = size = size_of(arrays)
        t.ndim = arrays[0].ndim
        t.shape = arrays[0].shape
        t.p = arrays[0].data
        t.g = arrays[1].data
        t.formats.g = <unsigned char>format_of(&arrays[1], arrays[0].dtype)
        for i in range(self.n_state):
            t.state[i] = arrays[2 + i].data
        t.carry = carry
        for i in range(self.n_carry):
            carry[i] = (<double *>arrays[2 + self.n_state + i].data)[0]
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
            (<double *>arrays[2 + self.n_state + i].data)[0] = carry[i]
        return 0


cdef object call_kernel(PyObject *kernel, PyObject *const *arguments, Py_ssize_t n, PyObject *names):
    (<Kernel>kernel).call(arguments, n, names)


def kernel(str name, str doc):
    """A rule as a function on the caller's own buffers; see fastopt.kernels."""
    return Kernel(name).function(doc)
