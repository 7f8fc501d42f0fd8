"""Schedules: against torch's and optax's of the same name, their properties, and a run of every rule with them."""

import copy
import inspect
import itertools
import json
import math
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import schedules as s
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids
from support.cases import RULES
from support.hyper import declared, parts, range_of

try:
    import torch
    from torch.optim import lr_scheduler as of_torch
except ImportError:
    torch = of_torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch to compare with")


def values(schedule, steps):
    return [schedule(t) for t in range(steps)]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-17)


# ---- torch ----


def torch_values(make, lr, steps, key="lr", **options):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, **options)
    scheduler = make(opt)
    found = []
    for _ in range(steps):
        found.append(float(opt.param_groups[0][key]))
        opt.step()
        scheduler.step()
    return found


@needs_torch
def test_of_torch_constant():
    for lr in (0.0, 0.1):
        assert values(s.constant(lr), 5) == torch_values(lambda o: of_torch.LambdaLR(o, lambda t: 1), lr, 5)
    for steps in (1, 4):
        ours = s.join([s.constant(0.03), s.constant(0.1)], [steps])
        assert_close(values(ours, 9), torch_values(lambda o: of_torch.ConstantLR(o, 0.3, steps), 0.1, 9))  # noqa: B023


@pytest.mark.parametrize(("start", "end", "steps"), [(0.25, 1.0, 7), (1.0, 0.0, 10), (0.5, 0.5, 1), (1.0, 0.1, 1)])
@needs_torch
def test_of_torch_linear(start, end, steps):
    theirs = torch_values(lambda o: of_torch.LinearLR(o, start, end, steps), 0.1, 2 * steps + 3)
    assert_close(values(s.linear(0.1 * start, 0.1 * end, steps), 2 * steps + 3), theirs)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5, 3.7])
@pytest.mark.parametrize("steps", [1, 2, 13])
@needs_torch
def test_of_torch_polynomial(power, steps):
    theirs = torch_values(lambda o: of_torch.PolynomialLR(o, steps, power), 0.1, 2 * steps + 3)
    assert_close(values(s.polynomial(0.1, 0.0, power, steps), 2 * steps + 3), theirs)


@pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0, 1.3])
@needs_torch
def test_of_torch_exponential(gamma):
    assert_close(
        values(s.exponential(0.1, gamma), 300), torch_values(lambda o: of_torch.ExponentialLR(o, gamma), 0.1, 300)
    )


@pytest.mark.parametrize(("size", "gamma"), [(1, 0.5), (7, 0.1), (30, 0.9)])
@needs_torch
def test_of_torch_step(size, gamma):
    assert_close(values(s.step(0.1, size, gamma), 95), torch_values(lambda o: of_torch.StepLR(o, size, gamma), 0.1, 95))
    assert s.step(0.1, size)(size) == pytest.approx(0.01)


@pytest.mark.parametrize("milestones", [[1], [3, 4, 20], []])
@needs_torch
def test_of_torch_multi_step(milestones):
    theirs = torch_values(lambda o: of_torch.MultiStepLR(o, milestones, 0.3), 0.1, 40)
    assert_close(values(s.multi_step(0.1, milestones, 0.3), 40), theirs)


@pytest.mark.parametrize(("steps", "end"), [(1, 0.0), (10, 0.0), (1000, 0.02), (7, 0.5)])
@needs_torch
def test_of_torch_cosine(steps, end):
    """Up to its end: torch's goes up again from there, ours stays."""

    def make(o):
        return of_torch.CosineAnnealingLR(o, steps, end)

    ours = values(s.cosine(0.1, steps, end), steps + 5)
    np.testing.assert_allclose(ours[: steps + 1], torch_values(make, 0.1, steps + 1), rtol=1e-9, atol=1e-16)
    assert ours[steps:] == [end] * 5


@pytest.mark.parametrize(("steps", "mult", "end"), [(1, 1, 0.0), (10, 1, 0.01), (3, 2, 0.0), (5, 3, 0.2)])
@needs_torch
def test_of_torch_cosine_restarts(steps, mult, end):
    theirs = torch_values(lambda o: of_torch.CosineAnnealingWarmRestarts(o, steps, mult, end), 0.1, 150)
    assert_close(values(s.cosine_restarts(0.1, steps, mult, end), 150), theirs)


ONE_CYCLE = [
    {"total_steps": 100},
    {"total_steps": 100, "anneal_strategy": "linear", "pct_start": 0.45},
    {"total_steps": 73, "three_phase": True, "pct_start": 0.2},
    {"total_steps": 73, "three_phase": True, "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 10.0},
    {"total_steps": 50, "pct_start": 0.31},  # a phase that ends between two steps
    {"total_steps": 10, "pct_start": 1.0},
]


@pytest.mark.parametrize("options", ONE_CYCLE, ids=str)
@needs_torch
def test_of_torch_one_cycle(options):
    total = options["total_steps"]

    def make(o):
        return of_torch.OneCycleLR(o, 0.4, **options | {"anneal_strategy": options.get("anneal_strategy", "cos")})

    ours = values(s.one_cycle(0.4, **options), total + 5)
    assert_close(ours[: total - 1], torch_values(make, 0.4, total - 1, momentum=0.9))
    last = 0.4 if options.get("pct_start") == 1.0 else ours[0] / options.get("final_div_factor", 1e4)
    assert ours[total - 1 :] == pytest.approx([last] * 6)
    momentum = s.one_cycle(0.85, **{**options, "div_factor": 0.85 / 0.95, "final_div_factor": 1.0})
    assert_close(values(momentum, total - 1), torch_values(make, 0.4, total - 1, "momentum", momentum=0.9))


@needs_torch
def test_of_torch_warmup():
    def make(o):
        parts = of_torch.LinearLR(o, 0.2, 1.0, 8), of_torch.CosineAnnealingLR(o, 30, 0.01)
        return of_torch.SequentialLR(o, parts, [8])

    ours = values(s.warmup(s.cosine(0.1, 30, 0.01), 8, 0.02), 38)
    np.testing.assert_allclose(ours, torch_values(make, 0.1, 38), rtol=1e-9)


@needs_torch
def test_of_torch_join():
    def make(o):
        parts = [of_torch.ConstantLR(o, 0.5, 100), of_torch.StepLR(o, 4, 0.5), of_torch.ExponentialLR(o, 0.9)]
        return of_torch.SequentialLR(o, parts, [5, 20])

    ours = s.join([s.constant(0.05), s.step(0.1, 4, 0.5), s.exponential(0.1, 0.9)], [5, 20])
    assert_close(values(ours, 40), torch_values(make, 0.1, 40))


PLATEAU = {
    "patience": [0, 2, 5],
    "threshold_mode": ["rel", "abs"],
    "mode": ["min", "max"],
    "cooldown": [0, 3],
    "min_value": [0.0, 0.02],
    "threshold": [0.0, 0.05],
}


@pytest.mark.parametrize("options", list(itertools.product(*PLATEAU.values())), ids=str)
@needs_torch
def test_of_torch_reduce_on_plateau(options):
    options = dict(zip(PLATEAU, options, strict=True))
    rng = np.random.default_rng(7)
    losses = np.exp(-np.arange(80) / 20) + 0.2 * rng.standard_normal(80)
    losses[[11, 40]] = math.nan
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = {"min_lr" if key == "min_value" else key: value for key, value in options.items()}
    peer = of_torch.ReduceLROnPlateau(opt, factor=0.4, **theirs)
    ours = s.reduce_on_plateau(0.1, factor=0.4, **options)
    # Above 0: with a relative threshold torch takes no loss below 0 for a plateau.
    for loss in 2 + losses if options["mode"] == "min" else 2 - losses:
        ours.report(loss)
        peer.step(loss)
        assert ours(0) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-12)
        assert ours.best == peer.best
        assert ours.bad_reports == peer.num_bad_epochs
        assert ours.cooldown_left == peer.cooldown_counter
    assert ours(0) < 0.1


