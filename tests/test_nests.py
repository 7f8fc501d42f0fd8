"""Parameters in nested mappings and sequences, and the containers that the user has them in."""

import copy
import pickle
from collections import OrderedDict, UserDict, UserList, deque
from functools import partial
from types import MappingProxyType

import numpy as np
import pytest

import fastopt
from support.asserts import assert_same_bits, ids, refused
from support.cases import CASES


def model(dtype=float):
    return {
        "embed": np.full((4, 3), 1.0, dtype),
        "blocks": [{"w": np.full((3, 2), 2.0, dtype), "b": np.full(2, 3.0, dtype)}, {}, (np.full(1, 4.0, dtype),)],
        "head": {"out": {"w": np.full((2, 2), 5.0, dtype)}, 7: np.full((), 6.0, dtype)},
    }


NAMES = ["embed", "blocks.0.w", "blocks.0.b", "blocks.2.0", "head.out.w", "head.7"]


def flat(nest):
    """The arrays of a nest like the model, by name."""
    block, _, (last,) = nest["blocks"]
    arrays = [nest["embed"], block["w"], block["b"], last, nest["head"]["out"]["w"], nest["head"][7]]
    return dict(zip(NAMES, arrays, strict=True))


def nest(arrays):
    """The reverse."""
    embed, w, b, last, out, seven = arrays.values()
    return {"head": {7: seven, "out": {"w": out}}, "blocks": ({"b": b, "w": w}, {}, [last]), "embed": embed}


def gradients(seed=1):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(p.shape)) for name, p in flat(model()).items()}


# ---- Nests ----


def test_a_nest_is_its_arrays_by_name():
    params, twins = model(), flat(model())
    opts = fastopt.Adam(params, lr=0.1), fastopt.Adam(twins, lr=0.1)
    for seed in range(3):
        opts[0].step(nest(gradients(seed)))
        opts[1].step(gradients(seed))
    assert list(opts[0].state) == NAMES
    for name, p in flat(params).items():
        assert_same_bits(p, twins[name], name)
    opts[0].step_one("blocks.0.w", gradients()["blocks.0.w"])
    opts[1].step_one("blocks.0.w", gradients()["blocks.0.w"])
    assert_same_bits(params["blocks"][0]["w"], twins["blocks.0.w"])
    opts[1].load_state_dict(opts[0].state_dict())


def test_a_list_of_layers():
    """Mappings in a list are no groups where none has "params"; names begin with the index."""
    layers = [{"w": np.zeros(2), "b": np.zeros(1)}, {"w": np.zeros(3)}, np.zeros(1)]
    opt = fastopt.SGD(layers, lr=1.0)
    opt.step([{"w": np.ones(2), "b": np.ones(1)}, {"w": np.ones(3)}, None])
    assert list(opt.state) == ["0.w", "0.b", "1.w", 2]
    assert [layers[0]["w"][0], layers[0]["b"][0], layers[1]["w"][0], layers[2][0]] == [-1, -1, -1, 0]


@pytest.mark.parametrize(
    "consumed",
    [
        iter,
        lambda arrays: (p for p in arrays),
        lambda arrays: dict(enumerate(arrays)).values(),
        lambda a: map(id_of, a),
    ],
    ids=["iterator", "generator", "dict.values()", "map"],
)
def test_what_is_consumed(consumed):
    """As parameters and as gradients."""
    params = [np.zeros(2), np.zeros(3)]
    opt = fastopt.SGD(consumed(params), lr=1.0)
    opt.step(consumed([np.ones(2), np.ones(3)]))
    opt.step([np.ones(2), np.ones(3)])
    assert list(opt.state) == [0, 1]
    assert [p.tolist() for p in params] == [[-2, -2], [-2, -2, -2]]
    for few in (1, 3):
        with refused(f"must be 2, one per parameter, got {few}", opt):
            opt.step(consumed([np.ones(2)] * few))


def id_of(array):
    return array


def test_groups_from_a_generator():
    params = [np.zeros(2), np.zeros(3)]
    opt = fastopt.SGD({"params": p, "lr": 1.0 + i} for i, p in enumerate(params))
    opt.step(iter([np.ones(2), np.ones(3)]))
    assert [p[0] for p in params] == [-1, -2]


