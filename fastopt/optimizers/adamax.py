"""Adamax, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Adamax(Optimizer):
    r"""Adamax: Adam with the largest recent gradient in place of the root mean square.

    ::

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, |g| + eps)
        p = p - lr / (1 - beta1^t) * m / u          and 0 where u is 0

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 2e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the running mean and of the maximum.
    eps : float, >= 0, default 1e-8
        Added to the size of the gradient.  At 0 this is the paper's rule.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``u``, each of the parameter's shape and `state_dtype`.

    As in torch.optim, where eps=0 gives NaN for gradients that were always 0.  Keras and optax add eps to u in the
    division instead.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, https://arxiv.org/abs/1412.6980.
    """

    _rules: ClassVar = {"adamax": {}}
    _torch_names: ClassVar = {"m": "exp_avg", "u": "exp_inf"}

    lr: Rate = rate(default=2e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-8)


def adamax(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adamax. Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, where eps = 0.

    ::

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p -= lr / (1 - beta1^t) * m / u              and nothing where u is 0
    """
    beta1, beta2 = betas
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m", "u")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    u = state["u"] = np.maximum(beta2 * state["u"], np.abs(g) + eps)
    if eps == 0:
        m, u = np.where(u == 0, 0, m), np.where(u == 0, 1, u)
    p -= lr / (1 - beta1**t) * m / u
