"""MADGRAD."""

import math

import numpy as np
import pytest

from support.arithmetic import cube_root, lost_sum, pow_of
from support.arrays import DTYPES
from support.asserts import ids
from support.rule import ByHand, Class, Rule
from support.twins import OptaxTwin


def madgrad(p, g, s, nu, x0, *, t, lr, momentum, eps):
    T = p.dtype.type
    if t == 1:
        x0[...] = p - T(0)
    lambda_t = lr * math.sqrt(t)
    root = T(math.sqrt(lambda_t)) * g
    s += T(lambda_t) * g
    nu += root * root
    z = x0 - s / (cube_root(nu) + T(eps + pow_of(lost_sum(T, t), 1 / 3)))
    p += T(1 - momentum) * (z - p)


RULES = [Rule(madgrad, starts=True)]


def rate_of_optax(lr, eps):
    """The rate to which optax adds eps, and which it multiplies by a root that it has in float32."""
    import jax.numpy as jnp

    return lambda count: lr * jnp.sqrt(count.astype("float64") + 1) / jnp.sqrt(count + 1) - eps


CLASSES = [
    Class(
        "MADGRAD",
        {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6},
        "madgrad",
        options={"no_momentum": {"momentum": 0.0}},
        by_hand={
            # lambda = 2: s = 4, nu = 8, z = 1 - 4 / 2 = -1, p halfway between 1 and -1
            # lambda = 2 sqrt(2): s = 4 + 2 sqrt(2), nu = 8 + 2 sqrt(2), p halfway between 0 and z
            "": ByHand(
                {"lr": 2.0, "momentum": 0.5, "eps": 0.0},
                [2, 1],
                [0, (1 - (4 + 2 * math.sqrt(2)) / (8 + 2 * math.sqrt(2)) ** (1 / 3)) / 2],
                state={"s": [4, 4 + 2 * math.sqrt(2)], "nu": [8, 8 + 2 * math.sqrt(2)], "x0": [1, 1]},
            ),
            # 4 / (2 + 6) from the start, all the way
            "eps": ByHand({"lr": 2.0, "momentum": 0.0, "eps": 6.0}, [2], [0.5]),
        },
        optax={
            "": OptaxTwin({"lr": 0.01}, lambda optax: optax.contrib.madgrad(rate_of_optax(0.01, 1e-6))),
            "decay": OptaxTwin(
                {"lr": 0.1, "momentum": 0.5, "eps": 1e-3, "weight_decay": 0.1},
                lambda optax: optax.contrib.madgrad(rate_of_optax(0.1, 1e-3), momentum=0.5, eps=1e-3, weight_decay=0.1),
            ),
        },
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_cube_roots(dtype):
    """To 1.5 ulp over the whole range of a dtype; of 0 and infinity exactly."""
    number, rng = np.finfo(dtype), np.random.default_rng(2)
    x = np.exp2(rng.uniform(number.minexp + 1, number.maxexp, 400_000)).astype(dtype)
    x = np.concatenate([x, rng.uniform(1, 8, 400_000).astype(dtype), [number.tiny, number.max]]).astype(dtype)
    root = cube_root(x)
    exact = np.cbrt(x.astype(np.longdouble))
    assert (abs(root - exact) <= 1.5 * np.spacing(exact.astype(dtype))).all()
    np.testing.assert_array_equal(cube_root(np.array([0, np.inf, np.nan], dtype)), [0, np.inf, np.nan])
