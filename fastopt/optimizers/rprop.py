"""Rprop, and its rule in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, Rate, numbers, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient


class Rprop(Optimizer):
    r"""Rprop: a step size per element, which grows while the sign of the gradient stays, and shrinks when it changes.

    ::

        step_size = min(step_size * etas[1], step_sizes[1])             where g * prev > 0
        step_size = max(step_size * etas[0], step_sizes[0]), g = 0      where g * prev < 0
        p = p - sign(g) * step_size
        prev = g

    For full-batch training of small networks, and other problems with gradients that have no noise.  There it is among
    the fastest first-order methods.  Do not use it with small batches: their noise changes signs all the time.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 1e-2
        First step size of every element; only the first step reads it.
    etas : pair of float, in (0, 1) and > 1, default (0.5, 1.2)
        Factors on the step size where the sign changes, and where it stays.
    step_sizes : pair of float, each >= 0, default (1e-6, 50)
        Smallest and largest step size, in this order.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``prev``, the gradient of the last step, and ``step_size``, each of the parameter's shape and `state_dtype`.

    As in torch.optim; a gradient of NaN counts as 0, as there.  torch and optax multiply two gradients to compare their
    signs, which fails if the product underflows.  optax limits a step size only when it changes it.  In the paper, an
    element goes back where the sign changes; the rule without this is also known as iRprop-.

    References
    ----------
    Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.
    Igel and Huesken, "Improving the Rprop learning algorithm", 2000.
    """

    _rules: ClassVar = {"rprop": {}}

    lr: Rate = rate(default=1e-2, kw_only=False)
    etas: tuple[Number, Number] = numbers(default=(0.5, 1.2), names=("eta_minus", "eta_plus"))
    step_sizes: tuple[Number, Number] = numbers(default=(1e-6, 50.0), names=("step_min", "step_max"))

    @classmethod
    def _check_together(cls, label: str, hyper: Mapping[str, Any]) -> None:
        low, high = map(float, hyper["step_sizes"])  # which NumPy's own would be rounded to compare
        if low > high:
            raise ValueError(f"{label}: step_sizes must be the smallest and the largest step size, got {(low, high)!r}")

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"step_size": hyper["lr"] + 0.0}  # 0 for -0


def rprop(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Rprop. Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning", 1993.

    ::

        where g prev > 0    step = min(step etas[1], step_sizes[1])
        where g prev < 0    step = max(step etas[0], step_sizes[0]),  g = 0
        p -= sign(g) * step

    Without the paper's way back where the sign turns: Igel & Huesken, "Improving the Rprop learning algorithm", 2000.
    """
    g = gradient(p, g, weight_decay, maximize)
    if t == 1:
        state["prev"], state["step_size"] = np.zeros_like(p), np.full_like(p, lr)
    turn = np.sign(g) * np.sign(state["prev"])
    factor = np.where(turn < 0, etas[0], np.where(turn > 0, etas[1], 1)).astype(p.dtype)
    step = state["step_size"] = np.clip(state["step_size"] * factor, *step_sizes)
    g = state["prev"] = np.where(turn < 0, np.zeros_like(g), g)
    p -= np.sign(g) * step
