"""Random calls, well-formed and malformed, of everything a user can call.

Each call must do exactly what the oracle does, or raise TypeError or ValueError (FloatingPointError for gradients that
are not finite) and leave parameters, gradients, state, hyperparameters and counts as they were.

    python tests/fuzz_api.py --seconds 60 --seed 1       prints how many calls came to what
    python tests/fuzz_api.py --seed 1 --only 1234        one scenario again
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from importlib.util import find_spec
from math import inf, nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

if __name__ == "__main__":  # the calls are those of the tree that this file lies in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fastopt
from support import reference, sums
from support.arithmetic import Decay, converted, flush
from support.arrays import DTYPES
from support.asserts import bits
from support.cases import AVERAGING, BY_ROW, DEFAULTS, KINDS, PARTS, TOLD_BY, Case, Oracle
from support.cases import FORMS as CASE_FORMS
from support.registry import CLASSES

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Array = np.ndarray
FLAGS = ("amsgrad", "centered", "nesterov", "maximize", "decoupled_weight_decay", "safeguard_warmup")
STATEFUL = ("amsgrad", "centered", "nesterov", "momentum", "initial_accumulator_value")
BELOW_1 = ("momentum", "alpha", "rho", "beta", "beta1", "beta2", "beta3")
# Other ranges: the least value, and what values must be below.
BETWEEN = {
    "d0": (sys.float_info.min, inf),
    "eta_minus": (sys.float_info.min, 1),
    "eta_plus": (1 + sys.float_info.epsilon, inf),
    "d": (1, inf),
    "beta2_decay": (-sys.float_info.max, 0),
}
UNSET, UNSET_PARTS = ("momentum_decay", "beta3"), ("eps1",)  # may be None, alone or among several
# What values may be at the most, where that is in the range.
CLOSED = {"dampening": 1, "b2": 1, "momentum_decay": inf, "eps1": inf, "beta2_decay": 0}
FORMS = ("l2", "decoupled", "independent")
DECAYS = ("weight_decay", "decoupled_decay", "independent_decay")
OPTIONAL = (*DECAYS, "maximize", "num_threads")  # keywords of the kernels
FORMATS = [np.dtype(dtype).str for dtype in (np.float16, np.float32, np.float64)]  # of gradients
DEEP = 5_000
IN_STEP = ("grad_scale", "clip_norm", "clip_value", "zero_grads", "ema_decay", "swa", "lookahead", "catch_up")


class WrongResultError(Exception):
    """A call that did neither what it should nor nothing."""


# ---- Values ----


class Number:
    """What can be converted to a float without being a number."""

    def __float__(self) -> float:
        return 0.25

    def __repr__(self) -> str:
        return "Number()"


def deep(depth: int = DEEP) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def endless() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


GARBAGE: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 1.5,
    lambda: nan,
    lambda: inf,
    lambda: -inf,
    lambda: 2**31,
    lambda: 2**63,
    lambda: -(2**63) - 1,
    lambda: 2**64,
    lambda: 10**400,
    lambda: -(10**5000),
    lambda: 1j,
    lambda: "0.1",
    lambda: "",
    lambda: "\ud800",
    lambda: b"p",
    lambda: [],
    lambda: (0.9, 0.99),
    lambda: {},
    lambda: {1.0},
    lambda: {"params": 3},
    lambda: range(3),
    lambda: range(10**30),
    lambda: iter([1.0]),
    lambda: object(),
    lambda: float,
    lambda: Number(),
    lambda: Decimal("0.1"),
    lambda: Fraction(1, 3),
    lambda: memoryview(b"12345678"),
    lambda: slice(None),
    lambda: deep(),
    lambda: endless(),
    lambda: np.array(0.5),
    lambda: np.array([0.5, 0.5]),
    lambda: np.array([], object),
    lambda: np.float64(nan),
    lambda: np.bool_(True),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.ma.masked,
    lambda: np.zeros((), [("lr", "f8")]),
)


def garbage(rng: random.Random) -> Any:
    return rng.choice(GARBAGE)()


def kind(cls: str, name: str) -> str:
    """What decides a hyperparameter's range."""
    return KINDS.get(cls, {}).get(name, name)


def a_number(rng: random.Random, name: str, unset: Sequence[str] = UNSET) -> Any:
    """A value that a hyperparameter must take."""
    if name in PARTS:
        parts = [a_number(rng, part, UNSET_PARTS) for part in PARTS[name]]
        ways = (
            (tuple, list)
            if None in parts
            else (tuple, list, lambda parts: np.array([np.asarray(part, float).item() for part in parts]))
        )
        return rng.choice(ways)(parts)
    if name == "beta2_decay":
        return rng.choice((0, -0.0, -1e-320, -0.5, -0.8, -1, np.float32(-0.3), -7, -1e30, -(10**200)))
    if name in FLAGS:
        return rng.choice((True, False, np.True_, np.False_))
    if name == "weight_decay_form":
        return rng.choice(FORMS)
    if name in BETWEEN:
        low, high = BETWEEN[name]
        values = [low, 2 * low, 0.5, np.float32(0.25)] if high == 1 else [low, 2 * low, 1.5, 7, 1e30, np.float32(2.5)]
    elif name in BELOW_1 or CLOSED.get(name) == 1:
        values = [0, 0.0, -0.0, 5e-324, 1e-20, 0.5, 0.9, 0.999, math.nextafter(1, 0), np.float32(0.9), np.int8(0)]
        values += [1, 1.0, np.uint8(1)] if CLOSED.get(name) == 1 else []
    else:
        values = [0, 0.0, -0.0, 1e-310, 1e-40, 1e-8, 1e-3, 0.1, 1, 7, 10**20, 1e30, 1e300, rng.random()]
        values += [np.float16(0.1), np.float32(0.1), np.float64(0.1), np.longdouble("0.1"), np.int64(2), np.uint8(3)]
        values += [inf, np.float32(inf)] if CLOSED.get(name) == inf else []
    values += [None] if name in unset else []
    value = rng.choice(values)
    if value is not None and rng.random() < 0.2:  # as np.where and scipy.interpolate give it
        value = np.full(rng.choice(((), (1,), (1, 1))), value, None if abs(value) < 2**62 else float)
    return value


def as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def alone(value: Any) -> Any:
    """The number in an array of one element; all else as it is."""
    is_one = type(value) is Array and value.size == 1 and value.dtype.kind in "fiub"
    return value.reshape(())[()] if is_one else value


def meaning(name: str, value: Any, unset: Sequence[str] = UNSET) -> Any:
    """What a hyperparameter's value comes to; ValueError when it must be refused."""
    value = value if name in PARTS else alone(value)
    if name in FLAGS:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
    elif name in PARTS:
        if type(value) is Array and value.ndim == 1 and value.dtype.kind in "fiu":
            value = tuple(value)
        if isinstance(value, (tuple, list)) and len(value) == len(PARTS[name]):
            return tuple(meaning(*pair, UNSET_PARTS) for pair in zip(PARTS[name], value, strict=True))
    elif name == "weight_decay_form":
        if isinstance(value, str) and value in (*FORMS, "own"):
            return str(value)
    elif name in unset and value is None:
        return None
    elif hasattr(value, "__float__") and not isinstance(value, np.ma.MaskedArray):
        try:
            x = as_float(value)
        except TypeError as error:
            raise ValueError from error
        low, high = BETWEEN.get(name, (0, 1 if name in BELOW_1 or CLOSED.get(name) == 1 else inf))
        x += 0.0  # -0 is 0
        if x >= low and (x < high or x == CLOSED.get(name)):
            return x
    raise ValueError


def plain_type(name: str, value: Any) -> bool:
    """Whether a value is of a type that the documentation says is taken."""
    if name in PARTS:
        return all(plain_type(part, number) for part, number in zip(PARTS[name], value, strict=True))
    value = alone(value)
    if isinstance(value, (bool, np.bool_)):
        return name in FLAGS
    if name == "weight_decay_form":
        return isinstance(value, str)
    if isinstance(value, int):
        return abs(value) <= sys.float_info.max
    return value is None or isinstance(value, (int, float, np.integer, np.floating))


