"""Adamax."""

import numpy as np

from support.arithmetic import keep, larger, rest, weight
from support.rule import ByHand, Class, Rule
from support.twins import EPS, OptaxTwin, TorchTwin, betas


def adamax(p, g, m, u, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t = T(lr / weight(T, beta1, t))
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    u[...] = larger(T(beta2) * u, abs(g) + T(eps))
    p -= np.where(u == 0, T(0), lr_t * m / u)


RULES = [Rule(adamax, corrected=("beta1",))]


CLASSES = [
    Class(
        "Adamax",
        {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
        "adamax",
        options={"eps=0": {"eps": 0.0}},
        steps_of_lr=({},),
        by_hand={
            # m = 1, u = 2, 0.1 / 0.5 * 1/2 = 0.1;  m = 0.5 + 0.25, u = max(0.5 * 2, 0.5) = 1, 0.1 / 0.75 * 0.75
            "": ByHand({"betas": (0.5, 0.5), "eps": 0.0}, [2, 0.5], [0.9, 0.8]),
            # u = max(0, 2 + 2)
            "eps": ByHand({"betas": (0.5, 0.5), "eps": 2.0}, [2], [0.95]),
            # u stays 0 until there is a gradient; then m = 0.5 * 2, m_hat = 1 / 0.75, u = 2
            "no gradient": ByHand({"betas": (0.5, 0.5), "eps": 0.0}, [0, 2], [1, 1 - 0.1 / 1.5]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8},
                lambda optax: optax.adamax(0.01, b1=0.9, b2=0.99, eps=1e-8),
            ),
        },
        torch=TorchTwin({"betas": betas, "eps": EPS}),
    ),
]
