"""Functions that the rules in plain NumPy share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
State = dict[str, Any]


def gradient(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """Return the gradient that the rule follows."""
    if maximize:
        g = -g
    if weight_decay:
        g = g + weight_decay * p
    return g


def shrink(p: Array, lr: float, weight_decay: float, decoupled: bool) -> float:
    """With decoupled decay, shrink the parameter; return the decay that is left for the gradient."""
    if not decoupled:
        return weight_decay
    p *= 1 - lr * weight_decay
    return 0.0


def zeros(state: State, p: Array, *names: str) -> None:
    """On the first step, fill the state with arrays of zeros."""
    for name in names:
        if name not in state:
            state[name] = np.zeros_like(p)


def trust_ratio(p: Array, u: Array, coefficient: float = 1.0, eps: float = 0.0) -> float:
    """Return the size of a parameter relative to its update, 1 where either is 0."""
    of_p, of_u = float(np.linalg.norm(p)), float(np.linalg.norm(u))
    return coefficient * of_p / (of_u + eps) if of_p and of_u else 1.0