def defaults(cls: str) -> dict[str, Any]:
    """The hyperparameters of a class that is given none."""
    return Case("", cls, "").settings()


def understood(cls: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The meaning of all hyperparameters; ValueError when they must be refused."""
    meant = {name: meaning(kind(cls, name), value) for name, value in settings.items()}
    if "dampening" in meant and meant["nesterov"] and not (meant["momentum"] > 0 and meant["dampening"] == 0):
        raise ValueError
    if "step_sizes" in meant and meant["step_sizes"][0] > meant["step_sizes"][1]:
        raise ValueError
    if meant["weight_decay_form"] == "own" and CASE_FORMS.get(cls) != "own":
        raise ValueError
    if cls.startswith("ScheduleFree"):
        beta = meant["betas"][0] if "betas" in meant else meant["momentum"]
        if beta == 0 or meant["weight_decay_form"] not in ("l2", "own"):
            raise ValueError
    if meant["lr"] * meant.get("lr_scale", 1.0) == inf:
        raise ValueError
    return meant


def is_own(name: Any, value: Any) -> bool:
    """Whether a group may have this under a key of the user's own."""
    return isinstance(name, str) and (value is None or isinstance(alone(value), (str, bool, int, float, np.generic)))


def scaled(meant: dict[str, Any]) -> dict[str, Any]:
    """What the oracle takes, which knows no lr_scale."""
    others = {name: value for name, value in meant.items() if name != "lr_scale"}
    return {**others, "lr": meant["lr"] * meant["lr_scale"]}


# ---- Arrays ----


def numbers(rng: random.Random, shape: Any, dtype: Any, special: float = 0.1) -> Array:
    """Values over many magnitudes; sometimes with zeros, subnormals, infinities and NaN."""
    source = np.random.default_rng(rng.getrandbits(32))
    values = source.standard_normal(shape) * 10.0 ** source.integers(-6, 2, shape)
    values = np.asarray(values, dtype)
    if rng.random() < special:
        info = np.finfo(dtype)
        odd = np.array([0, -0.0, info.tiny, info.smallest_subnormal, info.max, -info.max, inf, -inf, nan], dtype)
        values = np.where(source.random(shape) < 0.2, source.choice(odd, shape), values)
    return np.asarray(values, dtype)


def a_shape(rng: random.Random, dtype: Any) -> tuple[int, ...]:
    if rng.random() < 0.01:
        return rng.choice([(40_000,), (190, 211), (1,) * 64, (2,) * 10, (0,) * 5, (3,) + (1,) * 30])
    return tuple(rng.choice((0, 1, 1, 2, 3, 5, 17)) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))))


class Stored:
    """Values in an array of some layout, within memory of which nothing else may change."""

    def __init__(self, rng: random.Random, values: Array) -> None:
        order = list(range(values.ndim))
        steps, offset = [1] * values.ndim, 0
        if rng.random() < 0.5:
            rng.shuffle(order)
            if values.ndim < 10:
                steps = [rng.choice((1, 1, 1, -1, 2, -3)) for _ in order]
            offset = rng.choice((0, 0, 1, 4, values.itemsize))
        extents = [n * abs(step) for n, step in zip(values.shape, steps, strict=True)]
        self.memory = np.zeros(offset + math.prod(extents) * values.itemsize, np.uint8)
        whole = np.ndarray([extents[axis] for axis in order], values.dtype, self.memory, offset)
        self.array = whole.transpose(np.argsort(order))[(..., *(slice(None, None, step) for step in steps))]
        self.array[...] = np.frombuffer(b"\xff" * values.itemsize, values.dtype)
        self.gaps = self.memory == 0
        self.memory[self.gaps] = 77
        self.array[...] = values

    def gaps_are_whole(self) -> bool:
        return bool((self.memory[self.gaps] == 77).all())


def same(a: Array, b: Array) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and (bits(a) == bits(b)).all())


def image(arrays: Sequence[Any]) -> list[Any]:
    """Something to compare that holds the bits of the arrays among these."""
    return [(a.dtype.str, a.shape, a.view(Array).tobytes()) if isinstance(a, Array) else None for a in arrays]


