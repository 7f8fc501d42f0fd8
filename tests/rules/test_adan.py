"""Adan."""

import math

import numpy as np

from support.arithmetic import keep, lost_mean, rest, weight
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def adan(p, g, m, v, n, prev, *, t, lr, beta1, beta2, beta3, eps):
    T = p.dtype.type
    root3 = math.sqrt(weight(T, beta3, t))
    lr_m, lr_v = T(lr * root3 / weight(T, beta1, t)), T(lr * root3 * beta2 / weight(T, beta2, t))
    if t == 1:
        prev[...] = g - T(0)
    d = g - prev
    ahead = g + keep(T, beta2) * d
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    v[...] = keep(T, beta2) * v + rest(T, beta2) * d
    n[...] = keep(T, beta3) * n + rest(T, beta3) * (ahead * ahead)
    p -= (lr_m * m + lr_v * v) / (np.sqrt(n) + T(eps * root3 + math.sqrt(lost_mean(T, beta3, t))))
    prev[...] = g - T(0)


RULES = [Rule(adan, corrected=("beta1", "beta2", "beta3"))]


CLASSES = [
    Class(
        "Adan",
        {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8},
        "adan",
        options={"decay": {"weight_decay": 0.1}},
        decay_form="decoupled",
        steps_of_lr=({},),
        by_hand={
            # m_hat = 2, n_hat = 4, 2 / (2 + 2)
            # d = 1, m = 0.5 + 1.5 = 2, m_hat = 8/3, v = 0.25, v_hat = 4/7, n = 2 + 0.5 (3 + 0.75)^2, n_hat = n / 0.75
            "": ByHand(
                {"betas": (0.5, 0.75, 0.5), "eps": 2.0},
                [2, 3],
                [0.95, 0.95 - 0.1 * (8 / 3 + 0.75 * 4 / 7) / (math.sqrt((1 + 0.5 * 3.75**2) / 0.75) + 2)],
            ),
        },
        optax={
            # With 1/2 for beta2, 1 - beta2 in its place makes no difference.
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.98, 0.5, 0.99), "eps": 1e-8, "weight_decay": 0.1},
                lambda optax: optax.adan(0.01, b1=0.98, b2=0.5, b3=0.99, eps=1e-8, eps_root=0.0, weight_decay=0.1),
            ),
        },
    ),
]
