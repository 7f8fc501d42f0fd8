"""Schedules for tests, their values, and optimizers of two groups that follow them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastopt import schedules as s
from support.arrays import gradients
from support.asserts import assert_same_bits

FALL, RISE = s.linear(0.2, 0.01, 5), s.warmup(s.cosine(0.9, 6, 0.5), 3, 0.4)


def values(schedule: Callable[[int], float], steps: int) -> list[float]:
    return [schedule(t) for t in range(steps)]


def assert_close(ours: list[float], theirs: list[float]) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-17)


def two_groups(case_or_cls: Any, dtype: Any = np.float32, lr2: Any = None, **kwargs: Any) -> tuple[Any, Iterator[Any]]:
    """An optimizer of two groups, and gradients for it."""
    rng = np.random.default_rng(4)
    a, b, c = (rng.standard_normal(n).astype(dtype) for n in (5, 70, 3))
    make = case_or_cls.make if hasattr(case_or_cls, "make") else case_or_cls
    groups = [{"params": [a, b]}, {"params": {"c": c}} | ({} if lr2 is None else {"lr": lr2})]
    opt = make(groups, **kwargs)
    streams = [gradients(i, len(p), dtype) for i, p in enumerate((a, b, c))]
    return opt, iter(lambda: [[next(streams[0]), next(streams[1])], {"c": next(streams[2])}], None)


def assert_same_run(one: Any, other: Any) -> None:
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        for p, q in zip(mine["params"], theirs["params"], strict=True):
            assert_same_bits(p, q)
    for name, arrays in one.state.items():
        for letter, array in arrays.items():
            assert_same_bits(array, other.state[name][letter], f"{name}: {letter}")
    assert one.step_count == other.step_count
