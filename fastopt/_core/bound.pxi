# Steps on bound gradients, for C and for compiled Python code: a function of C and its argument.

@cython.final
cdef class BoundStep:
    """A step of an optimizer with the gradients that `bind` has bound, for calls from C, Cython and Numba.

    A call from C needs no GIL while all arrays are NumPy's, no part of the step is in Python, and no other thread uses the
    optimizer.  The first call after any other use of the optimizer takes the GIL and checks everything.  So does every
    call with schedules, averages, a LossScale, gradients of rows, Muon, and optimizers that step as one.  Arrays must keep
    their memory between calls from C.

    Once a call has failed, later calls from C change nothing and return the same status, until `check` raises the error.
    """

    cdef Table table
    cdef object step_flat  # a function that makes a step with gradients in the order of the parameters
    cdef tuple flat
    cdef bint is_plain  # whether the gradients and the options of the step need no Python
    cdef int status  # of the first call that failed, since the last check
    cdef object error  # the exception of that call, or None
    cdef fastopt_bound_step handle
    cdef object __weakref__

    def __init__(self, Table table, step_flat, bint is_plain):
        self.table = table
        self.step_flat = step_flat
        self.flat = table.bound
        self.is_plain = is_plain and table.members is None and not table.has_gather_hook and not table.averages.active \
            and table.runner.clip_schedule is None \
            and all([gradient is None or cnp.PyArray_CheckExact(gradient) for gradient in self.flat])
        self.handle = fastopt_bound_step(bound_step, <void *>self)

    def step(self):
        """Make the step; raises as `Optimizer.step` does."""
        self.check()
        self.step_with_checks()

    cdef int step_with_checks(self) except -1:
        if PyTuple_GET_SIZE(self.flat) != self.table.parameters.count:
            raise TypeError(f"{self.table.parameters.owner}: gradients must be bound again with bind(), after parameters"
                            f" were added")
        self.step_flat(self.flat)
        return 0

    def check(self):
        """Raise the error of the first call from C that has failed since the last check, if any."""
        error, self.error, self.status = self.error, None, FASTOPT_OK
        if error is not None:
            raise error

    @property
    def address(self):
        """The address of a fastopt_bound_step (fastopt.h), which lives as long as this object."""
        return <uintptr_t>&self.handle

    @property
    def capsule(self):
        """A PyCapsule with the same address, and the name "fastopt_bound_step"; it keeps no reference to this object."""
        return PyCapsule_New(&self.handle, FASTOPT_BOUND_STEP, NULL)

    cdef int make(self) noexcept nogil:
        """Make the step without the GIL if that can be done, else with it."""
        cdef void *flat = <void *>self.flat
        cdef fastopt_call call
        cdef fastopt_status status
        if self.status:
            return self.status
        if not self.is_plain or not self.table.lock.acquire_if_free():
            return self.make_with_gil()
        if self.table.parameters.bound != flat or self.table.is_scheduled or self.table.swapped is not None \
                or self.table.binder.step_arrays is not None or self.table.runner.sum_parts is not None:
            self.table.lock.release()
            return self.make_with_gil()
        self.table.runner.set_options(&call)
        call.tuner = NULL if self.table.runner.num_threads else &self.table.runner.tuners[0]
        status = self.table.runner.call_core(&call, 0, self.table.parameters.count)
        if status == FASTOPT_OK:
            self.table.parameters.count_steps(0, self.table.parameters.count)
            self.table.step_count += 1
        self.table.lock.release()
        return self.status if status == FASTOPT_OK else self.make_with_gil()

    cdef int make_with_gil(self) noexcept with gil:
        """Make the step with all checks, and keep the error."""
        try:
            self.step_with_checks()
        except BaseException as error:
            self.error = error
            self.status = FASTOPT_NONFINITE if isinstance(error, FloatingPointError) else \
                FASTOPT_NO_MEMORY if isinstance(error, MemoryError) else FASTOPT_BAD_TENSOR
        return self.status


cdef int bound_step(void *bound) noexcept nogil:
    return (<BoundStep>bound).make()
