# Averages of parameters (ema and swa) that no step updates.

cdef int64_t swa_samples(const fastopt_options *options, int64_t step) noexcept:
    """The number of values in swa after this many steps, counted from the first step."""
    return 0 if step < options.swa_start else (step - options.swa_start) // options.swa_every + 1


@cython.final
cdef class Averages:
    """The averages of an optimizer's parameters, and the last step that each includes.

    A step averages the parameters that have a gradient; this class averages the others, and those that are read. A
    parameter that has had a RowGrad has the last averaged step of each of its rows in `rounds`.
    """

    cdef Parameters parameters
    cdef Members members  # the tables whose averages these are, or None
    cdef tuple names  # of "ema", "swa" and "slow"
    cdef bint active  # whether there is ema or swa
    cdef object ema_schedule  # a function: completed steps -> ema_decay of the next step, or None
    cdef list rounds  # for each parameter an array with an entry per row, or None

    def __init__(self, Parameters parameters, tuple names, object ema_schedule):
        self.parameters = parameters
        self.names = names
        self.active = "ema" in names or "swa" in names
        self.ema_schedule = ema_schedule
        self.rounds = []

    cdef Averages of(self, Py_ssize_t i):
        """The averages of parameter i: these, or the averages of a member."""
        return self if self.members is None else self.members.table_of(i).averages

    cdef bint takes_rows(self, Py_ssize_t i):
        """Whether a parameter accepts gradients of rows."""
        cdef Parameters parameters = self.parameters
        if self.members is not None:
            return self.of(i).takes_rows(i - self.members.first_of(i))
        return parameters.entries[i].direct and parameters.entries[i].array.ndim > 0 \
            and parameters.tensors[i].slow == NULL and self.ema_schedule is None \
            and fastopt_rule_takes_rows(parameters.tensors[i].rule)

    cdef int track_rows(self, Py_ssize_t i, cnp.ndarray rounds) except -1:
        """Record for each row of a parameter the last step that its averages include."""
        cdef fastopt_tensor *t = &self.parameters.tensors[i]
        if self.members is not None:
            self.of(i).track_rows(i - self.members.first_of(i), rounds)
        else:
            self.rounds[i] = rounds
        t.averaged_rows = <int64_t *>cnp.PyArray_DATA(rounds)
        t.row_length = max(self.parameters.entries[i].size // max(len(rounds), 1), 1)
        return 0

    cdef int track_new_rows(self, Py_ssize_t i) except -1:
        """Begin to record rows of a parameter whose first RowGrad comes in this step."""
        cdef fastopt_tensor *t = &self.parameters.tensors[i]
        if (t.ema != NULL or t.swa != NULL) and (t.step == 1 or t.averaged_rows == NULL):
            self.track_rows(i, np.full(t.shape[0], -1 if t.step == 1 else t.averaged, np.int64))
        return 0

    cdef int begin_step(self, int64_t step, object ema_decay) except -1:
        """Set the number of this step for all parameters, and the scheduled ema_decay, if any."""
        cdef Py_ssize_t i
        for i in range(self.parameters.count if self.active else 0):
            self.parameters.tensors[i].round = step
            if ema_decay is not None:
                (<Settings>self.parameters.settings[i]).options.ema_decay = ema_decay
        return 0

    cdef int average_at_rest(self, Py_ssize_t first, Py_ssize_t count, int threads) except -1:
        """Update the averages of parameters without a gradient, from their values as they are."""
        cdef Py_ssize_t i, elements = 0
        cdef bint some = False
        cdef fastopt_tensor *tensors = self.parameters.tensors + first
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
            raise RuntimeError(f"{self.parameters.owner}: the C core refused to average with status {status}")
        return 0

    cdef int64_t begun(self, Py_ssize_t i) noexcept:
        """The steps of the optimizer before the first step of a parameter; 0 until then."""
        return self.parameters.tensors[i].begun if self.parameters.tensors[i].step > 1 else 0

    cdef object averaged_up_to(self, Py_ssize_t i):
        """The last step that the averages of a parameter include; an array by row where rows differ.

        It is below 0 for rows without a gradient so far, and 0 for a parameter without a step.
        """
        cdef fastopt_tensor *t = &self.parameters.tensors[i]
        if t.step == 1:
            return 0
        if t.averaged_rows == NULL:
            return t.averaged
        rounds = self.rounds[i]
        if not rounds.size or (rounds == rounds[0]).all():
            return int(rounds[0]) if rounds.size else t.averaged
        return rounds.copy()

    cdef int set(self, Py_ssize_t i, int64_t begun, object up_to) except -1:
        """Set the values that `begun` and `averaged_up_to` return."""
        self.parameters.tensors[i].begun = begun
        self.parameters.tensors[i].averaged_rows = NULL
        self.rounds[i] = None
        if type(up_to) is int:
            self.parameters.tensors[i].averaged = up_to
        else:
            self.track_rows(i, up_to)
        return 0

    cdef object read(self, Table table, Py_ssize_t i, str name, object buffer, double ema_decay):
        """An average of a parameter after all steps of its table: its buffer, or a new array if the buffer lacks steps.

        Without a step, or without a value for swa, the average is a copy of the parameter.  ema_decay is its value in the
        last step.
        """
        cdef int64_t step_count = table.step_count
        cdef fastopt_tensor t = self.parameters.tensors[i]
        cdef fastopt_options options = t.options[0]
        cdef fastopt_layout layout
        cdef cnp.ndarray result, rounds
        if t.step == 1 or (name == "swa" and swa_samples(&options, t.begun) == swa_samples(&options, step_count)):
            return self.parameters.arrays[i].copy()
        if np.all(self.averaged_up_to(i) >= step_count):
            return buffer
        table.check_own(self.parameters.owner)
        self.parameters.check_unchanged(i, 0)
        result = buffer.copy(order="K")
        options.ema_decay = ema_decay
        t.options = &options
        t.g = NULL
        t.rows = NULL
        t.n = self.parameters.entries[i].size
        t.round = step_count
        t.layout = &layout if self.parameters.describe_walk(i, &self.parameters.entries[i].array, &layout) else NULL
        t.ema = cnp.PyArray_DATA(result) if name == "ema" else NULL
        t.swa = cnp.PyArray_DATA(result) if name == "swa" else NULL
        t.slow = NULL
        if t.averaged_rows != NULL:
            rounds = self.rounds[i].copy()
            t.averaged_rows = <int64_t *>cnp.PyArray_DATA(rounds)
        fastopt_average(&t, 1, table.runner.threads())
        return result
