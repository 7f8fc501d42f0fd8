"""RMSprop: plain, centered, with momentum, with both."""

import math

import numpy as np
import pytest

import fastopt
from support.arithmetic import above_root, coast, decay, keep, rest, rough_power, take
from support.arrays import DTYPES
from support.asserts import ids
from support.rule import ByHand, Class, Rule
from support.twins import EPS, MOMENTUM, OptaxTwin, TorchTwin, always, between


def variance(s, a, g, alpha):
    T = a.dtype.type
    d = g - a
    s[...] = take(s, keep(T, alpha) * (d * d), alpha)
    a[...] = keep(T, alpha) * a + rest(T, alpha) * g


def decay_variance(s, a, alpha, skipped):
    left, T = rough_power(alpha, skipped), a.dtype.type
    s[...] = T(left) * s + T(left * (1 - left)) * (a * a)
    a *= T(left)


def rmsprop(p, g, v, *, t, lr, alpha, eps):
    T = p.dtype.type
    v[...] = take(v, g * g, alpha)
    p -= T(lr) * g / (np.sqrt(v) + above_root(T, alpha, eps, t))


def rmsprop_centered(p, g, s, a, *, t, lr, alpha, eps):
    T = p.dtype.type
    variance(s, a, g, alpha)
    p -= T(lr) * g / (np.sqrt(s) + above_root(T, alpha, eps, t))


def rmsprop_momentum(p, g, v, b, *, t, lr, alpha, eps, momentum):
    T = p.dtype.type
    v[...] = take(v, g * g, alpha)
    b[...] = T(momentum) * b + g / (np.sqrt(v) + above_root(T, alpha, eps, t))
    p -= T(lr) * b


def rmsprop_centered_momentum(p, g, s, a, b, *, t, lr, alpha, eps, momentum):
    T = p.dtype.type
    variance(s, a, g, alpha)
    b[...] = T(momentum) * b + g / (np.sqrt(s) + above_root(T, alpha, eps, t))
    p -= T(lr) * b


RULES = [
    Rule(rmsprop, catch_up=lambda p, state, skipped, alpha, **_: decay(state["v"], alpha, skipped)),
    Rule(
        rmsprop_centered,
        catch_up=lambda p, state, skipped, alpha, **_: decay_variance(state["s"], state["a"], alpha, skipped),
    ),
    Rule(
        rmsprop_momentum,
        catch_up=lambda p, state, skipped, lr, alpha, momentum, **_: [
            decay(state["v"], alpha, skipped),
            coast(p, state["b"], lr, momentum, skipped),
        ],
    ),
    Rule(
        rmsprop_centered_momentum,
        catch_up=lambda p, state, skipped, lr, alpha, momentum, **_: [
            decay_variance(state["s"], state["a"], alpha, skipped),
            coast(p, state["b"], lr, momentum, skipped),
        ],
    ),
]


CLASSES = [
    Class(
        "RMSprop",
        {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
        lambda settings: "rmsprop" + "_centered" * settings["centered"] + "_momentum" * bool(settings["momentum"]),
        options={
            "centered": {"centered": True},
            "momentum": {"momentum": 0.9},
            "both": {"momentum": 0.9, "centered": True},
        },
        by_hand={
            # v = 0.25 * 4 = 1, 2 / (1 + 1) = 1;  v = 0.75 + 0.25 = 1, 1 / (1 + 1) = 0.5
            "": ByHand({"alpha": 0.75, "eps": 1.0}, [2, 1], [0.9, 0.85]),
            # b = 1;  b = 0.5 * 1 + 0.5 = 1
            "momentum": ByHand({"alpha": 0.75, "eps": 1.0, "momentum": 0.5}, [2, 1], [0.9, 0.8]),
            # v = 0.5 * 4 = 2, a = 1, 2 / (sqrt(2 - 1) + 1) = 1;  v = 1 + 2 = 3, a = 1.5, 2 / (sqrt(3/4) + 1)
            "centered": ByHand(
                {"alpha": 0.5, "eps": 1.0, "centered": True}, [2, 2], [0.9, 0.9 - 0.2 / (math.sqrt(0.75) + 1)]
            ),
            # b = 1;  b = 0.5 * 1 + 2 / (sqrt(3/4) + 1)
            "both": ByHand(
                {"alpha": 0.5, "eps": 1.0, "centered": True, "momentum": 0.5},
                [2, 2],
                [0.9, 0.85 - 0.2 / (math.sqrt(0.75) + 1)],
            ),
        },
        optax={
            "": OptaxTwin(
                {"lr": 0.01, "alpha": 0.9, "eps": 1e-8},
                lambda optax: optax.rmsprop(0.01, decay=0.9, eps=1e-8, eps_in_sqrt=False),
            ),
        },
        torch=TorchTwin(
            {"alpha": between(0.8, 0.999), "eps": EPS},
            {
                "momentum": MOMENTUM,
                "centered": {"centered": always(True)},
                "both": {**MOMENTUM, "centered": always(True)},
            },
        ),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("scatter", [1e-1, 1e-3, 1e-4])
def test_centered_steps_of_steady_gradients(scatter, dtype):
    """lr times mean over scatter. The float32 difference v - a^2 made it 1e6 where it is 11."""
    noise = np.random.default_rng(3).standard_normal((4000, 50))
    gradients = (1 + scatter * noise).astype(np.float32)
    p = np.zeros(50, dtype)
    opt = fastopt.RMSprop(p, lr=0.01, alpha=0.99, centered=True)
    weights = 0.01 * 0.99 ** np.arange(3999, -1, -1.0)[:, None]
    for g in gradients:
        p[...] = 0
        opt.step(g.astype(dtype))
    doubles = gradients.astype(np.float64)
    mean = (weights * doubles).sum(axis=0)
    variance = (weights * (doubles - mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(p, -0.01 * doubles[-1] / (np.sqrt(variance) + 1e-8), rtol=2e-3)
    assert 0.005 / scatter < abs(p).mean() < 0.02 / scatter


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_the_variance_is_that_of_torch(dtype):
    """s is v - a^2 of the two means, wherever that is not lost."""
    gradients = np.random.default_rng(4).standard_normal((60, 400)).astype(dtype)
    opt = fastopt.RMSprop(np.zeros(400, dtype), alpha=0.9, centered=True)
    v = a = np.zeros(400)
    for g in gradients:
        opt.step(g)
        v, a = 0.9 * v + 0.1 * g.astype(np.float64) ** 2, 0.9 * a + 0.1 * g.astype(np.float64)
    rtol = 1e-12 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(opt.state[0]["s"], v - a**2, rtol=rtol)
    np.testing.assert_allclose(opt.state[0]["a"], a, rtol=rtol, atol=rtol)
