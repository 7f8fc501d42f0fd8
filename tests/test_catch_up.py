"""Rows that make up for the steps they have missed."""

import copy
from dataclasses import replace

import numpy as np
import pytest

import fastopt
from support import reference
from support.arrays import DTYPES
from support.asserts import assert_same_bits, ids
from support.cases import RULES, Oracle, named

SHAPE = (40, 3)
# Without decay, which has no closed form.
CAN = [replace(case, kwargs={**case.kwargs, "weight_decay": 0.0}) for case in RULES if case.rule in reference.CATCH_UP]
CANNOT = [case for case in RULES if case.rule not in reference.CATCH_UP]


def rows_and_values(rng, dtype, shape=SHAPE):
    rows = rng.integers(0, shape[0], 5)
    return rows, rng.standard_normal((5, *shape[1:])).astype(dtype)


def dense(rows, values, shape=SHAPE):
    g = np.zeros(shape, values.dtype)
    np.add.at(g, rows, values)
    return g


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CAN, ids=ids)
def test_as_if_every_step_had_been_made(case, dtype):
    """Rows, now and then a whole gradient, and a new learning rate: at the end all is as with zeros in between."""
    rng = np.random.default_rng(1)
    whole, table = (np.linspace(-1, 1, 120, dtype=dtype).reshape(SHAPE) for _ in range(2))
    expected, opt = case.make(whole), case.make(table, catch_up=True)
    for t in range(60):
        rows, values = rows_and_values(rng, dtype)
        expected.step(dense(rows, values))
        opt.step(dense(rows, values) if t % 7 == 3 else fastopt.RowGrad(rows, values))
        if t == 30:
            expected.lr = opt.lr = 0.7 * opt.lr
    opt.catch_up()
    close = 1e-13 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(table, whole, rtol=close, atol=close)
    for letter, buffer in expected.state[0].items():
        np.testing.assert_allclose(opt.state[0][letter], buffer, rtol=close, atol=close)
    assert (opt.state[0]["last_step"] == 60).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CAN, ids=ids)
def test_bits(case, dtype, isas):
    """Long rows, cut by blocks and by threads: each is caught up once, to the bits of the oracle."""
    shape = (23, 2500)
    rng = np.random.default_rng(2)
    table = rng.standard_normal(shape).astype(dtype)
    oracles, steps = [Oracle(case, table[i : i + 1]) for i in range(len(table))], []
    met = np.zeros(len(table), int)
    for t in range(1, 5):
        rows = rng.permutation(len(table))[:17]
        values = rng.standard_normal((17, 2500)).astype(dtype)
        steps.append(fastopt.RowGrad(rows, values))
        for row, g in zip(rows, values, strict=True):
            if skipped := t - 1 - met[row]:
                reference.catch_up(case.rule, oracles[row].p, oracles[row].state, int(skipped), case.hyper())
            oracles[row].t, met[row] = t - 1, t
            oracles[row].step(g[np.newaxis])
    for isa in isas:
        for threads in (1, 3):
            p, what = table.copy(), f"{isa}, {threads} threads, "
            opt = case.make(p, num_threads=threads, catch_up=True)
            for g in steps:
                opt.step(g)
            assert_same_bits(p, np.concatenate([oracle.p for oracle in oracles]), f"{what}p: ")
            for letter in reference.state_names(case.rule):
                wanted = np.concatenate([oracle.state[letter] for oracle in oracles])
                assert_same_bits(opt.state[0][letter], wanted, f"{what}{letter}: ")
            assert (opt.state[0]["last_step"] == met).all()


def test_saved_and_copied_in_the_middle():
    rng = np.random.default_rng(3)
    table = np.ones(SHAPE)
    opt = fastopt.SGD(table, lr=0.1, momentum=0.9, catch_up=True)
    steps = [rows_and_values(rng, np.float64) for _ in range(20)]
    for rows, values in steps[:10]:
        opt.step(fastopt.RowGrad(rows, values))
    other = table.copy()
    loaded = fastopt.SGD(other, lr=0.1, momentum=0.9, catch_up=True)
    loaded.load_state_dict(opt.state_dict())
    copied = copy.deepcopy(opt)
    for rows, values in steps[10:]:
        for each in (opt, loaded, copied):
            each.step(fastopt.RowGrad(rows, values))
    for each in (opt, loaded, copied):
        each.catch_up()
    assert_same_bits(other, table)
    assert_same_bits(copied.groups[0]["params"][0], table)


def test_a_skipped_step_counts_as_none():
    table = np.ones(SHAPE)
    opt = fastopt.SGD(table, lr=0.1, momentum=0.9, catch_up=True, nonfinite="skip")
    opt.step(fastopt.RowGrad([1], np.ones((1, 3))))
    opt.step(fastopt.RowGrad([1, 2], np.full((2, 3), np.nan)))
    before = table.copy()
    opt.catch_up()
    assert_same_bits(table, before)
    assert opt.state[0]["last_step"].tolist() == [1] * len(table)


@pytest.mark.parametrize("case", CANNOT, ids=ids)
def test_rules_without_a_closed_form(case):
    with pytest.raises(ValueError, match="catch_up must be False for a rule without a closed form of missed steps"):
        case.make(np.ones(SHAPE), catch_up=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"catch_up": 1}, "SGD: catch_up must be True or False, got 1"),
        ({"weight_decay": 0.1}, "SGD: weight_decay must be 0 with catch_up, got 0.1"),
        ({"lr": lambda t: 0.1}, "SGD: lr must be a number with catch_up, got"),
        (
            {"ema_decay": 0.9},
            "SGD: catch_up must be False with averages of the parameters, since missed steps move a row",
        ),
    ],
)
def test_options_that_do_not_go_with_it(kwargs, message):
    table = np.ones(SHAPE)
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.SGD(table, **{"lr": 0.1, "momentum": 0.9, "catch_up": True, **kwargs})


