"""RMSprop, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, flag, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class RMSprop(Optimizer):
    r"""RMSprop: the gradient divided by the root of a running mean of its square.

    ::

        v = alpha * v + (1 - alpha) * g^2
        r = sqrt(v) + eps

        s = alpha * (s + (1 - alpha) * (g - a)^2)    with centered=True
        a = alpha * a + (1 - alpha) * g
        r = sqrt(s) + eps

        p = p - lr * g / r

        b = momentum * b + g / r                    with momentum > 0
        p = p - lr * b

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    alpha : float, in [0, 1), default 0.99
        Decay of the running means.  The lecture's value is 0.9.
    eps : float, >= 0, default 1e-8
        Added to the root.
    momentum : float, in [0, 1), default 0
        Share of the buffer that is kept.
    centered : bool, default False
        Divide by the standard deviation.  s is the variance v - a^2, computed without this difference.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``v``, or ``s`` and ``a`` with centered, with momentum ``b``, each of the parameter's shape and
    `state_dtype`.  ``b`` stays as it is while momentum is set to 0 later.

    As in torch.optim, except that torch keeps v and a, where v = s + a^2.  If gradients vary little, the difference
    v - a^2 is only rounding error, and torch's steps become large or NaN.  Keras and optax put eps inside the root.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012.  Centered: Graves, "Generating
    sequences with recurrent neural networks", 2013, https://arxiv.org/abs/1308.0850; West, "Updating mean and variance
    estimates: an improved method", 1979.
    """

    _rules: ClassVar = {
        "rmsprop": {},
        "rmsprop_centered": {"centered": True},
        "rmsprop_momentum": {"momentum": 0.9},
        "rmsprop_centered_momentum": {"centered": True, "momentum": 0.9},
    }
    _torch_names: ClassVar = {"v": "square_avg", "a": "grad_avg", "b": "momentum_buffer"}

    lr: Rate = rate(default=1e-2, kw_only=False)
    alpha: Number = number(default=0.99)
    eps: Number = number(default=1e-8)
    momentum: Number = number(default=0.0)
    centered: bool = flag(default=False, fixed="layout")

    @classmethod
    def _to_torch(cls, state: Mapping[str, Any], t: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._to_torch(state, t, hyper)
        return found if "s" not in state else {"square_avg": state["s"] + state["a"] * state["a"], **found}

    @classmethod
    def _from_torch(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._from_torch(state)
        if "a" not in found or "v" not in found:
            return found
        v, a = found.pop("v"), found["a"]
        # s is exact, unless torch has gone on since it was saved.  A square that overflows leaves NaN in v.
        now = found["s"] + a * a if "s" in found else None
        if now is None or not bool(((now == v) | ((now != now) & (v != v))).all()):
            found["s"] = (v - a * a).clip(0)
        return found


def rmsprop(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """RMSprop. Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning", 2012.

    ::

        v = alpha v + (1 - alpha) g^2
        p -= lr * g / (sqrt(v) + eps)

    Centered, Graves, "Generating sequences with recurrent neural networks", 2013, divides by the standard deviation,
    the root of v - a^2, here without the difference of two large numbers::

        s = alpha (s + (1 - alpha) (g - a)^2)
        a = alpha a + (1 - alpha) g
        p -= lr * g / (sqrt(s) + eps)

    With momentum, the quotient q = g / (...) goes through a buffer: ``b = momentum b + q; p -= lr b``.
    """
    g = gradient(p, g, weight_decay, maximize)
    if centered:
        zeros(state, p, "s", "a")
        v = state["s"] = alpha * (state["s"] + (1 - alpha) * (g - state["a"]) ** 2)
        state["a"] = alpha * state["a"] + (1 - alpha) * g
    else:
        zeros(state, p, "v")
        v = state["v"] = alpha * state["v"] + (1 - alpha) * g**2
    q = g / (np.sqrt(v) + eps)
    if momentum:
        zeros(state, p, "b")
        q = state["b"] = momentum * state["b"] + q
    p -= lr * q
