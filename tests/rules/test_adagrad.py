"""Adagrad."""

import math

import numpy as np

import fastopt
from fastopt.optimizers import plain
from support.arithmetic import lost_sum
from support.rule import ByHand, Class, Rule
from support.twins import EPS, OptaxTwin, TorchTwin, between, power_of_ten


def adagrad(p, g, G, *, t, lr, lr_decay, eps):
    T = p.dtype.type
    lr_t = T(lr / (1 + (t - 1) * lr_decay))
    G += g * g
    p -= lr_t * g / (np.sqrt(G) + T(eps + math.sqrt(lost_sum(T, t))))


RULES = [Rule(adagrad, catch_up=lambda p, state, skipped, **hyper: None)]


CLASSES = [
    Class(
        "Adagrad",
        {"lr": 1e-2, "lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
        "adagrad",
        options={"lr_decay": {"lr_decay": 0.1}, "accumulator": {"initial_accumulator_value": 0.1}},
        start=lambda settings: {"G": settings["initial_accumulator_value"]},
        by_hand={
            # G = 4, 2 / 2 = 1;  G = 6.25, 1.5 / 2.5 = 0.6
            "": ByHand({"eps": 0.0}, [2, 1.5], [0.9, 0.84]),
            # the second step has lr = 0.1 / (1 + 1)
            "lr_decay": ByHand({"eps": 0.0, "lr_decay": 1.0}, [2, 1.5], [0.9, 0.87]),
            # G = 5 + 4, 2 / 3
            "accumulator": ByHand({"eps": 0.0, "initial_accumulator_value": 5.0}, [2], [1 - 0.2 / 3]),
            # eps stands outside the root: 2 / (2 + 2)
            "eps": ByHand({"eps": 2.0}, [2], [0.95]),
        },
        optax={
            # Its eps is inside the root.
            "": OptaxTwin(
                {"lr": 0.01, "eps": 0.0}, lambda optax: optax.adagrad(0.01, initial_accumulator_value=0.0, eps=0.0)
            ),
        },
        torch=TorchTwin(
            {"eps": EPS},
            {
                "lr_decay": {"lr_decay": power_of_ten(-3, -1)},
                "initial_accumulator_value": {"initial_accumulator_value": between(0, 1)},
            },
        ),
    ),
]


def test_no_step_is_larger_after_many_small_squares():
    """A sum loses each of the squares: its floor grows with their number."""
    p, exact, state = np.zeros(2, np.float32), np.zeros(2), {}
    g = np.array([1.0e-19, 3.0e-22], np.float32)
    opt = fastopt.Adagrad(p, lr=1.0, eps=0.0)
    for t in range(1, 3000):
        before, was = p.copy(), exact.copy()
        opt.step(g)
        plain("Adagrad")(exact, g.astype(np.float64), state, t, lr=1.0, eps=0.0)
        p[...], step = 0, p - before if t == 1 else p.copy()
        assert (abs(step) <= abs(exact - was) * (1 + 1e-5)).all()
