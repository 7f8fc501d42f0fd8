"""ASGD, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..declarations import Number, Rate, number, rate
from ..nest import Array
from ..optimizer import Optimizer
from ._plain import State, gradient, zeros


class ASGD(Optimizer):
    r"""Averaged SGD: gradient descent with slowly shrinking steps, and the mean of its points.

    ::

        p = (1 - lambd * eta) * p - eta * g
        ax = ax + mu * (p - ax)                     mu = 1 / max(1, t - 1 - t0)
        eta = lr / (1 + lambd * lr * t)^alpha       for the next step; lr on the first

    For linear models and other (nearly) convex problems.  The mean ``ax`` of the last points is better than any one of
    them, and the decay of the learning rate needs no tuning.  Evaluate and keep ``ax``.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    lambd : float, >= 0, default 1e-4
        Decay of the parameter, and of the learning rate.
    alpha : float, in [0, 1), default 0.75
        Power of the decay of eta.
    t0 : float, >= 0, default 1e6
        Steps before averaging starts; until then ax is p.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``ax``, of the parameter's shape and `state_dtype`, and ``eta``, a float64.

    As in torch.optim, also in that a new learning rate takes effect one step late.  torch accepts any alpha and t0.
    Within ``with opt.swapped("ax"):`` the parameters hold ax.

    References
    ----------
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.  Xu, "Towards optimal one pass
    large scale learning with averaged stochastic gradient descent", 2011, https://arxiv.org/abs/1107.2490.
    """

    _rules: ClassVar = {"asgd": {}}
    _averages = ("ax",)

    lr: Rate = rate(default=1e-2, kw_only=False)
    lambd: Number = number(default=1e-4)
    alpha: Number = number(default=0.75)
    t0: Number = number(default=1e6)

    @classmethod
    def _average_of(cls, p: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> Array:
        return state["ax"]

    @classmethod
    def _to_torch(cls, state: Mapping[str, Any], t: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._to_torch(state, t, hyper), "mu": 1 / max(1, t - hyper["t0"])}


def asgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Averaged SGD. Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    ::

        p -= eta (lambd p + g)
        ax += (p - ax) / max(1, t - 1 - t0)
        eta = lr / (1 + lambd lr t)^alpha            for the next step; lr on the first
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "ax")
    eta = lr if t == 1 else state["eta"]
    p -= eta * (lambd * p + g)
    state["ax"] = state["ax"] + (p - state["ax"]) / max(1, t - 1 - t0)
    state["eta"] = lr / (1 + lambd * lr * t) ** alpha
