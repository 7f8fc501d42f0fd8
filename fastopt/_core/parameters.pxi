# The parameters of an optimizer and their state, as the C core's descriptors.

cdef struct Entry:
    # A parameter as it was when it was laid out, and its last gradient.
    array_view array
    Py_ssize_t *shape       # of the array; its strides and its axes in walk order follow in memory
    Py_ssize_t *strides
    Py_ssize_t *order
    Py_ssize_t size
    double grad_norm        # the norm by which the gradient was last clipped, with clip_norm_per
    int64_t skips           # steps in a row that have been skipped, counted with max_skips
    bint direct             # C-contiguous, aligned and walked in C order
    int g_dtype
    const void *g           # the last gradient without a layout that passed the check for overlaps
    const void *home        # where its tensor keeps its shape: differs between tensors in one memory; NULL until it is read


cdef void *grown(void *array, Py_ssize_t before, Py_ssize_t count, size_t size) except NULL:
    """Move `before` elements to a new array of `count`, whose other elements are zeros, and free the old one."""
    cdef void *larger = calloc(count, size)
    if larger == NULL:
        raise MemoryError
    if before:
        memcpy(larger, array, before * size)
    free(array)
    return larger


@cython.final
cdef class Parameters:
    """The parameters, state and settings of one optimizer as an array of fastopt_tensor, one for each parameter.

    It owns the descriptors and all that they point to, except the arrays. It also has the addresses of the memory that
    gradients must not share. Messages begin with `owner`.
    """

    cdef str owner
    cdef tuple names, arrays
    cdef tuple state_memory  # arrays in which state lies
    cdef list settings
    cdef list state, formats, carry, last_steps, axes  # the memory that descriptors and entries point to
    cdef Py_ssize_t count
    cdef fastopt_tensor *tensors
    cdef Entry *entries
    cdef fastopt_layout **layouts
    cdef fastopt_decay *decay_records  # FASTOPT_MAX_HYPER for each parameter; used once a decay has changed
    cdef Py_ssize_t dtype_changes  # how often the dtype of a gradient has changed
    cdef Span *spans  # of all parameters and state, sorted; spans that touch are merged
    cdef Py_ssize_t n_spans
    cdef void *bound  # the tuple of the gradients to which all descriptors point; NULL: none
    cdef bint catches_up  # whether rows make up for missed steps
    cdef bint estimates_groups  # whether some rule makes one estimate for all parameters of a group

    def __init__(self, str owner):
        self.owner = owner
        self.names = self.arrays = self.state_memory = ()
        self.settings = []
        self.state, self.formats, self.carry, self.last_steps, self.axes = [], [], [], [], []

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.layouts:
            for i in range(self.count):
                free(self.layouts[i])
        free(self.layouts)
        free(self.tensors)
        free(self.entries)
        free(self.decay_records)
        free(self.spans)

    cdef int append(self, list names, list arrays, list settings, list state, list formats, list orders, list carry,
                    list last_steps, tuple averages, list arenas) except -1:
        """Append descriptors of further parameters; those of the others keep their values."""
        cdef Py_ssize_t i, s, before = self.count, count = before + len(arrays), ndims = 0
        cdef int d
        cdef cnp.ndarray p, of_axes
        cdef Settings group
        cdef Py_ssize_t *dims
        cdef fastopt_tensor *t
        cdef Entry *entry
        for p in arrays:
            ndims += 3 * cnp.PyArray_NDIM(p)
        of_axes = np.zeros(ndims, np.intp)
        dims = <Py_ssize_t *>cnp.PyArray_DATA(of_axes)
        self.tensors = <fastopt_tensor *>grown(self.tensors, before, count + 1, sizeof(fastopt_tensor))
        self.layouts = <fastopt_layout **>grown(self.layouts, before, count + 1, sizeof(fastopt_layout *))
        self.entries = <Entry *>grown(self.entries, before, count + 1, sizeof(Entry))
        self.decay_records = <fastopt_decay *>grown(self.decay_records, before * FASTOPT_MAX_HYPER,
                                                    count * FASTOPT_MAX_HYPER + 1, sizeof(fastopt_decay))
        for i in range(before):
            if self.tensors[i].decays != NULL:
                self.tensors[i].decays = self.decay_records + i * FASTOPT_MAX_HYPER
        for i in range(len(arrays)):
            p = arrays[i]
            group = settings[i]
            self.estimates_groups |= group.rule.gathers == FASTOPT_BY_GROUP
            t = &self.tensors[before + i]
            t.rule = group.rule
            t.hyper = group.hyper
            t.options = &group.options
            entry = &self.entries[before + i]
            describe_numpy(p, &entry.array)
            t.dtype = core_dtype(&entry.array)
            t.n = size_of(&entry.array)
            t.step = 1
            for s in range(len(group.state_names)):
                t.state[s] = cnp.PyArray_DATA(<cnp.ndarray>state[i][s])
            if formats[i] is not None:
                self.set_formats(t, formats[i])
            for name, buffer in zip(averages, state[i][len(group.state_names):]):
                if name == "ema":
                    t.ema = cnp.PyArray_DATA(<cnp.ndarray>buffer)
                elif name == "swa":
                    t.swa = cnp.PyArray_DATA(<cnp.ndarray>buffer)
                else:
                    t.slow = cnp.PyArray_DATA(<cnp.ndarray>buffer)
            t.carry = <double *>cnp.PyArray_DATA(<cnp.ndarray>carry[i])
            if group.corrects_decay:
                t.largest_lr = t.carry + len(group.carry_names) - 1
            if last_steps[i] is not None and t.n:
                self.catches_up = True
                t.last_step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>last_steps[i])
                t.row_length = t.n // len(last_steps[i])
            t.ndim = entry.array.ndim
            t.shape = entry.shape = dims
            entry.strides = dims + t.ndim
            entry.order = dims + 2 * t.ndim
            dims += 3 * t.ndim
            entry.size = t.n
            entry.g_dtype = computed_in(&entry.array)
            order = orders[i]
            for d in range(t.ndim):
                entry.shape[d] = entry.array.shape[d]
                entry.order[d] = order[d]
            self.locate(before + i, p)
        self.state += state
        self.formats += formats
        self.carry += carry
        self.last_steps += last_steps
        self.axes.append(of_axes)
        self.state_memory += (*arenas, *carry, *[array for array in last_steps if array is not None])
        self.names += tuple(names)
        self.arrays += tuple(arrays)
        self.settings = self.settings + settings
        self.count = count
        self.bound = NULL
        self.lay_out_spans()
        return 0

    cdef int set_formats(self, fastopt_tensor *t, formats) except -1:
        """Set the formats of a parameter and its state."""
        cdef Py_ssize_t s
        t.formats.p = <unsigned char>formats.numbers[0]
        if formats.rests[0] is not None:
            t.p_rest = cnp.PyArray_DATA(<cnp.ndarray>formats.rests[0])
        for s in range(len(formats.numbers) - 1):
            t.formats.state[s] = <unsigned char>formats.numbers[s + 1]
            if formats.rests[s + 1] is not None:
                t.state_rest[s] = cnp.PyArray_DATA(<cnp.ndarray>formats.rests[s + 1])
        t.rounding = FASTOPT_STOCHASTIC if formats.stochastic else FASTOPT_NEAREST
        t.seed, t.key = formats.seed, formats.key
        return 0

    cdef void locate(self, Py_ssize_t i, cnp.ndarray p) noexcept:
        """Set the memory of a parameter; the walk order stays, since the state has it too."""
        cdef Entry *entry = &self.entries[i]
        cdef int d, before = -1
        describe_numpy(p, &entry.array)
        self.tensors[i].p = entry.array.data
        entry.g = entry.home = NULL
        entry.direct = entry.array.flags & FLAT == FLAT
        for d in range(entry.array.ndim):
            entry.strides[d] = entry.array.strides[d]
            if entry.shape[entry.order[d]] > 1:
                entry.direct = entry.direct and entry.order[d] > before
                before = entry.order[d]
        entry.array.shape, entry.array.strides, entry.array.unit = entry.shape, entry.strides, 1

    cdef int rebind(self, tuple arrays) except -1:
        """Replace all parameters by these arrays, which the caller has checked."""
        cdef Py_ssize_t i
        cdef tuple before = self.arrays
        self.arrays = arrays
        self.bound = NULL
        try:
            self.lay_out_spans()
        except MemoryError:
            self.arrays = before
            raise
        for i in range(self.count):
            self.locate(i, <cnp.ndarray>PyTuple_GET_ITEM(arrays, i))
        return 0

    cdef list orders(self):
        """The walk order of each parameter: its state keeps it when the parameter moves to other memory."""
        cdef Py_ssize_t i
        return [tuple([self.entries[i].order[d] for d in range(self.tensors[i].ndim)]) for i in range(self.count)]

    # -- names in messages --

    cdef str label(self, Py_ssize_t i):
        name = self.names[i]
        return f"parameter {name}" if isinstance(name, int) else repr(name)

    cdef str gradient_of(self, Py_ssize_t i):
        return f"{self.owner}: gradient of {self.label(i)}"

    # -- memory --

    cdef int lay_out_spans(self) except -1:
        cdef array_view view
        cdef list found = []
        for array in (*self.arrays, *self.state_memory):
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
        return 0

    cdef int check_clear(self, Py_ssize_t i, const array_view *g) except -1:
        """Raise if a gradient shares memory with a parameter or with the state."""
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
            if share_memory(g, &self.entries[j].array):
                raise ValueError(f"{self.gradient_of(i)} must not share memory with a parameter, but it overlaps"
                                 f" {self.label(j)}")
        if overlaps_any(g, self.state_memory):
            raise ValueError(f"{self.gradient_of(i)} must not share memory with the optimizer's state")
        return 0

    cdef inline bint is_unchanged(self, Py_ssize_t i, const array_view *laid_out, int flags) noexcept:
        """Whether a parameter has the memory and shape that it was laid out with, and these flags."""
        cdef array_view now
        describe_numpy(<cnp.ndarray>PyTuple_GET_ITEM(self.arrays, i), &now)
        return same_memory(&now, laid_out) and now.flags & flags == flags

    cdef inline bint lies_in(self, Py_ssize_t i, object tensor) except -1:
        """Whether a parameter has the memory and shape of a tensor."""
        cdef array_view now
        return self.describes(i, tensor, &now)

    cdef inline bint is_still(self, Py_ssize_t i, object tensor) except -1:
        """Whether `lies_in` holds, and the tensor is the one of the last call: torch can swap two in one memory."""
        cdef array_view now
        cdef Entry *entry = &self.entries[i]
        if not self.describes(i, tensor, &now) or (entry.home != NULL and entry.home != now.home):
            return False
        entry.home = now.home
        return True

    cdef inline bint describes(self, Py_ssize_t i, object tensor, array_view *now) except -1:
        """Describe a tensor; returns whether a parameter has its memory and shape."""
        cdef Entry *entry = &self.entries[i]
        if not describe(tensor, now):
            return False
        return same_memory(now, &entry.array) or (entry.size == 0 and same_shape(now, &entry.array))

    cdef int refuse_changed(self, Py_ssize_t i) except -1:
        raise ValueError(f"{self.owner}: {self.label(i)} must stay the writable array that the optimizer was made with, but"
                         f" its memory, shape, strides, dtype or flags have changed")

    cdef int check_unchanged(self, Py_ssize_t i, int flags) except -1:
        """Raise unless `is_unchanged`."""
        return 0 if self.is_unchanged(i, &self.entries[i].array, flags) else self.refuse_changed(i)

    # -- walks --

    cdef int set_layout(self, Py_ssize_t i, const array_view *g) except -1:
        """Set the layout of a parameter and a gradient that differ in memory order, or clear it."""
        cdef fastopt_layout *layout = self.layouts[i]
        if layout == NULL:
            layout = self.layouts[i] = <fastopt_layout *>calloc(1, sizeof(fastopt_layout))
            if layout == NULL:
                raise MemoryError
        self.tensors[i].layout = layout if self.describe_walk(i, g, layout) else NULL
        return 0

    cdef bint describe_walk(self, Py_ssize_t i, const array_view *g, fastopt_layout *layout) noexcept:
        """Fill in a layout with axes merged where possible; returns whether it is needed."""
        cdef Entry *entry = &self.entries[i]
        cdef Py_ssize_t extent, p_stride, g_stride
        cdef Py_ssize_t p_size = itemsize(&entry.array), g_size = itemsize(g)
        cdef int d, axis, last
        layout.ndim = 0
        for d in range(entry.array.ndim):
            axis = entry.order[d]
            extent = entry.shape[axis]
            p_stride = entry.strides[axis]
            g_stride = stride(g, axis)
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
                    and entry.array.flags & g.flags & ALIGNED)

    # -- counts, hyperparameters and the decays of bias corrections --

    cdef list steps(self):
        """The number of steps of each parameter."""
        cdef Py_ssize_t i
        return [self.tensors[i].step - 1 for i in range(self.count)]

    cdef void count_steps(self, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
        """Count a step of these parameters, where they have a gradient."""
        cdef Py_ssize_t i
        for i in range(first, first + count):
            self.tensors[i].step += self.tensors[i].g != NULL

    cdef int change(self, Settings settings, dict hyper, dict options) except -1:
        """Set hyperparameters and options of a group, which the caller has checked.

        The first change of a decay after step 1 of a parameter starts its record, with the previous value.
        """
        cdef Py_ssize_t i
        cdef int h
        cdef fastopt_decay *record
        cdef const fastopt_rule *before = settings.stepping
        cdef bint changed = settings.set(hyper, options)
        if settings.stepping != before:
            self.use_rule(settings)
        if not changed:
            return 0
        for i in range(self.count):
            if self.settings[i] is not settings or self.tensors[i].decays != NULL or self.tensors[i].step == 1:
                continue
            record = self.decay_records + i * FASTOPT_MAX_HYPER
            for h in range(FASTOPT_MAX_HYPER):
                record[h] = fastopt_decay(settings.previous[h], 0, 1, 0)
            self.tensors[i].decays = record
        return 0

    cdef int use_rule(self, Settings settings) except -1:
        """Step the parameters of a group by the rule that its hyperparameters select now."""
        cdef Py_ssize_t i
        cdef int s
        cdef fastopt_tensor *t
        for i in range(self.count):
            if self.settings[i] is not settings:
                continue
            t = &self.tensors[i]
            t.rule = settings.stepping
            self.bound = NULL
            for s in range(len(settings.state_names) if self.formats[i] is not None else 0):
                t.formats.state[s] = <unsigned char>self.formats[i].numbers[s + 1] if t.rule.state[s] != NULL else 0
        return 0

    cdef list decays(self):
        """For each parameter, by name, the decays that bias corrections use, as dicts; none before its first step."""
        cdef Py_ssize_t i
        cdef Settings settings
        cdef fastopt_decay constant
        cdef list found = []
        for i in range(self.count):
            settings, records = self.settings[i], {}
            for j, name in enumerate(settings.corrected if self.tensors[i].step > 1 else ()):
                h = settings.corrected_places[j]
                constant = fastopt_decay(settings.hyper[h], 0, 1, 0)
                records[name] = constant if self.tensors[i].decays == NULL else self.tensors[i].decays[h]
            found.append(records)
        return found

    cdef int load(self, list steps, list decays) except -1:
        """Set counts of steps, and the `decays` of parameters whose count is not 0."""
        cdef Py_ssize_t i
        cdef int h
        cdef Settings settings
        cdef fastopt_decay *record
        for i in range(self.count):
            self.tensors[i].step = <int64_t>steps[i] + 1
            self.tensors[i].decays = NULL
            settings = self.settings[i]
            record = self.decay_records + i * FASTOPT_MAX_HYPER
            for j, name in enumerate(settings.corrected if <int64_t>steps[i] else ()):
                h = settings.corrected_places[j]
                record[h] = <dict>(<dict>decays[i])[name]
                if record[h].since or record[h].value != settings.hyper[h]:
                    self.tensors[i].decays = record
        return 0
