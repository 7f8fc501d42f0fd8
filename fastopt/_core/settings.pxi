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
cdef dict REDUCTIONS = {"total": FASTOPT_SUM, "mean": FASTOPT_MEAN, "norm": FASTOPT_NORM, "rms": FASTOPT_RMS}


cdef void *address_in(dict functions, str name) except? NULL:
    """The address of the C function of this name; NULL if there is none."""
    return <void *><uintptr_t>functions[name].address if name in functions else NULL


cdef class OwnRule:
    """A rule of the user's own, where the C core reads it.

    Parameters
    ----------
    name : str
        Of the rule.
    state : dict
        For each buffer its kind, as in KINDS.
    hyper : list of tuple
        For each hyperparameter its name, lowest value, end of the range and whether this belongs to it, the range in
        words, and whether it corrects the bias of a running mean.
    n_scalars : int
        Numbers that `scalars` computes.
    functions : dict
        By their fields in fastopt_rule_spec, objects with the addresses of the C functions: float32 and float64; scalars,
        gather_float32, gather_float64 and combine if there are such. They are kept alive.
    reductions : list of str
        The reduction of each sum, as in REDUCTIONS.
    gather_writes : bool
        Whether the first pass writes the state.
    n_combined : int
        Numbers that `combine` computes.
    """

    cdef fastopt_rule *rule
    cdef dict functions

    def __init__(self, str name, dict state, list hyper, int n_scalars, dict functions, list reductions,
                 bint gather_writes, int n_combined):
        cdef const char *letters[FASTOPT_MAX_STATE + 2]
        cdef fastopt_kind kinds[FASTOPT_MAX_STATE + 1]
        cdef fastopt_hyper ranges[FASTOPT_MAX_HYPER + 2]
        cdef int corrected[FASTOPT_MAX_HYPER + 1]
        cdef fastopt_reduction of_sums[FASTOPT_MAX_SUMS + 1]
        cdef char problem[300]
        cdef fastopt_rule_spec spec
        cdef list texts = [name.encode()]  # keeps the strings until the core has copied them
        cdef int s, i
        memset(letters, 0, sizeof(letters))
        memset(ranges, 0, sizeof(ranges))
        memset(&spec, 0, sizeof(spec))
        numbers = {kind: number for number, kind in KINDS.items()}
        # One more than the core allows, so that it refuses lists that are too long.
        for s, (letter, kind) in enumerate(islice(state.items(), FASTOPT_MAX_STATE + 1)):
            text = letter.encode()
            texts.append(text)
            letters[s] = text
            kinds[s] = <fastopt_kind><int>numbers[kind]
        for i, (key, low, high, closed, words, corrects) in enumerate(hyper[:FASTOPT_MAX_HYPER + 1]):
            text, range_text = key.encode(), words.encode()
            texts += [text, range_text]
            ranges[i] = fastopt_hyper(text, low, high, closed, range_text)
            corrected[i] = corrects
        spec.size = sizeof(spec)
        spec.name = texts[0]
        spec.state, spec.kind, spec.hyper, spec.corrected = letters, kinds, ranges, corrected
        spec.n_scalars = n_scalars
        spec.scalars = <fastopt_scalars *>address_in(functions, "scalars")
        spec.float32 = <fastopt_loop_float32 *>address_in(functions, "float32")
        spec.float64 = <fastopt_loop_float64 *>address_in(functions, "float64")
        if reductions:
            for s, reduction in enumerate(reductions[:FASTOPT_MAX_SUMS + 1]):
                of_sums[s] = <fastopt_reduction><int>REDUCTIONS[reduction]
            spec.n_sums, spec.reductions = len(reductions), of_sums
            spec.gather_float32 = <fastopt_gather_float32 *>address_in(functions, "gather_float32")
            spec.gather_float64 = <fastopt_gather_float64 *>address_in(functions, "gather_float64")
            spec.combine = <fastopt_combine *>address_in(functions, "combine")
            spec.gather_writes, spec.n_combined = gather_writes, n_combined
        self.functions = functions
        self.rule = fastopt_rule_create(&spec, problem, sizeof(problem))
        if self.rule == NULL:
            raise TypeError(f"{name}: {problem.decode()}")

    def __dealloc__(self):
        fastopt_rule_destroy(self.rule)


cdef str scope_of(const fastopt_rule *rule):
    """The elements of a parameter that decide the update of one: "element", "row", "matrix" or "parameter"; "sums" where
    these are sums over a parameter or a group.
    """
    cdef bint has_axes = any([rule.extent[s] == FASTOPT_AXES for s in range(FASTOPT_MAX_STATE)])
    if rule.caller_writes or has_axes:
        return "parameter"
    return {FASTOPT_ONE_PASS: "element", FASTOPT_BY_ROW: "row", FASTOPT_MATRICES: "matrix"}.get(rule.gathers, "sums")


