"""Every rule has its four rows: rules.def, the classes, the oracle, the cases."""

import inspect

import pytest
import reference
from cases import CASES, DEFAULTS, FOR_MATRICES, OF_THE_STEP, OPTIONS, PLAIN

import fastopt
from fastopt.optimizers import plain

ROWS = fastopt._core.rules()
CLASSES = {
    name: value
    for name, value in ((name, getattr(fastopt, name)) for name in fastopt.__all__)
    if inspect.isclass(value) and issubclass(value, fastopt.Optimizer) and value is not fastopt.Optimizer
}


def test_every_rule_has_an_oracle():
    assert [row[0] for row in ROWS] == list(reference.RULES)


@pytest.mark.parametrize(("rule", "state", "hyper", "carry"), ROWS, ids=[row[0] for row in ROWS])
def test_rows_agree(rule, state, hyper, carry):
    """The oracle has the buffers, hyperparameters and carried numbers of rules.def; cases and a kernel exist."""
    assert reference.state_names(rule) == state
    assert reference.hyper_names(rule) == hyper
    assert reference.CARRIES.get(rule, ()) == carry
    tried = {name for case in PLAIN + OPTIONS for name in (case.rule, case.rule.removesuffix("_vector"))}
    assert rule in tried | {cls.lower() for cls in FOR_MATRICES}
    assert rule in fastopt.kernels.__all__


def test_every_class_has_cases():
    assert set(CLASSES) == set(DEFAULTS) | set(FOR_MATRICES)
    assert set(DEFAULTS) == {case.cls for case in PLAIN}
    for cls, defaults in DEFAULTS.items():
        tried = {name for case in CASES if case.cls == cls for name in case.kwargs}
        switches = {name for name, default in defaults.items() if isinstance(default, bool)}
        assert switches | {"weight_decay"} <= tried


@pytest.mark.parametrize("cls", DEFAULTS | FOR_MATRICES)
def test_signatures(cls):
    """The classes, the plain NumPy rules and the cases have the same hyperparameters and defaults."""
    documented = (DEFAULTS | FOR_MATRICES)[cls]
    parameters = inspect.signature(CLASSES[cls]).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults == {"params": inspect.Parameter.empty} | documented | OF_THE_STEP
    paper = inspect.signature(plain(cls)).parameters.values()
    own = {name: default for name, default in documented.items() if name != "weight_decay_form"}
    assert {p.name: p.default for p in paper if p.kind is p.KEYWORD_ONLY} == own


def test_names_of_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
