"""Schedules: the values of their papers, their properties, bad input, and the picture."""

import copy
import inspect
import math
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastopt import schedules as s
from support.scheduled import FALL, RISE, assert_close, values

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
