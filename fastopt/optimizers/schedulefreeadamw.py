"""ScheduleFreeAdamW, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ._plain import Array, State, gradient, zeros
from .schedulefree import ScheduleFree, average_weight


class ScheduleFreeAdamW(ScheduleFree):
    r"""Schedule-free AdamW: gradients at points between the iterates and their running mean, which is the result.

    ::

        lr_t = lr * min(1, t / warmup_steps)
        c = w_t / (w_1 + ... + w_t)                 w_t = t^r * max(lr_1, ..., lr_t)^weight_lr_power
        v = beta2 * v + (1 - beta2) * g^2
        u = g / (sqrt(v_hat) + eps) + weight_decay * p              v_hat as in `Adam`
        z = z - lr_t * u                            z = p before the first step
        x = (1 - c) * x + c * z
        p = (1 - beta1) * z + beta1 * x             point of the next gradient: the paper's y

    It replaces AdamW with a decaying learning rate, if the number of steps is not known in advance, or if you need
    results at any time.  It takes as much memory as AdamW.  Compute gradients at the parameters; evaluate and keep
    ``x``::

        with opt.swapped("x"):                      # the parameters hold x
            accuracy = evaluate(params)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 2.5e-3
        Learning rate, without a schedule.  It is usually larger than for AdamW with a schedule.
    betas : pair of float, in (0, 1) and in [0, 1), default (0.9, 0.999)
        Share of x in the point of the gradient, and decay of the running mean of squares.  The first is fixed after
        the first step, since x is computed with it.
    eps : float, >= 0, default 1e-8
        Added to the root.
    warmup_steps : float, >= 0, default 0
        Steps over which the learning rate grows to its value.
    r : float, >= 0, default 0
        Power of t in the weights of the mean.
    weight_lr_power : float, >= 0, default 2
        Power of the largest learning rate so far in the weights of the mean.
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
    State: ``z`` and ``v``, each of the parameter's shape and `state_dtype`, and ``weight_sum`` and ``lr_max``, a
    float64 each.  ``x`` is not stored: `swapped` and ``opt.x`` compute it from p and z.

    As in the authors' package schedulefree, whose ``optimizer.eval()`` is `swapped` here.  Its first versions corrected
    the learning rate instead of v.  optax's schedule_free_adamw has no r, and with warm-up its first step has a
    learning rate of 0.  According to the authors, a model with batch normalisation must see some batches with x before
    it is evaluated.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", 2024,
    https://arxiv.org/abs/2405.15682.
    """

    _rules: ClassVar = {"schedulefreeadamw": {}}
    _decay_form = "own"

    lr: Rate = rate(default=2.5e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"), fixed="steps")
    eps: Number = number(default=1e-8)
    warmup_steps: Number = number(default=0)
    r: Number = number(default=0.0)
    weight_lr_power: Number = number(default=2.0)


def schedulefreeadamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Schedule-free AdamW. Defazio et al., "The road less scheduled", 2024.

    ::

        v = beta2 * v + (1 - beta2) * g^2
        z -= lr * (g / (sqrt(v_hat) + eps) + weight_decay * p)
        x = (1 - c) * x + c * z
        p = (1 - beta1) * z + beta1 * x
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "v")
    v, (beta1, beta2) = state["v"], betas
    lr, c = average_weight(state, p, t, lr, warmup_steps, r, weight_lr_power)
    x = (p - (1 - beta1) * state["z"]) / beta1
    v[...] = beta2 * v + (1 - beta2) * g**2
    state["z"] -= lr * (g / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p)
    p[...] = (1 - beta1) * state["z"] + beta1 * ((1 - c) * x + c * state["z"])
