"""LaProp, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class LaProp(Optimizer):
    r"""LaProp: momentum of scaled gradients, while Adam scales the momentum of gradients.

    ::

        n = beta2 * n + (1 - beta2) * g^2
        m = beta1 * m + (1 - beta1) * g / (sqrt(n_hat) + eps)
        p = p - lr * m_hat
        m_hat = m / (1 - beta1^t),  n_hat = n / (1 - beta2^t)

    Each gradient is divided by the squares up to its own.  The paper bounds the step for every pair of betas, and
    bounds Adam's only for beta1 < sqrt(beta2).  For noisy problems, where a small beta2 helps.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 4e-4
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-15
        Added to the root.
    weight_decay : float, >= 0, default 0
        Decoupled decay.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``n``, each of the parameter's shape and `state_dtype`.

    As in the paper.  The authors' code and pytorch_optimizer keep lr inside m, so a new learning rate takes effect
    slowly.  Their decay follows the step; here it comes before the step.  pytorch_optimizer adds 1e-15 inside the root,
    and eps before the bias correction.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Ziyin, Wang and Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020, https://arxiv.org/abs/2002.04839.
    """

    _rules: ClassVar = {"laprop": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=4e-4, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-15)


def laprop(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 4e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """LaProp. Ziyin, Wang & Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020; with decoupled decay.

    ::

        p *= 1 - lr * weight_decay
        n = beta2 n + (1 - beta2) g^2
        m = beta1 m + (1 - beta1) g / (sqrt(n / (1 - beta2^t)) + eps)
        p -= lr * m / (1 - beta1^t)
    """
    beta1, beta2 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "n")
    n = state["n"] = beta2 * state["n"] + (1 - beta2) * g**2
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g / (np.sqrt(n / (1 - beta2**t)) + eps)
    p -= lr * (m / (1 - beta1**t))
