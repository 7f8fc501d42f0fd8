"""Yogi."""

import math

import numpy as np

from support.arithmetic import adam_scalars, keep, rest, sign
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def yogi(p, g, m, v, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    square = g * g
    v -= T(1 - beta2) * (sign(v - square) * square)
    p -= lr_t * m / (np.sqrt(v) + eps_t)


RULES = [Rule(yogi, corrected=("beta1", "beta2"))]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "Yogi",
        {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-3, "initial_accumulator_value": 1e-6},
        "yogi",
        options={"accumulator": {"initial_accumulator_value": 0.0}},
        start=lambda settings: {"v": settings["initial_accumulator_value"]},
        by_hand={
            # m_hat = 2, v = 0.5 + 0.25 * 4 = 1.5, v_hat = 6;  m = 0.5, m_hat = 2/3, v = 1.5 - 0, as g = 0
            "": ByHand(
                {"betas": BETAS, "eps": 0.0, "initial_accumulator_value": 0.5},
                [2, 0],
                [1 - 0.2 / math.sqrt(6), 1 - 0.2 / math.sqrt(6) - 0.1 * (0.5 / 0.75) / math.sqrt(1.5 / 0.4375)],
            ),
        },
        overflows=False,
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-3},
                lambda optax: optax.yogi(0.01, b1=0.9, b2=0.99, eps=1e-3),
                {"m": 1e-6},
            ),
        },
    ),
]
