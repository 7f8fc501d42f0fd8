"""Steps of parts of parameters: here each thread has one, as a process would, and sums come over a barrier."""

import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import fastopt
from support.asserts import assert_same_bits
from support.registry import CLASSES

PIECE = 16 * 1024  # elements that are summed together: parts of one piece have the sums of the whole, to the bit
SIZES = (PIECE + 1000, 7)  # of parameters, of which the first is cut and the second is not
STEPS = 4
SCOPES = {name: getattr(fastopt, name)(np.ones((4, 3)))._layout.all_settings()[0].scope for name in CLASSES}
BY_SUMS = [name for name, scope in SCOPES.items() if scope in ("sums", "matrix")]  # of vectors


class Threads:
    """Two optimizers of parts that step on two threads."""

    def __init__(self, cls, whole, options):
        self.barrier, self.given = Barrier(2), [None, None]
        self.params = [[p.copy() for p in parts] for parts in cut(whole)]
        self.opts = [getattr(fastopt, cls)(params, **options) for params in self.params]
        for i, opt in enumerate(self.opts):
            sizes = [p.size for p in whole]
            opt._table.set_parts([i * PIECE, 0], sizes, lambda values, i=i: self.sum_parts(i, values))

    def sum_parts(self, i, values):
        assert values.dtype == np.float64
        self.given[i] = values[0].copy()
        self.barrier.wait(60)
        values[0] = self.given[0] + self.given[1]
        self.barrier.wait(60)

    def step(self, gradients):
        """Make a step of both; return the errors."""

        def step(opt, of_part):
            try:
                opt.step(of_part)
            except FloatingPointError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(step, self.opts, cut(gradients)))


def cut(arrays):
    first, second = arrays
    return [first[:PIECE], second], [first[PIECE:], second]


def arrays(seed, dtype):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for size in SIZES]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "nonfinite": "skip"}], ids=["plain", "clipped"])
@pytest.mark.parametrize("cls", [*BY_SUMS, "AdamW"])
def test_sums_of_parts(cls, options, dtype):
    whole = arrays(0, dtype)
    threads, opt = Threads(cls, whole, options), getattr(fastopt, cls)(whole, **options)
    for i in range(STEPS):
        gradients = arrays(1 + i, dtype)
        if i == 2 and options:
            gradients[0][-1] = np.inf
        opt.step(gradients)
        assert threads.step(gradients) == [None, None]
    assert [one.skipped_steps for one in threads.opts] == [opt.skipped_steps] * 2
    assert [one.grad_norm for one in threads.opts] == [opt.grad_norm] * 2
    for (first, second), of_whole in zip(threads.params, cut(whole), strict=True):
        assert_same_bits(first, of_whole[0])
        assert_same_bits(second, of_whole[1])


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_a_bad_part_is_an_error_for_all(options):
    threads = Threads("AdamW", arrays(0, np.float32), {"nonfinite": "raise", **options})
    before = [[p.copy() for p in params] for params in threads.params]
    gradients = arrays(1, np.float32)
    gradients[0][-1] = np.nan
    for error in threads.step(gradients):
        assert error.endswith("gradients must be finite, got NaN or infinity in the gradient of parameter 0")
    for params, old in zip(threads.params, before, strict=True):
        for p, q in zip(params, old, strict=True):
            assert_same_bits(p, q)


def test_sums_that_fail():
    """The error comes from the step; a clipped step has changed nothing."""
    p, g = np.ones(3), np.ones(3)
    opt = fastopt.AdamW(p, clip_norm=1.0)

    def fail(values):
        raise ConnectionError("a process has gone")

    opt._table.set_parts([0], [6], fail)
    with pytest.raises(ConnectionError, match="a process has gone"):
        opt.step(g)
    assert_same_bits(p, np.ones(3))
    assert (opt.step_count, opt.grad_norm, opt.state[0]["m"].any()) == (0, None, False)


@pytest.mark.parametrize("cls", ["AdamW", "LAMB", "Adafactor"])
def test_reading_while_sums_are_added_up(cls):
    """A signal handler may save the optimizer unless the state has changed already."""
    p = np.ones((3, 4, 2))
    opt, found = getattr(fastopt, cls)(p, clip_norm=1.0), []

    def save(*_):
        try:
            found.append(opt.state_dict()["step_count"])
        except RuntimeError as error:
            found.append(str(error))

    def sum_parts(values):
        signal.raise_signal(signal.SIGINT)

    opt._table.set_parts([0], [2 * p.size], sum_parts)
    before = signal.signal(signal.SIGINT, save)
    try:
        opt.step(np.ones_like(p))
    finally:
        signal.signal(signal.SIGINT, before)
    if cls == "AdamW":
        assert found == [0]
    else:
        assert found
        assert all("must not read the optimizer between two passes" in error for error in found)
    assert opt.state_dict()["step_count"] == 1
