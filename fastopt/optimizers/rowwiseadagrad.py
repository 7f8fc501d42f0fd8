"""RowWiseAdagrad, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient


class RowWiseAdagrad(Optimizer):
    r"""Row-wise Adagrad: the step of a row shrinks with the sum of the mean squares of its gradients.

    ::

        G of a row = G + mean of g^2 over the row
        p = p - lr * g / (sqrt(G of its row) + eps)

    For embedding tables.  Its state is one number per row, and its results are about those of Adagrad.  Rows lie along
    the last axis.  Arrays with fewer than two axes have one G for each element, as with `Adagrad`.  A `RowGrad` reads
    and writes only its rows; the other rows have nothing to catch up on.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Learning rate.
    initial_accumulator_value : float, >= 0, default 0.0
        First value of G; read when the optimizer is made.
    eps : float, >= 0, default 1e-8
        Added to the root.
    **shared
        weight_decay=0.0 (L2), and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``G``, of the parameter's dtype, and of its shape without the last axis (with fewer than two axes, of its
    shape).  Sums of squares are computed in float64.  A NaN or infinity in a gradient reaches its whole row.

    As in FBGEMM's exact row-wise Adagrad (EmbOptimType.EXACT_ROWWISE_ADAGRAD), whose state is always float32.  If a row
    occurs several times, its gradients are added before they are squared, as in FBGEMM.

    References
    ----------
    Gupta, Bengio and Weston, "Training highly multiclass classifiers", 2014; Duchi, Hazan and Singer, "Adaptive
    subgradient methods for online learning and stochastic optimization", 2011.  FBGEMM: Khudia et al., 2021,
    https://arxiv.org/abs/2101.05615.
    """

    _rules: ClassVar = {"rowwiseadagrad": {}}
    _streams: ClassVar = {"rowwiseadagrad": (3,)}

    lr: Rate = rate(default=1e-2, kw_only=False)
    initial_accumulator_value: float = number(default=0.0, fixed="start")
    eps: Number = number(default=1e-8)

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"G": hyper["initial_accumulator_value"]} if hyper["initial_accumulator_value"] else {}


def rowwiseadagrad(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Row-wise Adagrad. Gupta, Bengio & Weston, "Training highly multiclass classifiers", 2014.

    ::

        G += mean of g^2 over the last axis
        p -= lr * g / (sqrt(G) + eps)
    """
    g = gradient(p, g, weight_decay, maximize)
    square = g**2 if p.ndim < 2 else np.mean(g**2, axis=-1) if p.size else np.zeros(p.shape[:-1], p.dtype)
    if t == 1:
        state["G"] = np.full_like(square, initial_accumulator_value)
    G = state["G"] = state["G"] + square
    p -= lr * g / ((np.sqrt(G) if p.ndim < 2 else np.sqrt(G)[..., np.newaxis]) + eps)
