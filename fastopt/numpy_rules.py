"""Every rule in plain NumPy, as its paper writes it and as one would write it by hand.

The demo and the benchmarks race fastopt against these functions, and the tests compare its results with theirs. Each
function updates the parameter ``p`` in place and leaves the gradient ``g`` alone. ``state`` is a dict, empty before the
first step, that keeps the state arrays by the letters of the papers. ``t`` counts the steps from 1.

All of them share two options: ``weight_decay``, the L2 penalty whose gradient ``weight_decay * p`` is added to ``g``
(in `adamw` and with ``decoupled_weight_decay`` it shrinks the parameter instead), and ``maximize``, which walks up the
gradient. Bias corrections are those of betas that stay the same.

>>> p, state = np.array([1.0, -2.0]), {}
>>> for t in range(1, 4):
...     adam(p, 2 * p, state, t, lr=0.1)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "asgd",
    "lamb",
    "lars",
    "lion",
    "muon",
    "nadam",
    "novograd",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "schedulefreeadamw",
    "schedulefreesgd",
    "sgd",
    "signum",
    "sm3",
    "yogi",
]

Array = NDArray[np.floating[Any]]
State = dict[str, Any]


def _gradient(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """Return the gradient that the rule follows."""
    if maximize:
        g = -g
    if weight_decay:
        g = g + weight_decay * p
    return g


def _shrink(p: Array, lr: float, weight_decay: float, decoupled: bool) -> float:
    """With decoupled decay, shrink the parameter; return the decay that is left for the gradient."""
    if not decoupled:
        return weight_decay
    p *= 1 - lr * weight_decay
    return 0.0


def _zeros(state: State, p: Array, *names: str) -> None:
    """On the first step, fill the state with arrays of zeros."""
    for name in names:
        if name not in state:
            state[name] = np.zeros_like(p)


def sgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Gradient descent, and the two momenta.

    SGD, Robbins & Monro, "A stochastic approximation method", 1951::

        p -= lr * g

    Momentum, Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; b = g on step 1::

        b = momentum * b + (1 - dampening) * g
        p -= lr * b

    Nesterov, as in Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013::

        b = momentum * b + g
        p -= lr * (g + momentum * b)
    """
    g = _gradient(p, g, weight_decay, maximize)
    if momentum:
        if t == 1:
            state["b"] = g.copy()
        else:
            state["b"] = momentum * state["b"] + (1 - dampening) * g
        g = g + momentum * state["b"] if nesterov else state["b"]
    p -= lr * g


def adagrad(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adagrad. Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning", 2011.

    ::

        G += g^2
        p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(G) + eps)
    """
    g = _gradient(p, g, weight_decay, maximize)
    if t == 1:
        state["G"] = np.full_like(p, initial_accumulator_value)
    G = state["G"] = state["G"] + g**2
    p -= lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(G) + eps)


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
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "E", "D")
    E = state["E"] = rho * state["E"] + (1 - rho) * g**2
    d = np.sqrt(state["D"] + eps) / np.sqrt(E + eps) * g
    state["D"] = rho * state["D"] + (1 - rho) * d**2
    p -= lr * d


def rmsprop(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """RMSprop. Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning", 2012.

    ::

        v = alpha v + (1 - alpha) g^2
        p -= lr * g / (sqrt(v) + eps)

    Centered, Graves, "Generating sequences with recurrent neural networks", 2013, divides by the standard deviation,
    the root of v - a^2, here without the difference of two large numbers::

        s = alpha (s + (1 - alpha) (g - a)^2)
        a = alpha a + (1 - alpha) g
        p -= lr * g / (sqrt(s) + eps)

    With momentum, the quotient q = g / (...) goes through a buffer: ``b = momentum b + q; p -= lr b``.
    """
    g = _gradient(p, g, weight_decay, maximize)
    if centered:
        _zeros(state, p, "s", "a")
        v = state["s"] = alpha * (state["s"] + (1 - alpha) * (g - state["a"]) ** 2)
        state["a"] = alpha * state["a"] + (1 - alpha) * g
    else:
        _zeros(state, p, "v")
        v = state["v"] = alpha * state["v"] + (1 - alpha) * g**2
    q = g / (np.sqrt(v) + eps)
    if momentum:
        _zeros(state, p, "b")
        q = state["b"] = momentum * state["b"] + q
    p -= lr * q


def adam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adam. Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.

    ::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = m / (1 - beta1^t)
        v_hat = v / (1 - beta2^t)
        p -= lr * m_hat / (sqrt(v_hat) + eps)

    AMSGrad, Reddi, Kale & Kumar, "On the convergence of Adam and beyond", 2018, takes the largest v so far.
    """
    beta1, beta2 = betas
    weight_decay = _shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    if amsgrad:
        _zeros(state, p, "vmax")
        v = state["vmax"] = np.maximum(state["vmax"], v)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    weight_decay: float = 1e-2,
    maximize: bool = False,
) -> None:
    """AdamW. Loshchilov & Hutter, "Decoupled weight decay regularization", 2019.

    ::

        p *= 1 - lr * weight_decay
        p -= lr * m_hat / (sqrt(v_hat) + eps)        as in Adam
    """
    p *= 1 - lr * weight_decay
    adam(p, g, state, t, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, maximize=maximize)


