"""Values of hyperparameters: good ones, garbage, and the meaning that each must have."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np

import fastopt
from support.cases import FORMS as DECAY_FORMS
from support.cases import Case
from support.hyper import declared, may_be_none, parts, range_of
from support.registry import CLASSES, RULES

Array = np.ndarray
DEEP = 5_000
FORMS = ("l2", "decoupled", "independent")


# ---- Garbage ----


class Number:
    """An object that can be converted to a float without being a number."""

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


# ---- Kinds ----


@dataclass(frozen=True)
class Kind:
    """The values that a hyperparameter takes: numbers, a truth value or a word."""

    names: tuple[str, ...]  # of its numbers in rules.def
    unset: frozenset[str] = frozenset()  # those that may be None
    is_flag: bool = False
    is_word: bool = False

    @property
    def first(self) -> Kind:
        """The kind of the only number, or of the first of several, which a schedule gives: it may not be None."""
        return Kind(self.names[:1])

    @property
    def is_several(self) -> bool:
        return len(self.names) > 1


def kind_of(cls: str, name: str) -> Kind:
    """The kind of a hyperparameter of a class."""
    default = {**CLASSES[cls].defaults, "lr_scale": 1.0}[name]
    names = parts(cls, name)
    unset = frozenset(part for part in names if may_be_none(cls, part))
    return Kind(names, unset, isinstance(default, bool), name == "weight_decay_form")


def row_kind(name: str) -> Kind:
    """The kind of a keyword of a kernel."""
    return Kind((name,), is_flag=name in ("maximize", "cautious_decay") or range_of(number(name)).words == "0 or 1")


def number(name: str) -> str:
    """The name in hyper.def of a number: the forms of decay have one range, and so have rates."""
    return {"decoupled_decay": "weight_decay", "independent_decay": "weight_decay", "peak_lr": "lr"}.get(name, name)


def is_fixed(cls: str, name: str) -> bool:
    """Whether an optimizer may refuse to change it: it decides the state, or the average follows from it."""
    return declared(cls)[name].fixed != "" or name in getattr(fastopt, cls)._declaration.selecting


def a_part(rng: random.Random, name: str, unset: bool) -> Any:
    """A value that a number must take."""
    limits = range_of(number(name))
    low, high = limits.low, limits.high
    if high <= 0:
        values = [0, -0.0, -1e-320, -0.5, -0.8, -1, np.float32(-0.3), -7, -1e30, -(10**200)]
    elif high == 1:
        values = [0, 0.0, -0.0, 5e-324, 1e-20, 0.5, 0.9, 0.999, math.nextafter(1, 0), np.float32(0.9), np.int8(0)]
        values += [1, 1.0, np.uint8(1), sys.float_info.min]
    else:
        values = [0, 0.0, -0.0, 1e-310, 1e-40, 1e-8, 1e-3, 0.1, 1, 7, 10**20, 1e30, 1e300, rng.random()]
        values += [np.float16(0.1), np.float32(0.1), np.float64(0.1), np.longdouble("0.1"), np.int64(2), np.uint8(3)]
        values += [low + sys.float_info.epsilon, sys.float_info.min, 1 + rng.random(), inf, np.float32(inf)]
    # Next to an end that is not in the range, subnormal numbers are refused.
    values = [value for value in values if value in limits and (value != 0 or limits.has_low or high <= 0)]
    values = [value for value in values if limits.has_low or low != 0 or value >= sys.float_info.min]
    value = rng.choice([*values, None] if unset else values)
    if value is not None and rng.random() < 0.2:  # as np.where and scipy.interpolate give it
        value = np.full(rng.choice(((), (1,), (1, 1))), value, None if abs(value) < 2**62 else float)
    return value


def a_value(rng: random.Random, kind: Kind) -> Any:
    """A value that a hyperparameter must take."""
    if kind.is_flag:
        return rng.choice((True, False, np.True_, np.False_))
    if kind.is_word:
        return rng.choice(FORMS)
    values = [a_part(rng, name, name in kind.unset) for name in kind.names]
    if not kind.is_several:
        return values[0]
    ways: tuple[Callable[[Any], Any], ...] = (tuple, list)
    if None not in values:
        ways += (lambda values: np.array([np.asarray(value, float).item() for value in values]),)
    return rng.choice(ways)(values)


# ---- Meanings ----


def as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def alone(value: Any) -> Any:
    """The number in an array of one element; all else as it is."""
    is_one = type(value) is Array and value.size == 1 and value.dtype.kind in "fiub"
    return value.reshape(())[()] if is_one else value


def meaning_of_part(name: str, value: Any, unset: bool) -> float | None:
    """The meaning of a number; ValueError when it must be refused."""
    value = alone(value)
    if value is None and unset:
        return None
    if hasattr(value, "__float__") and not isinstance(value, np.ma.MaskedArray):
        try:
            x = as_float(value) + 0.0  # -0 is 0
        except TypeError as error:
            raise ValueError from error
        limits = range_of(number(name))
        # The least number above 0 is the least normal one, and above 1 the next one.
        least = {0.0: sys.float_info.min, 1.0: 1 + sys.float_info.epsilon}.get(limits.low, limits.low)
        if x in limits and (limits.has_low or x >= least):
            return x
    raise ValueError


def meaning(kind: Kind, value: Any) -> Any:
    """The meaning of a value; ValueError when it must be refused."""
    if kind.is_several:
        if type(value) is Array and value.ndim == 1 and value.dtype.kind in "fiu":
            value = tuple(value)
        if isinstance(value, (tuple, list)) and len(value) == len(kind.names):
            pairs = zip(kind.names, value, strict=True)
            return tuple(meaning_of_part(name, part, name in kind.unset) for name, part in pairs)
        raise ValueError
    value = alone(value)
    if kind.is_flag:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        raise ValueError
    if kind.is_word:
        if isinstance(value, str) and value in (*FORMS, "own"):
            return str(value)
        raise ValueError
    return meaning_of_part(kind.names[0], value, bool(kind.unset))


def is_meant(kind: Kind, value: Any) -> bool:
    """Whether a value has a meaning."""
    try:
        meaning(kind, value)
    except ValueError:
        return False
    return True


def plain_type(kind: Kind, value: Any) -> bool:
    """Whether a value is of a type that the documentation names."""
    if kind.is_several:
        return all(plain_type(Kind((name,)), number) for name, number in zip(kind.names, value, strict=True))
    value = alone(value)
    if isinstance(value, (bool, np.bool_)):
        return kind.is_flag
    if kind.is_word:
        return isinstance(value, str)
    if isinstance(value, int):
        return abs(value) <= sys.float_info.max
    return value is None or isinstance(value, (int, float, np.integer, np.floating))


def defaults(cls: str) -> dict[str, Any]:
    """The hyperparameters of a class that is given none."""
    return Case("", cls, "").settings()


def can_be_cautious(cls: str, meant: Mapping[str, Any]) -> bool:
    """Whether decay in this form acts apart from the step, and no average of the rule misses it."""
    of_rule = RULES[CLASSES[cls].rule_of(meant)].decay_rate is not None
    forms = ("decoupled", "independent", *(("own",) if of_rule else ()))
    return meant["weight_decay_form"] in forms and not CLASSES[cls].averages


def can_be_corrected(cls: str, meant: Mapping[str, Any]) -> bool:
    """Whether decay may follow the learning rate: not in the gradient, nor where an average follows from lr."""
    return meant["weight_decay_form"] in ("decoupled", "own") and not CLASSES[cls].average_from


def understood(cls: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The meaning of all hyperparameters; ValueError when they must be refused."""
    meant = {name: meaning(kind_of(cls, name), value) for name, value in settings.items()}
    if CLASSES[cls].conflict(meant):
        raise ValueError
    if meant["weight_decay_form"] == "own" and DECAY_FORMS.get(cls) != "own":
        raise ValueError
    if meant["cautious_decay"] and not can_be_cautious(cls, meant):
        raise ValueError
    if meant["corrected_decay"] and not can_be_corrected(cls, meant):
        raise ValueError
    if meant["lr"] * meant.get("lr_scale", 1.0) == inf:
        raise ValueError
    return meant


def is_own(name: Any, value: Any) -> bool:
    """Whether a group may have this under a key of the user's own."""
    value = alone(value)
    if isinstance(value, (int, np.integer)) and abs(int(value)) >= 1 << 63:
        return False
    return isinstance(name, str) and (value is None or isinstance(value, (str, bool, int, float, np.generic)))


def scaled(meant: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters for the oracle, which knows no lr_scale."""
    others = {name: value for name, value in meant.items() if name != "lr_scale"}
    return {**others, "lr": meant["lr"] * meant["lr_scale"]}