@pytest.mark.parametrize("structure", ["by group", "one nest", "by name"])
def test_groups_of_nests(structure):
    params, twins = model(), flat(model())
    groups = [{"params": {"embed": params["embed"]}, "lr": 0.5}, {"params": {k: params[k] for k in ("blocks", "head")}}]
    opts = fastopt.Adam(groups, lr=0.1), fastopt.Adam(twins, lr=0.1)
    grads = nest(gradients())
    if structure == "by group":
        opts[0].step([{"embed": grads.pop("embed")}, grads])
    else:
        opts[0].step(grads if structure == "one nest" else gradients())
    opts[1].step(gradients())
    for name in NAMES[1:]:
        assert_same_bits(flat(params)[name], twins[name], name)
    np.testing.assert_allclose(1 - params["embed"], 5 * (1 - twins["embed"]), rtol=1e-12)


def test_groups_by_patterns_of_a_nest():
    params, twins = model(), model()
    opt = fastopt.SGD(fastopt.groups(params, {"*.w": {"lr": 0.5}, "blocks.*": {"lr": 0.25}}), lr=1.0)
    assert [len(group["params"]) for group in opt.groups] == [2, 2, 2]
    opt.step(nest(gradients()))
    rates = dict(zip(NAMES, (1.0, 0.5, 0.25, 0.25, 0.5, 1.0), strict=True))
    for name, p in flat(params).items():
        np.testing.assert_array_equal(p, flat(twins)[name] - rates[name] * gradients()[name])


