"""Adafactor, and its rule in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, number, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class Adafactor(Optimizer):
    r"""Adafactor: the second moment of a matrix from one running mean per row and one per column.

    ::

        beta = 1 - t^beta2_decay
        R = beta * R + (1 - beta) * (mean of g^2 over each row)
        C = beta * C + (1 - beta) * (mean of g^2 over each column)
        v = R * C / max(mean of R, eps[0])          the entry of its row times the entry of its column
        v = beta * v + (1 - beta) * g^2             in place of these for arrays with fewer than two axes
        u = g / max(sqrt(v), eps[0])
        p = p - rms(p) * min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d)

    where rms(x) is sqrt(mean of x^2), and rms(p) is at least eps[1].  An array with more than two axes is a stack of
    matrices of its last two axes.

    For large models whose optimizer must use little memory: its state for a matrix of a rows and b columns has a + b
    numbers, that of Adam 2 a b.  Without momentum, it usually converges more slowly than Adam.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        Largest step relative to the size of the parameter.
    beta2_decay : float, <= 0, default -0.8
        Power of t in beta: the running means get slower.
    eps : pair of float, each >= 0, default (None, 1e-3)
        Lower bound of the root of v (None: the machine epsilon of the parameter's dtype), and lower bound of the
        size of the parameter.
    d : float, >= 1, default 1.0
        Largest size of u; above it, u is scaled down.
    weight_decay : float, >= 0, default 0
        Decay within the rule: p * (1 - lr * weight_decay), after the size of p is computed.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``R``, of the parameter's shape without its last axis, and ``C``, without its last but one.  With fewer than
    two axes, the state is ``v`` of the parameter's shape.  State has the parameter's dtype.  Means are those of whole
    matrices, so the result changes if you cut an array into several.  A step reads the gradient three times.  It
    allocates only sums: a few doubles for each row and column of a tile.  A tile has at most 1024 columns and 65536
    elements.

    As in torch.optim, with three differences.  Rows and columns are summed in double.  With eps[0] = 0, gradients that
    were always 0 give no update; torch gives NaN.  A NaN in p or u makes the sizes NaN, and with them all of p; torch
    ignores it.  The paper adds eps[0] to g^2, with a value of 1e-30.  optax's adafactor has other defaults, factors
    only axes of 128 and more, and clips by block.

    References
    ----------
    Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018,
    https://arxiv.org/abs/1804.04235.
    """

    _rules: ClassVar = {"adafactor": {}}
    _torch_names: ClassVar = {"R": "row_var", "C": "col_var", "v": "variance"}
    _streams: ClassVar = {"adafactor": (2, 1, 3), "adafactor_vector": (4, 4)}
    _decay_form = "own"

    lr: Rate = rate(default=1e-2, kw_only=False)
    beta2_decay: Number = number(default=-0.8)
    eps: tuple[Number | None, Number] = numbers(default=(None, 1e-3), names=("eps1", "eps2"), none=math.inf)
    d: Number = number(default=1.0)

    @classmethod
    def _to_torch(cls, state: Mapping[str, Any], t: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._to_torch(state, t, hyper)
        if "row_var" in found:
            found |= {"row_var": found["row_var"][..., None], "col_var": found["col_var"][..., None, :]}
        return found

    @classmethod
    def _from_torch(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._from_torch(state)
        if "R" in found and "C" in found:
            found |= {"R": found["R"][..., 0], "C": found["C"][..., 0, :]}
        return found


def _rms(x: Array) -> float:
    return math.sqrt(float(np.mean(x.astype(np.float64) ** 2))) if x.size else 0.0


def adafactor(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adafactor. Shazeer & Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018.

    ::

        R = beta * R + (1 - beta) * mean of g^2 over rows          likewise C over columns
        u = g / sqrt(R * C / mean of R)
        p -= rms(p) * min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d)
    """
    g = gradient(p, g, 0.0, maximize)
    eps1 = float(np.finfo(p.dtype).eps) if eps[0] is None else eps[0]
    rest = t**beta2_decay
    if p.ndim < 2:
        zeros(state, p, "v")
        v = state["v"]
        v[...] = (1 - rest) * v + rest * g**2
    elif p.size:
        if t == 1:
            state["R"], state["C"] = np.zeros_like(p[..., 0]), np.zeros_like(p[..., 0, :])
        R, C = state["R"], state["C"]
        R[...] = (1 - rest) * R + rest * np.mean(g**2, axis=-1)
        C[...] = (1 - rest) * C + rest * np.mean(g**2, axis=-2)
        v = (R / np.maximum(np.mean(R, axis=-1, keepdims=True), eps1))[..., None] * C[..., None, :]
    else:
        return
    u = g / np.maximum(np.sqrt(v), max(eps1, float(np.finfo(p.dtype).tiny)))
    rate = max(eps[1], _rms(p)) * min(lr, 1 / math.sqrt(t)) / max(1.0, _rms(u) / d)
    p *= 1 - lr * weight_decay
    p -= rate * u
