"""fastopt.groups: parameter groups from patterns of names."""

import numpy as np
import pytest
from cases import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import schedules

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
    with pytest.raises(ValueError, match=r"Adam: params\[0\] can override .*, got 'weightdecay'"):
        fastopt.Adam(fastopt.groups(model(), {"*.bias": {"weightdecay": 0.0}}))
    with pytest.raises(ValueError, match=r"Adam: groups\[0\]: weight_decay must be finite and >= 0, got -1"):
        fastopt.Adam(fastopt.groups(model(), {"*.bias": {"weight_decay": -1}}))
    with pytest.raises(TypeError, match=r"groups: params: 'block\.0' must be a numpy.ndarray, got float"):
        fastopt.groups({"block": {"0": 1.0}}, {"block*": {}})
    with pytest.raises(ValueError, match=r"groups: params must have a name each, got 'a\.b' twice"):
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
