"""Prodigy."""

import math

import numpy as np

from support.arithmetic import above_root, larger_of, moments, power, weight
from support.rule import ByHand, Class, Rule
from support.sums import sums_of_products
from support.twins import OptaxTwin


def dlr_of(T, t, d, lr, beta1, beta2):
    return d * lr * math.sqrt(1 - power(beta2, t)) / weight(T, beta1, t)


def decay_rate(T, t, state, hyper):
    d = hyper["d0"] if t == 1 else state["d"]
    return float(T(dlr_of(T, t, d, hyper["lr"], hyper["beta1"], hyper["beta2"])))


def prodigy(p, g, m, v, s, p0, *, t, carry, lr, beta1, beta2, beta3, eps, d0, d_coef, decay, safeguard_warmup):
    T = p.dtype.type
    d, r = (d0, 0.0) if t == 1 else (carry["d"], carry["r"])
    if t == 1:
        p0[...] = p - T(0)
    dlr = dlr_of(T, t, d, lr, beta1, beta2)
    moments(m, v, T(d) * g, beta1, beta2)
    s[...] = T(beta3) * s + T(d / d0 * (d if safeguard_warmup else dlr)) * g
    product, size = yield sums_of_products(g, p0 - p), sums_of_products(abs(s), np.ones_like(s))
    r = beta3 * r + d / d0 * dlr * product
    estimate = 0.0 if size == 0 else d_coef * r / size
    carry["d"], carry["r"] = larger_of(estimate, d), r
    p -= T(dlr) * (m / (np.sqrt(v) + above_root(T, beta2, carry["d"] * eps, t)) + T(decay) * p)


RULES = [Rule(prodigy, carries=("d", "r"), corrected=("beta1", "beta2"), gathers="together", decay_rate=decay_rate)]


BETAS = (0.5, 0.75)
DLR_2 = 0.1 * math.sqrt(0.4375) / 0.75  # of the second step, before d


CLASSES = [
    Class(
        "Prodigy",
        {
            "lr": 1.0,
            "betas": (0.9, 0.999),
            "beta3": None,
            "eps": 1e-8,
            "d0": 1e-6,
            "d_coef": 1.0,
            "safeguard_warmup": False,
        },
        "prodigy",
        options={"safeguard": {"safeguard_warmup": True, "beta3": 0.9, "d_coef": 2.0}},
        decay_form="own",
        unset=lambda settings: {"beta3": math.sqrt(settings["beta2"])},
        by_hand={
            # d = 1: m_hat = 2, v_hat = 4, but eps is added to the root that is not corrected: 0.1 * 1 / (1 + 1)
            # r = DLR_2 * 3 * 2 * 0.05, s = 1/2 * 0.2 + DLR_2 * 2, d = 100 r / (3 s);  m = 1/2 + 1, v = 3/4 + 1
            "": ByHand(
                {"betas": BETAS, "beta3": 0.5, "eps": 1.0, "d0": 1.0, "d_coef": 100.0},
                [2, 2],
                [0.95, 0.95 - DLR_2 * 1.5 / (math.sqrt(1.75) + 10 * DLR_2 / (0.1 + 2 * DLR_2))],
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 1.0, "betas": (0.9, 0.99), "d0": 1e-3, "weight_decay": 0.1},
                lambda optax: optax.contrib.prodigy(1.0, betas=(0.9, 0.99), estim_lr0=1e-3, weight_decay=0.1),
            ),
            "safeguard": OptaxTwin(
                {"lr": 0.5, "betas": (0.9, 0.99), "beta3": 0.9, "d0": 1e-3, "d_coef": 2.0, "safeguard_warmup": True},
                lambda optax: optax.contrib.prodigy(
                    0.5, betas=(0.9, 0.99), beta3=0.9, estim_lr0=1e-3, estim_lr_coef=2.0, safeguard_warmup=True
                ),
            ),
        },
    ),
]
