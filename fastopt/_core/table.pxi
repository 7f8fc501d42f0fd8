# An optimizer as the C core sees it, and its step.

@cython.final
cdef class Table:
    """The parameters, state and settings of one optimizer, and its step.

    Messages begin with `owner`, such as "Adam.step".

    Parameters
    ----------
    owner : str
        The method that messages name.
    averages : tuple of str
        The averages of the parameters, of "ema", "swa" and "slow".
    ema_schedule : callable or None
        A scheduled ema_decay: completed steps -> its value in the next step, checked.
    """

    cdef StepLock lock
    cdef Parameters parameters
    cdef GradientStructure structure
    cdef Averages averages
    cdef Binder binder
    cdef readonly StepRunner runner
    cdef Members members  # the tables that step as one in this table, or None
    cdef readonly list containers  # the containers of the user that hold the parameters, as in nest.py
    cdef tuple bound  # the gradients of a step without arguments, or None
    cdef list bound_containers  # the containers of these gradients
    cdef bint unbound  # whether gradients were bound before parameters were added
    cdef bint has_gather_hook  # whether this table or a member has a gather_hook
    cdef object gather_hook  # a weak reference to the function to call between GATHER and UPDATE, or None
    cdef readonly int64_t step_count
    cdef int64_t schedule_step  # the count of steps at which this step reads schedules
    cdef readonly dict schedules  # Settings: function from completed steps to the arguments of Settings.set
    cdef bint is_scheduled  # whether there are any
    cdef public object swapped  # the name of the average that the parameters hold now, or None

    def __init__(self, str owner, tuple averages, object ema_schedule):
        self.lock = StepLock(owner)
        self.parameters = Parameters(owner)
        self.structure = GradientStructure(owner)
        self.averages = Averages(self.parameters, averages, ema_schedule)
        self.binder = Binder(self.parameters, self.averages)
        self.runner = StepRunner(self.parameters)
        self.containers = []
        self.schedules = {}

    def append(self, list names, list arrays, list settings, list state, list formats, list orders, list carry,
               list last_steps, list structure, bint grouped, list arenas, list containers):
        """Append the parameters of further groups; those of the other groups keep their state and counts.

        The caller holds the lock, except in the first call. Bound gradients are dropped: their structure has changed.

        Parameters
        ----------
        names, arrays, settings, state, formats, orders, carry, last_steps : list
            For each parameter: its name; the array; its group's `Settings`; its state arrays in the order of the rule, then
            of the averages (each contiguous in the parameter's walk order); their formats, or None if all are native; the
            order of axes in which it is walked; its float64 array of carried numbers; with catch_up the int64 array of the
            last step of each row, else None.
        structure : list
            The structure of each group, as in nest.py.
        grouped : bool
            Whether gradients come as a sequence with one entry per group.
        arenas : list of numpy.ndarray
            The memory of the state, which gradients must not share.
        containers : list
            The containers of the user that hold the parameters, as in nest.py: a step raises if one holds another array.
        """
        self.parameters.append(names, arrays, settings, state, formats, orders, carry, last_steps, self.averages.names,
                               arenas)
        self.structure.append(names, structure, grouped)
        self.averages.rounds += [None] * len(arrays)
        self.binder.grow()
        self.runner.forget_timings()
        self.containers = self.containers + containers
        self.unbound = self.bound is not None
        self.bound = None

    @staticmethod
    def joined(str owner, list names, tuple tables):
        """A table that steps all parameters of these tables in one call."""
        cdef Table table = Table(owner, (), None)
        cdef Parameters own
        cdef list arrays = [], settings = [], state = [], formats = [], orders = [], carry = []
        cdef list last_steps = [], arenas = []
        for one in tables:
            own = (<Table>one).parameters
            arrays += own.arrays
            settings += own.settings
            state += own.state
            formats += own.formats
            orders += own.orders()
            carry += own.carry
            last_steps += own.last_steps
            arenas += own.state_memory
        table.append(names, arrays, settings, state, formats, orders, carry, last_steps, [], True, arenas, [])
        table.structure.use_parts(tuple([(<Table>one).structure for one in tables]))
        table.members = table.averages.members = Members(tables)
        table.averages.active = any([(<Table>one).averages.active for one in tables])
        table.has_gather_hook = any([(<Table>one).has_gather_hook for one in tables])
        return table

    def joins(self, list tables):
        """Whether these are the members, and none has got further parameters since."""
        return self.members.match(tables)

    def set_gather_hook(self, function):
        """Call the function of this weak reference between the GATHER and the UPDATE of each step."""
        self.gather_hook = function
        self.has_gather_hook = True

    # -- the lock --

    cdef int acquire(self) except -1:
        """Wait for the lock, and for the locks of the members."""
        return self.lock.acquire() if self.members is None else self.acquire_all()

    cdef int acquire_all(self) except -1:
        self.members.check_not_held()  # before waiting: another thread may hold this lock and wait for a member
        self.lock.acquire()
        try:
            self.members.acquire()
            try:
                self.members.read_arrays(self.parameters)
            except BaseException:
                self.members.release()
                raise
        except BaseException:
            self.lock.release()
            raise
        self.step_count = self.members.step_count()
        return 0

    cdef void release(self) noexcept:
        if self.members is not None:
            self.members.release()
        self.lock.release()

    def __enter__(self):
        """Take the lock for reading.

        A thread that already holds the lock may read too, for example in a signal handler that saves: a step writes only
        while no Python code can run, or within a HalfStep.
        """
        if not self.lock.reads_again():
            self.acquire()

    def __exit__(self, *error):
        if not self.lock.ends_reading():
            self.release()

    def check_not_held(self):
        """Raise RuntimeError where this thread holds the lock."""
        self.lock.check_not_held()

    # -- checks of the containers and parameters of the user --

    def check_own(self, str label):
        """Raise ValueError while the parameters, here or in a member, hold an average."""
        if self.members is not None:
            for member in self.members.tables:
                (<Table>member).check_own(label)
        if self.swapped is not None:
            raise ValueError(f"{label} must wait until the parameters are back, but swapped({self.swapped!r}) has put an"
                             f" average in their place")

    cpdef int check_containers(self, str owner) except -1:
        """Raise ValueError if a container holds another array than the optimizer."""
        cdef tuple changed
        if self.members is not None:
            for member in self.members.tables:
                (<Table>member).check_containers(owner)
        changed = changed_container(self.containers)
        if changed is None:
            return 0
        container, keys, values, names = changed
        others = [name for key, value, name in zip(keys, values, names) if not still_holds(container, (key,), (value,))]
        label = self.parameters.label(self.parameters.names.index(others[0] if others else names[0]))
        raise ValueError(f"{owner}: {label} must stay the array that the optimizer updates, but the {type_name(container)}"
                         f" that it came in no longer holds it: assign to the array in place, or call rebind() with the"
                         f" new arrays")

    def rebind(self, str owner, list arrays, list groups, list plain, list containers, list lows):
        """Replace the parameters by these arrays, which the caller has checked.

        `groups` are pairs of a group and its arrays; `plain`, the list of NumPy arrays of the optimizer, is updated.
        `lows` has the low bits of each parameter, or None; those of elements that change become 0.
        """
        cdef Py_ssize_t i
        cdef array_view view
        cdef list cleared = []
        self.acquire()
        try:
            self.check_own(owner)
            if len(arrays) != self.parameters.count:
                raise RuntimeError(f"{owner}: no parameters must be added while a call begins, but another thread has added"
                                   f" some")
            for i, array in enumerate(arrays):
                label = f"{owner}: {self.parameters.label(i)}"
                if self.averages.rounds[i] is not None and not (array.flags.c_contiguous and array.flags.aligned):
                    raise ValueError(f"{label} must be C-contiguous, since its averages are kept by row, got"
                                     f" strides {array.strides} for shape {array.shape}")
                describe_numpy(array, &view)
                if overlaps_any(&view, self.parameters.state_memory):
                    raise ValueError(f"{label} must not share memory with the optimizer's state")
                if overlaps_any(&view, [g.values if type(g) is RowGrad else g for g in self.bound or ()]):
                    raise ValueError(f"{label} must not share memory with a bound gradient")
            of_numpy = [np.asarray(array) for array in arrays]
            for before, now, low in zip(plain, of_numpy, lows):
                if low is not None:
                    fits = before.shape == now.shape  # whatever has been done to the array since
                    cleared.append((low, before.view(np.uint16) != now.view(np.uint16) if fits else True))
            self.parameters.rebind(tuple(arrays))
            self.containers = containers
            plain[:] = of_numpy
            for low, others in cleared:
                low[others] = 0
            for group, of_group in groups:
                dict.__setitem__(group, "params", of_group)
        finally:
            self.release()

    # -- the step --

    def bind(self, grads):
        """Bind gradients: steps without arguments use these arrays."""
        cdef tuple flat = self.structure.flatten(grads)
        cdef list containers = []
        self.acquire()
        try:
            self.binder.bind_all(flat)
            find_containers(grads, 0, containers)
            self.bound = flat
            self.bound_containers = containers
        finally:
            self.release()

    cdef tuple bound_gradients(self):
        """The bound gradients, which must still be in their containers."""
        cdef tuple changed
        if self.bound is None:
            again = " (again, after parameters were added)" if self.unbound else ""
            raise TypeError(f"{self.parameters.owner}: gradients must be given, or bound once with bind(){again}, got none")
        changed = changed_container(self.bound_containers)
        if changed is not None:
            raise ValueError(f"{self.parameters.owner}: gradients that are bound must stay where they were, but the"
                             f" {type_name(changed[0])} that they came in holds another one now: assign to it in place, or"
                             f" call bind() again")
        return self.bound

    def step(self, grads):
        """Check everything, then update all parameters."""
        self.make_step(grads, None, None, False)

    def step_with(self, grads, dict changes, Accumulator accumulated=None, bint mean=True):
        """Make a step with options for it alone, which the caller has checked; returns False for a skipped step.

        With `accumulated`, the gradients are its sums, or their mean, and it is empty afterwards.
        """
        return self.make_step(grads, changes, accumulated, mean)

    cdef bint make_step(self, grads, dict changes, Accumulator accumulated, bint mean) except -1:
        cdef tuple flat
        if accumulated is not None:
            flat = None
        elif grads is None:
            flat = self.bound_gradients()
        else:
            flat = self.structure.flatten(grads)
        return self.make_step_of(flat, changes, accumulated, mean)

    def flatten(self, grads):
        """Gradients in the order of the parameters, from the structure of these."""
        return self.structure.flatten(grads)

    def check_gradients(self, tuple flat):
        """Raise unless these gradients, in the order of the parameters, fit."""
        self.acquire()
        try:
            self.binder.bind_all(flat)
        finally:
            self.release()

    def step_flat(self, tuple flat, dict changes=None, bint located=False, double divisor=1):
        """A step with gradients in the order of the parameters, divided by `divisor`; returns whether it was made.

        `located`: they are from `gradients_of`, which has found each parameter where its tensor lies.
        """
        return self.make_step_of(flat, changes, None, False, located, divisor)

    cdef bint make_step_of(self, tuple flat, dict changes, Accumulator accumulated, bint mean, bint located=False,
                           double divisor=1) except -1:
        if self.members is not None or (PyList_GET_SIZE(self.containers)
                                        and changed_container(self.containers) is not None):
            self.check_containers(self.parameters.owner)
        self.acquire()
        try:
            if accumulated is None:
                return self.step_all(flat, changes, divisor, located)
            accumulated.sums.acquire()
            try:
                return accumulated.use(changes, mean)
            finally:
                accumulated.sums.release()
        finally:
            self.release()

    def gradients_of(self, tuple tensors, tuple gradients=None, tuple counters=None):
        """The gradients of tensors in whose memory the parameters lie, and the tensors that have one.

        Each gradient is the tensor's `grad` unless `gradients` are given. If `counters` are given, each of which shares the
        version counter of a tensor, they are returned instead of the tensors. Returns None if a tensor has moved to other
        memory, or is another tensor than in the last call with counters.
        """
        cdef Parameters parameters = self.parameters
        cdef Py_ssize_t i, count = parameters.count
        cdef tuple found, changed = tensors if counters is None else counters
        cdef bint all_have_one = True
        if PyTuple_GET_SIZE(tensors) != count:
            return None
        found = PyTuple_New(count)
        for i in range(count):
            tensor = <object>PyTuple_GET_ITEM(tensors, i)
            if not (parameters.lies_in(i, tensor) if counters is None else parameters.is_still(i, tensor)):
                return None
            gradient = grad_of(tensor) if gradients is None else gradients[i]
            all_have_one = all_have_one and gradient is not None
            Py_INCREF(gradient)
            PyTuple_SET_ITEM(found, i, gradient)
        if all_have_one:
            return found, changed
        return found, tuple([one for one, gradient in zip(changed, found) if gradient is not None])

    cdef int prepare(self, fastopt_call *call, dict changes, int64_t step_count, double divisor=1) except -1:
        """Set the options of the step that follows this many.  Gradients are also divided by `divisor`."""
        if self.swapped is not None or self.members is not None:
            self.check_own(self.parameters.owner)
        self.runner.prepare(call, changes, step_count)
        if divisor != 1:
            call.grad_scale = divisor * (call.grad_scale if call.grad_scale else 1)
        self.binder.zeroing = call.zero_grads
        return 0

    cdef bint step_all(self, tuple flat, dict changes, double divisor, bint located=False) except -1:
        """Make the step; the caller holds the lock.  Gradients are also divided by `divisor`."""
        cdef fastopt_call call
        cdef Parameters parameters = self.parameters
        cdef Binder binder = self.binder
        cdef Py_ssize_t i, elements
        cdef Table member
        self.prepare(&call, changes, self.step_count, divisor)
        self.follow_schedules(self.step_count)
        if self.members is not None:
            self.members.read_descriptors(parameters)
        if call.clip_norm:
            self.runner.set_clip_groups()
        elements = binder.bind_all(flat, located)
        if parameters.estimates_groups:
            binder.check_groups()
        if call.zero_grads:
            binder.check_zeroing(flat)
        if not (self.run_with_hooks(&call, 0, parameters.count, elements) if self.has_gather_hook
                else self.runner.run(&call, 0, parameters.count, elements)):
            for i in range(parameters.count if call.zero_grads else 0):
                binder.set_to_zero(i, <object>PyTuple_GET_ITEM(flat, i))
            return False
        if self.averages.active:
            self.averages.average_at_rest(0, parameters.count, self.runner.chosen_threads())
        self.count_steps(0, parameters.count)
        self.step_count += 1
        if self.members is not None:
            for member in self.members.tables:
                member.step_count += 1
        return True

    def step_one(self, name, gradient, dict changes=None):
        """Step one parameter; its count of steps may be one ahead of the optimizer's."""
        cdef fastopt_call call
        cdef Parameters parameters = self.parameters
        cdef fastopt_tensor *t
        cdef Py_ssize_t i
        cdef int64_t step_count
        cdef Table table
        if name not in parameters.names:
            raise ValueError(f"{parameters.owner}_one: name must be the name of a parameter, got {brief(name)}")
        i = parameters.names.index(name)
        if self.members is not None or self.containers:
            self.check_containers(f"{parameters.owner}_one")
        self.acquire()
        try:
            # Once some parameters have made this step, step_count is one ahead of the others.
            table = self.table_of(i)
            self.read_descriptors()
            t = &parameters.tensors[i]
            step_count = max(t.step - 1, table.step_count - 1)
            self.prepare(&call, changes, step_count)
            if call.clip_norm and self.runner.norm_per != "parameter":
                raise ValueError(f"{parameters.owner}_one: clip_norm must be None, since the norm of all gradients"
                                 f" (clip_norm_per={self.runner.norm_per!r}) needs all of them, got"
                                 f" {call.clip_norm!r}")
            if t.rule.gathers == FASTOPT_BY_GROUP:
                raise ValueError(f"{parameters.owner}_one: this rule needs the gradients of all parameters at once")
            table.follow_schedules(step_count)
            self.read_descriptors()
            self.binder.bind_one(i, gradient)
            if t.g == NULL:
                if self.averages.active:
                    self.averages.average_at_rest(i, 1, self.runner.chosen_threads())
                    self.count_steps(i, 1)
                return True
            if not self.step_bound(&call, i, gradient, table.has_gather_hook):
                return False
            table.step_count = max(table.step_count, t.step - 1)
            self.step_count = max(self.step_count, table.step_count)
            return True
        finally:
            self.release()

    cdef bint step_bound(self, fastopt_call *call, Py_ssize_t i, gradient, bint has_gather_hook) except -1:
        """Step one parameter, to which its gradient is bound; returns whether the step was made."""
        cdef Py_ssize_t elements = self.parameters.tensors[i].n
        if call.zero_grads:
            self.binder.check_writable(i, gradient)
        if not (self.run_with_hooks(call, i, 1, elements) if has_gather_hook else self.runner.run(call, i, 1, elements)):
            if call.zero_grads:
                self.binder.set_to_zero(i, gradient)
            return False
        self.count_steps(i, 1)
        return True

    # -- a step in parts: begin_parts(); step_part() for each parameter that has a gradient, or step_parts() for several;
    # end_parts() --

    def begin_parts(self):
        """Set the hyperparameters of the coming step."""
        self.acquire()
        try:
            self.check_own(self.parameters.owner)
            self.follow_schedules(self.step_count)
        finally:
            self.release()

    def step_part(self, Py_ssize_t i, tensor):
        """Make the part of parameter i, which lies in this tensor, of the coming step, with the gradient of the tensor.

        Returns False if the tensor has moved to other memory.
        """
        cdef fastopt_call call
        if not self.parameters.lies_in(i, tensor):
            return False
        self.acquire()
        try:
            self.prepare(&call, None, self.step_count)
            gradient = tensor.grad
            self.binder.bind_one(i, gradient, True)
            self.step_bound(&call, i, gradient, self.has_gather_hook)
            return True
        finally:
            self.release()

    def step_parts(self, tuple flat, dict changes, double divisor):
        """Make the parts of the coming step of the parameters that have a gradient here, which is not None.

        The options must need no other gradient.  Arguments are as in `step_flat`.
        """
        cdef fastopt_call call
        cdef Py_ssize_t elements
        self.acquire()
        try:
            self.prepare(&call, changes, self.step_count, divisor)
            elements = self.binder.bind_some(flat)
            self.runner.run(&call, 0, self.parameters.count, elements)
            self.count_steps(0, self.parameters.count)
        finally:
            self.release()

    def end_parts(self):
        """Count the step, and update the averages of the parameters that had no part in it."""
        cdef Py_ssize_t i, count = self.parameters.count
        self.acquire()
        try:
            self.check_own(self.parameters.owner)
            if self.averages.active:
                for i in range(count):
                    self.binder.bind_one(i, None)
                self.averages.average_at_rest(0, count, self.runner.chosen_threads())
            self.step_count += 1
        finally:
            self.release()

    @property
    def estimates_groups(self):
        """Whether a rule makes one estimate of all parameters of a group, and so needs all of their gradients at once."""
        return self.parameters.estimates_groups

    cdef bint run_with_hooks(self, fastopt_call *call, Py_ssize_t first, Py_ssize_t count, Py_ssize_t elements) except -1:
        """Make a step as a GATHER, the hooks and an UPDATE; returns whether it was made."""
        call.part = FASTOPT_GATHER
        if not self.runner.run(call, first, count, elements):
            return False
        with HalfStep(self.runner.has_changed(first, count)):
            self.call_hooks(first, first + count)
        call.part = FASTOPT_UPDATE
        return self.runner.run(call, first, count, elements)

    cdef int call_hooks(self, Py_ssize_t first, Py_ssize_t end) except -1:
        """Call the hooks of this table and of its members, with their parameters that have a gradient."""
        cdef Py_ssize_t i, k, begin
        cdef Table member
        if self.gather_hook is not None:
            used = [i for i in range(first, end) if self.parameters.tensors[i].g != NULL]
            if used:
                self.gather_hook()(used, self.schedule_step)
        for k in range(len(self.members.tables) if self.members is not None else 0):
            member = self.members.tables[k]
            begin = self.members.firsts[k]
            if member.has_gather_hook:
                used = [i - begin for i in range(max(first, begin), min(end, begin + member.parameters.count))
                        if self.parameters.tensors[i].g != NULL]
                if used:
                    member.gather_hook()(used, member.schedule_step)
        return 0

    cdef int count_steps(self, Py_ssize_t first, Py_ssize_t count) except -1:
        """Count a step of the parameters that have a gradient, here and in the members."""
        self.parameters.count_steps(first, count)
        return 0 if self.members is None else self.members.write_descriptors(self.parameters, first, count)

    cdef Table table_of(self, Py_ssize_t i):
        """The table that keeps the count and the schedules of a parameter: this one, or a member."""
        return self if self.members is None else self.members.table_of(i)

    cdef int read_descriptors(self) except -1:
        return 0 if self.members is None else self.members.read_descriptors(self.parameters)

    # -- hyperparameters --

    cdef int follow_schedules(self, int64_t step_count) except -1:
        """Set all scheduled values, after checking all of them."""
        self.schedule_step = step_count
        return self.set_scheduled() if self.is_scheduled or self.averages.active or self.members is not None else 0

    cdef int set_scheduled(self) except -1:
        cdef Table table
        cdef tuple tables = (self,) if self.members is None else self.members.tables
        cdef list values = [], decays = []
        for table in tables:
            if self.members is not None:
                table.schedule_step = table.step_count
            values += [(table, settings, schedule(table.schedule_step))
                       for settings, schedule in list(table.schedules.items())]
        for table in tables:
            ema_schedule = table.averages.ema_schedule
            decays.append(None if ema_schedule is None else ema_schedule(table.schedule_step))
        for table, settings, (hyper, options) in values:
            table.parameters.change(<Settings>settings, <dict>hyper, <dict>options)
        for table, decay in zip(tables, decays):
            table.averages.begin_step(table.schedule_step + 1, decay)
        return 0

    def adopt(self, list changes):
        """Set hyperparameters of groups, which the caller has checked.

        Each change is a group, its entries except "params", the tuple of its `Settings`, and either a function from
        completed steps to the arguments of `Settings.set`, or None; then these arguments.
        """
        for group, hyper, of_group, schedule, arguments in changes:
            for key in [key for key in group if key not in hyper and key != "params"]:
                dict.pop(group, key)
            dict.update(group, hyper)
            for settings in of_group:
                if schedule is None:
                    self.parameters.change(<Settings>settings, <dict>arguments[0], <dict>arguments[1])
                    self.schedules.pop(settings, None)
                else:
                    self.schedules[settings] = schedule
        self.is_scheduled = bool(self.schedules)

    # -- rows that catch up on missed steps --

    @property
    def catches_up(self):
        """Whether rows catch up on steps that they have missed."""
        return self.parameters.catches_up

    def catch_up(self):
        """Let all rows catch up on the steps that they have missed."""
        self.check_containers(self.parameters.owner)
        self.acquire()
        try:
            self.catch_up_locked()
        finally:
            self.release()

    def catch_up_locked(self):
        """The same for a caller that holds the lock."""
        cdef Parameters parameters = self.parameters
        cdef Py_ssize_t i
        cdef int threads = self.runner.threads()
        cdef fastopt_status status
        self.follow_schedules(self.step_count)  # sets all hyperparameters of groups, also after a load
        parameters.bound = NULL
        for i in range(parameters.count):
            parameters.tensors[i].g = NULL
            parameters.entries[i].g = NULL
            if parameters.tensors[i].last_step != NULL:
                parameters.check_unchanged(i, WRITABLE)
                parameters.tensors[i].g = parameters.tensors[i].p
                parameters.tensors[i].rows = NULL
                parameters.tensors[i].layout = NULL
                parameters.tensors[i].n = parameters.entries[i].size
        with nogil:
            status = fastopt_catch_up(parameters.tensors, parameters.count, threads)
        if status != FASTOPT_OK:
            raise RuntimeError(f"{parameters.owner}: the C core refused to catch up with status {status}")

    # -- reading and loading --

    def steps(self):
        """The number of steps of each parameter."""
        return self.parameters.steps()

    def decays(self):
        """For each parameter, by name, the decays that bias corrections use, as dicts; none before its first step."""
        return self.parameters.decays()

    def set_parts(self, list offsets, list sizes, sum_parts):
        """Declare that the parameters are parts of whole parameters.

        Parameters
        ----------
        offsets, sizes : list of int
            For each parameter: the index of its first element in the whole parameter, and the size of the whole parameter.
        sum_parts : callable or None
            Adds up a float64 array over the processes, in place: row i over the processes with parts of parameter i.  All
            processes call it in the same steps.  None if all parameters are whole.
        """
        cdef Py_ssize_t i
        self.acquire()
        try:
            for i in range(self.parameters.count):
                self.parameters.tensors[i].offset = offsets[i]
                self.parameters.tensors[i].whole_n = sizes[i]
            self.runner.sum_parts = sum_parts
        finally:
            self.release()

    def takes_rows(self, Py_ssize_t i):
        """Whether a parameter accepts gradients of rows."""
        return self.averages.takes_rows(i)

    def begun(self, Py_ssize_t i):
        """The steps of the optimizer before the first step of a parameter; 0 until then."""
        return self.averages.begun(i)

    def averaged_up_to(self, Py_ssize_t i):
        """The last step that the averages of a parameter include; an array by row where rows differ."""
        return self.averages.averaged_up_to(i)

    def average(self, Py_ssize_t i, str name, buffer, double ema_decay):
        """An average of a parameter after all steps so far; ema_decay is its value in the last step."""
        return self.averages.read(self, i, name, buffer, ema_decay)

    def load(self, list steps, list averaged, int64_t step_count, list changes, list values, list decays):
        """Set counts of steps, hyperparameters, arrays and `decays`, which the caller, who holds the lock, has checked.

        `averaged` has for each parameter the values of `begun` and `averaged_up_to`, the latter as a copy of its own.  No
        Python code runs meanwhile, so that nothing can interrupt it.
        """
        cdef Py_ssize_t i
        self.adopt(changes)
        self.parameters.load(steps, decays)
        for i in range(self.parameters.count):
            begun, up_to = averaged[i]
            self.averages.set(i, begun, up_to)
        self.step_count = step_count
        for array, value in values:
            array[...] = value

    def traffic(self, Py_ssize_t i, cnp.ndarray g, int num_threads):
        """Move the bytes of a step of a contiguous parameter, without the rule; this overwrites all its arrays."""
        self.binder.bind_one(i, g)
        if self.parameters.tensors[i].layout != NULL:
            raise ValueError(f"{self.parameters.owner}: {self.parameters.label(i)} and its gradient must be contiguous")
        with nogil:
            fastopt_traffic(&self.parameters.tensors[i], num_threads)
