"""The functions that rules of one's own can call.

A rule needs no import: it finds them by name.  Import them for editors and type checkers.

Each gives the same bits on every machine.  Each is exactly rounded, unless its docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = [
    "abs",
    "exp",
    "log",
    "lost_mean",
    "maximum",
    "mean",
    "minimum",
    "next_mean",
    "norm",
    "power",
    "product",
    "rms",
    "sign",
    "sqrt",
    "tanh",
    "total",
    "weight",
    "where",
]

# ---- Of elements and of scalars ----


def abs(x: float) -> float:
    """Return the absolute value."""
    return math.fabs(x)


def sqrt(x: float) -> float:
    """Return the square root; NaN below 0."""
    return math.sqrt(x) if x >= 0 else math.nan


def sign(x: float) -> float:
    """Return 1, 0 or -1, as numpy.sign; NaN for NaN."""
    return 1.0 if x > 0 else (-1.0 if x < 0 else (x if x != x else 0.0))


def maximum(x: float, y: float) -> float:
    """Return the larger number, as numpy.maximum: NaN if either is NaN."""
    return x if x > y else (x if x != x else y)


def minimum(x: float, y: float) -> float:
    """Return the smaller number, as numpy.minimum: NaN if either is NaN."""
    return x if x < y else (x if x != x else y)


def where(condition: bool, x: float, y: float) -> float:
    """Return x where the condition holds, else y, as numpy.where."""
    return x if condition else y


def next_mean(mean: float, square: float, beta: float, rest: float) -> float:
    """Return the mean of squares after one more square, as the rules of fastopt compute it.

    This is ``beta * mean + (1 - beta) * square``.  `rest` is 1 - beta, a scalar of the step, computed in double.  So
    the mean decays at the rate of beta itself, and rounding errors cancel.  An infinite mean stays infinite.
    """
    small = beta * mean + rest * square
    large = mean + rest * (square - mean)
    mixed = small if beta < 0.5 else large
    return mixed if mixed < math.inf else math.inf


def exp(x: float) -> float:
    """Return e^x, to a few units in the last place."""
    return math.exp(x)


def log(x: float) -> float:
    """Return the natural logarithm, to a few units in the last place; -infinity for 0, NaN below."""
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def power(x: float, y: float) -> float:
    """Return x^y for x >= 0, to a few units in the last place for y in [-1, 1]; NaN below 0.

    The error grows with y.  In scalars x may be below 0 if y is an integer, and the error grows with ``y * log(x)``.
    """
    return math.pow(x, y) if x >= 0 else math.nan


def tanh(x: float) -> float:
    """Return the hyperbolic tangent, to a few units in the last place."""
    return math.tanh(x)


# ---- Of scalars alone ----


def product(beta: float) -> float:
    """Return the product of a hyperparameter over the steps of the parameter so far: beta^t if it never changes.

    A running mean that starts from 0 has the weight 1 - product(beta), which bias corrections divide by.
    """
    raise NotImplementedError("product is for the scalars of a rule")


def weight(beta: float) -> float:
    """Return 1 - product(beta), corrected for the rounding of beta in ``m = beta * m + (1 - beta) * g``."""
    raise NotImplementedError("weight is for the scalars of a rule")


def lost_mean(beta: float) -> float:
    """Return the largest error of a mean of squares, since numbers below the smallest normal one count as 0.

    With its root added to eps, no step is larger than the exact one.
    """
    raise NotImplementedError("lost_mean is for the scalars of a rule")


# ---- Of the first pass of a rule with sums alone ----


def total(x: float) -> float:
    """Return the sum of a term over the elements of the parameter, computed in double."""
    raise NotImplementedError("total is for the results of gather")


def mean(x: float) -> float:
    """Return the mean of a term over the elements of the parameter, computed in double."""
    raise NotImplementedError("mean is for the results of gather")


def norm(x: float) -> float:
    """Return the root of the sum of the squares of a term over the elements of the parameter, computed in double.

    It neither overflows nor underflows unless the result does.
    """
    raise NotImplementedError("norm is for the results of gather")


def rms(x: float) -> float:
    """Return the root of the mean of the squares of a term, computed as `norm` is."""
    raise NotImplementedError("rms is for the results of gather")


BY_NAME: dict[str, Callable[..., float]] = {name: globals()[name] for name in __all__}
