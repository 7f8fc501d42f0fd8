"""The examples in Python: each runs by itself, and prints what it is to show."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# The libraries that each example needs.
NEEDS = {
    "autograd_network": ["autograd", "matplotlib"],
    "differential_equation": ["matplotlib"],
    "evolution_strategies": [],
    "gan": ["matplotlib"],
    "jax_gradients": ["jax", "matplotlib", "optax"],
    "network": ["matplotlib", "sklearn"],
    "own_rule": ["matplotlib", "numba"],
    "ppo": ["torch"],
    "scikit_learn": ["matplotlib", "sklearn"],
    "variational_inference": ["matplotlib", "sklearn"],
    "word_vectors": [],
}

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


def lines_of(name, *arguments, by=()):
    """The lines that an example prints; `by` are arguments of Python before its path."""
    for module in NEEDS[name]:
        pytest.importorskip(module, reason=f"examples/{name}.py needs {module}")
    command = [sys.executable, *by, str(EXAMPLES / f"{name}.py"), *arguments]
    # Tests run beside each other: threads of BLAS would wait for cores.
    environment = {**os.environ, "MPLBACKEND": "agg", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", line)]


def test_every_example_is_tested_and_listed():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == NEEDS.keys()
    listed = re.findall(
        r"^\| \[(\S+)\]\((\S+)\) \|", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name for name, _ in listed} >= {f"{name}.py" for name in NEEDS}
    assert all(name == path and (EXAMPLES / path).exists() for name, path in listed)


def test_network():
    accuracies = [numbers(line)[-1] for line in lines_of("network")]
    assert len(accuracies) == 3
    assert min(accuracies) > 88


def test_scikit_learn():
    accuracies = [numbers(line)[-1] for line in lines_of("scikit_learn")]
    assert len(accuracies) == 4
    assert min(accuracies[2:]) > accuracies[0]  # a schedule and another rule learn faster
    assert accuracies[1] == pytest.approx(accuracies[0], abs=1)  # the same rule


def test_differential_equation():
    true, found = map(numbers, lines_of("differential_equation"))
    assert found == pytest.approx(true, rel=0.03)


def test_jax_gradients():
    ours, theirs = numbers(lines_of("jax_gradients")[0])
    assert ours < 0.02
    assert ours == pytest.approx(theirs, rel=0.1)


def test_autograd_network():
    ours, theirs, difference = map(numbers, lines_of("autograd_network"))
    assert ours[0] == theirs[0] < 0.01
    assert difference[0] < 1e-9


def test_own_rule():
    rows = [line.split() for line in lines_of("own_rule")]
    assert [row[0] for row in rows] == ["mvn_grad", "Adam", "Lion"]
    assert all(float(row[4]) < 0.5 * float(row[2]) for row in rows)


def test_ppo():
    """At first a pole stands for about 22 moves."""
    moves = numbers(lines_of("ppo", "--iterations", "12")[-1])[1]
    assert moves > 45


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_evolution_strategies(method):
    """With every way in which processes start."""
    program = f"import multiprocessing, runpy, sys; multiprocessing.set_start_method({method!r}); "
    program += "runpy.run_path(sys.argv[1], run_name='__main__')"
    _, *rows = lines_of("evolution_strategies", by=["-c", program])
    rewards = [numbers(row)[1] for row in rows]
    assert rewards[0] < -0.5
    assert rewards[-1] > 0.3


def test_word_vectors():
    lines = lines_of("word_vectors")
    assert numbers(lines[0])[1] == 0
    by_rows, by_tables = numbers(lines[1])
    assert by_rows < by_tables
    before, after = numbers(lines[2])
    assert after < 0.8 * before
    nearest = {word: others for word, *others in map(str.split, lines[3:])}
    assert "false" in nearest["true"]


def test_variational_inference():
    rows = {line[:16].strip(): numbers(line[16:]) for line in lines_of("variational_inference")[1:]}
    error, width = rows["average of steps"]
    assert error < min(0.2, rows["last step"][0])
    assert width < 1


def test_gan():
    skipped, near = lines_of("gan")
    _, *counts = numbers(skipped)
    assert min(counts) > 0
    assert sum(counts) < 100
    share, *samples = numbers(near)
    assert share > 75
    assert min(samples) > 20
