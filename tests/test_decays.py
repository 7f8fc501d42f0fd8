"""Bias corrections when betas change: they use the product of the betas so far, of each parameter's own steps."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import schedules as s
from fastopt.optimizers import plain
from support import reference
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import AVERAGE_FROM, RULES, Oracle, step_together
from support.registry import CLASSES

STEPS = 40
CORRECTED = [case for case in RULES if case.rule in reference.CORRECTED]


def betas_of(case, t):
    """Betas that change on most steps, and stand still for some."""
    cycle = s.one_cycle(0.5, STEPS // 4, div_factor=0.5 / 0.95, final_div_factor=1)
    beta1 = 0.9 if AVERAGE_FROM.get(case.cls) == "betas" else cycle(t // 3)
    return (beta1, 0.999 if t < 5 else 0.6 + 0.3 * (t % 7 == 3), 0.9 + t / 500)[: len(case.settings()["betas"])]


def set_betas(opt, case, t):
    for group in opt.groups:
        group["betas"] = betas_of(case, t)


def test_the_rules():
    """The core names the hyperparameters whose products its rules use, as the oracle does."""
    for name, *_ in fastopt._core.rules():
        assert fastopt._core.Settings(name).corrected == reference.CORRECTED.get(name, ())


# ---- Values ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        pytest.param(cls, options, id="-".join((cls.name, *options)))
        for cls in CLASSES.values()
        for options in cls.steps_of_lr
    ],
)
def test_a_constant_gradient_gives_steps_of_lr(cls, kwargs, dtype):
    """Whatever betas do: the means are those of a constant."""
    rng = np.random.default_rng(3)
    p, g = np.zeros(3), np.array([3.0, -1e-3, 50.0])
    p, g = p.astype(dtype), g.astype(dtype)
    opt = getattr(fastopt, cls.name)(p, lr=0.25, eps=0.0, weight_decay=0.0, **kwargs)
    count = len(cls.defaults["betas"])
    for _ in range(30):
        opt.groups[0]["betas"] = tuple(rng.choice([0.0, 0.3, 0.9, 0.99, 0.999], count))
        before = p.copy()
        opt.step(g)
        np.testing.assert_allclose(p - before, -0.25 * np.sign(g), rtol=1e-12 if dtype is np.float64 else 1e-6)


def test_one_cycle_momentum():
    """Adam's beta1 as torch's OneCycleLR moves it: 0.95 to 0.85 and back."""
    p = np.zeros(1)
    cycle = s.one_cycle(0.85, 10, div_factor=0.85 / 0.95, final_div_factor=1)
    opt = fastopt.Adam(p, lr=0.1, betas=(cycle, 0.999), eps=0.0)
    for t in range(10):
        opt.step(np.ones(1))
        np.testing.assert_allclose(p, -0.1 * (t + 1), rtol=1e-13)


class Decaying(float):
    """A beta whose powers, as the rules in plain NumPy take them, are products of the betas so far."""

    def __new__(cls, value, product):
        decaying = super().__new__(cls, value)
        decaying.product = product
        return decaying

    def __pow__(self, t):
        return self.product


@pytest.mark.parametrize("case", [case for case in CORRECTED if not CLASSES[case.cls].corrects_by_age], ids=ids)
def test_as_in_plain_numpy(case):
    rng = np.random.default_rng(5)
    p = rng.standard_normal(7)
    q, state = p.copy(), {}
    opt = case.make(p)
    products = [1.0] * 3
    for t in range(STEPS):
        betas = betas_of(case, t)
        products = [product * beta for product, beta in zip(products, betas, strict=False)]
        set_betas(opt, case, t)
        g = rng.standard_normal(7)
        opt.step(g)
        function = plain(case.cls)
        function(q, g, state, t + 1, **case.kwargs | {"betas": tuple(map(Decaying, betas, products))})
        np.testing.assert_allclose(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CORRECTED, ids=ids)
def test_bits(case, dtype):
    """The oracle's, for every rule, in parameters and state."""
    p = next(gradients(1, 37, dtype))
    oracle, opt, grads = Oracle(case, p), case.make(p), gradients(2, 37, dtype)
    for t in range(STEPS):
        set_betas(opt, case, t)
        g = next(grads)
        opt.step(g)
        oracle.step(g, betas=betas_of(case, t))
        assert_like(opt, 0, p, oracle)


# ---- Whose steps ----


