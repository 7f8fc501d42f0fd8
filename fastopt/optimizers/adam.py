"""Adam, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, flag, number, numbers, other_name, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class Adam(Optimizer):
    r"""Adam: running means of the gradient and of its square, both corrected for their start at zero.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        m_hat = m / (1 - beta1^t)
        v_hat = v / (1 - beta2^t)                   with amsgrad: of vmax = max(vmax, v)
        p = p - lr * m_hat / (sqrt(v_hat) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-8
        Added to the root.
    amsgrad : bool, default False
        Divide by the largest v so far instead of v.
    decoupled_weight_decay : bool, default False
        torch's name for ``weight_decay_form="decoupled"``.
    **shared
        weight_decay=0.0 (L2; `AdamW` has decoupled decay), maximize=False and the options of the
        step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, with amsgrad ``vmax``, each of the parameter's shape and `state_dtype`.

    Algorithm 1 of the paper, as in torch.optim and optax.  Keras uses the form with "epsilon hat": it adds eps to
    sqrt(v) before the correction.

    Betas may change, by a schedule or an assignment in `groups`.  Then beta^t is the product of the betas over all
    steps of the parameter.  So m_hat and v_hat stay means, and a constant gradient gives steps of lr.  torch and optax
    use the power of the current beta, so their steps after a change are too long or too short.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, https://arxiv.org/abs/1412.6980.  AMSGrad: Reddi,
    Kale and Kumar, "On the convergence of Adam and beyond", 2018, https://arxiv.org/abs/1904.09237.
    """

    _rules: ClassVar = {"adam": {}, "amsgrad": {"amsgrad": True}}
    _torch_names: ClassVar = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-8)
    amsgrad: bool = flag(default=False, fixed="layout")
    decoupled_weight_decay: bool = other_name(default=False, of="weight_decay_form", value="decoupled")


def adam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adam. Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.

    ::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = m / (1 - beta1^t)
        v_hat = v / (1 - beta2^t)
        p -= lr * m_hat / (sqrt(v_hat) + eps)

    AMSGrad, Reddi, Kale & Kumar, "On the convergence of Adam and beyond", 2018, takes the largest v so far.
    """
    beta1, beta2 = betas
    weight_decay = shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    if amsgrad:
        zeros(state, p, "vmax")
        v = state["vmax"] = np.maximum(state["vmax"], v)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)
