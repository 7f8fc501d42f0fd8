"""LAMB, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, trust_ratio, zeros


class LAMB(Optimizer):
    r"""LAMB: Adam with a step that is scaled to the size of each parameter.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p      m_hat, v_hat as in `Adam`
        p = p - lr * |p| / |u| * u                              lr * u where either norm is 0

    For transformers with very large batches.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-6
        Added to the root.
    weight_decay : float, >= 0, default 0
        Decay within the rule.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`.  Norms are those of whole arrays, so the
    result changes if you cut an array into several.

    As in optax.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
    https://arxiv.org/abs/1904.00962.
    """

    _rules: ClassVar = {"lamb": {}}
    _streams: ClassVar = {"lamb": (6, 4)}
    _decay_form = "own"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-6)


def lamb(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """LAMB. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020.

    ::

        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p
        p -= lr * |p| / |u| * u
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v")
    m, v = state["m"], state["v"]
    beta1, beta2 = betas
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p
    p -= lr * trust_ratio(p, u) * u
