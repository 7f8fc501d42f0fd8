# The lock of a step: the thread that holds it may change or read the optimizer.

locks = WeakSet()  # all locks of this process


def after_fork_in_child():
    """Free every lock that a thread of the parent held, since that thread does not exist in this process."""
    cdef StepLock one
    for one in locks:
        one.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)


cdef set half_steps = set()  # the threads that run Python code while the state includes half of their step


@cython.final
cdef class HalfStep:
    """Within it this thread cannot read the optimizer that it steps, if the state includes half of the step."""

    cdef object thread  # None if the state has not changed

    def __init__(self, bint has_changed):
        self.thread = thread_ident() if has_changed else None

    def __enter__(self):
        if self.thread is not None:
            half_steps.add(self.thread)

    def __exit__(self, *error):
        half_steps.discard(self.thread)


@cython.final
cdef class StepLock:
    """A lock that one thread holds at a time; while it holds the lock, nested calls may read the optimizer, not change it.

    Messages begin with `owner`, such as "Adam.step".
    """

    cdef str owner
    cdef PyThread_type_lock lock
    cdef unsigned long holder  # the thread that holds it; 0: none
    cdef int readers  # nested reads of the thread that holds it
    cdef bint broken  # forked while another thread held it
    cdef object __weakref__

    def __cinit__(self, str owner):
        self.owner = owner
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        locks.add(self)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int reset_after_fork(self) except -1:
        if self.holder != thread_ident() and not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            self.broken = True
            self.lock = PyThread_allocate_lock()  # the old one is held and cannot be freed
        elif self.holder == 0:
            PyThread_release_lock(self.lock)
        return 0

    cdef int check_not_held(self) except -1:
        """Raise RuntimeError where this thread holds the lock."""
        if self.holder == thread_ident():
            raise RuntimeError(f"{self.owner}: a schedule or a signal handler called by a step, a save or a load must"
                               f" not change the same optimizer, but it does")
        return 0

    cdef int acquire(self) except -1:
        """Wait for the lock."""
        cdef unsigned long thread = thread_ident()
        if self.holder == thread:
            self.check_not_held()
        if self.broken:
            raise RuntimeError(f"{self.owner}: a process must not be forked while another thread steps an optimizer that the"
                               f" child uses, but this one was: half of a step is missing here")
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.holder = thread
        return 0

    cdef bint acquire_if_free(self) noexcept nogil:
        """Take the lock if `acquire` would neither wait nor raise; returns whether it is taken."""
        if self.broken or not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            return False
        self.holder = thread_ident()
        return True

    cdef void release(self) noexcept nogil:
        self.holder = 0
        PyThread_release_lock(self.lock)

    cdef bint reads_again(self) except -1:
        """Begin a nested read; returns False if this thread does not hold the lock."""
        if self.holder != thread_ident():
            return False
        if self.holder in half_steps:
            raise RuntimeError(f"{self.owner}: a signal handler must not read the optimizer between two passes of a step if"
                               f" the first has changed the state, but it does")
        self.readers += 1
        return True

    cdef bint ends_reading(self) noexcept:
        """End a nested read; returns False if there is none, so that the caller releases the lock."""
        if not self.readers:
            return False
        self.readers -= 1
        return True
