"""One row per rule and option set, and the way from a row to the oracle."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import numpy as np
import reference

import fastopt

# What every class takes, beside the options shared by all. Written out: the tests check the signatures against it.
SHARED: dict[str, Any] = {"weight_decay": 0.0, "weight_decay_form": None, "maximize": False}
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
}
PARTS = {
    "betas": ("beta1", "beta2"),
    "three betas": ("beta1", "beta2", "beta3"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_min", "step_max"),
    "pair of eps": ("eps1", "eps2"),
}
# Hyperparameters that are not, in one class, what they are in the others.
KINDS = {
    "Adan": {"betas": "three betas"},
    "AdEMAMix": {"betas": "three betas", "alpha": "mix"},
    "Adafactor": {"eps": "pair of eps"},
}
# What tells the average that a rule keeps by itself from its parameter, and so must stay.
TOLD_BY = {"ScheduleFreeSGD": "momentum", "ScheduleFreeAdamW": "betas"}
AVERAGING = {"ASGD", *TOLD_BY}  # whose average would not follow Lookahead
# The form of weight decay by default, where it is not L2.
FORMS = dict.fromkeys(("AdamW", "Lion", "AdaBelief", "Adan", "AdEMAMix"), "decoupled")
FORMS |= dict.fromkeys(("LAMB", "NovoGrad", "Prodigy", "ScheduleFreeAdamW", "Adafactor"), "own")
_TORCH = {"decoupled_weight_decay": False}
_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
_AVERAGING = {"warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False} | SHARED,
    "Adagrad": {"lr": 1e-2, "lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10} | SHARED,
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6} | SHARED,
    "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False} | SHARED,
    "Adam": _ADAM | _TORCH | SHARED,
    "AdamW": _ADAM | SHARED | {"weight_decay": 1e-2},
    "Adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8} | SHARED,
    "NAdam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3} | _TORCH | SHARED,
    "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8} | _TORCH | SHARED,
    "Rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)} | SHARED,
    "Lion": {"lr": 1e-4, "betas": (0.9, 0.99)} | SHARED | {"weight_decay": 1e-3},
    "Signum": {"lr": 1e-3, "beta": 0.9} | SHARED,
    "AdaBelief": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16} | SHARED,
    "Yogi": {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-3, "initial_accumulator_value": 1e-6} | SHARED,
    "Adan": {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8} | SHARED,
    "AdEMAMix": {"lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "warmup": 0.0, "eps": 1e-8} | SHARED,
    "ASGD": {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6} | SHARED,
    "LARS": {"lr": 1.0, "momentum": 0.9, "trust_coefficient": 1e-3, "eps": 0.0, "nesterov": False} | SHARED,
    "LAMB": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6} | SHARED,
    "NovoGrad": {"lr": 1e-3, "betas": (0.9, 0.25), "eps": 1e-6} | SHARED,
    "Prodigy": {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "d0": 1e-6,
        "d_coef": 1.0,
        "safeguard_warmup": False,
    }
    | SHARED,
    "ScheduleFreeSGD": {"lr": 1.0, "momentum": 0.9} | _AVERAGING | SHARED,
    "ScheduleFreeAdamW": {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8} | _AVERAGING | SHARED,
    "Adafactor": {"lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0} | SHARED,
    "SM3": {"lr": 0.1, "momentum": 0.9, "b2": 1.0, "eps": 1e-8} | SHARED,
}


# Classes that take arrays of two axes and no others: they have tests of their own.
FOR_MATRICES: dict[str, dict[str, Any]] = {
    "Muon": {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": None,
        "weight_decay_form": None,
        "maximize": False,
    },
}


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
        return "decoupled" if self.kwargs.get("decoupled_weight_decay") else FORMS.get(self.cls, "l2")

    def settings(self, **changed: Any) -> dict[str, Any]:
        """All keyword arguments of the class, defaults included."""
        settings = {**DEFAULTS[self.cls], **self.kwargs, **changed}
        if settings["weight_decay_form"] is None:
            settings["weight_decay_form"] = self.form
        settings.pop("decoupled_weight_decay", None)  # another name for a form
        return settings

    def hyper(self, **changed: Any) -> dict[str, float]:
        """The hyperparameters of the rule, by the names of rules.def."""
        settings = self.settings(**changed)
        for name, value in [*settings.items()]:
            kind = KINDS.get(self.cls, {}).get(name, name)
            settings.update(zip(PARTS[kind], value, strict=True) if kind in PARTS else {kind: value})
        for name in ("momentum_decay", "eps1"):
            if settings.get(name, 0) is None:
                settings[name] = inf
        if settings.get("beta3", 0) is None:
            settings["beta3"] = sqrt(settings["beta2"])
        settings["decay"] = settings["weight_decay"] if settings["weight_decay_form"] == "own" else 0.0
        return {name: float(settings[name]) + 0.0 for name in reference.hyper_names(self.rule)}  # -0 is 0

    def start(self, p: np.ndarray) -> dict[str, Any]:
        """What state starts from, where that is not 0."""
        settings = self.settings()
        accumulator = settings.get("initial_accumulator_value")
        starts = {"Adagrad": {"G": accumulator}, "Yogi": {"v": accumulator}, "Rprop": {"step_size": settings["lr"]}}
        return starts.get(self.cls, {})

    def options(self, **changed: Any) -> dict[str, Any]:
        """What happens around the rule, as reference.step takes it."""
        settings = self.settings(**changed)
        decays = {"l2": "weight_decay", "decoupled": "decoupled_decay", "independent": "independent_decay"}
        around = {key: settings[key] for key in ("maximize", "scale", "clip_value") if key in settings}
        form = settings["weight_decay_form"]
        return ({} if form == "own" else {decays[form]: settings["weight_decay"]}) | around


class Oracle:
    """The case's optimizer for one parameter, which it copies."""

    def __init__(self, case: Case, p: np.ndarray) -> None:
        self.case, self.p, self.t = case, p.copy(), 0
        self.rule = case.rule if p.ndim < 2 else case.rule.removesuffix("_vector")
        self.state: dict[str, Any] = reference.new_state(self.rule, p, case.start(p))
        self.decays: dict[str, reference.Decay] = {}

    def hyper(self, **changed: Any) -> dict[str, float]:
        """The hyperparameters of step t, which must be made next."""
        hyper = self.case.hyper(**changed)
        self.decays = reference.noted(self.rule, self.t, hyper, self.decays)
        return {**hyper, **self.decays}

    def step(self, g: np.ndarray, **changed: Any) -> None:
        self.t += 1
        hyper, options = self.hyper(**changed), self.case.options(**changed)
        reference.step(self.rule, self.p, g, self.state, self.t, hyper, **options)

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        return {name: self.state[name] for name in reference.state_names(self.rule)}


