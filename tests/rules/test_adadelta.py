"""Adadelta."""

import math

import numpy as np

from support.arithmetic import decay, keep, lost_mean, rest
from support.rule import ByHand, Class, Rule
from support.twins import EPS, OptaxTwin, TorchTwin, between


def adadelta(p, g, E, D, *, t, lr, rho, eps):
    T = p.dtype.type
    E[...] = keep(T, rho) * E + rest(T, rho) * (g * g)
    d = np.sqrt((D + T(eps)) / (E + T(eps + lost_mean(T, rho, t)))) * g
    D[...] = keep(T, rho) * D + rest(T, rho) * (d * d)
    p -= T(lr) * d


RULES = [
    Rule(adadelta, catch_up=lambda p, state, skipped, rho, **_: [decay(state[name], rho, skipped) for name in "ED"])
]


CLASSES = [
    Class(
        "Adadelta",
        {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
        "adadelta",
        by_hand={
            # E = 0.25 * 4 = 1, sqrt((0 + 1/3) / (1 + 1/3)) = 1/2, d = 1, D = 0.25
            # E = 0.75 + 1 = 1.75, sqrt((1/4 + 1/3) / (7/4 + 1/3)) = sqrt(7/25), d = 2 sqrt(7) / 5
            "": ByHand({"rho": 0.75, "eps": 1 / 3}, [2, 2], [0.9, 0.9 - 0.04 * math.sqrt(7)]),
        },
        never_larger=0,  # the root of D is no longer than that of E
        optax={
            "": OptaxTwin({"lr": 1.0, "rho": 0.9, "eps": 1e-6}, lambda optax: optax.adadelta(1.0, rho=0.9, eps=1e-6)),
        },
        torch=TorchTwin({"lr": between(0.1, 1), "rho": between(0.5, 0.99), "eps": EPS}),
    ),
]
