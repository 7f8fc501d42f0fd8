"""Optimizers whose hyperparameters are schedules: every rule, every way to make a step, and values that are refused."""

import math
import warnings

import numpy as np
import pytest

import fastopt
from fastopt import schedules as s
from support.arrays import DTYPES
from support.asserts import assert_same_bits, ids
from support.cases import RULES
from support.covering import all_pairs
from support.hyper import declared, parts, range_of
from support.scheduled import FALL, RISE, assert_same_run, two_groups


def numbers_at(value, t):
    """A hyperparameter at a step, alone or of several parts."""
    if isinstance(value, tuple):
        return tuple(numbers_at(part, t) for part in value)
    return value(t) if callable(value) else value


@pytest.mark.parametrize(("case", "which", "dtype"), all_pairs(RULES, ["lr and decay", "all"], DTYPES), ids=ids)
def test_as_the_same_numbers_by_hand(case, dtype, which):
    """Every rule, with schedules for all it can have them for, other ones in each group."""
    settings = case.settings()
    kinds = [{"lr": FALL, "weight_decay": s.step(0.1, 2)}, {"lr": s.constant(0.05), "weight_decay": FALL}]
    for name, hyper in declared(case.cls).items() if which == "all" else ():
        value, numbers = settings.get(name), parts(case.cls, name)
        if not value or hyper.fixed or not hyper.scheduled or not all(0.5 in range_of(part) for part in numbers):
            continue  # 0 selects another rule
        several = isinstance(value, tuple)
        kinds[0].setdefault(name, (RISE,) * len(numbers) if several else RISE)
        kinds[1].setdefault(name, (*value[:-1], RISE) if several else FALL)
    by_plan, grads = two_groups(case, dtype)
    for group, kind in zip(by_plan.groups, kinds, strict=True):
        group.update(kind)
    by_hand, _ = two_groups(case, dtype)
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

    opt, grads = two_groups(fastopt.Adam, betas=betas)
    other, _ = two_groups(fastopt.Adam)
    for t in range(6):
        for group in other.groups:
            group["betas"] = betas(t)
        gs = next(grads)
        opt.step(gs)
        other.step(gs)
    assert_same_run(opt, other)
    assert opt.groups[0]["betas"] is betas


def test_the_rate_of_the_next_step():
    opt, grads = two_groups(fastopt.SGD, lr=FALL)
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
    opt, grads = two_groups(fastopt.SGD, lr=FALL, lr2=schedule, momentum=0.9)
    twin, _ = two_groups(fastopt.SGD, lr=FALL, lr2=s.constant(0.1), momentum=0.9)
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
    with pytest.raises(ValueError, match=r"Rprop after 2 steps: step_sizes must be the smallest and the largest"):
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
    whole, grads = two_groups(fastopt.Adam, lr=FALL, lr2=RISE)
    single, _ = two_groups(fastopt.Adam, lr=FALL, lr2=RISE)
    for t in range(6):
        gs = next(grads)
        whole.step(gs)
        flat = {0: gs[0][0], 1: gs[0][1], "c": gs[1]["c"]}
        for name in sorted(flat, key=str, reverse=t % 2):
            single.step_one(name, flat[name])
        assert single.step_count == t + 1
    assert_same_run(single, whole)


def test_micro_batches():
    whole, grads = two_groups(fastopt.Adam, lr=FALL, lr2=RISE)
    parts, _ = two_groups(fastopt.Adam, lr=FALL, lr2=RISE)
    for _ in range(6):
        gs = next(grads)
        whole.step(gs)
        parts.accumulate(gs)
        parts.accumulate(gs)
        parts.step()
    assert_same_run(parts, whole)


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
    with pytest.raises(ValueError, match="must not be a schedule, since x is computed with it"):
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
