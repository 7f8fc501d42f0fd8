"""The figures of ``python -m fastopt bench`` for the rules."""

import numpy as np
import pytest

import fastopt
from fastopt.cli import bench
from support import reference


def test_every_rule_can_be_chosen():
    assert list(bench.RULES) == [row[0] for row in fastopt._core.rules() if "muon" not in row[0]]


@pytest.mark.parametrize("rule", bench.RULES)
def test_passes(rule):
    """A rule that refuses a RowGrad needs all of a parameter: on every step, in several passes, or on the first."""
    row = () if bench.RULES[rule].for_vectors else (2,)
    optimizer = bench.RULES[rule].make(np.ones((3, *row)))
    grad = fastopt.RowGrad([1], np.ones((1, *row)))
    several_passes = bench.RULES[rule].streams and reference.RULES[rule].gathers != "rows"
    if rule in {"sm3", *reference.STARTS} or several_passes:
        with pytest.raises(ValueError, match="this rule needs all of it"):
            optimizer.step(grad)
    else:
        optimizer.step(grad)


@pytest.mark.parametrize(
    ("rule", "streams", "limit"),
    [
        ("adam", (7,), 7),
        ("lamb", (6, 4), 7),
        ("novograd", (1, 5), 5),
        ("adafactor", (2, 1, 3), 3),
        ("adafactor_vector", (4, 4), 5),
        ("sm3", (5,), 5),
    ],
)
def test_measure(rule, streams, limit):
    steps, limits, *bytes_moved = bench.measure(rule, 1000, "float32", 1, 3, roofline=True)
    assert len(steps) == len(limits) == 3
    assert min(steps + limits) > 0
    assert bytes_moved == [streams, limit]


def test_bench_of_two_passes(capsys):
    assert bench.main(["--rules", "lamb", "--size", "1000", "--rounds", "2", "--roofline"]) == 0
    out = capsys.readouterr().out
    assert "lamb" in out
    assert "24 + 16" in out


def test_an_update_of_instruction_counts_leaves_what_has_not_moved():
    instructions = pytest.importorskip("bench.instructions", reason="needs the source tree")
    known = {"other": {"per call": {"a": 1.0}}, "here": {"per call": {"a": 100.0, "b": 100.0, "gone": 1.0}}}
    now = {"here": {"per call": {"a": 102.9, "b": 104.0, "new": 5.0}}}
    assert instructions.updated(now, known) == {
        "other": {"per call": {"a": 1.0}},
        "here": {"per call": {"a": 100.0, "b": 104.0, "new": 5.0}},
    }
    assert instructions.updated(now, {}) == now
