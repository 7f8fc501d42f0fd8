"""SGD, with momentum, dampening and Nesterov's momentum."""

import numpy as np

import fastopt
from support.arithmetic import coast
from support.rule import ByHand, Class, Rule
from support.twins import MOMENTUM, OptaxTwin, TorchTwin, always, between


def sgd(p, g, *, t, lr):
    T = p.dtype.type
    p -= T(lr) * g


def momentum(p, g, b, *, t, lr, momentum, dampening):
    T = p.dtype.type
    undamped = T(1) if t == 1 or momentum == 0 else T(1 - dampening)
    b[...] = T(momentum) * b + undamped * g
    p -= T(lr) * b


def nesterov(p, g, b, *, t, lr, momentum):
    T = p.dtype.type
    b[...] = T(momentum) * b + g
    p -= T(lr) * (g + T(momentum) * b)


RULES = [
    Rule(sgd, catch_up=lambda p, state, skipped, **hyper: None),
    Rule(momentum, catch_up=lambda p, state, skipped, lr, momentum, **_: coast(p, state["b"], lr, momentum, skipped)),
    Rule(
        nesterov,
        catch_up=lambda p, state, skipped, lr, momentum: coast(p, state["b"], lr * momentum, momentum, skipped),
    ),
]


CLASSES = [
    Class(
        "SGD",
        {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False},
        lambda settings: "nesterov" if settings["nesterov"] else "momentum" if settings["momentum"] else "sgd",
        options={
            "momentum": {"momentum": 0.9},
            "dampening": {"momentum": 0.9, "dampening": 0.3},
            "nesterov": {"momentum": 0.9, "nesterov": True},
        },
        conflict=lambda settings: settings["nesterov"] and (settings["momentum"] == 0 or settings["dampening"] != 0),
        by_hand={
            "": ByHand({}, [0.5, -1], [0.95, 1.05]),
            # p = 1, weight_decay = 0.5: g = 2 + 0.5 * 1;  then p = 0.75: g = 0 + 0.375
            "L2": ByHand({"weight_decay": 0.5}, [2, 0], [0.75, 0.7125]),
            "maximize": ByHand({"maximize": True}, [0.5], [1.05]),
            # the decay still pulls to 0: g = -2 + 0.5 * 1
            "maximize and L2": ByHand({"maximize": True, "weight_decay": 0.5}, [2], [1.15]),
            # b = 0.5;  b = 0.9 * 0.5 + 0.5 = 0.95
            "momentum": ByHand({"momentum": 0.9}, [0.5, 0.5], [0.95, 0.855]),
            # b = 0.5, undamped on the first step;  b = 0.9 * 0.5 + 0.5 * 0.5 = 0.7
            "momentum-dampening": ByHand({"momentum": 0.9, "dampening": 0.5}, [0.5, 0.5], [0.95, 0.88]),
            # b = 0.5, along 0.5 + 0.9 * 0.5 = 0.95;  b = 0.95, along 0.5 + 0.9 * 0.95 = 1.355
            "nesterov": ByHand({"momentum": 0.9, "nesterov": True}, [0.5, 0.5], [0.905, 0.7695]),
        },
        optax={
            "": OptaxTwin({"lr": 0.1}, lambda optax: optax.sgd(0.1)),
            "momentum": OptaxTwin({"lr": 0.1, "momentum": 0.9}, lambda optax: optax.sgd(0.1, momentum=0.9)),
            "nesterov": OptaxTwin(
                {"lr": 0.1, "momentum": 0.9, "nesterov": True},
                lambda optax: optax.sgd(0.1, momentum=0.9, nesterov=True),
            ),
        },
        torch=TorchTwin(
            options={
                "momentum": MOMENTUM,
                "dampening": {**MOMENTUM, "dampening": between(0, 1)},
                "nesterov": {**MOMENTUM, "nesterov": always(True)},
            }
        ),
    ),
]


def test_learning_rate_outside_the_momentum_buffer():
    """A new learning rate takes effect at once: b = 1, then 1.5; p = 1 - 0.1 * 1 - 0.01 * 1.5."""
    p = np.ones(1)
    opt = fastopt.SGD(p, lr=0.1, momentum=0.5)
    opt.step(np.ones(1))
    opt.lr = 0.01
    opt.step(np.ones(1))
    np.testing.assert_allclose(p, 0.885, rtol=4e-16)
