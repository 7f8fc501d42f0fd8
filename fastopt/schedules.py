r"""Schedules: hyperparameters that change from step to step.

>>> from fastopt import schedules
>>> s = schedules.warmup(schedules.cosine(0.1, decay_steps=1000), warmup_steps=100)
>>> s(0), s(50), s(100), s(1100)
(0.0, 0.05, 0.1, 0.0)

A schedule is a function of the number of steps that have been completed, 0 before the first.  Every optimizer takes one
in place of a number: ``fastopt.Adam(params, lr=s)``.  Any other function of that kind will do as well.

In every equation `t` is the number of completed steps.  Values are made of the sums, products, quotients and square
roots that IEEE arithmetic rounds in one way: a schedule has the same bits on every machine, as a step has.
"""

# The names are those of functions, which they are to their users; as classes they can be shown, compared and saved.
# ruff: noqa: N801

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from operator import index
from reprlib import repr as brief
from time import time_ns
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from . import _core
from .calls import checks_arguments, dataclass_transform
from .scalars import is_integer, is_number, unwrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

S = TypeVar("S", bound="_Schedule")

__all__ = [
    "constant",
    "cosine",
    "cosine_restarts",
    "ema_warmup",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "multi_step",
    "one_cycle",
    "plot",
    "polynomial",
    "reduce_on_plateau",
    "scale",
    "shift",
    "step",
    "warmup",
    "warmup_stable_decay",
]


# ---- Shared parts ----


@dataclass(frozen=True, repr=False)
class _Schedule:
    """A frozen dataclass whose fields are its arguments, checked in `__post_init__`, and whose values are `_at`."""

    def __call__(self, step: int) -> float:
        """Return the value for the step that follows `step` completed ones."""
        try:
            t = index(step)
        except TypeError:
            raise TypeError(f"{self._name}: step must be an integer >= 0, got {brief(step)}") from None
        if t < 0:
            raise ValueError(f"{self._name}: step must be an integer >= 0, got {t}")
        return self._at(t)

    def __repr__(self) -> str:
        """Show the arguments that are not the default ones."""
        given = [f.name for f in fields(self) if f.init and getattr(self, f.name) != f.default]
        return f"{self._name}({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"

    def _at(self, t: int) -> float:
        raise NotImplementedError

    @property
    def horizon(self) -> int | None:
        """The number of completed steps after which the value is constant; None if there is none."""
        return self._horizon()

    def _horizon(self) -> int | None:
        return None

    @property
    def peak(self) -> float | None:
        """The largest value that it ever has, or None where that is not known."""
        turns = _turns_of(self)
        return None if turns is None else max(map(self._at, turns))

    def _turns(self) -> list[int] | None:
        """Return the steps at which it may stop rising, but for the first step and the horizon; None: not known.

        Without a horizon it must not rise after the last of them.
        """
        return None

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    # Checks of fields, which are then kept as Python's own numbers and tuples.

    def _numbers(
        self, *names: str, requirement: str = "finite", low: float = -math.inf, high: float = math.inf
    ) -> None:
        """Take fields as numbers that are finite and in [low, high]."""
        for name in names:
            self._set(name, number := _number(f"{self._name}: {name}", getattr(self, name)))
            if not math.isfinite(number) or not low <= number <= high:
                raise ValueError(f"{self._name}: {name} must be {requirement}, got {number!r}")

    def _positive(self, *names: str) -> None:
        """Take fields as numbers that are finite and > 0."""
        self._numbers(*names, requirement="finite and > 0", low=math.nextafter(0.0, 1.0))

    def _counts(self, *names: str, least: int = 1) -> None:
        """Take fields as integers of at least `least`."""
        for name in names:
            self._set(name, _count(f"{self._name}: {name}", getattr(self, name), least))

    def _integers(self, *names: str) -> None:
        """Take fields as integers of either sign."""
        for name in names:
            value = getattr(self, name)
            if not is_integer(value := unwrapped(value)):
                raise TypeError(f"{self._name}: {name} must be an integer, got {brief(value)}")
            self._set(name, int(value))

    def _choice(self, name: str, *known: str) -> None:
        """Take a field as one of some words."""
        value = getattr(self, name)
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{self._name}: {name} must be one of {', '.join(known)}, got {brief(value)}")

    def _flag(self, name: str) -> None:
        """Take a field as True or False."""
        value = getattr(self, name)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self._name}: {name} must be True or False, got {brief(value)}")
        self._set(name, bool(value))

    def _sequence(self, name: str) -> None:
        """Take a field as a sequence."""
        value = getattr(self, name)
        if not _core.is_sequence(value) and not (isinstance(value, np.ndarray) and value.ndim):
            raise TypeError(f"{self._name}: {name} must be a sequence, got {brief(value)}")
        self._set(name, tuple(value))

    def _boundaries(self, name: str) -> None:
        """Take a field as integers >= 1 that increase."""
        self._sequence(name)
        checked = [_count(f"{self._name}: {name}[{i}]", value, 1) for i, value in enumerate(getattr(self, name))]
        if any(a >= b for a, b in pairwise(checked)):
            raise ValueError(f"{self._name}: {name} must increase, got {brief(checked)}")
        self._set(name, tuple(checked))


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _schedule(cls: type[S]) -> type[S]:
    """Make a class of a schedule a dataclass whose constructor names its arguments where those of a call do not fit."""
    made = dataclass(frozen=True, repr=False)(cls)
    made.__init__ = checks_arguments(made.__init__)  # type: ignore[method-assign]
    return made


