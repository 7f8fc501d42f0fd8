"""Rules that look at each row: some rows of a table take the step of the whole table, to the bit."""

import numpy as np
import pytest

import fastopt
from support.arrays import DTYPES
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import RULES, Oracle
from support.covering import all_pairs
from support.registry import RULES as ROWS

CASES = [case for case in RULES if ROWS[case.rule.removesuffix("_vector")].gathers == "rows"]
# Rows around the sizes of a block, 1024, and longer than the elements that a thread claims, 16384.
SHAPES = [(400, 1), (300, 7), (60, 1024), (40, 1025), (9, 20_000), (30, 3, 70)]
STAGES = {
    "": {},
    "clip": {"clip_value": 0.5, "maximize": True},
    "scale": {"grad_scale": 4.0},
    "decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "weight_decay_form": "decoupled"},
}


@pytest.mark.parametrize(
    ("case", "dtype", "shape", "stages"), all_pairs(CASES, DTYPES, SHAPES, [*STAGES.values()]), ids=ids
)
def test_rows(case, dtype, shape, stages, isas):
    """The rows that are named take the step of the whole table; the others stay."""
    rng = np.random.default_rng(2)
    table = rng.standard_normal(shape).astype(dtype)
    changes = {key: value for key, value in stages.items() if key != "grad_scale"}
    oracle, steps = Oracle(case, table), []
    for t in range(3):
        rows = rng.integers(0, shape[0] - 1, 2 * shape[0] // 3)
        values = rng.standard_normal((len(rows), *shape[1:])).astype(dtype)
        dense = np.zeros_like(table)
        np.add.at(dense, rows, values)
        steps.append(dense if t == 1 else fastopt.RowGrad(rows, values))
        kept = [(buffer, buffer.copy()) for buffer in (oracle.p, *oracle.buffers.values())]
        oracle.step(dense, **changes, scale=1 / stages.get("grad_scale", 1.0))
        if t != 1:
            others = np.setdiff1d(np.arange(shape[0]), rows)
            for buffer, before in kept:
                buffer[others] = before[others]
    for _ in isas:
        for threads in (1, 3):
            p = table.copy()
            opt = case.make(p, num_threads=threads, **stages)
            for g in steps:
                opt.step(g)
            assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_averages(case, dtype, isas):
    """With averages and rows that missed rounds, the rows are those without averages."""
    for _ in isas:
        rng = np.random.default_rng(3)
        table = rng.standard_normal((50, 1500)).astype(dtype)
        other = table.copy()
        opt, plain = case.make(table, ema_decay=0.9), case.make(other)
        for _ in range(4):
            g = fastopt.RowGrad(rng.integers(0, 50, 20), rng.standard_normal((20, 1500)).astype(dtype))
            opt.step(g)
            plain.step(g)
        assert_same_bits(table, other)
        for letter, buffer in plain.state[0].items():
            assert_same_bits(opt.state[0][letter], buffer, letter)
