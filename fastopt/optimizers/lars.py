"""LARS, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

from ..declarations import Number, Rate, flag, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, trust_ratio, zeros


class LARS(Optimizer):
    r"""LARS: momentum with a learning rate that is scaled to the size of each parameter.

    ::

        ratio = trust_coefficient * |p| / (|g| + eps)       1 where either norm is 0
        b = momentum * b + lr * ratio * g
        p = p - b                                           nesterov: p - (momentum * b + lr * ratio * g)

    For large batches of images, where one learning rate is too large for some layers and too small for others.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1.0
        Learning rate.
    momentum : float, in [0, 1), default 0.9
        Share of the buffer that is kept.
    trust_coefficient : float, >= 0, default 1e-3
        Size of a step relative to the parameter.
    eps : float, >= 0, default 0
        Added to the gradient's norm.
    nesterov : bool, default False
        Look ahead along the buffer.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``b``, of the parameter's shape and `state_dtype`.  Norms are those of whole arrays, so the result changes if
    you cut an array into several.

    As in optax.  The norm is that of the gradient with decay; the paper adds the norm of the decay.  The learning rate
    is inside the buffer.

    References
    ----------
    You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, https://arxiv.org/abs/1708.03888.
    """

    _rules: ClassVar = {"lars": {}, "lars_nesterov": {"nesterov": True}}
    _streams: ClassVar = {"lars": (2, 5), "lars_nesterov": (2, 5)}

    lr: Rate = rate(default=1.0, kw_only=False)
    momentum: Number = number(default=0.9)
    trust_coefficient: Number = number(default=1e-3)
    eps: Number = number(default=0.0)
    nesterov: bool = flag(default=False, fixed="layout")


def lars(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    eps: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """LARS. You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017.

    ::

        b = momentum * b + lr * trust_coefficient * |p| / (|g| + eps) * g
        p -= b
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "b")
    b = state["b"]
    step = lr * trust_ratio(p, g, trust_coefficient, eps) * g
    b[...] = momentum * b + step
    p -= momentum * b + step if nesterov else b
