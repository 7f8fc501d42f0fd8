"""Hyperparameters that select the rule of a class, set during a run: the state that was laid out stays.

While a momentum is 0, steps leave its buffer as it is, as in torch.optim.
"""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from support.asserts import assert_same_bits
from support.registry import CLASSES

SHAPES = ((3, 4), (17,), (2, 3, 5))
AT_ZERO = [(cls, row, *pair) for cls in CLASSES for row, pair in getattr(fastopt, cls)._declaration._at_zero.items()]
VALUES = (0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.0, 0.5)  # of momentum, for each step


@pytest.mark.parametrize(("cls", "row", "name", "smaller"), AT_ZERO)
def test_the_rule_of_zero_has_the_first_part_of_the_state(cls, row, name, smaller):
    """So that it reads the state and the hyperparameters of the larger rule."""
    large, small = fastopt._core.Settings(row), fastopt._core.Settings(smaller)
    assert large.state_names[: len(small.state_names)] == small.state_names
    assert large.kinds[: len(small.kinds)] == small.kinds
    assert large.hyper_names[: len(small.hyper_names)] == small.hyper_names
    assert name not in small.hyper_names
    assert (large.carry_names, large.corrected, large.scope) == (small.carry_names, small.corrected, small.scope)


def plain_sgd(values, gradients, dampening=0.0):
    """Return parameters after steps with these momenta, in plain NumPy."""
    p = [np.ones(shape) for shape in SHAPES]
    buffers = [None] * len(p)
    for momentum, of_step in zip(values, gradients, strict=True):
        for i, g in enumerate(of_step):
            if momentum:
                b = g if buffers[i] is None else momentum * buffers[i] + (1 - dampening) * g
                buffers[i] = g = b
            p[i] = p[i] - 0.1 * g
    return p


def step_one_by_one(opt, gradients):
    for i, g in enumerate(gradients):
        opt.step_one(i, g)


WAYS_TO_STEP = {
    "alone": lambda opt: opt.step,
    "combined": lambda opt: lambda gradients: fastopt.Combined([opt]).step([gradients]),
    "one by one": lambda opt: lambda gradients: step_one_by_one(opt, gradients),
}


@pytest.mark.parametrize("of", ["number", "schedule"])
@pytest.mark.parametrize("way", WAYS_TO_STEP)
def test_a_momentum_of_zero_leaves_the_buffer(way, of):
    rng = np.random.default_rng(0)
    gradients = [[rng.standard_normal(shape) for shape in SHAPES] for _ in VALUES]
    params = [np.ones(shape) for shape in SHAPES]
    given = VALUES.__getitem__ if of == "schedule" else VALUES[0]
    opt = fastopt.SGD(params, lr=0.1, momentum=given, dampening=0.5)
    step = WAYS_TO_STEP[way](opt)
    for momentum, of_step in zip(VALUES, gradients, strict=True):
        if of == "number":
            opt.groups[0]["momentum"] = momentum
        step(of_step)
    for p, expected in zip(params, plain_sgd(VALUES, gradients, 0.5), strict=True):
        np.testing.assert_allclose(p, expected, rtol=1e-13)


def test_bound_gradients():
    """Also in a step by the address that C calls."""
    g, p = np.full(3, 0.5), np.ones(3)
    opt = fastopt.SGD([p], lr=0.1, momentum=0.9)
    opt.bind([g])
    for momentum in (0.9, 0.0, 0.9):
        opt.groups[0]["momentum"] = momentum
        opt.step()
    # b = 0.5;  along 0.5;  b = 0.45 + 0.5
    np.testing.assert_allclose(p, 1 - 0.1 * (0.5 + 0.5 + 0.95), rtol=1e-15)


@pytest.mark.parametrize("word", ["float32", "bfloat16", "8bit"])
def test_stored_state_stays_to_the_bit(word):
    p = np.linspace(-1, 1, 200, dtype=np.float32)
    opt = fastopt.SGD([p], lr=0.1, momentum=0.9, state_dtype=word)
    opt.step([p + 1])
    before, codes = p.copy(), np.array(opt.state[0]["b"])
    opt.groups[0]["momentum"] = 0.0
    opt.step([np.ones_like(p)])
    assert_same_bits(p, before - np.float32(0.1))
    assert_same_bits(np.array(opt.state[0]["b"]), codes)
    other = fastopt.SGD([p.copy()], lr=0.1, momentum=0.9, state_dtype=word)
    other.load_state_dict(opt.state_dict())
    for one in (opt, other):
        one.groups[0]["momentum"] = 0.9
        one.step([np.ones_like(p)])
    assert_same_bits(opt.groups[0]["params"][0], other.groups[0]["params"][0])
    assert not np.array_equal(np.array(opt.state[0]["b"]), codes)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies(way):
    p = np.ones(3)
    opt = fastopt.SGD([p], lr=0.1, momentum=0.9)
    opt.step([np.ones(3)])
    opt.groups[0]["momentum"] = 0.0
    q, other = way((p, opt))
    for one in (opt, other):
        one.step([np.ones(3)])
        one.groups[0]["momentum"] = 0.9
        one.step([np.ones(3)])
    assert_same_bits(p, q)
    np.testing.assert_allclose(p, 1 - 0.1 * (1 + 1 + 1.9), rtol=1e-15)


def test_rows_that_catch_up():
    """A row that misses steps with a momentum of 0 keeps its part of the buffer and stays."""
    p, q = np.ones((5, 2)), np.ones((5, 2))
    opt, whole = fastopt.SGD([p], lr=0.1, momentum=0.9, catch_up=True), fastopt.SGD([q], lr=0.1, momentum=0.9)
    rng = np.random.default_rng(1)
    for i, momentum in enumerate(VALUES):
        rows = np.array([i % 5, (i + 2) % 5])
        g = np.zeros((5, 2))
        g[rows] = rng.standard_normal((2, 2))
        for one in (opt, whole):
            one.groups[0]["momentum"] = momentum
        opt.step([fastopt.RowGrad(rows, g[rows])])
        whole.step([g])
    opt.catch_up()
    np.testing.assert_allclose(p, q, rtol=1e-13)


def test_other_state_is_not_laid_out_for_arrays():
    opt = fastopt.SGD([np.ones(3)], momentum=0.0)
    with pytest.raises(ValueError, match=r"momentum must stay 0\.0, since the state was laid out for it, got 0\.9"):
        opt.groups[0]["momentum"] = 0.9
