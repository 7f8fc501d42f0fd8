"""Adadelta, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Adadelta(Optimizer):
    r"""Adadelta: the step is scaled by the ratio of two running means, and needs no learning rate.

    ::

        E = rho * E + (1 - rho) * g^2
        d = sqrt(D + eps) / sqrt(E + eps) * g
        D = rho * D + (1 - rho) * d^2
        p = p - lr * d

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1.0
        Factor on the step.  At 1 this is the paper's rule.
    rho : float, in [0, 1), default 0.9
        Decay of both running means.
    eps : float, >= 0, default 1e-6
        Added inside both roots; it sets the size of the first steps.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``E`` and ``D``, each of the parameter's shape and `state_dtype`.

    As in torch.optim.  Keras defaults to lr=0.001 and rho=0.95.

    References
    ----------
    Zeiler, "ADADELTA: an adaptive learning rate method", 2012, https://arxiv.org/abs/1212.5701.
    """

    _rules: ClassVar = {"adadelta": {}}
    _torch_names: ClassVar = {"E": "square_avg", "D": "acc_delta"}

    lr: Rate = rate(default=1.0, kw_only=False)
    rho: Number = number(default=0.9)
    eps: Number = number(default=1e-6)


def adadelta(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adadelta. Zeiler, "ADADELTA: an adaptive learning rate method", 2012.

    ::

        E = rho E + (1 - rho) g^2
        d = sqrt(D + eps) / sqrt(E + eps) * g
        D = rho D + (1 - rho) d^2
        p -= lr d
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "E", "D")
    E = state["E"] = rho * state["E"] + (1 - rho) * g**2
    d = np.sqrt(state["D"] + eps) / np.sqrt(E + eps) * g
    state["D"] = rho * state["D"] + (1 - rho) * d**2
    p -= lr * d
