"""One case per class and option set, from the files of tests/rules/, and the way from a case to the oracle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastopt
from support import reference
from support.arithmetic import Decay
from support.hyper import parts
from support.registry import CLASSES
from support.rule import Class

# Classes that take arrays of two axes and no others have tests of their own.
FOR_MATRICES = {name: cls.defaults for name, cls in CLASSES.items() if cls.for_matrices}
DEFAULTS = {name: cls.defaults for name, cls in CLASSES.items() if not cls.for_matrices}
FORMS = {name: cls.decay_form for name, cls in CLASSES.items() if cls.decay_form != "l2"}
AVERAGE_FROM = {name: cls.average_from for name, cls in CLASSES.items() if cls.average_from}
AVERAGING = {name for name, cls in CLASSES.items() if cls.averages}  # whose average would not follow Lookahead


@dataclass(frozen=True, eq=False)
class Case:
    """A class with some options, and the rule of rules.def that it must run, on vectors where it depends on that."""

    name: str
    cls: str
    rule: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def make(self, params: Any, **kwargs: Any) -> Any:
        """The package's optimizer of this case."""
        return getattr(fastopt, self.cls)(params, **{**self.kwargs, **kwargs})

    @property
    def form(self) -> str:
        """The form of weight decay where weight_decay_form says nothing."""
        return "decoupled" if self.kwargs.get("decoupled_weight_decay") else CLASSES[self.cls].decay_form

    def settings(self, **changed: Any) -> dict[str, Any]:
        """All keyword arguments of the class, defaults included."""
        settings = {**CLASSES[self.cls].defaults, **self.kwargs, **changed}
        if settings["weight_decay_form"] is None:
            settings["weight_decay_form"] = self.form
        settings.pop("decoupled_weight_decay", None)  # another name for a form
        return settings

    def hyper(self, **changed: Any) -> dict[str, float]:
        """The hyperparameters of the rule, by the names of rules.def."""
        settings = self.settings(**changed)
        for name, value in [*settings.items()]:
            names = parts(self.cls, name)
            settings.update(zip(names, value if len(names) > 1 else [value], strict=True))
        unset = CLASSES[self.cls].unset(settings)
        settings.update({name: value for name, value in unset.items() if settings[name] is None})
        settings["decay"] = settings["weight_decay"] if settings["weight_decay_form"] == "own" else 0.0
        return {name: float(settings[name]) + 0.0 for name in reference.hyper_names(self.rule)}  # -0 is 0

    def start(self, p: np.ndarray) -> dict[str, Any]:
        """The state before the first step, where that is not 0."""
        return CLASSES[self.cls].start(self.settings())

    def options(self, **changed: Any) -> dict[str, Any]:
        """The options around the rule, as reference.step takes them."""
        settings = self.settings(**changed)
        decays = {"l2": "weight_decay", "decoupled": "decoupled_decay", "independent": "independent_decay"}
        around = {key: settings[key] for key in ("maximize", "scale", "clip_value") if key in settings}
        around["cautious_decay"] = settings["cautious_decay"]
        form = settings["weight_decay_form"]
        return ({} if form == "own" else {decays[form]: settings["weight_decay"]}) | around


class Oracle:
    """The case's optimizer for one parameter, which it copies."""

    def __init__(self, case: Case, p: np.ndarray) -> None:
        self.case, self.p, self.t = case, p.copy(), 0
        self.rule = case.rule if p.ndim < 2 else case.rule.removesuffix("_vector")
        self.state: dict[str, Any] = reference.new_state(self.rule, p, case.start(p))
        self.decays: dict[str, Decay] = {}
        self.largest_lr = 0.0

    def hyper(self, **changed: Any) -> dict[str, float]:
        """The hyperparameters of step t, which must be made next."""
        hyper = self.case.hyper(**changed)
        self.decays = reference.noted(self.rule, self.t, hyper, self.decays)
        return {**hyper, **self.decays}

    def step(self, g: np.ndarray, **changed: Any) -> None:
        self.t += 1
        hyper, options = self.hyper(**changed), self.options(**changed)
        reference.step(self.rule, self.p, g, self.state, self.t, hyper, **options)

    def options(self, **changed: Any) -> dict[str, Any]:
        """What happens around step t, which must be made next."""
        if not self.case.settings(**changed)["corrected_decay"]:
            return self.case.options(**changed)
        self.largest_lr = max(self.case.hyper(**changed)["lr"], self.largest_lr)
        return self.case.options(**changed) | {"largest_lr": self.largest_lr}

    @property
    def extents(self) -> Mapping[str, Any]:
        """The buffers that have not the shape of the parameter."""
        return reference.EXTENTS.get(self.rule, {})

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        return {name: self.state[name] for name in reference.state_names(self.rule)}


def step_together(oracles: list[Oracle], gs: list[np.ndarray], **changed: Any) -> None:
    """One step of parameters in one group."""
    for oracle in oracles:
        oracle.t += 1
    options, *_ = [oracle.options(**changed) for oracle in oracles]
    hyper, *_ = [oracle.hyper(**changed) for oracle in oracles]
    for rule in {oracle.rule for oracle in oracles}:
        of_rule = [(oracle.p, g, oracle.state) for oracle, g in zip(oracles, gs, strict=True) if oracle.rule == rule]
        params, grads, states = map(list, zip(*of_rule, strict=True))
        reference.step_all(rule, params, grads, states, oracles[0].t, hyper, **options)


def case_of(cls: Class, options: str, kwargs: Mapping[str, Any]) -> Case:
    """The case of a class with an option set of this name."""
    name = "-".join(filter(None, (cls.name.lower(), options)))
    return Case(name, cls.name, cls.rule_of({**cls.defaults, **kwargs}), dict(kwargs))


PLAIN = [case_of(cls, "", {}) for cls in CLASSES.values() if not cls.for_matrices]
OPTIONS = [
    case_of(cls, name, kwargs)
    for cls in CLASSES.values()
    if not cls.for_matrices
    for name, kwargs in cls.options.items()
]
# The stages around a rule are the same for all rules: each stage once, and two at a time for every rule.
STAGES = (
    [
        Case(f"adam-{name}", "Adam", "adam", kwargs)
        for name, kwargs in {
            "weight_decay": {"weight_decay": 0.1},
            "maximize": {"maximize": True},
            "decoupled": {"weight_decay": 0.1, "weight_decay_form": "decoupled"},
            "independent": {"weight_decay": 0.1, "weight_decay_form": "independent"},
        }.items()
    ]
    + [Case(f"{case.name}-both_stages", case.cls, case.rule, {"weight_decay": 0.1, "maximize": True}) for case in PLAIN]
    + [
        Case("lamb-l2", "LAMB", "lamb", {"weight_decay": 0.1, "weight_decay_form": "l2"}),
        Case("lars-decoupled", "LARS", "lars", {"weight_decay": 0.1, "weight_decay_form": "decoupled"}),
    ]
)
CASES = PLAIN + OPTIONS + STAGES
# Every rule once; and those that update each element by itself.
RULES = list({case.rule: case for case in PLAIN + OPTIONS}.values())
# The same, and each stage around a rule once.
RULES_AND_STAGES = RULES + [case for case in STAGES if not case.name.endswith("-both_stages")]
BY_ELEMENT = [case for case in RULES if case.rule not in reference.ALONE | reference.TOGETHER]
BY_ROW = [
    case
    for case in BY_ELEMENT
    if case.rule not in reference.STARTS and case.rule.removesuffix("_vector") not in reference.ALONE
]


def named(name: str) -> Case:
    """The case of this name."""
    return next(case for case in CASES if case.name == name)
