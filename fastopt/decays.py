"""The decays that bias corrections use, where they change from step to step, as a state dict holds them.

A correction divides by 1 minus the product of a decay's values so far.  The core keeps for each parameter and decay the
value of its last steps, the count of steps before these (``since``), the product of the values on those, and ``age``,
the sum of the weights of their gradients in the running mean, each times its age in steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any

from .declarations import check_number

Decay = Mapping[str, float]
KEYS = ("value", "since", "product", "age")


def value_of(hyper: Mapping[str, Any], name: str, parts: Mapping[str, tuple[str, ...]]) -> Any:
    """Return a hyperparameter by its name in rules.def, or the schedule that it comes from.

    `parts` are the names there of hyperparameters that have others here, or that are several numbers.
    """
    for key, names in parts.items():
        if name in names and key in hyper:
            value = hyper[key]
            return value[names.index(name)] if isinstance(value, (tuple, list)) else value
    return hyper[name]


def saved_decays(
    decays: Mapping[str, Decay], hyper: Mapping[str, Any], parts: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, float]]:
    """Return the decays that differ from the hyperparameters in some step so far."""
    return {
        name: dict(decay)
        for name, decay in decays.items()
        if decay["since"] or decay["value"] != value_of(hyper, name, parts)
    }


def restored_decays(
    label: str,
    given: Any,
    hyper: Mapping[str, Any],
    parts: Mapping[str, tuple[str, ...]],
    names: Sequence[str],
    steps: int,
) -> dict[str, Decay]:
    """Return all decays with these names after this many steps, from the result of `saved_decays`, or raise."""
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        raise ValueError(f"{label} must be a mapping of names among {', '.join(names) or 'none'}, got {brief(given)}")
    return {
        name: _restored(f"{label}: {name}", name, given[name], steps)
        if name in given
        else _constant(f"{label}: {name}", name, value_of(hyper, name, parts))
        for name in names
    }


def _constant(label: str, name: str, value: Any) -> Decay:
    """Return a decay that has always been the same."""
    if isinstance(value, Mapping):
        raise ValueError(f"{label} must be given, since a schedule sets it, but it is missing")
    return {"value": check_number(label, name, value), "since": 0, "product": 1.0, "age": 0.0}


def _restored(label: str, name: str, given: Any, steps: int) -> Decay:
    if not isinstance(given, Mapping) or set(given) != set(KEYS):
        raise ValueError(f"{label} must be a mapping with {', '.join(KEYS)}, got {brief(given)}")
    since, product, age = given["since"], given["product"], given["age"]
    if isinstance(since, bool) or not isinstance(since, int) or not 0 <= since <= steps:
        raise ValueError(f"{label}: since must be an integer in [0, {steps}], the steps made, got {brief(since)}")
    if not isinstance(product, float) or not 0 <= product <= 1:
        raise ValueError(f"{label}: product must be a float in [0, 1], got {brief(product)}")
    if not isinstance(age, float) or not 0 <= age <= since:
        raise ValueError(f"{label}: age must be a float in [0, {since}], got {brief(age)}")
    value = check_number(f"{label}: value", name, given["value"])
    return {"value": value, "since": since, "product": product, "age": age}
