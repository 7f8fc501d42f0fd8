"""Whatever the shapes, groups, missing gradients, layouts and saves: the oracle's bits."""

import copy
import pickle
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from support import reference
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import BY_ELEMENT, CASES, OPTIONS, PLAIN, RULES, Case, Oracle, named
from support.hyper import declared, may_be_none, parts, range_of
from support.registry import CLASSES
from support.rule import STORAGE

cases = st.sampled_from(PLAIN + OPTIONS)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)


def normal(seed, shape, dtype):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def take(source, n):
    return [next(source) for _ in range(n)]


# ---- Shapes and structures ----


@given(cases, dtypes, seeds, shapes)
def test_any_shape(case, dtype, seed, shape):
    p = np.array(normal(seed, shape, dtype))
    oracle, opt = Oracle(case, p), case.make(p)
    for g in take(gradients(seed, shape, dtype), 3):
        opt.step(g)
        oracle.step(g)
    assert_like(opt, 0, p, oracle)


STRUCTURES = {
    "list": lambda a, b, c: [a, b, c],
    "tuple": lambda a, b, c: (a, b, c),
    "mapping": lambda a, b, c: {"a": a, "b": b, "c": c},
    "groups": lambda a, b, c: [[a, b], [c]],
    "groups of all kinds": lambda a, b, c: [a, {"b": b}, [c]],
    "one group": lambda a, b, c: [{"a": a, "b": b, "c": c}],
}
NAMES = {"mapping": ("a", "b", "c"), "groups of all kinds": (0, "b", 2), "one group": ("a", "b", "c")}


@pytest.mark.parametrize("case", RULES, ids=ids)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures(case, structure):
    build = STRUCTURES[structure]
    params = [normal(i, shape, np.float32) for i, shape in enumerate([(3, 4), (5,), (2, 1, 2)])]
    oracles = [Oracle(case, p) for p in params]
    given_params = build(*params)
    if "group" in structure:
        given_params = [{"params": group} for group in given_params]
    opt = case.make(given_params)
    sources = [gradients(i, p.shape, p.dtype) for i, p in enumerate(params)]
    for _ in range(3):
        grads = [next(source) for source in sources]
        opt.step(build(*grads))
        for oracle, g in zip(oracles, grads, strict=True):
            oracle.step(g)
    names = NAMES.get(structure, (0, 1, 2))
    assert tuple(opt.state) == names
    for name, p, oracle in zip(names, params, oracles, strict=True):
        assert_like(opt, name, p, oracle)


def test_a_mapping_is_matched_by_name():
    """The order of the gradients does not matter, as long as the names are the same."""
    p = {"w": np.zeros(2), "b": np.zeros(3)}
    fastopt.SGD(p, lr=1.0).step({"b": np.full(3, 2.0), "w": np.ones(2)})
    np.testing.assert_array_equal(p["w"], -1)
    np.testing.assert_array_equal(p["b"], -2)


def test_mixed_dtypes():
    single, double = np.ones(5, np.float32), np.ones(5)
    case = named("adam")
    oracles = Oracle(case, single), Oracle(case, double)
    opt = case.make([single, double])
    for g in take(gradients(1, 5, np.float64), 3):
        opt.step([g.astype(np.float32), g])
        oracles[0].step(g.astype(np.float32))
        oracles[1].step(g)
    assert_like(opt, 0, single, oracles[0])
    assert_like(opt, 1, double, oracles[1])


# ---- Groups and hyperparameters ----


def numbers(low, high):
    return st.floats(low, high, allow_subnormal=False)


def values(cls, name, default):
    """Values of a hyperparameter, of a size that a training run may have."""
    if isinstance(default, bool):
        return st.booleans()
    each = [numbers(*range_of(part).usual) for part in parts(cls, name)]
    if may_be_none(cls, parts(cls, name)[0]):
        each[0] |= st.none()
    return st.tuples(*each) if len(each) > 1 else each[0]


OF_DECAY = ("weight_decay_form", "cautious_decay", "corrected_decay")  # which not every rule takes


@st.composite
def overrides(draw, case, later=False):
    """Some hyperparameters of a group, of those that leave the rule as it is; set `later`, not when it is made."""
    cls, settings, given = CLASSES[case.cls], case.settings(), {}
    kept = ("start", "steps", "layout") if later else ("layout",)
    names = [name for name, hyper in declared(case.cls).items() if name in settings and hyper.fixed not in kept]
    for name in sorted(draw(st.sets(st.sampled_from([name for name in names if name not in OF_DECAY])))):
        value = draw(values(case.cls, name, cls.defaults[name]))
        changed = {**settings, **given, name: value}
        if not cls.conflict(changed) and cls.rule_of(changed) == case.rule:
            given[name] = value
    return given


