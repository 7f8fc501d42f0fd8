"""MADGRAD, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class MADGRAD(Optimizer):
    r"""MADGRAD: dual averaging with a sum of gradients that is divided by the cube root of a sum of squares.

    ::

        lambda = lr * sqrt(t)
        s = s + lambda * g
        nu = nu + lambda * g^2
        z = x0 - s / (cbrt(nu) + eps)               x0 = p before the first step
        p = momentum * p + (1 - momentum) * z

    Later gradients have more weight.  Every step computes the point z anew from x0.  For computer vision and sparse
    problems, where it generalised as well as SGD with momentum.  Its authors chose the learning rate of each problem by
    a sweep, and needed less weight decay than for SGD, often none.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    momentum : float, in [0, 1), default 0.9
        Share of p in the new p; the rest is z.
    eps : float, >= 0, default 1e-6
        Added to the cube root.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``s``, ``nu`` and ``x0``, of the parameter's shape and `state_dtype`.

    As in the authors' package madgrad.  The package also adds eps to lr.  With a momentum of 0, it computes x0 in each
    step from p, s and nu.  The paper's c is 1 - momentum.  Decoupled decay shrinks the p on the right of the last line,
    so only the share momentum of the parameter decays.

    References
    ----------
    Defazio and Jelassi, "Adaptivity without compromise: a momentumized, adaptive, dual averaged gradient method for
    stochastic optimization", 2021, https://arxiv.org/abs/2101.11075.
    """

    _rules: ClassVar = {"madgrad": {}}

    lr: Rate = rate(default=1e-2, kw_only=False)
    momentum: Number = number(default=0.9)
    eps: Number = number(default=1e-6)


def madgrad(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    momentum: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """MADGRAD. Defazio & Jelassi, "Adaptivity without compromise", 2021.

    ::

        s += lr * sqrt(t) * g
        nu += lr * sqrt(t) * g^2
        p = momentum * p + (1 - momentum) * (x0 - s / (cbrt(nu) + eps))
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "s", "nu")
    if t == 1:
        state["x0"] = p.copy()
    lambda_t = lr * math.sqrt(t)
    state["s"] += lambda_t * g
    state["nu"] += lambda_t * g**2
    p[...] = momentum * p + (1 - momentum) * (state["x0"] - state["s"] / (np.cbrt(state["nu"]) + eps))
