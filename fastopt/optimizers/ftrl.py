"""FTRL, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class FTRL(Optimizer):
    r"""FTRL-Proximal (follow the regularized leader): for sparse linear models, whose small weights are exactly 0.

    ::

        sigma = ((n + g^2)^a - n^a) / lr            a = -lr_power
        z = z + g - sigma * p
        n = n + g^2
        p = 0                                       where |z| <= lambda1, else
        p = -sign(z) * (|z| - lambda1) / ((beta + n^a) / lr + lambda2)

    Every step computes p anew from z and n.  So an element without a gradient becomes 0 in its first step, whatever its
    value was.  Without penalties and with beta = 0, the steps are those of Adagrad.  For predictions of clicks and
    other problems with many rare features.  With `RowGrad` and ``catch_up=True``, rows without a gradient cost nothing.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate; the paper's alpha.  A step at 0 sets the parameter to 0.
    lr_power : float, in [-1, 0], default -0.5
        Steps are divided by n^(-lr_power).  The paper has -0.5; 0 is a constant learning rate.  Other values than the
        default take more time.
    initial_accumulator_value : float, >= 0, default 0.1
        First value of n; read when the optimizer is made.
    beta : float, >= 0, default 0.0
        Added to n^a.  The paper recommends 1.
    lambda1 : float, >= 0, default 0.0
        Penalty on the absolute values of the weights.
    lambda2 : float, >= 0, default 0.0
        Penalty on their squares.
    **shared
        weight_decay=0.0 (L2), and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``z`` and ``n``, of the parameter's shape and `state_dtype`.

    Defaults are those of Keras and TensorFlow, with other names: lambda1 is l1_regularization_strength, lambda2 is
    twice l2_regularization_strength, and lr_power is learning_rate_power.  weight_decay is twice
    l2_shrinkage_regularization_strength, which does not enter n there.  In the paper n starts at 0.  If lr changes,
    sigma and the last line use the lr of the step.

    References
    ----------
    McMahan, Holt, Sculley, Young, Ebner, Grady, Nie, Phillips, Davydov, Golovin, Chikkerur, Liu, Wattenberg,
    Hrafnkelsson, Boulos and Kubica, "Ad click prediction: a view from the trenches", 2013,
    https://doi.org/10.1145/2487575.2488200.
    """

    _rules: ClassVar = {"ftrl": {}, "ftrl_power": {"lr_power": -0.75}}

    lr: Rate = rate(default=1e-3, kw_only=False)
    lr_power: Number = number(default=-0.5, fixed="layout")
    initial_accumulator_value: float = number(default=0.1, fixed="start")
    beta: Number = number(default=0.0, name="offset")
    lambda1: Number = number(default=0.0)
    lambda2: Number = number(default=0.0)

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"n": hyper["initial_accumulator_value"]} if hyper["initial_accumulator_value"] else {}


def ftrl(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    lr_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    beta: float = 0.0,
    lambda1: float = 0.0,
    lambda2: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """FTRL-Proximal. McMahan et al., "Ad click prediction: a view from the trenches", 2013.

    ::

        z += g - ((n + g^2)^a - n^a) / lr * p,  n += g^2,  a = -lr_power
        p = 0 where |z| <= lambda1, else -(z - sign(z) * lambda1) / ((beta + n^a) / lr + lambda2)
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "z")
    if t == 1:
        state["n"] = np.full_like(p, initial_accumulator_value)
    z, n = state["z"], state["n"]
    sigma = ((n + g**2) ** -lr_power - n**-lr_power) / lr
    z += g - sigma * p
    n += g**2
    quadratic = (beta + n**-lr_power) / lr + lambda2
    p[...] = np.where(np.abs(z) <= lambda1, 0, (np.sign(z) * lambda1 - z) / np.where(quadratic, quadratic, 1))
