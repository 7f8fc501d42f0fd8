"""Adan, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class Adan(Optimizer):
    r"""Adan: Adam with Nesterov's momentum, from a running mean of the differences of gradients.

    ::

        d = g - prev                                        prev = g on the first step
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * d
        n = beta3 * n + (1 - beta3) * (g + beta2 * d)^2
        p = p - lr * (m_hat + beta2 * v_hat) / (sqrt(n_hat) + eps)
        prev = g
        m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t),  n_hat = n / (1 - beta3^t)

    For large batches, with learning rates up to 10 times those of AdamW.  According to the paper it needs half to two
    thirds of AdamW's steps.  It has four buffers: a step moves 44 bytes per element, a step of Adam 28.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : three floats, each in [0, 1), default (0.98, 0.92, 0.99)
        Decay of the three running means.
    eps : float, >= 0, default 1e-8
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
    State: ``m``, ``v``, ``n`` and ``prev``, each of the parameter's shape and `state_dtype`.

    As in the authors' code, except for decay, which there is p / (1 + lr * weight_decay) after the step.  The betas of
    the paper are 1 minus these.  optax has 1 - beta2 in place of beta2 before d and v_hat, and a second eps inside the
    root.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Xie, Zhou, Li, Lin and Yan, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
    https://arxiv.org/abs/2208.06677.
    """

    _rules: ClassVar = {"adan": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number, Number] = numbers(default=(0.98, 0.92, 0.99), names=("beta1", "beta2", "beta3"))
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)


def adan(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adan. Xie et al., "Adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022.

    With decoupled decay, and d = g - prev, 0 on step 1::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) d
        n = beta3 n + (1 - beta3) (g + beta2 d)^2
        m_hat, v_hat, n_hat = m / (1 - beta1^t), v / (1 - beta2^t), n / (1 - beta3^t)
        p -= lr * ((m_hat + beta2 v_hat) / (sqrt(n_hat) + eps) + weight_decay p)
    """
    beta1, beta2, beta3 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v", "n")
    d = g - state.get("prev", g)
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * d
    n = state["n"] = beta3 * state["n"] + (1 - beta3) * (g + beta2 * d) ** 2
    m_hat, v_hat, n_hat = m / (1 - beta1**t), v / (1 - beta2**t), n / (1 - beta3**t)
    p -= lr * (m_hat + beta2 * v_hat) / (np.sqrt(n_hat) + eps)
    state["prev"] = g.copy()
