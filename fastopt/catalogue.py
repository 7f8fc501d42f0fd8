"""Every rule: its row of rules.def, the class and the options that run it, and its form in plain NumPy.

Kernels, the command line, benchmarks and tests take their lists from here.  A class names the rows that it runs; all
else follows from the row and the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastopt

from . import _core
from .declarations import VECTOR
from .optimizer import Optimizer
from .optimizers import plain

__all__ = ["LECTURE", "Rule", "classes", "rules", "variants"]

#: The rules of the lecture, simplest first.
LECTURE = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam")


@dataclass(frozen=True)
class Rule:
    """A class with the options by which it runs one row of rules.def."""

    name: str
    #: The row; a class that runs the rows of another one, as `AdamW` does, has a rule of its own name.
    row: str
    optimizer: type[Optimizer]
    options: Mapping[str, Any]
    #: The letters of the state.
    state: tuple[str, ...]
    #: Arrays of the parameter's size that are read plus those that are written, by pass; empty for rules of one pass.
    streams: tuple[int, ...]

    def make(self, params: Any, **options: Any) -> Optimizer:
        """Return an optimizer that runs the rule."""
        optimizer: Optimizer = self.optimizer(params, **{**self.options, **options})
        return optimizer

    @property
    def plain(self) -> Callable[..., None]:
        """The rule in plain NumPy."""
        return plain(self.optimizer.__name__)

    @property
    def by_matrices(self) -> bool:
        """Whether it looks at rows and columns; another rule does its work on vectors."""
        return self.row + VECTOR in _states()

    @property
    def for_vectors(self) -> bool:
        """Whether it does on vectors the work of one that looks at rows and columns."""
        return self.row.endswith(VECTOR)

    @property
    def calls_numpy(self) -> bool:
        """Whether a part of each step is NumPy's, so that memory does not limit it."""
        return self.optimizer._calls_numpy


@cache
def _states() -> dict[str, tuple[str, ...]]:
    return {name: state for name, state, *_ in _core.rules()}


def classes() -> dict[str, type[Optimizer]]:
    """Return every optimizer by its name."""
    found = {name: getattr(fastopt, name) for name in fastopt.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
    }


def variants(name: str) -> dict[str, Rule]:
    """Return the rules that a class runs, by name, the one of its defaults first."""
    cls, states = classes()[name], _states()
    own = "_rules" in vars(cls)
    found: dict[str, Rule] = {}
    for row, options in cls._rules.items():
        if not own and options:
            continue  # an option of the class whose rows it runs
        for of_shape in (row, row + VECTOR):
            if of_shape in states:
                label = of_shape if own else name.lower()
                found[label] = Rule(label, of_shape, cls, options, states[of_shape], cls._streams.get(of_shape, ()))
    return found


@cache
def rules() -> dict[str, Rule]:
    """Return every rule by name: the rows of rules.def in their order, then classes that run rows of others."""
    found = {label: rule for name in classes() for label, rule in variants(name).items()}
    order = [*_states(), *(label for label in found if label not in _states())]
    return {label: found[label] for label in order}