@pytest.mark.parametrize("case", [case for case in CORRECTED if case.rule not in reference.TOGETHER], ids=ids)
def test_parameters_with_steps_of_their_own(case):
    """Gradients of None leave a parameter's product alone; what shares a step count need not share the product."""
    params = [np.ones(3) for _ in range(4)]
    opt, grads = case.make(params), gradients(2, 3, np.float64)
    oracles = [Oracle(case, p) for p in params]
    given = [(1, 1, 1, 1), (1, 0, 1, 0), (0, 1, 1, 0), (1, 1, 1, 0), (0, 0, 1, 1)] * 3
    for t, present in enumerate(given):
        set_betas(opt, case, t)
        gs = [next(grads) if one else None for one in present]
        opt.step(gs)
        for oracle, g in zip(oracles, gs, strict=True):
            if g is not None:
                oracle.step(g, betas=betas_of(case, t))
        for name, (p, oracle) in enumerate(zip(params, oracles, strict=True)):
            assert_like(opt, name, p, oracle)


@pytest.mark.parametrize("case", [case for case in CORRECTED if case.rule in reference.TOGETHER], ids=ids)
def test_one_estimate_for_all(case):
    """Rules that sum over all parameters."""
    params = [np.ones(3), np.full(5, 2.0)]
    opt, oracles = case.make(params), [Oracle(case, p) for p in params]
    for t in range(12):
        set_betas(opt, case, t)
        gs = [p * (t + 1) / 7 for p in params]
        opt.step(gs)
        step_together(oracles, gs, betas=betas_of(case, t))
        for name, (p, oracle) in enumerate(zip(params, oracles, strict=True)):
            assert_like(opt, name, p, oracle)


