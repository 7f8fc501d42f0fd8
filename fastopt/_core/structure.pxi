# The structure in which gradients come, and its conversion to a flat tuple.

cdef Py_ssize_t length_of(object value) except -1:
    """The length of a sequence, at most PY_SSIZE_T_MAX."""
    try:
        return len(value)
    except OverflowError:
        return PY_SSIZE_T_MAX


@cython.final
cdef class GradientStructure:
    """The nests of lists and mappings in which gradients come: the same as for the parameters.

    Messages begin with `owner`.
    """

    cdef str owner
    cdef tuple names  # of the parameters
    cdef list groups  # the structure of each group, as in nest.py
    cdef bint grouped  # whether gradients come as a sequence with one entry per group
    cdef bint all_named  # whether each group has names, so that one mapping can hold all gradients
    cdef tuple parts  # the structure of each optimizer that steps in this one; (): only one optimizer

    def __init__(self, str owner):
        self.owner = owner
        self.names = self.parts = ()
        self.groups = []
        self.all_named = True

    cdef int append(self, list names, list groups, bint grouped) except -1:
        """Add the structures of further groups."""
        self.names += tuple(names)
        self.groups = self.groups + groups
        self.grouped = grouped
        self.all_named = self.all_named and all([type(group) is tuple or type(group) is dict for group in groups])
        return 0

    cdef int use_parts(self, tuple parts) except -1:
        """Take gradients of several optimizers, each in its structure."""
        self.parts = parts
        self.all_named = all([(<GradientStructure>part).all_named for part in parts])
        return 0

    cdef tuple flatten(self, object grads):
        """Gradients in the order of the parameters, from any structure that is allowed."""
        cdef tuple flat = (), groups
        if self.parts:
            return self.flatten_parts(grads)
        if not self.grouped:
            return self.flatten_nest(grads, self.groups[0], "")
        if isinstance(grads, Mapping) and self.all_named:
            return self.flatten_named(grads)
        groups = self.entries_of(grads, len(self.groups), "", "group")
        for i, group in enumerate(groups):
            flat += self.flatten_nest(group, self.groups[i], f" of group {i}")
        return flat

    cdef tuple flatten_parts(self, object grads):
        """Gradients of several optimizers, in one mapping by name or with one entry for each."""
        cdef tuple flat = ()
        cdef GradientStructure part
        if isinstance(grads, Mapping) and self.all_named:
            return self.flatten_named(grads)
        for k, (part, entry) in enumerate(zip(self.parts, self.entries_of(grads, len(self.parts), "", "optimizer"))):
            try:
                flat += part.flatten(entry)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self.owner}: optimizers[{k}]: {error}") from None
        return flat

    cdef tuple entries_of(self, object grads, Py_ssize_t count, str where, str unit=""):
        """The entries of a sequence, one for each of `count` units (parameters, groups, optimizers), or raise."""
        if isinstance(grads, (Iterator, ValuesView)):
            grads = tuple(islice(grads, count + 1))
        if not is_sequence(grads):
            what = "a sequence, as the parameters are"
            if unit:
                what = f"a sequence with one entry per {unit}" + (" or one mapping" if self.all_named else "")
            raise TypeError(f"{self.owner}: gradients{where} must be {what}, got {type_name(grads)}")
        # First the length, since a sequence may be endless; then the number of entries, since the length may be wrong.
        length = length_of(grads)
        if length == count:
            grads = tuple(grads)
            length = len(grads)
        if length != count:
            what = f"have one entry for each of the {count} {unit}s" if unit else f"be {count}, one per parameter"
            raise ValueError(f"{self.owner}: gradients{where} must {what}, got {length}")
        return grads

    cdef tuple flatten_nest(self, object grads, object structure, str where):
        """Gradients that come in this structure; messages name them "gradients" with `where`."""
        cdef tuple flat = (), keys
        if structure is None:
            if not is_plain_array(grads) and isinstance(grads, (list, tuple, Mapping)):  # the latter takes long
                raise TypeError(f"{self.owner}: gradients{where} must be one array, as the parameter is,"
                                f" got {type_name(grads)}")
            return (grads,)
        if type(structure) is int:
            if type(grads) is list and PyList_GET_SIZE(grads) == PyLong_AsSsize_t(structure):
                return tuple(<list>grads)
            return self.entries_of(grads, structure, where)
        if type(structure) is list:
            keys, grads = tuple(range(len(structure))), self.entries_of(grads, len(structure), where)
        else:
            if not isinstance(grads, Mapping):
                raise TypeError(f"{self.owner}: gradients{where} must be a mapping, as the parameters are,"
                                f" got {type_name(grads)}")
            keys = tuple(structure)
            grads = self.flatten_mapping(grads, keys, where)
            if type(structure) is tuple:
                return grads
        for i, key in enumerate(keys):
            inner = structure[key]
            flat += (grads[i],) if inner is None else self.flatten_nest(grads[i], inner, f"{where} in {key!r}")
        return flat

    cdef tuple flatten_mapping(self, object grads, tuple names, str where):
        cdef Py_ssize_t i = 0, place = 0, n = PyTuple_GET_SIZE(names)
        cdef PyObject *key
        cdef PyObject *value
        cdef list found
        if type(grads) is dict and len(<dict>grads) == n:  # fastest: the same keys in the same order
            found = [None] * n
            with cython.critical_section(grads):
                while i < n and PyDict_Next(grads, &place, &key, &value) and key == PyTuple_GET_ITEM(names, i):
                    found[i] = <object>value
                    i += 1
            if i == n:
                return tuple(found)
        missing = [name for name in names if name not in grads]
        if missing:
            raise ValueError(f"{self.owner}: gradients{where} must have an entry for every parameter,"
                             f" missing {', '.join(map(repr, missing))}")
        if len(grads) != len(names):
            unknown = [name for name in grads if name not in names]
            raise ValueError(f"{self.owner}: gradients{where} must be for parameters of this optimizer,"
                             f" got unknown {', '.join(map(repr, unknown))}")
        return tuple([grads[name] for name in names])

    cdef tuple flatten_named(self, object grads):
        """Gradients of all groups in one mapping, by name, or nested like the parameters."""
        cdef dict found = {}
        if any([name not in grads for name in self.names]):
            self.add_by_name(grads, "", 0, found)
            grads = found
        return self.flatten_mapping(grads, self.names, "")

    cdef int add_by_name(self, object grads, str prefix, int depth, dict found) except -1:
        """Add the gradients of a nest to `found` by their names."""
        if depth > FASTOPT_MAX_NDIM:
            raise ValueError(f"{self.owner}: gradients must be nested like the parameters, got a deeper nest")
        for key, entry in grads.items() if isinstance(grads, Mapping) else enumerate(grads):
            name = f"{prefix}{key}" if prefix else key
            if isinstance(entry, (list, tuple, Mapping)):
                self.add_by_name(entry, f"{name}.", depth + 1, found)
            else:
                found[name] = entry
        return 0
