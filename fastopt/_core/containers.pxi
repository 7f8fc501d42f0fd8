# Containers that hold the user's arrays.

cpdef bint is_sequence(object value):
    """Whether a value is a sequence that can hold objects: one of characters or bytes cannot."""
    if isinstance(value, (list, tuple)):
        return True  # the most common, found at once
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


cpdef bint still_holds(object container, tuple keys, tuple values) except -1:
    """Whether a container still holds these values under these keys; fastest for keys in the order of a dict."""
    cdef Py_ssize_t i = 0, n = PyTuple_GET_SIZE(values), place = 0
    cdef PyObject *key_there
    cdef PyObject *value_there
    if isinstance(container, list) and PyLong_AsSsize_t(<object>PyTuple_GET_ITEM(keys, n - 1)) == n - 1:  # 0 to n - 1
        with cython.critical_section(container):
            if n <= PyList_GET_SIZE(container):
                while i < n and PyList_GET_ITEM(container, i) == PyTuple_GET_ITEM(values, i):
                    i += 1
        return i == n
    if isinstance(container, dict):
        with cython.critical_section(container):
            while i < n and PyDict_Next(container, &place, &key_there, &value_there):
                if key_there == PyTuple_GET_ITEM(keys, i) and value_there == PyTuple_GET_ITEM(values, i):
                    i += 1
        if i == n:
            return True
    try:
        return all([container[key] is value for key, value in zip(keys, values)])
    except LookupError:
        return False


cdef int find_containers(object nest, int depth, list found) except -1:
    """Append the lists and mappings of a nest, with keys and values, unless they make a new value on each access."""
    if depth > FASTOPT_MAX_NDIM:
        return 0  # deeper than any nest of gradients
    if isinstance(nest, (list, Mapping)):
        keys = tuple(nest if isinstance(nest, Mapping) else range(len(nest)))
        values = tuple([nest[key] for key in keys])
        if keys and still_holds(nest, keys, values):
            found.append((nest, keys, values))
        for value in values:
            find_containers(value, depth + 1, found)
    elif isinstance(nest, tuple):
        for entry in nest:
            find_containers(entry, depth + 1, found)
    return 0


cpdef tuple changed_container(list containers):
    """The first container whose values have changed, with its old keys and values, or None."""
    cdef tuple one
    cdef Py_ssize_t i
    for i in range(PyList_GET_SIZE(containers)):
        one = <tuple><object>PyList_GET_ITEM(containers, i)
        if not still_holds(<object>PyTuple_GET_ITEM(one, 0), <tuple><object>PyTuple_GET_ITEM(one, 1),
                           <tuple><object>PyTuple_GET_ITEM(one, 2)):
            return one
    return None
