"""Every mistake is a clear error before the first write: parameters, state and step counts stay as they were."""

import copy
import itertools
import re
from math import inf, nan

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fastopt
from support.asserts import REFUSED, contents, ids, refused, stepped
from support.cases import DEFAULTS, PLAIN
from support.hyper import may_be_none, parts, range_of

# ---- Hyperparameters ----

NOT_NUMBERS = {
    "text": "0.1",
    "complex": 1j,
    "list": [0.1],
    "two numbers": np.array([0.1, 0.2]),
    "array of text": np.array("0.1"),
    "array of objects": np.array(0.1, object),
}
NO_PAIRS = {"number": 0.9, "one number": (0.9,), "four numbers": (0.9,) * 4, "None": None}
NO_FLAGS = {"None": None, "text": "yes", "number": 2}
NO_FORMS = {"another word": "L2", "empty word": "", "number": 2, "list": ["l2"]}


def bad_hyper():
    """Every class and hyperparameter with values it must refuse: class, name, value, message, and an id of these."""
    for cls, defaults in DEFAULTS.items():
        for name, default in defaults.items():

            def row(kind, value, message, cls=cls, name=name, at=""):
                return pytest.param(cls, name, value, f"{name}{at} must be {message}", id=f"{cls}-{name}{at}-{kind}")

            names = parts(cls, name)
            if len(names) > 1:
                for i, part in enumerate(names):
                    outside = {
                        repr(bad): (bad, f"{range_of(part).words}, got {bad!r}") for bad in range_of(part).outside()
                    }
                    for kind, (bad, message) in {**outside, "text": ("0.9", "a number, got '0.9'")}.items():
                        yield row(kind, (*default[:i], bad, *default[i + 1 :]), message, at=f"[{i}]")
                words = "a pair of" if len(names) == 2 else "three"
                for kind, bad in NO_PAIRS.items():
                    yield row(kind, bad, f"{words} numbers, got {bad!r}")
            elif isinstance(default, bool):
                for kind, bad in NO_FLAGS.items():
                    yield row(kind, bad, f"True or False, got {bad!r}")
            elif name == "weight_decay_form":
                for kind, bad in NO_FORMS.items():
                    yield row(kind, bad, "one of l2, decoupled, independent")
            else:
                for bad in range_of(names[0]).outside():
                    yield row(repr(bad), bad, f"{range_of(names[0]).words}, got {bad!r}")
                none = {} if may_be_none(cls, names[0]) else {"None": None}
                for kind, bad in {**NOT_NUMBERS, **none}.items():
                    yield row(kind, bad, f"a number, got {bad!r}")


@pytest.mark.parametrize(("cls", "name", "value", "message"), list(bad_hyper()))
def test_hyperparameters(cls, name, value, message):
    """When an optimizer is made, for all groups or for one, and when a group is changed."""
    p = np.ones(3)
    with refused(message, None, p):
        getattr(fastopt, cls)(p, **{name: value})
    with refused(cls, None, p):
        getattr(fastopt, cls)([{"params": p, name: value}])
    if name == "decoupled_weight_decay":  # in groups: weight_decay_form
        return
    opt = getattr(fastopt, cls)(p)
    with refused(message, opt):
        opt.groups[0][name] = value
    with refused(cls, opt):
        opt.groups[0].update({"lr": 0.5, name: value})


def test_step_sizes_in_order():
    with refused("Rprop: step_sizes must be the smallest and the largest step size, got (0.2, 0.1)"):
        fastopt.Rprop(np.ones(3), step_sizes=(0.2, 0.1))
    opt = fastopt.Rprop(np.ones(3))
    with refused("step_sizes must be", opt):
        opt.groups[0]["step_sizes"] = (0.2, 0.1)


@pytest.mark.parametrize("cls", ["Adam", "NAdam", "RAdam"])
@pytest.mark.parametrize("form", ["l2", "independent"])
def test_two_forms_of_weight_decay(cls, form):
    with refused(f"{cls}: weight_decay_form must be None or decoupled with decoupled_weight_decay, got '{form}'"):
        getattr(fastopt, cls)(np.ones(3), decoupled_weight_decay=True, weight_decay_form=form)
    both = getattr(fastopt, cls)(np.ones(3), decoupled_weight_decay=True, weight_decay_form="decoupled")
    assert both.groups[0]["weight_decay_form"] == "decoupled"


