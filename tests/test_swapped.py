"""An average in the place of the parameters, and the parameters back in theirs."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fastopt
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids

SHAPES = ((3, 4), (17,), (), (0, 2))
MAKE: dict[str, tuple[str, Callable[..., Any]]] = {
    "ema": ("ema", lambda params: fastopt.Adam(params, ema_decay=0.9)),
    "swa": ("swa", lambda params: fastopt.SGD(params, swa=(2, 3))),
    "asgd": ("ax", lambda params: fastopt.ASGD(params, t0=1.0)),
    "schedulefreesgd": ("x", lambda params: fastopt.ScheduleFreeSGD(params, lr=0.1, warmup_steps=3)),
    "schedulefreeadamw": ("x", lambda params: fastopt.ScheduleFreeAdamW(params, weight_decay=0.1)),
}
ALL = pytest.mark.parametrize(("average", "make"), MAKE.values(), ids=MAKE)


def started(make: Callable[..., Any], dtype: Any = np.float64, steps: int = 5) -> tuple[Any, list[np.ndarray]]:
    """An optimizer of parameters in several layouts after some steps."""
    params = [np.array(np.random.default_rng(1).standard_normal(shape), dtype, order="F") for shape in SHAPES]
    params[1] = params[1][::-1]
    opt = make(params)
    for t in range(steps):
        opt.step([next(gradients(10 * t + i, shape, dtype)) for i, shape in enumerate(SHAPES)])
    return opt, params


@contextmanager
def kept(params: list[np.ndarray]) -> Iterator[None]:
    before = [p.copy() for p in params]
    yield
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@ALL
def test_there_and_back(average, make, dtype):
    opt, params = started(make, dtype)
    wanted = {i: (state[average] if average in state else opt.x[i]).copy() for i, state in opt.state.items()}
    with kept(params), opt.swapped(average):
        for i, p in enumerate(params):
            assert_same_bits(p, wanted[i])
        assert any((p != q).any() for p, q in zip(params, started(make, dtype)[1], strict=True))
    twin, others = started(make, dtype)
    for each in (opt, twin):
        each.step([np.ones(shape, dtype) for shape in SHAPES])
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("cls", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_x_is_the_mean_of_z(cls, dtype):
    """With constant weights the mean of all z so far."""
    p = np.linspace(-1, 1, 30).astype(dtype)
    opt, seen = getattr(fastopt, cls)(p, lr=0.05), []
    for g, _ in zip(gradients(1, 30, dtype), range(40), strict=False):
        opt.step(g)
        seen.append(opt.state[0]["z"].astype(np.float64))
    scale = abs(np.array(seen)).max()
    np.testing.assert_allclose(opt.x[0], np.mean(seen, axis=0), rtol=0, atol=(1e-13, 1e-5)[dtype == np.float32] * scale)


def test_before_the_first_step():
    """The average is the parameter itself, also of one that never had a gradient."""
    for cls in (fastopt.ScheduleFreeSGD, fastopt.ASGD):
        params = [np.ones(3), np.full(2, 5.0)]
        opt = cls(params)
        opt.step([np.ones(3), None])
        with opt.swapped(opt._averages[0]):
            np.testing.assert_array_equal(params[1], 5)


def interrupted(opt: Any, average: str, p: np.ndarray) -> None:
    with opt.swapped(average):
        p[...] = 7
        raise KeyboardInterrupt


@ALL
def test_an_exception_brings_the_parameters_back(average, make):
    opt, params = started(make)
    with kept(params), pytest.raises(KeyboardInterrupt):
        interrupted(opt, average, params[0])
    with opt.swapped(average):  # and it can be used again
        pass


@ALL
def test_what_is_refused_within(average, make):
    opt, params = started(make)
    grads = [np.ones(shape) for shape in SHAPES]
    with kept(params), opt.swapped(average):
        inside = [p.copy() for p in params]
        before = pickle.dumps(opt.state_dict())
        for call in (
            lambda: opt.step(grads),
            lambda: opt.step(grads, clip_norm=1.0),
            lambda: opt.step_one(0, grads[0]),
            lambda: opt.swapped(average).__enter__(),
            lambda: copy.deepcopy(opt),
            lambda: pickle.dumps(opt),
        ):
            with pytest.raises(ValueError, match=r"must wait until the parameters are back, but swapped\('"):
                call()
        assert pickle.dumps(opt.state_dict()) == before
        for p, q in zip(params, inside, strict=True):
            assert_same_bits(p, q)
    opt.step(grads)


@ALL
def test_saved_within(average, make, files):
    """The file holds no parameters: it is the same within and outside."""
    opt, _ = started(make)
    fastopt.save(files / "outside", opt)
    with opt.swapped(average):
        fastopt.save(files / "inside", opt)
    assert (files / "inside").read_bytes() == (files / "outside").read_bytes()


@pytest.mark.parametrize(
    ("opt", "average", "message"),
    [
        (lambda p: fastopt.Adam(p), "ema", "average must be one that this optimizer keeps, which has none, got 'ema'"),
        (lambda p: fastopt.Adam(p, ema_decay=0.5), "swa", "average must be ema, got 'swa'"),
        (lambda p: fastopt.Adam(p, ema_decay=0.5, swa=(1, 1)), "m", "average must be ema, swa, got 'm'"),
        (lambda p: fastopt.ScheduleFreeSGD(p), None, "average must be x, got None"),
        (lambda p: fastopt.SGD(p, swa=(1, 1)), "swa", "swa must have begun, after step 1, got 0 steps"),
    ],
)
def test_averages_that_are_not_there(opt, average, message):
    p = np.ones(3)
    with pytest.raises(ValueError, match=message), opt(p).swapped(average):
        pass
    assert (p == 1).all()


def test_a_read_only_parameter():
    params = [np.ones(3), np.ones(2)]
    opt = fastopt.Adam(params, ema_decay=0.5)
    opt.step([np.ones(3), np.ones(2)])
    params[1].flags.writeable = False
    with kept(params), pytest.raises(ValueError, match="parameter 1 must be writable"), opt.swapped("ema"):
        pass


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        ("ScheduleFreeSGD", {"momentum": 0.0}, "momentum must be > 0"),
        ("ScheduleFreeAdamW", {"betas": (0.0, 0.9)}, r"betas\[0\] must be > 0"),
        ("ScheduleFreeSGD", {"weight_decay_form": "decoupled"}, "weight_decay_form must be l2, since"),
        ("ScheduleFreeAdamW", {"weight_decay_form": "independent"}, "weight_decay_form must be l2 or own, since"),
    ],
)
def test_what_schedule_free_refuses(cls, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(fastopt, cls)(np.ones(3), **options)


@pytest.mark.parametrize("make", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
def test_x_is_told_from_the_parameters_as_they_are(make):
    p = np.ones(3)
    opt = make(p, ema_decay=0.5)
    assert opt.x[0] is not p
    opt.step(np.ones(3))
    for average in ("x", "ema"):
        with opt.swapped(average), pytest.raises(ValueError, match=r"\.x must wait until the parameters are back"):
            _ = opt.x


def test_what_tells_x_stays():
    opt = fastopt.ScheduleFreeAdamW(np.ones(3))
    opt.groups[0]["betas"] = (0.8, 0.9)
    opt.step(np.ones(3))
    opt.groups[0]["betas"] = (0.8, 0.99)
    with pytest.raises(ValueError, match=r"betas must stay \(0.8, 0.99\), since the state was made by it"):
        opt.groups[0]["betas"] = (0.9, 0.99)
    sgd = fastopt.ScheduleFreeSGD(np.ones(3))
    sgd.step(np.ones(3))
    with pytest.raises(ValueError, match=r"momentum must stay 0\.9"):
        sgd.groups[0].update(momentum=0.5)


@pytest.mark.parametrize("make", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW, fastopt.ASGD])
def test_lookahead_would_move_the_parameter_alone(make):
    with pytest.raises(ValueError, match=r"lookahead must be None for a rule that keeps an average"):
        make(np.ones(3), lookahead=(2, 0.5))
