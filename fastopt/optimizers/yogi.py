"""Yogi, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Yogi(Optimizer):
    r"""Yogi: Adam with a second moment that changes by at most a share of the squared gradient.

    ::

        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * sign(v - g^2) * g^2
        p = p - lr * m_hat / (sqrt(v_hat) + eps)
        m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    For gradients that are mostly small and sometimes large.  Adam forgets the large ones too soon, and its steps grow
    too fast.  Yogi's eps and learning rate are larger than Adam's.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    betas : pair of float, each in [0, 1), default (0.9, 0.999)
        Decay of the two running means.
    eps : float, >= 0, default 1e-3
        Added to the root.
    initial_accumulator_value : float, >= 0, default 1e-6
        First value of v; read when the optimizer is made.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m`` and ``v``, each of the parameter's shape and `state_dtype`.

    The bias is corrected as in optax; the paper does not correct it.  optax starts m at `initial_accumulator_value`
    too; here m starts at 0.

    If betas change, the product of the betas replaces beta^t, as in `Adam`.

    References
    ----------
    Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive methods for nonconvex optimization", NeurIPS 2018.
    """

    _rules: ClassVar = {"yogi": {}}

    lr: Rate = rate(default=1e-2, kw_only=False)
    betas: tuple[Number, Number] = numbers(default=(0.9, 0.999), names=("beta1", "beta2"))
    eps: Number = number(default=1e-3)
    initial_accumulator_value: Number = number(default=1e-6, fixed="start")

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"v": hyper["initial_accumulator_value"] + 0.0}  # 0 for -0


def yogi(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-3,
    initial_accumulator_value: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Yogi. Zaheer et al., "Adaptive methods for nonconvex optimization", 2018; with Adam's bias corrections.

    ::

        m = beta1 m + (1 - beta1) g
        v = v - (1 - beta2) sign(v - g^2) g^2
        p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m")
    if t == 1:
        state["v"] = np.full_like(p, initial_accumulator_value)
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = state["v"] - (1 - beta2) * np.sign(state["v"] - g**2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
