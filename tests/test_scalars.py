"""Numbers as NumPy and SciPy give them: arrays without axes, arrays of one element, integers of any width."""

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support.asserts import assert_same_bits, refused
from support.cases import DEFAULTS
from support.hyper import declared, parts, range_of

ONE = {
    "no axes": np.asarray,
    "np.where": lambda x: np.where(True, x, x),
    "np.interp": lambda x: np.asarray(np.interp(0.5, [0, 1], [x, x])),
    "one element": lambda x: np.array([x]),
    "one by one": lambda x: np.array([[x]]),
}
FLAGS = ("amsgrad", "centered", "nesterov", "maximize", "decoupled_weight_decay", "safeguard_warmup")
NUMBERS = [
    (cls, name, 0.5 if 0.5 in range_of(parts(cls, name)[0]) else default)
    for cls, defaults in DEFAULTS.items()
    for name, default in defaults.items()
    if isinstance(default, float)
]


@pytest.mark.parametrize("one", ONE.values(), ids=ONE)
@pytest.mark.parametrize(("cls", "name", "value"), NUMBERS)
def test_a_hyperparameter(cls, name, value, one):
    """In the constructor, in a group, set later, and as the value of a schedule it is the number."""
    make = getattr(fastopt, cls)
    p = np.ones((2, 2))
    found = [make(p.copy(), **{name: one(value)}), make([{"params": p.copy(), name: one(value)}])]
    if declared(cls)[name].fixed != "start" and name not in getattr(fastopt, cls)._declaration.selecting:
        found.append(make(p.copy()))
        found[-1].groups[0][name] = one(value)
    for opt in found:
        assert type(opt.groups[0][name]) is float
        assert opt.groups[0][name] == value


@pytest.mark.parametrize("one", ONE.values(), ids=ONE)
def test_a_schedule(one):
    params = [np.ones(3), np.ones(3)]
    ours = fastopt.AdamW(params[0], lr=lambda t: one(0.1 / (t + 1)), betas=(lambda t: one(0.5), 0.9))
    like = fastopt.AdamW(params[1], lr=lambda t: 0.1 / (t + 1), betas=(lambda t: 0.5, 0.9))
    for g in np.random.default_rng(0).standard_normal((4, 3)):
        ours.step(g)
        like.step(g)
    assert_same_bits(*params)
    assert ours.lr == like.lr
    both = fastopt.Combined([ours, fastopt.SGD({"w": np.ones(3)}, lr=lambda t: one(0.5))])
    assert (*both.lr, 1.0) == (ours.lr, 0.5, 1.0)
    assert [type(rate) for rate in (ours.lr, *both.lr)] == [float] * 3
    both.lr = np.array([0.25, 0.125])
    assert both.lr == (0.25, 0.125)
    both.lr = one(0.5)
    assert (both.lr, type(both.lr)) == (0.5, float)


def test_interpolated_schedules():
    """The recipe: a learning rate by interpolation, which is an array without axes in SciPy."""
    interpolated = lambda t: np.array(np.interp(t, [0, 10], [0.0, 1.0]))  # noqa: E731
    p = np.zeros(1)
    opt = fastopt.SGD(p, lr=interpolated)
    for _ in range(3):
        opt.step(np.ones(1))
    np.testing.assert_allclose(p, -(0.0 + 0.1 + 0.2), rtol=1e-15)


@pytest.mark.parametrize(
    "betas", [np.array([0.5, 0.75]), np.array([0.5, 0.75], np.float32), [np.array(0.5), np.array([0.75])]]
)
def test_betas_as_an_array(betas):
    for opt in (fastopt.Adam(np.ones(2), betas=betas), fastopt.Adam([{"params": np.ones(2), "betas": betas}])):
        assert opt.groups[0]["betas"] == (0.5, 0.75)
        opt.groups[0]["betas"] = betas
        assert all(type(beta) is float for beta in opt.groups[0]["betas"])


@pytest.mark.parametrize("one", ONE.values(), ids=ONE)
def test_options(one):
    p, q, g = np.ones(4), np.ones(4), np.full(4, 3.0)
    whole = lambda n: np.asarray(one(float(n))).astype(np.int8)  # noqa: E731
    numbers = {"ema_decay": 0.5, "clip_norm": 1.0, "clip_value": 0.25, "grad_scale": 2.0}
    ours = fastopt.SGD(
        p,
        swa=np.array([1, 2], np.int16),
        lookahead=(whole(2), one(0.5)),
        num_threads=whole(1),
        maximize=one(1.0) > 0,
        zero_grads=one(0.0) > 0,
        **{name: one(value) for name, value in numbers.items()},
    )
    like = fastopt.SGD(q, swa=(1, 2), lookahead=(2, 0.5), num_threads=1, maximize=True, **numbers)
    for _ in range(3):
        ours.step(g, clip_norm=one(0.75))
        like.step(g, clip_norm=0.75)
    assert_same_bits(p, q)
    assert_same_bits(ours.ema[0], like.ema[0])
    assert_same_bits(ours.swa[0], like.swa[0])


@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int16, np.int64, np.uint64, np.asarray])
def test_integers(integer):
    fastopt.set_num_threads(integer(fastopt.get_num_threads()))
    assert fastopt.LossScale(interval=integer(3)).interval == 3
    scale = fastopt.LossScale()
    scale.load_state_dict({"value": integer(2), "good_steps": integer(5)})
    assert (scale.value, scale.good_steps) == (2.0, 5)
    assert schedules.cosine(np.array([0.5]), decay_steps=integer(10))(integer(10)) == 0
    opt = fastopt.NAdam({3: np.ones(2)})
    saved = opt.state_dict()
    saved["format"], saved["step_count"], saved["state"][3]["step"] = integer(1), integer(4), integer(2)
    saved["state"][3]["mu_product"] = np.float32(0.5)
    opt.load_state_dict(saved)
    assert (opt.step_count, float(opt.state[3]["mu_product"])) == (4, 0.5)
    p, g = np.ones(2), np.ones(2)
    fastopt.kernels.sgd(p, g, step=integer(1), lr=np.array([0.5]), weight_decay=np.array(0.0), num_threads=integer(1))
    assert p.tolist() == [0.5, 0.5]


def test_names_that_are_integers():
    opt = fastopt.SGD({np.int64(3): np.ones(2)}, lr=1.0)
    opt.step({3: np.ones(2)})
    opt.step_one(np.int8(3), np.ones(2))
    assert list(opt.state) == [3]
    assert type(next(iter(opt.state))) is int


@pytest.mark.parametrize(
    "bad", [np.array(True), np.array(1j), np.array("0.1"), np.array([0.1, 0.2]), np.array([]), np.ma.masked], ids=repr
)
def test_what_is_no_number(bad):
    with refused("lr must be a number"):
        fastopt.SGD(np.ones(2), lr=bad)
    with refused("must be a number"):
        fastopt.SGD(np.ones(2), ema_decay=bad)
    opt = fastopt.SGD(np.ones(2), lr=lambda t: bad if t else 1.0)
    opt.step(np.ones(2))
    with refused("SGD after 1 steps: lr must be a number", opt):
        opt.step(np.ones(2))
