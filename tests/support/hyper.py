"""Hyperparameters of a class: their names in rules.def, and the ranges that the messages give in words."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import fastopt
from support.registry import CLASSES


def declared(cls: str) -> dict:
    """The hyperparameters of a class as it declares them, by name."""
    return getattr(fastopt, cls)._declaration.hyper


def parts(cls: str, name: str) -> tuple[str, ...]:
    """The names in rules.def of a hyperparameter: several where it is several numbers."""
    return declared(cls)[name].names if name in declared(cls) else (name,)


def is_several(cls: str, name: str) -> bool:
    return len(parts(cls, name)) > 1


def may_be_none(cls: str, part: str) -> bool:
    """Whether None has a meaning for a number, by its name in rules.def."""
    return part in CLASSES[cls].unset(defaultdict(float))


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may be."""

    words: str
    low: float
    high: float
    has_low: bool  # whether the least is among them
    has_high: bool

    def __contains__(self, x: float) -> bool:
        return (x > self.low or (self.has_low and x == self.low)) and (
            x < self.high or (self.has_high and x == self.high)
        )

    @property
    def usual(self) -> tuple[float, float]:
        """Two numbers in it, all of whose size can be drawn between them."""
        if self.low > -math.inf:
            low = self.low if self.has_low else self.low + 0.01
            return low, min(self.high if self.has_high else self.high - 0.001, low + 2.0)
        high = min(self.high, 1.0)
        return high - 2.0, high

    def outside(self) -> list[float]:
        """Numbers that are not in it: next to each end, far away, infinities, NaN."""
        near = [self.low - 0.1, self.low, self.high, self.high + 0.1]
        return [x for x in dict.fromkeys([*near, -math.inf, math.inf]) if x not in self] + [math.nan]


@cache
def range_of(name: str) -> Range:
    """The range of a number by its name in rules.def, read from the words of the message, not from its limits."""
    try:
        fastopt._core.check_range("it", name, math.nan)
    except ValueError as error:
        words = str(error).removeprefix("it must be ").removesuffix(", got nan")
    else:
        raise AssertionError(f"NaN is in the range of {name}")
    core = re.sub(r" \([a-z].*\)$", "", words)  # without the meaning of infinity
    if core == "0 or 1":
        return Range(words, 0.0, 1.0, True, True)
    if both := re.fullmatch(r"(?:an integer )?in ([\[(])(\S+), (\S+)([\])])", core):
        first, low, high, last = both.groups()
        return Range(words, float(low), float(high), first == "[", last == "]")
    found = re.fullmatch(r"(finite)?(?: and )?(?:([<>])(=?) (\S+))?", core)
    if not core or not found:
        raise AssertionError(f"csrc/rules/hyper.def: the words of {name} must be those of a range, got {words!r}")
    finite, side, equal, end = found.groups()
    if side == ">":
        return Range(words, float(end), math.inf, bool(equal), not finite)
    if side == "<":
        return Range(words, -math.inf, float(end), not finite, bool(equal))
    return Range(words, -math.inf, math.inf, False, False)
