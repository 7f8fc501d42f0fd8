"""Rules of one's own: `fastopt.rule`, the ranges of their numbers, and the functions that they can call."""

from .define import rule
from .functions import (
    abs,
    exp,
    log,
    lost_mean,
    maximum,
    mean,
    minimum,
    next_mean,
    norm,
    power,
    product,
    rms,
    sign,
    sqrt,
    tanh,
    total,
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
    "mean",
    "minimum",
    "next_mean",
    "norm",
    "power",
    "product",
    "rms",
    "rule",
    "sign",
    "sqrt",
    "tanh",
    "total",
    "weight",
    "where",
]