def adam_run(steps, betas=lambda t: (0.9 - 0.05 * (t // 2), 0.99), **kwargs):
    params = {"a": np.ones((4, 3)), "b": np.full(2, 2.0)}
    opt = fastopt.Adam(params, betas=betas(0), **kwargs)
    for t in range(steps):
        opt.groups[0]["betas"] = betas(t)
        opt.step({name: np.cos(t + p) for name, p in params.items()})
    return params, opt


def test_parameters_that_come_later_and_that_begin_again():
    """A constant gradient gives each of them steps of lr: their products are those of their own steps."""
    params = [np.zeros(2) for _ in range(3)]
    opt = fastopt.Adam([{"params": params[:2]}], lr=0.1, eps=0.0)
    for t in range(12):
        if t == 4:
            opt.add_param_group({"params": params[2:]})
        if t == 7:
            opt.reset([0])
        for group in opt.groups:
            group["betas"] = (0.9 - 0.07 * t, 0.99)
        before = [p.copy() for p in params]
        opt.step([[np.ones(2)] * len(group["params"]) for group in opt.groups])
        for p, was in zip(params[: 2 + (t >= 4)], before, strict=False):
            np.testing.assert_allclose(was - p, 0.1, rtol=1e-13)


def test_optimizers_that_step_as_one():
    """Each keeps the products of its own parameters, with those of steps that it made alone, also in a state dict."""
    cycle = s.linear(0.9, 0.5, 20)

    def two():
        p, q = np.ones(3), np.full(4, 2.0)
        return (p, q), fastopt.Adam({"p": p}, betas=(cycle, 0.99)), fastopt.NAdam({"q": q}, betas=(0.9, cycle))

    (p, q), one, other = two()
    params, *apart = two()
    one.step({"p": np.cos(p)})
    apart[0].step({"p": np.cos(params[0])})
    combined = fastopt.Combined([one, other])
    for t in range(8):
        other.groups[0]["betas"] = apart[1].groups[0]["betas"] = (0.9 - 0.05 * t, cycle)
        combined.step({"p": np.cos(p), "q": np.cos(q)})
        apart[0].step({"p": np.cos(params[0])})
        apart[1].step({"q": np.cos(params[1])})
        combined.load_state_dict(combined.state_dict())
        assert_same_bits(p, params[0])
        assert_same_bits(q, params[1])


def test_layer_by_layer():
    cycle = s.linear(0.9, 0.5, 4)
    (p, one), (q, other) = (adam_run(0) for _ in range(2))
    for opt in (one, other):
        opt.groups[0]["betas"] = (cycle, 0.9)
    for t in range(6):
        grads = {name: np.cos(t + array) for name, array in p.items()}
        one.step(grads)
        for name in ("b", "a"):
            other.step_one(name, grads[name])
    for name in p:
        assert_same_bits(p[name], q[name])


def test_rows():
    """All rows one by one are the whole gradient."""
    p, q = np.ones((5, 3)), np.ones((5, 3))
    one, other = (fastopt.Adam(array, betas=(s.linear(0.9, 0.5, 4), 0.9)) for array in (p, q))
    for t in range(6):
        g = np.cos(t + p)
        one.step(g)
        other.step(fastopt.RowGrad(np.arange(5)[::-1], g[::-1]))
        assert_same_bits(p, q)


def test_steps_that_are_not_made():
    """A skipped step, and betas that are set twice between steps, are no part of the product."""
    (p, one), (q, other) = adam_run(5), adam_run(5, nonfinite="skip")
    other.groups[0]["betas"] = (0.1, 0.2)
    other.step({"a": np.full((4, 3), np.nan), "b": np.zeros(2)})
    other.groups[0]["betas"] = (0.7, 0.95)
    one.groups[0]["betas"] = (0.7, 0.95)
    for opt, params in ((one, p), (other, q)):
        opt.step({name: np.ones_like(array) for name, array in params.items()})
    assert other.skipped_steps == 1
    for name in p:
        assert_same_bits(p[name], q[name])


def test_the_functional_form_has_no_memory():
    """It corrects by beta^t of the beta it is given: 1 - 0.9^3 here, though m was made by others."""
    p, m, v = np.zeros(1), np.full(1, 0.5), np.full(1, 0.25)
    fastopt.kernels.adam(p, np.full(1, 0.5), m, v, step=3, lr=0.1, beta1=0.9, beta2=0.0, eps=0.0)
    np.testing.assert_allclose(p, -0.1 / (1 - 0.9**3), rtol=1e-15)


# ---- State dicts, files, copies ----

RUNS = {
    "by hand": lambda t: (0.9 - 0.05 * (t // 2), 0.99),
    "once": lambda t: (0.9, 0.99 if t < 4 else 0.95),
    "back": lambda t: (0.5 if t in (2, 5) else 0.9, 0.99),
    "not at all": lambda t: (0.9, 0.99),
}
PART = 6


WAYS = {
    "state_dict": lambda opt, fresh, path: fresh.load_state_dict(opt.state_dict()),
    "file": lambda opt, fresh, path: (fastopt.save(path, opt), fastopt.load(path, fresh)),
    "itself": lambda opt, fresh, path: (opt.load_state_dict(opt.state_dict()), fresh.load_state_dict(opt.state_dict())),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("betas", RUNS.values(), ids=RUNS)
def test_a_run_that_is_loaded_continues_with_the_same_bits(betas, way, tmp_path):
    if way == "file":
        pytest.importorskip("safetensors")
    for cut in range(PART + 1):
        wanted, _ = adam_run(2 * PART, betas)
        params, opt = adam_run(cut, betas)
        fresh = fastopt.Adam({name: array.copy() for name, array in params.items()}, betas=(0.1, 0.2))
        WAYS[way](opt, fresh, tmp_path / "state")
        (group,) = fresh.groups
        mine = dict(zip(params, group["params"], strict=True))
        for t in range(cut, 2 * PART):
            group["betas"] = betas(t)
            fresh.step({name: np.cos(t + p) for name, p in mine.items()})
        for name, array in wanted.items():
            assert_same_bits(mine[name], array, f"{name} after {cut}")


@pytest.mark.parametrize("make", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["copy", "pickle"])
@pytest.mark.parametrize("betas", RUNS.values(), ids=RUNS)
def test_a_copy_continues_with_the_same_bits(betas, make):
    wanted, _ = adam_run(2 * PART, betas)
    params, opt = adam_run(PART, betas)
    other = make(opt)
    (group,) = other.groups
    mine = dict(zip(params, group["params"], strict=True))
    for t in range(PART, 2 * PART):
        group["betas"] = betas(t)
        other.step({name: np.cos(t + p) for name, p in mine.items()})
    for name, array in wanted.items():
        assert_same_bits(mine[name], array)


@pytest.mark.parametrize("function", [lambda: (s.linear(0.9, 0.5, 8), 0.99), lambda: (s.constant(0.9), 0.99)])
def test_schedules_that_are_loaded(function):
    runs = [np.ones(3) for _ in range(2)]
    one, other = (fastopt.Adam(p, betas=function()) for p in runs)
    for _ in range(5):
        one.step(np.cos(runs[0]))
    runs[1][:] = runs[0]
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        for opt, p in zip((one, other), runs, strict=True):
            opt.step(np.cos(p))
        assert_same_bits(*runs)


@pytest.mark.parametrize("hyperparameters", ["saved", "current"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (s.linear(0.9, 0.5, 20), 0.999)], ids=["constant", "schedule"])
def test_loading_with_other_betas(betas, hyperparameters):
    """The steps so far were made with those that were saved: a constant gradient gives steps of lr whichever go on."""
    p, q = np.zeros(2), np.zeros(2)
    opt = fastopt.Adam(p, lr=0.1, betas=betas, eps=0.0)
    for _ in range(5):
        opt.step(np.ones(2))
    here = betas if hyperparameters == "saved" else (0.3, 0.6)
    fresh = fastopt.Adam(q, lr=0.1, betas=here, eps=0.0)
    fresh.load_state_dict(opt.state_dict(), hyperparameters=hyperparameters)
    for t in range(5):
        fresh.step(np.ones(2))
        np.testing.assert_allclose(q, -0.1 * (t + 1), rtol=1e-13)


def test_only_what_is_needed_is_saved():
    _, constant = adam_run(5, RUNS["not at all"])
    assert all("decays" not in entry for entry in constant.state_dict()["state"].values())
    _, fresh = adam_run(0)
    fresh.groups[0]["betas"] = (0.3, 0.4)
    assert all("decays" not in entry for entry in fresh.state_dict()["state"].values())
    # beta1 was 0.9 on two steps, then 0.85: the weights of their gradients, 0.09 and 0.1, times their ages 1 and 0
    _, opt = adam_run(3)
    (decay,) = opt.state_dict()["state"]["a"]["decays"].items()
    assert decay[0] == "beta1"
    assert decay[1] == {"value": 0.85, "since": 2, "product": 0.9 * 0.9, "age": pytest.approx(0.09, rel=1e-14)}
    # set, but no step made with it: the steps so far were with another value than the group has
    _, opt = adam_run(3, RUNS["not at all"])
    opt.groups[0]["betas"] = (0.9, 0.5)
    assert opt.state_dict()["state"]["b"]["decays"] == {
        "beta2": {"value": 0.99, "since": 0, "product": 1.0, "age": 0.0}
    }


DAMAGES = {
    "no mapping": lambda entry: entry.update(decays=3),
    "unknown": lambda entry: entry["decays"].update(eps=entry["decays"]["beta1"]),
    "not corrected": lambda entry: entry.update(step=0),
    "no value": lambda entry: entry["decays"]["beta1"].pop("value"),
    "more": lambda entry: entry["decays"]["beta1"].update(more=1),
    "value": lambda entry: entry["decays"]["beta1"].update(value=1.0),
    "no number": lambda entry: entry["decays"]["beta1"].update(value="0.9"),
    "since": lambda entry: entry["decays"]["beta1"].update(since=entry["step"] + 1),
    "since below 0": lambda entry: entry["decays"]["beta1"].update(since=-1),
    "half": lambda entry: entry["decays"]["beta1"].update(since=0.5),
    "product": lambda entry: entry["decays"]["beta1"].update(product=1.5),
    "nan": lambda entry: entry["decays"]["beta1"].update(product=math.nan),
    "age": lambda entry: entry["decays"]["beta1"].update(age=99.0),
    "array": lambda entry: entry["decays"]["beta1"].update(age=np.ones(3)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entries_are_refused(damage):
    _, opt = adam_run(5)
    before, saved = opt.state_dict(), opt.state_dict()
    damage(saved["state"]["a"])
    with pytest.raises((TypeError, ValueError), match=r"Adam.load_state_dict: decays in the state of 'a'"):
        opt.load_state_dict(saved)
    assert repr(opt.state_dict()) == repr(before)


def test_entries_that_a_schedule_needs():
    opt = fastopt.Adam(np.ones(2), betas=(s.linear(0.9, 0.5, 4), 0.9))
    opt.step(np.ones(2))
    saved = opt.state_dict()
    del saved["state"][0]["decays"]
    with pytest.raises(ValueError, match="beta1 must be given, since a schedule sets it, but it is missing"):
        opt.load_state_dict(saved)
