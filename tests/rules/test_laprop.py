"""LaProp."""

import math

import numpy as np

from support.arithmetic import keep, lost_mean, power, rest, take, weight
from support.rule import ByHand, Class, Rule
from support.twins import PytorchOptimizerTwin, plain_roots


def laprop(p, g, m, n, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    root2 = math.sqrt(1 - power(beta2, t))
    n[...] = take(n, g * g, beta2)
    r = T(float(rest(T, beta1)) * root2) * g / (np.sqrt(n) + T(eps * root2 + math.sqrt(lost_mean(T, beta2, t))))
    m[...] = keep(T, beta1) * m + r
    p -= T(lr / weight(T, beta1, t)) * m


RULES = [Rule(laprop, corrected=("beta1", "beta2"))]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "LaProp",
        {"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-15},
        "laprop",
        options={"eps": {"eps": 0.01}},
        decay_form="decoupled",
        by_hand={
            # n_hat = 4, m = 0.5 * 2 / (2 + 2) = 0.25, m_hat = 0.5
            # n = 0.75 + 1/4 = 1, n_hat = 16/7, m = 0.125 + 0.5 * 1 / (4 / sqrt(7) + 2), m_hat = m / 0.75
            "": ByHand(
                {"betas": BETAS, "eps": 2.0},
                [2, 1],
                [0.95, 0.95 - 0.1 * (0.125 + 0.5 / (4 / math.sqrt(7) + 2)) / 0.75],
            ),
            # p = 1 * (1 - 0.1 * 0.5), and no decay in m and n
            "decay": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
        },
        pytorch_optimizer={
            # Whose eps is not scaled by the root of the bias correction.
            "": PytorchOptimizerTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.0},
                lambda module, params: plain_roots(
                    module.LaProp(params, 0.01, betas=(0.9, 0.99), eps=0.0, foreach=False)
                ),
            ),
        },
    ),
]
