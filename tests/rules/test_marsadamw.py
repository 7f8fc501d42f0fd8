"""MARS-AdamW."""

import math

import numpy as np

from support.arithmetic import adam_scalars, moments
from support.rule import ByHand, Class, Rule
from support.sums import root, squares
from support.twins import PytorchOptimizerTwin, plain_roots


def marsadamw(p, g, m, v, prev, *, t, lr, beta1, beta2, eps, gamma):
    T = p.dtype.type
    c = g + T(gamma * beta1 / (1 - beta1)) * (g - prev)
    norm = root(squares(c))
    moments(m, v, T(1 / norm if norm > 1 else 1) * c, beta1, beta2)
    lr_t, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    p -= lr_t * m / (np.sqrt(v) + eps_t)
    prev[...] = g - T(0)


RULES = [Rule(marsadamw, corrected=("beta1", "beta2"), gathers="alone")]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "MARSAdamW",
        {"lr": 3e-3, "betas": (0.95, 0.99), "gamma": 0.025, "eps": 1e-8},
        "marsadamw",
        options={"gamma": {"gamma": 1.0, "betas": (0.9, 0.99)}},
        decay_form="decoupled",
        by_hand={
            # c = 1/8 + 1 * 1/8 = 1/4, |c| < 1, m_hat = 1/4, v_hat = 1/16, 1/4 / (1/4 + 1/4)
            # c = 1/8 + 1 * 0, m = 1/16 + 1/16, m_hat = 1/6, v = 3/256 + 1/256, v_hat = 1/28
            "": ByHand(
                {"betas": BETAS, "gamma": 1.0, "eps": 0.25},
                [0.125, 0.125],
                [0.95, 0.95 - 0.1 / 6 / (1 / math.sqrt(28) + 0.25)],
            ),
            # c = (2.25 + 2.25, 3 + 3) = (4.5, 6), |c| = 7.5: (0.6, 0.8)
            "norm": ByHand(
                {"betas": BETAS, "gamma": 1.0, "eps": 0.2},
                [[2.25, 3]],
                [[1 - 0.06 / 0.8, 0.92]],
                start=[1, 1],
            ),
            # p = 1 * (1 - 0.1 * 0.5), and no decay in c
            "decay": ByHand({"betas": BETAS, "gamma": 1.0, "eps": 0.25, "weight_decay": 0.5}, [0.125], [0.9]),
        },
        pytorch_optimizer={
            name: PytorchOptimizerTwin(
                {"lr": 0.01, "betas": (0.95, 0.99), "gamma": gamma, "eps": 0.0, "weight_decay": 0.1},
                lambda module, params, gamma=gamma: plain_roots(
                    module.MARS(
                        params,
                        0.01,
                        betas=(0.95, 0.99),
                        gamma=gamma,
                        eps=0.0,
                        weight_decay=0.1,
                        optimize_1d=True,
                        foreach=False,
                    )
                ),
            )
            for name, gamma in {"": 0.025, "gamma": 0.5}.items()
        },
    ),
]