SPOILED = {
    "a missing name": (
        lambda g: g["head"]["out"].pop("w"),
        "gradients in 'head' in 'out' must have an entry for every",
    ),
    "an unknown name": (lambda g: g["head"].update(more=None), "gradients in 'head' must be for parameters of this"),
    "a missing block": (lambda g: g.pop("blocks"), "missing 'blocks'"),
    "too few": (
        lambda g: g.update(blocks=g["blocks"][:2]),
        "gradients in 'blocks' must be 3, one per parameter, got 2",
    ),
    "an array for a mapping": (lambda g: g.update(head=np.ones(2)), "gradients in 'head' must be a mapping"),
    "None for a block": (lambda g: g.update(head=None), "gradients in 'head' must be a mapping"),
    "a mapping for a list": (lambda g: g.update(blocks={0: 1}), "gradients in 'blocks' must be a sequence"),
    "a list for an array": (lambda g: g.update(embed=[np.ones(3)]), "gradient of 'embed' must be a numpy.ndarray"),
    "a shape": (lambda g: g["head"].update({7: np.ones(2)}), "gradient of 'head.7' must have its parameter's shape"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_gradients_that_do_not_fit(spoil, message):
    grads = nest(gradients())
    spoil(grads)
    opt = fastopt.Adam(model())
    for call in (opt.step, opt.bind, opt.accumulate):
        with refused(message, opt):
            call(grads)


def test_gradients_nested_too_deep():
    opt = fastopt.SGD([{"params": {"w": np.ones(2)}}])
    deep = np.ones(2)
    for _ in range(5000):
        deep = [deep]
    with refused("nested like the parameters", opt):
        opt.step({"w'": deep})


def test_nests_are_copied():
    params = model()
    opt = fastopt.Adam(params)
    opt.step(nest(gradients()))
    for arrays, other in (copy.deepcopy((params, opt)), pickle.loads(pickle.dumps((params, opt)))):
        opt_bits = [p.copy() for p in flat(params).values()]
        other.step(nest(gradients(2)))
        assert [np.array_equal(a, b) for a, b in zip(flat(params).values(), opt_bits, strict=True)] == [True] * 6
        assert (arrays["embed"] != params["embed"]).all()
        assert list(other.state) == NAMES


# ---- An array replaced in its container ----

CONTAINERS = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "list": lambda entries: [p for _, p in entries],
    "UserList": lambda entries: UserList(p for _, p in entries),
    "deque": lambda entries: deque(p for _, p in entries),
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_replaced_array_is_noticed(kind, count):
    names = [f"p{i}" for i in range(count)]
    mapped = "ict" in kind
    keys = names if mapped else range(count)
    params = CONTAINERS[kind]([(name, np.ones(2)) for name in names])
    grads = CONTAINERS[kind]([(name, np.ones(2)) for name in names])
    opt = fastopt.SGD(params, lr=1.0)
    opt.step(grads)
    for key in keys:
        label = repr(key) if mapped else f"parameter {key}"
        old = params[key]
        params[key] = params[key] - 1
        message = f"{label} must stay the array that the optimizer updates, but the {kind} that it came in"
        for call in (partial(opt.step, grads), partial(opt.step_one, key, np.ones(2))):
            with refused(message, opt):
                call()
        params[key] = old
    opt.step(grads)
    params.clear()
    with refused("no longer holds it: assign to the array in place, or call rebind()", opt):
        opt.step(grads)


@pytest.mark.parametrize(
    "replace",
    [
        lambda g: g.update(embed=g["embed"].copy()),
        lambda g: g["blocks"][0].update(w=None),
        lambda g: g["blocks"].__setitem__(2, list(g["blocks"][2])),
        lambda g: g["blocks"].pop(),
    ],
    ids=["array", "None", "list", "gone"],
)
def test_a_bound_gradient_that_is_replaced_is_noticed(replace):
    params, grads = model(), model()
    grads["blocks"] = [grads["blocks"][0], {}, list(grads["blocks"][2])]
    opt = fastopt.SGD(params, lr=0.5)
    opt.bind(grads)
    opt.step()
    replace(grads)
    before = copy.deepcopy(params)
    with pytest.raises(ValueError, match=r"SGD\.step: gradients that are bound must stay .*bind\(\) again"):
        opt.step()
    assert all((a == b).all() for a, b in zip(flat(params).values(), flat(before).values(), strict=True))
    grads = model()
    opt.bind(grads)
    opt.step()
    assert opt.step_count == 2


def test_a_list_within_itself_is_not_bound():
    grads = [np.ones(2)]
    grads.append(grads)
    opt = fastopt.SGD([np.ones(2), np.ones(2)])
    with pytest.raises(TypeError, match="gradient of parameter 1 must be"):
        opt.bind(grads)


def test_what_does_not_matter_to_a_container():
    """Other entries, another order, the same array again."""
    params = {"other": 1, "w": np.ones(2), "b": np.ones(3)}
    groups = fastopt.groups({"w": params["w"], "b": params["b"]}, {"b": {}})
    opts = [fastopt.SGD({k: params[k] for k in ("w", "b")}), fastopt.SGD(groups)]
    mine = {"w": params["w"], "b": params["b"]}
    opts.append(fastopt.SGD(mine))
    mine["more"] = np.ones(3)
    mine["w"] = mine.pop("w")
    groups[0]["lr"] = 7
    for opt in opts:
        opt.step({"w": np.ones(2), "b": np.ones(3)})


REPLACED = {
    "in a mapping": (lambda p: p.update(embed=p["embed"].copy()), "'embed'"),
    "a list": (lambda p: p.update(blocks=list(p["blocks"])), "'blocks.0.w'"),
    "in a list": (lambda p: p["blocks"].__setitem__(0, dict(p["blocks"][0])), "'blocks.0.w'"),
    "deep within": (lambda p: p["blocks"][0].update(b=np.ones(2)), "'blocks.0.b'"),
    "deeper": (lambda p: p["head"]["out"].update(w=np.ones((2, 2))), "'head.out.w'"),
    "removed": (lambda p: p["head"].pop(7), "'head.7'"),
    "removed with its container": (lambda p: p.pop("head"), "'head.out.w'"),
    "the last of a list": (lambda p: p["blocks"].pop(), "'blocks.2.0'"),
}


@pytest.mark.parametrize("grouped", ["plain", "a group", "patterns", "one of the patterns"])
@pytest.mark.parametrize(("replace", "label"), REPLACED.values(), ids=REPLACED)
def test_replaced_in_a_nest(replace, label, grouped):
    params = model()
    given = {
        "plain": params,
        "a group": [{"params": params}],
        "patterns": (by_pattern := fastopt.groups(params, {"*.w": {}, "blocks.*": {}})),
        "one of the patterns": by_pattern[:2],
    }[grouped]
    opt = fastopt.SGD(given)
    used = list(opt.state)
    grads = gradients()
    opt.step({name: grads[name] for name in used} if grouped != "plain" else nest(grads))
    replace(params)
    if label[1:-1] in used:
        with refused(f"SGD.step: {label} must stay", opt):
            opt.step({name: grads[name] for name in used} if grouped != "plain" else nest(grads))
    else:
        opt.step({name: grads[name] for name in used})


def test_replaced_in_a_group():
    groups = [{"params": np.ones(2)}, {"params": [np.ones(3)], "lr": 0.5}]
    opt = fastopt.SGD(groups)
    groups[1]["params"] = list(groups[1]["params"])
    with refused("parameter 1 must stay", opt):
        opt.step([np.ones(2), [np.ones(3)]])
    opt.rebind(groups)
    groups[0]["params"] = np.ones(2)
    with refused("parameter 0 must stay", opt):
        opt.step([np.ones(2), [np.ones(3)]])


def test_a_view_of_a_mapping_is_watched():
    params = {"w": np.ones(2)}
    opt = fastopt.SGD(MappingProxyType(params))
    params["w"] = np.ones(2)
    with refused("'w' must stay", opt):
        opt.step({"w": np.ones(2)})


def test_what_cannot_be_watched():
    """A consumed iterator has no entries left; a container that makes its entries anew keeps none."""

    class Anew(UserDict):
        def __getitem__(self, key):
            return self.data[key][...]

    data = {"w": np.ones(2)}
    for params in ((p for p in data.values()), data.values(), Anew(data)):
        opt = fastopt.SGD(params, lr=1.0)
        assert opt._table.containers == []
        opt.step({"w": np.ones(2)} if isinstance(params, Anew) else [np.ones(2)])
    assert data["w"].tolist() == [-2, -2]


def test_the_container_of_a_copy_is_the_copied_one():
    params = {"w": np.ones(2), "l": [np.ones(1)]}
    grads = {"w": np.ones(2), "l": [np.ones(1)]}
    opt = fastopt.SGD(params)
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other_params, other = copied((params, opt))
        other_params["l"][0] = np.ones(1)
        with refused("'l.0' must stay", other):
            other.step(grads)
        opt.step(grads)
    params["more"] = lambda: None  # what else is in a container is no part of the copy
    pickle.loads(pickle.dumps(opt)).step(grads)


def test_accumulated_gradients_and_swapped_averages():
    params = [np.ones(2)]
    opt = fastopt.SGD(params, ema_decay=0.5)
    opt.accumulate([np.ones(2)])
    params[0] = np.ones(2)
    with refused("SGD.step: parameter 0 must stay", opt):
        opt.step()
    with refused("SGD.swapped: parameter 0 must stay", opt), opt.swapped("ema"):
        pass
    opt.rebind(params)
    opt.step()
    assert params[0].tolist() == [1 - 1e-3] * 2


def test_catching_up_notices():
    params = [np.ones((4, 2))]
    opt = fastopt.SGD(params, momentum=0.5, catch_up=True)
    opt.step([fastopt.RowGrad([1], np.ones((1, 2)))])
    params[0] = np.ones((4, 2))
    with refused("must stay the array", opt):
        opt.catch_up()


# ---- rebind ----


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("order", ["C", "F", "backwards", "unaligned"])
def test_rebind_goes_on_in_other_memory(case, order):
    """To the bit, whatever the layout before and after, with averages and accumulated and bound gradients."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 5)).astype(np.float32)
    averages = {"ema_decay": 0.5} if case.cls != "Muon" else {}
    for first in ("C", "F"):
        params = {"w": np.array(values, order=first)}
        twin = {"w": np.array(values, order=first)}
        opts = case.make(params, **averages), case.make(twin, **averages)
        g = np.zeros((6, 5), np.float32)
        opts[0].bind({"w": g})
        for step in range(4):
            if step == 2:
                params["w"] = laid_out(params["w"], order)
                opts[0].rebind(params)
            g[...] = rng.standard_normal((6, 5))
            opts[0].step()
            opts[1].step({"w": g})
        assert_same_bits(params["w"], twin["w"])
        assert opts[0].groups[0]["params"][0] is params["w"]
        for letter, buffer in opts[0].state["w"].items():
            assert_same_bits(buffer, opts[1].state["w"][letter], letter)


def laid_out(values, order):
    if order == "backwards":
        return np.array(values[::-1, ::-1])[::-1, ::-1]
    if order == "unaligned":
        array = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array
    return np.array(values, order=order)


def test_rebind_of_nests_groups_and_generators():
    params = model()
    opt = fastopt.SGD([{"params": params, "lr": 0.5}], lr=1.0)
    others = model()
    opt.rebind([{"params": others, "lr": 9.0}])  # of groups, only "params" is read
    opt.step(nest(gradients()))
    assert opt.lr == 0.5
    assert (params["embed"] == 1).all()
    np.testing.assert_array_equal(others["embed"], 1 - 0.5 * gradients()["embed"])
    opt = fastopt.SGD(iter([np.ones(2)]), lr=1.0)
    p = np.zeros(2)
    opt.rebind(iter([p]))
    opt.step([np.ones(2)])
    assert p.tolist() == [-1, -1]
    one = fastopt.SGD(np.ones(2), lr=1.0)
    one.rebind(p)
    one.step(np.ones(2))
    assert p.tolist() == [-2, -2]


def frozen():
    array = np.ones((2, 3))
    array.flags.writeable = False
    return array


STATE = fastopt.Adam({"w": np.ones((2, 3)), "b": np.ones(3)})
BOUND = np.ones(3)
STATE.bind({"w": None, "b": BOUND})
W = np.ones((2, 3))
UNFIT = {
    "a missing name": ({"w": W}, "must be nested and named like ['w', 'b'], got ['w']"),
    "another name": ({"w": W, "c": np.ones(3)}, "must be nested and named like"),
    "another order": ({"b": np.ones(3), "w": W}, "must be nested and named like"),
    "another structure": ([W, np.ones(3)], "must be nested and named like"),
    "groups": ([{"params": {"w": W, "b": np.ones(3)}}], "params must have no groups, got 1"),
    "a shape": ({"w": W, "b": np.ones(4)}, "'b' must have shape (3,) and dtype float64, got (4,) and float64"),
    "a dtype": ({"w": W.astype("f4"), "b": np.ones(3)}, "'w' must have shape (2, 3) and dtype float64, got (2, 3)"),
    "a number": ({"w": W, "b": 1.0}, "'b' must be a numpy.ndarray, got float"),
    "read-only": ({"w": frozen(), "b": np.ones(3)}, "'w' must be writable"),
    "the same memory twice": ({"w": W, "b": W[0]}, "'b' shares memory with 'w'"),
    "the state": ({"w": W, "b": STATE.state["b"]["v"]}, "'b' must not share memory with the optimizer's state"),
    "a bound gradient": ({"w": W, "b": BOUND}, "'b' must not share memory with a bound gradient"),
    "nothing": (None, "NoneType"),
}


@pytest.mark.parametrize(("params", "message"), UNFIT.values(), ids=UNFIT)
def test_rebind_of_what_does_not_fit(params, message):
    held = STATE.groups[0]["params"]
    with refused(message, STATE):
        STATE.rebind(params)
    assert all(a is b for a, b in zip(STATE.groups[0]["params"], held, strict=True))


def test_rebind_at_the_wrong_time():
    p = np.ones(2)
    opt = fastopt.SGD(p, ema_decay=0.5)
    with opt.swapped("ema"), refused("SGD.rebind must wait until the parameters are back", opt):
        opt.rebind(np.ones(2))

    def schedule(step):
        if step:
            opt.rebind(np.ones(2))
        return 0.5

    opt.lr = schedule
    opt.step(np.ones(2))
    with pytest.raises(RuntimeError, match="must not change the same optimizer"):
        opt.step(np.ones(2))
    rows = fastopt.SGD(np.ones((4, 2)), catch_up=True)
    with refused("must be C-contiguous with at least one axis with catch_up", rows):
        rows.rebind(np.ones((2, 4)).T)


def test_after_rebind_gradients_stay_clear_of_the_new_arrays():
    old, new = np.ones(8), np.ones(8)
    opt = fastopt.SGD(old, lr=1.0)
    opt.step(np.ones(8))
    opt.rebind(new)
    with refused("must not share memory with a parameter", opt):
        opt.step(new)
    opt.step(old)
    assert (new == 1).all()
