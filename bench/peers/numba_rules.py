"""The rules as fused Numba loops, as a careful user would write them.

Hyperparameters come as Python floats and are rounded to float32 once, before the loop: otherwise Numba would compute
every element in float64. ``prange`` is a plain ``range`` when a rule is compiled without ``parallel=True``.
"""

# mypy: disallow_untyped_defs=False, disallow_untyped_calls=False

from __future__ import annotations

import inspect
import math
from typing import Any

import numba
import numpy as np
from numba import prange

from .workloads import Array

# Rounds a scalar to the arrays' type.
f32 = np.float32


def sgd(p, g, t, lr):
    lr = f32(lr)
    for i in prange(p.size):
        p[i] -= lr * g[i]


def momentum(p, g, b, t, lr, momentum):
    lr, mu = f32(lr), f32(momentum)
    for i in prange(p.size):
        b[i] = mu * b[i] + g[i]
        p[i] -= lr * b[i]


def nesterov(p, g, b, t, lr, momentum):
    lr, mu = f32(lr), f32(momentum)
    for i in prange(p.size):
        b[i] = mu * b[i] + g[i]
        p[i] -= lr * (g[i] + mu * b[i])


def adagrad(p, g, G, t, lr, eps):
    lr, eps = f32(lr), f32(eps)
    for i in prange(p.size):
        G[i] += g[i] * g[i]
        p[i] -= lr * g[i] / (math.sqrt(G[i]) + eps)


def adadelta(p, g, E, D, t, lr, rho, eps):
    lr, rho, rest, eps = f32(lr), f32(rho), f32(1 - rho), f32(eps)
    for i in prange(p.size):
        E[i] = rho * E[i] + rest * g[i] * g[i]
        d = math.sqrt(D[i] + eps) / math.sqrt(E[i] + eps) * g[i]
        D[i] = rho * D[i] + rest * d * d
        p[i] -= lr * d


def rmsprop(p, g, v, t, lr, alpha, eps):
    lr, alpha, rest, eps = f32(lr), f32(alpha), f32(1 - alpha), f32(eps)
    for i in prange(p.size):
        v[i] = alpha * v[i] + rest * g[i] * g[i]
        p[i] -= lr * g[i] / (math.sqrt(v[i]) + eps)


def adam(p, g, m, v, t, lr, beta1, beta2, eps):
    lr_t, unbias2, eps = f32(lr / (1 - beta1**t)), f32(1 / math.sqrt(1 - beta2**t)), f32(eps)
    b1, rest1, b2, rest2 = f32(beta1), f32(1 - beta1), f32(beta2), f32(1 - beta2)
    for i in prange(p.size):
        m[i] = b1 * m[i] + rest1 * g[i]
        v[i] = b2 * v[i] + rest2 * g[i] * g[i]
        p[i] -= lr_t * m[i] / (math.sqrt(v[i]) * unbias2 + eps)


def adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    lr_t, unbias2, eps = f32(lr / (1 - beta1**t)), f32(1 / math.sqrt(1 - beta2**t)), f32(eps)
    b1, rest1, b2, rest2 = f32(beta1), f32(1 - beta1), f32(beta2), f32(1 - beta2)
    shrink = f32(1 - lr * weight_decay)
    for i in prange(p.size):
        m[i] = b1 * m[i] + rest1 * g[i]
        v[i] = b2 * v[i] + rest2 * g[i] * g[i]
        p[i] = shrink * p[i] - lr_t * m[i] / (math.sqrt(v[i]) * unbias2 + eps)


def adamax(p, g, m, u, t, lr, beta1, beta2, eps):
    lr_t, b1, rest1, b2, eps = f32(lr / (1 - beta1**t)), f32(beta1), f32(1 - beta1), f32(beta2), f32(eps)
    for i in prange(p.size):
        m[i] = b1 * m[i] + rest1 * g[i]
        u[i] = max(b2 * u[i], abs(g[i]) + eps)
        p[i] -= lr_t * m[i] / u[i]


def nadam(p, g, m, v, mu_product, t, lr, beta1, beta2, eps, momentum_decay):
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = mu_product[0] * mu
    mu_product[0] = product
    lr_m, lr_g = f32(lr * mu_next / (1 - product * mu_next)), f32(lr * (1 - mu) / (1 - product))
    unbias2, eps = f32(1 / math.sqrt(1 - beta2**t)), f32(eps)
    b1, rest1, b2, rest2 = f32(beta1), f32(1 - beta1), f32(beta2), f32(1 - beta2)
    for i in prange(p.size):
        m[i] = b1 * m[i] + rest1 * g[i]
        v[i] = b2 * v[i] + rest2 * g[i] * g[i]
        p[i] -= (lr_m * m[i] + lr_g * g[i]) / (math.sqrt(v[i]) * unbias2 + eps)


FUNCTIONS = {f.__name__: f for f in (sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam)}


def compiled(rule: str, parallel: bool) -> Any:
    # error_model="numpy": division does not have to check for zero, so the loop can be vectorised.
    return numba.njit(FUNCTIONS[rule], parallel=parallel, error_model="numpy")


def states(rule: str, count: int, p: Array) -> list[Any]:
    arrays: list[Any] = [np.zeros_like(p) for _ in range(count)]
    if rule == "nadam":
        arrays.append(np.ones(1))
    return arrays


def scalars(rule: str, hyper: dict[str, Any]) -> list[float]:
    """Return the hyperparameters in the order of the rule's arguments after t."""
    beta1, beta2 = hyper.get("betas", (None, None))
    by_name = {**hyper, "beta1": beta1, "beta2": beta2}
    names = list(inspect.signature(FUNCTIONS[rule]).parameters)
    return [by_name[name] for name in names[names.index("t") + 1 :]]