# ---- optax ----

OPTAX = {
    "constant_schedule(0.1)": s.constant(0.1),
    "linear_schedule(0.1, 0.3, 12)": s.linear(0.1, 0.3, 12),
    "linear_schedule(0.1, -0.3, 12, 5)": s.linear(0.1, -0.3, 12, 5),
    "polynomial_schedule(0.1, 0.01, 2.5, 30)": s.polynomial(0.1, 0.01, 2.5, 30),
    "polynomial_schedule(0.0, 1.0, 3, 30, 7)": s.polynomial(0.0, 1.0, 3, 30, 7),
    "exponential_decay(0.1, 10, 0.5)": s.exponential(0.1, 0.5, 10),
    "exponential_decay(0.1, 10, 0.5, 7)": s.exponential(0.1, 0.5, 10, 7),
    "exponential_decay(0.1, 10, 0.5, 7, True)": s.exponential(0.1, 0.5, 10, 7, True),
    "exponential_decay(0.1, 10, 0.5, 0, False, 0.02)": s.exponential(0.1, 0.5, 10, end_value=0.02),
    "exponential_decay(0.1, 10, 1.5, 0, True, 0.3)": s.exponential(0.1, 1.5, 10, staircase=True, end_value=0.3),
    "cosine_decay_schedule(0.1, 40)": s.cosine(0.1, 40),
    "cosine_decay_schedule(0.1, 40, 0.2)": s.cosine(0.1, 40, 0.2 * 0.1),
    "cosine_decay_schedule(0.1, 40, 0.2, 1.7)": s.cosine(0.1, 40, 0.2 * 0.1, 1.7),
    "piecewise_constant_schedule(0.1, {5: 0.3, 17: 0.3})": s.multi_step(0.1, [5, 17], 0.3),
    "warmup_constant_schedule(0.01, 0.1, 9)": s.warmup(s.constant(0.1), 9, 0.01),
    "warmup_cosine_decay_schedule(0.0, 0.1, 10, 50, 0.01, 2.0)": s.warmup(s.cosine(0.1, 40, 0.01, 2.0), 10),
    "warmup_exponential_decay_schedule(0.0, 0.1, 10, 5, 0.8)": s.warmup(s.exponential(0.1, 0.8, 5), 10),
    "join_schedules([linear_schedule(0.0, 0.1, 6), constant_schedule(0.1), linear_schedule(0.1, 0.02, 9)], [6, 20])": (
        s.warmup_stable_decay(0.1, 6, 14, 9, end_value=0.02)
    ),
    "join_schedules([constant_schedule(0.1), cosine_decay_schedule(0.2, 9)], [4])": (
        s.join([s.constant(0.1), s.cosine(0.2, 9)], [4])
    ),
    "sgdr_schedule([{'init_value': 0.0, 'peak_value': 0.1, 'warmup_steps': 4, 'decay_steps': n} for n in (14, 24)])": (
        s.join([s.warmup(s.cosine(0.1, 10), 4), s.warmup(s.cosine(0.1, 20), 4)], [14])
    ),
    # Theirs comes to its end after so many steps, torch's and ours with the last of them.
    "cosine_onecycle_schedule(100, 0.4, 0.3)": s.one_cycle(0.4, 101, 31 / 101),
}
PLATEAUS = [{"patience": 3}, {"patience": 1, "cooldown": 2, "rtol": 0.05}, {"patience": 2, "rtol": 0.0, "atol": 0.1}]
STEPS = 110
LOSSES = (np.exp(-np.arange(60) / 15) + 0.1 * np.random.default_rng(3).random(60)).tolist()

IN_OPTAX = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, optax, optax.contrib
names, steps, plateaus, losses = json.load(sys.stdin)
at = jnp.arange(steps)
found = {name: jax.vmap(lambda t: jnp.asarray(eval(name, vars(optax))(t), float))(at).tolist() for name in names}
scales = []
for options in plateaus:
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, **options)
    def report(state, loss):
        state = plateau.update(jnp.zeros(1), state, value=loss)[1]
        return state, state.scale
    scales.append(jax.lax.scan(report, plateau.init(jnp.zeros(1)), jnp.array(losses))[1].tolist())
print(json.dumps([found, scales]))
"""


@pytest.fixture(scope="module")
def optax():
    """The values of optax.  In another process, since jax has threads and other tests fork this one."""
    if not find_spec("optax"):
        pytest.skip("needs optax to compare with")
    asked = json.dumps([list(OPTAX), STEPS, PLATEAUS, LOSSES])
    run = subprocess.run([sys.executable, "-c", IN_OPTAX], input=asked, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", OPTAX)
def test_of_optax(name, optax):
    assert_close(values(OPTAX[name], STEPS), optax[0][name])


@pytest.mark.parametrize("i", range(len(PLATEAUS)))
def test_of_optax_reduce_on_plateau(i, optax):
    """Theirs reduces by the last report that is tolerated, torch's and ours by the one after."""
    theirs = dict(PLATEAUS[i])
    mode = "abs" if "atol" in theirs else "rel"
    options = {"threshold": theirs.get("atol") or theirs.get("rtol", 1e-4), "cooldown": theirs.get("cooldown", 0)}
    plateau = s.reduce_on_plateau(1.0, 0.5, theirs["patience"] - 1, threshold_mode=mode, eps=0.0, **options)
    scales = []
    for loss in LOSSES:
        plateau.report(loss)
        scales.append(plateau(0))
    assert scales == optax[1][i]
    assert scales[-1] < 1


# ---- By their papers ----


