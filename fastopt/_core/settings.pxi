# A group's rule, hyperparameters and options.

cdef tuple state_shape(fastopt_extent extent, tuple shape):
    """The shape of a state buffer of a parameter of this shape."""
    cdef Py_ssize_t last = len(shape) - 1
    if extent == FASTOPT_AXES:
        return (sum(shape),)
    if extent == FASTOPT_ROWS:
        return shape[:last]
    return shape[:last - 1] + shape[last:] if extent == FASTOPT_COLUMNS else shape


cdef dict KINDS = {FASTOPT_SIGNED: "signed", FASTOPT_NONNEGATIVE: "nonnegative", FASTOPT_EXACT: "exact"}


cdef class Settings:
    """A group's rule, hyperparameters and options, where the C core reads them."""

    cdef const fastopt_rule *rule
    cdef double hyper[FASTOPT_MAX_HYPER]
    cdef double before[FASTOPT_MAX_HYPER]  # as they were before the last change of those that are corrected for
    cdef fastopt_options options
    cdef readonly tuple hyper_names, state_names, carry_names
    cdef readonly tuple corrected  # the hyperparameters whose products bias corrections use
    cdef int corrected_at[FASTOPT_MAX_HYPER]  # their places
    cdef int n_corrected
    cdef readonly tuple catch_up  # the hyperparameters by which it makes up for steps without gradient, or None
    cdef readonly str rule_name
    cdef readonly bint corrects_decay  # whether it carries the largest learning rate, after the numbers of the rule
    cdef readonly bint decays_apart  # whether its own decay only takes a share of the parameter
    cdef readonly tuple kinds  # of state buffers: "signed", "nonnegative" or "exact"
    cdef readonly bint takes_matrices  # whether its passes visit rows and columns
    cdef readonly bint together  # whether it makes one estimate of all parameters of a group

    def __init__(self, str rule, bint corrects_decay=False):
        self.rule = rule_named(rule)
        self.corrects_decay = corrects_decay
        self.decays_apart = self.rule.decays_apart
        self.together = self.rule.gathers == FASTOPT_TOGETHER
        self.takes_matrices = self.rule.gathers == FASTOPT_MATRICES
        self.rule_name = rule
        self.hyper_names = names_of(self.rule.hyper)
        self.state_names = names_of(self.rule.state)
        self.carry_names = names_of(self.rule.carry) + (("largest_lr",) if corrects_decay else ())
        self.kinds = tuple([KINDS[self.rule.kind[s]] for s in range(len(self.state_names))])
        self.corrected = names_of(fastopt_rule_corrected(self.rule))
        self.n_corrected = len(self.corrected)
        for i, name in enumerate(self.corrected):
            self.corrected_at[i] = self.hyper_names.index(name)
        if fastopt_rule_catch_up(self.rule) != NULL:
            self.catch_up = names_of(fastopt_rule_catch_up(self.rule))

    def order(self, cnp.ndarray p):
        """The axes of a parameter from the slowest to the fastest, as it is walked.

        That is its order in memory, but for rules that sum over it: their sums must not depend on the layout.
        """
        return tuple(range(p.ndim)) if self.rule.gathers else order_of(p)

    def shapes(self, cnp.ndarray p):
        """The shapes of a parameter's state buffers."""
        return [state_shape(self.rule.extent[s], (<object>p).shape) for s in range(len(self.state_names))]

    def is_whole(self, Py_ssize_t s):
        """Whether a state buffer has the parameter's shape."""
        return self.rule.extent[s] == FASTOPT_WHOLE

    cpdef bint set(self, dict hyper, dict options) except -1:
        """Take over values that are known to be valid; options are the fields of fastopt_options.

        Returns whether one that bias corrections use has changed; `before` are then the old values.
        """
        cdef int i
        cdef bint changed = False
        cdef double after[FASTOPT_MAX_HYPER]
        for i, name in enumerate(self.hyper_names):
            after[i] = <double>hyper[name] + 0.0  # -0 is 0
        self.options = options
        for i in range(self.n_corrected):
            changed |= after[self.corrected_at[i]] != self.hyper[self.corrected_at[i]]
        if changed:
            memcpy(self.before, self.hyper, sizeof(self.before))
        memcpy(self.hyper, after, len(self.hyper_names) * sizeof(double))
        return changed
