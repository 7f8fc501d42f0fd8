"""The names of a rule, from the arguments of its function: parameter, gradient, state, hyperparameters, scalars."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, NamedTuple

from ..declarations import as_float
from ..optimizer import Optimizer
from .ranges import Range, annotated_ranges, usual_range


class Names(NamedTuple):
    """The names of a rule."""

    p: str
    g: str
    #: Each buffer with its kind.
    state: dict[str, str]
    #: Each hyperparameter with its default and its range.
    hyper: dict[str, tuple[float, Range]]
    scalars: list[str]


def names_of(label: str, function: Callable[..., Any], exact: Sequence[str]) -> Names:
    """Read the names of a rule from the signature of a function, or raise TypeError or ValueError."""
    ranges = annotated_ranges(label, function)
    parameters = inspect.signature(function).parameters.values()
    by_position = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    by_name = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    if len(by_position) + len(by_name) < len(parameters):
        raise TypeError(f"{label}: arguments must have names, got {inspect.signature(function)}")
    if len(by_position) < 2:
        raise TypeError(f"{label} must take p and g by position, got {inspect.signature(function)}")
    for one in by_position:
        if one.default is not one.empty:
            raise TypeError(f"{label}: {one.name} must have no default; hyperparameters stand after *")

    state: dict[str, str] = {}
    for one in by_position[2:]:
        nonnegative = one.name in ranges and ranges[one.name].low >= 0
        state[one.name] = "exact" if one.name in exact else "nonnegative" if nonnegative else "signed"
    for name in exact:
        if name not in state:
            raise ValueError(f"{label}: exact must have names of state, {list(state)}, got {brief(name)}")
    hyper: dict[str, tuple[float, Range]] = {}
    for one in by_name:
        if one.default is not one.empty:
            of = ranges.get(one.name) or usual_range(one.name)
            default = as_float(f"{label}: {one.name}", one.default)
            of.check(f"{label}: {one.name}", default)
            hyper[one.name] = default, of
    check_hyper(label, hyper, ranges)
    p, g = by_position[0].name, by_position[1].name
    return Names(p, g, state, hyper, [one.name for one in by_name if one.default is one.empty])


def check_hyper(label: str, hyper: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raise TypeError unless these can be hyperparameters beside the options of every rule."""
    first = next(iter(hyper), "none")
    if first != "lr" or "lr" in ranges:
        got = "a Range of its own" if first == "lr" else first
        raise TypeError(f"{label}: the first hyperparameter must be lr, with the range of lr in all rules, got {got}")
    for name in hyper:
        if name != "lr" and name in Optimizer._declared:
            raise TypeError(f"{label}: {name} must have another name, since it is an option of every rule")


def by_position(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function takes by position."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]


def arguments_by_name(function: Callable[..., Any]) -> list[str] | None:
    """Return the names of the arguments after those by position; None unless all are by name, without defaults."""
    parameters = inspect.signature(function).parameters.values()
    first, others = by_position(function), [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    plain = len(first) + len(others) == len(parameters) and all(one.default is one.empty for one in parameters)
    return [one.name for one in others] if first and plain else None
