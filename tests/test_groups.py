"""fastopt.groups: parameter groups from patterns of names."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import schedules
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids, refused
from support.cases import RULES

NAMES = ["embed.table", "block.0.w", "block.0.bias", "block.1.w", "block.1.bias", "head.w", "head.bias"]


def model(names=NAMES):
    return {name: np.full(3, float(i)) for i, name in enumerate(names)}


def names_of(found):
    return [list(group["params"]) for group in found]


def test_a_group_for_each_pattern_then_the_rest():
    params = model()
    found = fastopt.groups(params, {"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 1e-2}})
    assert names_of(found) == [
        ["block.0.bias", "block.1.bias", "head.bias"],
        ["head.w"],
        ["embed.table", "block.0.w", "block.1.w"],
    ]
    assert [{key: value for key, value in group.items() if key != "params"} for group in found] == [
        {"weight_decay": 0.0},
        {"lr": 1e-2},
        {},
    ]
    for group in found:
        for name, array in group["params"].items():
            assert array is params[name]
    assert list(params) == NAMES


def test_the_first_pattern_wins():
    params = model()
    assert names_of(fastopt.groups(params, {"head.*": {}, "*.bias": {}}))[:2] == [
        ["head.w", "head.bias"],
        ["block.0.bias", "block.1.bias"],
    ]
    assert names_of(fastopt.groups(params, {"*": {"lr": 0.1}})) == [NAMES]
    assert names_of(fastopt.groups(params, {})) == [NAMES]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block.?.w", ["block.0.w", "block.1.w"]),
        ("block.[0]*", ["block.0.w", "block.0.bias"]),
        ("block.[!0].w", ["block.1.w"]),
        ("block.[0-9].bias", ["block.0.bias", "block.1.bias"]),
        ("*.w", ["block.0.w", "block.1.w", "head.w"]),
        ("head.w", ["head.w"]),
        ("*b*d*", ["embed.table"]),
    ],
)
def test_glob_characters(pattern, expected):
    assert names_of(fastopt.groups(model(), {pattern: {}}))[0] == expected


def test_names_are_taken_literally():
    """Dots, slashes, brackets and line feeds in names; case counts; a dot is no wildcard."""
    names = ["a.b", "aXb", "A.b", "layers[0].w", "x/y/z", "new\nline"]
    params = model(names)
    expected = {"a.b": "a.b", "A.*": "A.b", "layers[[]0].w": "layers[0].w", "x*z": "x/y/z", "new*line": "new\nline"}
    for pattern, name in expected.items():
        assert names_of(fastopt.groups(params, {pattern: {}}))[0] == [name]
    with pytest.raises(ValueError, match=r"pattern 'layers\[0\].w' must match"):  # that is layers0.w
        fastopt.groups(params, {"layers[0].w": {}})


BAD = [
    (([np.ones(3)], {}), TypeError, "groups: params must be a mapping of name to array, got list"),
    ((np.ones(3), {}), TypeError, "groups: params must be a mapping of name to array, got ndarray"),
    (({}, {}), ValueError, "groups: params must hold at least one array, got none"),
    (({0: np.ones(3)}, {}), TypeError, "groups: params must have names that are str, got 0"),
    (({"block": {0: np.ones(3)}, 1: np.ones(2)}, {"*": {}}), TypeError, "names that are str, got 1"),
    ((model(), [("*", {})]), TypeError, "groups: patterns must be a mapping of pattern to hyperparameters, got"),
    ((model(), {3: {}}), TypeError, "groups: patterns must be str, got 3"),
    ((model(), {"*": 0.1}), TypeError, r"groups: overrides of '\*' must be a mapping, got 0.1"),
    ((model(), {"*": {"params": []}}), ValueError, r"groups: overrides of '\*' must be hyperparameters, got 'params'"),
    (
        (model(), {"*.biass": {}}),
        ValueError,
        r"pattern '\*.biass' must match a name that is left, got none of \['embed",
    ),
    ((model(), {"": {}}), ValueError, "pattern '' must match a name that is left, got none of"),
    ((model(), {"*.BIAS": {}}), ValueError, r"pattern '\*.BIAS' must match a name that is left, got none of"),
    (
        (model(), {"*": {}, "head.*": {"lr": 1.0}}),
        ValueError,
        r"pattern 'head.\*' must match a name that is left, but earlier patterns have \['head.w', 'head.bias'\]",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[message[:60] for *_, message in BAD])
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        fastopt.groups(*arguments)


def test_overrides_are_checked_by_the_optimizer():
    with pytest.raises(
        ValueError, match=r"Adam: params\[0\] can override .*, got 'weightdecay'; did you mean 'weight_decay"
    ):
        fastopt.Adam(fastopt.groups(model(), {"*.bias": {"weightdecay": 0.0}}))
    with pytest.raises(ValueError, match=r"Adam: groups\[0\]: weight_decay must be finite and >= 0, got -1"):
        fastopt.Adam(fastopt.groups(model(), {"*.bias": {"weight_decay": -1}}))
    with pytest.raises(TypeError, match=r"groups: params: 'block\.0' must be a numpy.ndarray, got float"):
        fastopt.groups({"block": {"0": 1.0}}, {"block*": {}})
    with pytest.raises(ValueError, match=r"groups: names of params must be unique, got 'a\.b' twice"):
        fastopt.groups({"a": {"b": np.ones(3)}, "a.b": np.ones(3)}, {"*": {}})


def test_nothing_is_shared_with_what_was_given():
    overrides = {"lr": 0.5}
    found = fastopt.groups(model(), {"*.bias": overrides})
    overrides["lr"] = 0.1
    assert found[0]["lr"] == 0.5
    found[0]["lr"] = 0.2
    assert overrides == {"lr": 0.1}


@given(st.permutations(["*.bias", "block.*", "*.w", "head.?*"]), st.integers(1, 4))
def test_every_parameter_is_in_one_group(patterns, count):
    params, taken = model(), []
    for pattern in patterns[:count]:
        matched = fastopt.groups(params, {pattern: {}})[0]["params"]
        if set(matched) <= set(taken):
            with pytest.raises(ValueError, match="must match a name that is left, but earlier patterns have"):
                fastopt.groups(params, {pattern: {} for pattern in patterns[:count]})
            return
        taken += matched
    found = fastopt.groups(params, {pattern: {} for pattern in patterns[:count]})
    assert sorted(name for group in found for name in group["params"]) == sorted(NAMES)
    assert all(names_of(found))


@pytest.mark.parametrize("structure", ["one mapping", "by group"])
def test_a_step_is_that_of_groups_by_hand(structure):
    """Hyperparameters of each group, schedules among them; gradients in one mapping or one per group."""
    falling = schedules.linear(0.1, 0.01, 4)
    params, twins = model(), model()
    patterns = {"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": falling, "betas": (0.5, schedules.constant(0.9))}}
    opt = fastopt.AdamW(fastopt.groups(params, patterns), lr=1e-2, weight_decay=0.1)
    by_hand = {
        name: fastopt.AdamW(
            {name: twin},
            lr=falling if name == "head.w" else 1e-2,
            betas=(0.5, 0.9) if name == "head.w" else (0.9, 0.999),
            weight_decay=0.0 if name.endswith("bias") else 0.1,
        )
        for name, twin in twins.items()
    }
    rng = np.random.default_rng(1)
    for _ in range(6):
        grads = {name: rng.standard_normal(3) for name in reversed(NAMES)}
        opt.step(
            grads
            if structure == "one mapping"
            else [{n: grads[n] for n in group["params"]} for group in fastopt.groups(params, patterns)]
        )
        for name, one in by_hand.items():
            one.step({name: grads[name]})
    for name in NAMES:
        assert_same_bits(params[name], twins[name], name)
    assert sorted(opt.state) == sorted(NAMES)


def test_one_mapping_must_fit():
    opt = fastopt.SGD(fastopt.groups(model(), {"*.bias": {}}))
    grads = {name: np.ones(3) for name in NAMES}
    for change, message in (
        (lambda g: g.pop("head.w"), "missing 'head.w'"),
        (lambda g: g.update(more=np.ones(3)), "unknown 'more'"),
    ):
        bad = dict(grads)
        change(bad)
        with pytest.raises(ValueError, match=message):
            opt.step(bad)
    assert opt.step_count == 0


# ---- One schedule, scaled for each group ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("lr", [0.01, schedules.linear(0.01, 0.002, 4)], ids=["number", "schedule"])
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_a_scaled_rate_is_that_rate(case, lr, dtype):
    """To the bit: in the rule, in decay that the rate scales, and in what state begins from."""
    start = np.linspace(-1, 1, 5).astype(dtype)
    scaled, by_hand, plain = start.copy(), start.copy(), start.copy()
    rate = schedules.scale(lr, 0.25) if callable(lr) else lr * 0.25
    decay = {"weight_decay": 0.1, "weight_decay_form": "decoupled"} if case.rule[:12] != "schedulefree" else {}
    opt = case.make([{"params": scaled, "lr_scale": 0.25}, {"params": plain}], **{**case.kwargs, "lr": lr, **decay})
    twin = case.make([{"params": by_hand}], **{**case.kwargs, "lr": rate, **decay})
    source = gradients(1, 5, dtype)
    for _ in range(5):
        g = next(source)
        opt.step([g, g])
        twin.step([g])
    assert_same_bits(scaled, by_hand)
    assert opt.lr == opt.groups[0]["lr"] if not callable(lr) else opt.lr == lr(5)
    assert (plain != scaled).any()


def test_scales_by_hand():
    """SGD from 0 along gradients of 1: the sums of lr(t) * lr_scale(t)."""
    params = [np.zeros(1) for _ in range(4)]
    opt = fastopt.SGD(
        [
            {"params": params[0]},
            {"params": params[1], "lr_scale": 0.5},
            {"params": params[2], "lr_scale": lambda t: 0.0 if t == 0 else 2.0},
            {"params": params[3], "lr_scale": 0.0, "lr": 1.0},
        ],
        lr=lambda t: 1.0 + t,
    )
    for _ in range(3):
        opt.step([np.ones(1)] * 4)
    assert [p[0] for p in params] == [-6.0, -3.0, -10.0, 0.0]
    opt.groups[1]["lr_scale"] = 4
    opt.lr = 0.5
    opt.step([np.ones(1)] * 4)
    assert [p[0] for p in params] == [-6.5, -5.0, -11.0, 0.0]
    assert [group["lr"] for group in opt.groups] == [0.5] * 4


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"lr_scale": -1}, ValueError, r"SGD: groups\[0\]: lr_scale must be finite and >= 0, got -1"),
        ({"lr_scale": "2"}, TypeError, r"SGD: groups\[0\]: lr_scale must be a number, got '2'"),
        ({"lr_scale": lambda t: np.nan}, ValueError, r"groups\[0\] after 0 steps: lr_scale must be finite"),
        ({"lr": 1e200, "lr_scale": 1e200}, ValueError, r"groups\[0\]: lr \* lr_scale must be finite and >= 0, got inf"),
    ],
)
def test_bad_scales(group, error, message):
    with pytest.raises(error, match=message):
        fastopt.SGD([{"params": np.ones(2), **group}])


def test_a_scale_too_large_later():
    p = np.zeros(1)
    opt = fastopt.SGD([{"params": p, "lr": lambda t: 1e200 if t else 1.0, "lr_scale": 1e200}])
    opt.step([np.ones(1)])
    before = p.copy()
    with pytest.raises(ValueError, match=r"groups\[0\] after 1 steps: lr \* lr_scale must be finite and >= 0, got inf"):
        opt.step([np.ones(1)])
    assert_same_bits(p, before)
    with pytest.raises(ValueError, match="lr_scale must be a number with catch_up"):
        fastopt.SGD([{"params": p, "lr_scale": lambda t: 1.0}], momentum=0.9, catch_up=True)


# ---- Keys of the user's own ----

OWN = {"name": "head", "tag": np.int64(3), "layer": 7, "frozen": np.False_, "decayed": None, "depth": 0.5}


@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_own_keys_are_kept_and_saved(way, tmp_path):
    pytest.importorskip("safetensors", reason="saving needs safetensors")
    opt = fastopt.Adam(
        [{"params": np.ones(2), **OWN}, {"params": np.ones(3), "name": "body"}], lr=schedules.cosine(1, 9)
    )
    opt.step([np.ones(2), np.ones(3)])
    assert {key: opt.groups[0][key] for key in OWN} == OWN
    assert type(opt.groups[0]["tag"]) is int
    opt.groups[0].update(name="top", lr=0.5)
    opt.groups[0]["tag"] = 4
    if way == "deepcopy":
        other = copy.deepcopy(opt)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(opt))
    else:
        other = fastopt.Adam(
            [{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(3), "label": "x"}], lr=schedules.cosine(1, 9)
        )
        if way == "file":
            fastopt.save(tmp_path / "a", opt)
            fastopt.load(tmp_path / "a", other)
        else:
            other.load_state_dict(opt.state_dict())
    assert {key: other.groups[0][key] for key in OWN} == {**OWN, "name": "top", "tag": 4}
    assert other.groups[1]["name"] == "body"
    assert "label" not in other.groups[1]
    assert other.state_dict()["groups"] == opt.state_dict()["groups"]
    with pytest.raises(ValueError, match=r"Adam: groups\[1\]: keys must be among lr, .*, name, got 'tag'"):
        opt.groups[1]["tag"] = 4
    with pytest.raises(TypeError, match=r"hyperparameters can be set, but not added or removed"):
        del opt.groups[0]["name"]
    with pytest.raises(ValueError, match=r"keys must be among lr, .*, got 'params'"):
        opt.groups[0]["params"] = (np.ones(2),)


USUAL = "name tag tags label labels layer layers layer_id depth stage block kind type group index id role note comment"
USUAL += " frozen trainable path module param_names initial_lr base_lr embedding head body bias norm epoch rank"


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Muon", "Adafactor", "Rprop", "LARS", "Prodigy", "SM3"])
def test_usual_keys_are_taken(rule):
    own = dict.fromkeys(USUAL.split(), 1)
    opt = getattr(fastopt, rule)([{"params": np.ones((2, 2)), **own}])
    assert own.items() <= opt.groups[0].items()


@pytest.mark.parametrize(
    ("rule", "key", "word"),
    [
        ("Adam", "weigth_decay", "weight_decay"),
        ("Adam", "weight-decay", "weight_decay"),
        ("Adam", "WeightDecay", "weight_decay"),
        ("Adam", "wd", "weight_decay"),
        ("Adam", "learning_rate", "lr"),
        ("Adam", "LR", "lr"),
        ("Adam", "lrs", "lr"),
        ("Adam", "beta", "betas"),
        ("Adam", "beta1", "betas"),
        ("Adam", "b1", "betas"),
        ("Adam", "epsilon", "eps"),
        ("Adam", "maximise", "maximize"),
        ("SGD", "momentun", "momentum"),
        ("SGD", "nestrov", "nesterov"),
        ("SGD", "lr_mult", "lr_scale"),
        ("SGD", "scale", "lr_scale"),
        ("SGD", "clipnorm", "clip_norm"),
    ],
)
def test_misspelt_hyperparameters_are_refused(rule, key, word):
    with pytest.raises(
        ValueError, match=rf"{rule}: params\[0\] can override lr, .*, got '{key}'; did you mean '{word}'"
    ):
        getattr(fastopt, rule)([{"params": np.ones(2), key: 0.1}])


def test_own_keys_hold_plain_values():
    for value in ([1, 2], {"a": 1}, np.ones(2), object(), 1j):
        with pytest.raises(TypeError, match=r"params\[0\]: tag must be a str, a number, True, False or None"):
            fastopt.SGD([{"params": np.ones(2), "tag": value}])
    with pytest.raises(ValueError, match="note must be an integer that 64 bits hold, got 16610 bits"):
        fastopt.SGD([{"params": np.ones(2), "note": 10**5000}])
    with pytest.raises(TypeError, match="keys of your own must be str, got 3"):
        fastopt.SGD([{"params": np.ones(2), 3: "x"}])
    opt = fastopt.SGD([{"params": np.ones(2), "tag": "x"}])
    with pytest.raises(TypeError, match=r"groups\[0\]: tag must be a str"):
        opt.groups[0]["tag"] = [1]
    state = opt.state_dict()
    state["groups"][0]["tag"] = [1]
    with pytest.raises(TypeError, match=r"groups\[0\]: tag must be a str"):
        opt.load_state_dict(state)
    assert opt.groups[0]["tag"] == "x"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("seed", "got 'seed', which all groups share: pass it to the optimizer"),
        ("nonfinite", "got 'nonfinite', which all groups share: pass it to the optimizer"),
        ("momentum", "got 'momentum', which is an option of other rules"),
        ("sed", "got 'sed'; did you mean 'seed'?"),
    ],
)
def test_options_that_are_not_those_of_groups(key, hint):
    with refused(hint):
        fastopt.Adam([{"params": np.ones(2), key: 1}])
