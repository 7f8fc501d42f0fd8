"""Signum, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Signum(Optimizer):
    r"""Signum: steps of equal size along the sign of the momentum.

    ::

        m = beta * m + (1 - beta) * g
        p = p - lr * sign(m)

    For gradients with unreliable sizes.  It was made for many machines that exchange one bit per element.  With
    ``beta=0`` it is signSGD.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    beta : float, in [0, 1), default 0.9
        Decay of the running mean.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and `state_dtype`.

    As in optax.  An element does not move where the mean is 0.  NaN stays NaN.

    References
    ----------
    Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: compressed optimisation for non-convex problems", 2018,
    https://arxiv.org/abs/1802.04434.
    """

    _rules: ClassVar = {"signum": {}}

    lr: Rate = rate(default=1e-3, kw_only=False)
    beta: Number = number(default=0.9)


def signum(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    beta: float = 0.9,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Signum. Bernstein et al., "signSGD: compressed optimisation for non-convex problems", 2018.

    ::

        m = beta m + (1 - beta) g
        p -= lr * sign(m)
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m")
    state["m"] = beta * state["m"] + (1 - beta) * g
    p -= lr * np.sign(state["m"])
