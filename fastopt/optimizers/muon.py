"""Muon, and its rule in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import WeakMethod

import numpy as np

from ..declarations import Number, Rate, choice, flag, number, numbers, rate
from ..nest import Array
from ..optimizer import Optimizer
from ..scheduled import at
from ._plain import State, gradient, zeros


class NewtonSchulz(Optimizer):
    """Base of the rules whose direction is made orthogonal by NumPy between the two passes of a step."""

    _calls_numpy = True
    _decay_form = "decoupled"

    lr: Rate = rate(default=1e-3, kw_only=False)
    weight_decay: Number = number(default=0.1)
    momentum: Number = number(default=0.95)
    ns_coefficients: tuple[Number, Number, Number] = numbers(
        default=(3.4445, -4.775, 2.0315), names=("ns_coefficient", "ns_coefficient", "ns_coefficient")
    )
    ns_steps: int = number(default=5)

    @classmethod
    def _check_together(cls, label: str, hyper: Mapping[str, Any]) -> None:
        if hyper["ns_steps"] != int(hyper["ns_steps"]):
            raise ValueError(f"{label}: ns_steps must be an integer in [1, 100), got {hyper['ns_steps']!r}")

    @classmethod
    def _check_array(cls, label: str, array: Array) -> None:
        if array.ndim != 2:
            raise ValueError(
                f"{label} must have two axes for this rule, got shape {array.shape}: use another optimizer for it,"
                f" such as AdamW"
            )

    def _laid_out(self) -> None:
        # Of one step, so no state.
        new = (dict.pop(arrays, "u") for arrays in self.state.values() if "u" in arrays)
        self._directions: tuple[Array, ...] = (*getattr(self, "_directions", ()), *new)
        self._table.set_gather_hook(WeakMethod(self._orthogonalize))  # the table is not to keep the optimizer alive

    def _orthogonalize(self, used: list[int], step_count: int) -> None:
        """Replace the directions of these parameters by their steps; state changes once all are computed."""
        hyper = [values for group in self.groups for values in [at(group, step_count)] * len(group["params"])]
        states, changed = list(self.state.values()), []
        for i in used:
            u, of_u = self._directions[i], hyper[i]
            X = orthogonal(u, of_u["ns_coefficients"], int(of_u["ns_steps"]), of_u["eps"])
            u[...], new = self._scaled(X, states[i], of_u)
            changed.append((states[i], new))
        for state, new in changed:
            for letter, values in new.items():
                state[letter][...] = values

    @staticmethod
    def _scaled(X: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
        """Return the step along an orthogonal matrix, and the new values of state."""
        raise NotImplementedError


class Muon(NewtonSchulz):
    r"""Muon: momentum that is replaced by about the nearest orthogonal matrix, for the matrices of hidden layers.

    ::

        b = momentum * b + (1 - momentum) * g
        u = b                                       nesterov: momentum * b + (1 - momentum) * g
        X = u / max(|u|, eps)                       transposed where it has more rows than columns
        ns_steps times, with ns_coefficients A, B, C:
            X = A * X + (B * X X^T + C * (X X^T)^2) X
        p = p * (1 - lr * weight_decay) - lr * size * X

    The iteration moves all singular values of X to about 1 (0.7 to 1.2 with the default coefficients), and keeps its
    singular vectors.  size is sqrt(max(1, rows / columns)).  With ``adjust_lr_fn="match_rms_adamw"`` it is
    0.2 * sqrt(max(rows, columns)); then learning rates and decay of `AdamW` are suitable.

    For the hidden layers of transformers and other deep networks, where it needs fewer steps than AdamW.  Embeddings,
    the last layer, biases and gains need an optimizer of their own, such as `AdamW`.

    Parameters
    ----------
    params
        The arrays to update in place, with two axes each; see `Optimizer`.
    lr : float, >= 0, default 1e-3
        Learning rate.
    momentum : float, in [0, 1), default 0.95
        Share of the buffer that is kept.
    ns_coefficients : three floats, default (3.4445, -4.775, 2.0315)
        The coefficients of the iteration.
    ns_steps : int, in [1, 100), default 5
        Iterations.
    nesterov : bool, default True
        Look ahead along the buffer.
    eps : float, >= 0, default 1e-7
        Lower bound of the norm of u.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}, default None
        Formula of size; None is "original".
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
    State: ``b``, of the parameter's shape and `state_dtype`.  One more array of that size holds u.

    As in torch.optim, but X is computed in the parameter's dtype, while torch rounds it to bfloat16.  So steps agree
    with torch's to about two digits, and are more precise.  NumPy computes the products of matrices, without the GIL
    and with its own threads.  So the bits of a step depend on NumPy's BLAS, as for no other rule but `NorMuon`, and a
    NaN or infinity reaches the whole matrix.

    References
    ----------
    Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: an optimizer for hidden layers in neural networks",
    2024, https://kellerjordan.github.io/posts/muon/.  match_rms_adamw: Liu et al., "Muon is scalable for LLM training",
    2025, https://arxiv.org/abs/2502.16982.
    """

    _rules: ClassVar = {"muon": {}}
    _torch_names: ClassVar = {"b": "momentum_buffer"}

    nesterov: bool = flag(default=True, fixed="layout")
    eps: Number = number(default=1e-7)
    adjust_lr_fn: str | None = choice(default=None, of=(None, "original", "match_rms_adamw"))

    @staticmethod
    def _scaled(X: Array, state: Mapping[str, Array], hyper: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
        rows, columns = X.shape
        size = math.sqrt(max(1, rows / columns)) if X.size else 1.0
        if hyper["adjust_lr_fn"] == "match_rms_adamw":
            size = 0.2 * math.sqrt(max(rows, columns))
        return X * X.dtype.type(size), {}


def of_norm_one(u: Array, eps: float) -> Array:
    """Return u / max(|u|, eps), also where squares of u overflow or underflow in its dtype."""
    numbers = np.finfo(u.dtype)
    least = max(u.dtype.type(eps), numbers.tiny)
    norm = np.linalg.norm(u)
    if not math.sqrt(u.size * float(numbers.tiny) / float(numbers.eps)) <= norm <= numbers.max:
        exponent = np.frexp(np.max(np.abs(u), initial=0))[1]
        u, least = np.ldexp(u, -exponent), np.ldexp(least, -exponent)
        norm = np.linalg.norm(u)
    scaled: Array = u / np.maximum(norm, least)
    return scaled


def orthogonal(u: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
    """Return about the nearest orthogonal matrix, by Newton-Schulz iterations in the matrix's dtype."""
    with np.errstate(all="ignore"):
        X: Array = of_norm_one(u.T if u.shape[0] > u.shape[1] else u, eps)
        A, B, C = map(u.dtype.type, coefficients)
        for _ in range(steps):
            S = X @ X.T
            X = A * X + (B * S + C * (S @ S)) @ X
    return X.T if u.shape[0] > u.shape[1] else X


