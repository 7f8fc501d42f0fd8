"""Every rule has all its parts: its row, class, oracle, cases, steps by hand, twin; a missing one is named."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import catalogue
from fastopt.optimizers import plain
from support import arithmetic, reference
from support.arithmetic import rounded_power
from support.asserts import ids
from support.cases import CASES, DEFAULTS, OPTIONS, PLAIN
from support.cases import RULES as EVERY_RULE
from support.docstrings import SHARED, entries, own, type_and_range
from support.hyper import declared, may_be_none, parts
from support.registry import CLASSES, FILE_OF, RULES
from support.rule import OF_THE_STEP, STORAGE

ROWS = fastopt._core.rules()
PACKAGE = {
    name: value
    for name, value in ((name, getattr(fastopt, name)) for name in fastopt.__all__)
    if inspect.isclass(value) and issubclass(value, fastopt.Optimizer) and value is not fastopt.Optimizer
}


def rules_of(cls):
    """The rules that a class runs in the cases and in the steps by hand."""
    for options in ({}, *cls.options.values(), *(steps.options for steps in cls.by_hand.values())):
        rule = cls.rule_of({**cls.defaults, **options})
        yield from (rule, rule.removesuffix("_vector"))


@pytest.mark.parametrize("rule", [row[0] for row in ROWS])
def test_every_rule_has_an_oracle(rule):
    assert rule in RULES, f"tests/rules/ declares no Rule({rule}): it belongs into the file test_{rule}.py"


def test_every_oracle_has_a_row():
    unknown = {f"{name} of tests/rules/{FILE_OF[name]}" for name in RULES.keys() - {row[0] for row in ROWS}}
    assert not unknown, "csrc/rules/rules.def has no row of these"


@pytest.mark.parametrize(("rule", "state", "hyper", "carry"), ROWS, ids=[row[0] for row in ROWS])
def test_rows_agree(rule, state, hyper, carry):
    """The oracle has the buffers, hyperparameters and carried numbers of rules.def; cases and a kernel exist."""
    file = f"tests/rules/{FILE_OF[rule]}"
    assert reference.state_names(rule) == state, f"{file}: arguments of {rule} after p and g"
    assert reference.hyper_names(rule) == hyper, f"{file}: keywords of {rule}"
    assert RULES[rule].carries == carry, f"{file}: carries of Rule({rule})"
    assert rule in fastopt.kernels.__all__
    tried = {rule for cls in CLASSES.values() for rule in rules_of(cls)}
    assert rule in tried, f"{file}: no class runs {rule} with its defaults nor with any of its options"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_steps_by_hand(rule):
    """Of matrices where the rule is for them."""
    known = set()
    for cls in CLASSES.values():
        for steps in cls.by_hand.values():
            name = cls.rule_of({**cls.defaults, **steps.options})
            known.add(name.removesuffix("_vector") if axes_of(steps.start) > 1 else name)
    assert rule in known, f"tests/rules/{FILE_OF[rule]}: by_hand of its class has no step of {rule}"


def axes_of(start):
    """How many axes a parameter has that is given as nested sequences."""
    return 1 + axes_of(start[0]) if isinstance(start, (list, tuple)) else 0


@pytest.mark.parametrize("name", PACKAGE)
def test_every_class_has_cases(name):
    assert name in CLASSES, f"tests/rules/ declares no Class({name!r})"
    cls, defaults = CLASSES[name], CLASSES[name].defaults
    if cls.for_matrices:
        return
    assert name in {case.cls for case in PLAIN}
    tried = {option for case in CASES if case.cls == name for option in case.kwargs}
    switches = {option for option, default in cls.own.items() if isinstance(default, bool)}
    assert switches | {"weight_decay", "maximize"} <= tried, (
        f"tests/rules/{FILE_OF[cls.rule_of(defaults)]}: options of {name}"
    )


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_class_has_a_twin(cls):
    """Another implementation to compare with, or a reason why there is none."""
    file = f"tests/rules/{FILE_OF[cls.rule_of(cls.defaults)]}"
    known = cls.torch or cls.optax or cls.pytorch_optimizer or cls.twin or cls.no_twin
    assert known, f"{file}: torch, optax, pytorch_optimizer, twin or no_twin of {cls.name}"


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name):
    """The classes, the plain NumPy rules and the cases have the same hyperparameters and defaults."""
    documented = CLASSES[name].defaults
    parameters = inspect.signature(PACKAGE[name]).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults == {"params": inspect.Parameter.empty} | documented | STORAGE | OF_THE_STEP
    paper = inspect.signature(plain(name)).parameters.values()
    around = ("weight_decay_form", "cautious_decay", "corrected_decay")  # the plain rules do without them
    own = {name: default for name, default in documented.items() if name not in around}
    assert {p.name: p.default for p in paper if p.kind is p.KEYWORD_ONLY} == own


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_are_documented_as_declared(name):
    cls = PACKAGE[name]
    found = {entry: (line, text) for entry, line, text in entries(cls)}
    wanted = ["params", *own(cls), "**shared"]
    assert list(found) == wanted, f"{cls.__module__}: parameters in the docstring of {name}"
    for argument in own(cls):
        line, text = found[argument]
        default = cls._declaration.arguments[argument].default
        words = f"{type_and_range(cls, argument)}, default "
        assert line.startswith(words), f"{cls.__module__}: the line must be '{argument} : {words}{default!r}'"
        assert ast.literal_eval(line.removeprefix(words)) == default, f"{cls.__module__}: {argument} : {line}"
        assert text.strip(), f"{cls.__module__}: {argument} needs a sentence"
        if argument in declared(name) and declared(name)[argument].scheduled:
            says_none = any(may_be_none(name, part) for part in parts(name, argument))
            assert ("None" in line + text) == says_none, f"{cls.__module__}: the meaning of None for {argument}"
    shared = found["**shared"][1]
    assert ("weight_decay=" in shared) == ("weight_decay" not in found), f"{cls.__module__}: **shared"
    for argument, value in re.findall(r"(\w+)=([^\s,;.(]+(?:\.\d+)?)", shared):
        assert ast.literal_eval(value) == SHARED[argument].default, f"{cls.__module__}: {argument} in **shared"


def test_a_number_without_a_range_is_named():
    with pytest.raises(LookupError, match=r"warmth must have a range in csrc/rules/hyper\.def"):
        fastopt._core.check_range("Adam: warmth", "warmth", 1.0)


def test_names_of_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.cls for case in OPTIONS} <= set(DEFAULTS)


# ---- What a row says is what the rule does ----


def after_one_step(case, t):
    """The state when the first step of an element is step t, and has no gradient."""
    p, g = np.array([2.0, -3.0]), np.zeros(2)
    state = [np.zeros(2) for _ in reference.state_names(case.rule)]
    carry = [np.ones(1) for _ in RULES[case.rule].carries]
    getattr(fastopt.kernels, case.rule)(p, g, *state, *carry, step=t, **case.hyper())
    return np.array(state)


@pytest.mark.parametrize("case", [case for case in EVERY_RULE if not RULES[case.rule].gathers], ids=ids)
def test_rules_whose_first_step_sets_state_say_so(case):
    """Where step 1 leaves other state than step 9 does, rows that it did not name would miss it: they are refused."""
    special = not np.array_equal(after_one_step(case, 1), after_one_step(case, 9))
    assert RULES[case.rule].starts == special, f"tests/rules/{FILE_OF[case.rule]}: starts of Rule({case.rule})"
    opt = case.make(np.ones((4, 2)))
    try:
        opt.step(fastopt.RowGrad([1], np.ones((1, 2))))
    except ValueError:
        takes_rows = False
    else:
        takes_rows = True
    row = f"csrc/rules/rules.def: RULE({case.rule}, ...)"
    of_matrices = RULES[case.rule.removesuffix("_vector")].gathers == "matrices"
    assert of_matrices or takes_rows != special, f"{row} must {'' if special else 'not '}say .starts = 1"


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_correct_a_bias_say_so(rule, monkeypatch):
    """A hyperparameter whose powers the oracle uses may change, and then needs the product of its values: D()."""
    powers = set()

    def noting(b, n):
        powers.add(float(b))
        return rounded_power(b, n)

    monkeypatch.setattr(arithmetic, "rounded_power", noting)
    hyper, decays = dict.fromkeys(reference.hyper_names(rule), 0.25), {}
    for i, name in enumerate(name for name in hyper if name in ("alpha", "beta", "beta1", "beta2", "beta3", "rho")):
        hyper[name] = decays[name] = 0.5 + i / 8
    p = np.ones((2, 3) if RULES[rule].gathers in ("rows", "matrices") else 3)
    reference.step(rule, p, np.ones_like(p), reference.new_state(rule, p, {}), 1, hyper)
    used = tuple(name for name, value in decays.items() if value in powers)
    assert fastopt._core.Settings(rule).corrected == used, f"csrc/rules/rules.def: D() of RULE({rule}, ...)"
    assert RULES[rule].corrected == used, f"tests/rules/{FILE_OF[rule]}: corrected of Rule({rule})"


# Files outside those of a rule that name more than two others than SGD and Adam, and how many: none may name more.
# The lecture's rules: catalogue, demo, pictures, and what bench writes by hand for them, which test_peers.py proves
# complete.  bench/formats.py trains by six of them.  Interplays of certain rules: the rest.
NAMES_IN_FILES = {
    "bench/formats.py": 3,
    "bench/peers/numba_rules.py": 5,
    "bench/peers/numpy_out.py": 5,
    "fastopt/catalogue.py": 5,
    "fastopt/cli/demo.py": 5,
    "fastopt/cli/pictures.py": 5,
    "fastopt/optimizer.py": 7,
    "tests/c_api.c": 9,
    "tests/test_bad_input.py": 6,
    "tests/test_bench.py": 5,
    "tests/test_clipping.py": 7,
    "tests/test_combined.py": 3,
    "tests/test_groups.py": 6,
    "tests/test_grow_and_reset.py": 3,
    "tests/test_numbers.py": 3,
    "tests/test_own_rules.py": 4,
    "tests/test_peers.py": 4,
    "tests/test_resuming.py": 3,
    "tests/test_scheduled_steps.py": 4,
    "tests/test_swapped.py": 3,
    "tests/test_weight_decay.py": 8,
}


def test_no_other_file_lists_rules():
    """Lists of rules come from the catalogue and tests/support/registry.py: a new rule changes its own files alone."""
    root = Path(__file__).parents[1]
    names = {cls.lower() for cls in PACKAGE} - {"sgd", "adam", "adamw"}
    for folder in ("tests", "bench", "fastopt"):
        for file in (file for suffix in ("py", "c") for file in (root / folder).rglob(f"*.{suffix}")):
            place = file.relative_to(root).as_posix()
            if place.startswith(("tests/rules/", "fastopt/optimizers/", "fastopt/__init__.py")):
                continue
            words = set(re.findall(r"[a-z0-9]+", file.read_text(encoding="utf-8").lower()))
            assert len(words & names) <= NAMES_IN_FILES.get(place, 2), (
                f"{place} names {sorted(words & names)}: take rules from the catalogue or by a property of theirs, or,"
                " where it is about the interplay of these, give their number in NAMES_IN_FILES"
            )


def test_every_file_has_a_class():
    """One that fastopt has by that name, and that has an entry in the catalogue."""
    files = {file.stem for file in Path(fastopt.optimizers.__file__).parent.glob("[a-z]*.py")}
    assert {name.lower() for name in PACKAGE} | {"schedulefree"} == files
    assert set(catalogue.classes()) == set(PACKAGE)
    assert set(catalogue.rules()) == {row[0] for row in ROWS} | {"adamw"}


@pytest.mark.parametrize("name", catalogue.rules())
def test_a_declaration_has_the_names_of_its_row(name):
    """Every hyperparameter of the row, and no others but those that Python reads by itself."""
    rule = catalogue.rules()[name]
    optimizer = rule.make(np.ones((2, 2)) if not rule.for_vectors else np.ones(2))
    (group,) = optimizer.groups
    assert group.settings_of(np.ones(2 if rule.for_vectors else (2, 2))).rule_name == rule.row
    declaration = rule.optimizer._declaration
    declared = {name for hyper in declaration.hyper.values() for name in hyper.names} - {
        *("lr_scale", "weight_decay", "weight_decay_form", "cautious_decay", "corrected_decay", "maximize"),
        "initial_accumulator_value",
        *STORAGE,
    }
    if declaration.decay_form == "own":
        declared.add("decay")
    (of_row,) = (hyper for row, _, hyper, _ in ROWS if row == rule.row)
    assert set(of_row) <= declared
    of_all_rows = {
        name for row, _, hyper, _ in ROWS if row.removesuffix("_vector") in declaration.rows for name in hyper
    }
    in_python = declared if rule.calls_numpy else set()
    assert declared - of_all_rows - in_python <= declaration.selecting


def test_an_option_of_a_class_that_nobody_has_asked_for():
    code = """
import numpy as np, fastopt
try:
    fastopt.SGD([{"params": np.ones(3), "rho": 0.5}])
except ValueError as error:
    print(error)
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "got 'rho', which is an option of other rules" in printed
