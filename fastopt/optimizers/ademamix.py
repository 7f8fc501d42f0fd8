"""AdEMAMix, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam with a second, much longer running mean of gradients.

    ::

        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = beta3 * m2 + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr * (m1_hat + alpha * m2) / (sqrt(v_hat) + eps)
        m1_hat = m1 / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    For long trainings of language models, where gradients of 10,000 steps ago still help.  In a short training the long
    mean hardly fills.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : three floats, each in [0, 1), default (0.9, 0.999, 0.9999)
        Decay of the two running means of Adam and of the long one.
    alpha : float, >= 0, default 5
        Weight of the long mean.
    warmup : float, >= 0, default 0
        Steps over which alpha grows linearly from 0, and 1 / ln(beta3) linearly from its value for beta1.  The paper
        uses the number of steps of the whole training.
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
    State: ``m1``, ``m2`` and ``v``, each of the parameter's shape and `state_dtype`.

    As in the paper.  optax takes schedules for alpha and beta3 instead of `warmup`, and counts steps from 0.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Pagliardini, Ablin and Grangier, "The AdEMAMix optimizer: better, faster, older", 2024,
    https://arxiv.org/abs/2409.03137.
    """

    _rules: ClassVar = {"ademamix": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number, Number] = numbers(default=(0.9, 0.999, 0.9999), names=("beta1", "beta2", "beta3"))
    alpha: Number = number(default=5.0, name="mix")
    warmup: Number = number(default=0.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)


def ademamix(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 5.0,
    warmup: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """AdEMAMix. Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024; with decoupled decay.

    ::

        m1 = beta1 m1 + (1 - beta1) g
        m2 = beta3 m2 + (1 - beta3) g
        v = beta2 v + (1 - beta2) g^2
        p -= lr * ((m1 / (1 - beta1^t) + alpha m2) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)

    During the first ``warmup`` steps alpha grows along a line, and beta3 from beta1 on.
    """
    beta1, beta2, beta3 = betas
    if t < warmup:
        x = t / warmup
        start, end = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta3))
        alpha = alpha * x
        beta3 = min(math.exp(1 / ((1 - x) / start + x / end)), beta3)
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m1", "m2", "v")
    m1 = state["m1"] = beta1 * state["m1"] + (1 - beta1) * g
    m2 = state["m2"] = beta3 * state["m2"] + (1 - beta3) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    p -= lr * (m1 / (1 - beta1**t) + alpha * m2) / (np.sqrt(v / (1 - beta2**t)) + eps)