def _number(label: str, value: Any) -> float:
    """Return a number as a float, or raise."""
    if not is_number(value := unwrapped(value)):
        raise TypeError(f"{label} must be a number, got {brief(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{label} must be a number that a float can hold, got {brief(value)}") from None


def _count(label: str, value: Any, least: int) -> int:
    """Return an integer, or raise."""
    if not is_integer(value := unwrapped(value)):
        raise TypeError(f"{label} must be an integer >= {least}, got {brief(value)}")
    if value < least:
        raise ValueError(f"{label} must be an integer >= {least}, got {value}")
    return int(value)


def _callable(label: str, value: Any) -> None:
    """Raise unless a value can be a schedule."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{label} must be a schedule, got {brief(value)}")


def _later(steps: int, schedule: Callable[[int], float]) -> int | None:
    """Return the horizon of a schedule that starts so many steps later; None where it has none."""
    horizon = horizon_of(schedule)
    return None if horizon is None else max(steps + horizon, 0)


def _turns_of(schedule: Callable[[int], float], begin: int = 0, end: int | None = None) -> list[int] | None:
    """Return steps of which one has the largest value of a schedule that begins at a step and has an end, or none.

    None where they are not known.
    """
    turns = schedule._turns() if isinstance(schedule, _Schedule) else None
    if turns is None:
        return None
    horizon = horizon_of(schedule)
    steps = [begin + t for t in (0, *turns, *(() if horizon is None else (horizon,)))]
    return steps if end is None else [t for t in steps if t < end] + [end - 1]


# ---- Arithmetic with the same bits everywhere: libm's cosines and powers differ between platforms and CPUs ----


def _between(start: float, end: float, left: float) -> float:
    """Return the value on the way from start to end with this share of it left; exact at both."""
    return start if left == 1 else end + (start - end) * left


def _series(coefficients: tuple[float, ...], x: float) -> float:
    """Return a polynomial of x, whose highest coefficient comes first."""
    total = 0.0
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


_COSINE = tuple((-1) ** n / math.factorial(2 * n) for n in range(9, -1, -1))  # of x^2
_SINE = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(9, -1, -1))  # of x^2, times x
_ARTANH = tuple(1 / (2 * n + 1) for n in range(11, -1, -1))  # the same
_EXP = tuple(1 / math.factorial(n) for n in range(14, -1, -1))
_LN2 = 0.6931471805599453


def _half_cosine(x: float) -> float:
    """Return (1 + cos(pi * x)) / 2 = cos(pi * x / 2)^2 for x in [0, 1], by Taylor's series; exact at both ends."""
    if x > 0.5:
        r = math.pi / 2 * (1 - x)
        root = r * _series(_SINE, r * r)
    else:
        r = math.pi / 2 * x
        root = _series(_COSINE, r * r)
    return root * root


def _power(base: float, exponent: float) -> float:
    """Return base^exponent for base >= 0 and exponent >= 0, infinity where a float cannot hold it."""
    if exponent < 64 and exponent == int(exponent):
        n, power = int(exponent), 1.0
        while n:
            power, base, n = power * base if n & 1 else power, base * base, n >> 1
        return power
    return _exp(exponent * _log(base)) if base > 0 else 0.0


def _scaled(value: float, factor: float, times: float) -> float:
    """Return value * factor^times; 0 stays 0, even where the power is infinity."""
    return value * _power(factor, times) if value else value


def _log(x: float) -> float:
    """Return the logarithm of x = m * 2^e: e * ln(2) + 2 * artanh(z) with z = (m - 1) / (m + 1), |z| < 0.18."""
    m, e = math.frexp(x)
    if m < 0.7071067811865476:
        m, e = 2 * m, e - 1
    z = (m - 1) / (m + 1)
    return e * _LN2 + 2 * z * _series(_ARTANH, z * z)


def _exp(x: float) -> float:
    """Return exp(x) = 2^k * exp(r) with |r| <= ln(2) / 2, by Taylor's series."""
    if abs(x) > 750:
        return math.inf if x > 0 else 0.0
    k = math.floor(x / _LN2 + 0.5)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10  # ln 2 in two parts
    try:
        return math.ldexp(_series(_EXP, r), k)
    except OverflowError:
        return math.inf


# ---- The schedules, simplest first ----


