"""ADOPT, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class ADOPT(Optimizer):
    r"""ADOPT: Adam that divides a gradient by the squares of earlier gradients, and then averages.

    ::

        m = beta1 * m + (1 - beta1) * clip(g / max(sqrt(v), eps), -c, c),  c = (t - 1)^(1/4)
        p = p - lr * m
        v = beta2 * v + (1 - beta2) * g^2

    The first step sets v to g^2 and does not move the parameter.  A gradient and the v that scales it are independent.
    So the rule converges for every beta2, while Adam needs one that suits the problem.  The clip keeps steps small if
    the first gradients were small or 0.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.9999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-6
        Smallest divisor of a gradient.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`.

    As in the second version of the authors' code, and in optax.  pytorch_optimizer has c = t^(1/4), which allows larger
    steps.  With decoupled decay, the first step shrinks the parameter here, but not in the authors' code.

    With `RowGrad`, a row may get its first gradient in a later step.  Its v is then 0, and its first step has the size
    of c.

    References
    ----------
    Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa and Matsuo, "ADOPT: modified Adam can
    converge with any beta2 with the optimal rate", 2024, https://arxiv.org/abs/2411.02853.
    """

    _rules: ClassVar = {"adopt": {}}

    lr: Rate = rate(default=1e-3, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.9999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-6)


def adopt(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.9999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """ADOPT. Taniguchi et al., "Modified Adam can converge with any beta2 with the optimal rate", 2024, Algorithm 2.

    ::

        v = g^2 on the first step, and else
        m = beta1 m + (1 - beta1) clip(g / max(sqrt(v), eps), -c, c),  c = (t - 1)^(1/4)
        p -= lr m
        v = beta2 v + (1 - beta2) g^2
    """
    beta1, beta2 = betas
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m", "v")
    if t == 1:
        state["v"] = g**2
        return
    c = (t - 1) ** 0.25
    state["m"] = beta1 * state["m"] + (1 - beta1) * np.clip(g / np.maximum(np.sqrt(state["v"]), eps), -c, c)
    p -= lr * state["m"]
    state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
