"""An optimizer beside the oracles of its parameters: made alike, and compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import BFLOAT16, FORMATS, Placed, a_shape, container, numbers, parts, same
from fuzz.outcomes import WrongResultError, attempt, expect
from fuzz.values import Array, a_value, defaults, kind_of, scaled, understood
from support import formats, reference
from support.arrays import DTYPES
from support.cases import AVERAGING, DEFAULTS, Case, Oracle
from support.registry import CLASSES, RULES
from support.rule import STORAGE


class Parameter:
    """A parameter, where it lives, and what the oracle says of it."""

    def __init__(self, rng: random.Random, name: Any, group: int) -> None:
        self.name, self.group = name, group
        stored = rng.choice((*DTYPES, *DTYPES, np.float16, BFLOAT16))
        self.dtype = np.float64 if stored is np.float64 else np.float32  # in which its rule computes
        self.values = numbers(rng, a_shape(rng, self.dtype), stored)
        self.oracle: Oracle
        self.averages: reference.Averages
        self.move(rng, self.values)

    def begin(self, case: Case, averages: dict[str, Any], storage: dict[str, Any]) -> None:
        """Have an oracle, and know how everything is stored."""
        values = self.array if self.array.dtype == self.dtype else self.array.astype(self.dtype)
        self.oracle = Oracle(case, values)
        self.averages = reference.Averages(self.oracle.p, **averages)
        self.storage, self.form = storage, form_of_parameter(self.array, storage["master"])
        self.forms = forms_of_state(self.oracle.rule, self.array, storage["state_dtype"])
        # The order of axes in which the parameter is walked.
        self.order = list(range(self.array.ndim))
        if not self.array.flags.c_contiguous and not RULES[self.oracle.rule].gathers:
            self.order.sort(key=lambda axis: -abs(self.array.strides[axis]))
        # The memory of the parameter and of the buffers that are stored, each as its two parts, as they are walked.
        self.itself: Any = None
        if self.form is not None:  # second parts are 0 until the first step
            data, rest = self.form.store(self.walked(self.oracle.p), None)
            self.itself = data, None if rest is None else np.zeros_like(rest)
        # Initial values are set, not computed, so that subnormals count.
        self.buffers = {
            letter: form.store(self.walked(self.oracle.state[letter]).astype(np.float32), None)
            for letter, form in self.forms.items()
        }
        self.load()

    def walked(self, values: Array) -> Array:
        """Elements in the order in which they are walked."""
        return np.ascontiguousarray(values.transpose(self.order)).reshape(-1)

    def unwalked(self, elements: Array) -> Array:
        """An array of the shape of the parameter of such elements."""
        shape = [self.array.shape[axis] for axis in self.order]
        return elements.reshape(shape).transpose(np.argsort(self.order))

    def store(self) -> None:
        """After a step of the oracle, store and load all that is stored in fewer bytes."""
        key = fastopt.storage.key_of(self.name)
        rounding = formats.Rounding(self.storage["rounding"], int(self.storage["seed"]), key, self.oracle.t)
        if self.form is not None:
            random = rounding.bits(self.form, self.array.size)
            self.itself = self.form.store(self.walked(self.oracle.p), random)
        for letter, form in self.forms.items():
            elements = formats.narrow(self.walked(self.oracle.state[letter]))
            self.buffers[letter] = form.store(elements, rounding.bits(form, self.array.size))
        self.load()

    def load(self) -> None:
        """Give the oracle what is stored."""
        if self.form is not None:
            self.oracle.p[...] = self.unwalked(self.form.load(*self.itself))
        for letter, form in self.forms.items():
            elements = formats.loaded(form, *self.buffers[letter], np.dtype(self.dtype))
            self.oracle.state[letter] = np.array(self.unwalked(elements), order="C")

    def take_rest(self, rest: Array | None) -> None:
        """Have another second part beside the same parameter."""
        if self.itself is not None:
            self.itself = self.itself[0], rest
            self.load()

    def expected(self) -> Array:
        """The array as it must be."""
        return self.oracle.p if self.itself is None else self.unwalked(self.itself[0].view(self.array.dtype))

    def expected_rest(self) -> dict[str, Array]:
        """The second part of the parameter, by its letter."""
        if self.itself is None or self.itself[1] is None:
            return {}
        return {"low" if self.form.name.startswith("split") else "master": self.unwalked(self.itself[1])}

    def move(self, rng: random.Random, values: Array) -> None:
        """Lie elsewhere."""
        self.placed = Placed(rng, values)
        self.array = self.placed.array


def form_of_parameter(array: Array, master: str | None) -> formats.Format | None:
    """How a parameter is stored, None where it is float32 or float64; ValueError where it cannot be."""
    if array.dtype == np.float16:
        if master not in ("auto", "float32", None):
            raise ValueError
        return formats.FORMATS["float16" if master is None else "master_float16"]
    if array.dtype != BFLOAT16:
        return None
    return formats.FORMATS[{"auto": "split16", "float32": "master_bfloat16", None: "bfloat16"}.get(master, str(master))]


def forms_of_state(rule: str, array: Array, state_dtype: Any) -> dict[str, formats.Format]:
    """How the buffers are stored that are not native; ValueError where they cannot be."""
    settings, found = fastopt._core.Settings(rule), {}
    if isinstance(state_dtype, dict) and not set(state_dtype) <= set(settings.state_names):
        raise ValueError
    for s, (letter, kind) in enumerate(zip(settings.state_names, settings.kinds, strict=True)):
        word = state_dtype.get(letter) if isinstance(state_dtype, dict) else state_dtype
        native = "float64" if array.dtype == np.float64 else "float32"
        if word is None or word == native:
            continue
        if kind == "exact" or not settings.is_whole(s):
            if isinstance(state_dtype, dict):
                raise ValueError
            continue
        if word == "8bit" and settings.takes_matrices:
            raise ValueError
        if word == "8bit" and array.size < 2:
            continue
        name = f"codes_{kind}" if word == "8bit" else word
        found[letter] = formats.FLOAT32 if name == "float32" else formats.FORMATS[name]
    return found


class Model:
    """An optimizer and what it must be like, from its making to its end."""

    def __init__(self, rng: random.Random, tell: Callable[..., None], first: int = 0) -> None:
        """`first` is the number from which names count that are no places."""
        self.rng, self.tell = rng, tell
        self.cls = rng.choice(list(DEFAULTS))
        self.kinds: list[str] = []
        self.parameters: list[Parameter] = []
        self.grouped = rng.random() < 0.4
        for group in range(rng.choice((1, 1, 2, 3)) if self.grouped else 1):
            kind = rng.choice(("array", "sequence", "sequence", "mapping", "nest"))
            count = 1 if kind == "array" else rng.choice((1, 2, 2, 3, 5))
            place = first + len(self.parameters)
            names = [f"p{place + i}" if kind == "mapping" else len(self.parameters) + i for i in range(count)]
            if kind == "nest":
                names = [f"b{place}.{i}" if place % 2 else f"b{place}.p{i}" for i in range(count)]
            self.kinds.append(kind)
            self.parameters += [Parameter(rng, name, group) for name in names]
        self.given: list[dict[str, Any]] = [{} for _ in self.kinds]
        self.options: dict[str, Any] = {}
        if rng.random() < 0.3:
            self.options["nonfinite"] = rng.choice(("propagate", "raise", "skip"))
        if rng.random() < 0.3:
            self.options["num_threads"] = rng.choice((None, 1, 2, 3, 1000, np.int64(2)))
        if rng.random() < 0.2:
            averages = {
                "ema_decay": rng.choice((0, 0.5, 0.999, np.float32(0.9))),
                "swa": (rng.choice((1, 2, 5)), rng.choice((1, np.int64(2)))),
                "lookahead": [rng.choice((1, 2, 3)), rng.choice((0, 0.5, 1))],
            }
            if self.cls in AVERAGING:
                del averages["lookahead"]
            self.options |= {name: averages[name] for name in averages if rng.random() < 0.6}
        if rng.random() < 0.2:
            self.options["clip_norm"] = rng.choice((1e-3, 1.0, 1e30, inf))
            self.options["clip_norm_per"] = rng.choice(("all", "group", "parameter"))
        if rng.random() < 0.1:
            self.options["clip_value"] = rng.choice((1e-3, 1.0, inf))
        self.norms: dict[Any, float] | None = None  # of what the last step clipped
        self.scale, self.good_steps = 0.0, 0
        if rng.random() < 0.1:
            self.scale = rng.choice((0.25, 8.0, 3.0))
            self.options |= {"nonfinite": "skip", "grad_scale": fastopt.LossScale(self.scale, interval=2)}
        self.storage = self.a_storage()
        self.shared = self.hyper()
        if self.grouped:
            self.given = [self.hyper() if rng.random() < 0.5 else {} for _ in self.kinds]
            for given in self.given:
                if rng.random() < 0.2:
                    given["lr_scale"] = a_value(rng, kind_of(self.cls, "lr_scale"))
        self.step_count = self.skipped = 0
        self.bound: list[Any] | None = None
        self.holder: Any = None  # the containers in which the parameters are, where that is known
        self.over = False  # whether it is left in a state that this test does not follow

    def hyper(self) -> dict[str, Any]:
        names = [name for name in defaults(self.cls) if self.rng.random() < 0.3]
        return {name: a_value(self.rng, kind_of(self.cls, name)) for name in names}

    def a_storage(self) -> dict[str, Any]:
        """How parameters and state are stored."""
        given: dict[str, Any] = {}
        short = any(p.array.dtype.itemsize == 2 for p in self.parameters)
        if self.rng.random() < 0.4:
            words = ("float32", "bfloat16", "float16", "8bit", np.float32, BFLOAT16)
            given["state_dtype"] = self.rng.choice(words)
            if self.rng.random() < 0.3:
                given["state_dtype"] = {self.rng.choice("mvmvbGpz"): self.rng.choice(words[:4])}
        if self.rng.random() < (0.5 if short else 0.05):
            given["master"] = self.rng.choice(("split16", "split8", "float32", None, "auto"))
        if self.rng.random() < 0.4:
            given["rounding"] = self.rng.choice(("nearest", "stochastic"))
        if self.rng.random() < 0.4:
            given["seed"] = self.rng.choice((0, 5, 2**64 - 1, np.int64(3)))
        return given

    def storage_of(self) -> dict[str, Any]:
        """The same with its defaults, in words."""
        storage = {**STORAGE, "seed": 0, **self.storage}
        word = storage["state_dtype"]
        return {**storage, "state_dtype": np.dtype(word).name if isinstance(word, type) else word}

    def members(self, group: int) -> list[Parameter]:
        return [p for p in self.parameters if p.group == group]

    def build(self, arrays: Sequence[Any], lazy: bool = False) -> Any:
        """Arrays, one per parameter, in the structure of the parameters."""
        groups = []
        for group, kind in enumerate(self.kinds):
            mine = [array for p, array in zip(self.parameters, arrays, strict=True) if p.group == group]
            groups.append(container(self.rng, kind, [p.name for p in self.members(group)], mine, lazy))
        return groups if self.grouped else groups[0]

    def params(self) -> Any:
        params = self.build([p.array for p in self.parameters])
        if not self.grouped:
            return params
        return [{"params": entry, **given} for entry, given in zip(params, self.given, strict=True)]

    def make(self, params: Any, **spoiled: Any) -> Any:
        kwargs = {**self.shared, **self.options, **self.storage, **spoiled}
        self.tell(self.cls, params, kwargs)
        return getattr(fastopt, self.cls)(params, **kwargs)

    def begin(self) -> bool:
        """Make the optimizer; False when its hyperparameters are refused, as they should be."""
        self.settings = [
            {**defaults(self.cls), "lr_scale": 1.0, **self.shared, **self.given[group]}
            for group in range(len(self.kinds))
        ]
        try:
            meant = [understood(self.cls, settings) for settings in self.settings]
            rules = {CLASSES[self.cls].rule_of(of_group) for of_group in meant}
            if any(RULES[rule].gathers in ("alone", "together") for rule in rules):
                self.storage.pop("state_dtype", None)  # they may read what they have just stored: see twins.py
            for p in self.parameters:
                case = Case("", self.cls, CLASSES[self.cls].rule_of(meant[p.group]), scaled(meant[p.group]))
                averages = {key: self.options[key] for key in ("ema_decay", "swa", "lookahead") if key in self.options}
                p.begin(case, averages, self.storage_of())
            short = any(p.form is not None for p in self.parameters)
            if self.storage.get("master", "auto") not in ("auto", None) and not short:
                raise ValueError
        except ValueError:
            meant = []
        params = self.params()
        self.holder = [group["params"] for group in params] if self.grouped else params
        outcome, self.opt = attempt(self.make, params)
        expect(outcome, "right" if meant else "refused")
        if not meant:
            return False
        self.check()
        return True

    def accept(self, group: int, settings: dict[str, Any]) -> None:
        """These are the settings of a group from now on."""
        self.settings[group] = settings
        meant = understood(self.cls, settings)
        for p in self.members(group):
            p.oracle.case = Case("", self.cls, p.oracle.case.rule, scaled(meant))

    def check(self) -> None:
        """The optimizer is what it must be."""
        if (self.opt.step_count, self.opt.skipped_steps) != (self.step_count, self.skipped):
            raise WrongResultError(
                f"steps {self.opt.step_count}, skipped {self.opt.skipped_steps}: expected"
                f" {self.step_count}, {self.skipped}"
            )
        if self.scale and self.opt._options["grad_scale"].value != self.scale:
            raise WrongResultError(f"scale {self.opt._options['grad_scale'].value}, expected {self.scale}")
        if self.opt._table.steps() != [p.oracle.t for p in self.parameters]:
            raise WrongResultError(f"step counts {self.opt._table.steps()}")
        for i, (group, settings) in enumerate(zip(self.opt.groups, self.settings, strict=True)):
            if {key: group[key] for key in settings} != understood(self.cls, settings):
                raise WrongResultError(f"groups[{i}] is {dict(group, params=0)}, expected {settings}")
        for p in self.parameters:
            if not same(p.array, p.expected()):
                raise WrongResultError(f"parameter {p.name!r}: {p.array}, expected {p.expected()}")
            if not p.placed.gaps_are_whole():
                raise WrongResultError(f"parameter {p.name!r}: memory between its elements was written")
            self.check_state(p)

    def check_state(self, p: Parameter) -> None:
        """The state of a parameter is what it must be."""
        state = self.opt.state[p.name]
        for letter, (data, rest) in p.buffers.items():
            codes = p.walked(state[letter].codes)
            if not same(codes, data.view(codes.dtype)) or (rest is not None and not same(state[letter].scales, rest)):
                raise WrongResultError(f"state {letter} of {p.name!r}: {parts(state[letter])}, expected {data}, {rest}")
        others = {key: value for key, value in p.oracle.state.items() if key not in p.buffers}
        if "largest_lr" in state:
            others["largest_lr"] = p.oracle.largest_lr
        for letter, expected in {**others, **p.averages.buffers, **p.expected_rest()}.items():
            actual = state[letter]
            if isinstance(expected, float) and expected == actual == 0:
                continue  # of either sign
            if not same(actual, np.asarray(expected)):
                raise WrongResultError(f"state {letter} of {p.name!r}: {actual}, expected {expected}")

    def gradient(self, p: Parameter) -> Array:
        shape = p.array.shape
        dtype = p.dtype if self.rng.random() < 0.7 else self.rng.choice(FORMATS).type
        if shape and self.rng.random() < 0.1:
            return np.broadcast_to(numbers(self.rng, (*shape[:-1], 1), dtype), shape)
        g = Placed(self.rng, numbers(self.rng, shape, dtype, 0.3)).array
        g.flags.writeable = self.rng.random() < 0.9
        return g

    def gradients(self) -> list[Any]:
        some = self.parameters[0].oracle.rule not in reference.TOGETHER  # which refuse them for some of a group
        return [None if some and self.rng.random() < 0.1 else self.gradient(p) for p in self.parameters]

    def some_gradients(self, lazy: bool = True) -> tuple[list[Any], Any]:
        """Gradients, and the structure in which they are given: never just None, which is another call."""
        grads = self.gradients()
        if not self.grouped and self.kinds[0] == "array" and grads[0] is None:
            grads = [self.gradient(self.parameters[0])]
        return grads, self.build(grads, lazy)