def test_ema_warmup():
    """By hand, as TensorFlow's ExponentialMovingAverage has it with num_updates."""
    assert values(s.ema_warmup(0.4), 7) == [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4]
    assert s.ema_warmup(0.9999)(90) == 0.91
    assert s.ema_warmup(0.9999)(10**9) == 0.9999


def test_inverse_sqrt():
    """That of the transformers: d^-0.5 * min(n^-0.5, n * warmup^-1.5), n counted from 1."""
    d, n = 512, 40
    ours = s.warmup(s.inverse_sqrt(d**-0.5 * n**-0.5, n), n)
    assert_close(values(ours, 400)[1:], [d**-0.5 * min(t**-0.5, t * n**-1.5) for t in range(1, 400)])
    assert s.inverse_sqrt(0.1, 100)(300) == 0.05


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay(decay):
    left = {"linear": lambda x: 1 - x, "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2}
    left["1-sqrt"] = lambda x: 1 - math.sqrt(x)
    ours = values(s.warmup_stable_decay(1.0, 4, 3, 5, 0.2, 0.1, decay), 20)
    up = [0.2 + 0.8 * t / 4 for t in range(4)]
    down = [0.1 + 0.9 * left[decay](t / 5) for t in range(5)]
    assert_close(ours, [*up, 1.0, 1.0, 1.0, *down, *[0.1] * 8])


@pytest.mark.parametrize("none", ["warmup_steps", "stable_steps", "decay_steps"])
def test_parts_without_steps(none):
    steps = {"warmup_steps": 2, "stable_steps": 2, "decay_steps": 2, none: 0}
    expected = {"warmup_steps": [1, 1, 1, 0.5, 0, 0], "stable_steps": [0, 0.5, 1, 0.5, 0, 0]}
    expected["decay_steps"] = [0, 0.5, 1, 1, 0, 0]
    assert values(s.warmup_stable_decay(1.0, **steps), 6) == expected[none]
    assert values(s.warmup(s.constant(1.0), 0), 2) == [1.0, 1.0]


# ---- The arithmetic ----


@given(st.floats(0, 1))
def test_half_cosine(x):
    exact = (1 + math.cos(math.pi * x)) / 2
    assert s._half_cosine(x) == pytest.approx(exact, rel=1e-14 if x < 0.9 else 1e-8, abs=1e-16)
    assert s._half_cosine(x) == pytest.approx(math.sin(math.pi / 2 * (1 - x)) ** 2, rel=1e-14, abs=0)


@given(st.floats(1e-300, 1e300), st.floats(0, 1e4))
def test_power(base, exponent):
    try:
        exact = math.pow(base, exponent)
    except OverflowError:
        exact = math.inf
    size = abs(exponent * math.log(base)) + 64
    if 1e-300 < exact < 1e300:
        assert s._power(base, exponent) == pytest.approx(exact, rel=4e-16 * size)
    elif exact == 0 or exact == math.inf:
        assert s._power(base, exponent) in (0.0, exact) or s._power(base, exponent) > 1e300


@given(st.fractions(0, 2, max_denominator=1 << 20), st.integers(0, 63))
def test_power_of_integers(base, exponent):
    power = s._power(float(base), exponent)
    exact = Fraction(float(base)) ** exponent
    assert abs(Fraction(power) - exact) <= exact * Fraction(2 * exponent + 1, 1 << 53) + Fraction(1, 1 << 1020)


def test_growth_without_bound():
    """A value too large for a float is infinity, which an optimizer refuses; 0 stays 0."""
    assert s.exponential(0.1, 2.0)(10**6) == s.step(0.1, 1, 2.0)(10**6) == math.inf
    assert s.exponential(0.1, 2.0, end_value=0.5)(10**6) == 0.5
    for schedule in (s.exponential(0.0, 2.0), s.step(0.0, 1, 2.0), s.multi_step(0.0, [1], 1e308)):
        assert schedule(10**6) == 0


# ---- Properties ----

NUMBERS = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-6, 1e3)
COUNTS = st.integers(1, 10_000)
SIMPLE = st.one_of(
    st.builds(s.constant, NUMBERS),
    st.builds(s.linear, NUMBERS, NUMBERS, COUNTS, st.integers(0, 100)),
    st.builds(s.polynomial, NUMBERS, NUMBERS, st.floats(0.01, 50), COUNTS, st.integers(0, 100)),
    st.builds(s.exponential, NUMBERS, st.floats(0.01, 1), COUNTS, st.integers(0, 100), st.booleans()),
    st.builds(s.step, NUMBERS, COUNTS, st.floats(0.01, 1)),
    st.builds(s.multi_step, NUMBERS, st.lists(COUNTS, unique=True, max_size=5).map(sorted), st.floats(0.01, 1)),
    st.builds(s.cosine, NUMBERS, COUNTS, NUMBERS, st.floats(0.01, 50)),
    st.builds(s.cosine_restarts, NUMBERS, COUNTS, st.integers(1, 5), NUMBERS),
    st.builds(s.one_cycle, NUMBERS, COUNTS, st.floats(0, 0.5), st.sampled_from(["cos", "linear"]), POSITIVE, POSITIVE),
    st.builds(s.one_cycle, NUMBERS, COUNTS, st.floats(0, 0.5), three_phase=st.just(True)),
    st.builds(s.ema_warmup, st.floats(0, 1, exclude_max=True)),
    st.builds(s.inverse_sqrt, NUMBERS, COUNTS),
    st.builds(s.warmup_stable_decay, NUMBERS, COUNTS, COUNTS, COUNTS, NUMBERS, NUMBERS),
    st.builds(s.reduce_on_plateau, POSITIVE),
)
SCHEDULES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.builds(s.warmup, inner, st.integers(0, 100), NUMBERS)
        | st.builds(s.shift, inner, st.integers(-100, 100))
        | st.builds(s.scale, inner, st.floats(-10, 10))
        | st.tuples(inner, inner).map(lambda pair: s.join(pair, [7]))
    ),
    max_leaves=4,
)


