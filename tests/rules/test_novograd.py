"""NovoGrad."""

import math

import numpy as np

from support.rule import ByHand, Class, Rule
from support.sums import scaled, squares
from support.twins import OptaxTwin


def novograd(p, g, m, *, t, carry, lr, beta1, beta2, eps, decay):
    T = p.dtype.type
    square, of_square = scaled(squares(g))
    v, exponent = square, of_square
    if t > 1:
        of_v = 1200 * int(np.sign(carry["v_exponent"]))
        if square == 0 or (carry["v"] != 0 and of_v > of_square):
            exponent = of_v
        v = beta2 * np.ldexp(carry["v"], of_v - exponent) + (1 - beta2) * np.ldexp(square, of_square - exponent)
    if (exponent > 0 and v < 2.0**-300) or (exponent < 0 and v > 2.0**300):
        v, exponent = np.ldexp(v, exponent), 0
    carry["v"], carry["v_exponent"] = float(v), float(exponent)
    root = np.ldexp(np.sqrt(np.float64(v)), exponent // 2) + eps  # NaN for a v below 0, as C has it
    scale = T(0 if root == 0 else min(1 / root, float(np.finfo(T).max)))
    m[...] = T(beta1) * m + (scale * g + T(decay) * p)
    p -= T(lr) * m


RULES = [Rule(novograd, carries=("v", "v_exponent"), gathers="alone")]


CLASSES = [
    Class(
        "NovoGrad",
        {"lr": 1e-3, "betas": (0.9, 0.25), "eps": 1e-6},
        "novograd",
        decay_form="own",
        by_hand={
            # v = 3 * 4, m = 2 / sqrt(12);  v = 1/4 * 12 + 3/4 * 3 = 21/4, m = 1/2 * 2 / sqrt(12) + 1 / sqrt(21/4)
            "": ByHand(
                {"betas": (0.5, 0.25), "eps": 0.0},
                [2, 1],
                [1 - 0.1 / math.sqrt(3), 1 - 0.15 / math.sqrt(3) - 0.2 / math.sqrt(21)],
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.25), "eps": 1e-6, "weight_decay": 0.1},
                lambda optax: optax.novograd(0.01, b1=0.9, b2=0.25, eps=1e-6, weight_decay=0.1),
            ),
        },
    ),
]
