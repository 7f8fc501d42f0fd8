"""Several optimizers that step as one, beside the models of each."""

from __future__ import annotations

import random
from itertools import chain
from math import inf
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import image
from fuzz.bad_calls import BadCalls
from fuzz.expected import Expected, Steps
from fuzz.good_calls import check_norms, copied, one_step
from fuzz.model import Parameter
from fuzz.outcomes import Calls, Tell, WrongResultError, attempt, expect
from support import reference
from support.arithmetic import converted

OF_THE_STEP = ("nonfinite", "num_threads", "grad_scale", "clip_norm", "clip_norm_per", "clip_value")


class Together(Steps):
    """Each method makes one call and returns its outcome."""

    def __init__(self, rng: random.Random, tell: Tell) -> None:
        self.rng, self.tell = rng, tell
        self.models: list[BadCalls] = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            model = BadCalls(rng, tell, len(self.parameters))
            for name in OF_THE_STEP:
                model.options.pop(name, None)
            model.scale = 0.0
            self.models.append(model)
        self.options = {}
        if rng.random() < 0.6:
            self.options["clip_norm"] = rng.choice((1e-3, 1.0, 1e30, inf))
            self.options["clip_norm_per"] = rng.choice(("all", "group", "parameter"))
        if rng.random() < 0.4:
            self.options["nonfinite"] = rng.choice(("propagate", "raise", "skip"))
        if rng.random() < 0.2:
            self.options["clip_value"] = rng.choice((1e-3, 1.0, inf))
        if rng.random() < 0.2:
            self.options["grad_scale"] = rng.choice((0.25, 8, 3.0))
        if rng.random() < 0.3:
            self.options["num_threads"] = rng.choice((None, 1, 2, 3))
        self.scale, self.good_steps, self.skipped, self.norms = 0.0, 0, 0, None

    @property
    def parts(self) -> list[Expected]:
        return [*self.models]

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters of all."""
        return [p for model in self.models for p in model.parameters]

    def begin(self) -> bool:
        """Make the optimizers; False when one is refused, as it should be."""
        if not all(model.begin() for model in self.models):
            return False
        options = dict(self.options)
        if self.rng.random() < 0.3:
            self.scale = self.rng.choice((0.25, 8.0, 3.0))
            self.options["nonfinite"] = "skip"
            self.options.pop("grad_scale", None)
            options = self.options | {"grad_scale": fastopt.LossScale(self.scale, interval=2)}
        self.tell("Combined", [model.opt for model in self.models], options)
        outcome, self.opt = attempt(fastopt.Combined, [model.opt for model in self.models], **options)
        expect(outcome, "right")
        return True

    def check(self) -> None:
        """All optimizers are what they must be."""
        for model in self.models:
            model.check()
        counts = (max(model.step_count for model in self.models), self.skipped)
        if (self.opt.step_count, self.opt.skipped_steps) != counts:
            raise WrongResultError(f"steps {self.opt.step_count}, skipped {self.opt.skipped_steps}: expected {counts}")
        if self.scale and self.opt._options["grad_scale"].value != self.scale:
            raise WrongResultError(f"scale {self.opt._options['grad_scale'].value}, expected {self.scale}")

    def build(self, grads: list[list[Any]], lazy: bool = False) -> Any:
        """Gradients, one list for each optimizer, as they are given."""
        if all(type(p.name) is str for p in self.parameters) and self.rng.random() < 0.5:
            return {p.name: g for p, g in zip(self.parameters, chain(*grads), strict=True)}
        entries = [model.build(gs, lazy) for model, gs in zip(self.models, grads, strict=True)]
        return self.rng.choice((list, tuple, iter))(entries)

    def name_of(self, p: Parameter) -> Any:
        """The name of a parameter among those of all."""
        return p.name if type(p.name) is str and "." not in p.name else list(self.opt.state)[self.parameters.index(p)]

    def step(self) -> str:
        changes = one_step(self.rng)
        zero = bool(changes.get("zero_grads"))
        grads = [model.gradients() for model in self.models]
        flat, skipped = [*chain(*grads)], self.skipped
        given = self.build(grads, lazy=not zero)
        before = image(flat)
        self.tell("step together", given, changes)
        if zero and not all(g is None or g.flags.writeable for g in flat):
            expected = "refused"
        else:
            expected = self.expected_step(flat, changes)
        outcome, _ = attempt(self.opt.step, given, **changes)
        expect(outcome, expected)
        if zero and outcome == "right":
            before = image([None if g is None else np.zeros(g.shape, g.dtype) for g in flat])
        if image(flat) != before:
            raise WrongResultError("a gradient was written, or not set to zero")
        if outcome == "right" and self.skipped == skipped:
            check_norms(self.opt, self.norms)
        return outcome

    def step_one(self) -> str:
        p = self.rng.choice(self.parameters)
        model = next(model for model in self.models if p in model.parameters)
        g = model.gradient(p)
        changes = {name: value for name, value in one_step(self.rng).items() if name in ("grad_scale", "clip_value")}
        self.tell("step_one", self.name_of(p), g, changes)
        clips_several = "clip_norm" in self.options and self.options["clip_norm_per"] != "parameter"
        of_all = p.oracle.case.rule in reference.TOGETHER or clips_several
        if of_all or (self.scale and "grad_scale" not in changes):
            expected = "refused"
        else:
            expected = self.expected_step([g if q is p else None for q in self.parameters], changes, one=True)
        outcome, _ = attempt(self.opt.step_one, self.name_of(p), g, **changes)
        expect(outcome, expected)
        return outcome

    def gather(self) -> str:
        """Accumulate some micro-batches, then step."""
        sums: list[Any] = [None] * len(self.parameters)
        count = self.rng.choice((1, 2, 3))
        for _ in range(count):
            grads = [model.gradients() for model in self.models]
            given = self.build(grads)
            self.tell("accumulate", given)
            outcome, _ = attempt(self.opt.accumulate, given)
            expect(outcome, "right")
            for i, (p, g) in enumerate(zip(self.parameters, chain(*grads), strict=True)):
                if g is not None:
                    sums[i] = np.zeros(p.array.shape, p.dtype) if sums[i] is None else sums[i]
                    reference.step("sgd", sums[i], converted(g, p.dtype), {}, 1, {"lr": 1.0}, maximize=True)
        way = self.rng.choice(("mean", "sum"))
        self.tell("step together", way)
        expected = self.expected_step(sums, divisor=count if way == "mean" else 1)
        outcome, _ = attempt(self.opt.step, accumulated=way)
        expect(outcome, expected)
        if outcome == "nonfinite":  # what was gathered is still there
            self.opt.discard()
        return outcome

    def step_badly(self) -> str:
        """One gradient of one optimizer is none."""
        grads = [model.gradients() for model in self.models]
        k = self.rng.randrange(len(grads))
        i = self.rng.randrange(len(grads[k]))
        grads[k][i] = self.models[k].bad_gradient(self.models[k].parameters[i])
        if any(model.reads_parameter(grads[k][i]) for model in self.models):
            return self.step()
        given = self.build(grads)
        self.tell("step together", given)
        outcome, _ = attempt(self.rng.choice((self.opt.step, self.opt.accumulate)), given)
        expect(outcome, "refused")
        return outcome

    def alone(self) -> str:
        """One of the optimizers makes a call by itself."""
        model = self.rng.choice(self.models)
        name = self.rng.choice(("step", "set_hyper", "set_lr", "reload", "misuse_group", "load_badly"))
        return str(getattr(model, name)())

    def reload(self) -> str:
        """Save, make some steps, go back to what was saved."""
        saved, before = self.opt.state_dict(), [model.remember() for model in self.models]
        for _ in range(self.rng.randrange(3)):
            self.step()
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        for model, one in zip(self.models, before, strict=True):
            model.go_back(one)
        return outcome

    def replace(self) -> str:
        """Go on with a copy, of parameters in other memory."""
        self.tell("pickle or copy")
        arrays, self.opt = copied(self.rng, [p.array for p in self.parameters], self.opt)
        rest = iter(arrays)
        for model, opt in zip(self.models, self.opt.optimizers, strict=True):
            model.go_on_with([next(rest) for _ in model.parameters], opt)
        return "right"


CALLS = ("step",) * 5 + ("step_one", "gather", "step_badly", "alone", "reload", "replace")


def together(rng: random.Random, tell: Tell) -> Calls:
    """Some optimizers that step as one, from their making through some calls."""
    subject = Together(rng, tell)
    if not subject.begin():
        yield "make together", "refused"
        return
    yield "make together", "right"
    for _ in range(rng.randrange(10)):
        name = rng.choice(CALLS)
        outcome = getattr(subject, name)()
        subject.check()
        yield f"{name} together" if len(name) < 8 else name, outcome
        if any(model.over for model in subject.models):
            return
