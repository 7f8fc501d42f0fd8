"""NAdam, and its rule in plain NumPy."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, other_name, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov's momentum.

    ::

        mu_t = beta1 * (1 - 0.5 * 0.96^(t * momentum_decay))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_bar = mu_(t+1) * m / (1 - mu_1 * ... * mu_(t+1)) + (1 - mu_t) * g / (1 - mu_1 * ... * mu_t)
        v_hat = v / (1 - beta2^t)
        p = p - lr * m_bar / (sqrt(v_hat) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 2e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-8
        Added to the root.
    momentum_decay : float or None, >= 0, default 4e-3
        Rate at which mu_t grows to beta1.  None is a constant momentum, mu_t = beta1::

            m_bar = beta1 * m / (1 - beta1^(t+1)) + (1 - beta1) * g / (1 - beta1^t)

    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`, and ``mu_product`` = mu_1 * ... * mu_t, a
    float64.

    As in torch.optim.  torch keeps mu_product in its default dtype, so its float64 runs differ by about 1e-10.  optax's
    nadam has the constant momentum.

    If betas change, mu_product is the product of all mu_t so far, as in torch, and the product of beta2 replaces
    beta2^t, as in `Adam` but not in torch.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """

    _rules: ClassVar = {"nadam": {}}
    _torch_names: ClassVar = {"m": "exp_avg", "v": "exp_avg_sq"}

    lr: Rate = rate(default=2e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-8)
    momentum_decay: Number | None = number(default=4e-3, none=math.inf)
    decoupled_weight_decay: bool = other_name(default=False, of="weight_decay_form", value="decoupled")


def nadam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float | None = 4e-3,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """NAdam. Dozat, "Incorporating Nesterov momentum into Adam", 2016.

    ::

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)
        v_hat = v / (1 - beta2^t)
        p -= lr * m_hat / (sqrt(v_hat) + eps)

    ``momentum_decay=None`` is the constant momentum mu_t = beta1.
    """
    beta1, beta2 = betas
    decay = math.inf if momentum_decay is None else momentum_decay
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (i * decay)) for i in (t, t + 1))
    product = state["mu_product"] = mu * state.get("mu_product", 1.0)
    weight_decay = shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    v_hat = v / (1 - beta2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)
