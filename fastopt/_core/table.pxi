# The parameters, state and settings of an optimizer, and its step.

cdef struct Parameter:
    # A parameter as it was when the table was laid out, and its last gradient.
    array_view array
    Py_ssize_t *shape       # of the array, then its strides, then its axes in the order of the walk
    Py_ssize_t *strides
    Py_ssize_t *order
    Py_ssize_t size
    double grad_norm        # by which the gradient was last clipped, unless by that of all
    int64_t skips           # steps in a row that have been skipped, counted with max_skips
    bint direct             # C-contiguous and aligned, and walked in this order
    int g_dtype
    const void *g           # the last gradient that was found clear of parameters and state, unless it has a layout


cdef void *grown(void *array, Py_ssize_t before, Py_ssize_t count, size_t size) except NULL:
    """An array of so many zeros, but for the first ones, which are those of the array in whose place it comes."""
    cdef void *larger = calloc(count, size)
    if larger == NULL:
        raise MemoryError
    if before:
        memcpy(larger, array, before * size)
    free(array)
    return larger


cdef int64_t samples(const fastopt_options *options, int64_t step) noexcept:
    """How many values swa has taken after so many steps, if it took them from the first one on."""
    return 0 if step < options.swa_start else (step - options.swa_start) // options.swa_every + 1


tables = WeakSet()  # all there are


def after_fork_in_child():
    """Give every table a lock that can be had: threads that were in their turn are not in this process."""
    cdef Table table
    for table in tables:
        if table.holder != PyThread_get_thread_ident() and not PyThread_acquire_lock(table.lock, NOWAIT_LOCK):
            table.broken = True
            table.lock = PyThread_allocate_lock()  # the old one is not free to be freed
        elif table.holder == 0:
            PyThread_release_lock(table.lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)


