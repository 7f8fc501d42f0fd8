"""Simplified AdEMAMix, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class SimplifiedAdEMAMix(Optimizer):
    r"""Simplified AdEMAMix: Adam with one long momentum and an additional share of the last gradient.

    ::

        m = beta1 * m + g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr * (m + alpha * g) / (sqrt(v_hat) + eps)
        v_hat = v / (1 - beta2^t)

    One buffer has the effect of the two of `AdEMAMix`: a long memory and a quick response to the last gradient.  It
    needs no warm-up of either.  m is a sum, as in SGD with momentum, and grows to the sum of 1 / (1 - beta1) gradients.
    So use (1 - beta1) times the learning rate of Adam.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-4
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.99, 0.95)
        Decay of momentum, and of the mean of squares.
    alpha : float, >= 0, default 0
        Weight of the last gradient.  The paper suggests larger weights for small batches.
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
    State: ``m`` and ``v``, each of the parameter's shape and dtype.

    As in the paper and in optax.  pytorch_optimizer has the mean (1 - beta1) m instead of m.  For the same steps its
    learning rate is 1 / (1 - beta1) times as large, and its alpha (1 - beta1) times.

    If beta2 changes, the product of its values replaces beta2^t, as in `Adam`.

    References
    ----------
    Morwani, Vyas, Zhang and Kakade, "Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD
    variants", 2025, https://arxiv.org/abs/2502.02431.
    """

    _rules: ClassVar = {"simplifiedademamix": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-4, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.99, 0.95), names=("beta1", "beta2"))
    alpha: Number = number(default=0.0, name="mix")
    eps: Number = number(default=1e-8)


def simplifiedademamix(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.99, 0.95),
    alpha: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Simplified AdEMAMix. Morwani et al., "Connections between schedule-free optimizers, AdEMAMix, ...", 2025.

    With decoupled decay::

        p *= 1 - lr * weight_decay
        m = beta1 m + g
        v = beta2 v + (1 - beta2) g^2
        p -= lr * (m + alpha g) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    p -= lr * (m + alpha * g) / (np.sqrt(v / (1 - beta2**t)) + eps)
