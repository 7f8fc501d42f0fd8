"""Several optimizers that step as one, beside the models of each."""

from __future__ import annotations

import random
from itertools import chain
from math import inf
from typing import Any

import fastopt
from fuzz.bad_calls import BadCalls
from fuzz.expected import Expected
from fuzz.good_calls import copied
from fuzz.model import Parameter
from fuzz.outcomes import Calls, Tell, WrongResultError, attempt, expect
from fuzz.step_calls import StepCalls

OF_THE_STEP = ("nonfinite", "num_threads", "grad_scale", "clip_norm", "clip_norm_per", "clip_value")


class Together(StepCalls):
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
        return p.name if type(p.name) is str and "." not in p.name else list(self.opt.state)[self.parameters.index(p)]

    def some_gradients(self, lazy: bool = True) -> tuple[list[Any], Any]:
        grads = [model.gradients() for model in self.models]
        return [*chain(*grads)], self.build(grads, lazy)

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