def describe(value: Any, depth: int = 4) -> str:
    """A call's argument, however deep, long or odd."""
    if isinstance(value, Array):
        kind = "read-only " * (not value.flags.writeable) + ("array" if type(value) is Array else type(value).__name__)
        text = f"{kind}({value.dtype.str}, {value.shape}, strides {value.strides}"
        return text + (f", {value.tolist()!r:.120})" if 0 < value.size <= 4 and value.dtype.kind == "f" else ")")
    if isinstance(value, (dict, MappingProxyType, UserDict)) and depth:
        return "{" + ", ".join(f"{key!r:.40}: {describe(entry, depth - 1)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple, deque, UserList)) and depth:
        return f"{type(value).__name__}(" + ", ".join(describe(entry, depth - 1) for entry in value) + ")"
    if isinstance(value, (list, tuple)):
        return "[...]"
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


# ---- Structures ----


class Lazy(UserList[Any]):
    """A sequence that makes its entries anew whenever they are asked for."""

    def __getitem__(self, i: Any) -> Any:
        entry = self.data[i]
        return entry.copy(order="K") if isinstance(entry, Array) else entry


class LazyMapping(UserDict[Any, Any]):
    """The same for a mapping."""

    def __getitem__(self, key: Any) -> Any:
        entry = self.data[key]
        return entry.copy(order="K") if isinstance(entry, Array) else entry


def container(rng: random.Random, kind: str, names: Sequence[Any], arrays: Sequence[Any], lazy: bool = False) -> Any:
    """Arrays as a group's parameters or gradients are given."""
    if kind == "array":
        return arrays[0]
    if kind == "sequence":
        kinds = (list, tuple, UserList, deque, iter, lambda arrays: dict(enumerate(arrays)).values())
        return rng.choice((*kinds, Lazy) if lazy else kinds)(arrays)
    if kind == "nest":
        block, *_ = names[0].split(".")
        inner = dict(zip([name.split(".")[1] for name in names], arrays, strict=True))
        kinds = (list, tuple, deque) if "0" in inner else ()
        return {block: rng.choice(kinds)(arrays) if kinds else inner}
    entries = list(zip(names, arrays, strict=True))
    if lazy:
        rng.shuffle(entries)
    kinds = (dict, OrderedDict, UserDict, lambda entries: MappingProxyType(dict(entries)))
    return rng.choice((*kinds, LazyMapping) if lazy else kinds)(entries)


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
        self.stored = Stored(rng, values)
        self.array = self.stored.array


class Life:
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
                    given["lr_scale"] = a_number(rng, "lr_scale")
        self.step_count = self.skipped = 0
        self.bound: list[Any] | None = None
        self.holder: Any = None  # the containers in which the parameters are, where that is known
        self.over = False  # whether it is left in a state that this test does not follow

    def hyper(self) -> dict[str, Any]:
        names = [name for name in defaults(self.cls) if self.rng.random() < 0.3]
        return {name: a_number(self.rng, kind(self.cls, name)) for name in names}

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
            if not p.stored.gaps_are_whole():
                raise WrongResultError(f"parameter {p.name!r}: memory between its elements was written")
            for letter, expected in [*p.oracle.state.items(), *p.averages.buffers.items()]:
                actual = self.opt.state[p.name][letter]
                if isinstance(expected, float) and expected == actual == 0:
                    continue  # of either sign
                if not same(actual, np.asarray(expected)):
                    raise WrongResultError(f"state {letter} of {p.name!r}: {actual}, expected {expected}")

    # -- well-formed calls --

    def gradient(self, p: Parameter) -> Array:
        shape = p.array.shape
        dtype = p.dtype if self.rng.random() < 0.7 else np.dtype(self.rng.choice(FORMATS)).type
        if shape and self.rng.random() < 0.1:
            return np.broadcast_to(numbers(self.rng, (*shape[:-1], 1), dtype), shape)
        g = Stored(self.rng, numbers(self.rng, shape, dtype, 0.3)).array
        g.flags.writeable = self.rng.random() < 0.9
        return g

    def gradients(self) -> list[Any]:
        some = self.cls != "Prodigy"  # which refuses them for some of a group
        return [None if some and self.rng.random() < 0.1 else self.gradient(p) for p in self.parameters]

    def some_gradients(self, lazy: bool = True) -> tuple[list[Any], Any]:
        """Gradients, and the structure in which they are given: never just None, which is another call."""
        grads = self.gradients()
        if not self.grouped and self.kinds[0] == "array" and grads[0] is None:
            grads = [self.gradient(self.parameters[0])]
        return grads, self.build(grads, lazy)

    def one_step(self) -> dict[str, Any]:
        """Options of a step."""
        values = {
            "grad_scale": (1, 1024.0, 3, 1e-3, np.float32(0.5)),
            "clip_value": (1e-30, 1e-3, 1, 1e30, inf),
            "clip_norm": (1e-3, 1.0, 1e30, inf),
            "zero_grads": (True, False, np.True_),
        }
        if self.rng.random() < 0.6:
            return {}
        return {name: self.rng.choice(values[name]) for name in values if self.rng.random() < 0.4}

    def walked(self, p: Parameter, g: Array) -> Array:
        """A gradient in the order in which its parameter was walked when its state was laid out."""
        order = list(range(g.ndim))
        if not p.first.flags.c_contiguous and p.oracle.rule not in reference.ALONE | reference.TOGETHER:
            order.sort(key=lambda axis: -abs(p.first.strides[axis]))
        return np.ascontiguousarray(converted(g, p.dtype).transpose(order))

    def advance(self, grads: Sequence[Any], one: bool, **around: float) -> None:
        """Make the oracles' step with the gradients that are given."""
        stepped = [p for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        now = max(stepped[0].oracle.t, self.step_count - 1) + 1 if one else self.step_count + 1
        for p in stepped:
            p.averages.before(p.oracle.p, p.oracle.t + 1, now)
        for group in range(len(self.kinds)):
            mine = [(p, converted(g, p.dtype)) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
            mine = [(p, g) for p, g in mine if p.group == group]
            if mine and mine[0][0].oracle.case.rule in reference.TOGETHER:
                begun = []
                for p, g in mine:
                    p.oracle.t += 1
                    case = p.oracle.case
                    values = p.oracle.hyper(**around), case.options(**around)
                    oracle = p.oracle
                    begun.append(
                        reference.begin(case.rule, oracle.p, g, oracle.state, oracle.t, values[0], **values[1])
                    )
                reference.finish(begun)
            else:
                for p, g in mine:
                    p.oracle.step(g, **around)
        for p in stepped:
            p.averages.after(p.oracle.p, p.oracle.t, now)
        for p in [] if one else self.parameters:
            if p not in stepped:
                p.averages.rest(p.oracle.p, p.oracle.t, now)

    def adapt(self, made: bool) -> None:
        """What a step does to the scale of the loss."""
        self.good_steps = self.good_steps + 1 if made else 0
        if not made:
            self.scale /= 2
        elif self.good_steps == 2:
            self.scale, self.good_steps = 2 * self.scale, 0

    def expected_step(
        self,
        grads: Sequence[Any],
        changes: Mapping[str, Any] = MappingProxyType({}),
        divisor: int = 1,
        one: bool = False,
    ) -> str:
        """Make the oracles' step; what it must come to."""
        mode = self.options.get("nonfinite", "propagate")
        adapts = self.scale and "grad_scale" not in changes
        scale = float(self.scale if adapts else changes.get("grad_scale", 1))
        given = [(p, g) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        finite = all(np.isfinite(np.asarray(g, p.dtype)).all() for p, g in given)
        if mode == "skip" and not finite:
            self.skipped += 1
            if adapts:
                self.adapt(made=False)
            return "right"
        if mode == "raise" and not finite:
            return "nonfinite"
        factor, self.norm = 1 / (divisor * scale), None
        if "clip_norm" in changes:
            walked = [self.walked(p, g) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
            self.norm = factor * sums.norm(walked)
            clip = float(changes["clip_norm"]) / (self.norm + 1e-6)
            if clip < 1 or (clip != clip and changes["clip_norm"] < inf):
                factor *= clip
        self.advance(grads, one, scale=factor, clip_value=float(changes.get("clip_value", 0)))
        stepped = [p.oracle.t for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        self.step_count = max(self.step_count, *stepped) if one else self.step_count + 1
        if adapts:
            self.adapt(made=True)
        return "right"

    def step(self) -> str:
        changes = self.one_step()
        zero = bool(changes.get("zero_grads"))
        grads, given = self.some_gradients(lazy=not zero)
        before, skipped = image(grads), self.skipped
        self.tell("step", given, changes)
        if zero and not all(g is None or g.flags.writeable for g in grads):
            expected = "refused"
        else:
            expected = self.expected_step(grads, changes)
        outcome, _ = attempt(self.opt.step, given, **changes)
        expect(outcome, expected)
        if zero and outcome == "right":
            before = image([None if g is None else np.zeros(g.shape, g.dtype) for g in grads])
        if image(grads) != before:
            raise WrongResultError("a gradient was written, or not set to zero")
        if outcome == "right" and self.skipped == skipped:
            norm = self.opt.grad_norm
            if norm != self.norm and not (self.norm is not None and math.isnan(norm) and math.isnan(self.norm)):
                raise WrongResultError(f"grad_norm is {norm}, expected {self.norm}")
        return outcome

    def step_one(self) -> str:
        p = self.rng.choice(self.parameters)
        g = self.gradient(p)
        changes = {name: value for name, value in self.one_step().items() if name in ("grad_scale", "clip_value")}
        self.tell("step_one", p.name, g, changes)
        if p.oracle.case.rule in reference.TOGETHER or (self.scale and "grad_scale" not in changes):
            expected = "refused"
        else:
            expected = self.expected_step([g if q is p else None for q in self.parameters], changes, one=True)
        outcome, _ = attempt(self.opt.step_one, p.name, g, **changes)
        expect(outcome, expected)
        return outcome

    def gather(self) -> str:
        """Accumulate some micro-batches, then step."""
        sums: list[Any] = [None] * len(self.parameters)
        count = self.rng.choice((1, 1, 2, 3))
        for _ in range(count):
            grads, given = self.some_gradients()
            self.tell("accumulate", given)
            outcome, _ = attempt(self.opt.accumulate, given)
            expect(outcome, "right")
            for i, (p, g) in enumerate(zip(self.parameters, grads, strict=True)):
                if g is not None:
                    sums[i] = np.zeros(p.array.shape, p.dtype) if sums[i] is None else sums[i]
                    reference.step("sgd", sums[i], converted(g, p.dtype), {}, 1, {"lr": 1.0}, maximize=True)
        way = self.rng.choice(("mean", "sum"))
        self.tell("step", way)
        expected = self.expected_step(sums, divisor=count if way == "mean" else 1)
        outcome, _ = attempt(self.opt.step, accumulated=way)
        expect(outcome, expected)
        if outcome == "nonfinite":  # what was gathered is still there
            self.opt.discard()
        return outcome

    def bind(self) -> str:
        grads = self.gradients()
        given = self.build(grads)
        self.tell("bind", given)
        outcome, _ = attempt(self.opt.bind, given)
        expect(outcome, "right")
        self.bound = grads
        return outcome

    def step_bound(self) -> str:
        for g in self.bound or ():
            if g is not None and g.flags.writeable:
                g[...] = numbers(self.rng, g.shape, g.dtype)
        self.tell("step", None, "bound", self.bound)
        expected = "refused" if self.bound is None else self.expected_step(self.bound)
        outcome, _ = attempt(self.opt.step)
        expect(outcome, expected)
        return outcome

    def reload(self) -> str:
        """Save, make some steps, go back to what was saved."""
        saved = self.opt.state_dict()
        if self.rng.random() < 0.3:
            saved = pickle.loads(pickle.dumps(saved))
        oracles = [(*copy.deepcopy((p.oracle.state, p.averages)), p.oracle.t, p.oracle.decays) for p in self.parameters]
        before, settings = self.step_count, list(self.settings)
        for _ in range(self.rng.randrange(3)):
            self.step()
        self.set_hyper()
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        self.step_count = before
        for p, (state, averages, t, decays) in zip(self.parameters, oracles, strict=True):
            p.oracle.state, p.averages, p.oracle.t, p.oracle.decays = state, averages, t, decays
        for group, values in enumerate(settings):
            self.accept(group, values)
        return outcome

    def load_live(self) -> str:
        """Load the optimizer's own buffers, not copies of them, two of a parameter in each other's place."""
        saved = self.opt.state_dict()
        for p in self.parameters:
            letters = [letter for letter, buffer in p.oracle.buffers.items() if buffer.shape == p.oracle.p.shape]
            buffers = [self.opt.state[p.name][letter] for letter in letters]
            saved["state"][p.name].update(zip(letters, reversed(buffers), strict=True))
            values = [p.oracle.state[letter] for letter in reversed(letters)]
            p.oracle.state.update(zip(letters, values, strict=True))
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        return outcome

    def save(self) -> str:
        """Save to a file and load it, whole or damaged."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state")
            fastopt.save(path, self.opt)
            whole = path.read_bytes()
            content = bytearray(whole)
            at = self.rng.randrange(len(content))
            self.rng.choice(
                (
                    lambda: None,
                    lambda: content.__setitem__(at, content[at] ^ 1 << self.rng.randrange(8)),
                    lambda: content.__delitem__(slice(at, None)),
                    lambda: content.__delitem__(slice(at, at + 8)),
                    lambda: content.__setitem__(slice(at, at), bytes(self.rng.randrange(1, 9))),
                    lambda: content.extend(content[at:]),
                )
            )()
            path.write_bytes(content)
            self.tell("load", path)
            outcome, _ = attempt(fastopt.load, path, self.opt)
        expect(outcome, "right" if content == whole else "refused")
        return outcome

    def replace(self) -> str:
        """Go on with a copy, of parameters in other memory."""
        self.tell("pickle or copy")
        arrays = [p.array for p in self.parameters]
        if self.rng.random() < 0.5:
            arrays, self.opt = copy.deepcopy((arrays, self.opt))
        else:
            arrays, self.opt = pickle.loads(pickle.dumps((arrays, self.opt)))
        for p, array in zip(self.parameters, arrays, strict=True):
            p.array = p.first = array
        self.bound = self.holder = None
        return "right"

    def rebind(self) -> str:
        """Go on with the same values in other memory."""
        for p in self.parameters:
            p.move(self.rng, p.array)
        self.holder = self.build([p.array for p in self.parameters])
        given = [{"params": entry} for entry in self.holder] if self.grouped else self.holder
        self.tell("rebind", given)
        if self.bound is not None and any(map(self.reads_parameter, self.bound)):
            return "right"
        outcome, _ = attempt(self.opt.rebind, given)
        expect(outcome, "right")
        return outcome

    def misplace(self) -> str:
        """Replace an array in the container that it came in, and put it back."""
        group = self.rng.randrange(len(self.kinds))
        holder = self.holder[group] if self.grouped and self.holder is not None else self.holder
        mine = self.members(group)
        if not isinstance(holder, (list, dict, UserDict, UserList, deque)):
            return self.step()
        i = self.rng.randrange(len(mine))
        if self.kinds[group] == "nest":
            (holder,) = holder.values()
        if isinstance(holder, tuple):
            return self.step()
        key = i if not isinstance(holder, (dict, UserDict)) else list(holder)[i]
        array, holder[key] = holder[key], mine[i].array.copy()
        self.tell("step with a replaced array", mine[i].name)
        outcome, _ = attempt(self.opt.step, self.build(self.gradients()))
        holder[key] = array
        expect(outcome, "refused")
        return outcome

    def set_hyper(self) -> str:
        """Set hyperparameters of a group, any of which may be out of range or no number."""
        group = self.rng.randrange(len(self.kinds))
        names = self.rng.sample(list(self.settings[group]), self.rng.choice((1, 1, 1, 2)))
        changes = {name: a_number(self.rng, kind(self.cls, name)) for name in names}
        if self.rng.random() < 0.5:
            changes[names[-1]] = (garbage(self.rng), 0.5) if self.rng.random() < 0.1 else garbage(self.rng)
        after = {**self.settings[group], **changes}
        try:
            understood(self.cls, after)
            plain = all(plain_type(kind(self.cls, name), value) for name, value in changes.items())
            allowed = ("right",) if plain else ("right", "refused")
            if any(name in STATEFUL or name == TOLD_BY.get(self.cls) for name in names):
                allowed = ("right", "refused")
        except ValueError:
            allowed = ("refused",)
        self.tell("set", group, changes)
        target = self.opt.groups[group]
        if len(names) == 1 and self.rng.random() < 0.5:
            outcome, _ = attempt(target.__setitem__, *changes.popitem())
        else:
            outcome, _ = attempt(target.update, changes)
        expect(outcome, *allowed)
        if outcome == "right":
            self.accept(group, after)
        return outcome

    def set_lr(self) -> str:
        value = a_number(self.rng, "lr") if self.rng.random() < 0.5 else garbage(self.rng)
        if self.rng.random() < 0.2:
            value = self.rng.choice((tuple, list))(a_number(self.rng, "lr") for _ in self.kinds)
        several = alone(value)
        if type(several) is Array and several.ndim == 1 and several.dtype.kind in "fiu":
            several = several.tolist()
        rates = several if isinstance(several, (tuple, list)) else [value] * len(self.kinds)
        after = [{**settings, "lr": rate} for settings, rate in zip(self.settings, rates, strict=False)]
        try:
            if len(rates) != len(self.kinds):
                raise ValueError
            for settings in after:
                understood(self.cls, settings)
            allowed = ("right",) if all(plain_type("lr", rate) for rate in rates) else ("right", "refused")
        except ValueError:
            allowed = ("refused",)
        self.tell("lr", value)
        outcome, _ = attempt(setattr, self.opt, "lr", value)
        expect(outcome, *allowed)
        if outcome == "right":
            for group, settings in enumerate(after):
                self.accept(group, settings)
        return outcome

    # -- malformed calls --

    def overlapping(self, p: Parameter) -> Array | None:
        """An array of the shape of p that shares memory with a parameter or with the state."""
        targets = [q.array for q in self.parameters]
        targets += [buffer for letters in self.opt.state.values() for buffer in letters.values() if buffer.ndim]
        targets = [a for a in targets if a.dtype == p.dtype and a.size]
        if not targets or not p.array.size:
            return None
        target = self.rng.choice(targets)
        if target.shape == p.array.shape and self.rng.random() < 0.5:
            return target[(slice(None, None, -1),) * target.ndim] if self.rng.random() < 0.5 else target[...]
        return np.broadcast_to(target[(*(0,) * target.ndim, ...)], p.array.shape)

    def bad_gradient(self, p: Parameter) -> Any:
        """Something that is no gradient of p."""
        g = self.gradient(p)
        shape = g.shape
        ways: list[Callable[[], Any]] = [
            lambda: g.astype(self.rng.choice(("i4", "i8", ">f2", "c8", "c16", "?", "O", "U8", np.longdouble))),
            lambda: g.astype(g.dtype.newbyteorder()),
            lambda: np.ones((*shape, 1)[-64:], p.dtype),
            lambda: np.ones((*shape, 0)[-64:], p.dtype),
            lambda: np.ones((*shape[:-1], shape[-1] + 1 if shape else 2), p.dtype),
            lambda: np.ma.masked_array(g, np.zeros(shape, bool)),
            lambda: g.tolist(),
            lambda: g.tobytes(),
            lambda: memoryview(np.array(g)),
            lambda: [g],
            lambda: {p.name: g},
            lambda: garbage(self.rng),
            lambda: self.overlapping(p),
        ]
        bad = self.rng.choice(ways)()
        if bad is None or self.is_gradient(p, bad):
            return g.astype("i8")
        return bad

    def is_gradient(self, p: Parameter, g: Any) -> bool:
        """Whether garbage happens to be right."""
        if not isinstance(g, Array):
            number = isinstance(g, (int, float, np.integer, np.floating)) and not isinstance(g, bool)
            return number and p.array.ndim == 0
        return (
            g.shape == p.array.shape
            and g.dtype.str in FORMATS
            and not isinstance(g, np.ma.MaskedArray)
            and not self.reads_parameter(g)
        )

    def reads_parameter(self, g: Any) -> bool:
        """Whether an array lies in memory that a step writes."""
        mine = [q.array for q in self.parameters]
        mine += [buffer for letters in self.opt.state.values() for buffer in letters.values()]
        return isinstance(g, Array) and any(np.shares_memory(g, array) for array in mine)

    def bad_structure(self, grads: list[Any]) -> Any:
        given = self.build(grads)
        p = self.parameters[0]
        if self.grouped and self.rng.random() < 0.5:
            wrong = (given[:-1], [*given, None], {0: given[0]}, deque(), iter(given[1:]), set(), garbage(self.rng))
            return self.rng.choice(wrong)
        spoiled = given if not self.grouped else given[0]
        kind = self.kinds[0]
        if kind == "array":
            bad = self.rng.choice(([spoiled], (spoiled,), {p.name: spoiled}, [], UserDict({0: spoiled}), deep()))
        elif kind == "sequence":
            entries = list(spoiled)
            bad = self.rng.choice(
                (
                    entries[:-1],
                    [*entries, None],
                    entries * 2,
                    dict(enumerate(entries)),
                    "text",
                    p.array,
                    iter(entries[1:]),
                    iter([*entries, None]),
                    set(range(len(entries))),
                    {p.name: None},
                    range(10**30),
                    range(10**9),
                    "x" * len(entries),
                )
            )
        else:
            entries = dict(spoiled)
            bad = self.rng.choice(
                (
                    {**entries, "more": None},
                    dict(list(entries.items())[1:]),
                    {f"{k}'": v for k, v in entries.items()},
                    list(entries.values()),
                    list(entries.items()),
                    set(entries),
                    p.array,
                    {**entries, 0: None},
                    {k.encode(): v for k, v in entries.items()},
                    "text",
                )
            )
        return [bad, *given[1:]] if self.grouped else bad

    def step_badly(self) -> str:
        grads = self.gradients()
        if self.rng.random() < 0.35:
            given = self.bad_structure(grads)
        else:
            i = self.rng.randrange(len(grads))
            grads[i] = self.bad_gradient(self.parameters[i])
            given = self.build(grads)
        if given is None and self.bound is not None:
            return self.step_bound()
        call = self.rng.choice((self.opt.step, self.opt.step, self.opt.bind, self.opt.accumulate))
        if call == self.opt.accumulate and any(map(self.reads_parameter, grads)):
            call = self.opt.step  # to read a parameter is no mistake where none is written
        before = image(grads)
        self.tell(call.__name__, given)
        outcome, _ = attempt(call, given)
        expect(outcome, "refused")
        if image(grads) != before:
            raise WrongResultError("a gradient was written")
        return outcome

    def step_read_only(self) -> str:
        """The parameter is no longer what it was when the optimizer was made."""
        p = self.rng.choice(self.parameters)
        if p.array is not p.stored.array:
            return self.step()
        grads = [self.gradient(q) for q in self.parameters]
        self.tell("step with a read-only parameter", p.name)
        p.array.flags.writeable = False
        outcome, _ = attempt(self.opt.step, self.build(grads))
        p.array.flags.writeable = True
        expect(outcome, "refused")
        return outcome

    def load_badly(self) -> str:
        """Load a saved state with one or two entries changed, or garbage."""
        saved = self.opt.state_dict()
        if self.rng.random() < 0.1:
            saved = garbage(self.rng)
        else:
            for _ in range(self.rng.choice((1, 1, 1, 2))):
                damage(self.rng, saved)
        self.tell("load_state_dict", saved)
        wanted = snapshot(saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right", "refused")
        if outcome == "right":
            self.take_over(wanted)
        return outcome

    def take_over(self, saved: dict[str, Any]) -> None:
        """What was loaded must be all of what was given, and valid."""
        try:
            if (saved["format"], saved["rule"], set(saved)) != (1, self.cls, set(self.opt.state_dict())):
                raise ValueError("its kind")
            self.step_count = int(saved["step_count"])
            for i, entry in enumerate(saved["groups"]):
                values = {name: value for name, value in entry.items() if name != "params"}
                own = {name: values.pop(name) for name in set(values) - set(self.settings[i])}
                if not all(is_own(*one) for one in own.items()):
                    raise ValueError(f"keys of groups[{i}]")
                if set(values) != set(self.settings[i]) or set(entry["params"]) != {p.name for p in self.members(i)}:
                    raise ValueError(f"groups[{i}]")
                self.accept(i, values)
            if set(saved["state"]) != {p.name for p in self.parameters}:
                raise ValueError("names")
            for p in self.parameters:
                entry = dict(saved["state"][p.name])
                p.oracle.t = int(entry.pop("step"))
                p.oracle.decays = {name: Decay(value) for name, value in p.oracle.case.hyper().items()}
                if p.averages.ema_decay is not None or p.averages.swa is not None:
                    p.averages.averaged, p.averages.begun = entry.pop("averaged"), int(entry.pop("begun"))
                    self.over |= type(p.averages.averaged) is Array  # as rows have it
                for name, decay in entry.pop("decays", {}).items():
                    if set(decay) != {"value", "since", "product", "age"}:
                        raise ValueError(f"decays of {p.name!r}")
                    p.oracle.decays[name] = Decay(**decay)
                if set(entry) != set(self.opt.state[p.name]):
                    raise ValueError(f"state of {p.name!r}")
                carries = reference.CARRIES.get(p.oracle.rule, ())
                for letter in carries:
                    entry[letter] = as_float(entry[letter])
                if any(type(entry[letter]) is not Array for letter in entry if letter not in carries):
                    raise ValueError(f"arrays of {p.name!r}")
                p.averages.buffers = {name: entry.pop(name).copy() for name in p.averages.buffers}
                p.oracle.state = {k: v if k in carries else v.copy() for k, v in entry.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise WrongResultError(f"load_state_dict took what it should refuse: {error}") from error

    def misuse_group(self) -> str:
        group = self.rng.choice(self.opt.groups)
        name = self.rng.choice(("lr", "params", "nothing", 3))
        way = self.rng.choice(
            (
                lambda: group.pop(name),
                group.clear,
                group.popitem,
                lambda: group.__delitem__(name),
                lambda: group.update({"lr": 0.5, "nothing": 1}),
                lambda: group.__setitem__("params", []),
                lambda: group.setdefault("x", 1),
                lambda: group.update(garbage(self.rng)),
                lambda: group.update(5),
                lambda: group.__ior__({"lr": 0.5}),
            )
        )
        self.tell("groups", name)
        outcome, _ = attempt(way)
        return outcome


def snapshot(value: Any, depth: int = 4) -> Any:
    """A state dict with copies of its arrays."""
    if isinstance(value, dict) and depth:
        return {key: snapshot(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, list) and depth:
        return [snapshot(entry, depth - 1) for entry in value]
    return value.copy() if type(value) is Array else value


def damage(rng: random.Random, saved: dict[Any, Any]) -> None:
    """Change one entry of a state dict, somewhere."""
    target: Any = saved
    while True:
        keys: list[Any] = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(target[key], (dict, list)) and target[key] and rng.random() < 0.85:
            target = target[key]
        else:
            break
    value = target[key]
    array = isinstance(value, Array) and value.dtype.kind == "f"
    ways: list[Callable[[], Any]] = [
        lambda: target.__setitem__(key, garbage(rng)),
        lambda: target.__setitem__(key, garbage(rng)),
        lambda: target.pop(key),
        lambda: target.__setitem__("more", garbage(rng)) if isinstance(target, dict) else target.append(value),
        lambda: target.__setitem__(key, value),
        lambda: target.__setitem__(key, rng.choice((0, 1, 5, 2**40, 2**61, np.int64(7), 0.5))),
    ]
    if array:
        ways = [
            lambda: target.__setitem__(key, garbage(rng)),
            lambda: target.__setitem__(key, numbers(rng, value.shape, value.dtype, 0.5)),
            lambda: target.__setitem__(key, np.asfortranarray(numbers(rng, value.shape, value.dtype))),
            lambda: target.__setitem__(
                key, value.astype(rng.choice(("f4", "f8", "f2", ">f4", ">f8", "i8", "c16", "O")))
            ),
            lambda: target.__setitem__(key, np.ones((*value.shape, 1)[-64:], value.dtype)),
            lambda: target.__setitem__(key, np.ones(value.shape[1:], value.dtype)),
            lambda: target.__setitem__(key, np.ma.masked_array(value, np.ones(value.shape, bool))),
            lambda: target.__setitem__(key, value.tolist()),
            lambda: target.pop(key),
        ]
    rng.choice(ways)()


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, Any]:
    """What a call came to.  Exceptions that are not allowed go on."""
    try:
        return "right", call(*args, **kwargs)
    except FloatingPointError as error:
        return "nonfinite", error
    except (TypeError, ValueError) as error:
        return "refused", error


def expect(outcome: str, *allowed: str) -> None:
    if outcome not in allowed:
        raise WrongResultError(f"it was {outcome}, expected {' or '.join(allowed)}")


# ---- Scenarios: each yields what was called and what it came to ----

Calls = Iterator[tuple[str, str]]
GOOD = ("step", "step", "step", "step", "step_one", "gather", "bind", "step_bound")
GOOD += ("reload", "load_live", "replace", "rebind", "set_hyper", "set_lr")
if find_spec("safetensors"):
    GOOD += ("save",)
BAD = (
    "step_badly",
    "step_badly",
    "step_badly",
    "step_badly",
    "step_read_only",
    "misplace",
    "load_badly",
    "load_badly",
    "misuse_group",
)


def life(rng: random.Random, tell: Callable[..., None]) -> Calls:
    subject = Life(rng, tell)
    if not subject.begin():
        yield "make", "refused"
        return
    yield "make", "right"
    for _ in range(rng.randrange(12)):
        name = rng.choice(rng.choice((GOOD, BAD)))
        outcome = getattr(subject, name)()
        subject.check()
        yield name, outcome
        if subject.over:
            return


def bad_parameters(rng: random.Random, subject: Life) -> Any:
    """Parameters that cannot be updated in place, among others that can."""
    arrays: list[Any] = [p.array for p in subject.parameters]
    i = rng.randrange(len(arrays))
    a = arrays[i]
    base = np.arange(64, dtype=a.dtype)
    frozen = a.copy()
    frozen.flags.writeable = False
    arrays[i] = rng.choice(
        (
            lambda: frozen,
            lambda: a.astype(rng.choice(("i4", "i8", "f2", "c8", "?", "O", "U4", "V4", np.longdouble, "M8[s]"))),
            lambda: a.astype(a.dtype.newbyteorder()),
            lambda: np.ma.masked_array(a),
            lambda: np.broadcast_to(a, (2, *a.shape)) if a.ndim < 60 else frozen,
            lambda: as_strided(base, (4,), (0,)),
            lambda: as_strided(base, (3, 3), (a.itemsize, a.itemsize)),
            lambda: as_strided(base, (5,), (a.itemsize // 2,)),
            lambda: a.tolist() if a.ndim else [0.5],
            lambda: [a],
            lambda: {"params": a},
            lambda: garbage(rng),
        )
    )()
    if isinstance(arrays[i], Array) and arrays[i].dtype == object and arrays[i].size == 0:
        arrays[i] = frozen
    if rng.random() < 0.2 and a.size:
        arrays[i] = a
        arrays.append(a.reshape(-1)[-1:] if a.flags.c_contiguous else a[...])
    else:
        arrays.append(np.ones(2))
    build = rng.choice(
        (
            list,
            tuple,
            deque,
            lambda arrays: {f"p{j}": array for j, array in enumerate(arrays)},
            lambda arrays: [{"params": array} for array in arrays],
            lambda arrays: [{"params": arrays}],
            lambda arrays: [{"params": arrays, "nothing": 1}],
            lambda arrays: {(): arrays[0]},
            lambda arrays: {None: np.ones(2)},
            lambda arrays: [{"lr": 0.1}],
            lambda arrays: [{"params": []}],
            lambda arrays: [{"params": np.ones(2)}, arrays],
            lambda arrays: [{"params": {1: np.ones(2)}}] * 2,
            lambda arrays: [{"params": np.ones(2)}, garbage(rng)],
            lambda arrays: set(),
            lambda arrays: iter(arrays),
            lambda arrays: rng.choice(
                (range(10**30), range(3), "text", b"bytes", {}, [], deep(), endless(), None, 1.5)
            ),
        )
    )
    return build(arrays)


def check_parameters(opt: Any) -> None:
    """Raise ValueError unless every array can be updated in place."""
    seen: set[int] = set()
    for a in (a for group in opt.groups for a in group["params"]):
        if not isinstance(a, Array) or isinstance(a, np.ma.MaskedArray) or not a.flags.writeable:
            raise ValueError
        if a.dtype.str not in [np.dtype(dtype).str for dtype in DTYPES]:
            raise ValueError
        starts = a.__array_interface__["data"][0] + sum(
            (np.arange(n) * step).reshape(-1, *[1] * (a.ndim - axis - 1))
            for axis, (n, step) in enumerate(zip(a.shape, a.strides, strict=True))
        )
        places = {int(start) + i for start in np.ravel(starts) for i in range(a.itemsize)} if a.size else set()
        if seen & places or len(places) != a.nbytes:
            raise ValueError
        seen |= places


def bad_make(rng: random.Random, tell: Callable[..., None]) -> Calls:
    subject = Life(rng, tell)
    subject.shared, subject.given = {}, [{} for _ in subject.kinds]
    params, spoiled = subject.params(), {}
    way = rng.random()
    if way < 0.5:
        params = bad_parameters(rng, subject)
    elif way < 0.9:
        name = rng.choice(list(DEFAULTS[subject.cls]))
        spoiled[name] = garbage(rng)
        if name == "betas" and rng.random() < 0.5:
            spoiled[name] = (0.5, garbage(rng))
        if subject.grouped and rng.random() < 0.5:
            params[-1][name] = spoiled.pop(name)
    else:
        spoiled[rng.choice(("nonfinite", "num_threads", "nothing", "params_", *IN_STEP))] = garbage(rng)
    if spoiled.get("weight_decay_form", 0) is None:
        del spoiled["weight_decay_form"]  # it is the default
    hyper = {**defaults(subject.cls), **{k: v for k, v in spoiled.items() if k in DEFAULTS[subject.cls]}}
    before = [p.stored.memory.copy() for p in subject.parameters]
    outcome, opt = attempt(subject.make, params, **spoiled)
    if outcome == "right":
        try:
            check_parameters(opt)
            if "nothing" in spoiled or "params_" in spoiled:
                raise ValueError
            if subject.options.get("nonfinite", "propagate") != "propagate" and "nonfinite" in spoiled:
                raise ValueError
            for given in params if subject.grouped and way >= 0.5 else [{}]:
                understood(subject.cls, {**hyper, **{k: v for k, v in given.items() if k != "params"}})
        except ValueError:
            raise WrongResultError("it was taken, but must be refused") from None
        if opt.num_threads is not None and opt.num_threads < 1:
            raise WrongResultError(f"num_threads is {opt.num_threads}")
    for p, memory in zip(subject.parameters, before, strict=True):
        if p.stored.memory.tobytes() != memory.tobytes():
            raise WrongResultError("making an optimizer changed a parameter")
    yield "make badly", outcome


def spoil_buffers(rng: random.Random, buffers: list[Any]) -> None:
    i = rng.randrange(len(buffers))
    a = buffers[i]
    way = rng.randrange(10)
    if way == 0:
        del buffers[i]
    elif way == 1:
        buffers.insert(i, np.ones(a.shape, a.dtype))
    elif way == 2:
        a.flags.writeable = False
    elif way == 3:
        buffers[i] = rng.choice((buffers[i - 1], buffers[i - 1].reshape(-1)))
    elif way == 4 and a.size > 1:
        memory = np.ones((*a.shape, 2), a.dtype)
        buffers[i] = memory[..., 0]
    else:
        buffers[i] = rng.choice(
            (
                lambda: a.astype(rng.choice(("f2", "i8", "c16", "O", ">f4", ">f8", np.longdouble))),
                lambda: np.ones((*a.shape, 1)[-64:], a.dtype),
                lambda: np.ones((*a.shape, 2)[-64:], a.dtype),
                lambda: np.ma.masked_array(a),
                lambda: a.tolist(),
                lambda: garbage(rng),
            )
        )()


def are_buffers(rule: str, buffers: list[Any], state: int, carries: int) -> bool:
    """Whether a rule can run on these."""
    if len(buffers) != 2 + state + carries or any(not isinstance(a, Array) for a in buffers):
        return False
    p = buffers[0]
    like_p, single = buffers[: 2 + state], buffers[2 + state :]
    if rule in reference.EXTENTS and p.ndim < 2:
        return False
    shapes = [p.shape, p.shape, *reference.state_shapes(rule, p.shape).values()]
    return (
        not any(isinstance(a, np.ma.MaskedArray) for a in buffers)
        and p.dtype.str in [np.dtype(dtype).str for dtype in DTYPES]
        and all(a.shape == shape for a, shape in zip(like_p, shapes, strict=True))
        and all(a.dtype.str == p.dtype.str for a in (p, *like_p[2:]))
        and buffers[1].dtype.str in FORMATS
        and all((a.size, a.dtype.str) == (1, np.dtype(float).str) for a in single)
        and all(a.flags.c_contiguous and (a.flags.writeable or a is buffers[1]) for a in buffers)
        and not any(np.shares_memory(a, b) for i, a in enumerate(buffers) for b in buffers[:i])
    )


def are_keywords(keywords: dict[str, Any], hyper: Sequence[str]) -> bool:
    """Whether a rule of these hyperparameters has a meaning for these."""
    if not {"step", *hyper} <= set(keywords) <= {"step", *hyper, *OPTIONAL}:
        return False
    try:
        for name, value in keywords.items():
            if name in ("step", "num_threads"):
                most = 1 << 62 if name == "step" else 1 << 30
                if name == "num_threads" and value is None:
                    continue
                if not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
                    return False
            elif meaning(name, value) is None:
                return False
    except ValueError:
        return False
    return True


def kernel(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """One rule on buffers and keywords, any of which may be spoiled."""
    rule = rng.choice(fastopt.kernels.__all__)
    hyper, letters, carries = (
        reference.hyper_names(rule),
        reference.state_names(rule),
        reference.CARRIES.get(rule, ()),
    )
    dtype = rng.choice(DTYPES)
    shape = a_shape(rng, dtype)
    of_g = dtype if rng.random() < 0.7 else np.dtype(rng.choice(FORMATS)).type
    buffers: list[Any] = [numbers(rng, shape, dtype), numbers(rng, shape, of_g)]
    buffers += [np.asarray(abs(numbers(rng, each, dtype))) for each in reference.state_shapes(rule, shape).values()]
    buffers += [np.array([0.25]) for _ in carries]
    keywords = {name: a_number(rng, name) for name in hyper}
    keywords = {name: inf if value is None else value for name, value in keywords.items()}
    keywords["step"] = rng.choice((1, 2, 3, 1000, 2**40, np.int64(5)))
    for name in OPTIONAL:
        if rng.random() < 0.2:
            keywords[name] = rng.choice((1, 2, 5)) if name == "num_threads" else a_number(rng, name)

    where = rng.random()
    if where < 0.35:
        spoil_buffers(rng, buffers)
    elif where < 0.7:
        names = [name for name in (*hyper, "step", *OPTIONAL) if name not in ("safeguard_warmup", "nesterov")]
        keywords[rng.choice(names)] = garbage(rng)
    elif where < 0.75:
        del keywords[rng.choice((*hyper, "step"))]
    elif where < 0.8:
        keywords[rng.choice(("nothing", "lr ", "betas", "p", "dtype"))] = garbage(rng)

    tell(rule, buffers, keywords)
    before = image(buffers)
    wanted = [a.copy() if type(a) is Array else a for a in buffers]
    outcome, _ = attempt(getattr(fastopt.kernels, rule), *buffers, **keywords)
    if not are_buffers(rule, buffers, len(letters), len(carries)) or not are_keywords(keywords, hyper):
        expect(outcome, "refused")
    elif where >= 0.8:
        expect(outcome, "right")
    if outcome == "refused":
        if image(buffers) != before:
            raise WrongResultError("it was refused, but has changed something")
    else:
        state = dict(zip((*letters, *carries), wanted[2:], strict=True))
        state.update({name: state[name].item() for name in carries})
        meant = {name: meaning(name, value) for name, value in keywords.items() if name not in ("step", "num_threads")}
        rates = {name: meant.pop(name) for name in hyper}
        g = converted(wanted[1], wanted[0].dtype)
        reference.step(rule, wanted[0], g, state, int(keywords["step"]), rates, **meant)
        for name, actual, right in zip(("p", "g", *state), buffers, [*wanted[:2], *state.values()], strict=True):
            if not same(actual, np.reshape(right, actual.shape)):
                raise WrongResultError(f"{name}: {actual}, expected {right}")
    yield "kernel", outcome


def step_rows(oracle: Oracle, rows: Array, values: Array, met: Array | None) -> None:
    """The oracle's step for some rows, those that come again summed; with `met`, after making up for missed steps."""
    sums: dict[int, Array] = {}
    for row, value in zip(rows.tolist(), values, strict=True):
        sums[row] = flush(sums[row] + value) if row in sums else value
    oracle.t += 1
    unique = np.array(list(sums), np.intp)
    g = np.array(list(sums.values())) if sums else values[:0]
    p, hyper = oracle.p[unique], oracle.hyper()
    state = {key: value[unique] if isinstance(value, Array) else value for key, value in oracle.state.items()}
    for i, row in enumerate(unique if met is not None and p.size else []):
        if skipped := oracle.t - 1 - int(met[row]):
            catch_up(oracle.case, p[i : i + 1], {key: value[i : i + 1] for key, value in state.items()}, skipped)
        met[row] = oracle.t
    reference.step(oracle.case.rule, p, g, state, oracle.t, hyper, **oracle.case.options())
    oracle.p[unique] = p
    for key, value in state.items():
        if isinstance(value, Array):
            oracle.state[key][unique] = value
        else:
            oracle.state[key] = value


def catch_up(case: Case, p: Array, state: dict[str, Array], skipped: int) -> None:
    reference.catch_up(case.rule, p, state, skipped, case.hyper())


def bad_rows(rng: random.Random, p: Array, rows: Array, values: Array) -> Any:
    """A RowGrad that does not fit, or an error in making one."""
    gradient = fastopt.RowGrad(rows, values)
    way = rng.randrange(10)
    if way == 0:
        return fastopt.RowGrad(rows, garbage(rng) if len(rows) > 3 else None)
    if way == 1:
        return fastopt.RowGrad(
            np.append(rows, rng.choice((len(p), -1, 2**62, -(2**63)))), np.append(values, values[:1], 0)
        )
    if way == 2:
        gradient.rows[rng.randrange(len(rows))] = rng.choice((len(p), -1, 2**62, -(2**63)))
    elif way == 3:
        gradient.values.resize((len(rows) - 1, *values.shape[1:]), refcheck=False)
    elif way == 4:
        return fastopt.RowGrad(rows, p[:1].repeat(len(rows), 0)[..., None])
    elif way == 5:
        return fastopt.RowGrad(rows, values.astype(rng.choice((">f2", "i8", "c16", ">f4", ">f8"))))
    elif way == 6:
        return fastopt.RowGrad(rows[:1], p[:1])
    elif way == 7:
        return fastopt.RowGrad(rows.astype(float), values)
    elif way == 8:
        return fastopt.RowGrad(rows[:, None], values)
    else:
        return fastopt.RowGrad(rows[1:], values)
    return gradient


def table(rng: random.Random, tell: Callable[..., None]) -> Calls:
    """Gradients of rows of one parameter, with and without making up for missed steps."""
    case, dtype = rng.choice([case for case in BY_ROW if case.cls != "SM3"]), rng.choice(DTYPES)
    shape = (rng.choice((1, 3, 17)), *rng.choice(((), (1,), (5,), (2, 40), (1100,), (0,))))
    p = numbers(rng, shape, dtype)
    catches = case.rule in reference.CATCH_UP and rng.random() < 0.6
    opt = case.make(p, catch_up=catches, num_threads=rng.choice((None, 1, 2, 3)))
    oracle, met = Oracle(case, p), np.zeros(len(p), np.int64) if catches else None

    def make_up() -> None:
        for row in range(len(p)) if catches else ():
            if skipped := oracle.t - int(met[row]):
                state = {key: value[row : row + 1] for key, value in oracle.state.items()}
                catch_up(oracle.case, oracle.p[row : row + 1], state, skipped)
        if catches and p.size:
            met[:] = oracle.t

    yield "make table", "right"
    for _ in range(rng.randrange(10)):
        way = rng.random()
        rows = np.array([rng.randrange(len(p)) for _ in range(rng.choice((0, 1, 2, 5, 30)))], np.int64)
        given = numbers(
            rng, (len(rows), *shape[1:]), dtype if rng.random() < 0.7 else np.dtype(rng.choice(FORMATS)).type
        )
        values = converted(given, dtype)
        if way < 0.5:
            tell("RowGrad", case.name, p, catches, rows.tolist(), values)
            outcome, _ = attempt(opt.step, fastopt.RowGrad(rng.choice((list, np.asarray))(rows), given))
            expect(outcome, "right")
            step_rows(oracle, rows, values, met)
        elif way < 0.6:
            g = numbers(rng, shape, dtype)
            tell("whole", case.name, p, catches, g)
            outcome, _ = attempt(opt.step, g)
            expect(outcome, "right")
            make_up()
            oracle.step(g)
            if catches and p.size:
                met[:] = oracle.t
        elif way < 0.7:
            tell("catch_up", case.name, catches)
            outcome, _ = attempt(opt.catch_up)
            expect(outcome, "right" if catches else "refused")
            make_up()
        elif way < 0.8:
            lr = rng.choice((0.0, 0.5, 1e-3))
            tell("lr", case.name, catches, lr)
            outcome, _ = attempt(setattr, opt, "lr", lr)
            expect(outcome, "right")
            make_up()
            oracle.case = Case("", case.cls, case.rule, {**oracle.case.kwargs, "lr": lr})
        elif len(rows) and p.size:
            tell("bad RowGrad", case.name, p, rows.tolist(), values)
            outcome, _ = attempt(lambda rows=rows, values=values: opt.step(bad_rows(rng, p, rows, values)))
            expect(outcome, "refused")
        else:
            continue
        if not same(p, oracle.p):
            raise WrongResultError(f"p: {p}, expected {oracle.p}")
        for key, value in oracle.state.items():
            if not same(opt.state[0][key], np.asarray(value)):
                raise WrongResultError(f"{key}: {opt.state[0][key]}, expected {value}")
        if catches and opt.state[0]["seen"].tolist() != met.tolist():
            raise WrongResultError(f"seen: {opt.state[0]['seen']}, expected {met}")
        yield "rows", outcome


SCHEDULED = ("lr", "eps", "weight_decay", "alpha", "rho", "lr_decay", "betas")
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
    names = [name for name in defaults(cls) if name in SCHEDULED and name != TOLD_BY.get(cls)]
    names = [name for name in names if kind(cls, name) != "pair of eps"]
    chosen = rng.sample(names, rng.randrange(1, len(names) + 1))
    steps = rng.randrange(1, 6)
    kinds = {name: "beta1" if name == "betas" else kind(cls, name) for name in chosen}
    values = {name: [a_number(rng, kinds[name]) for _ in range(steps)] for name in chosen}
    others = (0.5,) * (len(PARTS[kind(cls, "betas")]) - 1)  # of the betas
    spoiled, bad = (rng.choice(chosen), rng.randrange(steps)), rng.choice(BAD_VALUES)
    failing = False

    def schedule(name: str) -> Any:
        def at(step: int) -> Any:
            if failing and (name, step) == spoiled:
                if bad is None:
                    raise ValueError("no value")
                return bad
            return values[name][min(step, steps - 1)]

        return (at, *others) if name == "betas" else at

    def by_hand(step: int) -> dict[str, Any]:
        return {name: (values[name][step], *others) if name == "betas" else values[name][step] for name in chosen}

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


SCENARIOS = (life,) * 6 + (bad_make,) * 6 + (kernel,) * 10 + (table,) * 4 + (scheduled,) * 3 + (by_pattern, settings)


def scenario(seed: int, index: int, counts: Counter[tuple[str, str]]) -> None:
    """One scenario; an error names it, and the call it came to."""
    rng = random.Random(f"{seed} {index}")
    told: list[Any] = []

    def tell(*what: Any) -> None:
        told[:] = what

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts.update(rng.choice(SCENARIOS)(rng, tell))
    except Exception as error:
        call = ", ".join(describe(value) for value in told)
        raise AssertionError(
            f"seed {seed}, scenario {index}: {type(error).__name__}: {error!s:.1000}\n{call}"
        ) from error


def report(counts: Counter[tuple[str, str]]) -> str:
    outcomes = ("right", "refused", "nonfinite")
    lines = [f"{'call':>16}" + "".join(f"{outcome:>12}" for outcome in outcomes)]
    for call in sorted({call for call, _ in counts}):
        lines.append(f"{call:>16}" + "".join(f"{counts[call, outcome]:>12,}" for outcome in outcomes))
    totals = [sum(n for (_, outcome), n in counts.items() if outcome == wanted) for wanted in outcomes]
    return "\n".join([*lines, f"{'all':>16}" + "".join(f"{total:>12,}" for total in totals)])


def work(seed: int, first: int, seconds: float) -> None:
    """Run scenarios from the first on, telling which one is running, should it crash."""
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + seconds
    index = first
    while time.monotonic() < end:
        print(index, file=sys.stderr)
        scenario(seed, index, counts)
        index += 1
    print(report(counts))


def limit_memory() -> None:
    """Turn what would take all memory into a MemoryError; AddressSanitizer reserves more than any limit itself."""
    if resource is not None and "asan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", type=int, help="run this scenario alone, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_memory()
    if options.only is not None:
        scenario(options.seed, options.only, Counter())
        return 0
    if options.worker:
        work(options.seed, 0, options.seconds)
        return 0
    command = [sys.executable, "-X", "faulthandler", __file__, "--worker"]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    index, said = "0", []
    for line in worker.stderr:
        if line.strip().isdecimal():
            index = line.strip()
        else:
            said.append(line)
    out = worker.stdout.read()
    if code := worker.wait():
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        print(*said, f"fuzz_api: {how} in scenario {index} of seed {options.seed}", sep="")
        return 1
    print(f"seed {options.seed}\n{out}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
