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
    ("rule", "passes", "limit"),
    [
        ("adam", (7,), 7),
        ("lamb", (6, 4), 7),
        ("novograd", (1, 5), 5),
        ("adafactor", (2, 1, 3), 3),
        ("adafactor_vector", (4, 4), 5),
        ("sm3", (5,), 5),
    ],
)
def test_measure(rule, passes, limit):
    """The bytes of an element are those of so many float32."""
    steps, limits, *bytes_moved = bench.measure(rule, 1000, "float32", 1, 3, roofline=True)
    assert len(steps) == len(limits) == 3
    assert min(steps + limits) > 0
    assert bytes_moved == [tuple(4 * n for n in passes), 4 * limit]


@pytest.mark.parametrize(
    ("dtype", "storage", "moved"),
    [
        ("float32", {"state_dtype": "bfloat16"}, 20),
        ("float32", {"state_dtype": "8bit"}, 16.25),
        ("bfloat16", {"state_dtype": "bfloat16"}, 18),
        ("bfloat16", {"state_dtype": "8bit", "master": "split8"}, 12.25),
        ("float16", {"state_dtype": "float16", "master": None}, 14),
    ],
)
def test_measure_fewer_bytes(dtype, storage, moved):
    steps, limits, *bytes_moved = bench.measure("adam", 6400, dtype, 1, 2, roofline=True, storage=storage)
    assert min(steps + limits) > 0
    assert bytes_moved == [(moved,), moved]


def test_bench_of_formats(capsys):
    options = ["--rules", "adam,sgd", "--size", "6400", "--rounds", "2", "--roofline", "--dtype", "bfloat16"]
    assert bench.main([*options, "--master", "split8", "--state-dtype", "8bit"]) == 0
    out = capsys.readouterr().out
    assert "12.25" in out
    assert "state_dtype=8bit, master=split8" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--rules", "lamb", "--state-dtype", "8bit"],
            "--rules must read and write each array once with formats, got lamb",
        ),
        (["--rules", "adam", "--master", "split16"], "master must be auto or None for parameters of float32"),
    ],
)
def test_bench_of_formats_that_do_not_fit(options, message, capsys):
    with pytest.raises(SystemExit):
        bench.main(options)
    assert message in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def accuracy():
    for module in ("ml_dtypes", "sklearn", "matplotlib"):
        pytest.importorskip(module)
    return pytest.importorskip("bench.formats", reason="needs the source tree")


def test_trainings_in_every_format_start_alike(accuracy):
    losses = accuracy.trainings(["cancer"], 2, 30)
    assert len(losses) == len(accuracy.RATES) * len(accuracy.FORMATS)
    for cell, of_seeds in losses.items():
        exact = losses[(*cell[:2], accuracy.EXACT)]
        assert of_seeds == pytest.approx(exact, rel=0.1), cell
    for stored in accuracy.FORMATS:
        differ = any(losses[cell] != losses[(*cell[:2], accuracy.EXACT)] for cell in losses if cell[2] == stored)
        assert differ == (stored != accuracy.EXACT), stored


def test_small_steps_are_lost_without_a_master(accuracy):
    ends = {name: curve[-1] for name, curve in accuracy.small_steps(12_000).items()}
    assert ends["pure bf16, nearest"] == ends["split8, nearest"] == 0
    assert min(end for name, end in ends.items() if not name.endswith("nearest")) > 0.5


def test_second_moments_that_fall(accuracy):
    ends = {name: curves["v"][-1] for name, curves in accuracy.ten_decades("in time", 2000).items()}
    assert ends[accuracy.EXACT] == 1
    assert ends["bf16, stochastic"] == pytest.approx(1, rel=0.1)
    assert ends["8-bit, stochastic"] == pytest.approx(1, rel=0.1)
    assert ends["bf16, nearest"] > 3


def test_the_report_on_formats(accuracy, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(accuracy, "TASKS", ("cancer",))
    files = [tmp_path / "formats.json", tmp_path / "formats.png"]
    accuracy.main(["--seeds", "2", "--steps", "50", "--json", str(files[0]), "--picture", str(files[1])])
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in (*accuracy.FORMATS, *accuracy.OF_STATE, *accuracy.OF_PARAMETERS))
    assert all(file.stat().st_size > 1000 for file in files)