cdef class Settings:
    """A group's rule, hyperparameters and options, where the C core reads them.

    Parameters
    ----------
    rule : str or OwnRule
        The rule for which state is laid out.
    corrects_decay : bool
        Whether the carried numbers of the rule are followed by the largest learning rate.
    at_zero : tuple of two str, or None
        A hyperparameter by its name in rules.def, and the rule that steps while it is 0.  The state and the
        hyperparameters of that rule come first in `rule`; the other state stays as it is meanwhile.
    """

    cdef const fastopt_rule *rule
    cdef const fastopt_rule *rule_at_zero  # NULL: none
    cdef int zero_place  # of its hyperparameter in hyper_names
    cdef const fastopt_rule *stepping  # `rule`, or `rule_at_zero` while it steps
    cdef OwnRule own  # keeps a rule of the user's own, else None
    cdef double hyper[FASTOPT_MAX_HYPER]
    cdef double previous[FASTOPT_MAX_HYPER]  # the values before the last change of one of `corrected`
    cdef fastopt_options options
    cdef readonly tuple hyper_names, state_names, carry_names
    cdef readonly tuple corrected  # the hyperparameters whose products bias corrections use
    cdef int corrected_places[FASTOPT_MAX_HYPER]  # in hyper_names
    cdef int n_corrected
    cdef readonly tuple catch_up  # the hyperparameters of its closed form for missed steps, or None
    cdef readonly str rule_name
    cdef readonly bint corrects_decay
    cdef readonly bint separate_decay  # whether its own decay is a separate term: a share of the parameter
    cdef readonly tuple kinds  # of state buffers: "signed", "nonnegative" or "exact"
    cdef readonly bint takes_matrices  # whether its passes visit rows and columns
    cdef readonly str scope  # the elements that decide the update of one, see scope_of
    cdef readonly bint estimates_group  # whether the rule makes one estimate for all parameters of a group

    def __init__(self, object rule, bint corrects_decay=False, tuple at_zero=None):
        self.own = rule if isinstance(rule, OwnRule) else None
        self.rule = self.stepping = rule_named(rule) if self.own is None else self.own.rule
        self.corrects_decay = corrects_decay
        self.separate_decay = self.rule.separate_decay
        self.estimates_group = self.rule.gathers == FASTOPT_BY_GROUP
        self.takes_matrices = self.rule.gathers == FASTOPT_MATRICES
        self.scope = scope_of(self.rule)
        self.rule_name = self.rule.name.decode()
        self.hyper_names = names_of(self.rule.hyper)
        self.state_names = names_of(self.rule.state)
        self.carry_names = names_of(self.rule.carry) + (("largest_lr",) if corrects_decay else ())
        self.kinds = tuple([KINDS[self.rule.kind[s]] for s in range(len(self.state_names))])
        self.corrected = names_of(fastopt_rule_corrected(self.rule))
        self.n_corrected = len(self.corrected)
        for i, name in enumerate(self.corrected):
            self.corrected_places[i] = self.hyper_names.index(name)
        if fastopt_rule_catch_up(self.rule) != NULL:
            self.catch_up = names_of(fastopt_rule_catch_up(self.rule))
        if at_zero is not None:
            self.zero_place = self.hyper_names.index(at_zero[0])
            self.rule_at_zero = rule_named(at_zero[1])

    @property
    def stepped_names(self):
        """The state that steps use with the present hyperparameters; the rest of `state_names` stays as it is."""
        return names_of(self.stepping.state)

    def order(self, cnp.ndarray p):
        """The axes of a parameter from the slowest to the fastest, as it is walked.

        Rules that sum over it walk its axes in order, so that layouts do not change sums; others follow the memory.
        """
        return tuple(range(p.ndim)) if self.rule.gathers else order_of(p)

    def shapes(self, cnp.ndarray p):
        """The shapes of a parameter's state buffers."""
        return [state_shape(self.rule.extent[s], (<object>p).shape) for s in range(len(self.state_names))]

    def is_whole(self, Py_ssize_t s):
        """Whether a state buffer has the parameter's shape."""
        return self.rule.extent[s] == FASTOPT_WHOLE

    cpdef bint set(self, dict hyper, dict options) except -1:
        """Set values, which the caller has checked; options are the fields of fastopt_options.

        Returns whether one of `corrected` has changed; `previous` then holds the old values.
        """
        cdef int i
        cdef bint changed = False
        cdef double after[FASTOPT_MAX_HYPER]
        for i, name in enumerate(self.hyper_names):
            after[i] = <double>hyper[name] + 0.0  # -0 is 0
        self.options = options
        for i in range(self.n_corrected):
            changed |= after[self.corrected_places[i]] != self.hyper[self.corrected_places[i]]
        if changed:
            memcpy(self.previous, self.hyper, sizeof(self.previous))
        memcpy(self.hyper, after, len(self.hyper_names) * sizeof(double))
        if self.rule_at_zero != NULL:
            self.stepping = self.rule_at_zero if self.hyper[self.zero_place] == 0 else self.rule
        return changed
