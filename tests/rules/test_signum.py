"""Signum."""

import numpy as np

import fastopt
from support.arithmetic import keep, rest, sign
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def signum(p, g, m, *, t, lr, beta):
    T = p.dtype.type
    m[...] = keep(T, beta) * m + rest(T, beta) * g
    p -= T(lr) * sign(m)


RULES = [Rule(signum)]


CLASSES = [
    Class(
        "Signum",
        {"lr": 1e-3, "beta": 0.9},
        "signum",
        options={"sign": {"beta": 0.0}},
        by_hand={
            # m = 1;  m = 0.5 - 0.5 = 0;  m = -0.5
            "": ByHand({"beta": 0.5}, [2, -1, -1], [0.9, 0.9, 1.0]),
        },
        optax={
            "": OptaxTwin({"lr": 0.01, "beta": 0.9}, lambda optax: optax.signum(0.01, beta=0.9)),
            "plain": OptaxTwin({"lr": 0.01, "beta": 0.0}, lambda optax: optax.sign_sgd(0.01)),
        },
    ),
]


def test_it_stops_where_gradients_do():
    """The mean of gradients decays to 0, so that its sign does too."""
    p = np.zeros(2, np.float32)
    opt = fastopt.Signum(p, lr=1.0)
    opt.step(np.ones(2, np.float32))
    for _ in range(12_000):
        opt.step(np.zeros(2, np.float32))
    before = p.copy()
    opt.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(p, before)
