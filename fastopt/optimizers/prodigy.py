"""Prodigy, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, flag, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Prodigy(Optimizer):
    r"""Prodigy: Adam that estimates its learning rate from the distance that the parameters have moved.

    ::

        dlr = d * lr * sqrt(1 - beta2^t) / (1 - beta1^t)
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * (d * g)^2
        s = beta3 * s + d / d0 * dlr * g                        with safeguard_warmup: d / d0 * d * g
        r = beta3 * r + d / d0 * dlr * <g, p0 - p>              over all parameters of the group together
        d = max(d, d_coef * r / |s|_1)
        p = p - dlr * (m / (sqrt(v) + d * eps) + weight_decay * p)

    For problems without a tuned learning rate.  A schedule that ends at 0 improves the final result.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1.0
        Factor on the step; may be a schedule.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    beta3 : float or None, in [0, 1), default None
        Decay of the sums r and s; None is sqrt(beta2).
    eps : float, >= 0, default 1e-8
        Added to the root, times d.
    d0 : float, > 0, default 1e-6
        First value of the estimate.
    d_coef : float, >= 0, default 1.0
        Factor on the estimate.
    safeguard_warmup : bool, default False
        Leave the learning rate out of the sum s, for a warm-up.
    weight_decay : float, >= 0, default 0
        Decay within the rule, decoupled.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, ``v``, ``s`` and ``p0`` (the parameter before the first step), each of its shape and `state_dtype`,
    and ``d`` and ``r``, a float64 each, the same for all parameters of a group.

    As in optax.  A NaN in a gradient makes d NaN, and with it all parameters of the group.  All parameters of a group
    must be stepped together.  So `step_one` is refused, and gradients of None, unless all gradients of a group are
    None.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Mishchenko and Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2024,
    https://arxiv.org/abs/2306.06101.
    """

    _rules: ClassVar = {"prodigy": {}}
    _streams: ClassVar = {"prodigy": (9, 4)}
    _decay_form = "own"

    lr: Rate = rate(default=1.0, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    beta3: Number | None = number(default=None, none=lambda hyper: math.sqrt(hyper["beta2"]))
    eps: Number = number(default=1e-8)
    d0: Number = number(default=1e-6)
    d_coef: Number = number(default=1.0)
    safeguard_warmup: bool = flag(default=False)


def prodigy(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    safeguard_warmup: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Prodigy, for one parameter. Mishchenko & Defazio, "Prodigy", 2024.

    ::

        r = beta3 * r + d / d0 * dlr * <g, p0 - p>
        d = max(d, d_coef * r / |s|_1)
        p -= dlr * (m / (sqrt(v) + d * eps) + weight_decay * p)
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v", "s")
    if t == 1:
        state["p0"], state["d"], state["r"] = p.copy(), d0, 0.0
    m, v, s, d = state["m"], state["v"], state["s"], state["d"]
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    dlr = d * lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    m[...] = beta1 * m + (1 - beta1) * d * g
    v[...] = beta2 * v + (1 - beta2) * (d * g) ** 2
    s[...] = beta3 * s + d / d0 * (d if safeguard_warmup else dlr) * g
    state["r"] = beta3 * state["r"] + d / d0 * dlr * float(np.sum(g * (state["p0"] - p)))
    size = float(np.sum(abs(s)))
    state["d"] = max(d, d_coef * state["r"] / size) if size else d
    p -= dlr * (m / (np.sqrt(v) + state["d"] * eps) + weight_decay * p)
