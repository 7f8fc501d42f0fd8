"""Every rule against naive NumPy, on one array of 1e2 to 1e7 elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastopt import catalogue

Array = NDArray[np.float32]

SIZES = [10**i for i in range(2, 8)]
SHORT_SIZES = SIZES[::2]
RULES = (*catalogue.LECTURE, "adamw")

ELEMENTS_PER_TURN = 10**6  # steps of small arrays are timed together, so that the clock does not count
MOST_STEPS = 100


def by_fastopt(rule: catalogue.Rule, p: Array, g: Array) -> Callable[[], None]:
    optimizer = rule.make([p])
    return lambda: optimizer.step([g])


def by_numpy(rule: catalogue.Rule, p: Array, g: Array) -> Callable[[], None]:
    state: dict[str, Any] = {}
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        rule.plain(p, g, state, t, **rule.options)

    return step


CONTENDERS = {"fastopt": by_fastopt, "numpy": by_numpy}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("by", CONTENDERS)
    metafunc.parametrize("size", SHORT_SIZES if metafunc.config.getoption("--short") else SIZES)
    metafunc.parametrize("rule", RULES)


def test_step(benchmark: Any, pytestconfig: pytest.Config, rule: str, size: int, by: str) -> None:
    random = np.random.default_rng(0)
    p, g = random.standard_normal((2, size), dtype=np.float32)
    step = CONTENDERS[by](catalogue.rules()[rule], p, g)
    benchmark.group = f"{rule}, {size:,} elements"
    benchmark.extra_info.update(rule=rule, size=size, by=by)
    steps = min(MOST_STEPS, max(1, ELEMENTS_PER_TURN // size))
    rounds = 5 if size == SIZES[-1] or pytestconfig.getoption("--short") else 20
    benchmark.pedantic(step, iterations=steps, rounds=rounds, warmup_rounds=1)
    assert np.isfinite(p).all()