def iterated(X: Array, coefficients: tuple[float, float, float], steps: int) -> Array:
    """Return X after the iterations as the paper writes them."""
    A, B, C = coefficients
    for _ in range(steps):
        S = X @ X.T if len(X) <= X.shape[1] else X.T @ X
        S = B * S + C * S @ S
        X = A * X + (S @ X if len(X) <= X.shape[1] else X @ S)
    return X


def muon(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    weight_decay: float = 0.1,
    maximize: bool = False,
) -> None:
    """Muon, for a matrix. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    ::

        b = momentum * b + (1 - momentum) * g
        X = u / |u|,  then ns_steps times X = A X + (B X X^T + C (X X^T)^2) X
        p -= lr * (weight_decay * p + sqrt(max(1, rows / columns)) * X)
    """
    g = gradient(p, g, 0.0, maximize)
    zeros(state, p, "b")
    rows, columns = p.shape
    b = state["b"]
    b[...] = momentum * b + (1 - momentum) * g
    X = momentum * b + (1 - momentum) * g if nesterov else b
    X = iterated(X / max(float(np.linalg.norm(X)), eps), ns_coefficients, ns_steps)
    p *= 1 - lr * weight_decay
    matched = 0.2 * math.sqrt(max(rows, columns))
    p -= lr * (matched if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))) * X
