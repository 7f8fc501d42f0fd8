"""FTRL-Proximal."""

import math

import numpy as np
import pytest

import fastopt
from support.arithmetic import lost_sum, pow_of, power_of, sign
from support.arrays import DTYPES
from support.asserts import ids
from support.rule import ByHand, Class, Rule


def point(z, power, lr, lambda1, added):
    T = z.dtype.type
    size = abs(z) - T(lambda1)
    size = np.where((size > 0) | (size != size), size, T(0)).view(type(z))
    return T(0) - sign(z) * (T(lr) * size / (power + added))


def move(p, g, z, n, power, lr, lambda1, added):
    """A step with a power of elements."""
    T = p.dtype.type
    inverse = T(min(1 / lr if lr > 0 else 0.0, float(np.finfo(T).max)))
    sigma = (power(n + g * g) - power(n)) * inverse
    z += g - sigma * p
    n += g * g
    p[...] = point(z, power(n), lr, lambda1, added)


def ftrl(p, g, z, n, *, t, lr, lambda1, lambda2, offset):
    T = p.dtype.type
    move(p, g, z, n, np.sqrt, lr, lambda1, T(offset + lr * lambda2 + math.sqrt(lost_sum(T, t))))


def added_to_power(T, lost, lr, lambda2, offset, lr_power):
    return T(offset + lr * lambda2 + (pow_of(lost, -lr_power) if lr_power else 0.0))


def ftrl_power(p, g, z, n, *, t, lr, lambda1, lambda2, offset, lr_power):
    T = p.dtype.type
    added = added_to_power(T, lost_sum(T, t), lr, lambda2, offset, lr_power)
    move(p, g, z, n, lambda x: power_of(x, -lr_power), lr, lambda1, added)


def catch_up(p, state, skipped, *, lr, lambda1, lambda2, offset):
    T = p.dtype.type
    added = T(offset + lr * lambda2 + math.sqrt(lost_sum(T, 1)))
    p[...] = point(state["z"], np.sqrt(state["n"]), lr, lambda1, added)


def catch_up_power(p, state, skipped, *, lr, lambda1, lambda2, offset, lr_power):
    added = added_to_power(p.dtype.type, lost_sum(p.dtype.type, 1), lr, lambda2, offset, lr_power)
    p[...] = point(state["z"], power_of(state["n"], -lr_power), lr, lambda1, added)


RULES = [Rule(ftrl, catch_up=catch_up), Rule(ftrl_power, catch_up=catch_up_power)]

NONE_YET = {"initial_accumulator_value": 0.0}


CLASSES = [
    Class(
        "FTRL",
        {
            "lr": 1e-3,
            "lr_power": -0.5,
            "initial_accumulator_value": 0.1,
            "beta": 0.0,
            "lambda1": 0.0,
            "lambda2": 0.0,
        },
        lambda settings: "ftrl" if settings["lr_power"] == -0.5 else "ftrl_power",
        options={
            "penalties": {"lr": 0.1, "lambda1": 0.5, "lambda2": 0.1, "beta": 1.0, "initial_accumulator_value": 0.0},
            "power": {"lr": 0.1, "lr_power": -0.3, "lambda1": 0.1},
            "no_power": {"lr_power": 0.0},
        },
        start=lambda settings: {"n": settings["initial_accumulator_value"]},
        by_hand={
            # n = 4, sigma = 20, z = 2 - 20 = -18, 18 / (2 / 0.1);  n = 6.25, sigma = 5, z = -16.5 - 5 * 0.9, 21 / 25
            "": ByHand(NONE_YET, [2, 1.5], [0.9, 0.84], state={"z": [-18, -21], "n": [4, 6.25]}),
            # z = -18 as above: (18 - 3) / 20;  z = -16.5 - 5 * 0.75 = -20.25, 17.25 / 25
            "lambda1": ByHand({**NONE_YET, "lambda1": 3.0}, [2, 1.5], [0.75, 0.69]),
            "zero": ByHand({**NONE_YET, "lambda1": 18.0}, [2], [0]),
            # 18 / ((0.5 + 2) / 0.1 + 5)
            "lambda2": ByHand({**NONE_YET, "lambda2": 5.0, "beta": 0.5}, [2], [0.6]),
            # n = 9, sigma = (3 - sqrt(5)) / 0.1, z = 2 - sigma, -z / 30
            "accumulator": ByHand({"initial_accumulator_value": 5.0}, [2], [((3 - math.sqrt(5)) / 0.1 - 2) / 30]),
            # n = 4, sigma = 40, z = -38, 38 / 40;  n = 5, sigma = 10, z = -37 - 9.5, 46.5 / 50
            "power": ByHand({**NONE_YET, "lr_power": -1.0}, [2, 1], [0.95, 0.93]),
            # sigma = 0, z = 2, -2 / 10;  z = 3
            "no power": ByHand({**NONE_YET, "lr_power": 0.0}, [2, 1], [-0.2, -0.3]),
        },
        twin="test_pytorch_optimizer",
    ),
]


