"""Ranges of the hyperparameters and state of rules of one's own."""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any

from ..calls import checks_arguments
from ..declarations import as_float


@dataclass(frozen=True, init=False)
class Range:
    """The range of a hyperparameter, or of a state buffer, of a rule of one's own: low <= x < high.

    ::

        def rule(p, g, m, v: Annotated[float, Range(0)], *, lr=1e-3, gamma: Annotated[float, Range(0, 1)] = 0.9): ...

    Parameters
    ----------
    low : float, optional
        The smallest value; by default none.
    high : float, > low, optional
        The end of the range, which does not belong to it; by default infinity.
    closed : bool, default False
        Whether `high` belongs to the range.

    Raises
    ------
    TypeError, ValueError
        For ends that are not numbers, and for ranges that contain no number.
    """

    low: float
    high: float
    closed: bool

    @checks_arguments
    def __init__(self, low: float | None = None, high: float | None = None, closed: bool = False) -> None:
        begin = -math.inf if low is None else as_float("Range: low", low)
        end = math.inf if high is None else as_float("Range: high", high)
        if not isinstance(closed, bool):
            raise TypeError(f"Range: closed must be True or False, got {brief(closed)}")
        if not (begin < end or (closed and begin == end and math.isfinite(begin))):
            raise ValueError(f"Range: low must be below high, got {begin:g} and {end:g}")
        for name, value in (("low", begin), ("high", end), ("closed", closed)):
            object.__setattr__(self, name, value)

    @property
    def smallest(self) -> float:
        """The smallest finite number in the range."""
        return max(self.low, -sys.float_info.max)

    @property
    def words(self) -> str:
        """The range in the words of messages."""
        if self.high < math.inf:
            low = "-infinity" if self.low == -math.inf else f"{self.low:g}"
            opens, closes = "(" if self.low == -math.inf else "[", "]" if self.closed else ")"
            return f"in {opens}{low}, {self.high:g}{closes}"
        finite = "" if self.closed else "finite"
        above = "" if self.low == -math.inf else f">= {self.low:g}"
        return " and ".join(filter(None, (finite, above))) or "> -infinity"

    @property
    def is_share(self) -> bool:
        """Whether the range lies in [0, 1)."""
        return self.low >= 0 and (self.high < 1 or (self.high == 1 and not self.closed))

    def check(self, label: str, value: float) -> None:
        """Raise ValueError unless the value lies in the range."""
        if not (self.smallest <= value and (value < self.high or (self.closed and value == self.high))):
            raise ValueError(f"{label} must be {self.words}, got {value!r}")


SHARE, POSITIVE = Range(0, 1), Range(0)


def usual_range(name: str) -> Range:
    """Return the range of a hyperparameter of this name that has no annotation."""
    if name.startswith("beta") or name == "momentum":
        return SHARE
    return POSITIVE if name in ("lr", "eps") else Range()


def annotated_ranges(label: str, function: Callable[..., Any]) -> dict[str, Range]:
    """Return the ranges in the annotations of a function, by argument."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # an annotation is any expression
        raise TypeError(f"{label}: annotations must be readable, got {type(error).__name__}: {error}") from error
    found: dict[str, Range] = {}
    for name, hint in hints.items():
        ranges = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
        if len(ranges) > 1:
            raise TypeError(f"{label}: {name} must have one Range, got {len(ranges)}")
        if ranges:
            found[name] = ranges[0]
    return found