@given(st.data(), cases, dtypes, seeds)
def test_groups(data, case, dtype, seed):
    groups = data.draw(st.lists(overrides(case), min_size=1, max_size=3))
    params = [normal([seed, i], 5, dtype) for i in range(len(groups))]
    oracles = [
        Oracle(Case("group", case.cls, case.rule, {**case.kwargs, **group}), p)
        for p, group in zip(params, groups, strict=True)
    ]
    opt = case.make([{"params": p, **group} for p, group in zip(params, groups, strict=True)])
    for g in take(gradients(seed, 5, dtype), 3):
        opt.step([g] * len(groups))
        for oracle in oracles:
            oracle.step(g)
    for i, (p, oracle) in enumerate(zip(params, oracles, strict=True)):
        assert_like(opt, i, p, oracle)


@given(st.data(), cases, dtypes, seeds)
def test_hyperparameters_set_between_steps(data, case, dtype, seed):
    p = normal(seed, 5, dtype)
    oracle, opt = Oracle(case, p), case.make(p)
    changed = {}
    for g in take(gradients(seed, 5, dtype), 4):
        new = data.draw(overrides(case, later=True))
        changed.update(new)
        for name, value in new.items():
            opt.groups[0][name] = value
        opt.step(g)
        oracle.step(g, **changed)
    assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("case", PLAIN, ids=ids)
def test_the_learning_rate_reads_back(case):
    opt = case.make(np.ones(3))
    assert opt.lr == opt.groups[0]["lr"] == case.settings()["lr"]
    opt.lr = 0.25
    assert opt.lr == opt.groups[0]["lr"] == 0.25


# ---- Missing gradients ----


@given(cases, dtypes, seeds, st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=6))
def test_none_leaves_a_parameter_alone(case, dtype, seed, pattern):
    """Its state and its step count too: the next bias correction uses the parameter's own count."""
    params = [normal([seed, i], 4, dtype) for i in range(3)]
    oracles = [Oracle(case, p) for p in params]
    opt = case.make(params)
    for present, g in zip(pattern, gradients(seed, 4, dtype), strict=False):
        if case.rule in reference.TOGETHER and len(set(present)) > 1:
            with pytest.raises(ValueError, match="must be given like those of its group"):
                opt.step([g if here else None for here in present])
            present = [True] * 3
        opt.step([g if here else None for here in present])
        for oracle, here in zip(oracles, present, strict=True):
            if here:
                oracle.step(g)
    saved = opt.state_dict()
    assert opt.step_count == saved["step_count"] == len(pattern)
    for i, oracle in enumerate(oracles):
        assert_like(opt, i, params[i], oracle)
        assert saved["state"][i]["step"] == oracle.t


def test_each_parameter_carries_its_own_product():
    """At one step count, after steps with other betas."""
    case, values = named("nadam"), normal(1, 4, np.float64)
    params, oracles = [values.copy(), values.copy()], [Oracle(case, values), Oracle(case, values)]
    opt = case.make(params)
    g = next(gradients(1, 4, np.float64))
    for side, betas in enumerate([(0.9, 0.999), (0.5, 0.999)]):
        opt.groups[0]["betas"] = betas
        opt.step([g if i == side else None for i in range(2)])
        oracles[side].step(g, betas=betas)
    opt.step([g, g])
    for i, oracle in enumerate(oracles):
        oracle.step(g, betas=(0.5, 0.999))
        assert_like(opt, i, params[i], oracle)
        assert opt.state[i]["mu_product"] == oracle.state["mu_product"]


# ---- Save and load ----


def reloaded(case, params, opt):
    """Another optimizer of other hyperparameters, which takes everything from the saved one."""
    params = copy.deepcopy(params)
    other = case.make(params, lr=0.5, weight_decay=0.25)
    other.load_state_dict(opt.state_dict())
    return params, other


def reloaded_from_disk(case, params, opt):
    params = copy.deepcopy(params)
    other = case.make(params)
    other.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    return params, other


COPIES = {
    "state_dict": reloaded,
    "pickled state_dict": reloaded_from_disk,
    "deepcopy": lambda case, params, opt: copy.deepcopy((params, opt)),
    "pickle": lambda case, params, opt: pickle.loads(pickle.dumps((params, opt))),
}


