"""Schedules, groups by patterns, and the number of threads."""

from __future__ import annotations

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from math import inf, nan
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import a_shape, image, numbers, same
from fuzz.outcomes import Calls, WrongResultError, attempt, expect
from fuzz.values import a_value, defaults, garbage, is_fixed, is_meant, kind_of
from support.arrays import DTYPES
from support.cases import DEFAULTS
from support.registry import CLASSES

BAD_VALUES = (
    None,
    "0.1",
    nan,
    -1,
    inf,
    [],
    {},
    object(),
    10**400,
    1j,
    np.array([0.5, 0.5]),
    np.array(True),
    float,
    lambda step: 0.5,
)


def scheduled(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """Schedules, good and bad, against the same values set by hand."""
    cls = rng.choice(list(DEFAULTS))
    kinds = {name: kind_of(cls, name) for name in defaults(cls)}
    names = [name for name, kind in kinds.items() if not (kind.is_flag or kind.is_word or is_fixed(cls, name))]
    chosen = rng.sample(names, rng.randrange(1, len(names) + 1))
    steps = rng.randrange(1, 6)
    values = {name: [a_value(rng, kinds[name].first) for _ in range(steps)] for name in chosen}
    others = {name: CLASSES[cls].defaults[name][1:] for name in chosen if kinds[name].is_several}
    spoiled = rng.choice(chosen), rng.randrange(steps)
    bad = rng.choice([value for value in BAD_VALUES if value is None or not is_meant(kinds[spoiled[0]].first, value)])
    failing = False

    def schedule(name: str) -> Any:
        def at(step: int) -> Any:
            if failing and (name, step) == spoiled:
                if bad is None:
                    raise ValueError("no value")
                return bad
            return values[name][min(step, steps - 1)]

        return (at, *others[name]) if name in others else at

    def by_hand(step: int) -> dict[str, Any]:
        return {name: (values[name][step], *others[name]) if name in others else values[name][step] for name in chosen}

    if any(CLASSES[cls].conflict({**defaults(cls), **by_hand(step)}) for step in range(steps)):
        return
    p = numbers(rng, a_shape(rng, np.float32), rng.choice(DTYPES))
    q = p.copy()
    kwargs = {name: schedule(name) for name in chosen}
    tell(cls, p, values, spoiled, bad)
    opts = [getattr(fastopt, cls)(p, **kwargs), getattr(fastopt, cls)(q, **by_hand(0))]
    yield "make scheduled", "right"
    for step in range(steps):
        g = numbers(rng, p.shape, p.dtype)
        if step == spoiled[1]:
            before, failing = (image([p]), repr(opts[0].state), opts[0].step_count), True
            outcome, _ = attempt(opts[0].step, g)
            failing = False
            expect(outcome, "refused")
            if before != (image([p]), repr(opts[0].state), opts[0].step_count):
                raise WrongResultError("a schedule was refused, but something has changed")
            yield "scheduled", outcome
        if step:
            opts[1].groups[0].update(by_hand(step))
        for opt in opts:
            opt.step(g)
        for key, value in {"p": q, **opts[1].state[0]}.items():
            if not same(value, p if key == "p" else opts[0].state[0][key]):
                raise WrongResultError(f"{key} after {step + 1} steps: {opts[0].state[0]}, expected {opts[1].state[0]}")
        yield "scheduled", "right"


def by_pattern(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """Groups by patterns of names."""
    names = rng.sample(["a.w", "a.b", "head.w", "head.b", "x", "a[0]", "*"], rng.randrange(1, 7))
    patterns = rng.sample(["*", "*.b", "head.*", "a.?", "[ah]*", "a[[]0]", "zzz", "", "x"], rng.randrange(5))
    params = {name: np.ones(2) for name in names}
    wanted, left = [], list(names)
    for pattern in patterns:
        wanted.append([name for name in left if fnmatchcase(name, pattern)])
        left = [name for name in left if name not in wanted[-1]]
    good = all(wanted)
    wanted += [left] if left else []
    tell("groups", params, patterns)
    outcome, groups = attempt(fastopt.groups, params, {pattern: {"lr": i} for i, pattern in enumerate(patterns)})
    expect(outcome, "right" if good else "refused")
    if good:
        if [list(group["params"]) for group in groups] != wanted:
            raise WrongResultError(f"groups are {groups}, expected {wanted}")
        opt = fastopt.SGD(groups, lr=0.5)
        opt.step({name: np.ones(2) for name in names})
        for i, members in enumerate(wanted):
            for name in members:
                if (params[name] != 1 - (i if i < len(patterns) else 0.5)).any():
                    raise WrongResultError(f"{name} is {params[name]}")
    spoiled = (params, {"*": garbage(rng)}) if rng.random() < 0.5 else (garbage(rng), {"*": {}})
    tell("groups", *spoiled)
    bad, made = attempt(fastopt.groups, *spoiled)
    if bad == "right" and spoiled[1]["*"] != {}:
        attempt(fastopt.SGD, made)
    yield "groups", outcome


def settings(rng: random.Random, tell: Callable[..., None]) -> Calls:
    before = fastopt.get_num_threads()
    value = rng.choice((1, 2, 64)) if rng.random() < 0.5 else garbage(rng)
    tell("set_num_threads", value)
    outcome, _ = attempt(fastopt.set_num_threads, value)
    after = fastopt.get_num_threads()
    fastopt.set_num_threads(before)
    if after != (value if outcome == "right" else before) or after < 1:
        raise WrongResultError(f"get_num_threads() is {after}")
    yield "set_num_threads", outcome
