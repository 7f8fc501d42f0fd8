"""NorMuon, and its rule in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..declarations import Number, flag, number
from ..nest import Array
from ._plain import State, gradient, zeros
from .muon import NewtonSchulz, iterated


class NorMuon(NewtonSchulz):
    r"""NorMuon: Muon with rows (the weights of a neuron) that are scaled to about the same size.

    ::

        b = momentum * b + (1 - momentum) * g
        u = b                                       nesterov: momentum * b + (1 - momentum) * g
        X = about the nearest orthogonal matrix of u    as in `Muon`
        v of a row = beta2 * v + (1 - beta2) * mean of X^2 over the row
        Y = X / (sqrt(v) + eps)
        p = p * (1 - lr * weight_decay) - lr * 0.2 * sqrt(rows * columns) / |Y| * Y

    With Muon, some neurons may move much more than others.  Here all neurons of a layer move about equally, whatever
    their gradients are.  The root mean square of a step is 0.2 lr, about as in `AdamW`, so AdamW's learning rate and
    decay are suitable.  For the hidden layers of transformers, as `Muon`.  Embeddings, the last layer, biases and gains
    need an optimizer of their own, such as `AdamW`.

    Parameters
    ----------
    params
        The arrays to update in place, with two axes each and a row for each output; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    momentum : float, in [0, 1), default 0.95
        Share of the buffer that is kept; the paper's beta1.
    ns_coefficients : three floats, default (3.4445, -4.775, 2.0315)
        The coefficients of the iteration.
    ns_steps : int, in [1, 100), default 5
        Iterations.
    beta2 : float, in [0, 1), default 0.95
        Share of v that is kept.
    nesterov : bool, default False
        Look ahead along the buffer.
    eps : float, >= 0, default 1e-8
        Added to the roots of v, and lower bound of the norm of u.
    weight_decay : float, >= 0, default 0.1
        Decoupled decay.
    **shared
        maximize=False and the options of the step; see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and arrays that cannot be updated in place or do not have two axes.

    Notes
    -----
    State: ``b``, of the parameter's shape and `state_dtype`, and ``v``, one number of the parameter's dtype per row.
    One more array of the parameter's size holds u.

    As in the paper.  The authors' code looks ahead (nesterov), and gives Y the norm of X, times Muon's factor of the
    shape, instead of 0.2 sqrt(rows * columns).  X is computed in the parameter's dtype, while other implementations
    round it to bfloat16.  NumPy computes the products of matrices.  As with `Muon`, the bits of a step depend on
    NumPy's BLAS, and a NaN or infinity reaches the whole matrix.

    References
    ----------
    Li, Liu, Liang, Chen and Zhao, "NorMuon: making Muon more efficient and scalable", 2025,
    https://arxiv.org/abs/2510.05491.
    """

    _rules: ClassVar = {"normuon": {}}

    beta2: Number = number(default=0.95)
    nesterov: bool = flag(default=False, fixed="layout")
    eps: Number = number(default=1e-8)

    @staticmethod
    def _scaled(X: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
        beta2, eps = X.dtype.type(hyper["beta2"]), X.dtype.type(hyper["eps"])
        with np.errstate(all="ignore"):
            squares = np.mean(X * X, axis=1) if X.size else state["v"]
            v = beta2 * state["v"] + (1 - beta2) * squares
            root = (np.sqrt(v) + eps)[:, np.newaxis]
            Y = X / np.where(root == 0, 1, root)  # a row of nothing but zeros stays
            norm = np.linalg.norm(Y)
            size = X.dtype.type(0.2 * math.sqrt(X.size)) / np.where(norm == 0, 1, norm)
            return Y * size, {"v": v}


def normuon(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    momentum: float = 0.95,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    ns_steps: int = 5,
    beta2: float = 0.95,
    nesterov: bool = False,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    maximize: bool = False,
) -> None:
    """NorMuon, for a matrix. Li et al., "NorMuon: making Muon more efficient and scalable", 2025.

    ::

        b = momentum * b + (1 - momentum) * g
        X = u / |u|,  then ns_steps times X = A X + (B X X^T + C (X X^T)^2) X
        v = beta2 * v + (1 - beta2) * mean of X^2 by rows,  Y = X / (sqrt(v) + eps)
        p -= lr * (weight_decay * p + 0.2 * sqrt(rows * columns) / |Y| * Y)
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "b")
    if "v" not in state:
        state["v"] = np.zeros(len(p), p.dtype)
    b, v = state["b"], state["v"]
    b[...] = momentum * b + (1 - momentum) * g
    X = momentum * b + (1 - momentum) * g if nesterov else b
    X = iterated(X / max(float(np.linalg.norm(X)), eps), ns_coefficients, ns_steps)
    v[...] = beta2 * v + (1 - beta2) * np.mean(X**2, axis=1)
    Y = X / (np.sqrt(v)[:, np.newaxis] + eps)
    p *= 1 - lr * weight_decay
    p -= lr * 0.2 * math.sqrt(p.size) / np.linalg.norm(Y) * Y
