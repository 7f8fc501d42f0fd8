"""NAdam."""

import math

import numpy as np

from support.arithmetic import exp, lost_mean, moments, power
from support.rule import ByHand, Class, Rule
from support.twins import DECOUPLED, EPS, OptaxTwin, TorchTwin, betas, power_of_ten


def nadam(p, g, m, v, *, t, carry, lr, beta1, beta2, eps, momentum_decay):
    T = p.dtype.type

    def mu_at(t):
        return beta1 * (1 - 0.5 * exp(t * momentum_decay * -0.040821994520255166))  # ln 0.96

    mu, mu_next = mu_at(t), mu_at(t + 1)
    product = (1.0 if t == 1 else carry["mu_product"]) * mu
    carry["mu_product"] = product
    root2 = math.sqrt(1 - power(beta2, t))
    lr_m, lr_g = T(lr * root2 * mu_next / (1 - product * mu_next)), T(lr * root2 * (1 - mu) / (1 - product))
    moments(m, v, g, beta1, beta2)
    p -= (lr_m * m + lr_g * g) / (np.sqrt(v) + T(eps * root2 + math.sqrt(lost_mean(T, beta2, t))))


RULES = [Rule(nadam, carries=("mu_product",), corrected=("beta2",))]


BETAS = (0.5, 0.75)
MU_1 = 0.9 * (1 - 0.5 * 0.96**0.004)
MU_2 = 0.9 * (1 - 0.5 * 0.96**0.008)


CLASSES = [
    Class(
        "NAdam",
        {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3, "decoupled_weight_decay": False},
        "nadam",
        options={
            "constant": {"momentum_decay": None},
            "as_torch": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        },
        unset=lambda settings: {"momentum_decay": math.inf},
        by_hand={
            # m = 1, v_hat = 4;  0.5 * 1 / (1 - 0.25) + 0.5 * 2 / (1 - 0.5) = 8/3, over 2 + 2
            "constant": ByHand({"betas": BETAS, "eps": 2.0, "momentum_decay": None}, [2], [1 - 0.1 * 8 / 3 / 4]),
            # mu_1 = mu_2 = 0.25;  0.25 * 1 / (1 - 0.0625) + 0.75 * 2 / (1 - 0.25) = 34/15, over 2 + 2
            "no decay": ByHand({"betas": BETAS, "eps": 2.0, "momentum_decay": 0.0}, [2], [1 - 0.1 * 34 / 15 / 4]),
            # the default: m = 0.1 * 1, v_hat = 1, eps = 0
            "": ByHand({"eps": 0.0}, [1], [1 - 0.1 * (MU_2 * 0.1 / (1 - MU_1 * MU_2) + (1 - MU_1) / (1 - MU_1))]),
        },
        optax={
            # Its momentum is constant.
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "momentum_decay": None},
                lambda optax: optax.nadam(0.01, b1=0.9, b2=0.99, eps=1e-8),
            ),
        },
        torch=TorchTwin(
            {"betas": betas, "eps": EPS}, {"momentum_decay": {"momentum_decay": power_of_ten(-4, -1)}, **DECOUPLED}
        ),
    ),
]
