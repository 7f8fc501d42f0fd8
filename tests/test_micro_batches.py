"""Gradients that come in pieces: one parameter at a time, and micro-batches, of rows too."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fastopt
from support import reference
from support.arrays import DTYPES, several
from support.asserts import assert_same_bits, ids
from support.cases import BY_ROW, RULES

# ---- One parameter at a time ----


@pytest.mark.parametrize("case", [case for case in RULES if case.rule not in reference.TOGETHER], ids=ids)
def test_one_parameter_at_a_time(case):
    params, grads = several(np.float32, 3)
    whole, single = case.make([p.copy() for p in params]), case.make(params, zero_grads=True, ema_decay=0.5)
    for t, gs in enumerate(grads, 1):
        whole.step(gs)
        for i in reversed(range(len(gs))):
            single.step_one(i, gs[i])
            assert single.step_count == t
            assert (gs[i] == 0).all()
    for i, p in enumerate(params):
        assert_same_bits(p, whole.groups[0]["params"][i])
        for letter, buffer in whole.state[i].items():
            assert_same_bits(single.state[i][letter], buffer, letter)


def test_one_parameter_is_refused():
    opt = fastopt.Adam({"w": np.ones(3)}, clip_norm=1.0)
    with pytest.raises(ValueError, match="clip_norm must be None, since the norm of all gradients"):
        opt.step_one("w", np.ones(3))
    opt = fastopt.Adam({"w": np.ones(3)})
    with pytest.raises(ValueError, match="name must be the name of a parameter, got 'v'"):
        opt.step_one("v", np.ones(3))
    with pytest.raises(ValueError, match="shape"):
        opt.step_one("w", np.ones(4))
    assert opt.step_count == 0
    opt = fastopt.Prodigy({"w": np.ones(3)})
    with pytest.raises(ValueError, match="needs the gradients of all parameters at once"):
        opt.step_one("w", np.ones(3))


# ---- Micro-batches ----


@pytest.mark.parametrize("accumulated", ["mean", "sum"])
@pytest.mark.parametrize("structure", ["mapping", "groups"])
def test_micro_batches(structure, accumulated):
    def of(a, b):
        return {"a": a, "b": b} if structure == "mapping" else [{"a": a}, {"b": b}]

    a, b = np.ones((30, 2)).T, np.ones(5)
    params = of(a, b) if structure == "mapping" else [{"params": group} for group in of(a, b)]
    opt = fastopt.SGD(params, lr=1.0)
    opt.accumulate(of(np.full((2, 30), 3.0), None))
    opt.accumulate(of(np.full((2, 30), 5.0), None))
    with pytest.raises(ValueError, match=r"gradients must be None after accumulate\(\)"):
        opt.step(of(np.ones((2, 30)), None))
    with pytest.raises(ValueError, match="shape"):
        opt.accumulate(of(np.ones((2, 31)), None))
    opt.step(accumulated=accumulated)
    assert (a == (-3 if accumulated == "mean" else -7)).all()
    assert (b == 1).all()
    opt.accumulate(of(np.ones((2, 30)), np.ones(5)))
    opt.step()
    assert (a == (-4 if accumulated == "mean" else -8)).all()
    assert (b == 0).all()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()


def test_micro_batches_that_are_skipped_leave_nothing_behind():
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="skip")
    opt.accumulate(np.full(3, np.inf))
    opt.step()
    assert opt.skipped_steps == 1
    opt.accumulate(np.ones(3))
    opt.step()
    assert (p == 0).all()


def test_what_was_gathered_can_be_discarded():
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="raise")
    opt.discard()
    for _ in range(2):
        opt.accumulate(np.full(3, math.nan))
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            opt.step()
    opt.discard()
    opt.accumulate(np.ones(3))
    opt.step()
    assert (p == 0).all()
    opt.accumulate(np.ones(3))
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()
    opt.step(np.ones(3))
    assert (p == -1).all()


@pytest.mark.parametrize("value", ["median", None, 1, np.ones(2)], ids=str)
def test_accumulated_must_be_known(value):
    p = np.ones(3)
    opt = fastopt.SGD(p)
    with pytest.raises(ValueError, match=r"SGD.step: accumulated must be mean or sum, got"):
        opt.step(np.ones(3), accumulated=value)
    with pytest.raises(TypeError, match=r"SGD.step_one: accumulated is an option of step\(\), got"):
        opt.step_one(0, np.ones(3), accumulated=value)
    assert (p == 1).all()


# ---- Micro-batches of rows ----


def rows_of(rng, dtype, count=40, high=30, tail=(5,)):
    """Gradients of rows, some of which come several times, some of them 0 of either sign."""
    values = rng.standard_normal((count, *tail)).astype(dtype)
    values[rng.random(count) < 0.1] = -0.0
    return fastopt.RowGrad(rng.integers(0, high, count), values)


@pytest.mark.parametrize("accumulated", ["mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", BY_ROW, ids=ids)
def test_one_micro_batch_of_rows_is_the_step_with_them(case, dtype, accumulated):
    rng = np.random.default_rng(3)
    straight, gathered = (case.make({"table": np.ones((50, 5), dtype), "w": np.ones(4, dtype)}) for _ in range(2))
    for t in range(4):
        grads = {"table": rows_of(rng, dtype), "w": None if t == 2 else rng.standard_normal(4).astype(dtype)}
        straight.step(grads)
        gathered.accumulate(grads)
        gathered.step(accumulated=accumulated)
    for p, q in zip(straight.groups[0]["params"], gathered.groups[0]["params"], strict=True):
        assert_same_bits(p, q)
    assert repr(straight.state_dict()) == repr(gathered.state_dict())


@pytest.mark.parametrize("tail", [(), (7,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("accumulated", ["mean", "sum"])
def test_micro_batches_of_rows_are_summed_in_their_order(accumulated, tail):
    """To the bit the step with all of the rows at once, however many come; the rest of the table does not move."""
    rng = np.random.default_rng(4)
    straight, gathered = (fastopt.Adam(np.ones((200, *tail), np.float32), lr=0.1, clip_norm=1.0) for _ in range(2))
    for count in (1, 2, 9):
        pieces = [
            rows_of(rng, np.float32, int(rng.integers(0, 50)), int(rng.integers(1, 100)), tail) for _ in range(count)
        ]
        whole = fastopt.RowGrad(
            np.concatenate([piece.rows for piece in pieces]), np.concatenate([piece.values for piece in pieces])
        )
        for piece in pieces:
            values = piece.values.copy()
            gathered.accumulate(piece)
            assert_same_bits(piece.values, values)
            piece.values[...] = np.nan  # it was copied
        gathered.step(accumulated=accumulated)
        straight.step(whole, grad_scale=float(count) if accumulated == "mean" else None)
        assert gathered.grad_norm == straight.grad_norm
    assert_same_bits(gathered.groups[0]["params"][0], straight.groups[0]["params"][0])
    assert repr(straight.state_dict()) == repr(gathered.state_dict())
    assert (gathered.groups[0]["params"][0][100:] == 1).all()
    assert (gathered.state[0]["m"][100:] == 0).all()


def test_other_rows_of_momentum_do_not_move():
    """Two steps, by hand: b = 1, then 0.9 + 2; the row that the second step does not name stays."""
    p = np.zeros((3, 1))
    opt = fastopt.SGD(p, lr=1.0, momentum=0.9)
    opt.accumulate(fastopt.RowGrad([0, 1], np.ones((2, 1))))
    opt.step()
    opt.accumulate(fastopt.RowGrad([1], np.full((1, 1), 1.0)))
    opt.accumulate(fastopt.RowGrad([1], np.full((1, 1), 3.0)))
    opt.step()
    np.testing.assert_array_equal(p[:, 0], [-1, -1 - 2.9, 0])
    np.testing.assert_array_equal(opt.state[0]["b"][:, 0], [1, 2.9, 0])


@pytest.mark.parametrize("order", ["rows, whole", "whole, rows", "rows, none, whole, rows"])
def test_a_whole_gradient_makes_rows_whole(order):
    rng = np.random.default_rng(5)
    straight, gathered = (fastopt.Adam({"table": np.ones((20, 3))}, lr=0.1) for _ in range(2))
    for _ in range(3):
        rows, g = rows_of(rng, np.float64, 15, 10, (3,)), rng.standard_normal((20, 3))
        kinds = {"rows": rows, "whole": g, "none": None}
        parts = [kinds[kind] for kind in order.split(", ")]
        total = np.zeros((20, 3))
        for part in parts:
            gathered.accumulate({"table": part})
            if part is rows:
                np.add.at(total, rows.rows, rows.values)
            elif part is g:
                total += g
        gathered.step(accumulated="sum")
        straight.step({"table": total})
        np.testing.assert_allclose(
            gathered.groups[0]["params"][0], straight.groups[0]["params"][0], rtol=1e-13, atol=1e-13
        )
    assert (gathered.groups[0]["params"][0] != 1).all()  # the whole table has moved


def test_rules_without_rows_take_micro_batches_of_rows_as_a_whole_gradient():
    rng = np.random.default_rng(6)
    for make in (fastopt.LAMB, partial(fastopt.Adam, ema_decay=0.5)):
        straight, gathered = (make(np.ones((20, 3)), lr=0.1) for _ in range(2))
        rows, total = rows_of(rng, np.float64, 15, 10, (3,)), np.zeros((20, 3))
        np.add.at(total, rows.rows, rows.values)
        gathered.accumulate(rows)
        gathered.step()
        straight.step(total)
        np.testing.assert_allclose(gathered.groups[0]["params"][0], straight.groups[0]["params"][0], rtol=1e-13)


def test_micro_batches_of_rows_that_do_not_fit_change_nothing():
    params = {"table": np.ones((20, 3)), "w": np.ones(2)}
    opt = fastopt.SGD(params, lr=1.0, nonfinite="skip")
    good = {"table": fastopt.RowGrad([1, 2, 1], np.ones((3, 3))), "w": np.ones(2)}
    opt.accumulate(good)
    for bad in (
        {**good, "w": np.ones(3)},
        {**good, "table": fastopt.RowGrad([20], np.ones((1, 3)))},
        {**good, "table": fastopt.RowGrad([1], np.ones((1, 4)))},
        {"table": np.ones((20, 3)), "w": np.ones(3)},
    ):
        with pytest.raises(ValueError, match=r"SGD\.accumulate"):
            opt.accumulate(bad)
    opt.step(accumulated="sum")
    np.testing.assert_array_equal(params["table"][:4, 0], [1, -1, 0, 1])
    np.testing.assert_array_equal(params["w"], 0)
    opt.accumulate({**good, "table": fastopt.RowGrad([3], np.full((1, 3), np.inf))})
    opt.step()
    assert opt.skipped_steps == 1
    opt.accumulate(good)
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()
    opt.accumulate(good)
    opt.step()
    np.testing.assert_array_equal(params["table"][:4, 0], [1, -3, -1, 1])


def test_rows_that_catch_up_take_micro_batches():
    rng = np.random.default_rng(7)
    straight, gathered = (fastopt.SGD(np.ones((30, 2)), lr=0.1, momentum=0.9, catch_up=True) for _ in range(2))
    for _ in range(6):
        a, b = (rows_of(rng, np.float64, 5, 30, (2,)) for _ in range(2))
        straight.step(fastopt.RowGrad(np.concatenate([a.rows, b.rows]), np.concatenate([a.values, b.values])))
        gathered.accumulate(a)
        gathered.accumulate(b)
        gathered.step(accumulated="sum")
    straight.catch_up()
    gathered.catch_up()
    assert_same_bits(gathered.groups[0]["params"][0], straight.groups[0]["params"][0])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to measure the memory in use")
def test_micro_batches_of_rows_take_the_memory_of_rows():
    """Neither a table nor all micro-batches are kept: the pages that come into use are counted."""

    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    table = np.ones((400_000, 64), np.float32)  # 100 MB
    opt = fastopt.SGD(table, lr=0.1)
    piece = fastopt.RowGrad(np.arange(2000), np.ones((2000, 64), np.float32))
    opt.accumulate(piece)
    before = pages()
    for _ in range(50):
        opt.accumulate(piece)
    opt.discard()
    opt.accumulate(piece)
    opt.step()
    assert (pages() - before) * 4096 < 10_000_000
    assert (table[0] == 1 - np.float32(0.1)).all()