@pytest.mark.parametrize("options", [{}, {"lambda_1": 0.4}, {"lambda_1": 0.2, "lambda_2": 0.3, "beta": 1.0}], ids=str)
def test_pytorch_optimizer(options):
    reason = "compares with pytorch_optimizer"
    torch = pytest.importorskip("torch", reason=reason)
    peers = pytest.importorskip("pytorch_optimizer", reason=reason)
    rng = np.random.default_rng(1)
    p = rng.standard_normal((5, 7))
    q = torch.nn.Parameter(torch.tensor(p))
    ours = {key.replace("_", ""): value for key, value in options.items()}
    opt, peer = fastopt.FTRL(p, lr=0.2, **NONE_YET, **ours), peers.FTRL([q], lr=0.2, **options)
    zeros = 0
    for _ in range(50):
        g = rng.standard_normal(p.shape)
        opt.step(g)
        q.grad = torch.tensor(g)
        peer.step()
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-9, atol=1e-12)
        zeros += np.count_nonzero(p == 0)
    assert (zeros > 0) == ("lambda_1" in options)


@pytest.mark.parametrize("lr_power", [-1.0, -0.7, -0.5, -1 / 3, 0.0])
def test_the_form_of_keras(lr_power):
    """var = (l1 sign(linear) - linear) / quadratic, as TensorFlow's ApplyFtrl has it, with l2 and beta of Keras."""
    rng = np.random.default_rng(2)
    p, lr, l1, l2, beta = rng.standard_normal(40), 0.3, 0.2, 0.05, 0.5
    var, linear, accum = p.copy(), np.zeros(40), np.full(40, 0.1)
    opt = fastopt.FTRL(p, lr=lr, lr_power=lr_power, beta=beta, lambda1=l1, lambda2=2 * l2)
    for _ in range(30):
        g = rng.standard_normal(40)
        opt.step(g)
        accum_new = accum + g**2
        linear += g - (accum_new**-lr_power - accum**-lr_power) / lr * var
        quadratic = accum_new**-lr_power / lr + 2 * (l2 + beta / (2 * lr))
        var = np.where(abs(linear) > l1, (l1 * np.sign(linear) - linear) / quadratic, 0)
        accum = accum_new
        np.testing.assert_allclose(p, var, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_powers(dtype):
    """To 2 ulp over the whole range of a dtype; of 0, infinity and NaN exactly."""
    number, rng = np.finfo(dtype), np.random.default_rng(3)
    x = np.exp2(rng.uniform(number.minexp + 1, number.maxexp - 1, 40_000)).astype(dtype)
    for a in (0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.75, 0.999, 1.0):
        exact = x.astype(np.longdouble) ** np.longdouble(a)
        assert (abs(power_of(x, a).view(np.ndarray) - exact) <= 2 * np.spacing(exact.astype(dtype))).all(), a
        at_0 = float(a == 0)
        np.testing.assert_array_equal(power_of(np.array([0, np.inf, np.nan], dtype), a), [at_0, np.inf, np.nan])
