"""The options of a step and of the averages: their names, their checks, and their values in C."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any, Literal, TypedDict

import numpy as np

from .calls import nearest
from .declarations import check_number, is_schedule
from .loss_scale import LossScale
from .scalars import each_unwrapped, is_integer, unwrapped
from .scheduled import scheduled
from .threads import check_threads

NONFINITE = ("propagate", "raise", "skip")
CLIP_NORM_PER = ("all", "group", "parameter")
PER_STEP = ("grad_scale", "clip_norm", "clip_value")  # numbers that a step can be given
# The averages of a parameter, and the option that asks for each.
AVERAGES = {"ema": "ema_decay", "swa": "swa", "slow": "lookahead"}
# The fields of fastopt_options, as they are where nothing is asked for.
NO_OPTIONS = {
    "weight_decay": 0.0,
    "decoupled_decay": 0.0,
    "independent_decay": 0.0,
    "cautious_decay": False,
    "corrected_decay": False,
    "peak_lr": 0.0,
    "maximize": False,
    "ema_decay": 0.0,
    "swa_start": 0,
    "swa_every": 0,
    "lookahead_every": 0,
    "lookahead_rate": 0.0,
}


class OneStep(TypedDict, total=False):
    """The options that one step can be given."""

    grad_scale: float | LossScale | None
    clip_norm: float | None
    clip_value: float | None
    zero_grads: bool | None
    accumulated: Literal["mean", "sum"]


def all_options(label: str, options: Mapping[str, Any], averages_of_rule: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of an optimizer, of its steps and its averages, as Python's own values, or raise."""
    num_threads, ema_decay = map(unwrapped, (options["num_threads"], options["ema_decay"]))
    swa, lookahead = map(each_unwrapped, (options["swa"], options["lookahead"]))
    checked = checked_options(label, {**options, "num_threads": num_threads})
    checked |= {"ema_decay": ema_decay, "swa": swa, "lookahead": lookahead}
    checked["seed"] = checked_seed(label, options["seed"])
    check_averages(label, ema_decay, swa, lookahead)
    check_catch_up(label, checked)
    if lookahead is not None and averages_of_rule:
        raise ValueError(
            f"{label}: lookahead must be None for a rule that keeps an average of the parameters, got"
            f" {brief(lookahead)}"
        )
    return checked


