"""The optimizers whose files are kept in tests/saved, a file for each released version."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import fastopt

SHAPE = (4, 3)


def optimizer(rules: Sequence[str]) -> Any:
    """An optimizer of each of these classes with its defaults; several are one `Combined`."""
    made = [getattr(fastopt, rule)({rule: np.linspace(-1, 1, 12, dtype=np.float32).reshape(SHAPE)}) for rule in rules]
    return made[0] if len(made) == 1 else fastopt.Combined(made)


def step(opt: Any, rules: Sequence[str]) -> None:
    values = np.cos(np.arange(12, dtype=np.float32)).reshape(SHAPE)
    opt.step(dict.fromkeys(rules, values * (1 + opt.step_count)))
