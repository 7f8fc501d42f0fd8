"""Every rule has all its parts: its row, class, oracle, cases, steps by hand, twin; a missing one is named."""

import inspect

import pytest

import fastopt
from fastopt.optimizers import plain
from support import reference
from support.cases import CASES, DEFAULTS, OPTIONS, PLAIN
from support.registry import CLASSES, FILE_OF, RULES
from support.rule import OF_THE_STEP

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
    switches = {option for option, default in defaults.items() if isinstance(default, bool)}
    assert switches | {"weight_decay"} <= tried, f"tests/rules/{FILE_OF[cls.rule_of(defaults)]}: options of {name}"


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_class_has_a_twin(cls):
    """Another implementation to compare with, or a reason why there is none."""
    file = f"tests/rules/{FILE_OF[cls.rule_of(cls.defaults)]}"
    assert cls.torch or cls.optax or cls.twin or cls.no_twin, f"{file}: torch, optax, twin or no_twin of {cls.name}"


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name):
    """The classes, the plain NumPy rules and the cases have the same hyperparameters and defaults."""
    documented = CLASSES[name].defaults
    parameters = inspect.signature(PACKAGE[name]).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults == {"params": inspect.Parameter.empty} | documented | OF_THE_STEP
    paper = inspect.signature(plain(name)).parameters.values()
    own = {name: default for name, default in documented.items() if name != "weight_decay_form"}
    assert {p.name: p.default for p in paper if p.kind is p.KEYWORD_ONLY} == own


def test_names_of_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.cls for case in OPTIONS} <= set(DEFAULTS)
