"""StableAdamW."""

import math

import numpy as np

from support.arithmetic import adam_scalars, larger, larger_of, moments, power
from support.rule import ByHand, Class, Rule
from support.sums import root, squares
from support.twins import PytorchOptimizerTwin


def stableadamw(p, g, m, v, *, t, lr, beta1, beta2, eps, decay):
    T = p.dtype.type
    unbias, eps_t = adam_scalars(T, t, 1.0, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    rms = math.sqrt(1 - power(beta2, t)) * root(squares(g / larger(np.sqrt(v), eps_t)), p.size)
    p -= T(lr / larger_of(rms, 1.0)) * (unbias * m / (np.sqrt(v) + eps_t) + T(decay) * p)


RULES = [Rule(stableadamw, corrected=("beta1", "beta2"), gathers="alone")]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "StableAdamW",
        {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-2},
        "stableadamw",
        options={"eps": {"eps": 1.0}, "no_decay": {"weight_decay": 0.0}},
        decay_form="own",
        by_hand={
            # m_hat = 2, v_hat = 4, rms = 2 / 2 = 1, u = 2 / (2 + 2) + 0.5 * 1
            "": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
            # v_hat = 0, then 3/4 0 + 1/4 64 = 16 over 7/16 is 256/7;  rms^2 = 64 / (256/7) = 7/4
            # m_hat = 4 over 3/4, u = 16/3 / (16 / sqrt(7)) = sqrt(7) / 3, over sqrt(7) / 2
            "spike": ByHand({"betas": BETAS, "eps": 0.0, "weight_decay": 0.0}, [0, 8], [1, 1 - 0.2 / 3]),
            # half of the elements: rms^2 = (7/4 + 0) / 2 < 1
            "mean": ByHand(
                {"betas": BETAS, "eps": 0.0, "weight_decay": 0.0},
                [[0, 0], [8, 0]],
                [[1, 1], [1 - 0.1 * math.sqrt(7) / 3, 1]],
                start=[1, 1],
            ),
            # rms^2 = 4 / 8^2, the least root being eps: at the full rate, u = 2 / (2 + 8)
            "eps": ByHand({"betas": BETAS, "eps": 8.0, "weight_decay": 0.0}, [2], [0.98]),
        },
        pytorch_optimizer={
            "": PytorchOptimizerTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1},
                lambda module, params: module.StableAdamW(
                    params, 0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False
                ),
            ),
            "defaults": PytorchOptimizerTwin({}, lambda module, params: module.StableAdamW(params, foreach=False)),
        },
    ),
]
