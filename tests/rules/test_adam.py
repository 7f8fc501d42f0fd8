"""Adam and AdamW, also with the largest second moment (AMSGrad)."""

import math

import numpy as np

from support.arithmetic import adam_scalars, larger, moments
from support.rule import ByHand, Class, Rule
from support.twins import DECOUPLED, EPS, OptaxTwin, TorchTwin, always, betas


def adam(p, g, m, v, *, t, lr, beta1, beta2, eps):
    lr_t, eps_t = adam_scalars(p.dtype.type, t, lr, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    p -= lr_t * m / (np.sqrt(v) + eps_t)


def amsgrad(p, g, m, v, vmax, *, t, lr, beta1, beta2, eps):
    lr_t, eps_t = adam_scalars(p.dtype.type, t, lr, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    vmax[...] = larger(vmax, v)
    p -= lr_t * m / (np.sqrt(vmax) + eps_t)


RULES = [
    Rule(adam, corrected=("beta1", "beta2")),
    Rule(amsgrad, corrected=("beta1", "beta2")),
]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "AdamW",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "weight_decay": 1e-2},
        lambda settings: "amsgrad" if settings["amsgrad"] else "adam",
        options={"amsgrad": {"amsgrad": True}, "no_decay": {"weight_decay": 0.0}},
        decay_form="decoupled",
        steps_of_lr=({},),
        by_hand={
            # p = 1 * (1 - 0.1 * 0.5), then 2 / (2 + 2)
            "": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
            # the decay does not turn round with the gradient: p = 0.95 + 0.05
            "maximize": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5, "maximize": True}, [2], [1.0]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1},
                lambda optax: optax.adamw(0.01, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1),
            ),
        },
        torch=TorchTwin({"betas": betas, "eps": EPS}, {"amsgrad": {"amsgrad": always(True)}}),
    ),
    Class(
        "Adam",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "decoupled_weight_decay": False},
        lambda settings: "amsgrad" if settings["amsgrad"] else "adam",
        options={"amsgrad": {"amsgrad": True}, "as_torch": {"weight_decay": 0.1, "decoupled_weight_decay": True}},
        steps_of_lr=({}, {"amsgrad": True}),
        by_hand={
            # m_hat = 2, v_hat = 4, 2 / (2 + 2)
            # m = 0.5 * 1 + 0.5 * 4 = 2.5, m_hat = 2.5 / 0.75
            # v = 0.75 * 1 + 0.25 * 16 = 4.75, v_hat = 4.75 / 0.4375 = 76/7
            "": ByHand({"betas": BETAS, "eps": 2.0}, [2, 4], [0.95, 0.95 - 1 / 3 / (math.sqrt(76 / 7) + 2)]),
            # beta1 = 1/2, then 1/4: m = 0.25 * 1 + 0.75 * 4 = 3.25, m_hat = 3.25 / (1 - 1/2 * 1/4)
            "betas that change": ByHand(
                {"betas": (lambda t: 0.5 if t == 0 else 0.25, 0.75), "eps": 2.0},
                [2, 4],
                [0.95, 0.95 - 0.1 * (3.25 / 0.875) / (math.sqrt(76 / 7) + 2)],
            ),
            # the first step is lr whatever the gradient
            "first step": ByHand({"eps": 0.0}, [1e-3], [0.9]),
            # m = 2, v = 4;  m = 1, m_hat = 4/3, v = 3 but vmax = 4, v_hat = 4 / 0.4375 = 64/7
            "amsgrad": ByHand(
                {"betas": BETAS, "eps": 4.0, "amsgrad": True}, [4, 0], [0.95, 0.95 - 0.4 / 3 / (8 / math.sqrt(7) + 4)]
            ),
            # L2 joins both moments: g = 1 + 1, so the step is that of adam with 2
            "L2": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 1.0}, [1], [0.95]),
            # p = 1 * (1 - 0.1 * 0.5), then 2 / (2 + 2), as adamw
            "decoupled": ByHand(
                {"betas": BETAS, "eps": 2.0, "weight_decay": 0.5, "decoupled_weight_decay": True}, [2], [0.9]
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8},
                lambda optax: optax.adam(0.01, b1=0.9, b2=0.99, eps=1e-8),
            ),
        },
        torch=TorchTwin({"betas": betas, "eps": EPS}, {"amsgrad": {"amsgrad": always(True)}, **DECOUPLED}),
    ),
]
