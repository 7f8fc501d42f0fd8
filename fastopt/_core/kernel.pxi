# The functional form: rules as functions on the caller's own buffers.

cdef extern from *:
    """
    /* Returns a rule as a built-in function, to which Python passes keywords without a dict. */
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
    EXTRAS = 11  # keywords that every rule takes
cdef tuple EXTRA_NAMES = ("step", "weight_decay", "decoupled_decay", "independent_decay", "peak_lr", "cautious_decay",
                          "maximize", "num_threads", "rounding", "seed", "name")
cdef dict STORED_DTYPES = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32, "codes_signed": INT8,
                           "codes_nonnegative": UINT8}


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
            f" independent_decay=0.0, peak_lr=0.0, cautious_decay=False, maximize=False, num_threads=None,"
            f" rounding='stochastic', seed=0, name=0)"
            f"\n--\n\n{doc}"
        ).encode()
        return fastopt_function(&self.definition, self.c_name, self.c_doc, <void *>call_kernel, self, "fastopt.kernels")

    cdef inline double read_number(self, int keyword, PyObject *given) except? -1:
        """Read a number, whatever its range."""
        return (PyFloat_AS_DOUBLE(<object>given) if type(<object>given) is float else self.converted(keyword, given)) \
            + 0.0  # -0 is 0

    cdef int check_range(self, int keyword, double value) except -1:
        """Raise for a number that is not in its range."""
        cdef const fastopt_hyper *hyper = fastopt_rule_hyper(self.rule, keyword) if keyword < self.n_hyper else \
            fastopt_find_hyper("lr" if keyword == self.n_hyper + 4 else "weight_decay")
        if not fastopt_in_range(hyper, value):
            raise ValueError(f"{self.name}: {self.keywords[keyword]} must be {hyper.range.decode()}, got {value!r}")
        return 0

    cdef int read_option(self, int keyword, PyObject *given, double *value) except -1:
        """Read a number and check its range."""
        value[0] = self.read_number(keyword, given)
        return self.check_range(keyword, value[0])

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
        memset(given, 0, count * sizeof(PyObject *))
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

    cdef bint check(self, PyObject *const *arguments, array_view *arrays, fastopt_tensor *t) except -1:
        """Describe all arrays, set their formats, and raise unless the rule can read and update them.

        Returns whether p or some state is stored in another dtype than the rule computes in.
        """
        cdef array_view *p = arrays
        cdef array_view *a
        cdef Span spans[2 + FASTOPT_MAX_STATE + FASTOPT_MAX_CARRY]
        cdef int i, j, computed = FLOAT32, past_state = 2 + self.n_state, count = past_state + self.n_carry
        cdef bint stored = False
        for i in range(count):
            value = <object>arguments[i]
            a = &arrays[i]
            if not describe(value, a) and not (2 <= i < past_state and self.describe_stored(i, value, a, t)):
                return refuse_type(self.label(i), value)
            if i == 0:
                if is_float(p):
                    computed = p.dtype
                elif is_stored_float(p):
                    t.formats.p = <unsigned char>format_of(p, FLOAT32)
                    stored = True
                else:
                    return refuse_dtype(self.label(i), value, FORMATS)
                if self.takes_matrices and p.ndim < 2:
                    return refuse_shape(self.label(i), a, "at least two axes")
            elif i == 1:
                if format_of(a, computed) < 0:
                    return refuse_dtype(self.label(i), value, FORMATS)
                if not same_shape(a, p):
                    return refuse_shape(self.label(i), a, f"p's shape {shape_of(p)}")
            elif i < past_state:
                if a.dtype != computed:
                    self.set_format(i - 2, value, a, computed, t)
                    stored = True
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
        if stored:
            self.check_scales(spans, t, size_of(p))
        return stored

    # -- buffers in fewer bytes --

    cdef bint describe_stored(self, int i, object value, array_view *a, fastopt_tensor *t) except -1:
        """Describe the codes of a `Stored` buffer and set its format and its scales; returns False for other values."""
        cdef cnp.ndarray scales
        from .stored import Stored, misfit
        if not isinstance(value, Stored):
            return False
        problem = misfit(self.label(i), value.format, value.codes, value.scales, (<object>value.codes).shape)
        if problem is not None:
            raise ValueError(problem)
        describe_numpy(<cnp.ndarray>value.codes, a)
        a.dtype = STORED_DTYPES[value.format]
        order = [axis for axis in value.order if a.shape[axis] > 1]
        if order != sorted(order):
            raise ValueError(f"{self.label(i)} must be stored in C order of its axes, got order {value.order}")
        if a.dtype != FLOAT32:  # which is an array like any other
            t.formats.state[i - 2] = <unsigned char>format_named(value.format)
        if value.scales is not None:
            scales = value.scales
            if not cnp.PyArray_ISCARRAY(scales):
                raise ValueError(f"{self.label(i)} must have scales that are C-contiguous, aligned and writable, got"
                                 f" strides {value.scales.strides} and writable {value.scales.flags.writeable}")
            t.state_rest[i - 2] = cnp.PyArray_DATA(scales)
        return True

    cdef int set_format(self, int s, object value, const array_view *a, int computed, fastopt_tensor *t) except -1:
        """Set the format of a state buffer in another dtype than the rule computes in, or raise."""
        cdef bint is_array = t.formats.state[s] == FASTOPT_NATIVE  # and no Stored, whose format is known
        cdef int format = format_of(a, computed) if is_array else t.formats.state[s]
        cdef const fastopt_format_info *info = fastopt_format_at(max(format, 0))
        cdef fastopt_kind kind = self.rule.kind[s]
        cdef str own = "float64" if computed == FLOAT64 else "float32"
        cdef str required
        if format > 0 and self.rule.extent[s] == FASTOPT_WHOLE and not (
                info.group > 1 and self.rule.gathers == FASTOPT_MATRICES) and (
                info.of_signed if kind == FASTOPT_SIGNED else info.of_nonnegative and kind == FASTOPT_NONNEGATIVE):
            t.formats.state[s] = <unsigned char>format
            return 0
        if kind == FASTOPT_EXACT:
            required = f"{own}, since the rule needs each of its bits"
        elif self.rule.extent[s] != FASTOPT_WHOLE:
            required = f"{own}, since it does not have p's shape"
        else:
            required = "float16, bfloat16 or float32" + (" or float64" if computed == FLOAT64 else "")
            if self.rule.gathers == FASTOPT_MATRICES:
                required += ", since passes over rows would cut the groups of codes"
            elif not is_array:
                required += f" or codes_{KINDS[kind]}"
        if is_array:
            from .stored import Stored
            return refuse_dtype(self.label(2 + s), value.codes if isinstance(value, Stored) else value, required)
        raise TypeError(f"{self.label(2 + s)} must be stored as {required}, got {value.format}")

    cdef int check_scales(self, const Span *spans, const fastopt_tensor *t, Py_ssize_t size) except -1:
        """Raise where the scales of a state buffer share memory with another buffer or with other scales."""
        cdef Span scales[FASTOPT_MAX_STATE]
        cdef const fastopt_format_info *info
        cdef uintptr_t begin
        cdef int s, j
        for s in range(self.n_state):
            info = fastopt_format_at(t.formats.state[s])
            begin = <uintptr_t>t.state_rest[s]
            scales[s] = Span(begin, begin + (size + info.group - 1) // info.group * info.rest_bytes)
            for j in range(2 + self.n_state + self.n_carry):
                if meet(scales[s], spans[j]):
                    raise ValueError(f"scales of {self.label(2 + s)} must not share memory with {self.buffers[j]},"
                                     f" but they do")
            for j in range(s):
                if meet(scales[s], scales[j]):
                    raise ValueError(f"scales of {self.label(2 + s)} must not share memory with those of"
                                     f" {self.buffers[2 + j]}, but they do")
        return 0

    cdef int set_rounding(self, PyObject *const *given, fastopt_tensor *t) except -1:
        """Read rounding, seed and name; NULL for each that is not given."""
        from .options import checked_seed
        from .storage import key_of
        rounding = "stochastic" if given[0] == NULL else <object>given[0]
        name = 0 if given[2] == NULL else <object>given[2]
        if not isinstance(rounding, str) or rounding not in ("stochastic", "nearest"):
            raise ValueError(f"{self.name}: rounding must be one of stochastic, nearest, got {brief(rounding)}")
        if not isinstance(name, str) and not is_integer(name):
            raise TypeError(f"{self.name}: name must be a string or an integer, got {brief(name)}")
        t.rounding = FASTOPT_STOCHASTIC if rounding == "stochastic" else FASTOPT_NEAREST
        t.seed = checked_seed(self.name, 0 if given[1] == NULL else <object>given[1])
        t.key = key_of(name)
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
        cdef bint stored
        cdef Py_ssize_t size
        cdef fastopt_status status
        if n != 2 + self.n_state + self.n_carry:
            raise TypeError(f"{self.name}: buffers must be {', '.join(self.buffers)}, got {n} of them"
                            f" (all other arguments are given by name)")
        self.match_keywords(arguments + n, names, given)
        for i in range(self.n_hyper):
            hyper[i] = self.read_number(i, given[i])
        memset(&t, 0, sizeof(t))
        memset(&options, 0, sizeof(options))
        i = self.n_hyper
        t.step = self.read_integer(i, <object>given[i], <int64_t>1 << 62)
        threads = 0
        if given[i + 1] != NULL:
            self.read_option(i + 1, given[i + 1], &options.weight_decay)
        if given[i + 2] != NULL:
            self.read_option(i + 2, given[i + 2], &options.decoupled_decay)
        if given[i + 3] != NULL:
            self.read_option(i + 3, given[i + 3], &options.independent_decay)
        if given[i + 4] != NULL:
            self.read_option(i + 4, given[i + 4], &options.peak_lr)
            options.corrected_decay = options.peak_lr > 0
        if given[i + 5] != NULL:
            options.cautious_decay = self.read_flag(i + 5, <object>given[i + 5])
            self.check_cautious(&options, hyper)
        if given[i + 6] != NULL:
            options.maximize = self.read_flag(i + 6, <object>given[i + 6])
        if given[i + 7] != NULL and <object>given[i + 7] is not None:
            threads = self.read_integer(i + 7, <object>given[i + 7], 1 << 30)

        stored = self.check(arguments, arrays, &t)
        if stored or <uintptr_t>given[i + 8] | <uintptr_t>given[i + 9] | <uintptr_t>given[i + 10]:
            self.set_rounding(&given[i + 8], &t)
        t.rule = self.rule
        t.dtype = core_dtype(arrays)
        t.n = size = size_of(arrays)
        t.ndim = arrays[0].ndim
        t.shape = arrays[0].shape
        t.p = arrays[0].data
        t.g = arrays[1].data
        t.formats.g = <unsigned char>format_of(&arrays[1], computed_in(arrays))
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
        if status == FASTOPT_BAD_HYPER:  # the core has looked at their ranges before the first write
            for i in range(self.n_hyper):
                self.check_range(i, hyper[i])
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
