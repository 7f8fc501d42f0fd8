"""RAdam, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, other_name, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class RAdam(Optimizer):
    r"""RAdam: Adam with a built-in warm-up, from the variance of its step.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_hat = m / (1 - beta1^t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2^t / (1 - beta2^t)

        p = p - lr * m_hat                                              while rho <= 5

        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p = p - lr * r * m_hat * sqrt(1 - beta2^t) / (sqrt(v) + eps)    afterwards

    For problems where Adam needs a warm-up of the learning rate.  RAdam needs none.  The first steps (five by default)
    are steps of momentum, proportional to the gradient.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-8
        Added to the root.
    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`.

    As in torch.optim: eps is added to the root before the correction, and the limit of rho is 5, as in the authors'
    code.  The paper has a limit of 4.  optax's radam adds eps after the correction, and has the limit rho >= 5.

    If betas change, the product of the betas replaces beta^t, as in `Adam` but not in torch.  rho is then 1 plus twice
    the weighted mean age of the gradients in v, at most rho_inf.  For a constant beta2 this is the rho above.

    References
    ----------
    Liu, Jiang, He, Chen, Liu, Gao and Han, "On the variance of the adaptive learning rate and beyond", 2020,
    https://arxiv.org/abs/1908.03265.
    """

    _rules: ClassVar = {"radam": {}}
    _torch_names: ClassVar = {"m": "exp_avg", "v": "exp_avg_sq"}

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-8)
    decoupled_weight_decay: bool = other_name(default=False, of="weight_decay_form", value="decoupled")


def radam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """RAdam. Liu et al., "On the variance of the adaptive learning rate and beyond", 2020.

    ::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = m / (1 - beta1^t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
        p -= lr * m_hat                              while rho <= 5
        l = sqrt(1 - beta2^t) / (sqrt(v) + eps)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        p -= lr * r * m_hat * l                      afterwards
    """
    beta1, beta2 = betas
    weight_decay = shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho > 5:
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        m_hat = r * m_hat * math.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
    p -= lr * m_hat
