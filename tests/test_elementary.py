"""Exponentials, logarithms and powers in rules of one's own: the bits of C, and their errors."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import own_rules
from fastopt.own_rules import exp, log, power, tanh
from support.arrays import DTYPES
from support.builds import CSRC, OPTIMISED, WARNINGS, built

numba = pytest.importorskip("numba", reason="numba is not installed")
SOURCE = Path(__file__).with_name("elementary.c")


@fastopt.rule
def exp_of(p, g, *, lr=1e-3):
    return exp(p)


@fastopt.rule
def log_of(p, g, *, lr=1e-3):
    return np.log(p)


@fastopt.rule
def tanh_of(p, g, *, lr=1e-3):
    return np.tanh(p)


@fastopt.rule
def power_of(p, g, *, lr=1e-3):
    return p**g


RULES = {"exp": exp_of, "log": log_of, "tanh": tanh_of, "power": power_of}


def of_rule(name, x, y):
    """The results of a function in the loop of a rule."""
    p = x.copy()
    RULES[name](p, lr=0).step(y)
    return p


def numbers(name, dtype, count=300_000):
    """Numbers of all sizes, and such as optimizers have, for a function of one or two."""
    rng = np.random.default_rng(1)
    info = np.finfo(dtype)
    bits = rng.integers(0, 2**info.bits, count, dtype=f"uint{info.bits}").view(dtype)
    usual = [rng.normal(0, 1, count), rng.normal(0, 30, count), 1 + rng.normal(0, 1e-3, count)]
    edges = [0, info.tiny, info.max, np.inf, np.nan, 1, 2, 88.7228, 88.7229, 709.7827, 709.7828, 87.3365, 87.3366]
    edges += [708.3964, 708.3965, 0.70710678, 0.70710677, 1.41421356, 9, 10, 20, 1e-3, 1e-5]
    x = np.concatenate([bits, *(of.astype(dtype) for of in (*usual, np.array(edges), np.negative(edges)))])
    x[np.abs(x) < info.tiny] = 0  # as steps take subnormals
    y = rng.uniform(0, 1, x.size).astype(dtype)
    y[::7], y[1::7], y[2::7] = 0.75, 0, 1
    return (np.abs(x), y) if name == "power" else (x, y)


def assert_same(results, expected):
    """All bits, but those of NaN."""
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(results), is_nan)
    np.testing.assert_array_equal(results[~is_nan], expected[~is_nan])
    np.testing.assert_array_equal(np.signbit(results[~is_nan]), np.signbit(expected[~is_nan]))


@pytest.fixture(params=["gcc", "clang"])
def in_c(request, builds):
    """Functions of C by name."""
    if not CSRC.is_dir() or shutil.which(request.param) is None:
        pytest.skip(f"needs the source tree and {request.param}")
    program = built(builds, request.param, *OPTIMISED, *WARNINGS, f"-I{CSRC}", SOURCE, CSRC / "math" / "exact.c", "-lm")

    def function(name, x, y):
        given = np.stack([x, y], axis=1).tobytes()
        return np.frombuffer(subprocess.run([program, name], input=given, capture_output=True).stdout, x.dtype)

    return function


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_loops_have_the_bits_of_c(name, dtype, in_c):
    """Of csrc/kernels/powers.h for powers, also where the loop has no whole vector."""
    x, y = numbers(name, dtype)
    if name == "power":
        x[np.isinf(x)] = 1  # with an exponent of 0, C gives infinity
    expected = in_c(f"{name}_{np.dtype(dtype).name}", x, y)
    expected = np.where(np.abs(expected) < np.finfo(dtype).tiny, np.copysign(0, expected), expected)
    assert_same(of_rule(name, x, y), expected)
    for n in range(1, 20):
        assert_same(of_rule(name, x[:n], y[:n]), expected[:n])


def scalar_of(t, *, x, y):
    return own_rules.exp(x), log(x), x**y, np.tanh(x)


@fastopt.rule(scalars=scalar_of)
def scalars_of(p, g, a, b, c, *, lr=1.0, x=0.0, y=0.0, of_exp, of_log, of_power, of_tanh):
    return of_exp, of_log, of_power, of_tanh


def of_scalars(x, y):
    p = np.zeros(1)
    opt = scalars_of(p, x=x, y=y)
    opt.step(np.zeros(1))
    state = next(iter(opt.state.values()))
    return [p[0], *(state[name][0] for name in "abc")]


def test_scalars_have_the_bits_of_c(in_c):
    """Of csrc/math/exact.h, as the scalars of built-in rules."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(0, 1, 100), rng.lognormal(0, 5, 100), [0, 1, 2, 1e-300, 1e300]])
    y = np.concatenate([rng.uniform(0, 3, 100), rng.lognormal(0, 1, 100), [0, 0.5, 0.3, 0.7, 0.1]])
    results = np.array([of_scalars(*pair) for pair in zip(x, y, strict=True)]).T
    some = x > 0
    assert_same(results[0], in_c("exp_scalar", x, y))
    assert_same(results[1][some], in_c("log_scalar", x[some], y[some]))
    assert_same(results[2], in_c("power_scalar", x, y))
    np.testing.assert_allclose(results[3], np.tanh(x), rtol=1e-15)


