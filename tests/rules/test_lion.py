"""Lion."""

import numpy as np

import fastopt
from support.arithmetic import keep, rest, sign
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def lion(p, g, m, *, t, lr, beta1, beta2):
    T = p.dtype.type
    p -= T(lr) * sign(keep(T, beta1) * m + rest(T, beta1) * g)
    m[...] = keep(T, beta2) * m + rest(T, beta2) * g


RULES = [Rule(lion)]


CLASSES = [
    Class(
        "Lion",
        {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 1e-3},
        "lion",
        options={"no_decay": {"weight_decay": 0.0}},
        decay_form="decoupled",
        by_hand={
            # c = 0.1 * 2, m = 0.01 * 2;  c = 0.9 * 0.02 - 0.1 * 1 < 0;  c = 0 at m = 0
            "": ByHand({"weight_decay": 0.0}, [2, -1], [0.9, 1.0]),
            "decay": ByHand({"weight_decay": 0.5}, [2, 0], [0.85, 0.85 * 0.95 - 0.1]),
            "zero": ByHand({"weight_decay": 0.0}, [0], [1]),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1},
                lambda optax: optax.lion(0.01, b1=0.9, b2=0.99, weight_decay=0.1),
            ),
        },
    ),
]


def test_it_stops_where_gradients_do():
    """The mean of gradients decays to 0, so that its sign does too."""
    p = np.zeros(2, np.float32)
    opt = fastopt.Lion(p, lr=1.0, weight_decay=0.0)
    opt.step(np.ones(2, np.float32))
    for _ in range(12_000):
        opt.step(np.zeros(2, np.float32))
    before = p.copy()
    opt.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(p, before)
