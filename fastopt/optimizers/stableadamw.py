"""StableAdamW, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class StableAdamW(Optimizer):
    r"""StableAdamW: AdamW with smaller steps where gradients exceed the mean of their squares.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2                       m_hat, v_hat as in `Adam`
        rms = sqrt(mean(g^2 / max(v_hat, eps^2)))               over the elements of the parameter
        p = p - lr / max(1, rms) * (m_hat / (sqrt(v_hat) + eps) + weight_decay * p)

    It prevents spikes of the loss.  According to the paper, spikes follow steps in which v is too small for the
    gradients, mostly in the first layer.  It replaces the clipping of gradients.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.99)
        Decay of the two running means.
    eps : float, >= 0, default 1e-8
        Added to the root, and lower bound of the root in rms.
    weight_decay : float, >= 0, default 1e-2
        Decay within the rule, also divided by max(1, rms).
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`.  The mean is that of a whole array, so
    the result changes if you cut an array into several.

    As in the paper, which corrects the bias by its betas, and in pytorch_optimizer.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi and Schmidt, "Stable and low-precision training for large-scale
    vision-language models", 2023, https://arxiv.org/abs/2304.13013.
    """

    _rules: ClassVar = {"stableadamw": {}}
    _streams: ClassVar = {"stableadamw": (5, 4)}
    _decay_form = "own"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.99), names=("beta1", "beta2"))
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=1e-2)


def stableadamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
) -> None:
    """StableAdamW. Wortsman et al., "Stable and low-precision training for vision-language models", 2023, Algorithm 2.

    ::

        m = beta1 m + (1 - beta1) g,    m_hat = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2,  v_hat = v / (1 - beta2^t)
        rms = sqrt(mean(g^2 / max(v_hat, eps^2)))
        p -= lr / max(1, rms) * (m_hat / (sqrt(v_hat) + eps) + weight_decay p)
    """
    beta1, beta2 = betas
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    rms = float(np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))) if p.size else 0.0
    p -= lr / max(1.0, rms) * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p)
