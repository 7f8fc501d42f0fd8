"""Row-wise Adagrad, of vectors and of matrices."""

import math

import numpy as np
import pytest

import fastopt
from support.arithmetic import Flushed, flush, lost_sum
from support.arrays import DTYPES
from support.asserts import ids
from support.rule import ByHand, Class, Rule
from support.sums import products_of_spans


def eps_of(T, t, eps):
    return T(eps + math.sqrt(2 * lost_sum(T, t)))


def rowwiseadagrad(p, g, G, *, t, lr, eps):
    if p.size == 0:
        return
    T, columns = p.dtype.type, p.shape[-1]
    sums = np.add.accumulate(products_of_spans(np.asarray(g).reshape(-1, columns), 1024), axis=1)[:, -1]
    G += flush(flush(sums / columns).astype(T)).reshape(G.shape).view(Flushed)
    rate, largest = T(lr) / (np.sqrt(G) + eps_of(T, t, eps)), np.finfo(T).max
    p -= np.where(rate > largest, largest, rate)[..., np.newaxis] * g


def rowwiseadagrad_vector(p, g, G, *, t, lr, eps):
    T = p.dtype.type
    G += g * g
    p -= T(lr) * g / (np.sqrt(G) + eps_of(T, t, eps))


def nothing(p, state, skipped, **hyper):
    """Rows without a gradient stay as they are."""


RULES = [
    Rule(rowwiseadagrad, gathers="rows", extents={"G": lambda shape: shape[:-1]}, catch_up=nothing),
    Rule(rowwiseadagrad_vector, catch_up=nothing),
]


CLASSES = [
    Class(
        "RowWiseAdagrad",
        {"lr": 1e-2, "initial_accumulator_value": 0.0, "eps": 1e-8},
        "rowwiseadagrad_vector",
        options={"accumulator": {"initial_accumulator_value": 0.1, "eps": 1e-3}},
        start=lambda settings: {"G": settings["initial_accumulator_value"]},
        by_hand={
            # G = 4, 2 / 2;  G = 6.25, 1.5 / 2.5
            "vector": ByHand({"eps": 0.0}, [2, 1.5], [0.9, 0.84]),
            # means 4 of (2, 2) and 25 of (1, 7): 2 / (2 + 2), 1 / (5 + 2) and 7 / (5 + 2);  then 4 + 5 of (1, 3): 3 + 2
            "": ByHand(
                {"eps": 2.0},
                [[[2, 2], [1, 7]], [[1, 3], [0, 0]]],
                [
                    [[0.95, 0.95], [1 - 0.1 / 7, 0.9]],
                    [[0.93, 0.89], [1 - 0.1 / 7, 0.9]],
                ],
                start=((1.0, 1.0), (1.0, 1.0)),
                state={"G": [[4, 25], [9, 25]]},
            ),
            "accumulator": ByHand(
                {"eps": 0.0, "initial_accumulator_value": 5.0}, [[[2, 2]]], [[[1 - 0.2 / 3] * 2]], start=((1.0, 1.0),)
            ),
        },
        twin="test_the_loop_of_fbgemm",
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_the_loop_of_fbgemm(dtype):
    """Row by row as FBGEMM's split_rowwise_adagrad: the mean of squares, a multiplier, and the row times that."""
    rng = np.random.default_rng(1)
    table, lr, eps = rng.standard_normal((40, 12)), 0.1, 1e-6
    p, momentum = table.astype(dtype), np.zeros(40)
    opt = fastopt.RowWiseAdagrad(p, lr=lr, eps=eps)
    for _ in range(30):
        rows, values = rng.integers(0, 40, 15), rng.standard_normal((15, 12)).astype(dtype)
        opt.step(fastopt.RowGrad(rows, values))
        for row in set(rows.tolist()):
            grad = values[rows == row].astype(np.float64).sum(axis=0)
            momentum[row] += sum(x * x for x in grad) / 12
            multiplier = lr / (math.sqrt(momentum[row]) + eps)
            for d in range(12):
                table[row, d] -= multiplier * grad[d]
    np.testing.assert_allclose(p, table, rtol=1e-12 if dtype is np.float64 else 1e-4, atol=1e-5)
    np.testing.assert_allclose(opt.state[0]["G"], momentum, rtol=1e-12 if dtype is np.float64 else 1e-5)


def test_a_nan_stays_in_its_row():
    p = np.ones((3, 5))
    fastopt.RowWiseAdagrad(p).step(np.where(np.eye(3, 5, 1) == 1, [[np.nan], [1.0], [1.0]], 1.0))
    assert np.isnan(p[0]).all()
    assert np.isfinite(p[1:]).all()
