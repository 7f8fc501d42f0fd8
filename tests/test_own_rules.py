"""Rules of one's own: the bits of the built-in rules, every option, errors by line, the cache, C functions."""

import copy
import ctypes
import os
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

import fastopt
from fastopt import own_rules
from fastopt.own_rules import (
    lost_mean,
    maximum,
    mean,
    next_mean,
    norm,
    product,
    rms,
    sign,
    sqrt,
    total,
    weight,
    where,
)
from support.arrays import DTYPES

numba = pytest.importorskip("numba", reason="numba is not installed")
Range = fastopt.Range
Nonnegative = Annotated[float, Range(0)]


# ---- Built-in rules, written once more ----


def adam_scalars(t, *, lr, beta1, beta2, eps):
    root2 = sqrt(1 - product(beta2))
    return lr * root2 / weight(beta1), eps * root2 + sqrt(lost_mean(beta2)), 1 - beta2


@fastopt.rule(scalars=adam_scalars)
def adam(p, g, m, v: Nonnegative, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, lr_t, eps_t, rest2):
    m = beta1 * m + (1 - beta1) * g
    v = next_mean(v, g * g, beta2, rest2)
    return p - lr_t * m / (sqrt(v) + eps_t), m, v


@fastopt.rule
def lion(p, g, m, *, lr=1e-4, beta1=0.9, beta2=0.99):
    step = sign(beta1 * m + (1 - beta1) * g)
    return p - lr * step, beta2 * m + (1 - beta2) * g


def undamped_of(t, *, momentum, dampening):
    return 1 if t == 1 or momentum == 0 else 1 - dampening


@fastopt.rule(scalars=undamped_of)
def momentum(p, g, b, *, lr=1e-3, momentum=0.9, dampening: Annotated[float, Range(0, 1, closed=True)] = 0.0, undamped):
    b = momentum * b + undamped * g
    return p - lr * b, b


PAIRS = {
    "adam": (adam, fastopt.Adam, lambda beta1=0.9, beta2=0.999: {"betas": (beta1, beta2)}),
    "lion": (lion, fastopt.Lion, lambda beta1=0.9, beta2=0.99: {"betas": (beta1, beta2), "weight_decay_form": "l2"}),
    "momentum": (momentum, fastopt.SGD, lambda dampening=0.0: {"momentum": 0.9, "dampening": dampening}),
}
N = 3001
OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "weight_decay_form": "decoupled", "cautious_decay": True},
    "clipped": {"clip_norm": 0.5, "clip_value": 0.1, "grad_scale": 4.0, "maximize": True},
    "averages": {"ema_decay": 0.9, "swa": (2, 2), "lookahead": (2, 0.5)},
    "8bit": {"state_dtype": "8bit", "num_threads": 2},
    "schedule": {"lr": fastopt.schedules.cosine(0.1, decay_steps=9), "nonfinite": "skip"},
}


def gradients(seed, shape, dtype, count=6):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