def step_together(oracles: list[Oracle], gs: list[np.ndarray], **changed: Any) -> None:
    """One step of parameters in one group."""
    options = oracles[0].case.options(**changed)
    for oracle in oracles:
        oracle.t += 1
    hyper, *_ = [oracle.hyper(**changed) for oracle in oracles]
    for rule in {oracle.rule for oracle in oracles}:
        of_rule = [(oracle.p, g, oracle.state) for oracle, g in zip(oracles, gs, strict=True) if oracle.rule == rule]
        params, grads, states = map(list, zip(*of_rule, strict=True))
        reference.step_all(rule, params, grads, states, oracles[0].t, hyper, **options)


PLAIN = [
    Case("sgd", "SGD", "sgd"),
    Case("adagrad", "Adagrad", "adagrad"),
    Case("adadelta", "Adadelta", "adadelta"),
    Case("rmsprop", "RMSprop", "rmsprop"),
    Case("adam", "Adam", "adam"),
    Case("adamw", "AdamW", "adam"),
    Case("adamax", "Adamax", "adamax"),
    Case("nadam", "NAdam", "nadam"),
    Case("radam", "RAdam", "radam"),
    Case("rprop", "Rprop", "rprop"),
    *(Case(cls.lower(), cls, cls.lower()) for cls in ("Lion", "Signum", "AdaBelief", "Yogi", "Adan", "AdEMAMix")),
    Case("asgd", "ASGD", "asgd"),
    Case("lars", "LARS", "lars"),
    Case("lamb", "LAMB", "lamb"),
    Case("novograd", "NovoGrad", "novograd"),
    Case("prodigy", "Prodigy", "prodigy"),
    Case("schedulefreesgd", "ScheduleFreeSGD", "schedulefreesgd"),
    Case("schedulefreeadamw", "ScheduleFreeAdamW", "schedulefreeadamw"),
    Case("adafactor", "Adafactor", "adafactor_vector"),
    Case("sm3", "SM3", "sm3_vector"),
]
OPTIONS = [
    Case("sgd-momentum", "SGD", "momentum", {"momentum": 0.9}),
    Case("sgd-dampening", "SGD", "momentum", {"momentum": 0.9, "dampening": 0.3}),
    Case("sgd-nesterov", "SGD", "nesterov", {"momentum": 0.9, "nesterov": True}),
    Case("adagrad-lr_decay", "Adagrad", "adagrad", {"lr_decay": 0.1}),
    Case("adagrad-accumulator", "Adagrad", "adagrad", {"initial_accumulator_value": 0.1}),
    Case("rmsprop-centered", "RMSprop", "rmsprop_centered", {"centered": True}),
    Case("rmsprop-momentum", "RMSprop", "rmsprop_momentum", {"momentum": 0.9}),
    Case("rmsprop-both", "RMSprop", "rmsprop_centered_momentum", {"momentum": 0.9, "centered": True}),
    Case("adam-amsgrad", "Adam", "amsgrad", {"amsgrad": True}),
    Case("adamw-amsgrad", "AdamW", "amsgrad", {"amsgrad": True}),
    Case("adamw-no_decay", "AdamW", "adam", {"weight_decay": 0.0}),
    Case("adamax-eps=0", "Adamax", "adamax", {"eps": 0.0}),
    Case("nadam-constant", "NAdam", "nadam", {"momentum_decay": None}),
    Case("radam-never_rectified", "RAdam", "radam", {"betas": (0.9, 0.6)}),
    Case("rprop-limits", "Rprop", "rprop", {"etas": (0.25, 2.0), "step_sizes": (4e-3, 2e-2)}),
    Case("lion-no_decay", "Lion", "lion", {"weight_decay": 0.0}),
    Case("signum-sign", "Signum", "signum", {"beta": 0.0}),
    Case("yogi-accumulator", "Yogi", "yogi", {"initial_accumulator_value": 0.0}),
    Case("adan-decay", "Adan", "adan", {"weight_decay": 0.1}),
    Case("ademamix-warmup", "AdEMAMix", "ademamix", {"warmup": 4.0, "weight_decay": 0.1}),
    Case("ademamix-no_start", "AdEMAMix", "ademamix", {"warmup": 9.0, "betas": (0.0, 0.9, 0.99)}),
    Case("asgd-averaging", "ASGD", "asgd", {"lambd": 0.1, "alpha": 0.5, "t0": 1.0}),
    *(
        Case(f"{cls.lower()}-as_torch", cls, cls.lower(), {"weight_decay": 0.1, "decoupled_weight_decay": True})
        for cls in ("Adam", "NAdam", "RAdam")
    ),
    Case("lars-nesterov", "LARS", "lars_nesterov", {"nesterov": True}),
    Case("lars-eps", "LARS", "lars", {"eps": 0.1, "trust_coefficient": 0.1}),
    Case("prodigy-safeguard", "Prodigy", "prodigy", {"safeguard_warmup": True, "beta3": 0.9, "d_coef": 2.0}),
    Case("schedulefreesgd-warmup", "ScheduleFreeSGD", "schedulefreesgd", {"warmup_steps": 4, "r": 1.0, "lr": 0.5}),
    Case("schedulefreeadamw-weights", "ScheduleFreeAdamW", "schedulefreeadamw", {"r": 0.5, "weight_lr_power": 0.0}),
    Case("adafactor-large", "Adafactor", "adafactor_vector", {"lr": 0.5, "eps": (1e-2, 0.5), "d": 2.0}),
    Case("adafactor-decay", "Adafactor", "adafactor_vector", {"weight_decay": 0.1, "beta2_decay": -0.3}),
    Case("sm3-b2", "SM3", "sm3_vector", {"b2": 0.75, "momentum": 0.5, "eps": 0.1}),
]
# What happens around a rule is the same for all of them: each stage once, and two at a time for every rule.
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
BY_ELEMENT = [case for case in RULES if case.rule not in reference.ALONE | reference.TOGETHER]
BY_ROW = [case for case in BY_ELEMENT if case.rule not in reference.STARTS]
DTYPES = (np.float32, np.float64)


