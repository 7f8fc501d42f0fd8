# Optimizers that step as one: the members of a joined table.

cdef void copy_g_dtype(Entry *to, const Entry *of) noexcept nogil:
    """Copy the dtype of a gradient, whose format is in a descriptor that was copied too."""
    to.g_dtype = of.g_dtype
    to.g = NULL


@cython.final
cdef class Members:
    """The tables whose parameters are stepped in one call, in the order of the tables.

    The tables keep their settings, state, counts and locks. A joined table copies their descriptors each time it takes
    their locks, and writes them back after a step.
    """

    cdef tuple tables
    cdef list firsts  # for each table the index of its first parameter among all
    cdef list arrays  # for each table its parameters, as they were last read
    cdef tuple lock_order  # the tables in a fixed order, in which locks are taken
    cdef Py_ssize_t count  # of all parameters
    cdef Py_ssize_t dtype_changes  # of gradients, here and in the tables, when dtypes were last copied

    def __init__(self, tuple tables):
        cdef Table table
        self.tables = tables
        self.lock_order = tuple(sorted(tables, key=id))
        self.firsts = []
        self.dtype_changes = -1
        self.arrays = [(<Table>one).parameters.arrays for one in tables]
        for table in tables:
            self.firsts.append(self.count)
            self.count += table.parameters.count

    cdef bint match(self, list tables):
        """Whether these are the tables, and none has got further parameters since."""
        cdef Py_ssize_t k, count = 0
        for k in range(len(self.tables)):
            if tables[k] is not self.tables[k]:
                return False
            count += (<Table>tables[k]).parameters.count
        return count == self.count

    cdef Py_ssize_t index_of(self, Py_ssize_t i):
        """The index of the table that has parameter i."""
        cdef Py_ssize_t k = len(self.tables) - 1
        while i < <Py_ssize_t>self.firsts[k]:
            k -= 1
        return k

    cdef Table table_of(self, Py_ssize_t i):
        return self.tables[self.index_of(i)]

    cdef Py_ssize_t first_of(self, Py_ssize_t i):
        """The index of the first parameter of the table that has parameter i."""
        return self.firsts[self.index_of(i)]

    cdef int check_not_held(self) except -1:
        cdef Table table
        for table in self.tables:
            table.lock.check_not_held()
        return 0

    cdef int acquire(self) except -1:
        """Take all locks, or none."""
        cdef Table table
        cdef Py_ssize_t held = 0
        try:
            for table in self.lock_order:
                table.acquire()
                held += 1
        except BaseException:
            for table in self.lock_order[:held]:
                table.release()
            raise
        return 0

    cdef void release(self) noexcept:
        for table in self.lock_order:
            (<Table>table).release()

    cdef int read_arrays(self, Parameters parameters) except -1:
        """Read the arrays that tables were bound to since the last read."""
        cdef Py_ssize_t k
        cdef tuple now = ()
        if not self.match(list(self.tables)):
            raise RuntimeError(f"{parameters.owner}: parameters of the optimizers must stay as they are while a call begins,"
                               f" but another thread has changed them")
        for k in range(len(self.tables)):
            if (<Table>self.tables[k]).parameters.arrays is not self.arrays[k]:
                break
        else:
            return 0
        for table in self.tables:
            now += (<Table>table).parameters.arrays
        check_disjoint(parameters.owner, [parameters.label(k) for k in range(self.count)], list(now))
        parameters.rebind(now)
        self.arrays = [(<Table>table).parameters.arrays for table in self.tables]
        return 0

    cdef int64_t step_count(self):
        """The largest count of steps."""
        cdef Table table
        cdef int64_t most = 0
        for table in self.tables:
            most = max(most, table.step_count)
        return most

    cdef int read_descriptors(self, Parameters parameters) except -1:
        """Copy the descriptors, after schedules have set their values."""
        cdef Table table
        cdef Py_ssize_t i, k, first
        for k in range(len(self.tables)):
            table = self.tables[k]
            first = self.firsts[k]
            parameters.bound = NULL
            memcpy(parameters.tensors + first, table.parameters.tensors, table.parameters.count * sizeof(fastopt_tensor))
        if self.count_dtype_changes(parameters) != self.dtype_changes:
            for k in range(len(self.tables)):
                table = self.tables[k]
                first = self.firsts[k]
                for i in range(table.parameters.count):
                    copy_g_dtype(&parameters.entries[first + i], &table.parameters.entries[i])
            self.dtype_changes = self.count_dtype_changes(parameters)
        return 0

    cdef Py_ssize_t count_dtype_changes(self, Parameters parameters):
        """How often the dtype of a gradient has changed, here and in the tables."""
        cdef Table table
        cdef Py_ssize_t count = parameters.dtype_changes
        for table in self.tables:
            count += table.parameters.dtype_changes
        return count

    cdef int write_descriptors(self, Parameters parameters, Py_ssize_t first, Py_ssize_t count) except -1:
        """Write the descriptors of stepped parameters back to their tables."""
        cdef Parameters own
        cdef Py_ssize_t i, k, begin
        cdef bint changed = self.count_dtype_changes(parameters) != self.dtype_changes
        for k in range(len(self.tables)):
            own = (<Table>self.tables[k]).parameters
            begin = self.firsts[k]
            for i in range(max(first, begin), min(first + count, begin + own.count)):
                memcpy(&own.tensors[i - begin], &parameters.tensors[i], sizeof(fastopt_tensor))
                own.tensors[i - begin].layout = NULL  # it belongs to the joined table; a step sets it
                if changed:
                    copy_g_dtype(&own.entries[i - begin], &parameters.entries[i])
            own.dtype_changes += changed
            own.bound = NULL
        return 0
