# Gradients of a step: each is checked, and the descriptor of its parameter points to it.

@cython.final
cdef class Binder:
    """Binds gradients to the descriptors of parameters.

    It checks all that can have changed since the last step; the rest was checked when the parameters were laid out. It owns
    the arrays that it makes for the current step, and the spans of gradients that are set to zero.
    """

    cdef Parameters parameters
    cdef Averages averages
    cdef list step_arrays  # arrays made for the current step (sums of rows, numbers), or None
    cdef bint zeroing  # whether the current step sets gradients to zero
    cdef Span *zeroed  # of each gradient that passed check_zeroing; then scratch to sort them

    def __init__(self, Parameters parameters, Averages averages):
        self.parameters = parameters
        self.averages = averages

    def __dealloc__(self):
        free(self.zeroed)

    cdef int grow(self) except -1:
        """Allocate spans for all parameters."""
        self.zeroed = <Span *>grown(self.zeroed, 0, 2 * self.parameters.count + 1, sizeof(Span))
        return 0

    cdef Py_ssize_t bind_all(self, tuple gradients, bint located=False) except -1:
        """Bind all gradients; returns their number of elements.  `located` as in `bind`."""
        cdef Parameters parameters = self.parameters
        cdef Py_ssize_t i, elements = 0, count = parameters.count
        cdef const fastopt_tensor *tensors = parameters.tensors
        if PyTuple_GET_SIZE(gradients) != count:
            raise RuntimeError(f"{parameters.owner}: no parameters must be added while a call begins, but another thread has"
                               f" added some")
        self.step_arrays = None
        parameters.bound = NULL
        for i in range(count):
            self.bind(parameters, i, <object>PyTuple_GET_ITEM(gradients, i), located)
            elements += tensors[i].n
        parameters.bound = <void *>gradients
        return elements

    cdef Py_ssize_t bind_some(self, tuple gradients) except -1:
        """Bind the gradients that are there, and no other; returns their number of elements."""
        cdef Parameters parameters = self.parameters
        cdef Py_ssize_t i, elements = 0
        self.step_arrays = None
        parameters.bound = NULL
        for i in range(parameters.count):
            parameters.tensors[i].g = NULL
            if gradients[i] is not None:
                self.bind(parameters, i, gradients[i], False)
                elements += parameters.tensors[i].n
        return elements

    cdef int bind_one(self, Py_ssize_t i, object gradient, bint located=False) except -1:
        """Bind the gradient of one parameter alone."""
        self.step_arrays = None
        self.parameters.bound = NULL
        return self.bind(self.parameters, i, gradient, located)

    cdef int bind(self, Parameters parameters, Py_ssize_t i, object gradient, bint located) except -1:
        """Point descriptor i to a gradient, after checking all that can have changed since the last step.

        `located`: the parameter has just been found where its tensor lies, so that it need not be checked.
        """
        cdef fastopt_tensor *t = &parameters.tensors[i]
        cdef Entry *entry = &parameters.entries[i]
        cdef array_view g
        if gradient is None:
            t.g = NULL
            if t.step > 1 and (t.ema != NULL or t.swa != NULL):
                self.bind_parameter(i)
            return 0
        if not located and not parameters.is_unchanged(i, &entry.array, WRITABLE):
            return parameters.refuse_changed(i)
        if cnp.PyArray_CheckExact(gradient):
            describe_numpy(<cnp.ndarray>gradient, &g)
        elif not self.describe_other(i, gradient, &g):
            return 0
        if t.rows != NULL:
            t.rows = NULL
            t.n = entry.size
        if not same_shape(&g, &entry.array):
            return refuse_shape(parameters.gradient_of(i), &g, f"its parameter's shape {shape_of(&entry.array)}")
        if g.dtype != entry.g_dtype:
            if format_of(&g, computed_in(&entry.array)) < 0:
                if g.ndim == 0 and isinstance(gradient, np.ndarray) and gradient.dtype.kind in "iu" and not self.zeroing:
                    return self.bind(parameters, i, self.array_of_number(i, gradient[()]), located)
                return refuse_dtype(parameters.gradient_of(i), gradient, FORMATS)
            self.set_format(i, &g)
        if entry.direct and g.flags & FLAT == FLAT:
            t.layout = NULL
            if g.data != entry.g:
                parameters.check_clear(i, &g)
            t.g = entry.g = g.data
            return 0
        parameters.check_clear(i, &g)
        parameters.set_layout(i, &g)
        t.g = entry.g = g.data
        if t.layout != NULL:
            entry.g = NULL
            if t.last_step != NULL:
                return refuse_strides(parameters.gradient_of(i), &g, "be C-contiguous with catch_up")
        return 0

    cdef bint describe_other(self, Py_ssize_t i, object gradient, array_view *g) except -1:
        """Describe a gradient of another type; returns False for gradients of rows, which it binds."""
        cdef cnp.ndarray number
        if describe(gradient, g):
            return True
        if type(gradient) is RowGrad:
            self.bind_rows(i, <RowGrad>gradient)
            return False
        if is_sparse(gradient):
            self.bind_rows(i, rows_of(self.parameters.gradient_of(i), gradient))
            return False
        if self.parameters.entries[i].array.ndim != 0 or not is_number(gradient):
            refuse_type(self.parameters.gradient_of(i), gradient, "a numpy.ndarray, a tensor, a RowGrad or None")
        number = self.array_of_number(i, gradient)
        describe_numpy(number, g)
        return True

    cdef void set_format(self, Py_ssize_t i, const array_view *g) noexcept:
        """Set the format in which a gradient is read, from its dtype, which has one."""
        cdef Entry *entry = &self.parameters.entries[i]
        self.parameters.tensors[i].formats.g = <unsigned char>format_of(g, computed_in(&entry.array))
        self.parameters.dtype_changes += g.dtype != entry.g_dtype
        entry.g_dtype = g.dtype
        entry.g = NULL  # the check for overlaps was made for elements of another size

    cdef int keep(self, object arrays) except -1:
        """Keep arrays alive until the next step binds its gradients."""
        if self.step_arrays is None:
            self.step_arrays = []
        self.step_arrays.append(arrays)
        return 0

    cdef cnp.ndarray array_of_number(self, Py_ssize_t i, object gradient):
        """An array of one number, the gradient of a parameter without axes."""
        try:
            array = np.asarray(gradient if isinstance(gradient, np.floating) else float(gradient))
        except OverflowError:
            raise ValueError(f"{self.parameters.gradient_of(i)} must be a number that a float can hold, got"
                             f" {brief(gradient)}") from None
        self.keep(array)
        return array

    cdef int bind_parameter(self, Py_ssize_t i) except -1:
        """Prepare descriptor i for averages without a step; averages by row wait for the next step of their rows."""
        cdef fastopt_tensor *t = &self.parameters.tensors[i]
        self.parameters.check_unchanged(i, 0)
        t.rows = NULL
        t.n = self.parameters.entries[i].size
        if t.averaged_rows != NULL:
            t.round = 0
        else:
            self.parameters.set_layout(i, &self.parameters.entries[i].array)
        return 0

    cdef int bind_rows(self, Py_ssize_t i, RowGrad gradient) except -1:
        """Point descriptor i to gradients of rows; gradients of the same row are summed."""
        cdef fastopt_tensor *t = &self.parameters.tensors[i]
        cdef Entry *entry = &self.parameters.entries[i]
        cdef array_view view
        # The user may have changed the arrays of the gradient since it was made.
        cdef cnp.ndarray rows = np.ascontiguousarray(gradient.rows, np.int64), values = gradient.values
        cdef cnp.ndarray unique, addresses
        cdef Py_ssize_t length
        cdef tuple shape = shape_of(&entry.array), summed
        cdef str label = f"{self.parameters.owner}: {self.parameters.label(i)}"
        cdef str of_values = f"{self.parameters.owner}: values of the RowGrad of {self.parameters.label(i)}"
        if not entry.direct or entry.array.ndim < 1:
            raise ValueError(f"{label} must be C-contiguous with at least one axis to take a RowGrad, got shape {shape} and"
                             f" strides {strides_of(&entry.array)}")
        if not self.averages.takes_rows(i):
            why = "lookahead moves all of it" if t.slow != NULL else "this rule needs all of it"
            if self.averages.of(i).ema_schedule is not None:
                why = "averages of rows have no closed form with a schedule as ema_decay"
            raise ValueError(f"{self.parameters.gradient_of(i)} must be an array, since {why}, got a RowGrad")
        describe_numpy(values, &view)
        if view.ndim < 1 or view.shape[0] != len(rows):
            raise ValueError(f"{of_values} must have one entry for each of its {len(rows)} rows, got shape"
                             f" {shape_of(&view)}")
        if shape_of(&view)[1:] != shape[1:]:
            raise ValueError(f"{of_values} must have its parameter's shape per row {shape[1:]}, got {shape_of(&view)[1:]}")
        if format_of(&view, computed_in(&entry.array)) < 0:
            return refuse_dtype(of_values, values, FORMATS)
        self.parameters.check_clear(i, &view)
        if view.dtype != computed_in(&entry.array):
            values = converted(values, np.float64 if t.dtype == FASTOPT_FLOAT64 else np.float32)
            describe_numpy(values, &view)
        self.set_format(i, &view)
        length = entry.size // entry.shape[0] if entry.shape[0] else 0
        t.g = entry.g = NULL
        values = np.require(values, requirements=["C", "A"])
        if self.zeroing:
            values = values.copy()  # they may share memory with another gradient, which is set to zero
        summed = sum_rows(rows, values, length, entry.shape[0])
        if summed is None:
            raise ValueError(f"{self.parameters.owner}: rows of the RowGrad of {self.parameters.label(i)} must be >= 0 and <"
                             f" {entry.shape[0]}, as many as its parameter has, got"
                             f" {rows[(rows < 0) | (rows >= entry.shape[0])][0]}")
        self.averages.track_new_rows(i)
        self.keep((values, *summed))
        unique, addresses = summed[0], summed[1]
        t.layout = NULL
        t.rows = <const int64_t *>cnp.PyArray_DATA(unique)
        t.row_length = max(length, 1)
        t.row_count = entry.shape[0]
        t.row_gradients = <const void **>cnp.PyArray_DATA(addresses)
        t.n = cnp.PyArray_SIZE(unique) * length
        t.g = cnp.PyArray_DATA(values)
        return 0

    cdef int check_groups(self) except -1:
        """Raise where only some parameters of a group have a gradient and the rule makes one estimate for the group."""
        cdef fastopt_tensor *tensors = self.parameters.tensors
        cdef Py_ssize_t i, missing
        for i in range(1, self.parameters.count):
            if (tensors[i].rule.gathers == FASTOPT_BY_GROUP and tensors[i].hyper == tensors[i - 1].hyper
                    and (tensors[i].g == NULL) != (tensors[i - 1].g == NULL)):
                missing = i if tensors[i].g == NULL else i - 1
                raise ValueError(f"{self.parameters.gradient_of(missing)} must be given like those of its group, since"
                                 f" this rule makes one estimate for the group, got None")
        return 0

    # -- gradients that are set to zero --

    cdef bint has_whole_gradient(self, Py_ssize_t i) noexcept:
        return self.parameters.tensors[i].g != NULL and self.parameters.tensors[i].rows == NULL

    cdef int check_writable(self, Py_ssize_t i, object gradient) except -1:
        """Raise unless a gradient can be set to zero; gradients of rows stay as they are."""
        cdef array_view g
        if self.parameters.tensors[i].rows != NULL:
            return 0
        if not describe(gradient, &g):
            raise ValueError(f"{self.parameters.gradient_of(i)} must be an array to be set to zero, got {brief(gradient)}")
        if not g.flags & WRITABLE:
            return refuse_read_only(self.parameters.gradient_of(i), " to be set to zero")
        if self.parameters.tensors[i].layout != NULL and overlaps_itself(&g):
            return refuse_strides(self.parameters.gradient_of(i), &g, "not overlap itself to be set to zero")
        return 0

    cdef int check_zeroing(self, tuple gradients) except -1:
        """Raise unless every gradient can be set to zero without touching another one."""
        cdef Py_ssize_t i, count = self.parameters.count
        cdef Span *now = self.zeroed + count
        cdef array_view g
        for i in range(count):
            now[i] = Span(0, 0)
            if self.has_whole_gradient(i):
                self.check_writable(i, <object>PyTuple_GET_ITEM(gradients, i))
                describe(<object>PyTuple_GET_ITEM(gradients, i), &g)
                now[i] = span_of(&g)
        if memcmp(now, self.zeroed, count * sizeof(Span)) == 0:
            return 0
        memcpy(self.zeroed, now, count * sizeof(Span))
        qsort(now, count, sizeof(Span), by_address)
        for i in range(1, count):
            if now[i].low < now[i - 1].high:
                self.zeroed[0] = Span(1, 0)  # no gradient has this span, so the next call checks again
                used = [i for i in range(count) if self.has_whole_gradient(i)]
                check_disjoint(self.parameters.owner, [f"gradient of {self.parameters.label(i)}" for i in used],
                               [gradients[i] for i in used])
                return 0
        return 0

    cdef int set_to_zero(self, Py_ssize_t i, object gradient) except -1:
        """Set a gradient to zero after a skipped step, as a completed step does."""
        cdef array_view g
        if self.has_whole_gradient(i):
            describe(gradient, &g)
            as_bytes(&g).view(f"u{itemsize(&g)}")[...] = 0
        return 0
