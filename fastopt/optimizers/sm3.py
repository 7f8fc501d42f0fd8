"""SM3, and its rule in plain NumPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..declarations import Number, Rate, number, rate
from ..optimizer import Optimizer
from ._plain import Array, State, gradient, zeros


class SM3(Optimizer):
    r"""SM3: Adagrad with sums of squares that are estimated from one number per row and one per column.

    ::

        nu = b2 * (smallest mu of the element's axes) + w * g^2     w = 1 - b2, but 1 where b2 is 1
        mu of each index of an axis = largest nu over all the other axes
        u = g / sqrt(nu + eps)                                      0 where nu is 0
        m = momentum * m + (1 - momentum) * u
        p = p - lr * m

    Arrays with fewer than two axes have one mu for each element, which is nu.  For large models with embeddings and
    attention, whose gradients are similar along rows and columns.  It needs little memory.  Its steps keep shrinking,
    as those of Adagrad, unless b2 < 1.

    Parameters
    ----------
    params
        The arrays to update in place; see `Optimizer`.
    lr : float, >= 0, default 0.1
        Learning rate.
    momentum : float, in [0, 1), default 0.9
        Share of the buffer that is kept.
    b2 : float, in [0, 1], default 1.0
        Share of the sums that is kept.  With 1 this is the paper's rule.
    eps : float, >= 0, default 1e-8
        Added inside the root.
    **shared
        weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range and arrays that cannot be updated in place.

    Notes
    -----
    State: ``m``, of the parameter's shape and `state_dtype`, and ``mu``, of the parameter's dtype.  ``mu`` has the
    numbers of one axis after the other: a + b numbers for a matrix of a rows and b columns.  With fewer than two axes,
    it has the parameter's shape.  Maxima are those of whole arrays, so the result changes if you cut an array into
    several.

    As in optax.sm3, whose scale_by_sm3 also has b2 and eps, and which refuses arrays without axes.  The paper has no
    eps.

    References
    ----------
    Anil, Gupta, Koren and Singer, "Memory-efficient adaptive optimization", 2019, https://arxiv.org/abs/1901.11150.
    """

    _rules: ClassVar = {"sm3": {}}

    lr: Rate = rate(default=0.1, kw_only=False)
    momentum: Number = number(default=0.9)
    b2: Number = number(default=1.0)
    eps: Number = number(default=1e-8)


def sm3(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    b2: float = 1.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """SM3. Anil, Gupta, Koren & Singer, "Memory-efficient adaptive optimization", 2019.

    ::

        nu = min over the axes of mu + g^2
        mu of an axis = max of nu over the others
        m = momentum * m + (1 - momentum) * g / sqrt(nu + eps)
        p -= lr * m
    """
    g = gradient(p, g, weight_decay, maximize)
    zeros(state, p, "m")
    if "mu" not in state:
        state["mu"] = np.zeros(p.shape if p.ndim < 2 else sum(p.shape), p.dtype)
    m, mu, smallest = state["m"], state["mu"], state["mu"]
    ends = np.cumsum(p.shape)
    if p.ndim > 1:
        smallest = np.full_like(p, np.inf)
        for axis, end in enumerate(ends):
            of_axis = mu[end - p.shape[axis] : end]
            smallest = np.minimum(smallest, of_axis.reshape([-1 if i == axis else 1 for i in range(p.ndim)]))
    nu = b2 * smallest + (1 if b2 == 1 else 1 - b2) * g**2
    if p.ndim < 2:
        mu[...] = nu
    elif p.size:
        for axis, end in enumerate(ends):
            others = tuple(i for i in range(p.ndim) if i != axis)
            mu[end - p.shape[axis] : end] = np.max(nu, axis=others)
    m[...] = momentum * m + (1 - momentum) * np.where(nu > 0, g / np.sqrt(np.where(nu > 0, nu, 1) + eps), 0)
    p -= lr * m
