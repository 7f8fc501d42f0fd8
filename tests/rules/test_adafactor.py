"""Adafactor, of matrices and of vectors."""

import math
import sys

import numpy as np
import pytest

import fastopt
from fastopt.optimizers import plain
from support.arithmetic import Flushed, exp, flush, flush_number, larger, larger_of, log, lost_mean, take
from support.arrays import DTYPES
from support.asserts import ids
from support.rule import ByHand, Class, Rule
from support.sums import add_up, products_of_spans, root, squares, squares_of_tiles, tiles
from support.twins import TorchTwin, between, power_of_ten


def adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay, flushed=float):
    """1 - beta, the smallest root, the shrinking of p, and its rate from the sizes of p and u.

    For matrices they are computed within the passes, where subnormal doubles count as 0.
    """
    T = p.dtype.type
    shrink = T(1 - lr * decay)
    lr, beta2_decay, eps1, eps2 = map(flushed, (lr, beta2_decay, eps1, eps2))
    eps = float(np.finfo(T).eps) if eps1 == math.inf else eps1
    taken = flushed(exp(flushed(beta2_decay * log(t))))
    length = max(p.shape[-2:]) if p.ndim > 1 else 1
    least = 2.0**8 * math.sqrt(length * lost_mean(T, 1 - taken, t))

    def rate(of_p, of_u):
        if p.size == 0:
            return T(0)
        alpha = flushed(larger_of(root(of_p, p.size), eps2) * min(lr, 1 / math.sqrt(t)))
        return T(alpha / larger_of(root(of_u, p.size) / d, 1.0))

    return taken, eps, T(max(eps, least)), shrink, rate


def adafactor(p, g, R, C, *, t, lr, beta2_decay, eps1, eps2, d, decay):
    if p.size == 0:
        return
    T = p.dtype.type
    taken, eps, least, shrink, rate = adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay, flush_number)
    rows, columns = p.shape[-2:]
    gradient = flush(np.asarray(g)).reshape(-1, columns)
    of_rows, of_columns = np.zeros(len(gradient)), np.zeros((len(gradient) // rows, columns))
    for row, column in tiles(p.shape):
        part = gradient[row, column]
        of_rows[row] += np.add.accumulate(products_of_spans(part), axis=1)[:, -1]
        of_matrices = flush(np.asarray(part, np.float64) ** 2).reshape(-1, min(rows, len(part)), part.shape[1])
        first = row.start // rows
        of_columns[first : first + len(of_matrices), column] += np.add.accumulate(of_matrices, axis=1)[:, -1]

    def mix(means, sums, count):
        double = flush((1 - taken) * flush(np.asarray(means, np.float64)).reshape(sums.shape))
        means[...] = flush(flush(double + flush(taken * flush(sums / count))).astype(T)).reshape(means.shape)

    mix(R, of_rows, columns)
    mix(C, of_columns, rows)
    lead = np.empty((len(of_columns), rows))
    for of_row, row in zip(lead, np.asarray(R, np.float64).reshape(-1, rows), strict=True):
        mean, smallest = add_up(row) / rows, larger_of(eps, sys.float_info.min)
        of_row[...] = flush(row / (smallest if mean < smallest else mean))  # NaN stays
    v = flush(lead.astype(T)).reshape(*p.shape[:-1], 1).view(Flushed) * C.reshape(*p.shape[:-2], 1, columns)
    u = g / larger(np.sqrt(v), least)
    p[...] = shrink * p - rate(squares_of_tiles(p), squares_of_tiles(u)) * u


def adafactor_vector(p, g, v, *, t, lr, beta2_decay, eps1, eps2, d, decay):
    taken, _, least, shrink, rate = adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay)
    v[...] = take(v, g * g, 1 - taken)
    u = g / larger(np.sqrt(v), least)
    p[...] = shrink * p - rate(squares(p), squares(u)) * u


def decay_rate(T, t, state, hyper):
    return hyper["lr"]


RULES = [
    Rule(
        adafactor,
        gathers="matrices",
        decay_rate=decay_rate,
        extents={"R": lambda shape: shape[:-1], "C": lambda shape: shape[:-2] + shape[-1:]},
    ),
    Rule(adafactor_vector, gathers="alone", decay_rate=decay_rate),
]


CLASSES = [
    Class(
        "Adafactor",
        {"lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0},
        "adafactor_vector",
        options={
            "large": {"lr": 0.5, "eps": (1e-2, 0.5), "d": 2.0},
            "decay": {"weight_decay": 0.1, "beta2_decay": -0.3},
        },
        decay_form="own",
        unset=lambda settings: {"eps1": math.inf},
        by_hand={
            # v = 4, u = 1, rms(p) = 1, rms(u) = 1;  rest = 1/2: v = 2 + 32 = 34, u = 8 / sqrt(34) > 1 is scaled to 1
            "vector": ByHand({"beta2_decay": -1.0}, [2, 8], [0.9, 0.81]),
            # rest = 1/2: v = 2 + 1/2, u = 1 / sqrt(2.5);  the step is relative to p = 0.9 * 0.95
            "decay": ByHand(
                {"beta2_decay": -1.0, "weight_decay": 0.5}, [2, 1], [0.85, 0.85 * 0.95 - 0.1 * 0.85 / math.sqrt(2.5)]
            ),
            # v counts as 4^2: u = 1/2;  p counts as 2: 0.1 * 2 * 1/2
            "eps": ByHand({"eps": (4.0, 2.0)}, [2], [0.9]),
            # R = (5, 20) / 2, C = (5, 20) / 2, v = R C / (25 / 4) = ((1, 4), (4, 16)): u = 1 everywhere, rms(p) = 2
            "matrix": ByHand(
                {},
                [[[1, -2], [2, 4]]],
                [[[1.8, 2.2], [1.8, 1.8]]],
                start=[[2, 2], [2, 2]],
                state={"R": [[2.5, 10]], "C": [[2.5, 10]]},
            ),
        },
        torch=TorchTwin(
            {"lr": power_of_ten(-3, -1)},
            {
                "eps": {"eps": lambda rng: (float(10 ** rng.uniform(-8, -2)), float(rng.uniform(0, 2)))},
                "slowing": {"beta2_decay": between(-1, -0.1), "d": between(1, 3)},
            },
        ),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("shape", [(50,), (30, 40), (3, 200)])
def test_small_gradients(shape, dtype):
    """u = g / max(root, eps) is never above the exact one, so no step is above d lr max(eps2, rms(p)) / rms(u)."""
    g = 10 ** np.random.default_rng(6).uniform(-30, -10, shape)
    g = g.astype(np.float32)
    p, exact, state = np.zeros(shape, dtype), np.zeros(shape), {}
    # d so large that u is not scaled
    opt = fastopt.Adafactor(p, lr=0.01, eps=(0.0, 1.0), d=1e30)
    for t in range(1, 6):
        opt.step(g.astype(dtype))
        with np.errstate(all="ignore"):
            plain("Adafactor")(exact, g.astype(np.float64), state, t, lr=0.01, eps=(0.0, 1.0), d=1e30)
        assert (abs(p) <= abs(exact) * (1 + 1e-4)).all()
    before = p.copy()
    opt = fastopt.Adafactor(p, lr=0.01, eps=(0.0, 1.0))
    opt.step(np.zeros(shape, dtype))
    np.testing.assert_array_equal(p, before)
