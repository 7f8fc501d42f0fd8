"""ADOPT."""

import math

import numpy as np

from support.arithmetic import Flushed, above_root, coast, decay, keep, larger, rest, take
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def adopt(p, g, m, v, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    clip = T(math.sqrt(math.sqrt(t - 1)))
    r = g / larger(np.sqrt(v), above_root(T, beta2, eps, t))
    raised = np.where(r < -clip, -clip, r)
    clipped = np.where(raised > clip, clip, raised).view(Flushed)
    m[...] = keep(T, beta1) * m + rest(T, beta1) * clipped
    p -= T(lr) * m
    v[...] = take(v, g * g, beta2 if t > 1 else 0.0)


RULES = [
    Rule(
        adopt,
        catch_up=lambda p, state, skipped, lr, beta1, beta2, **_: [
            coast(p, state["m"], lr, beta1, skipped),
            decay(state["v"], beta2, skipped),
        ],
    )
]


BETAS = (0.5, 0.75)


CLASSES = [
    Class(
        "ADOPT",
        {"lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6},
        "adopt",
        options={"short": {"betas": (0.5, 0.9), "eps": 0.1}},
        by_hand={
            # v = 4;  r = 1 / 2, c = 1, m = 0.25, v = 3 + 0.25 = 3.25
            # r = 6 / sqrt(3.25), c = 2^(1/4) < r, m = 0.125 + c / 2
            "": ByHand({"betas": BETAS}, [2, 1, 6], [1, 0.975, 0.975 - 0.1 * (0.125 + 2**0.25 / 2)]),
            # v = 0;  r = 1 / 2 and not 1 / 0, m = 0.25;  v = 0.25, r = -1 / 2, m = 0.125 - 0.25
            "eps": ByHand({"betas": BETAS, "eps": 2.0}, [0, 1, -1], [1, 0.975, 0.9875]),
            # v = (2 + 0.5)^2, and m follows the decay too: r = 2.5 / 2.5
            "decay": ByHand({"betas": BETAS, "weight_decay": 0.5}, [2, 2], [1, 0.95]),
            # the first step shrinks p alone;  r = 1
            "decoupled": ByHand(
                {"betas": BETAS, "weight_decay": 0.5, "weight_decay_form": "decoupled"}, [2, 2], [0.95, 0.95**2 - 0.05]
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6},
                lambda optax: optax.contrib.adopt(0.01, b1=0.9, b2=0.99, eps=1e-6),
            ),
            "defaults": OptaxTwin({"lr": 0.01}, lambda optax: optax.contrib.adopt(0.01)),
        },
    ),
]