def test_scalars_at_the_ends():
    inf, nan = np.inf, np.nan
    for x, y, expected in (
        (-2.0, 3.0, [np.exp(-2), nan, -8, np.tanh(-2)]),
        (-2.0, 0.5, [np.exp(-2), nan, nan, np.tanh(-2)]),
        (4.0, -0.5, [np.exp(4), np.log(4), 0.5, np.tanh(4)]),
        (0.0, 0.0, [1, -inf, 1, 0]),
        (0.0, -1.0, [1, -inf, inf, 0]),
        (1e4, 100.0, [inf, np.log(1e4), inf, 1]),
        (-1e4, 1.0, [0, nan, -1e4, -1]),
    ):
        np.testing.assert_allclose(of_scalars(x, y), expected, rtol=1e-14)


# Units in the last place: the largest error of each function over the numbers above.
ERRORS = {"exp": 1.5, "log": 3, "tanh": 3, "power": 2}
EXACT = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "power": np.power}


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="needs numbers of 64 digits")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_errors(name, dtype):
    x, y = numbers(name, dtype)
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        arguments = (x.astype(np.longdouble), y.astype(np.longdouble))[: 2 if name == "power" else 1]
        exact = EXACT[name](*arguments)
        exact[np.isnan(x)] = np.nan  # also to the power of 0
        results = of_rule(name, x, y)
        usual = (np.abs(exact) >= info.tiny) & (np.abs(exact) <= info.max)
        errors = np.abs(results[usual] - exact[usual]) / np.spacing(np.abs(exact[usual]).astype(dtype))
        assert errors.max() < ERRORS[name]
        others = exact.astype(dtype)
        others[np.abs(exact) < info.tiny] = 0
    np.testing.assert_array_equal(results[~usual], others[~usual])


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_any_exponent(dtype):
    """As NumPy, with an error that grows with the exponent; NaN for numbers below 0."""
    rng = np.random.default_rng(3)
    x, y = rng.lognormal(0, 2, 100_000).astype(dtype), rng.normal(0, 5, 100_000).astype(dtype)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
        usual = (expected > np.finfo(dtype).tiny) & (expected < np.finfo(dtype).max)
        error = np.abs(of_rule("power", x, y)[usual] - expected[usual]) / expected[usual]
        assert (error / np.finfo(dtype).eps / np.maximum(np.abs(y[usual]), 1)).max() < 2
    special = np.array([0, 0.5, 1, 2, np.inf, np.nan, -1], dtype)
    x, y = (values.ravel() for values in np.meshgrid(special, np.array([-700, -2.5, -0.5, 0, 0.5, 2.5, 700], dtype)))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    expected[x < 0], expected[np.isnan(x)] = np.nan, np.nan
    expected[(np.abs(expected) < np.finfo(dtype).tiny)] = 0
    np.testing.assert_allclose(of_rule("power", x, y), expected, rtol=1e-6)


PROGRAM = """
import numpy as np, fastopt

@fastopt.rule
def several(p, g, m, v, *, lr=1e-3, a=0.75):
    return p - lr * tanh(g), exp(m), power(abs(log(v)), a)

several(np.ones(3, np.float32))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads machine code of x86")
def test_loops_are_vectors(tmp_path):
    """Of float32 alone, without calls and fused operations."""
    from test_own_rules import run_program

    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    text = run_program(path, NUMBA_DUMP_ASSEMBLY="1")
    assert {"vdivps", "vdivpd", "vmulps", "vmulpd"} <= {*re.findall(r"\b\w+\b", text)}
    assert not re.search(r"vfn?m(add|sub)|cvts[sd]2s[sd]|cvtp[sd]2p[sd]", text)


def test_functions_of_python():
    """The names that editors read compute the same, in double."""
    for function, expected in ((exp, np.exp), (log, np.log), (tanh, np.tanh)):
        np.testing.assert_allclose(function(0.3), expected(0.3), rtol=1e-15)
    assert log(0.0) == -np.inf
    assert np.isnan(log(-1.0))
    assert power(4.0, 0.5) == 2
    assert np.isnan(power(-4.0, 2.0))