@given(st.sampled_from(sorted(COPIES)), cases, dtypes, seeds, st.integers(0, 4), st.booleans())
def test_a_copy_goes_on_to_the_same_bits(how, case, dtype, seed, at, transposed):
    params = {"w": normal(seed, (3, 4), dtype), "b": normal(seed, 4, dtype)}
    if transposed:
        params["w"] = params["w"].T
    opt = case.make(params)
    grads = [{k: next(gradients([seed, i], p.shape, dtype)) for k, p in params.items()} for i in range(6)]
    for i, g in enumerate(grads[:at]):
        opt.step({**g, "b": None} if i == 1 and case.rule not in reference.TOGETHER else g)
    copies, other = COPIES[how](case, params, opt)
    for g in grads[at:]:
        opt.step(g)
        other.step(g)
    for name, p in params.items():
        assert_same_bits(copies[name], p, name)
        for letter, buffer in opt.state[name].items():
            assert_same_bits(other.state[name][letter], buffer, f"{name}: {letter}")
    assert other.step_count == opt.step_count
    assert [dict(group, params=0) for group in other.groups] == [dict(group, params=0) for group in opt.groups]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("cls", ["SGD", "RMSprop"])
def test_a_copy_after_momentum_was_set_to_0(cls, how):
    """The buffer stays although the options alone would no longer ask for one."""
    p = np.ones(3)
    case = Case(cls, cls, "momentum", {"momentum": 0.9})
    opt = case.make(p)
    opt.step(np.ones(3))
    opt.groups[0]["momentum"] = 0.0
    copied, other = COPIES[how](case, p, opt)
    opt.step(np.ones(3))
    other.step(np.ones(3))
    assert_same_bits(copied, p)
    assert_same_bits(other.state[0]["b"], opt.state[0]["b"])


def test_a_copy_does_not_depend_on_the_list_that_was_given():
    params = [np.ones(3), np.ones(2)]
    opt = fastopt.Adam(params)
    params.reverse()
    other = copy.deepcopy(opt)
    assert [p.shape for p in other.groups[0]["params"]] == [(3,), (2,)]


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_a_state_dict_is_plain_data_of_its_own(case):
    """Later steps do not reach into it, and it says which rule, groups, names and counts it is of."""
    p = {"w": np.ones((2, 3)), "b": np.ones(3)}
    opt = case.make(p)
    of_b = 1 if case.rule in reference.TOGETHER else 0
    opt.step({"w": np.ones((2, 3)), "b": np.ones(3) if of_b else None})
    saved = opt.state_dict()
    frozen = copy.deepcopy(saved)
    opt.step({"w": np.full((2, 3), 5.0), "b": np.ones(3)})
    assert repr(saved) == repr(frozen)
    assert (saved["format"], saved["rule"], saved["step_count"]) == (1, case.cls, 1)
    assert [group["params"] for group in saved["groups"]] == [["w", "b"]]
    assert {k: v for k, v in saved["groups"][0].items() if k != "params"} == {
        "lr_scale": 1.0,
        **case.settings(),
        **STORAGE,
    }
    assert {name: row["step"] for name, row in saved["state"].items()} == {"w": 1, "b": of_b}
    assert all(set(row) == {"step", "dtype", *opt.state[name]} for name, row in saved["state"].items())


def test_parameters_are_matched_by_name_on_load():
    """Another order of the same names loads the right state."""
    p = {"w": np.ones(2), "b": np.ones(2)}
    opt = fastopt.Adam(p)
    opt.step({"w": np.ones(2), "b": np.full(2, -3.0)})
    turned = fastopt.Adam({"b": p["b"].copy(), "w": p["w"].copy()})
    turned.load_state_dict(opt.state_dict())
    for name in p:
        assert_same_bits(turned.state[name]["m"], opt.state[name]["m"])


# ---- Slices of one array ----


@given(st.sampled_from(BY_ELEMENT), dtypes, seeds, st.lists(st.integers(0, 3000), max_size=5))
def test_slicing_changes_no_bit(case, dtype, seed, cuts):
    """Views of one base, contiguous ones and interleaved ones."""
    whole = normal(seed, 3000, dtype)
    sliced, woven = whole.copy(), whole.copy()
    parts = np.split(sliced, sorted(cuts))
    opt, opt_sliced, opt_woven = case.make(whole), case.make(parts), case.make([woven[i::3] for i in range(3)])
    for g in take(gradients(seed, 3000, dtype), 2):
        opt.step(g)
        opt_sliced.step(np.split(g, sorted(cuts)))
        opt_woven.step([g[i::3] for i in range(3)])
    assert_same_bits(sliced, whole)
    assert_same_bits(woven, whole)
    for letter in opt.state[0].keys() - set(reference.CARRIES.get(case.rule, ())):
        parts = [opt_sliced.state[i][letter] for i in range(len(cuts) + 1)]
        assert_same_bits(np.concatenate(parts), opt.state[0][letter], letter)


# ---- Layouts ----


