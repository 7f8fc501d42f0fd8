"""Groups that are added to an optimizer that has made steps, and state that is forgotten."""

import copy
import pickle
import threading

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids, refused
from support.cases import CASES, Oracle

SHAPES = {"a": (5, 7), "b": (), "c": (3, 4)}


def starts(dtype, *names):
    return {name: np.asarray(np.random.default_rng(3).standard_normal(SHAPES[name]), dtype) for name in names}


def streams(dtype):
    return {name: gradients(i, shape, dtype) for i, (name, shape) in enumerate(SHAPES.items())}


PACKED = {
    "itself": lambda opt, params: (opt, params),
    "deepcopy": lambda opt, params: copy.deepcopy((opt, params)),
    "pickle": lambda opt, params: pickle.loads(pickle.dumps((opt, params))),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_an_added_group_is_stepped_as_by_an_optimizer_of_its_own(case, dtype):
    """In the oracle's bits, from step 1 on; and nothing of the others changes."""
    if case.rule in reference.TOGETHER:
        pytest.skip("the parameters of the first group share an estimate; by hand below")
    params = starts(dtype, *SHAPES)
    oracles = {name: Oracle(case, p) for name, p in params.items()}
    sources = streams(dtype)
    opt = case.make({name: params[name] for name in ("a", "b")})
    for t in range(6):
        if t == 3:
            opt.add_param_group({"params": {"c": params["c"]}})
        stepped = [name for names in opt._layout.members for name in names]
        grads = {name: next(sources[name]) for name in stepped}
        opt.step(grads)
        for name, g in grads.items():
            oracles[name].step(g)
    for name, p in params.items():
        assert_like(opt, name, p, oracles[name])
    assert opt.step_count == 6
    assert opt._table.steps() == [6, 6, 3]


def test_prodigy_estimates_for_each_group():
    params, twins = starts(np.float64, *SHAPES), starts(np.float64, *SHAPES)
    sources = streams(np.float64)
    opt = fastopt.Prodigy({name: params[name] for name in ("a", "b")})
    apart = [fastopt.Prodigy({name: twins[name] for name in ("a", "b")}), fastopt.Prodigy({"c": twins["c"]})]
    for t in range(6):
        grads = {name: next(source) for name, source in sources.items()}
        if t == 3:
            opt.add_param_group({"params": {"c": params["c"]}})
        opt.step(grads if t >= 3 else {name: grads[name] for name in ("a", "b")})
        apart[0].step({name: grads[name] for name in ("a", "b")})
        if t >= 3:
            apart[1].step({"c": grads["c"]})
    for name in SHAPES:
        assert_same_bits(params[name], twins[name], name)


def test_muon_takes_further_matrices():
    params, twins = starts(np.float64, "a", "c"), starts(np.float64, "a", "c")
    sources = streams(np.float64)
    opt = fastopt.Muon({"a": params["a"]}, lr=0.1)
    apart = {"a": fastopt.Muon({"a": twins["a"]}, lr=0.1), "c": fastopt.Muon({"c": twins["c"]}, lr=0.05)}
    for t in range(5):
        if t == 2:
            opt.add_param_group({"params": {"c": params["c"]}, "lr": 0.05})
        grads = {name: next(sources[name]) for name in (("a", "c") if t >= 2 else "a")}
        opt.step(grads)
        for name, g in grads.items():
            apart[name].step({name: g})
    for name in apart:
        np.testing.assert_allclose(params[name], twins[name], rtol=1e-12)
    assert list(opt.state["c"]) == list(opt.state["a"]) == ["b"]


@pytest.mark.parametrize("how", PACKED)
def test_everything_goes_on_with_an_added_group(how, tmp_path):
    """Averages, schedules, state arrays that were taken hold of, saving, copies."""
    pytest.importorskip("safetensors", reason="saving needs safetensors")
    params = starts(np.float32, *SHAPES)
    sources = streams(np.float32)
    options = {"ema_decay": 0.9, "swa": (2, 2), "lookahead": (2, 0.5), "lr": schedules.cosine(0.1, 20)}
    opt = fastopt.AdamW([{"params": {"a": params["a"]}}, {"params": {"b": params["b"]}, "lr": 0.5}], **options)
    held = opt.state["a"]["m"]
    for _ in range(3):
        opt.step({name: next(sources[name]) for name in ("a", "b")})
    before = held.copy()
    opt.add_param_group({"params": {"c": params["c"]}, "weight_decay": 0.0, "betas": (0.8, schedules.constant(0.9))})
    assert opt.state["a"]["m"] is held
    assert_same_bits(held, before)
    assert opt.groups[2]["weight_decay"] == 0
    assert opt.groups[2]["lr"] == opt.groups[0]["lr"]
    opt, params = PACKED[how](opt, params)
    fastopt.save(tmp_path / "state", opt)
    fresh_params = {name: p.copy() for name, p in params.items()}
    fresh = fastopt.AdamW([{"params": {"a": fresh_params["a"]}}, {"params": {"b": fresh_params["b"]}}], **options)
    with pytest.raises(ValueError, match="groups must be a list of 2"):
        fastopt.load(tmp_path / "state", fresh)
    fresh.groups[1]["lr"] = 0.5
    fresh.add_param_group({"params": {"c": fresh_params["c"]}, "betas": (0.8, schedules.constant(0.9))})
    fastopt.load(tmp_path / "state", fresh)
    for _ in range(4):
        grads = {name: next(source) for name, source in sources.items()}
        for each in (opt, fresh):
            each.step(grads)
    for name in SHAPES:
        assert_same_bits(params[name], fresh_params[name], name)
        for letter, buffer in opt.state[name].items():
            assert_same_bits(fresh.state[name][letter], buffer, f"{name}: {letter}")
        assert_same_bits(opt.ema[name], fresh.ema[name])
    with opt.swapped("ema"):
        assert_same_bits(params["c"], opt.ema["c"])


def test_schedules_go_by_the_optimizer_and_corrections_by_the_parameter():
    """By hand: Adam's first step of a parameter is lr * sign(g), with the rate of the optimizer's third step."""
    a, c = np.zeros(2), np.zeros(2)
    opt = fastopt.Adam(a, lr=lambda t: 1.0 + t, eps=0.0)
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    opt.add_param_group({"params": c})
    opt.step([np.ones(2), np.array([2.0, -3.0])])
    np.testing.assert_allclose(c, [-3.0, 3.0], rtol=1e-12)
    assert opt.step_count == 3
    with pytest.warns(UserWarning, match="stays the same from step 2 on, but 3 steps have been made") as caught:
        opt.add_param_group({"params": np.zeros(2), "lr": schedules.cosine(1.0, 2)})
    assert caught[0].filename == __file__


def test_the_structure_of_gradients():
    """A group for each entry from then on, numbers that go on, and bound gradients that are let go."""
    one, two, three = np.zeros(2), np.zeros(3), np.zeros(4)
    opt = fastopt.SGD([one], lr=1.0)
    bound = [np.ones(2)]
    opt.bind(bound)
    opt.step()
    opt.add_param_group({"params": [two, three], "lr": 0.5})
    assert list(opt.state) == [0, 1, 2]
    with refused(
        "gradients must be given, or bound once with bind() (again, after parameters were added), got none", opt
    ):
        opt.step()
    with refused("gradients must have one entry for each of the 2 groups, got 1", opt):
        opt.step(bound)
    opt.bind([bound, [np.ones(3), np.ones(4)]])
    opt.step()
    opt.step([bound, [None, np.ones(4)]])
    assert (one == -3).all()
    assert (two == -0.5).all()
    assert (three == -1).all()
    with refused("SGD: groups[0]: lr must be finite and >= 0, got -1", opt):
        opt.groups[0]["lr"] = -1
    named = fastopt.SGD({"x": one}, lr=1.0)
    named.add_param_group({"params": {"y": two}})
    named.step({"y": np.ones(3), "x": np.ones(2)})
    assert (two == -1.5).all()
    named.step_one("y", np.ones(3))
    assert (two == -2.5).all()


def test_micro_batches_are_kept():
    a, c = np.zeros(2), np.zeros(3)
    opt = fastopt.SGD({"a": a}, lr=1.0)
    opt.accumulate({"a": np.ones(2)})
    opt.add_param_group({"params": {"c": c}})
    opt.accumulate({"a": np.ones(2), "c": np.full(3, 4.0)})
    opt.step(accumulated="sum")
    assert (a == -2).all()
    assert (c == -4).all()
    opt.accumulate({"a": np.ones(2), "c": None})
    opt.step()
    assert (a == -3).all()
    assert (c == -4).all()


def test_micro_batches_do_not_overlap_the_state_of_an_added_group():
    opt = fastopt.Adam([{"params": [np.zeros(4)]}])
    opt.accumulate([[np.ones(4)]])
    opt.add_param_group({"params": [np.zeros(4)]})
    with refused("Adam.accumulate: gradient of parameter 1 must not share memory with the optimizer's state", opt):
        opt.accumulate([[np.ones(4)], [opt.state[1]["m"]]])


def test_micro_batches_of_rows_are_kept():
    t, u = np.zeros((5, 2)), np.zeros((3, 2))
    opt = fastopt.SGD({"t": t}, lr=1.0)
    opt.accumulate({"t": fastopt.RowGrad([0, 2], np.ones((2, 2)))})
    opt.add_param_group({"params": {"u": u}})
    opt.accumulate({"t": fastopt.RowGrad([2, 4], np.ones((2, 2))), "u": fastopt.RowGrad([1], np.ones((1, 2)))})
    opt.step(accumulated="sum")
    assert t[:, 0].tolist() == [-1, 0, -2, 0, -1]
    assert u[:, 1].tolist() == [0, -1, 0]


def test_a_combination_takes_in_what_a_member_has_taken_in():
    opt = fastopt.SGD({"t": np.zeros(2)}, lr=1.0)
    together = fastopt.Combined([opt, fastopt.Adam({"z": np.zeros(2)})])
    together.step([{"t": np.ones(2)}, {"z": np.ones(2)}])
    w = np.zeros(3)
    opt.add_param_group({"params": {"w": w}})
    together.step([{"t": np.ones(2), "w": np.ones(3)}, {"z": np.ones(2)}])
    assert (w == -1).all()
    assert together.step_count == 2
    assert opt._table.steps() == [2, 1]


def test_rows_and_catching_up():
    def made(table, more):
        opt = fastopt.SGD({"t": table}, lr=0.1, momentum=0.9, catch_up=True)
        rng = np.random.default_rng(0)
        for i in range(8):
            if i == 3:
                opt.add_param_group({"params": {"u": more}})
            grads = {"t": fastopt.RowGrad(rng.integers(0, 9, 2), rng.standard_normal((2, 2)))}
            if i >= 3:
                grads["u"] = fastopt.RowGrad(rng.integers(0, 5, 2), rng.standard_normal((2, 2)))
            opt.step(grads)
        opt.catch_up()
        return opt

    lazy = np.ones((9, 2)), np.ones((5, 2))
    opt = made(*lazy)
    dense = np.ones((9, 2)), np.ones((5, 2))
    rng = np.random.default_rng(0)
    momenta = [np.zeros((9, 2)), np.zeros((5, 2))]
    for i in range(8):
        for k in range(1 + (i >= 3)):
            rows, values = rng.integers(0, len(dense[k]), 2), rng.standard_normal((2, 2))
            momenta[k] *= 0.9
            np.add.at(momenta[k], rows, values)
            dense[k][...] -= 0.1 * momenta[k]
    for mine, wanted in zip(lazy, dense, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-12)
    assert (opt.state["u"]["last_step"] == 5).all()


def test_containers_of_added_groups_are_watched():
    """An array that is replaced is noticed in what was given at first and later; rebinding takes all groups."""
    first, group = {"a": np.zeros(2)}, {"params": {"c": {"w": np.zeros(3)}}}
    opt = fastopt.SGD(first, lr=1.0)
    opt.add_param_group(group)
    grads = {"a": np.ones(2), "c": {"w": np.ones(3)}}
    opt.step([{key: grad} for key, grad in grads.items()])
    group["params"]["c"]["w"] = np.zeros(3)
    with refused("'c.w'", opt):
        opt.step([{"a": grads["a"]}, {"c": grads["c"]}])
    opt.rebind([{"params": first}, group])
    opt.step([{"a": grads["a"]}, {"c": grads["c"]}])
    assert (first["a"] == -2).all()
    assert (group["params"]["c"]["w"] == -1).all()
    first["a"] = np.zeros(2)
    with refused("'a'", opt):
        opt.step([{"a": grads["a"]}, {"c": grads["c"]}])


def test_groups_that_cannot_be_added():
    a, c = np.zeros((2, 3)), np.zeros(3)
    opt = fastopt.Adam({"a": a}, ema_decay=0.9)
    opt.step({"a": np.ones((2, 3))})
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    label = "Adam.add_param_group"
    for group, message in (
        ([c], f'{label}: group must be a mapping with "params", got'),
        ({"lr": 0.1}, f'{label}: group must be a mapping with "params", got'),
        ({"params": 1.0}, f'{label}: group["params"] must be an array'),
        ({"params": {"a": c}}, f"{label}: names of params must be unique, got 'a' twice"),
        ({"params": {"c": a[0]}}, f"{label}: 'c' shares memory with 'a': each must have its own memory"),
        ({"params": {"c": read_only}}, f"{label}: 'c' must be writable, got a read-only array"),
        ({"params": {"c": c.astype(int)}}, f"{label}: 'c' must have dtype float16, bfloat16, float32 or float64"),
        ({"params": {"c": c}, "lr": -1.0}, "Adam: groups[1]: lr must be finite and >= 0, got -1"),
        ({"params": {"c": c}, "betas": 0.9}, "Adam: groups[1]: betas must be a pair of numbers"),
    ):
        with refused(message, opt, a, c):
            opt.add_param_group(group)
    with opt.swapped("ema"), refused("must wait until the parameters are back", opt):
        opt.add_param_group({"params": {"c": c}})
    adding = False
    opt.lr = lambda t: opt.add_param_group({"params": {"c": c}}) if adding else 0.1
    adding = True
    with pytest.raises(RuntimeError, match="must not change the same optimizer"):
        opt.step({"a": np.ones((2, 3))})
    adding = False
    opt.add_param_group({"params": {"c": c}})
    opt.step({"a": np.ones((2, 3)), "c": np.ones(3)})
    assert opt._table.steps() == [2, 1]


def test_threads_that_step_while_groups_are_added():
    """Each step is that of the parameters before or after, or refused."""
    params = {"p0": np.zeros(3)}
    opt = fastopt.SGD({"p0": params["p0"]}, lr=1.0)
    made, stop = [0] * 4, threading.Event()

    def step_again_and_again(k):
        while not stop.is_set():
            try:
                opt.step({name: np.ones(3) for name in list(params)})
                made[k] += 1
            except (ValueError, RuntimeError):  # the names were those of a moment ago
                continue

    threads = [threading.Thread(target=step_again_and_again, args=(k,)) for k in range(len(made))]
    for thread in threads:
        thread.start()
    for i in range(1, 40):
        params[f"p{i}"] = np.zeros(3)
        opt.add_param_group({"params": {f"p{i}": params[f"p{i}"]}})
    stop.set()
    for thread in threads:
        thread.join()
    assert opt.step_count == sum(made)
    for name, steps in zip(params, opt._table.steps(), strict=True):
        assert (params[name] == -steps).all(), name
    assert opt._table.steps()[0] == sum(made)


# ---- Forgetting ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_after_a_reset_all_is_as_made_anew(case, dtype):
    params, sources = starts(dtype, "a", "b"), streams(dtype)
    opt = case.make(params)
    for _ in range(3):
        opt.step({name: next(sources[name]) for name in params})
    opt.reset()
    assert opt.step_count == 0
    twins = {name: p.copy() for name, p in params.items()}
    fresh = case.make(twins)
    for name, state in fresh.state.items():
        for letter, buffer in state.items():
            assert_same_bits(opt.state[name][letter], buffer, f"{name}: {letter}")
    for _ in range(3):
        grads = {name: next(sources[name]) for name in params}
        opt.step(grads)
        fresh.step(grads)
    for name in params:
        assert_same_bits(params[name], twins[name], name)


@pytest.mark.parametrize("names", ["c", ["c"], iter(["c"])], ids=["name", "list", "iterator"])
def test_some_parameters_are_reset(names):
    """With averages, a schedule, and no change for the others."""
    options = {"lr": schedules.linear(0.1, 0.0, 10), "ema_decay": 0.9, "swa": (1, 1), "lookahead": (2, 0.5)}
    params, sources = starts(np.float64, *SHAPES), streams(np.float64)
    opt = fastopt.NAdam(params, **options)
    for _ in range(3):
        opt.step({name: next(sources[name]) for name in params})
    before = opt.state_dict()
    opt.reset(names)
    after = opt.state_dict()
    assert after["step_count"] == 3
    for name in ("a", "b"):
        np.testing.assert_equal(after["state"][name], before["state"][name])
    state = after["state"]["c"]
    assert state["step"] == state["mu_product"] == 0
    assert not state["m"].any()
    assert not state["v"].any()
    twin = {"c": params["c"].copy()}
    fresh = fastopt.NAdam(twin, **{**options, "lr": schedules.shift(options["lr"], -3)})
    for _ in range(4):
        grads = {name: next(sources[name]) for name in params}
        opt.step(grads)
        fresh.step({"c": grads["c"]})
    assert_same_bits(params["c"], twin["c"])
    assert_same_bits(opt.ema["c"], fresh.ema["c"])
    assert_same_bits(opt.swa["c"], fresh.swa["c"])


def test_rows_are_caught_up_before_they_are_reset():
    """The steps that they have missed were made: momentum 1 at the first step, by hand."""
    table = np.zeros((3, 1))
    opt = fastopt.SGD(table, lr=1.0, momentum=0.5, catch_up=True)
    opt.step(fastopt.RowGrad([0], np.ones((1, 1))))
    opt.step(fastopt.RowGrad([1], np.ones((1, 1))))
    opt.reset(0)
    np.testing.assert_allclose(table, [[-1.5], [-1.0], [0.0]])
    assert not opt.state[0]["last_step"].any()


def test_what_cannot_be_reset():
    opt = fastopt.Prodigy([{"params": starts(np.float64, "a", "b")}, {"params": starts(np.float64, "c")}])
    opt.step({name: np.ones(shape) for name, shape in SHAPES.items()})
    with refused("Prodigy.reset: names must be names of parameters, got 'd'", opt):
        opt.reset(["a", "b", "d"])
    with refused("names must have all parameters of a group, since this rule makes one estimate for it, but 'b'", opt):
        opt.reset(["a"])
    opt.reset(["a", "b"])
    opt.reset("c")
    averaged = fastopt.SGD(np.zeros(3), ema_decay=0.9)
    with averaged.swapped("ema"), refused("must wait until the parameters are back", averaged):
        averaged.reset()


# ---- The learning rates of groups ----


def test_rates_of_groups():
    opt = fastopt.SGD([{"params": np.ones(2)}, {"params": np.ones(2), "lr": schedules.linear(0.5, 0.0, 10)}], lr=0.25)
    assert opt.lr == (0.25, 0.5)
    opt.step([np.ones(2), np.ones(2)])
    assert opt.lr == (0.25, 0.45)
    opt.lr = (0.125, 1.0)
    assert [group["lr"] for group in opt.groups] == [0.125, 1.0]
    opt.lr = [rate / 2 for rate in opt.lr]
    assert opt.lr == (0.0625, 0.5)
    for bad, message in (
        ((0.1,), "lr must be one for all of the 2 groups or one for each, got (0.1,)"),
        (opt.lr * 2, "lr must be one for all of the 2 groups or one for each, got (0.0625, 0.5, 0.0625, 0.5)"),
        ((0.1, -1.0), "groups[1]: lr must be finite and >= 0, got -1.0"),
    ):
        with refused(message, opt):
            opt.lr = bad
    opt.lr = np.array(opt.lr) * 2
    assert opt.lr == (0.125, 1.0)
    opt.lr = np.array([0.25])
    assert opt.lr == 0.25
