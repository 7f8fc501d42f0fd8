"""AdaBelief."""

import math

import numpy as np

from support.arithmetic import adam_scalars, keep, rest, take
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def adabelief(p, g, m, s, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    s[...] = take(s, (g - m) * (g - m), beta2) + T(eps)
    p -= lr_t * m / (np.sqrt(s) + eps_t)


RULES = [Rule(adabelief, corrected=("beta1", "beta2"))]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "AdaBelief",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16},
        "adabelief",
        decay_form="decoupled",
        by_hand={
            # m = 1, m_hat = 2, s = 0.25 * 1 + 1, s_hat = 5, 2 / (sqrt(5) + 1)
            "": ByHand({"betas": BETAS, "eps": 1.0}, [2], [1 - 0.2 / (math.sqrt(5) + 1)]),
            # p = 1 * (1 - 0.1 * 0.5), and no decay in m and s
            "decay": ByHand({"betas": BETAS, "eps": 1.0, "weight_decay": 0.5}, [2], [0.95 - 0.2 / (math.sqrt(5) + 1)]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8},
                lambda optax: optax.adabelief(0.01, b1=0.9, b2=0.99, eps=1e-8, eps_root=1e-8),
            ),
            "defaults": OptaxTwin({"lr": 0.01}, lambda optax: optax.adabelief(0.01)),
        },
    ),
]
