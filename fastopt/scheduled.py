"""Hyperparameters of which some are schedules: their values at a step, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from reprlib import repr as brief
from typing import Any

from .declarations import check_number, is_schedule
from .scalars import PLAIN, unwrapped
from .warn import warn_user

ON = 0.5  # the value of a schedule where the rule is chosen, and so its state: other than 0


def scheduled(label: str, name: str, schedule: Any, step_count: int) -> float:
    """Return the value of a schedule for the step after this many, in the range of an option of this name; or raise."""
    return check_number(f"{label} after {step_count} steps: {name}", name, schedule(step_count))


def is_scheduled(hyper: Mapping[str, Any]) -> bool:
    """Return whether there is a schedule among these hyperparameters, alone or in a pair."""
    for key, value in hyper.items():
        if type(value) in PLAIN or key == "params":
            continue
        if isinstance(value, (tuple, list)):
            if any(type(part) not in PLAIN and is_schedule(part) for part in value):
                return True
        elif is_schedule(value):
            return True
    return False


def each(hyper: Mapping[str, Any], change: Callable[[Any], Any]) -> Mapping[str, Any]:
    """Return hyperparameters with each schedule replaced by the result of `change`; as given if there is none."""
    if not is_scheduled(hyper):
        return hyper

    def changed(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(changed, value))
        return change(value) if is_schedule(value) else value

    return {key: value if key == "params" else changed(value) for key, value in hyper.items()}


def at(hyper: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """Return hyperparameters as they are for the step after this many."""

    def value(schedule: Any) -> Any:
        return unwrapped(schedule(step))

    return each(hyper, value)


def peak_of_rate(hyper: Mapping[str, Any]) -> float:
    """Return the largest value of a schedule of lr, times lr_scale, or 0 where it is not known."""
    lr, lr_scale = hyper["lr"], hyper["lr_scale"]
    if not is_schedule(lr) or is_schedule(lr_scale):
        return 0.0
    from . import schedules  # only those who use them pay for them

    peak: float = (schedules.peak_of(lr) or 0.0) * lr_scale
    return peak if 0 <= peak < math.inf else 0.0


def with_schedules(values: dict[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the schedules of these hyperparameters in their places."""
    if not is_scheduled(hyper):
        return values

    def chosen(value: Any, given: Any) -> Any:
        if is_schedule(given):
            return given
        return tuple(map(chosen, value, given)) if isinstance(value, tuple) else value

    return {key: chosen(value, hyper[key]) for key, value in values.items()}


def saved(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as plain data."""

    def plainly(schedule: Any) -> Any:
        from . import schedules  # imported by those alone who use them

        return schedules.saved(schedule)

    plain = each(hyper, plainly)
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()}


def restored(
    label: str, hyper: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Callable[[], None]]]:
    """Return the hyperparameters that `saved` gave, and functions that restore states of schedules; or raise."""
    restorers: list[Callable[[], None]] = []

    def one(where: str, here: Any, value: Any) -> Any:
        if is_schedule(here):
            from . import schedules

            restorers.append(schedules.restorer(where, here, value))
            return here
        if isinstance(value, Mapping):
            from . import schedules

            raise ValueError(
                f"{where} must be a number, as in this optimizer, got a schedule, {brief(value)}{schedules.HINT}"
            )
        if isinstance(here, tuple) and isinstance(value, (tuple, list)) and len(here) == len(value):
            return tuple(one(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(here, value, strict=True)))
        return value

    return {key: one(f"{label}: {key}", hyper[key], value) for key, value in entry.items()}, restorers


def warn_of_passed(changes: Sequence[tuple[str, Mapping[str, Any]]], step_count: int) -> None:
    """Warn of schedules that will not change any more, before they are set: a warning may be made an error.

    Each change is the name of a class and hyperparameters.
    """
    found: dict[str, None] = {}

    def look(label: str, schedule: Callable[[int], Any]) -> None:
        from . import schedules

        horizon = schedules.horizon_of(schedule)
        if horizon is not None and 0 < horizon <= step_count:
            found[f"{label} is {schedule!r}, which stays the same from step {horizon} on"] = None

    for name, hyper in changes:
        if is_scheduled(hyper):
            for key, value in hyper.items():
                each({key: value}, partial(look, f"{name}: {key}"))
    if found:
        warn_user(
            f"{'; '.join(found)}, but {step_count} steps have been made: fastopt.schedules.shift(schedule,"
            " opt.step_count) starts it now",
            UserWarning,
        )
