# Micro-batches: gradients that are summed for one step.

@cython.final
cdef class Accumulator:
    """The sums of the gradients of an optimizer since its last step.

    A whole gradient is added to a buffer of its parameter by a step of SGD: `sums` is the table of these buffers. Rows are
    kept as rows as long as their parameter gets nothing but rows and its step can take them.
    """

    cdef readonly Table sums
    cdef Table table  # the table whose step uses the sums
    cdef dict kept_rows  # parameter index: its `KeptRows`

    def __init__(self, str owner, Table table):
        self.sums = Table(owner, (), None)
        self.table = table
        self.kept_rows = {}
        if table.structure.parts:
            self.sums.structure.use_parts(table.structure.parts)

    @property
    def step_count(self):
        """How many gradients of all parameters have been added."""
        return self.sums.step_count

    def add(self, grads):
        """Add gradients, after checking all of them."""
        cdef Table sums = self.sums
        cdef fastopt_call call
        cdef Py_ssize_t i, elements
        cdef tuple flat = sums.structure.flatten(grads)
        cdef dict kept = {}, whole = {}
        cdef KeptRows before
        sums.acquire()
        try:
            sums.prepare(&call, None, sums.step_count)
            elements = sums.binder.bind_all(flat)
            for i in range(sums.parameters.count):
                gradient, before = flat[i], self.kept_rows.get(i)
                if type(gradient) is RowGrad and sums.parameters.tensors[i].step == 1 \
                        and self.table.averages.takes_rows(i):
                    kept[i] = added_rows(before, <RowGrad>gradient, (<object>sums.parameters.arrays[i]).dtype)
                elif gradient is not None and before is not None:
                    whole[i] = before.rows()
            # Nothing from here on can fail.
            for i in kept:
                elements -= sums.parameters.tensors[i].n
                sums.parameters.tensors[i].g = NULL
            for i, rows in whole.items():
                self.move_to_buffer(i, <RowGrad>rows)
            sums.runner.run(&call, 0, sums.parameters.count, elements)
            self.kept_rows.update(kept)
            sums.count_steps(0, sums.parameters.count)
            sums.step_count += 1
        finally:
            sums.release()

    cdef int move_to_buffer(self, Py_ssize_t i, RowGrad rows) except -1:
        """Write kept rows, each of them once, to the buffer of their parameter, before a whole gradient is added to it."""
        buffer = self.sums.parameters.arrays[i]
        buffer[rows.rows] = rows.values
        del self.kept_rows[i]
        self.sums.parameters.tensors[i].step += 1
        return 0

    cdef bint use(self, dict changes, bint mean) except -1:
        """Step with the sums or their mean, and empty the sums; returns whether the step was made.

        The step sets the buffers to zero.  No Python code runs between it and the reset of the counts, so that an interrupt
        never finds sums that are used up but still counted.
        """
        cdef bint stepped
        if self.sums.step_count == 0:
            raise TypeError(f"{self.table.parameters.owner}: gradients must be given or accumulated, got none")
        stepped = self.table.step_all(self.gradients(), changes, self.sums.step_count if mean else 1)
        self.forget()
        return stepped

    cpdef tuple gradients(self):
        """The sum of each parameter's gradients, in the order of the parameters: an array, a RowGrad, or None without any."""
        cdef Parameters sums = self.sums.parameters
        cdef Py_ssize_t i
        cdef list flat = []
        cdef KeptRows kept
        for i in range(sums.count):
            kept = self.kept_rows.get(i)
            if kept is not None:
                flat.append(kept.rows())
            else:
                flat.append(sums.arrays[i] if sums.tensors[i].step > 1 else None)
        return tuple(flat)

    cdef int forget(self) except -1:
        """Reset the counts; the buffers are zero already."""
        cdef Py_ssize_t i
        for i in range(self.sums.parameters.count):
            self.sums.parameters.tensors[i].step = 1
        self.kept_rows.clear()
        self.sums.step_count = 0
        return 0

    def discard(self):
        """Forget all gradients."""
        cdef Parameters sums = self.sums.parameters
        cdef Py_ssize_t i
        self.sums.acquire()
        try:
            for i in range(sums.count):
                if sums.tensors[i].step > 1:
                    memset(sums.tensors[i].p, 0, cnp.PyArray_NBYTES(<cnp.ndarray>sums.arrays[i]))
            self.forget()
        finally:
            self.sums.release()
