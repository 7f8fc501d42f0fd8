"""Equality to the bit, readable ids, and calls that are refused and change nothing."""

import re
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fastopt

REFUSED = (TypeError, ValueError, FloatingPointError)


def ids(value: Any) -> str | None:
    """Readable test ids for cases, dtypes, shapes and options."""
    if isinstance(value, dict):
        return ",".join(f"{key}={entry}" for key, entry in value.items()) or "none"
    if isinstance(value, type):
        return value.__name__
    return str(value) if isinstance(value, tuple) else getattr(value, "name", None)


def bits(x: np.ndarray) -> np.ndarray:
    """x as integers, with one pattern for every NaN."""
    x = np.ascontiguousarray(x)
    return x if x.dtype.kind in "iu" else np.where(np.isnan(x), x.dtype.type("nan"), x).view(f"i{x.itemsize}")


def assert_same_bits(actual: Any, expected: Any, what: str = "") -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    if actual.tobytes() == expected.tobytes():  # most often, and found sooner
        return
    differ = bits(actual) != bits(expected)
    if differ.any():
        first = np.unravel_index(np.argmax(differ), differ.shape)
        where = f"{what}{[int(i) for i in first]}"
        message = f"{where}: {actual[first]!r}, expected {expected[first]!r}; {differ.sum()} of {differ.size} differ"
        raise AssertionError(message)


def assert_like(opt: Any, name: Any, p: np.ndarray, oracle: Any) -> None:
    """Parameter and state are the oracle's to the bit."""
    run = f"case {oracle.case.name}, rule {oracle.rule}, {fastopt._core.isa()}, num_threads={opt.num_threads}"
    what = f"{run}, {p.dtype} of shape {p.shape}, parameter {name}"
    assert_same_bits(p, oracle.p.reshape(p.shape), f"{what}: p")
    for letter, buffer in oracle.buffers.items():
        wanted = buffer if letter in oracle.extents else buffer.reshape(p.shape)
        assert_same_bits(opt.state[name][letter], wanted, f"{what}: {letter}")


def assert_each_step_like(opt: Any, p: np.ndarray, oracle: Any, g: np.ndarray) -> None:
    """Steps along g, 0 and -g, which the oracle makes too, each give its bits."""
    for factor in (1, 0, -1):
        with np.errstate(all="ignore"):
            scaled = g * g.dtype.type(factor)
        opt.step(scaled)
        oracle.step(scaled)
        assert_like(opt, 0, p, oracle)


def assert_run_like(case: Any, start: np.ndarray, grads: Any, oracle: Any) -> None:
    """A run from here, on one thread and on three, ends with the bits of an oracle that has made it."""
    for threads in (1, 3):
        p = start.copy()
        opt = case.make(p, num_threads=threads)
        for g in grads:
            opt.step(g)
        assert_like(opt, 0, p, oracle)


def contents(value):
    """Something to compare that holds the bits of every array in value."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: contents(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [contents(entry) for entry in value]
    return repr(value)


@contextmanager
def refused(message, opt=None, *arrays):
    """The block raises an error with this text, and neither the optimizer nor the arrays change."""

    def everything():
        return contents([opt and opt.state_dict(), opt and [group["params"] for group in opt.groups], list(arrays)])

    before = everything()
    with pytest.raises(REFUSED, match=re.escape(message) or None):
        yield
    assert everything() == before


def stepped():
    """An optimizer with something to lose."""
    opt = fastopt.Adam({"w": np.ones((2, 3)), "b": np.ones(3)})
    opt.step({"w": np.full((2, 3), 0.5), "b": np.full(3, -0.5)})
    return opt
