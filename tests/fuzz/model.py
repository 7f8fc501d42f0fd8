"""An optimizer beside the oracles of its parameters: made alike, and compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import FORMATS, Placed, a_shape, container, numbers, same
from fuzz.outcomes import WrongResultError, attempt, expect
from fuzz.values import Array, a_value, defaults, kind_of, scaled, understood
from support import reference
from support.arrays import DTYPES
from support.cases import AVERAGING, DEFAULTS, Case, Oracle
from support.registry import CLASSES


class Parameter:
    """A parameter, where it lives, and what the oracle says of it."""

    def __init__(self, rng: random.Random, name: Any, group: int) -> None:
        self.name, self.group = name, group
        self.dtype = rng.choice(DTYPES)
        self.values = numbers(rng, a_shape(rng, self.dtype), self.dtype)
        self.oracle: Oracle
        self.averages: reference.Averages
        self.move(rng, self.values)
        self.first = self.array

    def move(self, rng: random.Random, values: Array) -> None:
        """Lie elsewhere."""
        self.placed = Placed(rng, values)
        self.array = self.placed.array


class Model:
    """An optimizer and what it must be like, from its making to its end."""

    def __init__(self, rng: random.Random, tell: Callable[..., None]) -> None:
        self.rng, self.tell = rng, tell
        self.cls = rng.choice(list(DEFAULTS))
        self.kinds: list[str] = []
        self.parameters: list[Parameter] = []
        self.grouped = rng.random() < 0.4
        for group in range(rng.choice((1, 1, 2, 3)) if self.grouped else 1):
            kind = rng.choice(("array", "sequence", "sequence", "mapping", "nest"))
            count = 1 if kind == "array" else rng.choice((1, 2, 2, 3, 5))
            first = len(self.parameters)
            names = [f"p{first + i}" if kind == "mapping" else first + i for i in range(count)]
            if kind == "nest":
                names = [f"b{first}.{i}" if first % 2 else f"b{first}.p{i}" for i in range(count)]
            self.kinds.append(kind)
            self.parameters += [Parameter(rng, name, group) for name in names]
        self.given: list[dict[str, Any]] = [{} for _ in self.kinds]
        self.options: dict[str, Any] = {}
        if rng.random() < 0.3:
            self.options["nonfinite"] = rng.choice(("propagate", "raise", "skip"))
        if rng.random() < 0.3:
            self.options["num_threads"] = rng.choice((None, 1, 2, 3, 1000, np.int64(2)))
        if rng.random() < 0.2:
            averages = {
                "ema_decay": rng.choice((0, 0.5, 0.999, np.float32(0.9))),
                "swa": (rng.choice((1, 2, 5)), rng.choice((1, np.int64(2)))),
                "lookahead": [rng.choice((1, 2, 3)), rng.choice((0, 0.5, 1))],
            }
            if self.cls in AVERAGING:
                del averages["lookahead"]
            self.options |= {name: averages[name] for name in averages if rng.random() < 0.6}
        self.scale, self.good_steps = 0.0, 0
        if rng.random() < 0.1:
            self.scale = rng.choice((0.25, 8.0, 3.0))
            self.options |= {"nonfinite": "skip", "grad_scale": fastopt.LossScale(self.scale, interval=2)}
        self.shared = self.hyper()
        if self.grouped:
            self.given = [self.hyper() if rng.random() < 0.5 else {} for _ in self.kinds]
            for given in self.given:
                if rng.random() < 0.2:
                    given["lr_scale"] = a_value(rng, kind_of(self.cls, "lr_scale"))
        self.step_count = self.skipped = 0
        self.bound: list[Any] | None = None
        self.holder: Any = None  # the containers in which the parameters are, where that is known
        self.over = False  # whether it is left in a state that this test does not follow

    def hyper(self) -> dict[str, Any]:
        names = [name for name in defaults(self.cls) if self.rng.random() < 0.3]
        return {name: a_value(self.rng, kind_of(self.cls, name)) for name in names}

    def members(self, group: int) -> list[Parameter]:
        return [p for p in self.parameters if p.group == group]

    def build(self, arrays: Sequence[Any], lazy: bool = False) -> Any:
        """Arrays, one per parameter, in the structure of the parameters."""
        groups = []
        for group, kind in enumerate(self.kinds):
            mine = [array for p, array in zip(self.parameters, arrays, strict=True) if p.group == group]
            groups.append(container(self.rng, kind, [p.name for p in self.members(group)], mine, lazy))
        return groups if self.grouped else groups[0]

    def params(self) -> Any:
        params = self.build([p.array for p in self.parameters])
        if not self.grouped:
            return params
        return [{"params": entry, **given} for entry, given in zip(params, self.given, strict=True)]

    def make(self, params: Any, **spoiled: Any) -> Any:
        kwargs = {**self.shared, **self.options, **spoiled}
        self.tell(self.cls, params, kwargs)
        return getattr(fastopt, self.cls)(params, **kwargs)

    def begin(self) -> bool:
        """Make the optimizer; False when its hyperparameters are refused, as they should be."""
        self.settings = [
            {**defaults(self.cls), "lr_scale": 1.0, **self.shared, **self.given[group]}
            for group in range(len(self.kinds))
        ]
        try:
            meant = [understood(self.cls, settings) for settings in self.settings]
        except ValueError:
            meant = []
        params = self.params()
        self.holder = [group["params"] for group in params] if self.grouped else params
        outcome, self.opt = attempt(self.make, params)
        expect(outcome, "right" if meant else "refused")
        if not meant:
            return False
        for p in self.parameters:
            p.oracle = Oracle(
                Case("", self.cls, CLASSES[self.cls].rule_of(meant[p.group]), scaled(meant[p.group])), p.array
            )
            options = {key: self.options[key] for key in ("ema_decay", "swa", "lookahead") if key in self.options}
            p.averages = reference.Averages(p.oracle.p, **options)
        self.check()
        return True

    def accept(self, group: int, settings: dict[str, Any]) -> None:
        """These are the settings of a group from now on."""
        self.settings[group] = settings
        meant = understood(self.cls, settings)
        for p in self.members(group):
            p.oracle.case = Case("", self.cls, p.oracle.case.rule, scaled(meant))

    def check(self) -> None:
        """The optimizer is what it must be."""
        if (self.opt.step_count, self.opt.skipped_steps) != (self.step_count, self.skipped):
            raise WrongResultError(
                f"steps {self.opt.step_count}, skipped {self.opt.skipped_steps}: expected"
                f" {self.step_count}, {self.skipped}"
            )
        if self.scale and self.opt._options["grad_scale"].value != self.scale:
            raise WrongResultError(f"scale {self.opt._options['grad_scale'].value}, expected {self.scale}")
        if self.opt._table.steps() != [p.oracle.t for p in self.parameters]:
            raise WrongResultError(f"step counts {self.opt._table.steps()}")
        for i, (group, settings) in enumerate(zip(self.opt.groups, self.settings, strict=True)):
            if {key: group[key] for key in settings} != understood(self.cls, settings):
                raise WrongResultError(f"groups[{i}] is {dict(group, params=0)}, expected {settings}")
        for p in self.parameters:
            if not same(p.array, p.oracle.p):
                raise WrongResultError(f"parameter {p.name!r}: {p.array}, expected {p.oracle.p}")
            if not p.placed.gaps_are_whole():
                raise WrongResultError(f"parameter {p.name!r}: memory between its elements was written")
            for letter, expected in [*p.oracle.state.items(), *p.averages.buffers.items()]:
                actual = self.opt.state[p.name][letter]
                if isinstance(expected, float) and expected == actual == 0:
                    continue  # of either sign
                if not same(actual, np.asarray(expected)):
                    raise WrongResultError(f"state {letter} of {p.name!r}: {actual}, expected {expected}")

    def gradient(self, p: Parameter) -> Array:
        shape = p.array.shape
        dtype = p.dtype if self.rng.random() < 0.7 else self.rng.choice(FORMATS).type
        if shape and self.rng.random() < 0.1:
            return np.broadcast_to(numbers(self.rng, (*shape[:-1], 1), dtype), shape)
        g = Placed(self.rng, numbers(self.rng, shape, dtype, 0.3)).array
        g.flags.writeable = self.rng.random() < 0.9
        return g

    def gradients(self) -> list[Any]:
        some = self.parameters[0].oracle.rule not in reference.TOGETHER  # which refuse them for some of a group
        return [None if some and self.rng.random() < 0.1 else self.gradient(p) for p in self.parameters]

    def some_gradients(self, lazy: bool = True) -> tuple[list[Any], Any]:
        """Gradients, and the structure in which they are given: never just None, which is another call."""
        grads = self.gradients()
        if not self.grouped and self.kinds[0] == "array" and grads[0] is None:
            grads = [self.gradient(self.parameters[0])]
        return grads, self.build(grads, lazy)
