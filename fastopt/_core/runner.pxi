# The call of the C core that makes a step: its options, its threads, sums over processes, and skipped steps.

cdef int call_sum_parts(void *data, double *values, Py_ssize_t columns) noexcept with gil:
    """Add up sums over processes, for the C core; an error is raised once the call of the C core has returned."""
    cdef StepRunner runner = <StepRunner>data
    try:
        runner.add_parts(values, columns)
        return True
    except BaseException as error:
        runner.error = error
        return False


@cython.final
cdef class StepRunner:
    """Makes steps of parameters whose gradients are bound, with the options of their optimizer."""

    cdef Parameters parameters
    cdef public bint check_finite, skip_nonfinite
    cdef public int64_t max_skips  # the largest number of skipped steps in a row; 0: no limit
    cdef public int num_threads  # 0: chosen from the time of steps
    cdef public double grad_scale, clip_norm, clip_value  # 0: none
    cdef public object clip_schedule  # a function: completed steps -> clip_norm, or None
    cdef str norm_per  # clip_norm_per: the norm is taken over "all", each "group" or each "parameter"
    cdef bint has_norms  # whether it is not "all"
    cdef public list group_of  # the number of each parameter's group
    cdef public bint zero_grads
    cdef public int64_t skipped_steps
    cdef bint clipped  # whether the last step had clip_norm; then
    cdef double norm   # the norm of its gradients, before clipping
    cdef fastopt_tuner tuners[2]  # of whole steps and UPDATEs, and of GATHERs
    cdef object sum_parts  # adds up a float64 array over processes, in place: row i over the parts of parameter i;
    # None where this process has all of each parameter
    cdef Py_ssize_t first, stepped  # the parameters of the present call of the C core
    cdef object error  # of sum_parts in this call
    cdef fastopt_tuner *of_each  # the same for each parameter stepped by itself, once one has been; else NULL

    def __init__(self, Parameters parameters):
        self.parameters = parameters

    def __dealloc__(self):
        free(self.of_each)

    @property
    def clip_norm_per(self):
        """The gradients that share a norm: "all", "group" or "parameter"."""
        return self.norm_per

    @clip_norm_per.setter
    def clip_norm_per(self, str value):
        self.norm_per = value
        self.has_norms = value != "all"

    @property
    def grad_norm(self):
        """The norm of the last step with clip_norm, before clipping, or None."""
        return self.norm if self.clipped else None

    cdef void forget_timings(self) noexcept:
        memset(self.tuners, 0, sizeof(self.tuners))
        free(self.of_each)
        self.of_each = NULL

    cdef inline int threads(self) noexcept nogil:
        return self.num_threads if self.num_threads else default_threads

    cdef int chosen_threads(self) noexcept:
        """The number of threads in use: given, chosen by the tuner, or the default."""
        return self.num_threads or self.tuners[0].threads or default_threads

    def grad_norms(self):
        """The norm by which the gradient of each parameter was last clipped."""
        cdef Py_ssize_t i
        return [self.parameters.entries[i].grad_norm for i in range(self.parameters.count)]

    def skips(self, list counts=None):
        """The number of steps in a row that each parameter has skipped; sets these counts if they are given."""
        cdef Py_ssize_t i
        if counts is not None:
            for i in range(self.parameters.count):
                self.parameters.entries[i].skips = counts[i]
        return [self.parameters.entries[i].skips for i in range(self.parameters.count)]

    cdef void set_options(self, fastopt_call *call) noexcept nogil:
        """Set the options of the optimizer."""
        call.num_threads = self.threads()
        call.check_finite = self.check_finite
        call.grad_scale = self.grad_scale
        call.clip_norm = self.clip_norm
        call.clip_value = self.clip_value
        call.zero_grads = self.zero_grads
        call.part = FASTOPT_ALL
        call.sum_parts = NULL

    cdef int prepare(self, fastopt_call *call, dict changes, int64_t step_count) except -1:
        """Set the options of the next step: the options of the optimizer, and the changes for this step."""
        self.set_options(call)
        if changes is not None:
            call.grad_scale = changes.get("grad_scale", call.grad_scale)
            call.clip_norm = changes.get("clip_norm", call.clip_norm)
            call.clip_value = changes.get("clip_value", call.clip_value)
            call.zero_grads = changes.get("zero_grads", call.zero_grads)
        if self.clip_schedule is not None and (changes is None or "clip_norm" not in changes):
            call.clip_norm = self.clip_schedule(step_count)
        return 0

    cdef void set_clip_groups(self) noexcept:
        """Set the clip group of each descriptor; another table may have set another one."""
        cdef Py_ssize_t i
        cdef bint per_group = self.norm_per == "group", per_parameter = self.norm_per == "parameter"
        for i in range(self.parameters.count):
            self.parameters.tensors[i].clip_group = self.group_of[i] if per_group else i if per_parameter else 0

    cdef fastopt_tuner *tuner_of(self, Py_ssize_t first, Py_ssize_t count, bint is_gathering) except? NULL:
        """The tuner of steps of these parameters: all, or one by itself."""
        if self.num_threads:
            return NULL
        if count == self.parameters.count:
            return &self.tuners[is_gathering]
        if self.of_each == NULL:
            self.of_each = <fastopt_tuner *>calloc(2 * self.parameters.count, sizeof(fastopt_tuner))
            if self.of_each == NULL:
                raise MemoryError
        return &self.of_each[2 * first + is_gathering]

    cdef fastopt_status call_core(self, fastopt_call *call, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
        """Make the call; unless it has failed, record its norms and, after a step, that none is skipped."""
        cdef fastopt_tensor *tensors = self.parameters.tensors
        cdef Entry *entries = self.parameters.entries
        cdef Py_ssize_t i
        cdef fastopt_status status = fastopt_step_with(tensors + first, count, call)
        if status != FASTOPT_OK and status != FASTOPT_NONFINITE:
            return status
        self.clipped = call.clip_norm != 0
        self.norm = call.grad_norm
        if self.clipped and self.has_norms:
            for i in range(first, first + count):
                entries[i].grad_norm = tensors[i].grad_norm
        if self.max_skips and status == FASTOPT_OK:
            for i in range(first, first + count):
                entries[i].skips = 0
        return status

    cdef bint run(self, fastopt_call *call, Py_ssize_t first, Py_ssize_t count, Py_ssize_t elements) except -1:
        """Make the call; returns whether the step was made."""
        cdef fastopt_status status
        if self.sum_parts is not None:
            call.sum_parts = call_sum_parts
            call.data = <void *>self
        self.first, self.stepped = first, count
        call.tuner = self.tuner_of(first, count, call.part == FASTOPT_GATHER)
        if elements < KEEP_GIL_BELOW:
            status = self.call_core(call, first, count)
        else:
            with nogil:
                status = self.call_core(call, first, count)
        if status == FASTOPT_NOT_SUMMED:
            error, self.error = self.error, None
            raise error
        if status == FASTOPT_NONFINITE:
            self.skip(first, count)
            return False
        if status == FASTOPT_NO_MEMORY:
            raise MemoryError
        if status != FASTOPT_OK:
            raise RuntimeError(f"{self.parameters.owner}: the C core refused the step with status {status}")
        return True

    cdef bint has_changed(self, Py_ssize_t first, Py_ssize_t count) noexcept:
        """Whether the first pass of a step of these parameters has changed their state before the last one begins."""
        cdef fastopt_tensor *tensors = self.parameters.tensors
        cdef Py_ssize_t i
        for i in range(first, first + count):
            if tensors[i].g != NULL and (tensors[i].rule.gather_writes or tensors[i].rule.gathers == FASTOPT_MATRICES):
                return True
        return False

    cdef int add_parts(self, double *values, Py_ssize_t columns) except -1:
        """Replace numbers of the parameters of this call by their sums over all parts."""
        cdef cnp.ndarray sums = np.zeros((self.parameters.count, columns))
        cdef double *of_call = <double *>cnp.PyArray_DATA(sums) + self.first * columns
        cdef size_t size = self.stepped * columns * sizeof(double)
        memcpy(of_call, values, size)
        with HalfStep(self.has_changed(self.first, self.stepped)):
            self.sum_parts(sums)
        memcpy(values, of_call, size)
        return 0

    cdef list nonfinite(self, Py_ssize_t first, Py_ssize_t count):
        """Those of these parameters that have NaN or infinity in a part of their gradient."""
        flags = np.zeros((self.parameters.count, 1))
        for i in range(first, first + count):
            flags[i] = not fastopt_finite(&self.parameters.tensors[i])
        if self.sum_parts is not None:
            self.sum_parts(flags)
        return np.flatnonzero(flags).tolist()

    cdef int skip(self, Py_ssize_t first, Py_ssize_t count) except -1:
        """Count a step that is skipped because of NaN or infinity in its gradients, or raise if it must not be skipped."""
        cdef Parameters parameters = self.parameters
        cdef Py_ssize_t i
        cdef bint too_many = False
        cdef str after = ""
        if self.skip_nonfinite:
            for i in range(first, first + count if self.max_skips else first):
                too_many = too_many or parameters.entries[i].skips >= self.max_skips
            if not too_many:
                for i in range(first, first + count if self.max_skips else first):
                    parameters.entries[i].skips += 1
                self.skipped_steps += 1
                return 0
            after = f" after {self.max_skips} skipped steps in a row (max_skips={self.max_skips})"
        bad = [parameters.label(i) for i in self.nonfinite(first, count)]
        raise FloatingPointError(f"{parameters.owner}: gradients must be finite{after}, got NaN or infinity in the"
                                 f" gradient of {', '.join(bad)}")