def ids(value: Any) -> str | None:
    """Readable test ids for cases and dtypes."""
    if isinstance(value, Case):
        return value.name
    return value.__name__ if isinstance(value, type) else None


def bits(x: np.ndarray) -> np.ndarray:
    """x as integers, with one pattern for every NaN."""
    x = np.ascontiguousarray(x)
    return np.where(np.isnan(x), x.dtype.type("nan"), x).view(f"i{x.itemsize}")


def assert_same_bits(actual: Any, expected: Any, what: str = "") -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    differ = bits(actual) != bits(expected)
    if differ.any():
        first = np.unravel_index(np.argmax(differ), differ.shape)
        where = f"{what}{[int(i) for i in first]}"
        message = f"{where}: {actual[first]!r}, expected {expected[first]!r}; {differ.sum()} of {differ.size} differ"
        raise AssertionError(message)


def assert_like(opt: Any, name: Any, p: np.ndarray, oracle: Oracle) -> None:
    """Parameter and state are the oracle's to the bit."""
    assert_same_bits(p, oracle.p.reshape(p.shape), f"{name}: p")
    for letter, buffer in oracle.buffers.items():
        wanted = buffer if letter in reference.EXTENTS.get(oracle.rule, {}) else buffer.reshape(p.shape)
        assert_same_bits(opt.state[name][letter], wanted, f"{name}: {letter}")


def gradients(seed: int, shape: Any, dtype: Any) -> Iterator[np.ndarray]:
    """Gradients over many magnitudes, with some zeros of either sign."""
    rng = np.random.default_rng(seed)
    while True:
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 2, shape)
        g = np.where(rng.random(shape) < 0.02, np.copysign(0.0, g), g)
        yield np.asarray(g, dtype)
