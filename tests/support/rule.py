"""The declarations of the files of tests/rules/: rows of rules.def, classes, first steps by hand, twins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from support.twins import OptaxTwin, PytorchOptimizerTwin, TorchTwin

Settings = Mapping[str, Any]

# The arguments that every class takes beside its own. Written out: the tests check the signatures against it.
SHARED: dict[str, Any] = {
    "weight_decay": 0.0,
    "weight_decay_form": None,
    "cautious_decay": False,
    "corrected_decay": False,
    "maximize": False,
}
STORAGE: dict[str, Any] = {"state_dtype": None, "master": "auto", "rounding": "stochastic"}  # test_storage.py has these
OF_THE_STEP: dict[str, Any] = {
    "nonfinite": "propagate",
    "num_threads": None,
    "grad_scale": None,
    "clip_norm": None,
    "clip_norm_per": "all",
    "clip_value": None,
    "max_skips": None,
    "zero_grads": False,
    "ema_decay": None,
    "swa": None,
    "lookahead": None,
    "catch_up": False,
    "seed": 0,
}


@dataclass(frozen=True, eq=False)
class Rule:
    """A row of rules.def: the rule in the order of the C loop, and the other fields of the row.

    The oracle has the name of the rule. It takes parameter and gradient, then the state by the letters of the row, then
    by keyword t, the step counted from 1, `carry` if the rule carries doubles from step to step, and the
    hyperparameters in the order of the row. One that gathers over all parameters together yields the terms of its sums
    and is sent the sums.
    """

    oracle: Callable[..., Any]
    carries: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()  # hyperparameters whose powers correct the bias of running means: D() in the row
    # "rows": looks at all of a row; "alone": at all of a parameter; "matrices": and at its axes; "together": at all
    # parameters.
    gathers: str = ""
    starts: bool = False  # whether the first step sets state of all elements
    # Of a rule whose own decay only takes a share of p: that share for a decay of 1, from T, t, state, hyperparameters.
    decay_rate: Callable[..., float] | None = None
    catch_up: Callable[..., Any] | None = None  # steps without a gradient: p, state, how many, and hyperparameters
    extents: Mapping[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = field(default_factory=dict)  # other shapes

    @property
    def name(self) -> str:
        return self.oracle.__name__


class ByHand(NamedTuple):
    """Steps worked out by hand, with lr = 0.1 unless options say otherwise."""

    options: dict[str, Any]
    gradients: list[Any]
    after: list[Any]  # the parameter after each step
    start: Any = (1.0, 1.0, 1.0)  # the parameter before the first
    state: Mapping[str, list[Any]] = {}  # buffers after each step


@dataclass(frozen=True, eq=False)
class Class:
    """A class of the package."""

    name: str
    own: Mapping[str, Any]  # hyperparameters and their defaults, but for the shared ones that are as everywhere
    rule: str | Callable[[Settings], str]  # of vectors, where it depends on that
    by_hand: Mapping[str, ByHand]
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # option sets by name
    decay_form: str = "l2"
    unset: Callable[[Settings], dict[str, float]] = lambda settings: {}  # the numbers that None stands for
    conflict: Callable[[Settings], bool] = lambda settings: False  # whether they are refused, though each is in range
    start: Callable[[Settings], dict[str, float]] = lambda settings: {}  # state before the first step, where not 0
    averages: bool = False  # whether it keeps an average of its parameter
    average_from: str = ""  # the hyperparameter by which it follows from p and state: it stays once a step is made
    for_matrices: bool = False  # whether it takes arrays of two axes and no others
    steps_of_lr: tuple[Settings, ...] = ()  # options by which steps of a constant gradient are lr, whatever betas do
    corrects_by_age: bool = False  # where betas change: also by the ages of gradients, not by products of betas alone
    never_larger: int = 12  # steps, none of which is larger than the exact one however small squares are
    overflows: bool = True  # whether a square that overflows makes no large step
    torch: TorchTwin | None = None
    optax: Mapping[str, OptaxTwin] = field(default_factory=dict)
    pytorch_optimizer: Mapping[str, PytorchOptimizerTwin] = field(default_factory=dict)
    twin: str = ""  # the test of the file that compares with another implementation, where none of these can
    no_twin: str = ""  # why there is none

    @property
    def defaults(self) -> dict[str, Any]:
        """All hyperparameters of the class and their defaults."""
        others = {name: default for name, default in self.own.items() if name not in SHARED}
        return {**others, **{name: self.own.get(name, default) for name, default in SHARED.items()}}

    def rule_of(self, settings: Settings) -> str:
        """The rule that the class runs with these hyperparameters."""
        return self.rule if isinstance(self.rule, str) else self.rule(settings)