@pytest.mark.parametrize("case", CAN, ids=ids)
def test_schedules_of_hyperparameters_that_the_closed_form_reads(case):
    """Each is refused by the name of its argument, in a pair too; the others may be schedules."""
    opt = case.make(np.ones(SHAPE), catch_up=True)
    (group,), read = opt.groups, {*fastopt._core.Settings(case.rule).catch_up, "lr_scale"}
    for key, declared in opt._declaration.hyper.items():
        now = group[key]
        if key in opt._declaration.selecting or not declared.scheduled or key == "weight_decay" or declared.fixed:
            continue
        for i in range(len(declared.names)):
            value = (
                (*now[:i], lambda t, now=now[i]: now, *now[i + 1 :])
                if isinstance(now, tuple)
                else lambda t, now=now: now
            )
            if read.isdisjoint(declared.names):
                group[key] = value
            else:
                with pytest.raises(
                    ValueError, match=f"{case.cls}: {key} must be (a number|numbers) with catch_up, got"
                ):
                    group[key] = value


@pytest.mark.parametrize("table", [np.ones((4, 3)).T, np.ones(())], ids=["transposed", "no axis"])
def test_layouts_that_do_not_go_with_it(table):
    with pytest.raises(ValueError, match="SGD: params must be C-contiguous with at least one axis with catch_up"):
        fastopt.SGD(table, catch_up=True)


def test_what_comes_later_is_refused_and_changes_nothing():
    table = np.ones(SHAPE)
    opt = fastopt.SGD(table, lr=0.1, momentum=0.9, catch_up=True)
    opt.step(fastopt.RowGrad([1], np.ones((1, 3))))
    before, state = table.copy(), opt.state_dict()
    for change in ({"weight_decay": 0.1}, {"momentum": lambda t: 0.9}):
        with pytest.raises(ValueError, match="with catch_up"):
            opt.groups[0].update(change)
    with pytest.raises(ValueError, match="gradient of parameter 0 must be C-contiguous with catch_up"):
        opt.step(np.ones(SHAPE[::-1]).T)
    state["state"][0]["last_step"][3] = 2
    with pytest.raises(
        ValueError, match=r"'last_step' in the state of parameter 0 must be in \[0, 1\], its step, got 0 to 2"
    ):
        opt.load_state_dict(state)
    assert_same_bits(table, before)
    with pytest.raises(ValueError, match=r"catch_up\(\) needs the option catch_up=True"):
        named("sgd").make(np.ones(3)).catch_up()


def test_an_empty_table():
    opt = fastopt.RMSprop([np.ones((0, 3)), np.ones((3, 0))], catch_up=True)
    opt.step([np.ones((0, 3)), np.ones((3, 0))])
    opt.catch_up()


def test_whole_gradients_of_rows_that_have_missed_nothing(isas):
    """Where no row is behind, the step is that without catch_up, to the bit; short rows are no slower for it."""
    for _ in isas:
        p, q = np.ones(1000, np.float32), np.ones(1000, np.float32)
        opt, plain = fastopt.SGD(p, momentum=0.9, catch_up=True), fastopt.SGD(q, momentum=0.9)
        rng = np.random.default_rng(5)
        for _ in range(4):
            g = rng.standard_normal(1000).astype(np.float32)
            opt.step(g)
            plain.step(g)
        assert_same_bits(p, q)
        assert (opt.state[0]["last_step"] == 4).all()


def test_no_rows_are_a_step_too():
    """A RowGrad of no rows counts as a step, as a gradient of zeros does."""
    whole, table = np.ones(SHAPE), np.ones(SHAPE)
    expected, opt = fastopt.SGD(whole, lr=0.1, momentum=0.9), fastopt.SGD(table, lr=0.1, momentum=0.9, catch_up=True)
    some, none = fastopt.RowGrad([3, 3], np.ones((2, 3))), fastopt.RowGrad(np.zeros(0, int), np.ones((0, 3)))
    for rows in (some, none, none, some, none):
        expected.step(dense(rows.rows, rows.values))
        opt.step(rows)
    assert opt.step_count == opt.state_dict()["state"][0]["step"] == 5
    opt.catch_up()
    np.testing.assert_allclose(table, whole, rtol=1e-14)


def no_dampening(step):
    """A schedule that a state dict can name."""
    return 0.0


@pytest.mark.parametrize("way", ["load", "copy"])
def test_a_new_optimizer_knows_the_numbers(way):
    """Before its first step, where something is scheduled."""
    table = np.ones((3, 1))

    def make(table):
        return fastopt.SGD(table, lr=0.1, momentum=0.9, dampening=no_dampening, catch_up=True)

    opt = make(table)
    opt.step(fastopt.RowGrad([0, 1], np.ones((2, 1))))
    opt.step(fastopt.RowGrad([0], np.ones((1, 1))))
    if way == "copy":
        other, fresh = copy.deepcopy((table, opt))
    else:
        other = table.copy()
        fresh = make(other)
        fresh.load_state_dict(opt.state_dict())
    opt.catch_up()
    fresh.catch_up()
    assert_same_bits(other, table)
    assert table[1, 0] < 0.85
