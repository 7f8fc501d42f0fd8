"""SM3, of arrays of several axes and of vectors."""

import math

import numpy as np

from support.arithmetic import Flushed, flush, keep, lost_mean, lost_sum, rest
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def sm3_square(mu, g, b2):
    T = g.dtype.type
    return mu + g * g if b2 == 1 else keep(T, b2) * mu + rest(T, b2) * (g * g)


def sm3_update(p, g, m, nu, t, lr, momentum, b2, eps):
    T = p.dtype.type
    lost = lost_sum(T, t) if b2 == 1 else lost_mean(T, b2, t)
    root = np.where(nu != 0, np.sqrt(nu + T(eps + lost)), T(math.inf)).view(Flushed)
    m[...] = keep(T, momentum) * m + rest(T, momentum) * (g / root)
    p -= T(lr) * m


def sm3(p, g, m, mu, *, t, lr, momentum, b2, eps):
    if p.size == 0:
        return
    of_axes = np.split(mu, np.cumsum(p.shape)[:-1])
    smallest = flush(of_axes[0].reshape(-1, *[1] * (p.ndim - 1)))
    for axis, of_axis in enumerate(of_axes[1:], 1):
        smallest = np.minimum(smallest, flush(of_axis).reshape([-1 if i == axis else 1 for i in range(p.ndim)]))
    nu = sm3_square(smallest.view(Flushed), g, b2)
    for axis, of_axis in enumerate(of_axes):
        others = tuple(i for i in range(p.ndim) if i != axis)
        of_axis[...] = np.max(
            np.asarray(nu), axis=others, initial=0
        )  # that of no steps is 0, and it never shrinks below
    sm3_update(p, g, m, nu, t, lr, momentum, b2, eps)


def sm3_vector(p, g, m, mu, *, t, lr, momentum, b2, eps):
    mu[...] = sm3_square(mu, g, b2)
    sm3_update(p, g, m, mu, t, lr, momentum, b2, eps)


RULES = [
    Rule(sm3, gathers="matrices", extents={"mu": lambda shape: (sum(shape),)}),
    Rule(sm3_vector),
]


R12 = 0.1 * math.sqrt(12)


CLASSES = [
    Class(
        "SM3",
        {"lr": 0.1, "momentum": 0.9, "b2": 1.0, "eps": 1e-8},
        "sm3_vector",
        options={"b2": {"b2": 0.75, "momentum": 0.5, "eps": 0.1}},
        by_hand={
            # nu = 4, u = 1, m = 1/2;  nu = 5, u = 1 / sqrt(5), m = 1/4 + 1 / (2 sqrt(5))
            "vector": ByHand({"momentum": 0.5, "eps": 0.0}, [2, 1], [0.95, 0.925 - 0.05 / math.sqrt(5)]),
            # nu = 3/4 * 4 = 3, u = 2 / sqrt(3 + 1);  nu = 1/4 * 3 = 3/4, u = 0
            "b2": ByHand({"momentum": 0.0, "b2": 0.25, "eps": 1.0}, [2, 0], [0.9, 0.9]),
            # nu = ((1, 4), (9, 16)), mu = (4, 16) and (9, 16), u = 1;  min of mu = ((4, 4), (9, 16))
            # with a gradient of sqrt(12): nu = 4 + 12, 4 + 12, 9 + 12, 16 + 12, and u = sqrt(12) / sqrt(nu)
            "matrix": ByHand(
                {"momentum": 0.0, "eps": 0.0},
                [[[1, -2], [3, 4]], math.sqrt(12)],
                [
                    [[0.9, 1.1], [0.9, 0.9]],
                    [[0.9 - R12 / 4, 1.1 - R12 / 4], [0.9 - R12 / math.sqrt(21), 0.9 - R12 / math.sqrt(28)]],
                ],
                start=[[1, 1], [1, 1]],
                state={"mu": [[4, 16, 9, 16], [16, 28, 21, 28]]},
            ),
        },
        optax={
            "": OptaxTwin({"lr": 0.05}, lambda optax: optax.sm3(0.05, 0.9)),
            "b2": OptaxTwin(
                {"lr": 0.05, "momentum": 0.5, "b2": 0.9, "eps": 1e-3},
                lambda optax: optax.chain(optax.scale_by_sm3(0.5, 0.9, 1e-3), optax.scale(-0.05)),
            ),
        },
    ),
]
