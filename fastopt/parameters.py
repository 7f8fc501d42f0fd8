"""How parameters are given: as a nest of arrays, or as groups with hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile
from reprlib import repr as brief
from typing import Any, TypeAlias

from . import _core
from .calls import checks_arguments
from .labels import label_of
from .nest import Array, Name, Part, Place, is_consumed, is_nest, members, places

Params: TypeAlias = Array | Sequence[Any] | Mapping[Name, Any] | Iterable[Any]
# A group's nest of arrays, its hyperparameters, and its mapping, or None where there are no groups.
Given: TypeAlias = tuple[Any, dict[str, Any], Mapping[str, Any] | None]


@checks_arguments
def groups(params: Mapping[str, Array], patterns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make parameter groups from named parameters by patterns of their names.

    ::

        opt = fastopt.AdamW(fastopt.groups(params, {"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 1e-2}}), lr=1e-3)
        opt.step(grads)         # one mapping, like the parameters

    Parameters
    ----------
    params : mapping of name to array
        The parameters; names are strings.  Arrays may be nested: the name of params["block"]["w"] is "block.w".
    patterns : mapping of pattern to mapping
        For each pattern, the hyperparameters in which its group differs.  Patterns are those of `fnmatch`: ``*``
        matches anything, ``?`` one character, ``[abc]`` one of these characters.  Case matters.  A parameter belongs to
        the first pattern that matches its name.

    Returns
    -------
    list of dict
        A group for each pattern, in their order, and then a group for the parameters that match no pattern.  Within a
        group parameters keep their order.  Every optimizer takes this list as its parameters.

    Raises
    ------
    TypeError, ValueError
        For a pattern whose group has no parameters, and for a value that is not a mapping.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"hidden.w": np.ones((3, 2)), "hidden.b": np.ones(2), "out.w": np.ones((2, 1))}
    >>> found = fastopt.groups(params, {"*.b": {"weight_decay": 0.0}, "out.*": {"lr_scale": 10}})
    >>> [list(group["params"]) for group in found]
    [['hidden.b'], ['out.w'], ['hidden.w']]
    """
    from fnmatch import fnmatchcase  # slow to import

    if not isinstance(params, Mapping):
        raise TypeError(f"groups: params must be a mapping of name to array, got {type(params).__name__}")
    if not params:
        raise ValueError("groups: params must hold at least one array, got none")
    if not isinstance(patterns, Mapping):
        raise TypeError(f"groups: patterns must be a mapping of pattern to hyperparameters, got {brief(patterns)}")
    structure, names, arrays = members("groups: params", params, 0)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"groups: params must have names that are str, got {brief(name)}")
    left: dict[str, Array] = dict(zip(map(str, names), arrays, strict=True))
    check_names("groups", names)
    known, where = list(left), list(places(params, structure, names))
    found: list[dict[str, Any]] = []
    for pattern, overrides in patterns.items():
        if not isinstance(pattern, str):
            raise TypeError(f"groups: patterns must be str, got {brief(pattern)}")
        if not isinstance(overrides, Mapping):
            raise TypeError(f"groups: overrides of {pattern!r} must be a mapping, got {brief(overrides)}")
        if "params" in overrides:
            raise ValueError(f"groups: overrides of {pattern!r} must be hyperparameters, got 'params'")
        matching = [name for name in left if fnmatchcase(name, pattern)]
        if not matching:
            taken = [name for name in known if fnmatchcase(name, pattern)]
            what = f"but earlier patterns have {brief(taken)}" if taken else f"got none of {brief(known)}"
            raise ValueError(f"groups: pattern {pattern!r} must match a name that is left, {what}")
        found.append({**overrides, "params": Part({name: left.pop(name) for name in matching}, where)})
    if left:
        found.append({"params": Part(left, where)})
    return found


def split_groups(label: str, params: Params, hyper: Mapping[str, Any]) -> tuple[bool, list[Given]]:
    """Return whether parameters come in groups, and each group as it is given."""
    grouped = False
    if is_consumed(params):
        consumed = iter(params)
        begin = list(islice(consumed, 1))
        grouped = bool(begin) and is_group(begin[0])
        params = list(chain(begin, consumed)) if grouped else chain(begin, consumed)
    elif _core.is_sequence(params):
        grouped = any(map(is_group, takewhile(is_nest, params)))
    if not grouped:
        return False, [(params, dict(hyper), None)]
    groups: list[Given] = []
    for i, group in enumerate(params):
        if not is_group(group):
            raise TypeError(
                f'{label}: params[{i}] must be a mapping with "params", like the other groups, got {brief(group)}'
            )
        groups.append((group["params"], group_hyper(f"{label}: params[{i}]", group, hyper), group))
    return True, groups


def group_hyper(where: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a group, its own and for the others the defaults, and keys of the user's own."""
    others = [key for key in group if key != "params" and key not in defaults]
    own = {key: label_of(where, key, group[key], defaults) for key in others}
    return {key: group.get(key, default) for key, default in defaults.items()} | own


def check_names(label: str, names: Sequence[Name]) -> None:
    """Raise ValueError where two parameters have one name."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{label}: names of params must be unique, got {twice!r} twice")


def is_group(value: Any) -> bool:
    """Return whether a value is a group of parameters."""
    return isinstance(value, Mapping) and "params" in value


def places_of(given: Sequence[Given], structures: Sequence[Any], names_of: Sequence[list[Name]]) -> Iterator[Place]:
    """Yield where the arrays of groups are."""
    for (params, _, group), structure, names in zip(given, structures, names_of, strict=True):
        if group is not None and names:
            yield group, "params", params, names
        yield from places(params, structure, names)
        if isinstance(params, Part):
            yield from params.places