@_schedule
class constant(_Schedule):
    """A constant value.

    ::

        s(t) = value

    Parameters
    ----------
    value : float
        The value.
    """

    value: float

    def __post_init__(self) -> None:
        self._numbers("value")

    def _at(self, t: int) -> float:
        return self.value

    def _horizon(self) -> int | None:
        return 0

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class polynomial(_Schedule):
    """From one value to another along a polynomial, then constant.

    ::

        s(t) = end + (init - end) * (1 - x)^power,    x = (t - begin) / steps, from 0 to 1

    Parameters
    ----------
    init_value, end_value : float
        The value up to `transition_begin`, and that from `transition_begin` + `transition_steps` on.
    power : float
        The power, > 0.
    transition_steps : int
        Steps between the two, at least 1.
    transition_begin : int, default 0
        The step at which the value begins to change.
    """

    init_value: float
    end_value: float
    power: float
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        self._numbers("init_value", "end_value")
        self._positive("power")
        self._counts("transition_steps")
        self._counts("transition_begin", least=0)

    def _at(self, t: int) -> float:
        gone = min(max(t - self.transition_begin, 0), self.transition_steps)
        left = 1 - gone / self.transition_steps
        return _between(self.init_value, self.end_value, _power(left, self.power))

    def _horizon(self) -> int | None:
        return self.transition_begin + self.transition_steps

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class linear(_Schedule):
    """From one value to another along a line, then constant.

    ::

        s(t) = end + (init - end) * (1 - x),    x = (t - begin) / steps, from 0 to 1

    Parameters
    ----------
    init_value, end_value : float
        The value up to `transition_begin`, and that from `transition_begin` + `transition_steps` on.
    transition_steps : int
        Steps between the two, at least 1.
    transition_begin : int, default 0
        The step at which the value begins to change.
    """

    init_value: float
    end_value: float
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        self._numbers("init_value", "end_value")
        self._counts("transition_steps")
        self._counts("transition_begin", least=0)

    def _at(self, t: int) -> float:
        gone = min(max(t - self.transition_begin, 0), self.transition_steps)
        return _between(self.init_value, self.end_value, 1 - gone / self.transition_steps)

    def _horizon(self) -> int | None:
        return self.transition_begin + self.transition_steps

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class exponential(_Schedule):
    """Exponential decay: a factor per `transition_steps`.

    ::

        s(t) = init * decay_rate^x,    x = (t - begin) / steps, rounded down with staircase, and not below 0

    Parameters
    ----------
    init_value : float
        The value up to `transition_begin`.
    decay_rate : float
        The factor, > 0.
    transition_steps : int, default 1
        Steps per factor, at least 1.
    transition_begin : int, default 0
        The step at which the value begins to change.
    staircase : bool, default False
        Change only once per `transition_steps`.
    end_value : float, optional
        Last value: a lower bound for factors below 1, else an upper bound.
    """

    init_value: float
    decay_rate: float
    transition_steps: int = 1
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        self._numbers("init_value")
        self._positive("decay_rate")
        self._counts("transition_steps")
        self._counts("transition_begin", least=0)
        self._flag("staircase")
        if self.end_value is not None:
            self._numbers("end_value")

    def _at(self, t: int) -> float:
        gone = max(t - self.transition_begin, 0)
        x = gone // self.transition_steps if self.staircase else gone / self.transition_steps
        value = _scaled(self.init_value, self.decay_rate, x)
        if self.end_value is None:
            return value
        return max(value, self.end_value) if self.decay_rate < 1 else min(value, self.end_value)

    def _turns(self) -> list[int] | None:
        return [] if self.decay_rate <= 1 and self.init_value >= 0 else None


