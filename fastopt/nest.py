"""Arrays in nested mappings and sequences: their structure, their names, and the containers they came in.

The structure of a nest is None for an array, the length of a sequence of arrays, the tuple of keys of a mapping of
arrays; with containers among its entries, a list or a dict of their structures.
"""

from __future__ import annotations

from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, ValuesView
from reprlib import repr as brief
from typing import Any, TypeAlias

import numpy as np

from . import _core

Array: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[Any]]  # NDArray[Any], but numpy.typing is slow to import
Name: TypeAlias = str | int
# A container, where in it arrays and containers are, these, and for each the name of its first parameter.
Watched: TypeAlias = tuple[Any, tuple[Any, ...], tuple[Any, ...], tuple[Name, ...]]

MAX_DEPTH = 64


def is_consumed(value: Any) -> bool:
    """Return whether a value gives its entries in an order, but cannot be asked for one of them."""
    return isinstance(value, (Iterator, ValuesView))


def is_container(value: Any) -> bool:
    """Return whether a value is a nest of arrays rather than an array."""
    if isinstance(value, np.ndarray):
        return False  # the most common, found at once
    return isinstance(value, Mapping) or _core.is_sequence(value) or is_consumed(value)


def is_nest(value: Any) -> bool:
    """Return whether a value is an array or a container, which may hold some."""
    return isinstance(value, np.ndarray) or is_container(value)


def members(label: str, params: Any, first: int) -> tuple[Any, list[Name], list[Array]]:
    """Return the structure of a nest, its parameters' names, and the arrays.

    A name is the array's key or its index, counted from `first`; within nested containers all those on the way, joined
    with dots.
    """
    if not is_nest(params):
        raise TypeError(f"{label} must be an array, a sequence or a mapping of arrays, got {type(params).__name__}")
    names: list[Name] = []
    arrays: list[Array] = []

    def structure_of(value: Any, way: tuple[Any, ...]) -> Any:
        if not is_container(value):
            names.append(way[0] if len(way) == 1 else ".".join(map(str, way)))
            arrays.append(value)
            if not isinstance(value, np.ndarray):  # the sequence may be endless
                hint = "; fastopt.torch has the rules for tensors" if _core.is_tensor(value) else ""
                raise TypeError(
                    f"{label}: {describe(names[-1])} must be a numpy.ndarray, got {type(value).__name__}{hint}"
                )
            return None
        if len(way) > MAX_DEPTH:
            raise ValueError(f"{label} must be nested at most {MAX_DEPTH} deep, got more")
        by_key = isinstance(value, Mapping)
        inner: list[Any] = []
        keys: list[Any] = []
        for key, entry in entries(value):
            keys.append(key)
            if by_key:
                if not isinstance(key, (str, int, np.integer)):
                    raise TypeError(f"{label} must have names that are str or int, got {brief(key)}")
                step = int(key) if isinstance(key, np.integer) else key
            else:
                step = key if way else first + key
            inner.append(structure_of(entry, (*way, step)))
        if by_key:
            return tuple(keys) if not any_container(inner) else dict(zip(keys, inner, strict=True))
        return len(inner) if not any_container(inner) else inner

    if isinstance(params, np.ndarray):
        return structure_of(params, (first,)), names, arrays
    return structure_of(params, ()), names, arrays


def any_container(structures: Sequence[Any]) -> bool:
    """Return whether one of these structures is a container's."""
    return any(structure is not None for structure in structures)


def entries(container: Any) -> Iterable[tuple[Any, Any]]:
    """Return the keys or indices of a container with its entries."""
    return container.items() if isinstance(container, Mapping) else enumerate(container)


def together(structure: Any, arrays: Iterator[Any]) -> Any:
    """Return arrays in a structure."""
    if structure is None:
        return next(arrays)
    if isinstance(structure, (int, list)):
        inner = [None] * structure if isinstance(structure, int) else structure
        return [together(entry, arrays) for entry in inner]
    keys = dict.fromkeys(structure) if isinstance(structure, tuple) else structure
    return {key: together(entry, arrays) for key, entry in keys.items()}


# ---- The containers, which may come to hold other arrays ----

# A container, its keys or indices, its values, and the names of the parameters in it.
Place: TypeAlias = tuple[Any, Any, Any, Sequence[Name]]


def places(params: Any, structure: Any, names: Sequence[Name]) -> Iterator[Place]:
    """Yield where the arrays and containers of a nest are.  What has been consumed is nowhere."""
    if structure is None or is_consumed(params):
        return
    if isinstance(structure, (int, tuple)):  # of arrays alone
        keys = range(structure) if isinstance(structure, int) else structure
        for key, name in zip(keys, names, strict=True):
            yield params, key, params[key], (name,)
        return
    first = 0
    for key, inner in entries(structure):
        end = first + leaves(inner)
        if first < end:
            entry = params[key]
            yield params, key, entry, names[first:end]
            yield from places(entry, inner, names[first:end])
        first = end


class Part(dict[str, Any]):
    """Some of the arrays of a nest, by name, and where in the nest they are."""

    def __init__(self, arrays: Mapping[str, Array], found: Iterable[Place]) -> None:
        super().__init__(arrays)
        self.places = [place for place in found if any(name in arrays for name in place[3])]


def leaves(structure: Any) -> int:
    """Return how many arrays a structure has."""
    if structure is None:
        return 1
    if isinstance(structure, (int, tuple)):
        return structure if isinstance(structure, int) else len(structure)
    return sum(leaves(entry) for entry in (structure.values() if isinstance(structure, dict) else structure))


def watched(found: Iterable[Place]) -> list[Watched]:
    """Return the containers that can be watched: those that hold the same object each time they are asked."""
    by_container: dict[int, tuple[Any, dict[Any, tuple[Any, Name]]]] = {}
    for container, key, entry, names in found:
        if not isinstance(container, tuple):  # which stays as it is
            by_container.setdefault(id(container), (container, {}))[1][key] = entry, names[0]
    result: list[Watched] = []
    for container, held in by_container.values():
        # In its order, in which it is looked at.
        keys = tuple(key for key in container if key in held) if isinstance(container, Mapping) else tuple(sorted(held))
        one = container, keys, tuple(held[key][0] for key in keys), tuple(held[key][1] for key in keys)
        if holds(one):
            result.append(one)
    return result


def holds(one: Watched) -> bool:
    """Return whether a container holds the same values as before."""
    return _core.still_holds(*one[:3])


COPIED = {dict, list, tuple, OrderedDict, UserDict, UserList, deque}  # others may not be made to be copied


def can_be_copied(value: Any, parameters: Collection[int], depth: int = 0) -> bool:
    """Return whether a container can be copied with the optimizer: it holds parameters (their ids) and plain values."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return True
    if isinstance(value, np.ndarray):
        return id(value) in parameters
    if type(value) not in COPIED or depth > MAX_DEPTH:
        return False
    return all(can_be_copied(entry, parameters, depth + 1) for _, entry in entries(value))


def describe(name: Name) -> str:
    """Return a parameter's name as messages show it."""
    return f"parameter {name}" if isinstance(name, int) else repr(name)