@pytest.mark.parametrize("case", PLAIN, ids=ids)
@pytest.mark.parametrize("value", [-1.0, inf, nan, "0.1", None])
def test_learning_rate(case, value):
    opt = case.make([{"params": np.ones(3)}, {"params": np.ones(2), "lr": 0.5}])
    with refused("lr must be ", opt):
        opt.lr = value


def test_the_message_in_full():
    with pytest.raises(ValueError, match=re.escape("Adam: betas[1] must be in [0, 1), got 1.0") + "$"):
        fastopt.Adam(np.ones(3), betas=(0.9, 1.0))


@pytest.mark.parametrize(
    "kwargs",
    [{"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}],
    ids=["no momentum", "dampening"],
)
def test_nesterov(kwargs):
    with refused("SGD: nesterov"):
        fastopt.SGD(np.ones(3), **kwargs)
    with refused("SGD"):
        fastopt.SGD([{"params": np.ones(3), **kwargs}])


@pytest.mark.parametrize("name", ["momentum", "dampening"])
def test_nesterov_must_keep_its_momentum(name):
    opt = fastopt.SGD(np.ones(3), momentum=0.9, nesterov=True)
    with refused("SGD: nesterov", opt):
        opt.groups[0][name] = {"momentum": 0.0, "dampening": 0.5}[name]


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [("SGD", "momentum", 0.9), ("SGD", "nesterov", True), ("RMSprop", "centered", True), ("Adam", "amsgrad", True)],
)
def test_what_the_state_was_laid_out_for(cls, name, value):
    """Options that need other state buffers cannot come later."""
    opt = getattr(fastopt, cls)(np.ones(3))
    with refused(f"{cls}: ", opt):
        opt.groups[0][name] = value


def test_groups_keep_their_entries():
    opt = fastopt.Adam(np.ones(3))
    group = opt.groups[0]
    with refused("'momentum'", opt):
        group["momentum"] = 0.9
    with refused("params", opt):
        group["params"] = [np.ones(4)]
    for remove in (lambda: group.pop("lr"), group.clear, group.popitem, lambda: group.__delitem__("lr")):
        with refused("Adam", opt):
            remove()


def test_unknown_hyperparameter():
    with pytest.raises(TypeError, match="momentum"):
        fastopt.Adam(np.ones(3), momentum=0.9)
    with refused("'momentum'"):
        fastopt.Adam([{"params": np.ones(3), "momentum": 0.9}])


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_num_threads(value):
    with refused(f"num_threads must be an integer >= 1 or None, got {value!r}"):
        fastopt.SGD(np.ones(3), num_threads=value)
    with refused(f"got {value!r}"):
        fastopt.set_num_threads(value)


# ---- Parameters ----


def read_only():
    p = np.ones(3)
    p.flags.writeable = False
    return p


def endless():
    nested = []
    nested.append(nested)
    return nested


PARAMETERS = {
    "a list of numbers": (lambda: [1.0, 2.0], "float"),
    "a number": (lambda: 1.0, "float"),
    "None": (lambda: None, "NoneType"),
    "a string": (lambda: "w", "str"),
    "a set": (lambda: {1.0}, "set"),
    "nothing": (list, "at least one"),
    "an empty mapping": (dict, "at least one"),
    "a number in a nest": (lambda: {"w": [np.ones(3), {"b": 1.0}]}, "'w.1.b' must be a numpy.ndarray, got float"),
    "names in a nest that are not strings": (lambda: {"w": {None: np.ones(3)}}, "None"),
    "one name in two ways": (lambda: {"a": {"b": np.ones(3)}, "a.b": np.ones(3)}, "'a.b' twice"),
    "a list in itself": (endless, "at most 64 deep"),
    "an endless generator": (itertools.count, "parameter 0 must be a numpy.ndarray, got int"),
    "an exhausted generator": (lambda: iter([]), "at least one"),
    "read-only": (lambda: [np.ones(3), read_only()], "parameter 1 must be writable"),
    "broadcast": (lambda: np.broadcast_to(np.ones(3), (2, 3)), "writable"),
    "bool": (lambda: np.ones(3, bool), "bool"),
    "integers": (lambda: {"w": np.ones(3, np.int64)}, "'w' must have dtype float16, bfloat16, float32 or float64"),
    "complex": (lambda: np.ones(3, complex), "complex128"),
    "objects": (lambda: np.ones(3, object), "object"),
    "long double": (lambda: np.ones(3, np.longdouble), np.dtype(np.longdouble).name)
    if np.dtype(np.longdouble) != np.dtype(float)
    else (lambda: np.ones(3, "c8"), "complex64"),
    "other byte order": (lambda: np.ones(3, np.dtype(np.float32).newbyteorder()), "byte order"),
    "masked": (lambda: np.ma.masked_array([1.0, 2.0], [True, False]), "MaskedArray"),
    "names that are not strings": (lambda: {(1, 2): np.ones(3)}, "(1, 2)"),
    "a group without params": (lambda: [{"params": np.ones(3)}, {"lr": 0.1}], '"params"'),
    "a group that is an array": (lambda: [{"params": np.ones(3)}, np.ones(3)], '"params"'),
    "an array that is a group": (
        lambda: [np.ones(3), {"params": np.ones(3)}],
        'params[0] must be a mapping with "params"',
    ),
    "one name twice": (lambda: [{"params": {"w": np.ones(3)}}, {"params": {"w": np.ones(2)}}], "'w' twice"),
}


@pytest.mark.parametrize(("params", "message"), PARAMETERS.values(), ids=PARAMETERS)
def test_parameters(params, message):
    with refused(message):
        fastopt.SGD(params())
    with pytest.raises(REFUSED, match=r"^SGD"):
        fastopt.SGD(params())


BASE = np.arange(24.0)
OVERLAPPING = {
    "the same array twice": [BASE, BASE],
    "two arrays of the same memory": [BASE[:], BASE[:]],
    "an end and a start": [BASE[:10], BASE[9:]],
    "inside another": [BASE, BASE[5:6]],
    "interleaved, meeting once": [BASE[::2], BASE[::3]],
    "a row and a column": [BASE.reshape(4, 6)[1], BASE.reshape(4, 6)[:, 2]],
    "part of an element": [BASE[:2], BASE.view(np.float32)[3:4]],
    "third and first": [BASE[:4], BASE[8:], BASE[3:5]],
}
DISJOINT = {
    "halves": lambda base: [base[:12], base[12:]],
    "interleaved": lambda base: [base[::2], base[1::2]],
    "columns": lambda base: [base.reshape(4, 6)[:, 1], base.reshape(4, 6)[:, 4:]],
    "blocks": lambda base: [base.reshape(4, 6)[:2, :3], base.reshape(4, 6)[:2, 3:], base.reshape(4, 6)[2:]],
    "backwards": lambda base: [base[:12][::-1], base[12:][::-1]],
    "nothing of it": lambda base: [base, base[3:3]],
}


@pytest.mark.parametrize("arrays", OVERLAPPING.values(), ids=OVERLAPPING)
def test_parameters_that_overlap(arrays):
    for params in (arrays, {f"p{i}": p for i, p in enumerate(arrays)}, [{"params": p} for p in arrays]):
        with refused("must have its own memory", None, BASE):
            fastopt.SGD(params)


@pytest.mark.parametrize("views", DISJOINT.values(), ids=DISJOINT)
def test_views_of_one_array(views):
    """Views that do not overlap are parameters like any other."""
    base = np.zeros(24)
    arrays = views(base)
    fastopt.SGD(arrays, lr=1.0).step([np.ones(p.shape) for p in arrays])
    assert all((p == -1).all() for p in arrays)
    assert base.sum() == -sum(p.size for p in arrays)


@pytest.mark.parametrize(
    ("shape", "strides"), [((4,), (0,)), ((3, 3), (8, 8)), ((3, 2), (8, 16)), ((4,), (4,)), ((2, 2), (0, 8))]
)
def test_a_parameter_that_overlaps_itself(shape, strides):
    base = np.arange(10.0)
    with refused("overlap itself", None, base):
        fastopt.SGD(as_strided(base, shape, strides))


def test_a_parameter_that_changed_since():
    """Its memory, shape or flags are the optimizer's business as long as that lives."""
    g = np.ones(6)
    for change in (lambda p: p.setflags(write=False), lambda p: setattr(p, "shape", (2, 3))):
        p = np.ones(6)
        opt = fastopt.Adam([p])
        opt.step([g])
        change(p)
        with refused("Adam.step: parameter 0", opt):
            opt.step([g if p.shape == (6,) else g.reshape(2, 3)])


# ---- Gradients ----

W, B = np.ones((2, 3)), np.ones(3)
GRADIENTS = {
    "nothing": (None, "gradients"),
    "one missing": ({"w": W}, "'b'"),
    "one too many": ({"w": W, "b": B, "c": B}, "'c'"),
    "another name": ({"w": W, "c": B}, "'b'"),
    "a sequence": ([W, B], "list"),
    "an array": (W, "ndarray"),
    "shape": ({"w": W, "b": np.ones(4)}, "gradient of 'b' must have its parameter's shape (3,), got (4,)"),
    "transposed": (
        {"w": np.ones((3, 2)), "b": B},
        "gradient of 'w' must have its parameter's shape (2, 3), got (3, 2)",
    ),
    "more axes": ({"w": W, "b": np.ones((1, 3))}, "(1, 3)"),
    "a scalar": ({"w": W, "b": np.ones(())}, "()"),
    "dtype": (
        {"w": W, "b": B.astype(np.longdouble)},
        "must have dtype float16, bfloat16, float32 or float64 in native byte order",
    ),
    "integers": ({"w": W, "b": np.ones(3, int)}, "int64"),
    "other byte order": ({"w": W, "b": B.astype(B.dtype.newbyteorder())}, "gradient of 'b' must have dtype"),
    "a list": (
        {"w": W, "b": [1.0, 1.0, 1.0]},
        "gradient of 'b' must be a numpy.ndarray, a tensor, a RowGrad or None, got list",
    ),
    "a number": ({"w": W, "b": 1.0}, "float"),
    "masked": ({"w": W, "b": np.ma.masked_array(B, [True, False, False])}, "MaskedArray"),
}


@pytest.mark.parametrize(("grads", "message"), GRADIENTS.values(), ids=GRADIENTS)
def test_gradients(grads, message):
    opt = stepped()
    with refused(message, opt):
        opt.step(grads)
    with pytest.raises(REFUSED, match=r"^Adam\.step: "):
        opt.step(grads)
    opt.step({"w": W, "b": B})
    assert opt.step_count == 2


SEQUENCES = {
    "too few": (lambda: [np.ones(3), np.ones(2)], [B], "2"),
    "too many": (lambda: [np.ones(3), np.ones(2)], [B, np.ones(2), B], "2"),
    "a mapping for a sequence": (lambda: [np.ones(3)], {0: B}, "dict"),
    "an array for a sequence": (lambda: [np.ones(3)], B, "ndarray"),
    "an array of rows for a sequence": (lambda: [np.ones(3), np.ones(3)], np.ones((2, 3)), "ndarray"),
    "a sequence for an array": (lambda: np.ones(3), [B], "list"),
    "text for a sequence": (lambda: [np.array(1.0)], "p", "str"),
    "bytes for a sequence of numbers": (lambda: [np.array(1.0)], b"p", "bytes"),
    "a mapping for an array": (lambda: np.ones(3), {"w": B}, "dict"),
    "a nested sequence": (lambda: [np.ones(3)], [[B]], "list"),
    "a group missing": (lambda: [{"params": np.ones(3)}, {"params": np.ones(3)}], [B], "2"),
    "no groups": (lambda: [{"params": np.ones(3)}], B, "ndarray"),
    "an array for a group of one": (lambda: [{"params": [np.ones(3)]}], [B], "group 0"),
    "a group too short": (lambda: [{"params": B.copy()}, {"params": [B.copy(), B.copy()]}], [B, [B]], "group 1"),
}


@pytest.mark.parametrize(("params", "grads", "message"), SEQUENCES.values(), ids=SEQUENCES)
def test_gradient_structures(params, grads, message):
    opt = fastopt.Adam(params())
    with refused(message, opt):
        opt.step(grads)
    with pytest.raises(REFUSED, match=r"^Adam\.step: "):
        opt.step(grads)


@pytest.mark.parametrize("first", [None, np.ones(8)], ids=["first step", "later step"])
@pytest.mark.parametrize(
    "overlap", ["itself", "its view", "its part", "backwards", "the other", "state", "other state"]
)
def test_gradients_that_overlap(overlap, first):
    """With a parameter or with the state, of the gradient's own parameter or of another."""
    memory = np.arange(16.0)
    p, q = memory[:8], memory[8:]
    opt = fastopt.Adam([p, q])
    opt.step([first, first])
    g = {
        "itself": p,
        "its view": p[:],
        "its part": memory[4:12],
        "backwards": p[::-1],
        "the other": q,
        "state": opt.state[0]["m"],
        "other state": opt.state[1]["v"][::-1],
    }[overlap]
    with refused("Adam.step: gradient of parameter 0 must not share memory", opt, memory):
        opt.step([g, np.ones(8)])


@pytest.mark.parametrize(
    "harmless",
    [lambda memory: memory[7::-1], lambda memory: np.broadcast_to(memory[7:8], 8), lambda memory: memory[7:8]],
    ids=["backwards", "broadcast", "shorter"],
)
def test_an_overlapping_gradient_at_the_address_of_a_harmless_one(harmless):
    """A gradient at a known address may reach other memory than the one before it."""
    memory = np.arange(20.0)
    opt = fastopt.SGD([memory[8:16], np.ones(1)])
    g = harmless(memory)
    opt.step([g, None] if g.size == 8 else [None, g])
    with refused("share memory", opt, memory):
        opt.step([memory[7:15], None])


def test_gradients_may_overlap_each_other():
    p, q, g = np.zeros(3), np.zeros(3), np.ones(3)
    fastopt.SGD([p, q], lr=1.0).step([g, g[::-1]])
    np.testing.assert_array_equal([p, q], -1)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("at", [0, 1500, 2999])
def test_gradients_that_are_not_finite(bad, strided, at):
    """Where asked for, a step with one is refused, or left out; the damage may be anywhere."""
    good, g = np.ones(3000), np.ones(6000)[::2] if strided else np.ones(3000)
    g[at] = bad
    opt = fastopt.Adam({"w": np.ones(3000), "b": np.ones(3000)}, nonfinite="raise")
    opt.step({"w": good, "b": good})
    with refused("Adam.step: gradients must be finite, got NaN or infinity in the gradient of 'b'", opt):
        opt.step({"w": good, "b": g})
    opt = fastopt.Adam({"w": np.ones(3000), "b": np.ones(3000)}, nonfinite="skip")
    opt.step({"w": good, "b": good})
    before = contents([opt.groups[0]["params"], opt.state_dict()["state"]])
    opt.step({"w": good, "b": g})
    assert contents([opt.groups[0]["params"], opt.state_dict()["state"]]) == before
    assert opt.skipped_steps == 1


def test_nonfinite():
    with refused("Adam: nonfinite must be one of propagate, raise, skip, got 'ignore'"):
        fastopt.Adam(np.ones(3), nonfinite="ignore")


# ---- load_state_dict ----


def change(path, value):
    """A change of the entry at path, or its removal."""

    def apply(saved):
        *way, last = path
        for key in way:
            saved = saved[key]
        if value is None:
            del saved[last]
        else:
            saved[last] = value

    return apply


SAVED = {
    "no format": (change(["format"], None), "'format'"),
    "a later format": (change(["format"], 99), "99"),
    "another rule": (change(["rule"], "SGD"), "'SGD'"),
    "no step count": (change(["step_count"], None), "'step_count'"),
    "a negative step count": (change(["step_count"], -1), "-1"),
    "a step count of 1.5": (change(["step_count"], 1.5), "1.5"),
    "unknown entry": (change(["colour"], "red"), "'colour'"),
    "no groups": (change(["groups"], None), "'groups'"),
    "fewer groups": (change(["groups"], []), "groups"),
    "groups that are a number": (change(["groups"], 3), "groups"),
    "a group that is a number": (change(["groups", 0], 3), "int"),
    "parameters of another name": (change(["groups", 0, "params"], ["w", "c"]), "'c'"),
    "parameters that are a number": (change(["groups", 0, "params"], 3), "params"),
    "no learning rate": (change(["groups", 0, "lr"], None), "'lr'"),
    "unknown hyperparameter": (change(["groups", 0, "momentum"], 0.9), "'momentum'"),
    "a bad hyperparameter": (change(["groups", 0, "lr"], -1.0), "lr must be finite and >= 0, got -1.0"),
    "another option": (change(["groups", 0, "amsgrad"], True), "amsgrad"),
    "state that is a number": (change(["state"], 3), "int"),
    "a missing parameter": (change(["state", "b"], None), "'b'"),
    "an unknown parameter": (change(["state", "c"], {}), "'c'"),
    "a missing buffer": (change(["state", "b", "v"], None), "'v'"),
    "an unknown buffer": (change(["state", "b", "u"], np.ones(3)), "'u'"),
    "another shape": (change(["state", "b", "v"], np.ones(4)), "(4,)"),
    "a shape that broadcasts": (change(["state", "w", "v"], np.ones(3)), "(3,)"),
    "another dtype": (change(["state", "b", "v"], np.ones(3, np.float32)), "float32"),
    "a list": (change(["state", "b", "v"], [0.0, 0.0, 0.0]), "list"),
    "no step": (change(["state", "b", "step"], None), "'step'"),
    "a negative step": (change(["state", "b", "step"], -1), "-1"),
    "a step that is a string": (change(["state", "b", "step"], "1"), "'1'"),
    "a step beyond 64 bits": (change(["state", "b", "step"], 2**64), str(2**64)),
}


@pytest.mark.parametrize(("spoil", "message"), SAVED.values(), ids=SAVED)
def test_load_state_dict(spoil, message):
    """The damage may come last: what was right before it is not taken over either."""
    saved = stepped().state_dict()
    saved["groups"][0]["lr"] = 0.25
    spoil(saved)
    opt = fastopt.Adam({"w": np.ones((2, 3)), "b": np.ones(3)})
    with refused(message, opt):
        opt.load_state_dict(saved)
    with pytest.raises(REFUSED, match=r"^Adam\.load_state_dict: "):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("garbage", [None, 3, "text", [], {}, np.ones(3), [("format", 1)]], ids=repr)
def test_load_garbage(garbage):
    opt = stepped()
    with refused("Adam.load_state_dict: ", opt):
        opt.load_state_dict(garbage)


@pytest.mark.parametrize("case", PLAIN, ids=ids)
def test_load_the_state_of_another_class(case):
    saved = case.make(np.ones(3)).state_dict()
    for other in PLAIN:
        if other.cls != case.cls:
            opt = other.make(np.ones(3))
            with refused(case.cls, opt):
                opt.load_state_dict(copy.deepcopy(saved))


@pytest.mark.parametrize("value", ["1", None, np.ones(3)], ids=["string", "None", "array"])
def test_load_a_carried_number(value):
    opt = fastopt.NAdam(np.ones(3))
    saved = opt.state_dict()
    saved["state"][0]["mu_product"] = value
    with refused("'mu_product'", opt):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("make", [fastopt.Adagrad, fastopt.Yogi])
def test_what_state_was_made_from(make):
    """Set later it would be shown and do nothing; a state that is loaded brings what it was made from."""
    opt = make(np.ones(3), initial_accumulator_value=0.5)
    with pytest.raises(ValueError, match=r"initial_accumulator_value must stay 0\.5, since the state was made by it"):
        opt.groups[0]["initial_accumulator_value"] = 0.25
    other = make(np.ones(3), initial_accumulator_value=0.25)
    other.load_state_dict(opt.state_dict())
    assert other.groups[0]["initial_accumulator_value"] == 0.5
