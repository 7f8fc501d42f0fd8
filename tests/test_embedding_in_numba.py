"""Bound steps in loops that Numba compiles in nopython mode."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import fastopt

numba = pytest.importorskip("numba")
import fastopt.numba  # noqa: E402


@numba.njit(nogil=True)
def train(bound, g, steps):
    """Steps until one fails; the number of those that did not."""
    for step in range(1, steps + 1):
        for i in range(g.size):
            g[i] = (i + step) % 7 - 3
        if bound.step():
            return step - 1
    return steps


def in_python(make, n, steps):
    p, g = np.ones(n, np.float32), np.zeros(n, np.float32)
    opt = make([p])
    bound = opt.bind([g])
    for step in range(1, steps + 1):
        g[:] = (np.arange(n) + step) % 7 - 3
        bound.step()
    return p


@pytest.mark.parametrize("n", [100, 100_000])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.5, "nonfinite": "skip"}, {"ema_decay": 0.9}, {"weight_decay": 0.1, "zero_grads": True}],
    ids=str,
)
def test_bits(options, n):
    def make(params):
        return fastopt.AdamW(params, lr=1e-2, **options)

    p, g = np.ones(n, np.float32), np.zeros(n, np.float32)
    opt = make([p])
    bound = opt.bind([g])
    assert train(bound, g, 10) == 10
    bound.check()
    assert opt.step_count == 10
    np.testing.assert_array_equal(p, in_python(make, n, 10))


def test_one_compilation_serves_all_optimizers():
    p, g = np.ones(10, np.float32), np.zeros(10, np.float32)
    for cls in (fastopt.Adam, fastopt.SGD):
        assert train(cls([p], lr=1e-2).bind([g]), g, 2) == 2
    assert len(train.nopython_signatures) == 1


def test_schedules():
    """Asked between the steps, with the GIL."""
    p, g = np.ones(10, np.float32), np.zeros(10, np.float32)
    asked = []
    opt = fastopt.SGD([p], lr=lambda step: asked.append(step) or 1e-2)
    bound = opt.bind([g])
    del asked[:]
    assert train(bound, g, 5) == 5
    assert asked == [0, 1, 2, 3, 4]


def test_errors_are_raised_after_the_loop():
    p, g = np.ones(10, np.float32), np.zeros(10, np.float32)
    opt = fastopt.SGD([p], lr=lambda step: 1e-2 if step < 3 else -1.0)
    bound = opt.bind([g])
    assert train(bound, g, 5) == 3
    before = p.copy()
    assert train(bound, g, 5) == 0  # nothing happens until the error is raised
    with pytest.raises(ValueError, match="lr"):
        bound.check()
    np.testing.assert_array_equal(p, before)
    opt.lr = 1e-2
    assert train(bound, g, 5) == 5


def test_threads_with_optimizers_of_their_own():
    arrays = [np.ones(1000, np.float32) for _ in range(4)]
    results = [0] * 4

    def run(i):
        g = np.zeros(1000, np.float32)
        results[i] = train(fastopt.Adam([arrays[i]], lr=1e-2).bind([g]), g, 50)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [50] * 4
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])


CACHED = """
import numba, numpy as np, fastopt, fastopt.numba

@numba.njit(cache=True)
def train(bound, steps):
    for step in range(steps):
        bound.step()

p, g = np.ones(3), np.ones(3)
train(fastopt.SGD([p], lr=0.25).bind([g]), 2)
print(p[0], sum(train.stats.cache_hits.values()))
"""


def test_the_cache_on_disk(tmp_path):
    """The compiled code has no address of this process."""
    (tmp_path / "cached.py").write_text(CACHED)
    for hits in (0, 1):
        done = subprocess.run([sys.executable, "cached.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == f"0.5 {hits}\n", done.stderr