def checked_options(label: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of all steps as Python's own values, or raise TypeError or ValueError."""
    nonfinite, num_threads = options["nonfinite"], options["num_threads"]
    if nonfinite not in NONFINITE:
        raise ValueError(f"{label}: nonfinite must be one of {', '.join(NONFINITE)}, got {brief(nonfinite)}")
    if num_threads is not None:
        check_threads(f"{label}: num_threads", num_threads, " or None")
    per, max_skips, clip_norm = options["clip_norm_per"], options["max_skips"], options["clip_norm"]
    if not isinstance(per, str) or per not in CLIP_NORM_PER:
        raise ValueError(f"{label}: clip_norm_per must be one of {', '.join(CLIP_NORM_PER)}, got {brief(per)}")
    if max_skips is not None:
        check_count(f"{label}: max_skips", max_skips)
        if nonfinite != "skip":
            raise ValueError(f'{label}: max_skips must be None unless nonfinite is "skip", got {max_skips!r}')
    of_one_step = {key: options[key] for key in (*PER_STEP, "zero_grads")}
    if is_schedule(clip_norm):
        of_one_step["clip_norm"] = scheduled(label, "clip_norm", clip_norm, 0)
    checked = {**options, **checked_for_one_step(label, of_one_step, nonfinite)}
    return checked | {"clip_norm": clip_norm} if is_schedule(clip_norm) else checked


def checked_for_one_step(label: str, changes: Mapping[str, Any], nonfinite: str) -> dict[str, Any]:
    """Return those of these options of one step that are given, as Python's own values, or raise."""
    unknown = set(changes) - set(OneStep.__annotations__)
    if unknown:
        known, first = list(OneStep.__annotations__), min(unknown)
        raise TypeError(f"{label}: options of one step are {', '.join(known)}, got {first!r}{nearest(first, known)}")
    given: dict[str, Any] = {}
    for key in PER_STEP:
        value = changes.get(key)
        if isinstance(value, LossScale):
            if key != "grad_scale" or nonfinite != "skip":
                raise ValueError(f'{label}: a LossScale must be the grad_scale with nonfinite="skip", got {key}')
            given[key] = value
        elif value is not None:
            given[key] = check_number(f"{label}: {key}", key, value)
    accumulated = changes.get("accumulated", "mean")
    if not isinstance(accumulated, str) or accumulated not in ("mean", "sum"):
        raise ValueError(f"{label}: accumulated must be mean or sum, got {brief(accumulated)}")
    zero_grads = unwrapped(changes.get("zero_grads"))
    if zero_grads is not None:
        if not isinstance(zero_grads, (bool, np.bool_)):
            raise TypeError(f"{label}: zero_grads must be True or False, got {brief(zero_grads)}")
        given["zero_grads"] = bool(zero_grads)
    return given


def check_averages(label: str, ema_decay: Any, swa: Any, lookahead: Any) -> None:
    """Raise TypeError or ValueError unless these options are valid."""
    if ema_decay is not None:
        decay_at(label, ema_decay, 0)
    for name, pair, words in (("swa", swa, "(start, every)"), ("lookahead", lookahead, "(every, rate)")):
        if pair is not None and (not isinstance(pair, (tuple, list)) or len(pair) != 2):
            raise TypeError(f"{label}: {name} must be a pair {words} or None, got {brief(pair)}")
    if swa is not None:
        check_count(f"{label}: swa[0]", swa[0])
        check_count(f"{label}: swa[1]", swa[1])
    if lookahead is not None:
        check_count(f"{label}: lookahead[0]", lookahead[0])
        check_number(f"{label}: lookahead[1]", "lookahead_rate", lookahead[1])


def check_catch_up(label: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless `catch_up` is valid with the other options."""
    if not isinstance(catch_up := unwrapped(options["catch_up"]), (bool, np.bool_)):
        raise TypeError(f"{label}: catch_up must be True or False, got {brief(catch_up)}")
    if catch_up and any(options[option] is not None for option in AVERAGES.values()):
        raise ValueError(
            f"{label}: catch_up must be False with averages of the parameters, since missed steps move a row, got True"
        )


def checked_seed(label: str, seed: Any) -> int:
    """Return a seed as Python's own integer, or raise ValueError."""
    if not is_integer(number := unwrapped(seed)) or not 0 <= number < 1 << 64:
        raise ValueError(f"{label}: seed must be an integer in [0, 2**64), got {brief(seed)}")
    return int(number)


def decay_at(label: str, ema_decay: Any, step_count: int) -> float:
    """Return the decay of the average in the step after so many, or raise TypeError or ValueError."""
    if is_schedule(ema_decay):
        return check_number(f"{label} after {step_count} steps: ema_decay", "ema_decay", ema_decay(step_count))
    return check_number(f"{label}: ema_decay", "ema_decay", ema_decay)


def check_count(label: str, value: Any) -> None:
    """Raise ValueError unless a value is a number of steps above 0."""
    if not is_integer(value) or not 1 <= value < 1 << 62:
        raise ValueError(f"{label} must be an integer >= 1, got {brief(value)}")


def averages_kept(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the averages that state has room for, whatever the rule."""
    return tuple(name for name, option in AVERAGES.items() if options[option] is not None)


def for_every_rule(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of fastopt_options that the options of an optimizer set; those of its groups are off."""
    decay = options["ema_decay"]
    start, every = options["swa"] or (0, 0)
    steps, rate = options["lookahead"] or (0, 0)
    return {
        **NO_OPTIONS,
        "ema_decay": 0.0 if is_schedule(decay) else decay or 0.0,
        "swa_start": start,
        "swa_every": every,
        "lookahead_every": steps,
        "lookahead_rate": rate,
    }
