"""The rules in NumPy without temporaries: preallocated buffers and ``out=``, as a careful user would write them.

``s`` and ``r`` are scratch arrays of the parameter's shape, ``state`` holds the state arrays by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .workloads import Array

State = dict[str, Any]


def sgd(p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float) -> None:
    np.multiply(g, lr, out=s)
    p -= s


def momentum(p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, momentum: float) -> None:
    b = state["b"]
    b *= momentum
    b += g
    np.multiply(b, lr, out=s)
    p -= s


def nesterov(
    p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, momentum: float, nesterov: bool
) -> None:
    b = state["b"]
    b *= momentum
    b += g
    np.multiply(b, momentum, out=s)
    s += g
    s *= lr
    p -= s


def adagrad(p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, eps: float) -> None:
    G = state["G"]
    np.multiply(g, g, out=s)
    G += s
    np.sqrt(G, out=s)
    s += eps
    np.divide(g, s, out=s)
    s *= lr
    p -= s


def adadelta(
    p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, rho: float, eps: float
) -> None:
    E, D = state["E"], state["D"]
    _average_of_squares(E, g, rho, s)
    np.add(D, eps, out=r)
    np.add(E, eps, out=s)
    r /= s
    np.sqrt(r, out=r)
    r *= g
    _average_of_squares(D, r, rho, s)
    r *= lr
    p -= r


def rmsprop(
    p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, alpha: float, eps: float
) -> None:
    v = state["v"]
    _average_of_squares(v, g, alpha, s)
    np.sqrt(v, out=s)
    s += eps
    np.divide(g, s, out=s)
    s *= lr
    p -= s


def adam(
    p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, betas: tuple[float, float], eps: float
) -> None:
    beta1, beta2 = betas
    m, v = state["m"], state["v"]
    _average(m, g, beta1, s)
    _average_of_squares(v, g, beta2, s)
    np.sqrt(v, out=s)
    s *= 1 / math.sqrt(1 - beta2**t)
    s += eps
    np.divide(m, s, out=s)
    s *= lr / (1 - beta1**t)
    p -= s


def adamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    s: Array,
    r: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    p *= 1 - lr * weight_decay
    adam(p, g, state, t, s, r, lr=lr, betas=betas, eps=eps)


def adamax(
    p: Array, g: Array, state: State, t: int, s: Array, r: Array, *, lr: float, betas: tuple[float, float], eps: float
) -> None:
    beta1, beta2 = betas
    m, u = state["m"], state["u"]
    _average(m, g, beta1, s)
    np.abs(g, out=s)
    s += eps
    u *= beta2
    np.maximum(u, s, out=u)
    np.divide(m, u, out=s)
    s *= lr / (1 - beta1**t)
    p -= s


def nadam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    s: Array,
    r: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    momentum_decay: float,
) -> None:
    beta1, beta2 = betas
    m, v = state["m"], state["v"]
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
    product = state["mu_product"] = mu * state.get("mu_product", 1.0)
    _average(m, g, beta1, s)
    _average_of_squares(v, g, beta2, s)
    np.multiply(m, lr * mu_next / (1 - product * mu_next), out=r)
    np.multiply(g, lr * (1 - mu) / (1 - product), out=s)
    r += s
    np.sqrt(v, out=s)
    s *= 1 / math.sqrt(1 - beta2**t)
    s += eps
    r /= s
    p -= r


def _average(m: Array, g: Array, beta: float, s: Array) -> None:
    np.multiply(g, 1 - beta, out=s)
    m *= beta
    m += s


def _average_of_squares(v: Array, g: Array, beta: float, s: Array) -> None:
    np.multiply(g, g, out=s)
    s *= 1 - beta
    v *= beta
    v += s


# The function and the names of its state arrays.
RULES: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "sgd": (sgd, ()),
    "momentum": (momentum, ("b",)),
    "nesterov": (nesterov, ("b",)),
    "adagrad": (adagrad, ("G",)),
    "adadelta": (adadelta, ("E", "D")),
    "rmsprop": (rmsprop, ("v",)),
    "adam": (adam, ("m", "v")),
    "adamw": (adamw, ("m", "v")),
    "adamax": (adamax, ("m", "u")),
    "nadam": (nadam, ("m", "v")),
}
