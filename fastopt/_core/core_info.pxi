# Descriptions from the C core: its rules, ranges, instruction sets and build.

# Below this many elements a step takes so little time that no other Python thread could use it: the GIL is kept, since
# getting it back can take longer than the step.
cdef enum:
    KEEP_GIL_BELOW = 32768

# The number of threads of steps that do not say one; fastopt.threads resolves it.
cdef int default_threads = 1


def set_default_threads(int n):
    """Set the number of threads of steps that do not say one."""
    global default_threads
    default_threads = n


def get_default_threads():
    """The number of threads of steps that do not say one."""
    return default_threads


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
    """The instruction sets that this CPU can run, slowest first."""
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
    """Version and compiler of the C core, and the OpenMP date where OpenMP makes the threads, else 0."""
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
