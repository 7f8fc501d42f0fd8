"""NovoGrad, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients that are divided by a running norm, one number per parameter.

    ::

        v = beta2 * v + (1 - beta2) * |g|^2                     |g|^2 on the first step
        m = beta1 * m + g / (sqrt(v) + eps) + weight_decay * p
        p = p - lr * m

    For speech and vision models.  It has half the state of Adam.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.25)
        Decay of momentum and of the norm.
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
    State: ``m``, of the parameter's shape and `state_dtype`, and ``v`` and ``v_exponent``, a float64 each.  The mean is
    v * 2^v_exponent; the exponent is 0 unless squares exceed the range of float64.  The norm is that of a whole array,
    so the result changes if you cut an array into several.

    As in optax.

    References
    ----------
    Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks", 2019,
    https://arxiv.org/abs/1905.11286.
    """

    _rules: ClassVar = {"novograd": {}}
    _streams: ClassVar = {"novograd": (1, 5)}
    _decay_form = "own"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.25), names=("beta1", "beta2"))
    eps: Number = number(default=1e-6)


def novograd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.25),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """NovoGrad. Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments", 2019.

    ::

        v = beta2 * v + (1 - beta2) * |g|^2
        m = beta1 * m + g / (sqrt(v) + eps) + weight_decay * p
        p -= lr * m
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m")
    beta1, beta2 = betas
    square = float(np.sum(g.astype(np.float64) ** 2))
    state["v"] = square if t == 1 else beta2 * state["v"] + (1 - beta2) * square
    state["m"][...] = beta1 * state["m"] + g / (math.sqrt(state["v"]) + eps) + weight_decay * p
    p -= lr * state["m"]
