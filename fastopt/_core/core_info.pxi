# Descriptions from the C core: its rules, ranges, instruction sets and build.

# Below this size a step keeps the GIL: it is too short to be useful to another Python thread, and getting the GIL back
# can take longer than the step.
cdef enum:
    KEEP_GIL_BELOW = 32768

# The number of threads of steps without num_threads; fastopt.threads resolves it.
cdef int default_threads = 1


def set_default_threads(int n):
    """Set the number of threads of steps without num_threads."""
    global default_threads
    default_threads = n


def get_default_threads():
    """The number of threads of steps without num_threads."""
    return default_threads


cdef class Format:
    """A format in which buffers can be stored, as fastopt_format_info describes it."""

    cdef readonly int number, bytes, rest_bytes, group
    cdef readonly str name

    def __init__(self, int number, str name, int bytes, int rest_bytes, int group):
        self.number, self.name, self.bytes, self.rest_bytes, self.group = number, name, bytes, rest_bytes, group


def formats():
    """The formats in which buffers can be stored, in the order of their numbers."""
    cdef int i = 0
    cdef const fastopt_format_info *info
    cdef list found = []
    while fastopt_format_at(i) != NULL:
        info = fastopt_format_at(i)
        if info.name != NULL:
            found.append(Format(i, info.name.decode(), info.bytes, info.rest_bytes, info.group))
        i += 1
    return found


cdef fastopt_format format_named(str name) except *:
    for one in formats():
        if one.name == name and one.number:
            return <fastopt_format><int>one.number
    raise ValueError(f"format must be the name of a format other than native, got {name!r}")


def decoded(str name, cnp.ndarray codes, scales):
    """The elements of a contiguous buffer in this format as float32; `scales` is its second part, or None."""
    cdef cnp.ndarray out = np.empty((<object>codes).shape, np.float32)
    cdef const void *rest = NULL if scales is None else cnp.PyArray_DATA(<cnp.ndarray>scales)
    if fastopt_decode(format_named(name), cnp.PyArray_DATA(codes), rest, cnp.PyArray_SIZE(codes),
                      <float *>cnp.PyArray_DATA(out)) != FASTOPT_OK:
        raise RuntimeError(f"decoded: FASTOPT_ISA must name an instruction set that is available here")
    return out


def encode(str name, cnp.ndarray values, cnp.ndarray codes, rest):
    """Store contiguous float32 values in a contiguous buffer of this format and in its second part, if it has one."""
    if fastopt_encode(format_named(name), <const float *>cnp.PyArray_DATA(values), cnp.PyArray_SIZE(values),
                      cnp.PyArray_DATA(codes), NULL if rest is None else cnp.PyArray_DATA(<cnp.ndarray>rest)) \
            != FASTOPT_OK:
        raise RuntimeError(f"encode: FASTOPT_ISA must name an instruction set that is available here")


cdef tuple names_of(const char *const *names):
    cdef list found = []
    while names[0] != NULL:
        found.append(names[0].decode())
        names += 1
    return tuple(found)


def rules():
    """The rows of rules.def: a list of (name, state names, hyperparameter names, carry names)."""
    cdef int index = 0
    cdef list found = []
    while fastopt_rule_at(index) != NULL:
        found.append((
            fastopt_rule_at(index).name.decode(),
            names_of(fastopt_rule_at(index).state),
            names_of(fastopt_rule_at(index).hyper),
            names_of(fastopt_rule_at(index).carry),
        ))
        index += 1
    return found


def available_isas():
    """The instruction sets that this CPU can run, widest vectors last."""
    cdef int index = 0
    cdef list found = []
    while fastopt_isa_at(index) != NULL:
        found.append(fastopt_isa_at(index).decode())
        index += 1
    return found


def isa():
    """The instruction set in use, or None while FASTOPT_ISA names one that is not available."""
    return None if fastopt_isa() == NULL else fastopt_isa().decode()


def use_isa(str name):
    """Choose an instruction set for all steps from now on."""
    if not fastopt_use_isa(name.encode()):
        raise ValueError(f"use_isa: the instruction set must be one of {', '.join(available_isas())}, got {name!r}")


def build_info():
    """Version and compiler of the C core, and the OpenMP date if OpenMP starts the threads, else 0."""
    return fastopt_version().decode(), fastopt_compiler().decode(), fastopt_openmp()


def check_range(str label, str name, double value):
    """Raise ValueError, naming `label`, unless the value lies in the range of hyperparameter `name`."""
    cdef const fastopt_hyper *hyper = fastopt_find_hyper(name.encode())
    if hyper == NULL:
        raise LookupError(f"{label}: {name} must have a range in csrc/rules/hyper.def, but it has none there")
    if not fastopt_in_range(hyper, value):
        raise ValueError(f"{label} must be {hyper.range.decode()}, got {value!r}")


# ---- Hyperparameters of a group ----

cdef const fastopt_rule *rule_named(str name) except NULL:
    cdef const fastopt_rule *rule = fastopt_find_rule(name.encode())
    if rule == NULL:
        raise ValueError(f"rule must be one of {', '.join(row[0] for row in rules())}, got {name!r}")
    return rule