def strided(values, order, steps, offset):
    """The values in an array whose axes lie in memory in this order, taken with these steps, offset bytes in.

    Returns the array and the memory it lives in, gaps included.
    """
    extents = [n * abs(step) for n, step in zip(values.shape, steps, strict=True)]
    memory = np.full(offset + prod(extents) * values.itemsize, 77, np.uint8)
    stored = np.ndarray([extents[axis] for axis in order], values.dtype, memory, offset)
    array = stored.transpose(np.argsort(order))[(..., *(slice(None, None, step) for step in steps))]
    assert array.shape == values.shape
    array[...] = values
    return array, memory


LAYOUTS = {
    "contiguous": ((0, 1, 2), (1, 1, 1), 0),
    "Fortran": ((2, 1, 0), (1, 1, 1), 0),
    "transposed": ((0, 2, 1), (1, 1, 1), 0),
    "rows left out": ((0, 1, 2), (1, 2, 1), 0),
    "columns left out": ((0, 1, 2), (1, 1, 3), 0),
    "reversed": ((0, 1, 2), (-1, -1, -1), 0),
    "one axis reversed": ((0, 1, 2), (1, 1, -1), 0),
    "unaligned": ((0, 1, 2), (1, 1, 1), 1),
    "all at once": ((1, 2, 0), (-2, 1, 3), 3),
}


def check_layouts(case, values, grads, pairs, **kwargs):
    """In each pair of layouts the oracle's bits, in parameter, state, and the memory between the elements."""
    oracle = Oracle(case, values)
    for g in grads:
        oracle.step(g)
    for p_layout, g_layout in pairs:
        p, memory = strided(values, *p_layout)
        opt = case.make(p, **kwargs)
        for g in grads:
            opt.step(strided(g, *g_layout)[0])
        assert_like(opt, 0, p, oracle)
        assert memory.tobytes() == strided(oracle.p, *p_layout)[1].tobytes(), (p_layout, g_layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_layouts(case, dtype):
    """More elements than fit in one block, in every pair of layouts."""
    shape = (5, 31, 17)
    grads = take(gradients(4, shape, dtype), 2)
    check_layouts(case, normal(3, shape, dtype), grads, product(LAYOUTS.values(), repeat=2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_on_threads(layout):
    """Threads start in the middle of a strided array."""
    shape = (9, 101, 110)
    grads, one = take(gradients(4, shape, np.float32), 2), LAYOUTS[layout]
    others = LAYOUTS["contiguous"], LAYOUTS["Fortran"]
    pairs = [pair for other in others for pair in ((one, other), (other, one))]
    check_layouts(named("adamw"), normal(3, shape, np.float32), grads, pairs, num_threads=3)


@st.composite
def layouts(draw, ndim):
    steps = draw(st.tuples(*[st.sampled_from((1, 1, -1, 2, -3))] * ndim))
    return draw(st.permutations(range(ndim))), steps, draw(st.sampled_from((0, 0, 1, 4)))


@given(st.data(), st.sampled_from([*RULES, named("adamw")]), dtypes, seeds, shapes, st.booleans())
def test_any_layout(data, case, dtype, seed, shape, stages):
    ndim = len(shape)
    if stages:
        case = Case(case.name, case.cls, case.rule, {**case.kwargs, "weight_decay": 0.1, "maximize": True})
    values, grads = np.array(normal(seed, shape, dtype)), take(gradients(seed, shape, dtype), 2)
    check_layouts(case, values, grads, [(data.draw(layouts(ndim)), data.draw(layouts(ndim)))])


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_broadcast_gradient(case):
    """Read-only, with strides of 0, for a contiguous and for a transposed parameter."""
    row = np.linspace(-1, 1, 60, dtype=np.float32)
    g = np.broadcast_to(row, (50, 60))
    for start in (np.ones((50, 60), np.float32), np.ones((60, 50), np.float32).T):
        p = start.copy(order="K")
        oracle, opt = Oracle(case, p), case.make(p)
        opt.step(g)
        oracle.step(np.ascontiguousarray(g))
        assert_like(opt, 0, p, oracle)


def test_the_gradient_changes_its_layout_between_steps():
    shape = (6, 5, 4)
    values, case = normal(1, shape, np.float64), named("adam")
    oracle, p = Oracle(case, values), values.copy()
    opt = case.make(p)
    for g, layout in zip(gradients(1, shape, np.float64), [*LAYOUTS.values()] * 2, strict=False):
        opt.step(strided(g, *layout)[0])
        oracle.step(g)
    assert_like(opt, 0, p, oracle)


def test_gradients_are_never_written():
    g = np.linspace(-1, 1, 3000, dtype=np.float32)
    before = g.copy()
    for case in CASES:
        case.make(np.ones(3000, np.float32)).step(g)
    assert_same_bits(g, before)
