"""Adagrad, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient


class Adagrad(Optimizer):
    r"""Adagrad: each element's step shrinks with the sum of its squared gradients.

    ::

        G = G + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(G) + eps)

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    lr_decay : float, >= 0, default 0
        Decay of the learning rate.
    initial_accumulator_value : float, >= 0, default 0
        First value of G; read when the optimizer is made.
    eps : float, >= 0, default 1e-10
        Added to the root.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``G``, of the parameter's shape and `state_dtype`.

    As in torch.optim.  Keras puts eps inside the root; optax starts G at 0.1 and puts eps inside the root.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    _rules: ClassVar = {"adagrad": {}}
    _torch_names: ClassVar = {"G": "sum"}

    lr: Rate = rate(default=1e-2, kw_only=False)
    lr_decay: Number = number(default=0.0)
    initial_accumulator_value: float = number(default=0.0, fixed="start")
    eps: Number = number(default=1e-10)

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"G": hyper["initial_accumulator_value"]} if hyper["initial_accumulator_value"] else {}


def adagrad(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adagrad. Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning", 2011.

    ::

        G += g^2
        p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(G) + eps)
    """
    g = gradient(p, g, weight_decay, maximize)
    if t == 1:
        state["G"] = np.full_like(p, initial_accumulator_value)
    G = state["G"] = state["G"] + g**2
    p -= lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(G) + eps)