@given(SCHEDULES, st.integers(0, 1 << 62))
def test_values_are_finite_floats_and_copies_agree(schedule, t):
    value = schedule(t)
    assert type(value) is float
    assert math.isfinite(value)
    assert schedule(t) == schedule(np.int64(t)) == value
    for other in (copy.copy(schedule), copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other == schedule
        assert repr(other) == repr(schedule)
        assert other(t) == value
    again = eval(repr(schedule), vars(s))
    assert again == schedule
    assert hash(again) == hash(schedule)


@given(NUMBERS, NUMBERS, COUNTS, st.integers(0, 100))
def test_from_one_value_to_another(init, end, steps, begin):
    """Exactly the first and the last value, and never beyond them in between."""
    for schedule in (s.linear(init, end, steps, begin), s.polynomial(init, end, 1.7, steps, begin)):
        assert [schedule(t) for t in (0, begin, begin + steps, begin + 10 * steps)] == [init, init, end, end]
    low, high = min(init, end), max(init, end)
    slack = 4e-16 * max(abs(init), abs(end))
    for schedule in (s.linear(init, end, steps), s.cosine(init, steps, end), s.cosine_restarts(init, steps, 2, end)):
        assert schedule(0) == init
        found = [schedule(t) for t in range(0, steps, max(1, steps // 50))]
        assert low - slack <= min(found) <= max(found) <= high + slack
        steady = np.diff(found) * np.sign(end - init)
        assert (steady >= -slack).all()
    assert s.cosine(init, steps, end)(steps) == end


@given(SCHEDULES)
def test_from_its_horizon_on_a_schedule_stays_the_same(schedule):
    if schedule.horizon is not None:
        assert {schedule(schedule.horizon + t) for t in (0, 1, 7, 1000, 10**6)} == {schedule(schedule.horizon)}


def test_horizons():
    """By hand: the first of the steps that have the last value."""
    expected = {
        s.constant(0.1): 0,
        s.linear(1.0, 0.0, 10, 5): 15,
        s.polynomial(1.0, 0.0, 2.0, 10): 10,
        s.multi_step(1.0, [3, 8]): 8,
        s.cosine(1.0, 10): 10,
        s.one_cycle(1.0, 10): 9,
        s.warmup_stable_decay(1.0, 2, 3, 4): 9,
        s.join([s.constant(1.0), s.cosine(1.0, 10)], [5]): 15,
        s.warmup(s.cosine(1.0, 10), 5): 15,
        s.shift(s.cosine(1.0, 10), 100): 110,
        s.shift(s.cosine(1.0, 10), -100): 0,
        s.scale(s.cosine(1.0, 10), 0.5): 10,
        s.exponential(1.0, 0.5): None,
        s.step(1.0, 5): None,
        s.cosine_restarts(1.0, 10): None,
        s.ema_warmup(0.5): 8,
        s.ema_warmup(0.05): 0,
        s.inverse_sqrt(1.0): None,
        s.reduce_on_plateau(1.0): None,
        s.warmup(abs, 5): None,
    }
    assert {schedule: schedule.horizon for schedule in expected} == expected


@given(SCHEDULES, st.integers(0, 1000), st.integers(0, 1000), st.floats(-10, 10))
def test_shifted_and_scaled(schedule, steps, t, factor):
    shifted = s.shift(schedule, steps)
    assert shifted(steps + t) == schedule(t)
    assert shifted(min(t, steps)) == schedule(0)
    assert s.shift(schedule, -steps)(t) == schedule(steps + t)
    assert s.scale(schedule, factor)(t) == factor * schedule(t)
    assert shifted == s.shift(schedule, steps) != s.shift(schedule, steps + 1)
    assert s.scale(schedule, 0.5) == s.scale(schedule, 0.5) != s.scale(schedule, 0.25)


@given(SCHEDULES, SCHEDULES, COUNTS)
def test_a_join_is_its_parts(first, second, boundary):
    joined = s.join([first, second], [boundary])
    for t in (0, boundary - 1):
        assert joined(t) == first(t)
    for t in (0, 1, 1000):
        assert joined(boundary + t) == second(t)
    warmed = s.warmup(first, boundary, 0.5)
    assert warmed(0) == 0.5
    assert warmed(boundary) == first(0)
    assert warmed(boundary + 13) == first(13)


# ---- Bad input ----

BAD = [
    (lambda: s.constant("1"), TypeError, "constant: value must be a number, got '1'"),
    (lambda: s.constant(True), TypeError, "constant: value must be a number, got True"),
    (lambda: s.constant(math.nan), ValueError, "constant: value must be finite, got nan"),
    (lambda: s.constant(10**400), ValueError, "constant: value must be a number that a float can hold, got 1000"),
    (lambda: s.linear(0.1, math.inf, 3), ValueError, "linear: end_value must be finite, got inf"),
    (lambda: s.linear(0.1, 0.0, 0), ValueError, "linear: transition_steps must be an integer >= 1, got 0"),
    (lambda: s.linear(0.1, 0.0, 2.0), TypeError, "linear: transition_steps must be an integer >= 1, got 2.0"),
    (lambda: s.linear(0.1, 0.0, True), TypeError, "linear: transition_steps must be an integer >= 1, got True"),
    (lambda: s.linear(0.1, 0.0, 2, -1), ValueError, "linear: transition_begin must be an integer >= 0, got -1"),
    (lambda: s.polynomial(0.1, 0.0, 0, 3), ValueError, "polynomial: power must be finite and > 0, got 0.0"),
    (lambda: s.polynomial(0.1, 0.0, 1, 0), ValueError, "polynomial: transition_steps must be an integer >= 1, got 0"),
    (lambda: s.exponential(0.1, -0.5), ValueError, "exponential: decay_rate must be finite and > 0, got -0.5"),
    (lambda: s.exponential(0.1, 0.5, staircase=1), TypeError, "exponential: staircase must be True or False, got 1"),
    (lambda: s.exponential(0.1, 0.5, end_value=math.nan), ValueError, "exponential: end_value must be finite, got nan"),
    (lambda: s.step(0.1, 0), ValueError, "step: step_size must be an integer >= 1, got 0"),
    (lambda: s.step(0.1, 1, math.inf), ValueError, "step: gamma must be finite and > 0, got inf"),
    (lambda: s.multi_step(0.1, [3, 3]), ValueError, r"multi_step: milestones must increase, got \[3, 3\]"),
    (lambda: s.multi_step(0.1, [0]), ValueError, r"multi_step: milestones\[0\] must be an integer >= 1, got 0"),
    (lambda: s.multi_step(0.1, 3), TypeError, "multi_step: milestones must be a sequence, got 3"),
    (lambda: s.multi_step(0.1, "12"), TypeError, "multi_step: milestones must be a sequence, got '12'"),
    (lambda: s.multi_step(0.1, b"12"), TypeError, "multi_step: milestones must be a sequence, got b'12'"),
    (lambda: s.multi_step(0.1, np.array(3)), TypeError, r"milestones must be a sequence, got array\(3\)"),
    (lambda: s.cosine(0.1, 10, exponent=0.0), ValueError, "cosine: exponent must be finite and > 0, got 0.0"),
    (lambda: s.cosine_restarts(0.1, 10, 0), ValueError, "cosine_restarts: mult must be an integer >= 1, got 0"),
    (lambda: s.one_cycle(0.1, 10, 1.5), ValueError, r"one_cycle: pct_start must be in \[0, 1\], got 1.5"),
    (lambda: s.one_cycle(0.1, 10, 0.6, three_phase=True), ValueError, r"in \[0, 0.5\] with three_phase, got 0.6"),
    (lambda: s.one_cycle(0.1, 10, anneal_strategy="c"), ValueError, "must be one of cos, linear, got 'c'"),
    (lambda: s.one_cycle(0.1, 10, div_factor=0.0), ValueError, "one_cycle: div_factor must be finite and > 0, got 0.0"),
    (lambda: s.ema_warmup(1.0), ValueError, r"ema_warmup: decay must be in \[0, 1\), got 1.0"),
    (lambda: s.ema_warmup("0.9"), TypeError, "ema_warmup: decay must be a number, got '0.9'"),
    (lambda: s.inverse_sqrt(0.1, 0), ValueError, "inverse_sqrt: timescale must be an integer >= 1, got 0"),
    (lambda: s.warmup_stable_decay(0.1, 1, 1, -1), ValueError, "decay_steps must be an integer >= 0, got -1"),
    (lambda: s.warmup_stable_decay(0.1, 1, 1, 1, decay=3), ValueError, "one of linear, cosine, 1-sqrt, got 3"),
    (lambda: s.join([], []), ValueError, "join: boundaries must be one fewer than schedules, got 0 for 0 schedules"),
    (
        lambda: s.join([s.constant(1)], [3]),
        ValueError,
        "join: boundaries must be one fewer than schedules, got 1 for 1",
    ),
    (lambda: s.join([s.constant(1), 3], [3]), TypeError, r"join: schedules\[1\] must be a schedule, got 3"),
    (
        lambda: s.join([s.constant, s.constant(1)], [3]),
        TypeError,
        r"join: schedules\[0\] must be a schedule, got <class",
    ),
    (lambda: s.join(s.constant(1), []), TypeError, "join: schedules must be a sequence, got constant"),
    (lambda: s.warmup(0.1, 5), TypeError, "warmup: schedule must be a schedule, got 0.1"),
    (lambda: s.warmup(s.constant(1), -1), ValueError, "warmup: warmup_steps must be an integer >= 0, got -1"),
    (lambda: s.warmup(s.constant(1), 1, None), TypeError, "warmup: init_value must be a number, got None"),
    (lambda: s.reduce_on_plateau(0.0), ValueError, "reduce_on_plateau: init_value must be finite and > 0, got 0.0"),
    (lambda: s.reduce_on_plateau(0.1, 1.0), ValueError, r"reduce_on_plateau: factor must be in \(0, 1\), got 1.0"),
    (lambda: s.reduce_on_plateau(0.1, patience=-1), ValueError, "patience must be an integer >= 0, got -1"),
    (lambda: s.reduce_on_plateau(0.1, threshold=-1), ValueError, "threshold must be finite and >= 0, got -1.0"),
    (lambda: s.reduce_on_plateau(0.1, mode="up"), ValueError, "mode must be one of min, max, got 'up'"),
    (lambda: s.reduce_on_plateau(0.1, threshold_mode=1), ValueError, "threshold_mode must be one of rel, abs, got 1"),
    (
        lambda: s.reduce_on_plateau(0.1).report("1"),
        TypeError,
        "reduce_on_plateau.report: loss must be a number, got '1'",
    ),
    (lambda: s.constant(1)(-1), ValueError, "constant: step must be an integer >= 0, got -1"),
    (lambda: s.constant(1)(1.0), TypeError, "constant: step must be an integer >= 0, got 1.0"),
    (lambda: s.constant(1)("1"), TypeError, "constant: step must be an integer >= 0, got '1'"),
    (lambda: s.plot(3, 10), TypeError, "plot: schedule must be a schedule, got 3"),
    (lambda: s.plot([s.constant(1), 3], 10), TypeError, "plot: schedule 1 must be a schedule, got 3"),
    (lambda: s.plot(s.constant(1), 0), ValueError, "plot: steps must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_fields_stay_as_they_are():
    milestones = [3, 5]
    schedule = s.multi_step(np.float32(0.5), milestones)
    milestones.append(1)
    assert schedule.milestones == (3, 5)
    assert type(schedule.init_value) is float
    with pytest.raises(AttributeError):
        schedule.init_value = 3.0


def test_every_schedule_is_documented_and_exported():
    public = {name for name, value in vars(s).items() if inspect.isclass(value) and issubclass(value, s._Schedule)}
    assert public - {"_Schedule"} == set(s.__all__) - {"plot"}
    for name in s.__all__:
        doc = inspect.getdoc(getattr(s, name))
        for parameter in inspect.signature(getattr(s, name)).parameters:
            assert parameter in doc


def test_losses_below_zero():
    """A likelihood, say: by hand, the loss has to fall by threshold * abs(best)."""
    plateau = s.reduce_on_plateau(1.0, factor=0.5, patience=0, threshold=0.1)
    seen = []
    for loss in [-10.0, -10.0, -10.9, -11.1, -11.1]:
        plateau.report(loss)
        seen.append((plateau(0), plateau.best))
    assert seen == [(1.0, -10.0), (0.5, -10.0), (0.25, -10.0), (0.25, -11.1), (0.125, -11.1)]
    rising = s.reduce_on_plateau(1.0, factor=0.5, patience=0, threshold=0.1, mode="max")
    seen = []
    for gain in [-10.0, -10.0, -9.1, -8.9, -1.0, 1.0, 1.05, 1.2]:
        rising.report(gain)
        seen.append((rising(0), rising.best))
    assert seen[:4] == [(1.0, -10.0), (0.5, -10.0), (0.25, -10.0), (0.25, -8.9)]
    assert seen[4:] == [(0.25, -1.0), (0.25, 1.0), (0.125, 1.0), (0.125, 1.2)]


@given(st.floats(-1e9, 1e9), st.floats(0, 2), st.sampled_from(["min", "max"]), st.sampled_from(["rel", "abs"]))
def test_a_loss_that_stands_still_is_reduced(loss, threshold, mode, threshold_mode):
    plateau = s.reduce_on_plateau(1.0, patience=2, threshold=threshold, mode=mode, threshold_mode=threshold_mode)
    for _ in range(4):
        plateau.report(loss)
    assert plateau(0) == pytest.approx(0.1)


# ---- In an optimizer ----


def some(case_or_cls, dtype=np.float32, lr2=None, **kwargs):
    """An optimizer of two groups, and gradients for it."""
    rng = np.random.default_rng(4)
    a, b, c = (rng.standard_normal(n).astype(dtype) for n in (5, 70, 3))
    make = case_or_cls.make if hasattr(case_or_cls, "make") else case_or_cls
    groups = [{"params": [a, b]}, {"params": {"c": c}} | ({} if lr2 is None else {"lr": lr2})]
    opt = make(groups, **kwargs)
    streams = [gradients(i, len(p), dtype) for i, p in enumerate((a, b, c))]
    return opt, iter(lambda: [[next(streams[0]), next(streams[1])], {"c": next(streams[2])}], None)


def assert_same_run(one, other):
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        for p, q in zip(mine["params"], theirs["params"], strict=True):
            assert_same_bits(p, q)
    for name, arrays in one.state.items():
        for letter, array in arrays.items():
            assert_same_bits(array, other.state[name][letter], f"{name}: {letter}")
    assert one.step_count == other.step_count


FALL, RISE = s.linear(0.2, 0.01, 5), s.warmup(s.cosine(0.9, 6, 0.5), 3, 0.4)


def numbers_at(value, t):
    """A hyperparameter at a step, alone or of several parts."""
    if isinstance(value, tuple):
        return tuple(numbers_at(part, t) for part in value)
    return value(t) if callable(value) else value


@pytest.mark.parametrize("all_of_them", [False, True], ids=["lr and decay", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_as_the_same_numbers_by_hand(case, dtype, all_of_them):
    """Every rule, with schedules for all it can have them for, other ones in each group."""
    settings = case.settings()
    kinds = [{"lr": FALL, "weight_decay": s.step(0.1, 2)}, {"lr": s.constant(0.05), "weight_decay": FALL}]
    for name, hyper in declared(case.cls).items() if all_of_them else ():
        value, numbers = settings.get(name), parts(case.cls, name)
        if not value or hyper.fixed or not hyper.scheduled or not all(0.5 in range_of(part) for part in numbers):
            continue  # 0 selects another rule
        several = isinstance(value, tuple)
        kinds[0].setdefault(name, (RISE,) * len(numbers) if several else RISE)
        kinds[1].setdefault(name, (*value[:-1], RISE) if several else FALL)
    by_plan, grads = some(case, dtype)
    for group, kind in zip(by_plan.groups, kinds, strict=True):
        group.update(kind)
    by_hand, _ = some(case, dtype)
    for t in range(9):
        for group, kind in zip(by_hand.groups, kinds, strict=True):
            group.update({key: numbers_at(value, t) for key, value in kind.items()})
        gs = next(grads)
        by_plan.step(gs)
        by_hand.step(gs)
    assert_same_run(by_plan, by_hand)
    assert by_plan.groups[0]["lr"] is FALL


def test_a_pair_by_one_function():
    def betas(t):
        return 0.5 + 0.1 * min(t, 4), 0.9

    opt, grads = some(fastopt.Adam, betas=betas)
    other, _ = some(fastopt.Adam)
    for t in range(6):
        for group in other.groups:
            group["betas"] = betas(t)
        gs = next(grads)
        opt.step(gs)
        other.step(gs)
    assert_same_run(opt, other)
    assert opt.groups[0]["betas"] is betas


def test_a_pair_by_one_function_in_a_file(files):
    def betas(t):
        return 0.5 + 0.1 * min(t, 4), 0.9

    opt, grads = some(fastopt.Adam, betas=betas)
    fresh, _ = some(fastopt.Adam, betas=betas)
    opt.step(next(grads))
    fastopt.save(files / "state", opt)
    fastopt.load(files / "state", fresh)
    gs = next(grads)
    for one in (opt, fresh):
        one.step(gs)
    assert fresh.step_count == 2
    for name, arrays in opt.state.items():
        assert_same_bits(fresh.state[name]["v"], arrays["v"], name)


def test_the_rate_of_the_next_step():
    opt, grads = some(fastopt.SGD, lr=FALL)
    for t in range(4):
        assert opt.lr == FALL(t)
        opt.step(next(grads))
    opt.lr = RISE
    assert opt.lr == RISE(4)
    opt.lr = 0.5
    assert opt.groups[1]["lr"] == 0.5
    opt.groups[1]["lr"] = FALL
    assert opt.lr == (0.5, FALL(4))
    p = np.zeros(1)
    opt = fastopt.SGD(p, lr=lambda t: np.float32(t))
    for expected in (0, -1, -3):
        opt.step(np.ones(1))
        assert p[0] == expected


def test_momentum_that_starts_at_zero():
    """A scheduled momentum has its buffer whatever its first value is."""
    p, q = np.ones(3), np.ones(3)
    opt = fastopt.SGD(p, lr=0.1, momentum=s.linear(0.0, 0.9, 3))
    other = fastopt.SGD(q, lr=0.1, momentum=0.5)
    for t in range(5):
        other.groups[0]["momentum"] = 0.3 * min(t, 3)
        opt.step(np.ones(3))
        other.step(np.ones(3))
    np.testing.assert_allclose(p, q, rtol=1e-12)


def counting(values):
    """A schedule of given values, and what it has been asked for."""
    asked = []

    def schedule(t):
        asked.append(t)
        value = values[min(t, len(values) - 1)]
        if isinstance(value, Exception):
            raise value
        return value

    return schedule, asked


NONSENSE = [
    (math.nan, ValueError, "SGD: groups[1] after 1 steps: lr must be finite and >= 0, got nan"),
    (math.inf, ValueError, "SGD: groups[1] after 1 steps: lr must be finite and >= 0, got inf"),
    (-0.1, ValueError, "SGD: groups[1] after 1 steps: lr must be finite and >= 0, got -0.1"),
    ("0.1", TypeError, "SGD: groups[1] after 1 steps: lr must be a number, got '0.1'"),
    (None, TypeError, "SGD: groups[1] after 1 steps: lr must be a number, got None"),
    (True, TypeError, "SGD: groups[1] after 1 steps: lr must be a number, got True"),
    (np.ones(2), TypeError, "SGD: groups[1] after 1 steps: lr must be a number, got array"),
    (1j, TypeError, "SGD: groups[1] after 1 steps: lr must be a number, got 1j"),
    (10**400, ValueError, "SGD: groups[1] after 1 steps: lr must be a number that a float can hold"),
    (RuntimeError("no rate today"), RuntimeError, "no rate today"),
]


@pytest.mark.parametrize("way", ["step", "step_one", "accumulate", "clip_norm"])
@pytest.mark.parametrize(("value", "error", "message"), NONSENSE, ids=[str(row[0])[:9] for row in NONSENSE])
def test_nonsense_changes_nothing(value, error, message, way):
    schedule, _ = counting([0.1, value, 0.3])
    opt, grads = some(fastopt.SGD, lr=FALL, lr2=schedule, momentum=0.9)
    twin, _ = some(fastopt.SGD, lr=FALL, lr2=s.constant(0.1), momentum=0.9)
    gs = next(grads)
    opt.step(gs)
    twin.step(gs)
    before = repr(opt.state_dict())
    gs = next(grads)
    calls = {
        "step": lambda: opt.step(gs),
        "step_one": lambda: opt.step_one("c", gs[1]["c"]),
        "accumulate": lambda: (opt.accumulate(gs), opt.step()),
        "clip_norm": lambda: opt.step(gs, clip_norm=0.1),
    }
    with pytest.raises(error) as raised:
        calls[way]()
    assert message in str(raised.value)
    assert repr(opt.state_dict()) == before
    assert_same_run(opt, twin)


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"lr": lambda t: -1.0}, "Adam after 0 steps: lr must be finite and >= 0, got -1.0"),
        ({"betas": (lambda t: 1.0, 0.9)}, r"Adam after 0 steps: betas\[0\] must be in \[0, 1\), got 1.0"),
        ({"weight_decay": lambda t: "1"}, "Adam after 0 steps: weight_decay must be a number, got '1'"),
        ({"lr": s.constant}, "Adam: lr must be a number, got <class"),
        ({"amsgrad": lambda t: True}, "Adam: amsgrad must be True or False, got <function"),
        ({"weight_decay_form": lambda t: "l2"}, "Adam: weight_decay_form must be one of .*, got <function"),
        ({"betas": lambda t: 0.9}, "Adam after 0 steps: betas must be a pair of numbers, got 0.9"),
    ],
)
def test_refused_when_it_is_set(hyper, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.Adam(np.ones(3), **hyper)


def test_combinations_are_checked_at_every_step():
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=0.1, momentum=s.linear(0.5, 0.0, 2), nesterov=True)
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    before = p.copy()
    with pytest.raises(ValueError, match="SGD after 2 steps: nesterov must have momentum > 0 and dampening 0"):
        opt.step(np.ones(3))
    assert_same_bits(p, before)
    opt = fastopt.Rprop(p, step_sizes=(s.linear(0.1, 1.0, 4), 0.5))
    for _ in range(2):
        opt.step(np.ones(3))
    with pytest.raises(ValueError, match=r"Rprop after 2 steps: step_sizes must be a smallest and a largest one"):
        opt.step(np.ones(3))
    assert opt.step_count == 2


def test_prodigy_derives_beta3():
    """beta3 is the root of beta2, also of one that changes."""
    p, q = np.ones(3), np.ones(3)
    opt, other = fastopt.Prodigy(p, betas=(0.9, s.linear(0.9, 0.99, 5))), fastopt.Prodigy(q)
    for t in range(7):
        beta2 = s.linear(0.9, 0.99, 5)(t)
        other.groups[0].update(betas=(0.9, beta2), beta3=math.sqrt(beta2))
        opt.step(np.arange(3.0))
        other.step(np.arange(3.0))
    assert_same_bits(p, q)


def test_a_step_that_is_skipped_is_made_again():
    """A skipped step completes nothing: the next one has its rate."""
    schedule, asked = counting([0.1, 0.2, 0.3])
    p = np.zeros(1)
    opt = fastopt.SGD(p, lr=schedule, nonfinite="skip")
    opt.step(np.ones(1))
    opt.step(np.full(1, math.nan))
    opt.step(np.ones(1))
    assert p[0] == pytest.approx(-0.3)
    assert asked[-3:] == [0, 1, 1]


def test_one_parameter_at_a_time():
    """A round of step_one has the rate that one step has, whichever parameter comes first."""
    whole, grads = some(fastopt.Adam, lr=FALL, lr2=RISE)
    single, _ = some(fastopt.Adam, lr=FALL, lr2=RISE)
    for t in range(6):
        gs = next(grads)
        whole.step(gs)
        flat = {0: gs[0][0], 1: gs[0][1], "c": gs[1]["c"]}
        for name in sorted(flat, key=str, reverse=t % 2):
            single.step_one(name, flat[name])
        assert single.step_count == t + 1
    assert_same_run(single, whole)


def test_micro_batches():
    whole, grads = some(fastopt.Adam, lr=FALL, lr2=RISE)
    parts, _ = some(fastopt.Adam, lr=FALL, lr2=RISE)
    for _ in range(6):
        gs = next(grads)
        whole.step(gs)
        parts.accumulate(gs)
        parts.accumulate(gs)
        parts.step()
    assert_same_run(parts, whole)


# ---- Saved in the middle ----


def plateaued():
    """An optimizer with a stateful schedule, alone and within others."""
    plateau = s.reduce_on_plateau(0.1, patience=0, factor=0.5, cooldown=1)
    inner = s.reduce_on_plateau(0.3, patience=1)
    opt, grads = some(fastopt.Adam, lr=plateau, lr2=s.warmup(s.join([FALL, inner], [2]), 2), betas=(RISE, 0.99))
    return opt, grads, (plateau, inner)


def reach(opt):
    """The stateful schedules of such an optimizer."""
    return opt.groups[0]["lr"], opt.groups[1]["lr"].schedule.schedules[1]


LOSSES_SEEN = [1.0, 2.0, 0.5, 0.6, 0.7, 0.8, 0.4, 0.5, 0.6, 0.7]


@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_saved_in_the_middle(way, request):
    straight, grads, plateaus = plateaued()
    gs = [next(grads) for _ in LOSSES_SEEN]

    def run(opt, which):
        for g, loss in list(zip(gs, LOSSES_SEEN, strict=True))[which]:
            opt.step(g)
            for plateau in reach(opt):
                plateau.report(loss)

    run(straight, slice(None))
    first, _, _ = plateaued()
    run(first, slice(5))
    if way == "deepcopy":
        second = copy.deepcopy(first)
    elif way == "pickle":
        second = pickle.loads(pickle.dumps(first))
    else:
        second, _, _ = plateaued()
        for mine, theirs in zip(second.groups, first.groups, strict=True):
            for p, q in zip(mine["params"], theirs["params"], strict=True):
                p[...] = q
        if way == "file":
            path = request.getfixturevalue("files") / "state"
            fastopt.save(path, first)
            fastopt.load(path, second)
        else:
            second.load_state_dict(first.state_dict())
    assert [plateau.state_dict() for plateau in reach(second)] == [plateau.state_dict() for plateau in reach(first)]
    run(second, slice(5, None))
    assert_same_run(second, straight)
    assert [plateau.state_dict() for plateau in reach(second)] == [plateau.state_dict() for plateau in plateaus]
    assert plateaus[0].scale < 1
    run(first, slice(5, None))  # which the copy has not touched
    assert_same_run(first, straight)


def changed_state(change):
    opt, grads, _ = plateaued()
    opt.step(next(grads))
    state = opt.state_dict()
    change(state["groups"])
    return opt, state


def set_state(**entries):
    def change(groups):
        groups[0]["lr"]["state"][0].update(entries)

    return change


OTHER = [
    (lambda g: g[0].update(lr=0.1), "groups[0]: lr must be scheduled by reduce_on_plateau(init_value=0.1, factor=0.5"),
    (lambda g: g[0].update(lr=g[1]["lr"]), "as it is here, got warmup(schedule=join(schedules=[linear("),
    (lambda g: g[0].update(eps=g[0]["lr"]), "groups[0]: eps must be a number, as it is here, got a schedule"),
    (lambda g: g[0].update(betas=(0.9, 0.9)), "groups[0]: betas[0] must be scheduled by warmup("),
    (lambda g: g[0]["lr"].update(state=[]), "groups[0]: lr must have the state of 1 schedules, got []"),
    (lambda g: g[0]["lr"].pop("state"), "groups[0]: lr must be scheduled by reduce_on_plateau"),
    (set_state(best="x"), "lr: reduce_on_plateau.load_state_dict: best must be a number, got 'x'"),
    (set_state(best=math.nan), "lr: reduce_on_plateau.load_state_dict: best must be a number or None, got nan"),
    (set_state(scale=1.5), "lr: reduce_on_plateau.load_state_dict: scale must be in [0, 1], got 1.5"),
    (set_state(bad_reports=-1), "bad_reports must be an integer >= 0, got -1"),
    (set_state(cooldown_left=0.5), "cooldown_left must be an integer >= 0, got 0.5"),
    (set_state(more=1), "the state must have best, bad_reports, cooldown_left, scale, got"),
]


@pytest.mark.parametrize(("change", "message"), OTHER, ids=[row[1][:40] for row in OTHER])
def test_loading_what_is_scheduled_otherwise(change, message):
    opt, state = changed_state(change)
    before = repr(opt.state_dict())
    with pytest.raises((TypeError, ValueError)) as raised:
        opt.load_state_dict(state)
    assert message in str(raised.value)
    assert "Adam.load_state_dict" in str(raised.value)
    assert repr(opt.state_dict()) == before


class Halving:
    """A schedule of a user's own, with a state."""

    def __init__(self):
        self.value = 0.4

    def __call__(self, t):
        return self.value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = float(state["value"])


def test_own_functions_and_classes(files):
    own = Halving()
    opt = fastopt.SGD(np.ones(2), lr=own, momentum=s.join([RISE, abs], [1 << 40]))
    assert opt.state_dict()["groups"][0]["lr"]["schedule"].endswith("Halving")
    own.value = 0.2
    fastopt.save(files / "a", opt)
    own.value = 0.1
    fastopt.load(files / "a", opt)
    assert own.value == opt.lr == 0.2
    other = fastopt.SGD(np.ones(2), lr=lambda t: 0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"lr must be scheduled by .*<lambda>, as it is here, got .*Halving"):
        other.load_state_dict(opt.state_dict())


def test_arguments_are_checked_on_loading():
    opt, other = (fastopt.SGD(np.ones(2), lr=s.cosine(0.1, n)) for n in (10, 20))
    with pytest.raises(ValueError, match=r"cosine\(.*decay_steps=20.*as it is here, got cosine\(.*decay_steps=10"):
        other.load_state_dict(opt.state_dict())


# ---- The picture ----


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib to draw")
    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_plot(pyplot, tmp_path):
    ax = s.plot(FALL, 8)
    (line,) = ax.lines
    assert line.get_xdata().tolist() == list(range(8))
    assert list(line.get_ydata()) == values(FALL, 8)
    assert ax.get_legend() is None
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("completed steps", "value")
    ax.figure.savefig(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_several(pyplot):
    _, given_ax = pyplot.subplots()
    ax = s.plot({"one": FALL, "two": lambda t: t}, 5, given_ax)
    assert ax is given_ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    ax = s.plot([FALL, RISE], 5)
    assert ax is not given_ax
    assert len(ax.lines) == 2


def test_plot_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"fastopt.schedules.plot needs matplotlib: pip install 'fastopt\[demo\]'"):
        s.plot(FALL, 5)


def test_a_hyperparameter_set_by_a_schedule():
    """It would be shown, and the schedule's value be used."""

    def lr(t):
        if t == 1:
            opt.groups[0]["momentum"] = 0.5
        return 0.1

    opt = fastopt.SGD(np.ones(2), lr=lr, momentum=0.9)
    opt.step(np.ones(2))
    with pytest.raises(RuntimeError, match="must not change the same optimizer"):
        opt.step(np.ones(2))
    assert opt.groups[0]["momentum"] == 0.9
    assert opt.step_count == 1


def test_a_load_within_a_schedule_leaves_other_schedules():
    plateau = s.reduce_on_plateau(0.1, factor=0.1, patience=0)
    loads = False

    def momentum(t):
        if loads:
            opt.load_state_dict(saved)
        return 0.9

    opt = fastopt.SGD(np.ones(2), lr=plateau, momentum=momentum)
    saved = opt.state_dict()
    plateau.report(1.0)
    plateau.report(2.0)
    before, loads = plateau.state_dict(), True
    with pytest.raises(RuntimeError, match="must not change the same optimizer"):
        opt.step(np.ones(2))
    assert plateau.state_dict() == before


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (fastopt.ScheduleFreeSGD, {"momentum": FALL}),
        (fastopt.ScheduleFreeAdamW, {"betas": (RISE, 0.99)}),
        (fastopt.ScheduleFreeAdamW, {"betas": lambda t: (0.9, 0.99)}),
    ],
    ids=["momentum", "of a pair", "pair"],
)
def test_schedules_of_what_tells_the_average(make, options):
    with pytest.raises(ValueError, match="must be no schedule, since x is computed with it"):
        make(np.ones(3), **options)


def test_a_schedule_that_is_over_when_it_is_set():
    """It is said once, at the line that sets it, and not of one that starts now, goes on, or was there all along."""
    opt = fastopt.Adam([{"params": np.ones(2)}, {"params": np.ones(2)}], lr=s.cosine(0.1, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            opt.step([np.ones(2)] * 2)
        opt.lr = s.shift(s.cosine(0.1, 5), opt.step_count)
        assert opt.lr == 0.1
        opt.lr = s.warmup(s.cosine(0.1, 5), 4)
        opt.groups[0]["betas"] = (s.constant(0.9), s.exponential(0.9, 0.99))
        opt.lr = lambda t: 0.1
    over = s.cosine(0.1, 8)

    def by_group():
        opt.groups[0]["lr"] = over

    def by_update():
        opt.groups[1].update(betas=(over, 0.9), eps=1e-6)

    def by_optimizer():
        opt.lr = over

    for key, change in {"lr": by_group, "betas": by_update, "lr ": by_optimizer}.items():
        with pytest.warns(UserWarning, match="stays the same from step 8 on, but 8 steps have been made") as caught:
            change()
        assert len(caught) == 1
        assert str(caught[0].message).startswith(f"Adam: {key.strip()} is {over!r}, which")
        assert caught[0].filename == __file__