def bits_of(opt):
    """Parameters and state, to the bit."""
    state = [part for letters in opt.state_dict()["state"].values() for part in letters.values()]
    arrays = [array for group in opt.groups for array in group["params"]]
    return tuple([x.tobytes() if isinstance(x, np.ndarray) else repr(x) for x in of] for of in (arrays, state))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_the_bits_of_the_built_in_rule(name, options, dtype):
    own, built_in, names = PAIRS[name]
    first = gradients(0, N, dtype, 1)[0]
    runs = []
    for cls, hyper in ((own, {}), (built_in, {"weight_decay": 0.0, **names()})):
        opt = cls([first.copy()], **{"lr": 0.1, **hyper, **OPTIONS[options]})
        for g in gradients(1, N, dtype):
            opt.step([g])
        runs.append(bits_of(opt))
    assert runs[0] == runs[1]
    assert runs[0][0] != [first.tobytes()]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_of_16_bits(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    runs = []
    for cls in (adam, fastopt.Adam):
        opt = cls([np.ones(N, dtype)], lr=0.1)
        for g in gradients(1, N, dtype):
            opt.step([g])
        runs.append(bits_of(opt))
    assert runs[0] == runs[1]


def test_betas_that_change_and_betas_that_round_to_1():
    def changing(step):
        return (0.3, 0.9, 0.99999999)[step // 2]

    runs = []
    for cls, hyper in ((adam, {"beta1": changing, "beta2": 0.4}), (fastopt.Adam, {"betas": (changing, 0.4)})):
        opt = cls(np.ones(N, np.float32), lr=0.1, **hyper)
        for g in gradients(2, N, np.float32):
            opt.step(g)
        runs.append(bits_of(opt))
    assert runs[0] == runs[1]


def test_groups_layouts_and_rows():
    """Groups of their own rates, a transposed parameter, a gradient of rows."""
    runs = []
    for cls in (adam, fastopt.Adam):
        a, b = np.ones((40, 30), np.float32).T, np.ones((50, 8), np.float32)
        opt = cls([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1)
        for whole, some in zip(gradients(3, (30, 40), np.float32), gradients(4, (3, 8), np.float32), strict=True):
            opt.step([[whole], [fastopt.RowGrad([1, 40, 7], some)]])
        runs.append(bits_of(opt))
    assert runs[0] == runs[1]


def test_combined():
    a, b, c, d = (np.ones(N, np.float32) for _ in range(4))
    own = fastopt.Combined([adam([a], lr=0.1), fastopt.SGD([b], lr=0.1)], clip_norm=1.0)
    built_in = fastopt.Combined([fastopt.Adam([c], lr=0.1), fastopt.SGD([d], lr=0.1)], clip_norm=1.0)
    for g in gradients(5, N, np.float32):
        own.step([[g], [g]])
        built_in.step([[g], [g]])
    assert a.tobytes() == c.tobytes()
    assert b.tobytes() == d.tobytes()


# ---- Sums ----


def lamb_scalars(t, *, beta1, beta2, eps):
    root2 = sqrt(1 - product(beta2))
    return root2 / weight(beta1), eps * root2 + sqrt(lost_mean(beta2)), 1 - beta2


def lamb_norms(p, g, m, v, *, beta1, beta2, decay, unbias, eps_t, rest2):
    m = beta1 * m + (1 - beta1) * g
    v = next_mean(v, g * g, beta2, rest2)
    return m, v, norm(p), norm(unbias * m / (sqrt(v) + eps_t) + decay * p)


def lamb_rate(t, p, step, *, lr):
    return lr * (1 if p == 0 or step == 0 else p / step)


@fastopt.rule(scalars=lamb_scalars, gather=lamb_norms, combine=lamb_rate)
def lamb(
    p,
    g,
    m,
    v: Nonnegative,
    *,
    lr=1e-3,
    unbias,
    beta1=0.9,
    beta2=0.999,
    eps_t,
    eps=1e-6,
    decay: Nonnegative = 0.0,
    rest2,
    rate,
):
    return p - rate * (unbias * m / (sqrt(v) + eps_t) + decay * p)


def stable_rms(p, g, m, v, *, beta1, beta2, eps_t, rest2):
    m = beta1 * m + (1 - beta1) * g
    v = next_mean(v, g * g, beta2, rest2)
    root = sqrt(v)
    return m, v, rms(g / (eps_t if root < eps_t else root))


def stable_rate(t, size, *, lr, beta2):
    return lr / maximum(sqrt(1 - product(beta2)) * size, 1)


@fastopt.rule(scalars=lamb_scalars, gather=stable_rms, combine=stable_rate)
def stableadamw(
    p,
    g,
    m,
    v: Nonnegative,
    *,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-6,
    decay: Nonnegative = 0.0,
    unbias,
    eps_t,
    rest2,
    rate,
):
    return p - rate * (unbias * m / (sqrt(v) + eps_t) + decay * p)


def lars_norms(p, g, b):
    return norm(p), norm(g)


def lars_rate(t, of_p, of_g, *, lr, trust, eps):
    return lr * (1 if of_p == 0 or of_g == 0 else trust * of_p / (of_g + eps))


@fastopt.rule(gather=lars_norms, combine=lars_rate)
def lars(p, g, b, *, lr=1e-3, momentum=0.9, trust=0.001, eps=0.0, rate):
    b = momentum * b + rate * g
    return p - b, b


WITH_SUMS = {
    "lamb": (lamb, fastopt.LAMB, {"decay": 0.01}, {"weight_decay": 0.01}),
    "stableadamw": (
        stableadamw,
        fastopt.StableAdamW,
        {"decay": 0.01},
        {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01},
    ),
    "lars": (lars, fastopt.LARS, {}, {"momentum": 0.9, "eps": 0.0}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", WITH_SUMS)
def test_rules_with_sums_have_the_bits_of_the_built_in_ones(name, options, dtype):
    """Of several sizes: a part of a block, blocks, pieces."""
    own, built_in, *hyper = WITH_SUMS[name]
    given = {key: value for key, value in OPTIONS[options].items() if "decay" not in key or key == "ema_decay"}
    runs = []
    for cls, of_class in zip((own, built_in), hyper, strict=True):
        arrays = gradients(0, 40, dtype, 2) + gradients(0, (300, 131), dtype, 1)
        opt = cls([*arrays, np.zeros((2, 3), dtype).T], **{"lr": 0.1, **of_class, **given})
        for step in range(5):
            opt.step([*gradients(step, 40, dtype, 2), *gradients(step, (300, 131), dtype, 1), np.ones((3, 2), dtype)])
        runs.append(bits_of(opt))
    assert runs[0] == runs[1]
    assert runs[0][0][0] != gradients(0, 40, dtype, 1)[0].tobytes()


def four_sums(p, g, a, b, c, d):
    return total(p), mean(g), norm(p - g), rms(p)


def as_they_are(t, x, y, z, w, *, lr):
    return x, y, z, w


@fastopt.rule(gather=four_sums, combine=as_they_are)
def sums(p, g, a, b, c, d, *, lr=1e-3, x, y, z, w):
    return p, x, y, z, w


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 1000, 70_001])
def test_sums(n, dtype):
    """Of whole numbers, which are exact; the same on any number of threads, and for strided parameters."""
    p, g = (np.random.default_rng(i).integers(-9, 9, n).astype(dtype) for i in (1, 2))
    exact = [p.sum(dtype=float), g.mean(dtype=float), np.sqrt(((p - g) ** 2).sum(dtype=float))]
    exact = np.array([*exact, np.sqrt((p**2).sum(dtype=float) / n)], dtype)
    for opt in (sums(p.copy(), num_threads=1), sums(np.repeat(p, 2)[::2], num_threads=3)):
        opt.step(g)
        state = next(iter(opt.state.values()))
        assert [state[name].flat[0] for name in "abcd"] == exact.tolist()


def test_norms_beyond_the_range_of_squares():
    opt = sums(np.array([3e200, 4e200]))
    opt.step(np.zeros(2))
    state = next(iter(opt.state.values()))
    np.testing.assert_allclose(state["c"], 5e200, rtol=1e-15)


def test_rules_with_sums_take_no_rows():
    opt = lamb(np.ones((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"^lamb\.step: .* since this rule needs all of it, got a RowGrad"):
        opt.step(fastopt.RowGrad([1], np.ones((1, 2), np.float32)))


GATHERS = "def rule_of_mine(p, g, m, *, lr=1, beta=0.9, a, b):\n    return RESULTS\n\n"
GATHERS += "def gather(p, g, m, *, beta):\n    return SUMS\n\ndef combine(t, x, *, lr):\n    return lr / x, x\n"
BROKEN_SUMS = {
    "no sum": (
        "p, m",
        "g",
        r"line 5 of .*must return each sum as mean\(x\), norm\(x\), rms\(x\) or total\(x\), got g",
    ),
    "an expression": ("p, m", "norm(g) + 1", r"gather, line 5 .*must return each sum as .*, got norm\(g\) \+ 1"),
    "two terms": ("p, m", "norm(g, p)", r"gather, line 5 .*norm must get one term, got norm\(g, p\)"),
    "within": ("p, m", "norm(norm(g))", "gather, line 5 .*norm must be one of the last results of gather"),
    "in the rule": (
        "p - norm(g), m",
        "norm(g)",
        "^rule_of_mine, line 2 .*norm must be one of the last results",
    ),
    "too many": (
        "p, m",
        "m, norm(g), norm(p)",
        r"line 5 .*must return m, x, as combine takes the sums, got 3",
    ),
    "state twice": (
        "p, m",
        "m, norm(g)",
        "^rule_of_mine, line 2 .*must return p alone, since gather returns the state",
    ),
    "state not at all": ("p", "norm(g)", r"^rule_of_mine, line 2 .*must return p, m, got 1 value"),
}


@pytest.mark.parametrize("case", BROKEN_SUMS)
def test_errors_of_sums_name_the_function_and_the_line(case, tmp_path):
    results, of_sums, words = BROKEN_SUMS[case]
    names, _ = module_of(tmp_path, GATHERS.replace("RESULTS", results).replace("SUMS", of_sums))
    with pytest.raises(TypeError, match=words):
        fastopt.rule(gather=names["gather"], combine=names["combine"])(names["rule_of_mine"])


OTHERS = """
def none(t, *, lr):
    return lr, lr

def both(t, *, lr):
    return lr, lr

def short(p, g):
    return norm(p)

def other(t, x, *, rate):
    return x, x
"""


def test_functions_of_sums_that_do_not_fit(tmp_path):
    names, _ = module_of(tmp_path, GATHERS.replace("RESULTS", "p, m").replace("SUMS", "norm(g)") + OTHERS)
    good = {"gather": names["gather"], "combine": names["combine"]}
    for change, words in (
        ({"combine": None}, "combine must be a Python function for a rule with sums, got None"),
        ({"gather": None}, "gather must be a Python function for a rule with sums, got None"),
        ({"scalars": c_scalars()}, "scalars must be a Python function for a rule with sums"),
        ({"loops": c_loops()}, r"loops must be None for a rule with sums, .*fastopt_rule_create"),
        ({"combine": names["none"]}, r"none, line 10 .*must take the step, then the sums, got \(t, \*, lr\)"),
        (
            {"scalars": names["both"]},
            "combine, line 7 .*must compute some argument .* that both does not return",
        ),
        ({"gather": names["short"]}, "short, line 16 .*must take p, g, m, and then by name .* some of lr, beta, got"),
        (
            {"combine": names["other"]},
            "other, line 19 .*must take the step, then the sums, and then by name",
        ),
    ):
        with pytest.raises(TypeError, match=f"^rule_of_mine: {words}"):
            fastopt.rule(**{**good, **change})(names["rule_of_mine"])


def test_copies_of_rules_with_sums():
    opt = lamb(np.ones(100), lr=0.1)
    opt.step(np.ones(100))
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for one in (opt, *others):
        one.step(np.arange(100.0))
    assert all(bits_of(one) == bits_of(opt) for one in others)


# ---- Copies and files ----


def test_copies_pickles_and_state_dicts_go_on():
    grads = gradients(6, N, np.float32)
    opt = adam(np.ones(N, np.float32), lr=0.1, state_dtype={"m": "bfloat16"})
    for g in grads[:3]:
        opt.step(g)
    loaded = adam(opt.groups[0]["params"][0].copy(), lr=0.3, state_dtype={"m": "bfloat16"})
    loaded.load_state_dict(opt.state_dict())
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded]
    for one in (opt, *others):
        for g in grads[3:]:
            one.step(g)
    assert all(bits_of(one) == bits_of(opt) for one in others)


def test_files(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    opt = lion(np.ones(5), lr=0.1)
    opt.step(np.ones(5))
    fastopt.save(tmp_path / "run.safetensors", opt, parameters=True)
    other = lion(np.zeros(5), lr=0.2)
    fastopt.load(tmp_path / "run.safetensors", other, parameters=True)
    assert bits_of(other) == bits_of(opt)
    with pytest.raises(ValueError, match="rule must be 'adam', got 'lion'"):
        fastopt.load(tmp_path / "run.safetensors", adam(np.zeros(5)))


# ---- The numbers ----


@fastopt.rule
def functions(p, g, a, b, c, d, *, lr=1e-3):
    low, high = own_rules.minimum(p, g), own_rules.maximum(p, g)
    return abs(p) ** 3 - 2 * low, high, sign(g), where(p < g or p == 7, p, -g), sqrt(p) if p > 1 / 3 else g**0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_are_those_of_numpy(dtype):
    special = np.array([0.0, -0.0, 1, -2, 0.3, 7, np.inf, -np.inf, np.nan], dtype)
    p, g = (x.ravel() for x in np.meshgrid(special, special))
    opt = functions(p.copy())
    opt.step(g)
    state = opt.state["0"] if "0" in opt.state else opt.state[0]
    with np.errstate(all="ignore"):
        size = np.abs(p)
        np.testing.assert_array_equal(opt.groups[0]["params"][0], size * size * size - dtype(2) * np.minimum(p, g))
        np.testing.assert_array_equal(state["a"], np.maximum(p, g))
        np.testing.assert_array_equal(state["b"], np.sign(g))
        np.testing.assert_array_equal(state["c"], np.where((p < g) | (p == 7), p, -g))
        np.testing.assert_array_equal(state["d"], np.where(p > dtype(1 / 3), np.sqrt(p), np.sqrt(g)))


HALF = 0.5


def scaled(x, by):
    """A function that a rule calls."""
    if by == HALF:
        return x * HALF
    return x * by


@fastopt.rule
def sign_momentum(p, g, m, *, lr=1e-3, beta=0.9):
    """Step along the sign of the running mean."""
    m = beta * m + (1 - beta) * g
    size: float = scaled(scaled(lr, HALF), 2)
    return p - size * np.sign(m), m


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_operation_is_rounded_once_in_the_type_of_the_elements(dtype):
    """As NumPy computes the same; threads and cuts change nothing."""
    p, m, beta = np.ones(40_000, dtype), np.zeros(40_000, dtype), dtype(0.9)
    whole, parts = p.copy(), p.copy()
    by_threads = sign_momentum([whole], lr=0.1, num_threads=3)
    by_parts = sign_momentum([parts[:17], parts[17:9001], parts[9001:]], lr=0.1, num_threads=1)
    for g in gradients(7, 40_000, dtype):
        by_threads.step([g])
        by_parts.step([g[:17], g[17:9001], g[9001:]])
        m = beta * m + (dtype(1) - beta) * g
        p = p - dtype(0.1) * np.sign(m)
    assert whole.tobytes() == p.tobytes() == parts.tobytes()


def test_the_class():
    assert sign_momentum.__name__ == "sign_momentum"
    assert issubclass(sign_momentum, fastopt.Optimizer)
    assert sign_momentum.__module__ == __name__
    assert sign_momentum.__doc__.startswith("Step along the sign of the running mean.")
    assert "beta : float, in [0, 1), default 0.9" in sign_momentum.__doc__
    assert list(sign_momentum.__signature__.parameters)[:3] == ["params", "lr", "beta"]


@fastopt.rule(exact=["b"])
def ranges(
    p,
    g,
    a: Nonnegative,
    b,
    *,
    lr=0.1,
    mix: Annotated[float, Range(-1, 1, closed=True)] = 1,
    decay: Annotated[float, Range(high=3)] = 0.5,
    power=2.0,
):
    return p - lr * mix, a + abs(g), b + decay


def test_ranges():
    opt = ranges(np.ones(70, np.float32), state_dtype="8bit", decay=-7)
    opt.step(np.ones(70, np.float32))
    state = next(iter(opt.state.values()))
    assert state["b"].tolist() == [-7] * 70, "stored exactly"
    assert state["a"].format == "codes_nonnegative"
    for name, value, words in (
        ("mix", 1.5, r"in \[-1, 1\], got 1.5"),
        ("decay", 3, r"in \(-infinity, 3\), got 3.0"),
        ("power", np.inf, "finite, got inf"),
        ("power", "2", "a number, got '2'"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^ranges: {name} must be {words}"):
            ranges(np.ones(3), **{name: value})
    with pytest.raises(ValueError, match=r"^ranges: mix must be in \[-1, 1\], got 2.0"):
        opt.groups[0]["mix"] = 2
    for bad, words in (({"low": 1, "high": 1}, "low must be below high"), ({"low": "x"}, "low must be a number")):
        with pytest.raises((ValueError, TypeError), match=f"^Range: {words}"):
            Range(**bad)


# ---- Errors ----

HEAD = "def rule_of_mine(p, g, m, *, lr=1e-3, beta=0.9):\n"
BROKEN = {
    "unknown name": (HEAD + "    return p - lr * sgn(m), m", NameError, 2, r"sgn is not known.*did you mean 'sign'"),
    "unknown variable": (HEAD + "    return p - rate * m, m", NameError, 2, "rate is not known"),
    "state that is missing": (
        HEAD + "    m = beta * m\n    return p - lr * m",
        TypeError,
        3,
        "return p, m, got 1 value",
    ),
    "too many": (HEAD + "    return p, m, m", TypeError, 2, "must return p, m, got 3 values"),
    "no return": (HEAD + "    m = beta * m + g", TypeError, 2, "must return p, m at its end"),
    "one way without": (HEAD + "    if g > 0:\n        return p, m", TypeError, 2, "must return p, m at its end"),
    "loop": (HEAD + "    for i in range(3):\n        m = m + g\n    return p, m", TypeError, 2, "got For"),
    "index": (HEAD + "    return p[0], m", TypeError, 2, "got Subscript"),
    "text": (HEAD + "    return p - 'x', m", TypeError, 2, "constants must be numbers, got 'x'"),
    "comparison": (HEAD + "    return p - lr * (m > 0), m", TypeError, 2, "a comparison is no number"),
    "exponent": (HEAD + "    return p - m ** 17, m", TypeError, 2, r"must be from -16 to 16, got 17; power\(x, 17\)"),
    "module": (HEAD + "    return p - np.cbrt(m), m", TypeError, 2, "np.cbrt must be one of abs, exp"),
    "arguments": (HEAD + "    return p - where(m, p), m", TypeError, 2, "where must get condition, x, y, got 2"),
    "keyword": (HEAD + "    return p - sqrt(x=m), m", TypeError, 2, "must be given by position"),
    "scalars only": (HEAD + "    return p - product(m), m", TypeError, 2, "product is for the scalars of a rule"),
    "no lr": ("def rule_of_mine(p, g, *, rate=1):\n    return p", TypeError, None, "must be lr, .* got rate"),
    "an option": ("def rule_of_mine(p, g, *, lr=1, seed=1):\n    return p", TypeError, None, "seed must have another"),
    "no gradient": ("def rule_of_mine(p, *, lr=1):\n    return p", TypeError, None, "must take p and g by position"),
    "default of state": ("def rule_of_mine(p, g, m=0, *, lr=1):\n    return p, m", TypeError, None, "m must have no"),
    "any state": ("def rule_of_mine(p, g, *m, lr=1):\n    return p", TypeError, None, "arguments must have names"),
    "no scalars": (
        "def rule_of_mine(p, g, *, lr=1, k):\n    return p",
        TypeError,
        None,
        "k have no default and so are",
    ),
    "bad default": ("def rule_of_mine(p, g, *, lr=-1):\n    return p", ValueError, None, "lr must be finite and >= 0"),
    "itself": (
        "def rule_of_mine(p, g, *, lr=1):\n    return f(p)\n\ndef f(x):\n    return f(x)",
        TypeError,
        5,
        "itself",
    ),
}


def module_of(tmp_path, text):
    """The names of a module in a file of its own."""
    path = tmp_path / "a_module_of_rules.py"
    path.write_text(text)
    names = {"__name__": "a_module_of_rules", "np": np}
    exec(compile(text, str(path), "exec"), names)
    return names, path


@pytest.mark.parametrize("case", BROKEN)
def test_errors_name_the_rule_and_the_line(case, tmp_path):
    text, kind, line, words = BROKEN[case]
    names, path = module_of(tmp_path, text)
    where = f", line {line} of {path}" if line else ""
    with pytest.raises(kind, match=words) as error:
        fastopt.rule(names["rule_of_mine"])
    assert str(error.value).startswith("rule_of_mine")
    assert where in str(error.value)


BROKEN_SCALARS = {
    "too few": ("def k(t, *, lr):\n    return lr", "line 2 .*must return a, b, got 1 value"),
    "product": (
        "def k(t, *, lr):\n    return product(t), lr",
        "line 2 .*product must get the name of a hyperparameter",
    ),
    "unknown": ("def k(t, *, rate):\n    return t, t", "must take the step, .*some of lr"),
}


@pytest.mark.parametrize("case", BROKEN_SCALARS)
def test_errors_of_scalars(case, tmp_path):
    text, words = BROKEN_SCALARS[case]
    names, _ = module_of(tmp_path, text + "\n\ndef rule_of_mine(p, g, *, lr=1, a, b):\n    return p")
    with pytest.raises(TypeError, match=f"^rule_of_mine: k.*{words}"):
        fastopt.rule(scalars=names["k"])(names["rule_of_mine"])


def test_errors_of_numba_name_the_line(tmp_path):
    names, path = module_of(tmp_path, HEAD + "    pair = p, g\n    return p - pair, m")
    own = fastopt.rule(names["rule_of_mine"])
    with pytest.raises(TypeError, match=f"^rule_of_mine cannot be compiled, line 3 of {path}: .*sub"):
        own(np.ones(3))


def test_other_types_than_that_of_the_elements(tmp_path):
    names, _ = module_of(
        tmp_path, HEAD + "    up, down = m > g, m < g\n    both = up + down\n    return p - lr * both, m"
    )
    own = fastopt.rule(names["rule_of_mine"])
    words = "^rule_of_mine must compute in the type of its elements, but both has type int64"
    with pytest.raises(TypeError, match=words):
        own(np.ones(3))


def test_values_that_are_no_rules():
    for value in (3, abs, lambda p, g, *, lr: p):
        with pytest.raises(TypeError):
            fastopt.rule(value)
    with pytest.raises(ValueError, match=r"^one: exact must have names of state, \[\], got 'm'"):

        @fastopt.rule(exact=["m"])
        def one(p, g, *, lr=1):
            return p

    with pytest.raises(TypeError, match="scalars must be None"):

        @fastopt.rule(scalars=undamped_of)
        def other(p, g, *, lr=1):
            return p


# ---- Machine code ----

PROGRAM = """
import sys
import numpy as np, fastopt
assert "numba" not in sys.modules

@fastopt.rule
def cached(p, g, m, n, s, v, *, lr=1e-3, beta=0.9):
    m = beta * m + (1 - beta) * g
    n, s, v = maximum(n, g), sign(m), v + 0.5 * (g * g - v)
    return p - lr * m / (sqrt(v) + 1e-8), m, n, s, v

assert "numba" not in sys.modules
print("hits", sum(one.owner._cache_hits for one in cached._own_rule.loops().values()))
"""


def run_program(path, **environment):
    """What the program prints on a CPU with AVX2."""
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma", **environment}
    return subprocess.check_output([sys.executable, str(path)], text=True, env=environment)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads machine code of x86")
def test_the_cache_and_the_loop(tmp_path):
    """Compiled once, to vectors of float32: no conversions, no fused operations, no checks for overlaps."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    text = run_program(path, NUMBA_DUMP_ASSEMBLY="1")
    assert text.endswith("hits 0\n")
    assert "vsqrtps" in text
    assert not re.search(r"vfn?m(add|sub)|cvts[sd]2s[sd]|cvtp[sd]2p[sd]", text)
    assert run_program(path) == "hits 2\n"
    path.write_text(PROGRAM.replace("0.5 *", "0.25 *"))
    assert run_program(path) == "hits 0\n"


def test_without_numba(tmp_path):
    path = tmp_path / "program.py"
    lines = PROGRAM.replace("import sys\n", "import sys\nsys.modules['numba'] = None\n")
    path.write_text(re.sub("assert .*\n", "", lines))
    printed = subprocess.run([sys.executable, str(path)], capture_output=True, text=True).stderr
    assert printed.endswith("ImportError: fastopt.rule needs Numba: pip install 'fastopt[numba]'\n")


def test_a_function_without_a_source():
    names = {}
    exec("def rule_of_mine(p, g, *, lr=1): return p", names)
    with pytest.raises(
        TypeError, match=r"^rule_of_mine must stand in a file or a notebook, where Python finds it, but"
    ):
        fastopt.rule(names["rule_of_mine"])


# ---- C functions ----


def pointer_to(kind):
    return numba.types.CPointer(kind)


def c_loops():
    """Plain descent and a count of steps, compiled by hand."""
    made = {}
    for dtype in ("float32", "float64"):
        kind = getattr(numba.types, dtype)
        pointer = pointer_to(kind)

        def loop(p, g, state, scalars, n):
            for i in range(n):
                p[i] -= scalars[1] * g[i]
                state[0][i] += 1

        made[dtype] = numba.cfunc(numba.types.void(pointer, pointer, pointer_to(pointer), pointer, numba.types.intp))(
            loop
        )
    return made


def c_scalars():
    real = pointer_to(numba.types.float64)

    def halved(t, given, out):
        out[0] = given[0][0] / t

    return numba.cfunc(numba.types.void(numba.types.int64, pointer_to(real), real))(halved)


def capsule(function, dtype):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    word = "float" if dtype == "float32" else "double"
    name = f"void ({word} *, {word} const *, void const *, void const *, Py_ssize_t)".encode()
    NAMES.append(name)
    return new(function.address, name, None)


NAMES = []  # capsules do not own theirs


def low_level(function, dtype):
    scipy = pytest.importorskip("scipy", reason="scipy is not installed")
    return scipy.LowLevelCallable(capsule(function, dtype))


def of_cffi(function, dtype):
    ffi = pytest.importorskip("cffi", reason="cffi is not installed").FFI()
    word = "float" if dtype == "float32" else "double"
    return ffi.cast(f"void (*)({word} *, const {word} *, const void *, const void *, ptrdiff_t)", function.address)


FORMS = {
    "numba": lambda function, dtype: function,
    "ctypes": lambda function, dtype: function.ctypes,
    "capsule": capsule,
    "scipy": low_level,
    "cffi": of_cffi,
}


@pytest.mark.parametrize("form", FORMS)
def test_c_functions(form):
    loops = {dtype: FORMS[form](function, dtype) for dtype, function in c_loops().items()}

    @fastopt.rule(loops=loops, scalars=c_scalars())
    def counted(p, g, count, *, lr=1e-3, rate): ...

    for dtype in DTYPES:
        p = np.ones(N, dtype)
        opt = counted(p, lr=0.5)
        for _ in range(2):
            opt.step(np.ones(N, dtype))
        assert p.tolist() == [0.25] * N
        assert next(iter(opt.state.values()))["count"].tolist() == [2.0] * N
        assert opt.step_count == 2


def test_other_signatures_are_refused():
    def counted(p, g, *, lr=1e-3): ...

    good = c_loops()
    swapped = {"float32": good["float64"], "float64": good["float32"]}
    untyped = dict.fromkeys(good, ctypes.CDLL(None).abs)
    for loops, words in (
        (swapped, r"loops\['float32'\] must have signature 'void \(float .*', got 'void \(double"),
        (untyped, "must have argtypes"),
        (dict.fromkeys(good, 12345), "must be a function of ctypes, cffi"),
        ({"float32": good["float32"]}, "loops must be a mapping with float32 and float64, got"),
    ):
        with pytest.raises(TypeError, match=f"^counted: .*{words}"):
            fastopt.rule(loops=loops)(counted)


# ---- torch ----


def test_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    p, q = (torch.nn.Parameter(torch.ones(N)) for _ in range(2))
    cls = fastopt.torch.wrap(adam)
    own, built_in = cls([p], lr=0.1), fastopt.torch.Adam([q], lr=0.1)
    assert fastopt.torch.wrap(adam) is cls
    assert isinstance(own, torch.optim.Optimizer)
    for g in gradients(8, N, np.float32):
        p.grad, q.grad = torch.from_numpy(g), torch.from_numpy(g.copy())
        own.step()
        built_in.step()
    assert torch.equal(p, q)
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert type(other) is cls
        assert other.step_count == own.step_count
    with pytest.raises(TypeError, match=r"^wrap: rule must be a class that fastopt.rule has made, got"):
        fastopt.torch.wrap(fastopt.Adam)


# ---- The page ----

ROOT = Path(__file__).parents[1]


def test_the_page_runs(tmp_path):
    page = ROOT / "docs" / "own-rules.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    path = tmp_path / "page.py"
    path.write_text("\n".join(blocks) + "\nprint(opt.step_count, w[0, 0] < 1, adam(np.ones(3)).step_count)\n")
    assert subprocess.check_output([sys.executable, str(path)], text=True) == "1 True 0\n"