@_schedule
class step(_Schedule):
    """A factor after each `step_size` steps.

    ::

        s(t) = init * gamma^floor(t / step_size)

    Parameters
    ----------
    init_value : float
        The value of the first `step_size` steps.
    step_size : int
        Steps with the same value, at least 1.
    gamma : float, default 0.1
        The factor, > 0.
    """

    init_value: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._numbers("init_value")
        self._counts("step_size")
        self._positive("gamma")

    def _at(self, t: int) -> float:
        return _scaled(self.init_value, self.gamma, t // self.step_size)

    def _turns(self) -> list[int] | None:
        return [] if self.gamma <= 1 and self.init_value >= 0 else None


@_schedule
class multi_step(_Schedule):
    """A factor at each milestone.

    ::

        s(t) = init * gamma^(number of milestones <= t)

    Parameters
    ----------
    init_value : float
        The value before the first milestone.
    milestones : sequence of int
        Increasing steps, the first at least 1.
    gamma : float, default 0.1
        The factor, > 0.
    """

    init_value: float
    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._numbers("init_value")
        self._boundaries("milestones")
        self._positive("gamma")

    def _at(self, t: int) -> float:
        return _scaled(self.init_value, self.gamma, sum(milestone <= t for milestone in self.milestones))

    def _horizon(self) -> int | None:
        return self.milestones[-1] if self.milestones else 0

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class cosine(_Schedule):
    """From one value to another along half a cosine wave, then constant.

    ::

        s(t) = end + (init - end) * ((1 + cos(pi * x)) / 2)^exponent,    x = t / steps, up to 1

    Parameters
    ----------
    init_value : float
        The first value.
    decay_steps : int
        Steps to the last value, at least 1.
    end_value : float, default 0
        The last value.
    exponent : float, default 1
        Values above 1 make it fall sooner, > 0.

    Notes
    -----
    torch's CosineAnnealingLR rises again after its last step; this schedule and optax's do not.  Instead of
    `end_value`, optax has `alpha`, the last value divided by the first.

    References
    ----------
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017,
    https://arxiv.org/abs/1608.03983.
    """

    init_value: float
    decay_steps: int
    end_value: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        self._numbers("init_value", "end_value")
        self._counts("decay_steps")
        self._positive("exponent")

    def _at(self, t: int) -> float:
        left = _half_cosine(min(t, self.decay_steps) / self.decay_steps)
        return _between(self.init_value, self.end_value, _power(left, self.exponent))

    def _horizon(self) -> int | None:
        return self.decay_steps

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class cosine_restarts(_Schedule):
    """Half a cosine wave in cycles, each `mult` times as long as the previous one.

    ::

        s(t) = end + (init - end) * (1 + cos(pi * x)) / 2,    x = (t - start of the cycle) / steps of the cycle

    Parameters
    ----------
    init_value : float
        The value at the start of each cycle.
    decay_steps : int
        Steps of the first cycle, at least 1.
    mult : int, default 1
        Length of a cycle divided by that of the previous one, at least 1.
    end_value : float, default 0
        Limit of a cycle; never reached, since the next cycle starts there.

    References
    ----------
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017,
    https://arxiv.org/abs/1608.03983.
    """

    init_value: float
    decay_steps: int
    mult: int = 1
    end_value: float = 0.0

    def __post_init__(self) -> None:
        self._numbers("init_value", "end_value")
        self._counts("decay_steps", "mult")

    def _at(self, t: int) -> float:
        length = self.decay_steps
        if self.mult == 1:
            t %= length
        while t >= length:
            t -= length
            length *= self.mult
        return _between(self.init_value, self.end_value, _half_cosine(t / length))

    def _turns(self) -> list[int] | None:
        return [] if self.init_value >= self.end_value else None


@_schedule
class one_cycle(_Schedule):
    """Up to a peak, then down to nearly zero.

    ::

        from peak / div_factor to peak,                              until step pct_start * steps - 1
        from peak to peak / (div_factor * final_div_factor),         until the last step, steps - 1

    and with ``three_phase=True``::

        from peak / div_factor to peak,                              until step pct_start * steps - 1
        back to peak / div_factor,                                   until step 2 * pct_start * steps - 2
        down to peak / (div_factor * final_div_factor),              until the last step, steps - 1

    Parameters
    ----------
    peak_value : float
        The largest value.
    total_steps : int
        Steps of all phases, at least 1.  Later steps have the last value.
    pct_start : float, default 0.3
        Share of the steps that rise, in [0, 1], or in [0, 0.5] with three phases.
    anneal_strategy : {"cos", "linear"}, default "cos"
        Shape of a phase: half a cosine wave, or a line.
    div_factor, final_div_factor : float, default 25 and 1e4
        The first value is peak / div_factor; the last is this divided by final_div_factor.  Both are > 0.
    three_phase : bool, default False
        Fall to the first value in as many steps as the rise, and then to the last value.

    Notes
    -----
    By default, torch's momentum falls from 0.95 to 0.85 while the learning rate rises, and then rises again.  This is
    ``momentum=one_cycle(0.85, steps, div_factor=0.85 / 0.95, final_div_factor=1)``.

    Step total_steps - 1 has the last value, as in torch.  optax reaches it one step later.

    References
    ----------
    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2019,
    https://arxiv.org/abs/1708.07120.
    """

    peak_value: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        self._numbers("peak_value")
        self._counts("total_steps")
        self._flag("three_phase")
        most = 0.5 if self.three_phase else 1.0
        words = "in [0, 0.5] with three_phase" if self.three_phase else "in [0, 1]"
        self._numbers("pct_start", requirement=words, low=0, high=most)
        self._choice("anneal_strategy", "cos", "linear")
        self._positive("div_factor", "final_div_factor")

    def _at(self, t: int) -> float:
        first = self.peak_value / self.div_factor
        last = first / self.final_div_factor
        rise = self.pct_start * self.total_steps
        phases = [(rise - 1, first, self.peak_value)]
        if self.three_phase:
            phases.append((2 * rise - 2, self.peak_value, first))
            phases.append((self.total_steps - 1, first, last))
        else:
            phases.append((self.total_steps - 1, self.peak_value, last))
        t = min(t, self.total_steps - 1)
        begin = 0.0
        for end, start_value, end_value in phases:  # noqa: B007
            if t <= end:
                break
            begin = end
        x = (t - begin) / (end - begin) if end > begin else 1.0
        return _between(start_value, end_value, _half_cosine(x) if self.anneal_strategy == "cos" else 1 - x)

    def _horizon(self) -> int | None:
        return self.total_steps - 1

    def _turns(self) -> list[int] | None:
        rise = math.floor(self.pct_start * self.total_steps) - 1
        return [t for t in (rise, rise + 1) if 0 <= t < self.total_steps]


@_schedule
class ema_warmup(_Schedule):
    """The decay of an average with a short memory in the first steps.

    ::

        s(t) = min(decay, (1 + t) / (10 + t))

    Parameters
    ----------
    decay : float
        The largest decay, in [0, 1).

    Notes
    -----
    For the option ``ema_decay`` of an optimizer.  With a constant decay of 0.9999, an average forgets its start only
    after some ten thousand steps.  With this schedule, the average of a run of any length is about that of its last
    tenth.

    References
    ----------
    TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``, and the EMA of diffusers.
    """

    decay: float

    def __post_init__(self) -> None:
        self._numbers("decay", requirement="in [0, 1)", low=0.0, high=math.nextafter(1.0, 0.0))

    def _at(self, t: int) -> float:
        return min(self.decay, (1 + t) / (10 + t))

    def _horizon(self) -> int | None:
        a, b = self.decay.as_integer_ratio()
        return max(0, -((b - 10 * a) // (b - a)))

    def _turns(self) -> list[int] | None:
        return []


@_schedule
class inverse_sqrt(_Schedule):
    """Proportional to one over the square root of the step.

    ::

        s(t) = init * sqrt(timescale / (timescale + t))

    Parameters
    ----------
    init_value : float
        The first value.
    timescale : int, default 10000
        Steps until the value is the first value / sqrt(2), at least 1.

    Notes
    -----
    ``warmup(inverse_sqrt(peak, timescale=n), n)`` is peak * min(t / n, sqrt(n / t)), the schedule of the original
    transformer.

    References
    ----------
    Vaswani et al., "Attention is all you need", 2017, https://arxiv.org/abs/1706.03762.
    """

    init_value: float
    timescale: int = 10_000

    def __post_init__(self) -> None:
        self._numbers("init_value")
        self._counts("timescale")

    def _at(self, t: int) -> float:
        return self.init_value * math.sqrt(self.timescale / (self.timescale + t))

    def _turns(self) -> list[int] | None:
        return [] if self.init_value >= 0 else None


@_schedule
class warmup_stable_decay(_Schedule):
    """Up along a line, constant, and down: the end of the training can be decided late.

    ::

        s(t) = init + (peak - init) * t / warmup_steps      for the first warmup_steps
        s(t) = peak                                         for the next stable_steps
        s(t) = end + (peak - end) * d(x)                    for the last decay_steps, x from 0 to 1; then end

    with d(x) = 1 - x for "linear", (1 + cos(pi * x)) / 2 for "cosine" and 1 - sqrt(x) for "1-sqrt".

    Parameters
    ----------
    peak_value : float
        The value in the middle.
    warmup_steps, stable_steps, decay_steps : int
        Steps of each part, at least 0.
    init_value, end_value : float, default 0
        The first and the last value.
    decay : {"linear", "cosine", "1-sqrt"}, default "linear"
        Shape of the last part.

    References
    ----------
    Hu et al., "MiniCPM: unveiling the potential of small language models with scalable training strategies", 2024,
    https://arxiv.org/abs/2404.06395.  "1-sqrt": Hägele et al., "Scaling laws and compute-optimal training beyond fixed
    training durations", 2024, https://arxiv.org/abs/2405.18392.
    """

    peak_value: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    init_value: float = 0.0
    end_value: float = 0.0
    decay: Literal["linear", "cosine", "1-sqrt"] = "linear"

    def __post_init__(self) -> None:
        self._numbers("peak_value", "init_value", "end_value")
        self._counts("warmup_steps", "stable_steps", "decay_steps", least=0)
        self._choice("decay", "linear", "cosine", "1-sqrt")

    def _at(self, t: int) -> float:
        if t < self.warmup_steps:
            return _between(self.init_value, self.peak_value, 1 - t / self.warmup_steps)
        t -= self.warmup_steps + self.stable_steps
        if t < 0:
            return self.peak_value
        x = t / self.decay_steps if t < self.decay_steps else 1.0
        left = {"linear": 1 - x, "cosine": _half_cosine(x), "1-sqrt": 1 - math.sqrt(x)}[self.decay]
        return _between(self.peak_value, self.end_value, left)

    def _horizon(self) -> int | None:
        return self.warmup_steps + self.stable_steps + self.decay_steps

    def _turns(self) -> list[int] | None:
        return [self.warmup_steps]


# ---- Schedules of schedules ----


@_schedule
class join(_Schedule):
    """Several schedules in sequence.

    ::

        s(t) = schedules[i](t - boundaries[i - 1])    for boundaries[i - 1] <= t < boundaries[i]

    Parameters
    ----------
    schedules : sequence of schedules
        At least one.  Each counts steps from its own start.
    boundaries : sequence of int
        The steps at which the second and later schedules begin: increasing, the first at least 1.
    """

    schedules: Sequence[Callable[[int], float]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        self._sequence("schedules")
        self._boundaries("boundaries")
        for i, schedule in enumerate(self.schedules):
            _callable(f"{self._name}: schedules[{i}]", schedule)
        if not self.schedules or len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"{self._name}: boundaries must be one fewer than schedules,"
                f" got {len(self.boundaries)} for {len(self.schedules)} schedules"
            )

    def _at(self, t: int) -> float:
        i = sum(boundary <= t for boundary in self.boundaries)
        return self.schedules[i](t - self.boundaries[i - 1] if i else t)

    def _horizon(self) -> int | None:
        return _later(self.boundaries[-1] if self.boundaries else 0, self.schedules[-1])

    def _turns(self) -> list[int] | None:
        starts = (0, *self.boundaries)
        parts = [
            _turns_of(schedule, start, end)
            for schedule, start, end in zip(self.schedules, starts, (*self.boundaries, None), strict=True)
        ]
        return None if None in parts else [t for part in parts if part is not None for t in part]


@_schedule
class warmup(_Schedule):
    """A line to the first value of a schedule, then the schedule.

    ::

        s(t) = init + (schedule(0) - init) * t / warmup_steps    for the first warmup_steps
        s(t) = schedule(t - warmup_steps)                        after them

    Parameters
    ----------
    schedule : schedule
        The schedule after the warm-up.  It counts steps from its own start.
    warmup_steps : int
        Steps of the line, at least 0.
    init_value : float, default 0
        The first value.
    """

    schedule: Callable[[int], float]
    warmup_steps: int
    init_value: float = 0.0

    def __post_init__(self) -> None:
        _callable(f"{self._name}: schedule", self.schedule)
        self._counts("warmup_steps", least=0)
        self._numbers("init_value")

    def _at(self, t: int) -> float:
        if t >= self.warmup_steps:
            return self.schedule(t - self.warmup_steps)
        return _between(self.init_value, self.schedule(0), 1 - t / self.warmup_steps)

    def _horizon(self) -> int | None:
        return _later(self.warmup_steps, self.schedule)

    def _turns(self) -> list[int] | None:
        return _turns_of(self.schedule, self.warmup_steps)


@_schedule
class shift(_Schedule):
    """A schedule that starts at a later step, such as the current one.

    ::

        s(t) = schedule(max(t - steps, 0))

    ``opt.lr = shift(cosine(0.1, decay_steps=1000), opt.step_count)`` begins a new cosine with the next step.

    Parameters
    ----------
    schedule : schedule
        The schedule to delay.  Before its start, its first value is used.
    steps : int
        The delay.  If it is negative, the schedule starts with its value after -steps steps.
    """

    schedule: Callable[[int], float]
    steps: int

    def __post_init__(self) -> None:
        _callable(f"{self._name}: schedule", self.schedule)
        self._integers("steps")

    def _at(self, t: int) -> float:
        return self.schedule(max(t - self.steps, 0))

    def _horizon(self) -> int | None:
        return _later(self.steps, self.schedule)

    def _turns(self) -> list[int] | None:
        # One that is under way may be about to rise: where it ends, all its turns are known.
        known = self.steps >= 0 or horizon_of(self.schedule) is not None
        turns = _turns_of(self.schedule, self.steps) if known else None
        return None if turns is None else [max(t, 0) for t in turns]


@_schedule
class scale(_Schedule):
    """A schedule times a number.

    ::

        s(t) = factor * schedule(t)

    Parameters
    ----------
    schedule : schedule
        The schedule to multiply.
    factor : float
        A finite number.
    """

    schedule: Callable[[int], float]
    factor: float

    def __post_init__(self) -> None:
        _callable(f"{self._name}: schedule", self.schedule)
        self._numbers("factor")

    def _at(self, t: int) -> float:
        return self.factor * self.schedule(t)

    def _horizon(self) -> int | None:
        return _later(0, self.schedule)

    def _turns(self) -> list[int] | None:
        return _turns_of(self.schedule) if self.factor >= 0 else None


@_schedule
class reduce_on_plateau(_Schedule):
    """A value that is reduced when a loss has stopped improving.

    It depends on the metric that you report, for example after each epoch, not on the step::

        lr = schedules.reduce_on_plateau(0.1, patience=5)
        opt = fastopt.SGD(params, lr=lr)
        ...
        lr.report(validation_loss)

    ::

        s = max(init * scale, min_value)

    `scale` starts at 1.  After more than `patience` bad reports in a row, it is multiplied by `factor`.  A report is
    good if the loss is below best - threshold * abs(best), or below best - threshold with ``threshold_mode="abs"``.
    With ``mode="max"`` it is good above best plus the same number.  NaN is bad.

    Parameters
    ----------
    init_value : float
        The first value, > 0.
    factor : float, default 0.1
        Factor of each reduction, in (0, 1).
    patience : int, default 10
        Bad reports in a row before a reduction, at least 0.
    threshold : float, default 1e-4
        Smallest improvement that counts, >= 0.
    threshold_mode : {"rel", "abs"}, default "rel"
        The threshold is a share of the best loss, or a difference.
    cooldown : int, default 0
        Reports after a reduction that do not count as bad, at least 0.
    min_value : float, default 0
        Lower bound of the value, >= 0.
    mode : {"min", "max"}, default "min"
        "max" for a metric that should grow, such as an accuracy.
    eps : float, default 1e-8
        Smaller reductions are not made, >= 0.

    Notes
    -----
    torch's ReduceLROnPlateau has the bound best * (1 - threshold), which is above a negative best.  There a constant
    loss below zero always counts as better, and nothing is reduced.  For losses above zero both are equal.

    The schedule has state: `best`, the best loss so far; `bad_reports` in a row; `cooldown_left`; and `scale`.  An
    optimizer saves and loads it with its own state.  Do not share the schedule between optimizers.
    """

    init_value: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_value: float = 0.0
    mode: Literal["min", "max"] = "min"
    eps: float = 1e-8
    _state: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._positive("init_value", "factor")
        if self.factor >= 1:
            raise ValueError(f"{self._name}: factor must be in (0, 1), got {self.factor!r}")
        self._counts("patience", "cooldown", least=0)
        self._numbers("threshold", "min_value", "eps", requirement="finite and >= 0", low=0)
        self._choice("threshold_mode", "rel", "abs")
        self._choice("mode", "min", "max")
        self._set("_state", {"best": None, "bad_reports": 0, "cooldown_left": 0, "scale": 1.0})

    def _at(self, t: int) -> float:
        return max(self.init_value * self.scale, self.min_value)

    @property
    def best(self) -> float | None:
        """The best loss so far, None before the first report."""
        return self._state["best"]  # type: ignore[no-any-return]

    @property
    def bad_reports(self) -> int:
        """How many reports in a row were bad."""
        return self._state["bad_reports"]  # type: ignore[no-any-return]

    @property
    def cooldown_left(self) -> int:
        """How many further reports do not count as bad."""
        return self._state["cooldown_left"]  # type: ignore[no-any-return]

    @property
    def scale(self) -> float:
        """The factor of the first value at present."""
        return self._state["scale"]  # type: ignore[no-any-return]

    @checks_arguments
    def report(self, loss: float) -> None:
        """Take note of a loss, and reduce the value when it is time."""
        value = _number(f"{self._name}.report: loss", loss)
        best, bad, left, scale = self._state.values()
        if self._better(value, best):
            best, bad = value, 0
        else:
            bad += 1
        if left > 0:
            left, bad = left - 1, 0
        if bad > self.patience:
            left, bad = self.cooldown, 0
            reduced = max(self.init_value * scale * self.factor, self.min_value)
            if self(0) - reduced > self.eps:
                scale *= self.factor
        self._state.update(best=best, bad_reports=bad, cooldown_left=left, scale=scale)

    def _better(self, loss: float, best: float | None) -> bool:
        sign = 1 if self.mode == "min" else -1
        if best is None:
            return loss * sign < math.inf
        if self.threshold_mode == "rel":
            return sign * loss < sign * (best * (1 - sign * math.copysign(self.threshold, best)))
        return sign * loss < sign * (best - sign * self.threshold)

    @checks_arguments
    def state_dict(self) -> dict[str, Any]:
        """Return best, bad_reports, cooldown_left and scale."""
        return dict(self._state)

    @checks_arguments
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If the state is damaged or of another object.  Then nothing has changed.
        """
        label = f"{self._name}.load_state_dict"
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(self._state):
            raise ValueError(f"{label}: the state must have {', '.join(self._state)}, got {brief(state_dict)}")
        best = state_dict["best"]
        if best is not None and math.isnan(best := _number(f"{label}: best", best)):
            raise ValueError(f"{label}: best must be a number or None, got nan")
        scale = _number(f"{label}: scale", state_dict["scale"])
        if not 0 <= scale <= 1:
            raise ValueError(f"{label}: scale must be in [0, 1], got {scale!r}")
        bad = _count(f"{label}: bad_reports", state_dict["bad_reports"], 0)
        left = _count(f"{label}: cooldown_left", state_dict["cooldown_left"], 0)
        self._state.update(best=best, bad_reports=bad, cooldown_left=left, scale=scale)


# ---- The interface to an optimizer ----


HINT = '; hyperparameters="current" keeps those of this optimizer'
MAX_DEPTH = 8  # of objects within objects that are compared
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of functions that have no name of their own


def horizon_of(schedule: Callable[[int], float]) -> int | None:
    """Return the horizon of a schedule; None where it has none, or is not one of ours."""
    return schedule.horizon if isinstance(schedule, _Schedule) else None


def peak_of(schedule: Callable[[int], float]) -> float | None:
    """Return the largest value of a schedule; None where it is not known, or the schedule is not one of ours."""
    return schedule.peak if isinstance(schedule, _Schedule) else None


def saved(schedule: Callable[[int], float]) -> dict[str, Any]:
    """Return a schedule as plain data: its identity, and the state of it and its parts if they have one."""
    return {"schedule": _identity(schedule), "state": [part.state_dict() for part in _stateful(schedule)]}


def restorer(label: str, schedule: Callable[[int], float], entry: Any) -> Callable[[], None]:
    """Return a function that restores the state of a schedule; raise unless the entry is of such a schedule."""
    here = _identity(schedule)
    if not isinstance(entry, Mapping) or set(entry) != {"schedule", "state"}:
        raise ValueError(f"{label} must be scheduled by {_shown(here)}, as in this optimizer, got {brief(entry)}{HINT}")
    there = entry["schedule"]
    if there != here:
        if _shown(there) == _shown(here):
            why = "a function without a name of its own, which cannot be compared with the one that was saved"
            raise ValueError(f"{label} is scheduled by {_shown(here)}, {why}{HINT}")
        raise ValueError(
            f"{label} must be scheduled by {_shown(here)}, as in this optimizer, got {_shown(there)}{HINT}"
        )
    parts, states = list(_stateful(schedule)), entry["state"]
    if not isinstance(states, (list, tuple)) or len(states) != len(parts):
        raise ValueError(f"{label} must have the state of {len(parts)} schedules, got {brief(states)}")
    for part, state in zip(parts, states, strict=True):
        try:
            deepcopy(part).load_state_dict(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{label}: {error}") from None

    def restore() -> None:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)

    return restore


def _identity(value: Any, depth: int = 0) -> Any:
    """Return the identity of a schedule as plain data: its name and arguments, or all that can be compared.

    That is the name of a function that can be imported by it; of a `functools.partial` the function and its arguments;
    of an object its class and public attributes, or just its class where it has a state of its own.  Of an object that
    is no schedule, but has a method that is one or is an argument, those public attributes are compared that are plain:
    it may hold a whole model.  A lambda and a function within another one have no such name: they are the same only as
    one object of one process.
    """
    if depth > MAX_DEPTH:
        return _name_of(type(value))
    if isinstance(value, _Schedule):
        arguments = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return {"name": value._name} | {name: _identity(entry, depth + 1) for name, entry in arguments.items()}
    if isinstance(value, (tuple, list)):
        return [_identity(entry, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {"name": "dict"} | {f"[{key!r}]": _identity(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        from hashlib import sha256

        content = sha256(np.ascontiguousarray(value).data if value.dtype != object else b"").hexdigest()
        return {"name": "array", "shape": list(value.shape), "dtype": str(value.dtype), "sha256": content}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, partial):
        return {"name": "functools.partial"} | {
            key: _identity(getattr(value, key), depth + 1) for key in ("func", "args", "keywords")
        }
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, type):
        return _name_of(value)
    if isinstance(value, MethodType):
        return {"name": _name_of(value), "self": _identity(value.__self__, depth + 1)}
    if callable(value) and hasattr(value, "__qualname__"):
        name = _name_of(value)
        return name if _imported(value) is value else {"name": name, "object": _token(value)}
    name = _name_of(type(value))
    attributes = {} if hasattr(value, "load_state_dict") else _public_attributes(value)
    if not callable(value):
        attributes = {key: entry for key, entry in attributes.items() if _is_plain(entry)}
    if not attributes:
        return name
    return {"name": name} | {f".{key}": _identity(entry, depth + 1) for key, entry in attributes.items()}


def _public_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that it has been given and that are not private, by name."""
    slots = [getattr(cls, "__slots__", ()) for cls in reversed(type(value).__mro__)]
    names = [name for of_class in slots for name in ([of_class] if isinstance(of_class, str) else of_class)]
    attributes = {name: getattr(value, name) for name in names if not name.startswith("_") and hasattr(value, name)}
    return attributes | {k: entry for k, entry in getattr(value, "__dict__", {}).items() if not k.startswith("_")}


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, text, None, or a tuple of these."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, np.generic))


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _imported(function: Any) -> Any:
    """Return the object with the name of a function in its module, as pickle would find it, or None."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def _token(function: Any) -> str:
    """Return a word for an object that no other object has, in this process or another."""
    if function not in _tokens:
        _tokens[function] = f"{os.getpid()}-{time_ns()}-{len(_tokens)}"
    return _tokens[function]


def _shown(identity: Any) -> str:
    """Return an identity as messages show it."""
    if isinstance(identity, list):
        return f"[{', '.join(map(_shown, identity))}]"
    if not isinstance(identity, dict):
        return str(identity)
    if "object" in identity:
        return str(identity["name"])
    arguments = ", ".join(f"{key}={_shown(value)}" for key, value in identity.items() if key != "name")
    return f"{identity.get('name')}({arguments})"


def _stateful(value: Any) -> Iterator[Any]:
    """Find a schedule and its parts that have a state, in a fixed order."""
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        yield value
    if isinstance(value, _Schedule):
        value = tuple(getattr(value, f.name) for f in fields(value) if f.init)
    if isinstance(value, tuple):
        for entry in value:
            yield from _stateful(entry)


# ---- The picture ----


@checks_arguments
def plot(
    schedule: Callable[[int], float] | Sequence[Callable[[int], float]] | Mapping[str, Callable[[int], float]],
    steps: int,
    ax: Axes | None = None,
) -> Axes:
    """Draw one or several schedules.

    Parameters
    ----------
    schedule : schedule, sequence of schedules, or mapping of label to schedule
        The schedules to draw.  Labels make a legend.
    steps : int
        Number of steps to draw, at least 1.
    ax : matplotlib.axes.Axes, optional
        The axes to draw in; by default those of a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the drawing.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    count = _count("plot: steps", steps, 1)
    if isinstance(schedule, Mapping):
        labelled = list(schedule.items())
    elif isinstance(schedule, Sequence) and not isinstance(schedule, str):
        labelled = [(f"_{i}", one) for i, one in enumerate(schedule)]  # matplotlib leaves such labels out of a legend
    else:
        labelled = [("_0", schedule)]
    for i, (_, one) in enumerate(labelled):
        _callable(f"plot: schedule {i}" if len(labelled) > 1 else "plot: schedule", one)
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("fastopt.schedules.plot needs matplotlib: pip install 'fastopt[demo]'") from error
        _, ax = pyplot.subplots(layout="constrained")
        ax.set(xlabel="completed steps", ylabel="value")
    for label, one in labelled:
        ax.plot(range(count), [one(t) for t in range(count)], label=label)
    if isinstance(schedule, Mapping):
        ax.legend()
    return ax
