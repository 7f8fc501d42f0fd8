"""Several optimizers that step as one."""

import copy
import json
import math
import pickle
import re
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from support import sums
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import RULES, Oracle, step_together
from support.covering import all_pairs

HIDDEN = {"hidden.0": (20, 30), "hidden.1": (30, 12)}
REST = {"embed": (50, 8), "bias": (30,), "gain": ()}
REFUSED = (TypeError, ValueError)


def arrays(shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def recipe(dtype=np.float64, seed=0, **options):
    """Muon for the hidden matrices beside AdamW for the rest; and their parameters."""
    hidden, rest = arrays(HIDDEN, seed, dtype), arrays(REST, seed + 1, dtype)
    return [fastopt.Muon(hidden, lr=0.02, **options), fastopt.AdamW(rest, lr=3e-3, **options)], {**hidden, **rest}


def grads_of(seed, dtype=np.float64):
    return arrays({**HIDDEN, **REST}, 100 + seed, dtype)


def split(grads):
    return [{name: grads[name] for name in HIDDEN}, {name: grads[name] for name in REST}]


def everything(opt):
    """All that a step can change, to compare."""
    params = [p.copy() for group in opt.groups for p in group["params"]]
    return repr((opt.state_dict(), params, opt.skipped_steps))


def assert_same(optimizers, others):
    for one, other in zip(optimizers, others, strict=True):
        for group, twin in zip(one.groups, other.groups, strict=True):
            for p, q in zip(group["params"], twin["params"], strict=True):
                assert_same_bits(p, q)
        assert repr(one.state_dict()) == repr(other.state_dict())


# ---- The bits of the optimizers stepped apart ----


WAYS = ["mapping", "sequence", "bound", "one entry None"]


@pytest.mark.parametrize(("way", "dtype", "threads"), all_pairs(WAYS, DTYPES, [1, 3]), ids=ids)
def test_muon_beside_adamw(way, dtype, threads, isas):
    for _ in isas:
        together, _ = recipe(dtype)
        apart, _ = recipe(dtype, num_threads=threads)
        opt = fastopt.Combined(together, num_threads=threads)
        for t in range(4):
            grads = grads_of(t, dtype)
            if way == "one entry None":
                grads["bias"] = grads["hidden.1"] = None
            if way == "mapping":
                opt.step(dict(reversed(grads.items())))
            elif way == "bound":
                opt.bind(grads)
                opt.step()
            else:
                opt.step(split(grads))
            for one, gs in zip(apart, split(grads), strict=True):
                one.step(gs)
        assert opt.step_count == 4
        assert_same(together, apart)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("muon", [False, True])
def test_every_rule_at_once(muon, threads):
    """All rules in one call, arrays of both dtypes and of several shapes; the oracle has them one by one."""
    shapes = [(3,), (40, 50), (), (0,), (7, 3)]
    optimizers, oracles, streams = [], [], []
    for i, case in enumerate(RULES):
        dtype = DTYPES[i % 2]
        params = [np.asarray(np.random.default_rng(i).standard_normal(shape), dtype) for shape in shapes]
        optimizers.append(case.make(params))
        oracles.append([Oracle(case, p) for p in params])
        streams.append([gradients(i + k, shape, dtype) for k, shape in enumerate(shapes)])
    others = []
    if muon:  # whose step has two halves
        others = [fastopt.Muon(np.ones((4, 3))), fastopt.Muon(np.ones((4, 3)))]
    opt = fastopt.Combined([*others[:1], *optimizers], num_threads=threads)
    for _ in range(3):
        grads = [[next(stream) for stream in of_rule] for of_rule in streams]
        for of_rule, gs in zip(oracles, grads, strict=True):
            step_together(of_rule, gs)
        g = np.random.default_rng(0).standard_normal((4, 3))
        for other in others[1:]:
            other.step(g)
        opt.step([g, *grads] if muon else grads)
    for one, of_rule in zip(optimizers, oracles, strict=True):
        for i, oracle in enumerate(of_rule):
            assert_like(one, i, one.groups[0]["params"][i], oracle)
    assert_same(others[:1], others[1:])


def test_schedules_groups_and_counts_of_each():
    """An optimizer that is ahead of the other follows its own count, alone and combined."""

    falls, iterations = (lambda t: 0.1 / (t + 1)), (lambda t: 1 + t)
    rises, decay = (lambda t: 0.01 * t), (lambda t: 0.5 / (1 + t))

    def make():
        w, v = arrays({"w": (4, 3)})["w"], arrays({"v": (5,), "u": (2,)}, 1)
        first = fastopt.Muon(w, lr=falls, ns_steps=iterations)
        return [first, fastopt.Adam(fastopt.groups(v, {"u": {"lr": rises}}), betas=(decay, 0.9))]

    def step(one, t):
        g = arrays({"w": (4, 3), "v": (5,), "u": (2,)}, 7 + t)
        one[0].step(g["w"])
        one[1].step({"v": g["v"], "u": g["u"]})

    ours, apart = make(), make()
    for opts in (ours, apart):
        for t in range(3):
            opts[1].step({"v": np.full(5, t + 1.0), "u": np.ones(2)})
    opt = fastopt.Combined(ours)
    assert (opt.step_count, len(opt.groups)) == (3, 3)
    for t in range(3):
        g = arrays({"w": (4, 3), "v": (5,), "u": (2,)}, 7 + t)
        opt.step([g["w"], {"v": g["v"], "u": g["u"]}])
        step(apart, t)
        step(ours, t + 10)
        step(apart, t + 10)
    assert (ours[0].step_count, ours[1].step_count, opt.step_count) == (6, 9, 9)
    assert_same(ours, apart)


def test_a_schedule_that_fails_changes_nothing():
    calls = []

    def failing(step):
        calls.append(step)
        return math.nan if step == 1 and len(calls) > 2 else 0.1

    first, second = fastopt.SGD(np.ones(2), lr=lambda t: 0.5 / (1 + t)), fastopt.SGD(np.ones(2), lr=failing)
    opt = fastopt.Combined([first, second])
    opt.step([np.ones(2), np.ones(2)])
    before = everything(opt)
    with pytest.raises(ValueError, match="lr must be finite"):
        opt.step([np.ones(2), np.ones(2)])
    assert everything(opt) == before


# ---- One norm, one scale, one decision ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_one_norm_over_all(dtype):
    """The norm of the oracle; each optimizer alone, given gradients that are already clipped."""
    together, _ = recipe(dtype)
    apart, _ = recipe(dtype)
    opt = fastopt.Combined(together, clip_norm=0.5)
    for t in range(3):
        grads = grads_of(t, dtype)
        opt.step(grads)
        wanted = math.sqrt(math.fsum(float(x) ** 2 for g in grads.values() for x in g.flat))
        assert opt.grad_norm == pytest.approx(wanted, rel=1e-14)
        assert opt.grad_norm == sums.norm([grads[name] for name in (*HIDDEN, *REST)])
        clipped = {name: np.asarray(g * (0.5 / (wanted + 1e-6)), dtype) for name, g in grads.items()}
        for one, gs in zip(apart, split(clipped), strict=True):
            one.step(gs)
    for one, other in zip(together, apart, strict=True):
        assert one.grad_norm is None
        for p, q in zip(one.groups[0]["params"], other.groups[0]["params"], strict=True):
            np.testing.assert_allclose(p, q, rtol=0, atol=1e-12 if dtype is np.float64 else 2e-4)


@pytest.mark.parametrize("per", ["group", "parameter"])
def test_a_step_alone_has_one_norm_after_steps_together_with_several(per):
    params = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD([{"params": p} for p in params], lr=1.0)
    together = fastopt.Combined([opt, fastopt.SGD(np.zeros(2))], clip_norm=1.0, clip_norm_per=per)
    together.step([[np.ones(2), np.ones(2)], np.ones(2)])
    for p in params:
        p[...] = 0
    opt.step([np.array([3.0, 0.0]), np.array([4.0, 0.0])], clip_norm=1.0)
    assert opt.grad_norm == 5
    np.testing.assert_allclose(params, [[-0.6, 0], [-0.8, 0]], rtol=1e-6)


def test_options_of_one_step():
    together, apart = (fastopt.Combined([fastopt.SGD(np.zeros(2), lr=1.0) for _ in range(2)]) for _ in range(2))
    together.step([np.full(2, 8.0), np.full(2, 2.0)], grad_scale=2.0, clip_value=3.0)
    apart.step([np.full(2, 3.0), np.full(2, 1.0)])
    assert_same(together.optimizers, apart.optimizers)
    assert together.groups[0]["params"][0][0] == -3
    with pytest.raises(TypeError, match=r"Combined\.step: options of one step are"):
        together.step([np.ones(2), np.ones(2)], lr=1.0)


def test_one_loss_scale_and_one_decision_to_skip():
    scale = fastopt.LossScale(8.0, interval=2)
    a, b = fastopt.SGD(np.zeros(1), lr=1.0), fastopt.SGD(np.zeros(1), lr=1.0)
    opt = fastopt.Combined([a, b], grad_scale=scale, nonfinite="skip")
    values = []
    for g in (8.0, math.inf, 4.0, 4.0):
        opt.step([np.full(1, g), np.full(1, 4.0)])
        values.append(scale.value)
    assert values == [8, 4, 4, 8]
    assert (opt.step_count, a.step_count, b.step_count, opt.skipped_steps, a.skipped_steps) == (3, 3, 3, 1, 0)
    assert (a.groups[0]["params"][0][0], b.groups[0]["params"][0][0]) == (-3, -2.5)


@pytest.mark.parametrize("name", ["hidden.1", "gain"])
def test_nonfinite_is_raised_for_all(name):
    optimizers, _ = recipe()
    opt = fastopt.Combined(optimizers, nonfinite="raise")
    opt.step(grads_of(0))
    grads, before = grads_of(1), everything(opt)
    grads[name] = np.full_like(grads[name], np.nan)
    with pytest.raises(
        FloatingPointError,
        match=re.escape(f"Combined.step: gradients must be finite, got NaN or infinity in the gradient of '{name}'"),
    ):
        opt.step(grads)
    assert everything(opt) == before


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_zeroing(nonfinite):
    optimizers, _ = recipe()
    opt = fastopt.Combined(optimizers, zero_grads=True, nonfinite=nonfinite)
    for t in range(3):
        grads = grads_of(t)
        if t == 1:
            grads["bias"][0] = np.inf
        opt.step(grads)
        assert all((g == 0).all() for g in grads.values())
    memory = np.ones(12)
    twins = fastopt.Combined([fastopt.SGD(np.ones(8)), fastopt.SGD(np.ones(8))], zero_grads=True)
    before = everything(twins)
    with pytest.raises(ValueError, match=r"Combined\.step: gradient of parameter 1 shares memory with"):
        twins.step([memory[:8], memory[4:]])
    assert everything(twins) == before


# ---- Gradients and names ----


def test_names_and_structures():
    w, v, u = np.ones(2), np.ones(3), np.ones(4)
    opt = fastopt.Combined([fastopt.SGD([w]), fastopt.Adam([v, u])])
    assert list(opt.state) == [0, 1, 2]
    assert opt.state[2] is opt.optimizers[1].state[1]
    opt.step([[np.ones(2)], [np.ones(3), np.ones(4)]])
    opt.step_one(2, np.ones(4))
    assert opt.optimizers[1].state_dict()["state"][1]["step"] == 2
    named, positional = fastopt.SGD({"w": np.ones(2)}), fastopt.SGD(np.ones(3))
    opt = fastopt.Combined([named, positional])
    assert list(opt.state) == ["w", 1]
    opt.step([{"w": np.ones(2)}, np.ones(3)])
    assert opt.step_count == 1


BAD_GRADIENTS = {
    "too few entries": (
        lambda g: [g["w"]],
        "Combined.step: gradients must have one entry for each of the 2",
    ),
    "an array": (
        lambda g: g["w"],
        "Combined.step: gradients must be a sequence with one entry per optimizer or one",
    ),
    "a name missing": (
        lambda g: {"w": g["w"]},
        "Combined.step: gradients must have an entry for every parameter",
    ),
    "a name too many": (lambda g: {**g, "x": 1}, "must be for parameters of this optimizer, got unknown 'x'"),
    "an entry of another kind": (
        lambda g: [g["w"], g],
        "Combined.step: optimizers[0]: SGD.step: gradients must be a mapping, as the parameters are, got ndarray",
    ),
    "shape": (
        lambda g: {**g, "v": np.ones(4)},
        "Combined.step: gradient of 'v' must have its parameter's shape",
    ),
    "kind": (lambda g: {**g, "v": "1"}, "Combined.step: gradient of 'v' must be"),
    "nothing": (lambda g: None, "Combined.step: gradients must be given, or bound once with bind(), got none"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_bad_gradients(bad, message):
    opt = fastopt.Combined([fastopt.SGD({"w": np.ones(2)}), fastopt.Adam({"v": np.ones(3)})])
    before = everything(opt)
    with pytest.raises(REFUSED, match=re.escape(message)):
        opt.step(bad({"w": np.ones(2), "v": np.ones(3)}))
    assert everything(opt) == before


def test_a_gradient_stays_clear_of_what_another_optimizer_has():
    w, v = np.ones(3), np.ones(3)
    opt = fastopt.Combined([fastopt.SGD({"w": w}), fastopt.Adam({"v": v})])
    before = everything(opt)
    with pytest.raises(ValueError, match=r"gradient of 'w' must not share memory with a parameter, but it overlaps"):
        opt.step({"w": v, "v": np.ones(3)})
    with pytest.raises(ValueError, match=r"gradient of 'w' must not share memory with the optimizer's state"):
        opt.step({"w": opt.state["v"]["m"], "v": np.ones(3)})
    assert everything(opt) == before


# ---- What can be combined ----


def test_what_cannot_be_combined():
    w = np.ones((2, 2))
    one, other = fastopt.SGD({"w": w}), fastopt.SGD({"v": np.ones(2)})
    refused = {
        "optimizers must hold at least one": [],
        "optimizers must be a sequence of optimizers, got SGD": one,
        "optimizers[1] must be an optimizer, got array": [one, w],
        "optimizers[1] must be an optimizer of one rule, got a Combined: give its optimizers": [
            one,
            fastopt.Combined([other]),
        ],
        "optimizers[1] must differ from the optimizers before it": [one, one],
        "'u' is the same array as 'w'": [one, fastopt.SGD({"u": w})],
        "'u' shares memory with 'w'": [one, fastopt.SGD({"u": w[1]})],
        "names of params must be unique, got 'w' twice": [one, fastopt.SGD({"w": np.ones(2)})],
        "optimizers[0]: clip_norm must be an option of Combined, not of its optimizers, got 1.0 of the SGD": [
            fastopt.SGD(np.ones(2), clip_norm=1.0)
        ],
    }
    for options in (
        {"nonfinite": "skip"},
        {"clip_value": 1.0},
        {"zero_grads": True},
        {"grad_scale": 2.0},
        {"num_threads": 1},
    ):
        option = next(iter(options))
        message = f"optimizers[1]: {option} must be an option of Combined, not of its optimizers, got"
        refused[message] = [one, fastopt.Adam(np.ones(2), **options)]
    for message, optimizers in refused.items():
        with pytest.raises(REFUSED, match=re.escape(f"Combined: {message}")):
            fastopt.Combined(optimizers)
    for options, message in (
        ({"clip_norm": 0}, "Combined: clip_norm must be > 0"),
        ({"nonfinite": "no"}, "Combined: nonfinite must be one of"),
        ({"num_threads": 0}, "Combined: num_threads must be"),
        ({"grad_scale": fastopt.LossScale()}, 'Combined: a LossScale must be the grad_scale with nonfinite="skip"'),
    ):
        with pytest.raises(REFUSED, match=re.escape(message)):
            fastopt.Combined([one, other], **options)


def test_learning_rates_and_hyperparameters():
    optimizers, _ = recipe()
    opt = fastopt.Combined(optimizers)
    opt.lr = 0.5
    assert (opt.lr, optimizers[0].lr, optimizers[1].lr) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="lr must be"):
        opt.lr = -1
    assert opt.lr == 0.5
    opt.groups[1]["lr"] = 0.25
    assert optimizers[1].lr == 0.25
    assert opt.lr == (0.5, 0.25)
    opt.lr = (0.75, lambda step: 0.125)
    assert (opt.lr, optimizers[0].lr, optimizers[1].lr) == ((0.75, 0.125), 0.75, 0.125)
    for bad in ((0.5,), (0.5, -1)):
        with pytest.raises(ValueError, match="lr must be"):
            opt.lr = bad
    assert opt.lr == (0.75, 0.125)
    assert opt.nbytes == sum(one.nbytes for one in opt.optimizers) == sum(map(opt.nbytes_of, opt.state))
    assert f"Combined(5 parameters, {opt.nbytes:,} bytes, 0 steps\n  Muon(2 parameters" in repr(opt)
    with pytest.raises(KeyError, match="Combined: name must be the name of a parameter, got 'nothing'"):
        opt.nbytes_of("nothing")


def test_a_passed_schedule_is_told_at_the_line_that_sets_it():
    """Made an error, it changes no optimizer."""
    first, second = fastopt.SGD({"a": np.ones(2)}, lr=0.5), fastopt.SGD({"b": np.ones(2)}, lr=0.5)
    second.step({"b": np.ones(2)})
    opt = fastopt.Combined([first, second])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            UserWarning, match=r"SGD: lr is .* stays the same from step 1 on, but 1 steps have been made"
        ):
            opt.lr = fastopt.schedules.linear(0.25, 0.125, 1)
    assert (opt.lr, first.lr, second.lr) == (0.5, 0.5, 0.5)
    with pytest.warns(UserWarning, match="stays the same from step 1 on") as caught:
        opt.lr = fastopt.schedules.linear(0.25, 0.125, 1)
    assert [warning.filename for warning in caught] == [__file__]
    assert opt.lr == (0.25, 0.125)
    with pytest.warns(UserWarning, match="stays the same from step 1 on") as caught:
        opt.load_state_dict(opt.state_dict(), hyperparameters="current")
    assert {warning.filename for warning in caught} == {__file__}


# ---- Saved, copied ----


@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_a_run_goes_on_to_the_same_bits(way, tmp_path):
    def make():
        optimizers, params = recipe(ema_decay=0.9)
        return fastopt.Combined(optimizers, clip_norm=1.0, nonfinite="skip", grad_scale=fastopt.LossScale(4.0)), params

    straight, _ = make()
    first, params = make()
    for t in range(3):
        straight.step(grads_of(t))
        first.step(grads_of(t))
    if way in ("deepcopy", "pickle"):
        second = copy.deepcopy(first) if way == "deepcopy" else pickle.loads(pickle.dumps(first))
        assert second._options["grad_scale"] is not first._options["grad_scale"]
        assert repr(second) == repr(first)
    else:
        second, others = make()
        for name, p in params.items():
            others[name][...] = p
        if way == "file":
            pytest.importorskip("safetensors", reason="saving needs safetensors")
            fastopt.save(tmp_path / "state", first)
            fastopt.load(tmp_path / "state", second)
        else:
            second.load_state_dict(first.state_dict())
    for t in range(3, 6):
        straight.step(grads_of(t))
        second.step(grads_of(t))
    assert_same(second.optimizers, straight.optimizers)
    assert (second.step_count, first.step_count) == (6, 3)


def test_loading_is_for_all_optimizers_or_for_none(tmp_path):
    pytest.importorskip("safetensors", reason="saving needs safetensors")
    optimizers, _ = recipe()
    opt = fastopt.Combined(optimizers)
    opt.step(grads_of(0))
    good, path = opt.state_dict(), tmp_path / "state"
    fastopt.save(path, opt)
    opt.step(grads_of(1))
    before = everything(opt)
    bad = {
        "optimizers[1]: AdamW.load_state_dict: step_count": {
            "optimizers": [good["optimizers"][0], {**good["optimizers"][1], "step_count": -1}]
        },
        "optimizers[0]: Muon.load_state_dict: rule must be 'Muon'": {"optimizers": good["optimizers"][::-1]},
        "optimizers must be a list of 2": {"optimizers": good["optimizers"][:1]},
        "rule must be 'Combined', got 'Muon'": {"rule": "Muon"},
        "format must be 1": {"format": 7},
        "the state must have exactly the entries": {"more": 1},
    }
    for message, change in bad.items():
        with pytest.raises(REFUSED, match=re.escape(f"Combined.load_state_dict: {message}")):
            opt.load_state_dict({**good, **change})
    for saved, loaded in (
        ((optimizers[0]), opt),
        (opt, optimizers[0]),
        (fastopt.Combined(optimizers[::-1]), opt),
        (fastopt.Combined(optimizers[:1]), opt),
    ):
        fastopt.save(tmp_path / "other", saved)
        with pytest.raises(ValueError, match="other: "):
            fastopt.load(tmp_path / "other", loaded)
    assert everything(opt) == before
    fastopt.load(path, opt)
    assert repr(opt.state_dict()) == repr(good)
    text = json.dumps(sorted(_tensors(path)))
    assert '"1/\\"bias\\"/m"' in text


def _tensors(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return list(file.keys())


# ---- The other calls ----


def test_micro_batches():
    together, _ = recipe()
    apart, _ = recipe()
    opt = fastopt.Combined(together, zero_grads=True)
    for t in range(2):
        grads, more = grads_of(t), grads_of(t + 10)
        more["gain"] = grads["gain"] = None
        opt.accumulate(grads)
        opt.accumulate(split(more))
        opt.step(accumulated="sum" if t else "mean")
        for one, gs, others in zip(apart, split(grads), split(more), strict=True):
            one.accumulate(gs)
            one.accumulate(others)
            one.step(accumulated="sum" if t else "mean")
    assert_same(together, apart)
    opt.accumulate(grads_of(5))
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()
    with pytest.raises(ValueError, match=r"Combined\.accumulate: gradient of 'bias' must have its parameter's shape"):
        opt.accumulate({**grads_of(5), "bias": np.ones(3)})


def test_one_parameter_at_a_time():
    """A round of them ends with the bits of one step, whichever rule each has."""
    whole, _ = recipe()
    single, _ = recipe()
    opt, one = fastopt.Combined(whole), fastopt.Combined(single, zero_grads=True)
    for t in range(3):
        grads = grads_of(t)
        opt.step(grads)
        for name in reversed(grads):
            one.step_one(name, grads[name])
            assert (grads[name] == 0).all()
        assert one.step_count == t + 1
    assert_same(single, whole)
    with pytest.raises(ValueError, match=r"Combined\.step_one: name must be the name of a parameter, got 'x'"):
        one.step_one("x", np.ones(1))


def test_rows_beside_whole_gradients():
    rng = np.random.default_rng(0)
    tables = [np.ones((40, 3)) for _ in range(2)]
    matrices = [np.ones((4, 5)) for _ in range(2)]
    (lazy, muon), apart = (
        [fastopt.SGD({"table": table}, momentum=0.9, catch_up=True), fastopt.Muon({"w": matrix})]
        for table, matrix in zip(tables, matrices, strict=True)
    )
    opt = fastopt.Combined([lazy, muon], clip_norm=100.0)
    for _ in range(5):
        rows, values, g = rng.integers(0, 40, 8), rng.standard_normal((8, 3)), rng.standard_normal((4, 5))
        opt.step({"table": fastopt.RowGrad(rows, values), "w": g})
        apart[0].step({"table": fastopt.RowGrad(rows, values)})
        apart[1].step({"w": g})
    grads = {"table": fastopt.RowGrad([3, 5, 3], np.ones((3, 3))), "w": np.ones((4, 5))}
    opt.accumulate(grads)
    opt.step()
    apart[0].step({"table": grads["table"]})
    apart[1].step({"w": grads["w"]})
    opt.catch_up()
    apart[0].catch_up()
    assert_same([lazy, muon], apart)
    with pytest.raises(ValueError, match="catch_up"):
        fastopt.Combined([muon]).catch_up()


def test_averages():
    (muon, adamw), params = recipe(ema_decay=0.5)
    opt = fastopt.Combined([muon, adamw])
    assert opt.averages == ("ema",)
    for t in range(3):
        opt.step(grads_of(t))
    before = {name: p.copy() for name, p in params.items()}
    with opt.swapped("ema"):
        for name, p in params.items():
            np.testing.assert_array_equal(p, opt.ema[name])
        with pytest.raises(ValueError, match=r"Combined\.step must wait until the parameters are back"):
            opt.step(grads_of(4))
        with pytest.raises(ValueError, match="must wait until the parameters are back"), opt.swapped("ema"):
            pass
    for name, p in params.items():
        assert_same_bits(p, before[name])
    with adamw.swapped("ema"), pytest.raises(ValueError, match=r"Combined\.step must wait"):
        opt.step(grads_of(4))
    opt.step(grads_of(4))
    assert opt.step_count == 4
    other = fastopt.Combined([adamw, fastopt.SGD(np.ones(2))])
    assert other.averages == ()
    with pytest.raises(ValueError, match=r"Combined\.swapped: average must be one that all optimizers keep,"):
        other.swapped("ema").__enter__()
    assert adamw._table.swapped is None


# ---- Threads ----


def test_threads_step_the_optimizers_alone_and_combined():
    """They take turns: the result is that of so many steps in a row."""
    first, second = fastopt.SGD(np.zeros(50_000), lr=1.0), fastopt.SGD(np.zeros(50_000), lr=1.0)
    opt, reverse = fastopt.Combined([first, second]), fastopt.Combined([second, first])
    g = np.ones(50_000)
    calls = [lambda: first.step(g), lambda: second.step(g), lambda: opt.step([g, g]), lambda: reverse.step([g, g])]
    calls += [opt.state_dict, lambda: first.groups[0].update(lr=1.0)]
    failed = []

    def repeat(call):
        try:
            for _ in range(40):
                call()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)
    for one in (first, second):
        assert (one.groups[0]["params"][0] == -120).all()
        assert one.step_count == 120


def test_a_schedule_must_not_step_what_it_is_part_of():
    found = []

    def schedule(step):
        for call in (lambda: opt.step([np.ones(2), np.ones(2)]), lambda: first.step(np.ones(2))):
            if step == 1:
                with pytest.raises(RuntimeError, match="must not change the same optimizer"):
                    call()
                found.append(step)
        return 0.1

    first, second = fastopt.SGD(np.ones(2), lr=schedule), fastopt.SGD(np.ones(2))
    opt = fastopt.Combined([first, second])
    for _ in range(2):
        opt.step([np.ones(2), np.ones(2)])
    assert len(found) == 2
    first.step(np.ones(2))
    assert (first.step_count, second.step_count, opt.step_count) == (3, 2, 3)


@given(st.lists(st.sampled_from(["both", "first", "second", "one", "bad", "accumulate", "skip"]), max_size=12))
def test_any_order_of_calls(calls):
    """Against the two optimizers apart."""

    def pair():
        return [fastopt.NAdam({"w": np.ones(3)}), fastopt.ScheduleFreeSGD({"v": np.ones(2)}, lr=0.1)]

    ours, apart = pair(), pair()
    opt = fastopt.Combined(ours, nonfinite="skip")
    skipped = 0
    for i, call in enumerate(calls):
        w, v = np.full(3, i + 1.0), np.full(2, i - 3.0)
        if call == "both":
            opt.step({"w": w, "v": v})
        elif call == "first":
            ours[0].step({"w": w})
        elif call == "second":
            ours[1].step({"v": v})
        elif call == "one":
            opt.step_one("v", v)
        elif call == "accumulate":
            opt.accumulate({"w": w, "v": v})
            opt.step()
        elif call == "skip":
            opt.step({"w": w, "v": np.full(2, np.inf)})
            skipped += 1
        else:
            with pytest.raises(ValueError, match="shape"):
                opt.step({"w": w, "v": np.ones(3)})
        if call in ("both", "first", "accumulate"):
            apart[0].step({"w": w})
        if call in ("both", "second", "accumulate"):
            apart[1].step({"v": v})
        if call == "one":
            apart[1].step_one("v", v)
    assert opt.skipped_steps == skipped
    assert_same(ours, apart)


# ---- Optimizers that come to have other parameters ----


def test_rebound_arrays():
    """Those of one optimizer are replaced: gradients that are bound and gathered stay."""
    params = {"w": np.ones(2)}
    first, second = fastopt.SGD(params, lr=1.0), fastopt.SGD({"v": np.ones(3)}, lr=1.0)
    opt = fastopt.Combined([first, second], nonfinite="skip")
    opt.bind({"w": np.ones(2), "v": np.ones(3)})
    opt.step()
    opt.accumulate({"w": np.ones(2), "v": np.ones(3)})
    params["w"] = np.full(2, 5.0)
    with pytest.raises(ValueError, match=r"Combined\.step: 'w' must stay the array that the optimizer updates"):
        opt.step()
    first.rebind(params)
    opt.step()
    opt.step()
    assert (params["w"] == 3).all()
    assert (second.groups[0]["params"][0] == -2).all()
    first.rebind({"w": second.groups[0]["params"][0][:2]})
    with pytest.raises(ValueError, match=r"Combined\.step: 'w'.* shares memory with|Combined\.step: 'v' shares memory"):
        opt.step()
    first.rebind(params)
    opt.step()
    assert (params["w"] == 2).all()
    assert opt.step_count == 4


def test_nests_and_counted_names():
    first = fastopt.SGD([np.ones(2), {"a": np.ones(2), "b": [np.ones(1)]}])
    second = fastopt.SGD([np.ones(3), {"a": np.ones(2)}])
    opt = fastopt.Combined([first, second])
    assert list(opt.state) == [0, "1.a", "1.b.0", 3, "4.a"]
    opt.step([[np.ones(2), {"a": np.ones(2), "b": [np.ones(1)]}], [np.ones(3), {"a": np.ones(2)}]])
    named = fastopt.Combined([fastopt.SGD({"x": {"y": np.ones(2)}}), fastopt.SGD({"z": np.ones(1)})])
    named.step({"x": {"y": np.ones(2)}, "z": np.ones(1)})
    named.step({"x.y": np.ones(2), "z": np.ones(1)})
    assert (opt.step_count, named.step_count) == (1, 2)


def test_parameters_that_are_added():
    """An optimizer gets another group: it is stepped with the others from then on."""

    def make():
        return [fastopt.SGD({"w": np.ones(2)}, momentum=0.9), fastopt.Adam({"v": np.ones(3)})]

    ours, apart = make(), make()
    opt = fastopt.Combined(ours, clip_norm=math.inf, nonfinite="skip")
    for t in range(4):
        if t == 2:
            for one in (ours[0], apart[0]):
                one.add_param_group({"params": {"u": np.ones(4)}, "lr": 0.5})
        grads = {"w": np.full(2, t + 1.0), "u": np.full(4, 2.0), "v": np.full(3, -1.0)}
        if t < 2:
            del grads["u"]
        if t == 1:
            opt.step({**grads, "v": np.full(3, np.nan)})
        opt.step(grads)
        v = grads.pop("v")
        apart[0].step(grads)
        apart[1].step({"v": v})
    assert list(opt.state) == ["w", "u", "v"]
    assert opt.skipped_steps == 1
    assert_same(ours, apart)
    opt.accumulate({**grads, "v": v})
    ours[0].add_param_group({"params": {"x": np.ones(1)}})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must be accumulated again .* discard\(\) drops"):
            opt.accumulate({**grads, "v": v, "x": np.ones(1)})
    opt.discard()
    opt.step({**grads, "v": v, "x": np.ones(1)})
    ours[1].add_param_group({"params": {"w": np.ones(1)}})
    with pytest.raises(ValueError, match="names of params must be unique, got 'w' twice"):
        opt.step(grads)


def test_averages_at_rest_and_of_rows():
    """As those of the optimizers stepped apart, to the bit, also of what is saved."""

    def make():
        params = {"a": np.ones((3, 2)), "b": np.ones(4)}, {"table": np.ones((9, 2)), "never": np.zeros(2)}
        options = {"ema_decay": 0.8, "swa": (2, 3)}
        return [fastopt.SGD(params[0], lr=0.1, lookahead=(2, 0.5), **options), fastopt.Adam(params[1], **options)]

    rng = np.random.default_rng(5)
    apart, together = make(), fastopt.Combined(make())
    together.optimizers[1].step({"table": np.ones((9, 2)), "never": None})
    apart[1].step({"table": np.ones((9, 2)), "never": None})
    for t in range(12):
        of_sgd = {"a": rng.standard_normal((3, 2)), "b": None if t % 3 else rng.standard_normal(4)}
        rows = fastopt.RowGrad(rng.integers(0, 7, 2), rng.standard_normal((2, 2)))
        of_adam = {"table": None if t == 5 else rng.standard_normal((9, 2)) if t == 8 else rows, "never": None}
        if t == 10:
            for name, g in {**of_sgd, **of_adam}.items():
                together.step_one(name, g)
                apart[name not in of_sgd].step_one(name, g)
        else:
            together.step({**of_sgd, **of_adam})
            for opt, grads in zip(apart, (of_sgd, of_adam), strict=True):
                opt.step(grads)
        assert repr(together.state_dict()["optimizers"]) == repr([opt.state_dict() for opt in apart])
        for average in ("ema", "swa") if t else ("ema",):
            wanted = {name: value for opt in apart for name, value in getattr(opt, average).items()}
            for name, value in getattr(together, average).items():
                assert_same_bits(value, wanted[name])


def test_gradients_of_another_dtype_alone_and_together():
    """A dtype that comes in one way is known to the other: each step reads the gradients that it is given."""
    p, q, one = np.zeros(2, np.float32), np.zeros(3), np.ones
    members = fastopt.SGD({"p": p}, lr=1.0), fastopt.SGD({"q": q}, lr=1.0)
    both, other = fastopt.Combined(members), fastopt.Combined(members[:1])
    dtypes = (np.float32, np.float64, np.float64, np.float16, np.float32, np.float32, np.float64)
    for steps, dtype in enumerate(dtypes):
        with pytest.raises(ValueError, match="shape"):  # a step that is refused after it has read p
            both.step({"p": one(2, np.float16), "q": one(4)})
        both.step({"p": one(2, dtype), "q": one(3, dtype)})
        members[0].step({"p": one(2, dtypes[-steps])})
        members[1].step({"q": one(3, np.float16)})
        other.step({"p": one(2, dtype)})
        both.step({"p": one(2, dtype), "q": one(3, dtype)})
        assert (p == -4 * (steps + 1)).all(), (steps, p)
        assert (q == -3 * (steps + 1)).all(), (steps, q)


def test_arrays_that_were_rebound_before_are_walked_as_their_state():
    params, own = np.arange(12.0).reshape(3, 4), np.arange(12.0).reshape(3, 4)
    opt, alone = fastopt.Adam([params]), fastopt.Adam([own])
    grads = [np.arange(12.0)[::-1].reshape(3, 4) / k for k in (1, 2, 3)]
    for one in (opt, alone):
        one.step([grads[0]])
    turned = np.asfortranarray(params)
    opt.rebind([turned])
    both = fastopt.Combined([opt])
    for g in grads[1:]:
        both.step([[g]])
        alone.step([g])
    assert_same_bits(turned, own)
    assert_same_bits(opt.state[0]["v"], alone.state[0]["v"])
