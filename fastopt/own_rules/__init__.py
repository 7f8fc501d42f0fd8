"""Rules of one's own: `fastopt.rule`, the ranges of their numbers, and the functions that they can call."""

from .define import rule
from .functions import (
    abs,
    exp,
    log,
    lost_mean,
    maximum,
    minimum,
    next_mean,
    product,
    sign,
    sqrt,
    weight,
    where,
)
from .ranges import Range

__all__ = [
    "Range",
    "abs",
    "exp",
    "log",
    "lost_mean",
    "maximum",
    "minimum",
    "next_mean",
    "product",
    "rule",
    "sign",
    "sqrt",
    "weight",
    "where",
]