@cython.final
cdef class Table:
    """The parameters, state and settings of one optimizer as the C core's descriptors.

    Parameters
    ----------
    owner : str
        The method whose messages these are, such as "Adam.step".
    names, params, settings, state, carry, seen : list
        Per parameter: its name, the array, its group's `Settings`, its state arrays in the order of the rule and then
        of `averages` (each contiguous in the parameter's walk order), its float64 array of carried numbers, and for
        rows that make up for the steps they have missed the int64 array of the last step that met each, or None.
    averages : tuple of str
        Which averages of the parameters there are, of "ema", "swa" and "slow".
    ema_schedule : callable or None
        Gives the ema_decay of the step after so many, known to be valid, where it is not a number.
    structure : list
        The structure of each group, as in nest.py.
    grouped : bool
        Whether gradients come as a sequence with one entry per group.
    arenas : list of numpy.ndarray
        The memory the state lives in; gradients must stay clear of it.
    containers : list
        Those in which the user has the parameters, as in nest.py: a step raises where one has come to hold another array.
    """

    cdef str owner
    cdef tuple names, params, own  # own: the memory of the state
    cdef list settings, keep, axes
    cdef list structure
    cdef readonly list containers
    cdef bint grouped, all_named  # all_named: each group is a mapping, so that one mapping can hold all gradients
    cdef Py_ssize_t count
    cdef fastopt_tensor *tensors
    cdef fastopt_layout **layouts
    cdef Parameter *parameters
    cdef fastopt_decay *records  # FASTOPT_MAX_HYPER for each parameter; tensors point at them once a decay has changed
    cdef Span *spans
    cdef Py_ssize_t n_spans
    cdef Span *zeroed  # where the gradients were that have been found fit for zeroing; then room to sort them
    cdef list row_buffers  # of the step at hand
    cdef tuple averages
    cdef bint averaged  # by ema or swa
    cdef object ema_schedule
    cdef list averaged_rows  # of each parameter that has met a RowGrad, the last step that its averages have taken in
    cdef bint zeroing  # in the step at hand
    cdef readonly bint catches_up
    cdef tuple bound
    cdef list bound_containers  # in which these are
    cdef Table gathers_for  # the table whose step uses what this one, an accumulator, has gathered, or None
    cdef dict kept_rows  # by parameter the `KeptRows` that an accumulator has gathered, while only rows have come
    cdef bint unbound  # whether gradients were bound before parameters were added
    cdef tuple members  # tables that step as one in this one, () for a table of its own
    cdef tuple parts  # tables in whose structures gradients come, one entry for each, () for one structure
    cdef list firsts, members_params  # of each member the place of its first parameter here, and its parameters
    cdef tuple in_turn  # the members in the order in which they are locked
    cdef bint in_two  # whether a step has something between gathering and updating
    cdef bint together  # whether some rule looks at all parameters of a group
    cdef int64_t schedule_step  # the count of steps by which the step at hand reads schedules
    cdef PyThread_type_lock lock
    cdef unsigned long holder  # the thread whose turn it is, 0: nobody's
    cdef int nested  # readers within its turn
    cdef bint broken  # forked in the middle of another thread's turn
    cdef object __weakref__
    cdef fastopt_tuner tuners[2]  # of steps in one call or the second of two, and of the first of two
    cdef public bint check_finite, skip_nonfinite
    cdef public int64_t skipped_steps
    cdef public int64_t max_skips  # how many in a row; 0: any number
    cdef public int num_threads  # 0: chosen from what steps take
    cdef public double grad_scale, clip_norm, clip_value  # 0: none
    cdef public object clip_schedule  # gives clip_norm for a step, or None
    cdef public str clip_norm_per  # whose norm clips: that of "all", of each "group" or of each "parameter"
    cdef public list group_of  # the number of each parameter's group
    cdef public bint zero_grads
    cdef object between  # gives what is called with the parameters at hand between gathering and updating, or None
    cdef public object swapped  # the name of the average that is in the place of the parameters, or None
    cdef readonly object grad_norm  # of the last step that clipped, before clipping
    cdef readonly int64_t step_count
    cdef readonly dict schedules  # what gives the arguments of Settings.set for a step, by the Settings they are for

    def __cinit__(self, *args):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        tables.add(self)

    def __init__(self, str owner, list names, list params, list settings, list state, list carry,
                 list seen, tuple averages, object ema_schedule, list structure, bint grouped, list arenas,
                 list containers):
        self.owner = owner
        self.names = self.params = self.own = ()
        self.settings, self.structure = [], []
        self.keep, self.axes = [[], [], []], []
        self.all_named = True
        self.containers = []
        self.schedules = {}
        self.averages = averages
        self.averaged = "ema" in averages or "swa" in averages
        self.ema_schedule = ema_schedule
        self.averaged_rows = []
        self.members = self.in_turn = self.parts = ()
        self.kept_rows = {}
        self.append(names, params, settings, state, carry, seen, structure, grouped, arenas, containers)

    def append(self, list names, list params, list settings, list state, list carry, list seen, list structure,
               bint grouped, list arenas, list containers):
        """Lay out parameters of further groups behind those that there are, which keep all that they have.

        Within a turn, but for the first.  Gradients that were bound have another structure now, and are let go.
        """
        cdef Py_ssize_t i, s, before = self.count, count = before + len(params), ndims = 0
        cdef int d
        cdef cnp.ndarray p, of_axes
        cdef Settings group
        cdef Py_ssize_t *dims
        for p in params:
            ndims += 3 * cnp.PyArray_NDIM(p)
        of_axes = np.zeros(ndims, np.intp)
        dims = <Py_ssize_t *>cnp.PyArray_DATA(of_axes)
        self.tensors = <fastopt_tensor *>grown(self.tensors, before, count + 1, sizeof(fastopt_tensor))
        self.layouts = <fastopt_layout **>grown(self.layouts, before, count + 1, sizeof(fastopt_layout *))
        self.parameters = <Parameter *>grown(self.parameters, before, count + 1, sizeof(Parameter))
        self.records = <fastopt_decay *>grown(self.records, before * FASTOPT_MAX_HYPER, count * FASTOPT_MAX_HYPER + 1,
                                              sizeof(fastopt_decay))
        for i in range(before):
            if self.tensors[i].decays != NULL:
                self.tensors[i].decays = self.records + i * FASTOPT_MAX_HYPER
        self.zeroed = <Span *>grown(self.zeroed, 0, 2 * count + 1, sizeof(Span))
        for i in range(len(params)):
            p = params[i]
            group = settings[i]
            self.together |= group.rule.gathers == FASTOPT_TOGETHER
            t = &self.tensors[before + i]
            t.rule = group.rule
            t.hyper = group.hyper
            t.options = &group.options
            k = &self.parameters[before + i]
            describe_numpy(p, &k.array)
            t.dtype = core_dtype(&k.array)
            t.n = cnp.PyArray_SIZE(p)
            t.step = 1
            for s in range(len(group.state_names)):
                t.state[s] = cnp.PyArray_DATA(<cnp.ndarray>state[i][s])
            for name, buffer in zip(self.averages, state[i][len(group.state_names):]):
                if name == "ema":
                    t.ema = cnp.PyArray_DATA(<cnp.ndarray>buffer)
                elif name == "swa":
                    t.swa = cnp.PyArray_DATA(<cnp.ndarray>buffer)
                else:
                    t.slow = cnp.PyArray_DATA(<cnp.ndarray>buffer)
            t.carry = <double *>cnp.PyArray_DATA(<cnp.ndarray>carry[i])
            if seen[i] is not None and t.n:
                self.catches_up = True
                t.last_step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>seen[i])
                t.row_length = t.n // len(seen[i])
            t.ndim = k.array.ndim
            t.shape = k.shape = dims
            k.strides = dims + t.ndim
            k.order = dims + 2 * t.ndim
            dims += 3 * t.ndim
            k.size = t.n
            k.g_dtype = k.array.dtype
            order = group.order(p)
            for d in range(t.ndim):
                k.shape[d] = k.array.shape[d]
                k.order[d] = order[d]
            self.place(before + i, p)
        for whole, part in zip(self.keep, (state, carry, seen)):
            whole += part
        self.axes.append(of_axes)
        self.own += (*arenas, *carry, *[array for array in seen if array is not None])
        self.names += tuple(names)
        self.params += tuple(params)
        self.settings = self.settings + settings
        self.averaged_rows += [None] * len(params)
        self.all_named = self.all_named and all(type(group) is tuple or type(group) is dict for group in structure)
        self.structure = self.structure + structure
        self.containers = self.containers + containers
        self.grouped = grouped
        self.unbound = self.bound is not None
        self.bound = None
        self.count = count
        memset(self.tuners, 0, sizeof(self.tuners))  # what steps took is no longer what they take
        self.lay_out_spans()

    cdef void place(self, Py_ssize_t i, cnp.ndarray p) noexcept:
        """Take over where a parameter lies; the order in which it is walked is that of its state."""
        cdef Parameter *k = &self.parameters[i]
        cdef int d, before = -1
        describe_numpy(p, &k.array)
        self.tensors[i].p = k.array.data
        k.g = NULL
        k.direct = k.array.flags & FLAT == FLAT
        for d in range(k.array.ndim):
            k.strides[d] = k.array.strides[d]
            if k.shape[k.order[d]] > 1:
                k.direct = k.direct and k.order[d] > before
                before = k.order[d]
        k.array.shape, k.array.strides = k.shape, k.strides

    @staticmethod
    def joined(str owner, list names, tuple members):
        """A table whose step is one of all parameters of these tables, in one call.

        These keep what they have: settings, state, counts and locks.  Their descriptors are read anew in each turn.
        """
        cdef Table member, table
        cdef list params = [], settings = [], state = [], carry = [], seen = [], own = [], firsts = []
        for member in members:
            firsts.append(len(params))
            params += member.params
            settings += member.settings
            for whole, part in zip((state, carry, seen), member.keep):
                whole += part
            own += member.own
        table = Table(owner, names, params, settings, state, carry, seen, (), None, [], True, own, [])
        table.all_named = all([(<Table>member).all_named for member in members])
        table.members = table.parts = members
        table.firsts = firsts
        table.members_params = [(<Table>member).params for member in members]
        table.in_turn = tuple(sorted(members, key=id))
        table.in_two = any([(<Table>member).in_two for member in members])
        table.averaged = any([(<Table>member).averaged for member in members])
        return table

    def gather_for(self, Table of):
        """Gather gradients, in the structure in which a table takes them, for its step."""
        self.gathers_for = of
        if of.parts:
            self.parts, self.all_named = of.parts, of.all_named

    def joins(self, list members):
        """Whether these are the members, with as many parameters as when they were joined."""
        cdef Py_ssize_t k, count = 0
        for k in range(len(self.members)):
            if members[k] is not self.members[k]:
                return False
            count += (<Table>members[k]).count
        return count == self.count

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.layouts:
            for i in range(self.count):
                free(self.layouts[i])
        free(self.layouts)
        free(self.tensors)
        free(self.parameters)
        free(self.records)
        free(self.spans)
        free(self.zeroed)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef lay_out_spans(self):
        """The address ranges that gradients must stay clear of, sorted, those that meet joined."""
        cdef array_view view
        cdef list found = []
        for array in (*self.params, *self.own):
            describe_numpy(array, &view)
            span = span_of(&view)
            if span.low < span.high:
                found.append((span.low, span.high))
        free(self.spans)
        self.n_spans = 0
        self.spans = <Span *>calloc(len(found) + 1, sizeof(Span))
        if not self.spans:
            raise MemoryError
        for low, high in sorted(found):
            if self.n_spans and low <= self.spans[self.n_spans - 1].high:
                self.spans[self.n_spans - 1].high = max(high, self.spans[self.n_spans - 1].high)
            else:
                self.spans[self.n_spans] = Span(low, high)
                self.n_spans += 1

    def call_in_between(self, function):
        """Make steps in two, with what a weak reference gives called with the parameters at hand between these."""
        self.between = function
        self.in_two = True

    def grad_norms(self):
        """The norm by which the gradient of each parameter was last clipped."""
        cdef Py_ssize_t i
        return [self.parameters[i].grad_norm for i in range(self.count)]

    def skips(self, list counts=None):
        """How many steps in a row each parameter has skipped; set these counts where they are given."""
        cdef Py_ssize_t i
        if counts is not None:
            for i in range(self.count):
                self.parameters[i].skips = counts[i]
        return [self.parameters[i].skips for i in range(self.count)]

    # -- gradients in --

    cdef str label(self, Py_ssize_t i):
        name = self.names[i]
        return f"parameter {name}" if isinstance(name, int) else repr(name)

    cdef tuple flatten(self, object grads):
        """Gradients in the order of the parameters, whatever structure they come in."""
        cdef tuple flat = (), groups
        if self.parts:
            return self.flatten_parts(grads)
        if not self.grouped:
            return self.flatten_nest(grads, self.structure[0], "")
        if isinstance(grads, Mapping) and self.all_named:
            return self.flatten_named(grads)
        groups = self.entries_of(grads, len(self.structure), "", "group")
        for i, group in enumerate(groups):
            flat += self.flatten_nest(group, self.structure[i], f" of group {i}")
        return flat

    cdef tuple flatten_parts(self, object grads):
        """Gradients of several tables, in one mapping by name or with one entry for each table."""
        cdef tuple flat = ()
        cdef Table part
        if isinstance(grads, Mapping) and self.all_named:
            return self.flatten_named(grads)
        for k, (part, entry) in enumerate(zip(self.parts, self.entries_of(grads, len(self.parts), "", "optimizer"))):
            try:
                flat += part.flatten(entry)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self.owner}: optimizers[{k}]: {error}") from None
        return flat

    cdef tuple entries_of(self, object grads, Py_ssize_t count, str where, str unit=""):
        """The entries of what is no mapping, one for each of `count` parameters, or units that are several, or raise."""
        if isinstance(grads, (Iterator, ValuesView)):
            grads = tuple(islice(grads, count + 1))
        if isinstance(grads, (Mapping, np.ndarray, str)) or not isinstance(grads, Sequence):
            what = "a sequence, as the parameters are"
            if unit:
                what = f"a sequence with one entry per {unit}" + (" or one mapping" if self.all_named else "")
            raise TypeError(f"{self.owner}: gradients{where} must be {what}, got {type_name(grads)}")
        # The length comes first: what looks like a list may be endless in memory.  It is what a sequence says of itself:
        # that of the tuple is true.
        length = length_of(grads)
        if length == count:
            grads = tuple(grads)
            length = len(grads)
        if length != count:
            what = f"have one entry for each of the {count} {unit}s" if unit else f"be {count}, one per parameter"
            raise ValueError(f"{self.owner}: gradients{where} must {what}, got {length}")
        return grads

    cdef tuple flatten_nest(self, object grads, object structure, str where):
        """Gradients that come in this structure; messages call them "gradients" and `where`."""
        cdef tuple flat = (), keys
        if structure is None:
            if isinstance(grads, (list, tuple, Mapping)):
                raise TypeError(f"{self.owner}: gradients{where} must be one array, as the parameter is,"
                                f" got {type_name(grads)}")
            return (grads,)
        if type(structure) is int:
            if type(grads) is list and PyList_GET_SIZE(grads) == PyLong_AsSsize_t(structure):
                return tuple(<list>grads)
            return self.entries_of(grads, structure, where)
        if type(structure) is list:
            keys, grads = tuple(range(len(structure))), self.entries_of(grads, len(structure), where)
        else:
            if not isinstance(grads, Mapping):
                raise TypeError(f"{self.owner}: gradients{where} must be a mapping, as the parameters are,"
                                f" got {type_name(grads)}")
            keys = tuple(structure)
            grads = self.flatten_mapping(grads, keys, where)
            if type(structure) is tuple:
                return grads
        for i, key in enumerate(keys):
            inner = structure[key]
            flat += (grads[i],) if inner is None else self.flatten_nest(grads[i], inner, f"{where} in {key!r}")
        return flat

    cdef tuple flatten_mapping(self, object grads, tuple names, str where):
        cdef Py_ssize_t i = 0, place = 0, n = PyTuple_GET_SIZE(names)
        cdef PyObject *key
        cdef PyObject *value
        cdef list found
        if type(grads) is dict and len(<dict>grads) == n:  # the same keys in the same order are found fastest
            found = [None] * n
            with cython.critical_section(grads):
                while i < n and PyDict_Next(grads, &place, &key, &value) and key == PyTuple_GET_ITEM(names, i):
                    found[i] = <object>value
                    i += 1
            if i == n:
                return tuple(found)
        missing = [name for name in names if name not in grads]
        if missing:
            raise ValueError(f"{self.owner}: gradients{where} must have an entry for every parameter,"
                             f" missing {', '.join(map(repr, missing))}")
        if len(grads) != len(names):
            unknown = [name for name in grads if name not in names]
            raise ValueError(f"{self.owner}: gradients{where} must be for parameters of this optimizer,"
                             f" got unknown {', '.join(map(repr, unknown))}")
        return tuple([grads[name] for name in names])

    cdef tuple flatten_named(self, object grads):
        """Gradients of all groups in one mapping, by name or nested like the parameters that have these names."""
        cdef dict found = {}
        if any([name not in grads for name in self.names]):
            self.find_names(grads, "", 0, found)
            grads = found
        return self.flatten_mapping(grads, self.names, "")

    cdef int find_names(self, object grads, str way, int depth, dict found) except -1:
        """Enter the gradients of a nest by their names."""
        if depth > FASTOPT_MAX_NDIM:
            raise ValueError(f"{self.owner}: gradients must be nested like the parameters, got them deeper")
        for key, entry in grads.items() if isinstance(grads, Mapping) else enumerate(grads):
            name = f"{way}{key}" if way else key
            if isinstance(entry, (list, tuple, Mapping)):
                self.find_names(entry, f"{name}.", depth + 1, found)
            else:
                found[name] = entry
        return 0

    # -- the containers in which the user has the parameters --

    cpdef int check_containers(self, str owner) except -1:
        """Raise ValueError where one holds another array than the optimizer."""
        cdef tuple one
        cdef Py_ssize_t i
        cdef list containers = self.containers
        for member in self.members:
            (<Table>member).check_containers(owner)
        for i in range(PyList_GET_SIZE(containers)):
            one = <tuple><object>PyList_GET_ITEM(containers, i)
            if not still_holds(<object>PyTuple_GET_ITEM(one, 0), <tuple><object>PyTuple_GET_ITEM(one, 1),
                               <tuple><object>PyTuple_GET_ITEM(one, 2)):
                container, keys, values, names = one
                changed = [name for key, value, name in zip(keys, values, names)
                           if not still_holds(container, (key,), (value,))]
                label = self.label(self.names.index(changed[0] if changed else names[0]))
                raise ValueError(f"{owner}: {label} must stay the array that the optimizer updates, but the"
                                 f" {type_name(container)} that it came in no longer holds it: assign to the array in"
                                 f" place, or call rebind() with those that are to be updated")
        return 0

    def rebind(self, str owner, list arrays, list groups, list plain, list containers):
        """Take over arrays that are known to fit in place of the parameters.

        `groups` are pairs of a group and its arrays, and `plain` is the list of the arrays to change.
        """
        cdef Py_ssize_t i
        cdef tuple before
        cdef array_view view
        self.acquire()
        try:
            self.check_own(owner)
            if len(arrays) != self.count:
                raise RuntimeError(f"{owner}: no parameters must be added while a call begins, but another thread has added"
                                   f" some")
            for i, array in enumerate(arrays):
                if self.averaged_rows[i] is not None and not (array.flags.c_contiguous and array.flags.aligned):
                    raise ValueError(f"{owner}: {self.label(i)} must be C-contiguous, since its rows have been averaged by"
                                     f" themselves, got strides {array.strides} for shape {array.shape}")
                describe_numpy(array, &view)
                if overlaps_any(&view, self.own):
                    raise ValueError(f"{owner}: {self.label(i)} must not share memory with the optimizer's state")
                if overlaps_any(&view, [g.values if type(g) is RowGrad else g for g in self.bound or ()]):
                    raise ValueError(f"{owner}: {self.label(i)} must not share memory with a bound gradient")
            of_numpy = [np.asarray(array) for array in arrays]
            before, self.params = self.params, tuple(arrays)
            try:
                self.lay_out_spans()
            except MemoryError:
                self.params = before
                raise
            for i in range(self.count):
                self.place(i, <cnp.ndarray>PyTuple_GET_ITEM(self.params, i))
            self.containers = containers
            plain[:] = of_numpy
            for group, of_group in groups:
                dict.__setitem__(group, "params", of_group)
        finally:
            self.release()

    cdef int check_unchanged(self, Py_ssize_t i, bint to_write) except -1:
        """Raise unless a parameter is the array that it was when the table was laid out."""
        cdef array_view now
        describe_numpy(<cnp.ndarray>PyTuple_GET_ITEM(self.params, i), &now)
        if not same_memory(&now, &self.parameters[i].array) or (to_write and not now.flags & WRITABLE):
            raise ValueError(f"{self.owner}: {self.label(i)} must stay the writable array that the optimizer was"
                             f" made with, but its memory, shape, strides, dtype or flags have changed")
        return 0

    cdef int take(self, Py_ssize_t i, object gradient) except -1:
        """Point descriptor i at a gradient, after checking all that can have changed since the last step."""
        cdef fastopt_tensor *t = &self.tensors[i]
        cdef Parameter *k = &self.parameters[i]
        cdef array_view g
        if gradient is None:
            t.g = NULL
            if t.step > 1 and (t.ema != NULL or t.swa != NULL):
                self.take_parameter(i)
            return 0
        self.check_unchanged(i, True)
        if not describe(gradient, &g):
            if type(gradient) is RowGrad:
                return self.take_rows(i, <RowGrad>gradient)
            if k.array.ndim != 0 or not is_number(gradient):
                return refuse_type(self.gradient_of(i), gradient, "a numpy.ndarray, a RowGrad or None")
            gradient = self.array_of_number(i, gradient)
            describe_numpy(<cnp.ndarray>gradient, &g)
        if t.rows != NULL:
            t.rows = NULL
            t.n = k.size
        if not same_shape(&g, &k.array):
            return refuse_shape(self.gradient_of(i), &g, f"its parameter's shape {shape_of(&k.array)}")
        if g.dtype != k.g_dtype:
            if format_of(g.dtype, k.array.dtype) < 0:
                if g.ndim == 0 and gradient.dtype.kind in "iu" and not self.zeroing:
                    return self.take(i, self.array_of_number(i, gradient[()]))
                return refuse_dtype(self.gradient_of(i), gradient, FORMATS)
            self.set_format(i, g.dtype)
        if k.direct and g.flags & FLAT == FLAT:
            t.layout = NULL
            if g.data != k.g:
                self.check_clear(i, &g)
            t.g = k.g = g.data
            return 0
        self.check_clear(i, &g)
        self.lay_out(i, &g)
        t.g = k.g = g.data
        if t.layout != NULL:
            k.g = NULL
            if t.last_step != NULL:
                return refuse_strides(self.gradient_of(i), &g, "be C-contiguous with catch_up")
        return 0

    cdef str gradient_of(self, Py_ssize_t i):
        """The name of a gradient in messages."""
        return f"{self.owner}: gradient of {self.label(i)}"

    cdef void set_format(self, Py_ssize_t i, int dtype) noexcept:
        """Have a gradient read in this dtype, of which there is a format."""
        cdef Parameter *k = &self.parameters[i]
        self.tensors[i].formats.g = <unsigned char>format_of(dtype, k.array.dtype)
        k.g_dtype = dtype
        k.g = NULL  # the last gradient was found clear for elements of another size

    cdef cnp.ndarray array_of_number(self, Py_ssize_t i, object gradient):
        """A number as the gradient of a parameter without axes, kept for the step at hand."""
        try:
            array = np.asarray(gradient if isinstance(gradient, np.floating) else float(gradient))
        except OverflowError:
            raise ValueError(f"{self.gradient_of(i)} must be a number that a float can hold, got"
                             f" {brief(gradient)}") from None
        if self.row_buffers is None:
            self.row_buffers = []
        self.row_buffers.append(array)
        return array

    cpdef bint takes_rows(self, Py_ssize_t i):
        """Whether the gradient of a parameter can be that of rows."""
        return self.parameters[i].direct and self.parameters[i].array.ndim > 0 and self.tensors[i].slow == NULL \
            and self.table_of(i).ema_schedule is None and fastopt_rule_takes_rows(self.tensors[i].rule)

    cdef int take_parameter(self, Py_ssize_t i) except -1:
        """Point descriptor i at its parameter alone, which is to be averaged as it is; rows are left for later."""
        cdef fastopt_tensor *t = &self.tensors[i]
        self.check_unchanged(i, False)
        t.rows = NULL
        t.n = self.parameters[i].size
        if t.averaged_rows != NULL:
            t.round = 0
        else:
            self.lay_out(i, &self.parameters[i].array)
        return 0

    cdef int take_rows(self, Py_ssize_t i, RowGrad gradient) except -1:
        """Point descriptor i at the gradients of some rows, those of one row summed."""
        cdef fastopt_tensor *t = &self.tensors[i]
        cdef Parameter *k = &self.parameters[i]
        cdef array_view view
        # Whoever has the gradient may have changed the arrays in it since it was made.
        cdef cnp.ndarray rows = np.ascontiguousarray(gradient.rows, np.int64), values = gradient.values
        cdef cnp.ndarray unique, places, gradients, sums
        cdef Py_ssize_t count = cnp.PyArray_SIZE(rows), found, length
        if not k.direct or k.array.ndim < 1:
            raise ValueError(f"{self.owner}: {self.label(i)} must be C-contiguous with at least one axis to take a"
                             f" RowGrad, got shape {shape_of(&k.array)} and strides {strides_of(&k.array)}")
        if not self.takes_rows(i):
            why = "lookahead moves all of it" if t.slow != NULL else "this rule needs all of it"
            if self.table_of(i).ema_schedule is not None:
                why = "what the average of other rows misses has no closed form with a schedule as ema_decay"
            raise ValueError(f"{self.gradient_of(i)} must be an array, since {why}, got a RowGrad")
        if cnp.PyArray_NDIM(values) < 1 or cnp.PyArray_DIM(values, 0) != count:
            raise ValueError(f"{self.owner}: values of the RowGrad of {self.label(i)} must have one entry for each of"
                             f" its {count} rows, got shape {(<object>values).shape}")
        if (<object>values).shape[1:] != shape_of(&k.array)[1:]:
            raise ValueError(f"{self.owner}: values of the RowGrad of {self.label(i)} must have its parameter's shape"
                             f" per row {shape_of(&k.array)[1:]}, got {(<object>values).shape[1:]}")
        describe_numpy(values, &view)
        if format_of(view.dtype, k.array.dtype) < 0:
            return refuse_dtype(f"{self.owner}: values of the RowGrad of {self.label(i)}", values, FORMATS)
        self.check_clear(i, &view)
        if view.dtype != k.array.dtype:
            values = converted(values, np.float32 if k.array.dtype == FLOAT32 else np.float64)
        self.set_format(i, k.array.dtype)
        length = k.size // k.shape[0] if k.shape[0] else 0
        t.g = k.g = NULL
        values = np.require(values, requirements=["C", "A"])
        if self.zeroing:
            values = values.copy()  # they may lie where another gradient is set to zero
        unique, places = np.empty(count, np.int64), np.empty(count, np.intp)
        found = fastopt_unique_rows(<const int64_t *>cnp.PyArray_DATA(rows), count, k.shape[0],
                                    <int64_t *>cnp.PyArray_DATA(unique), <Py_ssize_t *>cnp.PyArray_DATA(places))
        if found == FASTOPT_ROWS_BEYOND:
            raise ValueError(f"{self.owner}: rows of the RowGrad of {self.label(i)} must be >= 0 and < {k.shape[0]},"
                             f" as many as its parameter has, got {rows[(rows < 0) | (rows >= k.shape[0])][0]}")
        if found < 0:
            raise MemoryError
        gradients, sums = np.zeros(found, np.uintp), np.empty((count - found, length), values.dtype)
        fastopt_row_gradients(t.dtype, cnp.PyArray_DATA(values), <const Py_ssize_t *>cnp.PyArray_DATA(places), count,
                              length, <const void **>cnp.PyArray_DATA(gradients), cnp.PyArray_DATA(sums))
        if (t.ema != NULL or t.swa != NULL) and (t.step == 1 or t.averaged_rows == NULL):
            self.tell_rows_apart(i, np.full(k.shape[0], -1 if t.step == 1 else t.averaged, np.int64))
        if self.row_buffers is None:
            self.row_buffers = []
        self.row_buffers.append((unique, values, gradients, sums))
        t.layout = NULL
        t.rows = <const int64_t *>cnp.PyArray_DATA(unique)
        t.row_length = max(length, 1)
        t.row_gradients = <const void **>cnp.PyArray_DATA(gradients)
        t.n = found * length
        t.g = cnp.PyArray_DATA(values)
        return 0

    cdef int tell_rows_apart(self, Py_ssize_t i, cnp.ndarray rounds) except -1:
        """Have rows of a parameter remember by themselves how far they have been averaged."""
        cdef Table of = self.table_of(i)
        cdef fastopt_tensor *t = &self.tensors[i]
        cdef Py_ssize_t there = i - (<Py_ssize_t>self.firsts[self.members.index(of)] if self.members else 0)
        of.averaged_rows[there] = rounds
        t.averaged_rows = of.tensors[there].averaged_rows = <int64_t *>cnp.PyArray_DATA(rounds)
        t.row_length = of.tensors[there].row_length = max(self.parameters[i].size // max(len(rounds), 1), 1)
        return 0

    cdef int check_writable(self, Py_ssize_t i, object gradient) except -1:
        """Raise unless a gradient can be set to zero; those of rows stay as they are."""
        cdef array_view g
        if self.tensors[i].rows != NULL:
            return 0
        if not describe(gradient, &g):
            raise ValueError(f"{self.gradient_of(i)} must be an array to be set to zero, got {brief(gradient)}")
        if not g.flags & WRITABLE:
            return refuse_read_only(self.gradient_of(i), " to be set to zero")
        if self.tensors[i].layout != NULL and overlaps_itself(&g):
            return refuse_strides(self.gradient_of(i), &g, "not overlap itself to be set to zero")
        return 0

    cdef int set_to_zero(self, Py_ssize_t i, object gradient) except -1:
        """Set the gradient of a step that was left out to zero, as a step that was made would have."""
        if self.tensors[i].g != NULL and self.tensors[i].rows == NULL:
            np.asarray(gradient)[...] = 0
        return 0

    cdef int check_zeroing(self, tuple flat) except -1:
        """Raise unless every gradient can be set to zero without touching another one."""
        cdef Span *now = self.zeroed + self.count
        cdef array_view g
        cdef Py_ssize_t i
        for i in range(self.count):
            now[i] = Span(0, 0)
            if self.tensors[i].g != NULL and self.tensors[i].rows == NULL:
                self.check_writable(i, <object>PyTuple_GET_ITEM(flat, i))
                describe_numpy(<cnp.ndarray>PyTuple_GET_ITEM(flat, i), &g)
                now[i] = span_of(&g)
        if memcmp(now, self.zeroed, self.count * sizeof(Span)) == 0:
            return 0
        memcpy(self.zeroed, now, self.count * sizeof(Span))
        qsort(now, self.count, sizeof(Span), by_address)
        for i in range(1, self.count):
            if now[i].low < now[i - 1].high:
                self.zeroed[0] = Span(1, 0)  # no gradient lies there: the next call checks again
                used = [i for i in range(self.count) if self.tensors[i].g != NULL and self.tensors[i].rows == NULL]
                check_disjoint(self.owner, [f"gradient of {self.label(i)}" for i in used], [flat[i] for i in used])
                return 0
        return 0

    cdef int check_clear(self, Py_ssize_t i, const array_view *g) except -1:
        """Raise when a gradient shares memory with a parameter or with the state."""
        cdef Span span = span_of(g)
        cdef Py_ssize_t first = 0, end = self.n_spans, middle, j
        while first < end:
            middle = first + (end - first) // 2
            if self.spans[middle].high <= span.low:
                first = middle + 1
            else:
                end = middle
        if first == self.n_spans or self.spans[first].low >= span.high:
            return 0
        for j in range(self.count):
            if share_memory(g, &self.parameters[j].array):
                raise ValueError(f"{self.gradient_of(i)} must not share memory with a parameter, but it overlaps"
                                 f" {self.label(j)}")
        if overlaps_any(g, self.own):
            raise ValueError(f"{self.gradient_of(i)} must not share memory with the optimizer's state")
        return 0

    cdef int lay_out(self, Py_ssize_t i, const array_view *g) except -1:
        """Describe how to walk a parameter and gradient that do not lie in memory alike, with as few axes as can be."""
        cdef fastopt_layout *layout = self.layouts[i]
        if layout == NULL:
            layout = self.layouts[i] = <fastopt_layout *>calloc(1, sizeof(fastopt_layout))
            if layout == NULL:
                raise MemoryError
        self.tensors[i].layout = layout if self.describe_walk(i, g, layout) else NULL
        return 0

    cdef bint describe_walk(self, Py_ssize_t i, const array_view *g, fastopt_layout *layout) noexcept:
        """Fill in a layout; returns whether it is needed."""
        cdef Parameter *k = &self.parameters[i]
        cdef Py_ssize_t extent, p_stride, g_stride
        cdef Py_ssize_t p_size = itemsize(&k.array), g_size = itemsize(g)
        cdef int d, axis, last
        layout.ndim = 0
        for d in range(k.array.ndim):
            axis = k.order[d]
            extent = k.shape[axis]
            p_stride = k.strides[axis]
            g_stride = g.strides[axis]
            if extent == 1:
                continue
            last = layout.ndim - 1
            if last >= 0 and layout.p_stride[last] == extent * p_stride and layout.g_stride[last] == extent * g_stride:
                layout.shape[last] *= extent
            else:
                layout.ndim += 1
                last += 1
                layout.shape[last] = extent
            layout.p_stride[last] = p_stride
            layout.g_stride[last] = g_stride
        if layout.ndim == 0:
            layout.ndim = 1
            layout.shape[0] = 1
            layout.p_stride[0] = p_size
            layout.g_stride[0] = g_size
        return not (layout.ndim == 1 and layout.p_stride[0] == p_size and layout.g_stride[0] == g_size
                    and k.array.flags & g.flags & ALIGNED)

    # -- the step --

    def bind(self, grads):
        """Take the gradients of every step without arguments from these arrays."""
        cdef tuple flat = self.flatten(grads)
        cdef list containers = []
        self.acquire()
        try:
            self.take_all(flat)
            find_containers(grads, 0, containers)
            self.bound = flat
            self.bound_containers = containers
        finally:
            self.release()

    cdef Py_ssize_t take_all(self, tuple flat) except -1:
        """Point all descriptors at their gradients; returns the number of elements."""
        cdef Py_ssize_t i, elements = 0
        if PyTuple_GET_SIZE(flat) != self.count:
            raise RuntimeError(f"{self.owner}: no parameters must be added while a call begins, but another thread has"
                               f" added some")
        self.row_buffers = None
        for i in range(self.count):
            self.take(i, <object>PyTuple_GET_ITEM(flat, i))
            elements += self.tensors[i].n
        return elements

    cdef int check_together(self) except -1:
        """Raise where only some parameters of a group, all of which the rule looks at, have a gradient."""
        cdef Py_ssize_t i, missing
        for i in range(1, self.count):
            if (self.tensors[i].rule.gathers == FASTOPT_TOGETHER and self.tensors[i].hyper == self.tensors[i - 1].hyper
                    and (self.tensors[i].g == NULL) != (self.tensors[i - 1].g == NULL)):
                missing = i if self.tensors[i].g == NULL else i - 1
                raise ValueError(f"{self.gradient_of(missing)} must be given like those of its group,"
                                 f" of all of which this rule makes one estimate, got None")
        return 0

    def begun(self, Py_ssize_t i):
        """How many steps of all came before the first one of a parameter, 0 before that."""
        return self.tensors[i].begun if self.tensors[i].step > 1 else 0

    cdef int set_averaged(self, Py_ssize_t i, int64_t begun, object up_to) except -1:
        self.tensors[i].begun = begun
        self.tensors[i].averaged_rows = NULL
        self.averaged_rows[i] = None
        if type(up_to) is int:
            self.tensors[i].averaged = up_to
        else:
            self.tell_rows_apart(i, up_to)
        return 0

    def check_turn(self):
        """Raise RuntimeError within a turn of this thread."""
        if self.holder == PyThread_get_thread_ident():
            raise RuntimeError(f"{self.owner}: what a step, a save or a load calls (a schedule, a signal handler) must not"
                               f" change the same optimizer, but it does")

    def check_own(self, str label):
        """Raise ValueError while an average is in the place of the parameters, here or in a member."""
        for member in self.members:
            (<Table>member).check_own(label)
        if self.swapped is not None:
            raise ValueError(f"{label} must wait until the parameters are back, but swapped({self.swapped!r}) has put an"
                             f" average in their place")

    def __enter__(self):
        """Keep steps of other threads out while reading.

        What runs within a turn of its own thread, such as a signal handler that saves, may read as well: a turn changes
        nothing before it is done, nor while Python code can run.
        """
        if self.holder == PyThread_get_thread_ident():
            self.nested += 1
        else:
            self.acquire()

    def __exit__(self, *error):
        if self.nested:
            self.nested -= 1
        else:
            self.release()

    cdef int acquire(self) except -1:
        """Wait for the turn of this thread, and for that of the members."""
        return self.acquire_members() if self.members else self.acquire_alone()

    cdef int acquire_members(self) except -1:
        cdef Table member
        cdef Py_ssize_t held = 0
        for member in self.members:
            member.check_turn()  # before waiting: who holds the lock of this table may be waiting for that of the member
        self.acquire_alone()
        try:
            for member in self.in_turn:
                member.acquire()
                held += 1
            self.read_members()
        except BaseException:
            for member in self.in_turn[:held]:
                member.release()
            self.release_alone()
            raise
        return 0

    cdef int read_members(self) except -1:
        """Take over the parameters of the members, and the largest of their counts."""
        cdef Table member
        cdef Py_ssize_t k
        if not self.joins(list(self.members)):
            raise RuntimeError(f"{self.owner}: parameters of the optimizers must stay as they are while a call begins, but"
                               f" another thread has changed them")
        for k in range(len(self.members)):
            if (<Table>self.members[k]).params is not self.members_params[k]:
                self.rebind_members()
        self.step_count = 0
        for member in self.members:
            self.step_count = max(self.step_count, member.step_count)
        return 0

    cdef int read_descriptors(self) except -1:
        """Take over the descriptors of the members, as they are once schedules have been followed."""
        cdef Table member
        cdef Py_ssize_t k, first
        for k in range(len(self.members)):
            member = self.members[k]
            first = self.firsts[k]
            memcpy(self.tensors + first, member.tensors, member.count * sizeof(fastopt_tensor))
        return 0

    cdef int rebind_members(self) except -1:
        """Take over the arrays that members have been bound to since."""
        cdef Py_ssize_t i
        cdef tuple before = self.params, now = ()
        for member in self.members:
            now += (<Table>member).params
        check_disjoint(self.owner, [self.label(i) for i in range(self.count)], list(now))
        self.params = now
        try:
            self.lay_out_spans()
        except MemoryError:
            self.params = before
            raise
        for i in range(self.count):
            self.place(i, <cnp.ndarray>PyTuple_GET_ITEM(now, i))
        self.members_params = [(<Table>member).params for member in self.members]
        return 0

    cdef int count_steps(self, Py_ssize_t first, Py_ssize_t count) except -1:
        """Count a step that was made of the parameters that have a gradient, here and in the members."""
        cdef Py_ssize_t i
        for i in range(first, first + count):
            self.tensors[i].step += self.tensors[i].g != NULL
        if self.members:
            self.count_steps_of_members(first, count)
        return 0

    cdef int count_steps_of_members(self, Py_ssize_t first, Py_ssize_t count) except -1:
        cdef Table member
        cdef Py_ssize_t i, k, of_member
        for k in range(len(self.members)):
            member = self.members[k]
            of_member = self.firsts[k]
            for i in range(max(first, of_member), min(first + count, of_member + member.count)):
                memcpy(&member.tensors[i - of_member], &self.tensors[i], sizeof(fastopt_tensor))
                member.tensors[i - of_member].layout = NULL  # which is of this table; a step sets it
        return 0

    cdef int acquire_alone(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self.holder == thread:
            self.check_turn()
        if self.broken:
            raise RuntimeError(f"{self.owner}: this process must not be forked while another thread makes a step of the"
                               f" optimizer that it is to use, but it was: there is half of a step here")
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.holder = thread
        return 0

    cdef void release(self) noexcept:
        if self.members:
            for member in self.in_turn:
                (<Table>member).release()
        self.release_alone()

    cdef void release_alone(self) noexcept:
        self.holder = 0
        PyThread_release_lock(self.lock)

    def step(self, grads, dict changes=None, Table gathered=None, bint mean=True):
        """Check all, then update all.

        `changes` are options of this step alone, known to be valid.  With `gathered`, an accumulator, the gradients are
        its sums, or their mean, and it is empty afterwards.  Returns whether the step was made.
        """
        cdef tuple flat, one
        cdef Py_ssize_t i
        if gathered is not None:
            flat = None
        elif grads is None:
            flat = self.bound
            if flat is None:
                again = " (again, after parameters were added)" if self.unbound else ""
                raise TypeError(f"{self.owner}: gradients must be given, or bound once with bind(){again}, got none")
            for i in range(PyList_GET_SIZE(self.bound_containers)):
                one = <tuple><object>PyList_GET_ITEM(self.bound_containers, i)
                if not still_holds(<object>PyTuple_GET_ITEM(one, 0), <tuple><object>PyTuple_GET_ITEM(one, 1),
                                   <tuple><object>PyTuple_GET_ITEM(one, 2)):
                    raise ValueError(f"{self.owner}: gradients that are bound must stay where they were, but the"
                                     f" {type_name(one[0])} that they came in holds another one now: assign to it in"
                                     f" place, or call bind() again")
        else:
            flat = self.flatten(grads)
        if self.members or PyList_GET_SIZE(self.containers):
            self.check_containers(self.owner)
        self.acquire()
        try:
            if gathered is None:
                return self.step_all(flat, changes, 1)
            gathered.acquire()
            try:
                return self.use_up(gathered, changes, mean)
            finally:
                gathered.release()
        finally:
            self.release()

    cdef bint step_all(self, tuple flat, dict changes, double divisor) except -1:
        """The step, when it is its turn; gradients are divided by `divisor` besides."""
        cdef fastopt_call call
        cdef Py_ssize_t i, elements
        cdef bint made
        cdef Table member
        cdef int64_t step_count = self.step_count
        for member in self.members:
            step_count = max(step_count, member.step_count)
        self.prepare(&call, changes, step_count)
        if divisor != 1:
            call.grad_scale = divisor * (call.grad_scale if call.grad_scale else 1)
        self.follow_schedules(self.step_count)
        if self.members:
            self.read_descriptors()
        if call.clip_norm and self.clip_norm_per != "all":
            self.set_clip_groups()
        elements = self.take_all(flat)
        if self.together:
            self.check_together()
        if call.zero_grads:
            self.check_zeroing(flat)
        if self.in_two:
            made = self.run_in_two(&call, 0, self.count, elements)
        else:
            made = self.run(&call, 0, self.count, elements)
        if not made:
            for i in range(self.count if call.zero_grads else 0):
                self.set_to_zero(i, <object>PyTuple_GET_ITEM(flat, i))
            return False
        if self.averaged:
            self.average_at_rest(0, self.count)
        self.count_steps(0, self.count)
        self.step_count += 1
        for member in self.members:
            member.step_count += 1
        return True

    def accumulate(self, grads):
        """Add gradients to what this accumulator has gathered, after checking all of them.

        Rows are kept as rows while nothing else comes for their parameter and its step can take them; in all other cases
        they are added to its buffer.
        """
        cdef fastopt_call call
        cdef Py_ssize_t i, elements
        cdef tuple flat = self.flatten(grads)
        cdef dict kept = {}, whole = {}
        cdef KeptRows before
        self.acquire()
        try:
            self.prepare(&call, None, self.step_count)
            elements = self.take_all(flat)
            for i in range(self.count):
                gradient, before = flat[i], self.kept_rows.get(i)
                if type(gradient) is RowGrad and self.tensors[i].step == 1 and self.gathers_for.keeps_rows(i):
                    kept[i] = added_rows(before, <RowGrad>gradient, (<object>self.params[i]).dtype)
                elif gradient is not None and before is not None:
                    whole[i] = before.rows()
            # Only what cannot fail from here on.
            for i in kept:
                elements -= self.tensors[i].n
                self.tensors[i].g = NULL
            for i, rows in whole.items():
                self.add_to_buffer(i, <RowGrad>rows)
            self.run(&call, 0, self.count, elements)
            self.kept_rows.update(kept)
            self.count_steps(0, self.count)
            self.step_count += 1
        finally:
            self.release()

    cdef bint keeps_rows(self, Py_ssize_t i):
        """Whether a step can take a parameter's gradient as rows."""
        cdef Table of = self.table_of(i)
        i -= <Py_ssize_t>self.firsts[self.members.index(of)] if self.members else 0
        return of.takes_rows(i)

    cdef int add_to_buffer(self, Py_ssize_t i, RowGrad gradient) except -1:
        """Put rows that have been kept, each of them once, where a whole gradient is to be added to them."""
        buffer = self.params[i]
        buffer[gradient.rows] = gradient.values
        del self.kept_rows[i]
        self.tensors[i].step += 1
        return 0

    cdef void set_clip_groups(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            self.tensors[i].clip_group = i if self.clip_norm_per == "parameter" else self.group_of[i]

    cdef int average_at_rest(self, Py_ssize_t first, Py_ssize_t count) except -1:
        """Have the averages of parameters without a gradient take them in as they are."""
        cdef Py_ssize_t i, elements = 0
        cdef bint some = False
        cdef int threads = self.chosen_threads() or default_threads
        cdef fastopt_tensor *tensors = self.tensors + first
        cdef fastopt_status status
        for i in range(count):
            if tensors[i].g == NULL and tensors[i].step > 1:
                some = True
                elements += tensors[i].n
        if not some:
            return 0
        if elements < KEEP_GIL_BELOW:
            status = fastopt_average(tensors, count, threads)
        else:
            with nogil:
                status = fastopt_average(tensors, count, threads)
        if status != FASTOPT_OK:
            raise RuntimeError(f"{self.owner}: the C core refused to average with status {status}")
        return 0

    def average(self, Py_ssize_t i, str name, buffer, double ema_decay):
        """An average of a parameter after all steps so far: its buffer, or an array of its own where that is behind.

        That of a parameter that was never stepped, or of which swa has no value yet, is the parameter.  ema_decay is that
        of the last step.
        """
        cdef fastopt_tensor t = self.tensors[i]
        cdef fastopt_options options = t.options[0]
        cdef fastopt_layout layout
        cdef cnp.ndarray p = <cnp.ndarray>PyTuple_GET_ITEM(self.params, i), made, rounds
        if t.step == 1 or (name == "swa" and samples(&options, t.begun) == samples(&options, self.step_count)):
            return p.copy()
        if np.all(self.averaged_up_to(i) >= self.step_count):
            return buffer
        self.check_own(self.owner)
        self.check_unchanged(i, False)
        made = buffer.copy(order="K")
        options.ema_decay = ema_decay
        t.options = &options
        t.g = NULL
        t.rows = NULL
        t.n = self.parameters[i].size
        t.round = self.step_count
        t.layout = &layout if self.describe_walk(i, &self.parameters[i].array, &layout) else NULL
        t.ema = cnp.PyArray_DATA(made) if name == "ema" else NULL
        t.swa = cnp.PyArray_DATA(made) if name == "swa" else NULL
        t.slow = NULL
        if t.averaged_rows != NULL:
            rounds = self.averaged_rows[i].copy()
            t.averaged_rows = <int64_t *>cnp.PyArray_DATA(rounds)
        fastopt_average(&t, 1, self.num_threads or default_threads)
        return made

    def averaged_up_to(self, Py_ssize_t i):
        """The last step that the averages of a parameter have taken in; of each row where they differ.

        It is below 0 for rows that were never met, and 0 for a parameter that was never stepped.
        """
        cdef fastopt_tensor *t = &self.tensors[i]
        if t.step == 1:
            return 0
        if t.averaged_rows == NULL:
            return t.averaged
        rounds = self.averaged_rows[i]
        if not rounds.size or (rounds == rounds[0]).all():
            return int(rounds[0]) if rounds.size else t.averaged
        return rounds.copy()

    cdef bint use_up(self, Table gathered, dict changes, bint mean) except -1:
        """Step with what an accumulator has gathered, which the step sets to zero, and begin to count anew.

        All in one go, so that an interrupt finds the sums and their count as they belong together.
        """
        cdef Py_ssize_t i
        cdef bint made
        cdef list flat = []
        cdef KeptRows kept
        if gathered.step_count == 0:
            raise TypeError(f"{self.owner}: gradients must be given or accumulated, got none")
        for i in range(self.count):
            kept = gathered.kept_rows.get(i)
            if kept is not None:
                flat.append(kept.rows())
            else:
                flat.append(gathered.params[i] if gathered.tensors[i].step > 1 else None)
        made = self.step_all(tuple(flat), changes, gathered.step_count if mean else 1)
        gathered.forget()
        return made

    cdef int forget(self) except -1:
        """Begin to gather anew, the buffers being zero."""
        cdef Py_ssize_t i
        for i in range(self.count):
            self.tensors[i].step = 1
        self.kept_rows.clear()
        self.step_count = 0
        return 0

    def discard(self):
        """Make an accumulator empty."""
        cdef Py_ssize_t i
        self.acquire()
        try:
            for i in range(self.count):
                if self.tensors[i].step > 1:
                    memset(self.tensors[i].p, 0, cnp.PyArray_NBYTES(<cnp.ndarray>self.params[i]))
            self.forget()
        finally:
            self.release()

    def step_one(self, name, gradient, dict changes=None):
        """The same for one parameter; its count of steps leads that of the optimizer."""
        cdef fastopt_call call
        cdef Py_ssize_t i
        cdef int64_t t
        cdef bint made
        cdef Table of
        if name not in self.names:
            raise ValueError(f"{self.owner}_one: name must be that of a parameter, got {brief(name)}")
        i = self.names.index(name)
        if self.members or self.containers:
            self.check_containers(f"{self.owner}_one")
        self.acquire()
        try:
            # In a round that has begun, step_count is one ahead of the steps that the others have made.
            of = self.table_of(i)
            self.read_descriptors()
            t = max(self.tensors[i].step - 1, of.step_count - 1)
            self.prepare(&call, changes, t)
            if call.clip_norm and self.clip_norm_per != "parameter":
                raise ValueError(f"{self.owner}_one: clip_norm must be None, since the norm of all gradients"
                                 f" (clip_norm_per={self.clip_norm_per!r}) needs all of them, got {call.clip_norm!r}")
            if self.tensors[i].rule.gathers == FASTOPT_TOGETHER:
                raise ValueError(f"{self.owner}_one: this rule needs the gradients of all parameters at once")
            of.follow_schedules(t)
            self.read_descriptors()
            self.row_buffers = None
            self.take(i, gradient)
            if self.tensors[i].g == NULL:
                if self.averaged:
                    self.average_at_rest(i, 1)
                    self.count_steps(i, 1)
                return True
            if call.zero_grads:
                self.check_writable(i, gradient)
            if of.in_two:
                made = self.run_in_two(&call, i, 1, self.tensors[i].n)
            else:
                made = self.run(&call, i, 1, self.tensors[i].n)
            if not made:
                if call.zero_grads:
                    self.set_to_zero(i, gradient)
                return False
            self.count_steps(i, 1)
            of.step_count = max(of.step_count, self.tensors[i].step - 1)
            self.step_count = max(self.step_count, of.step_count)
            return True
        finally:
            self.release()

    cdef Table table_of(self, Py_ssize_t i):
        """The table that keeps the count and the schedules of a parameter: this one, or a member."""
        cdef Py_ssize_t k = len(self.members)
        if not k:
            return self
        k -= 1
        while i < <Py_ssize_t>self.firsts[k]:
            k -= 1
        return self.members[k]

    cdef int follow_schedules(self, int64_t step_count) except -1:
        """Set what changes from step to step, once all of it is known to be valid."""
        self.schedule_step = step_count
        return self.set_scheduled() if self.schedules or self.averaged or self.members else 0

    cdef int set_scheduled(self) except -1:
        cdef Table table
        cdef list found = self.scheduled(), averaged
        for table in self.members:
            table.schedule_step = table.step_count
            found += table.scheduled()
        averaged = [(table, table.ema_decay()) for table in self.members or (self,)] if self.averaged else None
        for table, settings, (hyper, options) in found:
            table.change(<Settings>settings, <dict>hyper, <dict>options)
        if averaged is not None:
            for table, decay in averaged:
                table.begin_round(decay)
        return 0

    cdef object ema_decay(self):
        """The decay of the average in the step at hand where it is scheduled, or None."""
        return None if self.ema_schedule is None else self.ema_schedule(self.schedule_step)

    cdef int begin_round(self, object ema_decay) except -1:
        """Tell averages which step of all parameters is at hand, and a decay that is scheduled."""
        cdef Py_ssize_t i
        for i in range(self.count if self.averaged else 0):
            self.tensors[i].round = self.schedule_step + 1
            if ema_decay is not None:
                (<Settings>self.settings[i]).options.ema_decay = ema_decay
        return 0

    cdef list scheduled(self):
        return [(self, settings, values(self.schedule_step)) for settings, values in list(self.schedules.items())]

    cdef int change(self, Settings settings, dict hyper, dict options) except -1:
        """Set hyperparameters and options that are known to be valid.

        The first change of a decay after the first step of a parameter begins its record, with the value before.
        """
        cdef Py_ssize_t i
        cdef int h
        cdef fastopt_decay *decays
        if not settings.set(hyper, options):
            return 0
        for i in range(self.count):
            if self.settings[i] is not settings or self.tensors[i].decays != NULL or self.tensors[i].step == 1:
                continue
            decays = self.records + i * FASTOPT_MAX_HYPER
            for h in range(FASTOPT_MAX_HYPER):
                decays[h] = fastopt_decay(settings.before[h], 0, 1, 0)
            self.tensors[i].decays = decays
        return 0

    cdef int prepare(self, fastopt_call *call, dict changes, int64_t step_count) except -1:
        """The options of the step after this many: those of the table, and what is changed for this one."""
        if self.swapped is not None or self.members:
            self.check_own(self.owner)
        call.num_threads = self.num_threads if self.num_threads else default_threads
        call.check_finite = self.check_finite
        call.grad_scale = self.grad_scale
        call.clip_norm = self.clip_norm
        call.clip_value = self.clip_value
        call.zero_grads = self.zero_grads
        call.part = FASTOPT_ALL
        if changes is not None:
            call.grad_scale = changes.get("grad_scale", call.grad_scale)
            call.clip_norm = changes.get("clip_norm", call.clip_norm)
            call.clip_value = changes.get("clip_value", call.clip_value)
            call.zero_grads = changes.get("zero_grads", call.zero_grads)
        if self.clip_schedule is not None and (changes is None or "clip_norm" not in changes):
            call.clip_norm = self.clip_schedule(step_count)
        self.zeroing = call.zero_grads
        return 0

    cdef bint run_in_two(self, fastopt_call *call, Py_ssize_t first, Py_ssize_t count, Py_ssize_t elements) except -1:
        """Make the step in two calls, with something between; returns whether it was made."""
        cdef Py_ssize_t k, begin, end
        cdef Table member
        call.part = FASTOPT_GATHER
        if not self.run(call, first, count, elements):
            return False
        if self.between is not None:
            self.call_between(self, 0, first, first + count)
        for k in range(len(self.members)):
            member = self.members[k]
            begin = self.firsts[k]
            end = min(first + count, begin + member.count)
            if member.in_two:
                self.call_between(member, begin, max(first, begin), end)
        call.part = FASTOPT_UPDATE
        return self.run(call, first, count, elements)

    cdef int call_between(self, Table of, Py_ssize_t offset, Py_ssize_t first, Py_ssize_t end) except -1:
        """Hand the parameters first to end that have a gradient to what a table has between gathering and updating."""
        cdef Py_ssize_t i
        cdef list used = [i - offset for i in range(first, end) if self.tensors[i].g != NULL]
        if used:
            of.between()(used, of.schedule_step)
        return 0

    cdef bint run(self, fastopt_call *call, Py_ssize_t first, Py_ssize_t count, Py_ssize_t elements) except -1:
        """Make the call; returns whether the step was made."""
        cdef fastopt_status status
        cdef Py_ssize_t i
        cdef fastopt_tensor *tensors = self.tensors + first
        # Steps of one parameter say nothing of those of all.
        call.tuner = NULL if self.num_threads or count < self.count else &self.tuners[call.part == FASTOPT_GATHER]
        if elements < KEEP_GIL_BELOW:
            status = fastopt_step_with(tensors, count, call)
        else:
            with nogil:
                status = fastopt_step_with(tensors, count, call)
        if call.clip_norm:
            self.grad_norm = call.grad_norm
            for i in range(first, first if self.clip_norm_per == "all" else first + count):
                self.parameters[i].grad_norm = self.tensors[i].grad_norm
        elif self.grad_norm is not None:
            self.grad_norm = None
        if status == FASTOPT_NONFINITE:
            self.check_skip(first, count)
            self.skipped_steps += 1
            return False
        if status == FASTOPT_NO_MEMORY:
            raise MemoryError
        if status != FASTOPT_OK:
            raise RuntimeError(f"{self.owner}: the C core refused the step with status {status}")
        if self.max_skips:
            for i in range(first, first + count):
                self.parameters[i].skips = 0
        return True

    cdef int check_skip(self, Py_ssize_t first, Py_ssize_t count) except -1:
        """Raise unless a step with NaN or infinity in its gradients is to be skipped; with max_skips, count it."""
        cdef Py_ssize_t i
        cdef bint too_many = False
        cdef str after = ""
        if self.skip_nonfinite:
            for i in range(first, first + count if self.max_skips else first):
                too_many = too_many or self.parameters[i].skips >= self.max_skips
            if too_many:
                after = f" after {self.max_skips} skipped steps in a row (max_skips={self.max_skips})"
            else:
                for i in range(first, first + count if self.max_skips else first):
                    self.parameters[i].skips += 1
                return 0
        bad = [self.label(i) for i in range(first, first + count) if not fastopt_finite(&self.tensors[i])]
        raise FloatingPointError(f"{self.owner}: gradients must be finite{after}, got NaN or infinity in that"
                                 f" of {', '.join(bad)}")

    def catch_up(self):
        """Have all rows make up for the steps that they have missed."""
        self.check_containers(self.owner)
        self.acquire()
        try:
            self.catch_up_in_turn()
        finally:
            self.release()

    def catch_up_in_turn(self):
        """The same within a turn."""
        cdef Py_ssize_t i
        cdef int threads = self.num_threads if self.num_threads else default_threads
        cdef fastopt_status status
        self.follow_schedules(self.step_count)  # which sets all hyperparameters of a group, also after a load
        for i in range(self.count):
            self.tensors[i].g = NULL
            self.parameters[i].g = NULL
            if self.tensors[i].last_step != NULL:
                self.check_unchanged(i, True)
                self.tensors[i].g = self.tensors[i].p
                self.tensors[i].rows = NULL
                self.tensors[i].layout = NULL
                self.tensors[i].n = self.parameters[i].size
        with nogil:
            status = fastopt_catch_up(self.tensors, self.count, threads)
        if status != FASTOPT_OK:
            raise RuntimeError(f"{self.owner}: the C core refused to catch up with status {status}")

    def chosen_threads(self):
        """The number of threads that the steps so far have led to, 0 before there is one."""
        return self.num_threads if self.num_threads else self.tuners[0].threads

    def traffic(self, Py_ssize_t i, cnp.ndarray g, int num_threads):
        """Move the bytes that a step of contiguous parameter i would move, and nothing else: all of it is overwritten."""
        self.take(i, g)
        if self.tensors[i].layout != NULL or self.tensors[i].formats.g != FASTOPT_NATIVE:
            raise ValueError(f"{self.owner}: {self.label(i)} and its gradient must be contiguous and of one dtype")
        with nogil:
            fastopt_traffic(&self.tensors[i], num_threads)

    def steps(self):
        """How many steps each parameter has made."""
        cdef Py_ssize_t i
        return [self.tensors[i].step - 1 for i in range(self.count)]

    def decays(self):
        """For each parameter that has made a step its decays that bias corrections use, by name, each as a dict."""
        cdef Py_ssize_t i
        cdef Settings settings
        cdef fastopt_decay constant
        cdef list found = []
        for i in range(self.count):
            settings, of_one = self.settings[i], {}
            for j, name in enumerate(settings.corrected if self.tensors[i].step > 1 else ()):
                h = settings.corrected_at[j]
                constant = fastopt_decay(settings.hyper[h], 0, 1, 0)
                of_one[name] = constant if self.tensors[i].decays == NULL else self.tensors[i].decays[h]
            found.append(of_one)
        return found

    def adopt(self, list changes):
        """Take over hyperparameters of groups that are known to be valid.

        Each change is a group, all that it holds besides its parameters, its `Settings` (a tuple of them), and what gives the arguments of
        `Settings.set` for a step, or None and these arguments.
        """
        for group, hyper, of_group, plan, arguments in changes:
            for key in [key for key in group if key not in hyper and key != "params"]:
                dict.pop(group, key)
            dict.update(group, hyper)
            for settings in of_group:
                if plan is None:
                    self.change(<Settings>settings, <dict>arguments[0], <dict>arguments[1])
                    self.schedules.pop(settings, None)
                else:
                    self.schedules[settings] = plan

    def load(self, list steps, list averaged, int64_t step_count, list changes, list values, list decays):
        """Within a turn, set counts of steps made, hyperparameters, arrays and `decays` to values known to fit them.

        `averaged` is what `begun` and `averaged_up_to` gave for each parameter, of arrays copies that nobody else has.  No
        Python code runs on the way, so that nothing can interrupt it.
        """
        cdef Py_ssize_t i
        cdef int h
        cdef Settings settings
        cdef fastopt_decay *here
        self.adopt(changes)
        for i in range(self.count):
            self.tensors[i].step = <int64_t>steps[i] + 1
            begun, up_to = averaged[i]
            self.set_averaged(i, begun, up_to)
            self.tensors[i].decays = NULL
            settings = self.settings[i]
            here = self.records + i * FASTOPT_MAX_HYPER
            for j, name in enumerate(settings.corrected if <int64_t>steps[i] else ()):
                h = settings.corrected_at[j]
                here[h] = <dict>(<dict>decays[i])[name]
                if here[h].since or here[h].value != settings.hyper[h]:
                    self.tensors[i].decays = here
        self.step_count = step_count
        for array, value in values:
            array[...] = value