def adamax(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adamax. Kingma & Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 2, where eps = 0.

    ::

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p -= lr / (1 - beta1^t) * m / u              and nothing where u is 0
    """
    beta1, beta2 = betas
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m", "u")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    u = state["u"] = np.maximum(beta2 * state["u"], np.abs(g) + eps)
    if eps == 0:
        m, u = np.where(u == 0, 0, m), np.where(u == 0, 1, u)
    p -= lr / (1 - beta1**t) * m / u


def nadam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float | None = 4e-3,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """NAdam. Dozat, "Incorporating Nesterov momentum into Adam", 2016.

    ::

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)
        v_hat = v / (1 - beta2^t)
        p -= lr * m_hat / (sqrt(v_hat) + eps)

    ``momentum_decay=None`` is the constant momentum mu_t = beta1.
    """
    beta1, beta2 = betas
    decay = math.inf if momentum_decay is None else momentum_decay
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (i * decay)) for i in (t, t + 1))
    product = state["mu_product"] = mu * state.get("mu_product", 1.0)
    weight_decay = _shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    v_hat = v / (1 - beta2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)


def radam(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decoupled_weight_decay: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """RAdam. Liu et al., "On the variance of the adaptive learning rate and beyond", 2020.

    ::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m_hat = m / (1 - beta1^t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
        p -= lr * m_hat                              while rho <= 5
        l = sqrt(1 - beta2^t) / (sqrt(v) + eps)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        p -= lr * r * m_hat * l                      afterwards
    """
    beta1, beta2 = betas
    weight_decay = _shrink(p, lr, weight_decay, decoupled_weight_decay)
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m", "v")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho > 5:
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        m_hat = r * m_hat * math.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
    p -= lr * m_hat


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
    g = _gradient(p, g, weight_decay, maximize)
    if t == 1:
        state["prev"], state["step_size"] = np.zeros_like(p), np.full_like(p, lr)
    turn = np.sign(g) * np.sign(state["prev"])
    factor = np.where(turn < 0, etas[0], np.where(turn > 0, etas[1], 1)).astype(p.dtype)
    step = state["step_size"] = np.clip(state["step_size"] * factor, *step_sizes)
    g = state["prev"] = np.where(turn < 0, np.zeros_like(g), g)
    p -= np.sign(g) * step


def asgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Averaged SGD. Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    ::

        p -= eta (lambd p + g)
        ax += (p - ax) / max(1, t - 1 - t0)
        eta = lr / (1 + lambd lr t)^alpha            for the next step; lr on the first
    """
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "ax")
    eta = lr if t == 1 else state["eta"]
    p -= eta * (lambd * p + g)
    state["ax"] = state["ax"] + (p - state["ax"]) / max(1, t - 1 - t0)
    state["eta"] = lr / (1 + lambd * lr * t) ** alpha


def _trust_ratio(p: Array, u: Array, coefficient: float = 1.0, eps: float = 0.0) -> float:
    """Return the size of a parameter relative to its update, 1 where either is 0."""
    of_p, of_u = float(np.linalg.norm(p)), float(np.linalg.norm(u))
    return coefficient * of_p / (of_u + eps) if of_p and of_u else 1.0


def lars(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    eps: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """LARS. You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017.

    ::

        b = momentum * b + lr * trust_coefficient * |p| / (|g| + eps) * g
        p -= b
    """
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "b")
    b = state["b"]
    step = lr * _trust_ratio(p, g, trust_coefficient, eps) * g
    b[...] = momentum * b + step
    p -= momentum * b + step if nesterov else b


