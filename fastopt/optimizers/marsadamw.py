"""MARS-AdamW, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class MARSAdamW(Optimizer):
    r"""MARS-AdamW: AdamW of gradients that are corrected by their difference from the previous gradients.

    ::

        c = g + gamma * beta1 / (1 - beta1) * (g - prev)
        c = c / max(1, |c|)                                     the norm of the whole parameter
        m = beta1 * m + (1 - beta1) * c
        v = beta2 * v + (1 - beta2) * c^2
        p = p - lr * m_hat / (sqrt(v_hat) + eps)
        m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)
        prev = g

    The correction reduces the variance of m, as recursive momentum does.  According to the authors' measurements it is
    for language models, at a larger learning rate than AdamW's.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 3e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.95, 0.99)
        Decay of the two running means.
    gamma : float, >= 0, default 0.025
        Strength of the correction.  With 0, the rule is AdamW with the gradient of each parameter clipped to norm 1.
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
    State: ``m``, ``v`` and ``prev``, each of the parameter's shape and dtype.  All start at 0.  Norms are those of
    whole arrays, so the result changes if you cut an array into several.

    In the paper, both gradients of a correction are from the same batch.  This is its practical form, MARS-approx, with
    the gradient of the previous step, as in the authors' code and the default of pytorch_optimizer.  Both run AdamW on
    vectors, unless `optimize_1d` is set.  Here every parameter follows the rule; use `Combined` to give the vectors to
    `AdamW`.  pytorch_optimizer adds 1e-15 inside the root, and eps before the bias correction.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Yuan, Liu, Wu, Zhou and Gu, "MARS: unleashing the power of variance reduction for training large models", 2024,
    https://arxiv.org/abs/2411.10438.
    """

    _rules: ClassVar = {"marsadamw": {}}
    _streams: ClassVar = {"marsadamw": (2, 9)}
    _decay_form = "decoupled"

    lr: Rate = rate(default=3e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.95, 0.99), names=("beta1", "beta2"))
    gamma: Number = number(default=0.025)
    eps: Number = number(default=1e-8)


def marsadamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.95, 0.99),
    gamma: float = 0.025,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """MARS-AdamW. Yuan et al., "MARS: unleashing the power of variance reduction", 2024, in its practical form.

    With decoupled decay::

        p *= 1 - lr * weight_decay
        c = g + gamma beta1 / (1 - beta1) (g - prev)
        c = c / |c| where |c| > 1
        m = beta1 m + (1 - beta1) c
        v = beta2 v + (1 - beta2) c^2
        p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v", "prev")
    c = g + gamma * beta1 / (1 - beta1) * (g - state["prev"])
    norm = float(np.linalg.norm(c))
    c = c / norm if norm > 1 else c
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * c
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * c**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    state["prev"] = g.copy()
