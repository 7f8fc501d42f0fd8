"""LAMB."""

import numpy as np

from support.arithmetic import adam_scalars, moments
from support.rule import ByHand, Class, Rule
from support.sums import trust
from support.twins import OptaxTwin


def lamb(p, g, m, v, *, t, lr, beta1, beta2, eps, decay):
    T = p.dtype.type
    unbias, eps_t = adam_scalars(T, t, 1.0, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    u = unbias * m / (np.sqrt(v) + eps_t) + T(decay) * p
    p -= T(lr * trust(p, u)) * u


RULES = [Rule(lamb, corrected=("beta1", "beta2"), gathers="alone")]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "LAMB",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6},
        "lamb",
        decay_form="own",
        by_hand={
            # as adam, u = 2 / (2 + 2), |p| / |u| = 2
            "": ByHand({"betas": BETAS, "eps": 2.0}, [2], [0.9]),
            # u = 1/2 + 0.5 * 1, |p| / |u| = 1
            "decay": ByHand({"betas": BETAS, "eps": 2.0, "weight_decay": 0.5}, [2], [0.9]),
        },
        never_larger=1,  # later steps grow with p
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1},
                lambda optax: optax.lamb(0.01, b1=0.9, b2=0.99, eps=1e-6, weight_decay=0.1),
            ),
        },
    ),
]