def lamb(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """LAMB. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020.

    ::

        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p
        p -= lr * |p| / |u| * u
    """
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m", "v")
    m, v = state["m"], state["v"]
    beta1, beta2 = betas
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p
    p -= lr * _trust_ratio(p, u) * u


def novograd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.25),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """NovoGrad. Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments", 2019.

    ::

        v = beta2 * v + (1 - beta2) * |g|^2
        m = beta1 * m + g / (sqrt(v) + eps) + weight_decay * p
        p -= lr * m
    """
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m")
    beta1, beta2 = betas
    square = float(np.sum(g.astype(np.float64) ** 2))
    state["v"] = square if t == 1 else beta2 * state["v"] + (1 - beta2) * square
    state["m"][...] = beta1 * state["m"] + g / (math.sqrt(state["v"]) + eps) + weight_decay * p
    p -= lr * state["m"]


def prodigy(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    safeguard_warmup: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Prodigy, for one parameter. Mishchenko & Defazio, "Prodigy", 2024.

    ::

        r = beta3 * r + d / d0 * dlr * <g, p0 - p>
        d = max(d, d_coef * r / |s|_1)
        p -= dlr * (m / (sqrt(v) + d * eps) + weight_decay * p)
    """
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m", "v", "s")
    if t == 1:
        state["p0"], state["d"], state["r"] = p.copy(), d0, 0.0
    m, v, s, d = state["m"], state["v"], state["s"], state["d"]
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    dlr = d * lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    m[...] = beta1 * m + (1 - beta1) * d * g
    v[...] = beta2 * v + (1 - beta2) * (d * g) ** 2
    s[...] = beta3 * s + d / d0 * (d if safeguard_warmup else dlr) * g
    state["r"] = beta3 * state["r"] + d / d0 * dlr * float(np.sum(g * (state["p0"] - p)))
    size = float(np.sum(abs(s)))
    state["d"] = max(d, d_coef * state["r"] / size) if size else d
    p -= dlr * (m / (np.sqrt(v) + state["d"] * eps) + weight_decay * p)


def _average_weight(
    state: State, p: Array, t: int, lr: float, warmup_steps: float, r: float, weight_lr_power: float
) -> tuple[float, float]:
    """Return the learning rate of a step, and the share of z in the mean x."""
    if t == 1:
        state |= {"z": p.copy(), "weight_sum": 0.0, "lr_max": 0.0}
    lr *= min(1.0, t / warmup_steps) if warmup_steps else 1.0
    state["lr_max"] = max(state["lr_max"], lr)
    weight = t**r * state["lr_max"] ** weight_lr_power
    state["weight_sum"] += weight
    return lr, weight / state["weight_sum"] if state["weight_sum"] else 0.0


def schedulefreesgd(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1.0,
    momentum: float = 0.9,
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Schedule-free SGD. Defazio et al., "The road less scheduled", 2024.

    ::

        z -= lr * g
        x = (1 - c) * x + c * z
        p = (1 - momentum) * z + momentum * x
    """
    g = _gradient(p, g, weight_decay, maximize)
    lr, c = _average_weight(state, p, t, lr, warmup_steps, r, weight_lr_power)
    x = (p - (1 - momentum) * state["z"]) / momentum
    state["z"] -= lr * g
    p[...] = (1 - momentum) * state["z"] + momentum * ((1 - c) * x + c * state["z"])


def schedulefreeadamw(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Schedule-free AdamW. Defazio et al., "The road less scheduled", 2024.

    ::

        v = beta2 * v + (1 - beta2) * g^2
        z -= lr * (g / (sqrt(v_hat) + eps) + weight_decay * p)
        x = (1 - c) * x + c * z
        p = (1 - beta1) * z + beta1 * x
    """
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "v")
    v, (beta1, beta2) = state["v"], betas
    lr, c = _average_weight(state, p, t, lr, warmup_steps, r, weight_lr_power)
    x = (p - (1 - beta1) * state["z"]) / beta1
    v[...] = beta2 * v + (1 - beta2) * g**2
    state["z"] -= lr * (g / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p)
    p[...] = (1 - beta1) * state["z"] + beta1 * ((1 - c) * x + c * state["z"])


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
    g = _gradient(p, g, 0.0, maximize)
    eps1 = float(np.finfo(p.dtype).eps) if eps[0] is None else eps[0]
    rest = t**beta2_decay
    if p.ndim < 2:
        _zeros(state, p, "v")
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
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m")
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


def lion(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 1e-3,
    maximize: bool = False,
) -> None:
    """Lion. Chen et al., "Symbolic discovery of optimization algorithms", 2023; with decoupled decay.

    ::

        p -= lr * (sign(beta1 m + (1 - beta1) g) + weight_decay p)
        m = beta2 m + (1 - beta2) g
    """
    beta1, beta2 = betas
    _shrink(p, lr, weight_decay, True)
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m")
    p -= lr * np.sign(beta1 * state["m"] + (1 - beta1) * g)
    state["m"] = beta2 * state["m"] + (1 - beta2) * g


def signum(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    beta: float = 0.9,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Signum. Bernstein et al., "signSGD: compressed optimisation for non-convex problems", 2018.

    ::

        m = beta m + (1 - beta) g
        p -= lr * sign(m)
    """
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m")
    state["m"] = beta * state["m"] + (1 - beta) * g
    p -= lr * np.sign(state["m"])


def adabelief(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """AdaBelief. Zhuang et al., "Adapting stepsizes by the belief in observed gradients", 2020.

    With decoupled decay::

        p *= 1 - lr * weight_decay
        m = beta1 m + (1 - beta1) g
        s = beta2 s + (1 - beta2) (g - m)^2 + eps
        p -= lr * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    _shrink(p, lr, weight_decay, True)
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m", "s")
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    s = state["s"] = beta2 * state["s"] + (1 - beta2) * (g - m) ** 2 + eps
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + eps)


def yogi(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-2,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-3,
    initial_accumulator_value: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Yogi. Zaheer et al., "Adaptive methods for nonconvex optimization", 2018; with Adam's bias corrections.

    ::

        m = beta1 m + (1 - beta1) g
        v = v - (1 - beta2) sign(v - g^2) g^2
        p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    beta1, beta2 = betas
    g = _gradient(p, g, weight_decay, maximize)
    _zeros(state, p, "m")
    if t == 1:
        state["v"] = np.full_like(p, initial_accumulator_value)
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = state["v"] - (1 - beta2) * np.sign(state["v"] - g**2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


def adan(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """Adan. Xie et al., "Adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022.

    With decoupled decay, and d = g - prev, 0 on step 1::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) d
        n = beta3 n + (1 - beta3) (g + beta2 d)^2
        m_hat, v_hat, n_hat = m / (1 - beta1^t), v / (1 - beta2^t), n / (1 - beta3^t)
        p -= lr * ((m_hat + beta2 v_hat) / (sqrt(n_hat) + eps) + weight_decay p)
    """
    beta1, beta2, beta3 = betas
    _shrink(p, lr, weight_decay, True)
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m", "v", "n")
    d = g - state.get("prev", g)
    m = state["m"] = beta1 * state["m"] + (1 - beta1) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * d
    n = state["n"] = beta3 * state["n"] + (1 - beta3) * (g + beta2 * d) ** 2
    m_hat, v_hat, n_hat = m / (1 - beta1**t), v / (1 - beta2**t), n / (1 - beta3**t)
    p -= lr * (m_hat + beta2 * v_hat) / (np.sqrt(n_hat) + eps)
    state["prev"] = g.copy()


def ademamix(
    p: Array,
    g: Array,
    state: State,
    t: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 5.0,
    warmup: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """AdEMAMix. Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024; with decoupled decay.

    ::

        m1 = beta1 m1 + (1 - beta1) g
        m2 = beta3 m2 + (1 - beta3) g
        v = beta2 v + (1 - beta2) g^2
        p -= lr * ((m1 / (1 - beta1^t) + alpha m2) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)

    During the first ``warmup`` steps alpha grows along a line, and beta3 from beta1 on.
    """
    beta1, beta2, beta3 = betas
    if t < warmup:
        x = t / warmup
        start, end = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta3))
        alpha = alpha * x
        beta3 = min(math.exp(1 / ((1 - x) / start + x / end)), beta3)
    _shrink(p, lr, weight_decay, True)
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "m1", "m2", "v")
    m1 = state["m1"] = beta1 * state["m1"] + (1 - beta1) * g
    m2 = state["m2"] = beta3 * state["m2"] + (1 - beta3) * g
    v = state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
    p -= lr * (m1 / (1 - beta1**t) + alpha * m2) / (np.sqrt(v / (1 - beta2**t)) + eps)


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
    g = _gradient(p, g, 0.0, maximize)
    _zeros(state, p, "b")
    rows, columns = p.shape
    b, (A, B, C) = state["b"], ns_coefficients
    b[...] = momentum * b + (1 - momentum) * g
    X = momentum * b + (1 - momentum) * g if nesterov else b
    X = X / max(float(np.linalg.norm(X)), eps)
    for _ in range(ns_steps):
        S = X @ X.T if rows <= columns else X.T @ X
        S = B * S + C * S @ S
        X = A * X + (S @ X if rows <= columns else X @ S)
    p *= 1 - lr * weight_decay
    matched = 0.2 * math.sqrt(max(rows, columns))
    p -= lr * (matched if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))) * X
