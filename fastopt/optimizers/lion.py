"""Lion, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, shrink, zeros


class Lion(Optimizer):
    r"""Lion: steps of equal size along the sign of a mean of gradient and momentum.

    ::

        p = p - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    It has one buffer, half of Adam's state.  Every element moves by lr in each step.  So use a learning rate 3 to 10
    times smaller than for Adam, and a decay that is larger by the same factor.  Lion was found on large image and
    language models with large batches.  With small batches its steps are noisy.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-4
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.99)
        Share of the buffer in the step, and share of the buffer that is kept.
    weight_decay : float, >= 0, default 1e-3
        Decoupled decay.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and `state_dtype`.

    As in optax, also with decoupled decay.  An element does not move where the mean is 0.  NaN stays NaN.

    References
    ----------
    Chen et al., "Symbolic discovery of optimization algorithms", 2023, https://arxiv.org/abs/2302.06675.
    """

    _rules: ClassVar = {"lion": {}}
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-4, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.99), names=("beta1", "beta2"))
    weight_decay: Number = number(default=1e-3)


def lion(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 1e-3,
    maximize: bool = False,
) -> None:
    """Lion. Chen et al., "Symbolic discovery of optimization algorithms", 2023; with decoupled decay.

    ::

        p -= lr * (sign(beta1 m + (1 - beta1) g) + weight_decay p)
        m = beta2 m + (1 - beta2) g
    """
    beta1, beta2 = betas
    shrink(p, lr, weight_decay, True)
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "m")
    p -= lr * np.sign(beta1 * state["m"] + (1 - beta1) * g)
    state["m"] = beta2 * state["m"] + (1 - beta2) * g
