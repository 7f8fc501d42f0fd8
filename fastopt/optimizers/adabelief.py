"""AdaBelief, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class AdaBelief(Optimizer):
    r"""AdaBelief: Adam that divides by the deviation of gradients from their running mean.

    ::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)^2 + eps
        p = p - lr * m_hat / (sqrt(s_hat) + eps)
        m_hat = m / (1 - beta1^t),  s_hat = s / (1 - beta2^t)

    Steps are large where gradients agree, and small where they do not.  In the paper it is as fast as Adam, and as good
    as SGD on images.  It depends on eps more than Adam does.  The authors use 1e-16 for problems on which Adam is
    better than SGD (transformers and GANs), and 1e-8 for the others (convolutional networks on images).

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-16
        Added to s and to its root.
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
    State: ``m`` and ``s``, each of the parameter's shape and `state_dtype`.

    As in the paper.  optax has a second number, eps_root, for the eps inside the root, and no decay.  Decay is
    decoupled as in the authors' code, which by default also rectifies the first steps, as `RAdam` does.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris and Duncan, "AdaBelief optimizer: adapting stepsizes by the
    belief in observed gradients", 2020, https://arxiv.org/abs/2010.07468.
    """

    _rules: ClassVar = {"adabelief": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-16)
    weight_decay: Number = number(default=0.0)


def adabelief(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """AdaBelief. Zhuang et al., "Adapting stepsizes by the belief in observed gradients", 2020.

    With decoupled decay::

        p *= 1 - lr * weight_decay
        m = beta1 m + (1 - beta1) g
        s = beta2 s + (1 - beta2) (g - m)^2 + eps
        p -= lr * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m", "s")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    s = state["s"] = beta2 * state["s"] + (1 - beta2) * (g - m) ** 2 + eps
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + eps)
