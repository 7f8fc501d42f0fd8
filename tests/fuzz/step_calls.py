"""Calls of step, step_one and accumulate, of one optimizer or of several that step as one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from fuzz.arrays import image
from fuzz.expected import Steps
from fuzz.model import Parameter
from fuzz.outcomes import Tell, WrongResultError, attempt, expect
from support import reference
from support.arithmetic import converted


def one_step(rng: random.Random) -> dict[str, Any]:
    """Options of a step."""
    values = {
        "grad_scale": (1, 1024.0, 3, 1e-3, np.float32(0.5)),
        "clip_value": (1e-30, 1e-3, 1, 1e30, inf),
        "clip_norm": (1e-3, 1.0, 1e30, inf),
        "zero_grads": (True, False, np.True_),
    }
    if rng.random() < 0.6:
        return {}
    return {name: rng.choice(values[name]) for name in values if rng.random() < 0.4}


def check_norms(opt: Any, norms: Mapping[Any, float] | None) -> None:
    """The norms of the last step are these, by the unit that each is of; None where it has not clipped."""
    found = opt.grad_norms
    actual = [opt.grad_norm] if found is None else list(found.values()) if isinstance(found, dict) else list(found)
    wanted = [None] if norms is None else list(norms.values())
    if repr(actual) != repr(wanted):  # NaN is NaN
        raise WrongResultError(f"norms are {actual}, expected {wanted}")


class StepCalls(Steps):
    """Each method makes one call and returns its outcome."""

    rng: random.Random
    tell: Tell
    opt: Any
    parameters: list[Parameter]

    def name_of(self, p: Parameter) -> Any:
        """The name by which the optimizer knows a parameter."""
        raise NotImplementedError

    def some_gradients(self, lazy: bool = True) -> tuple[list[Any], Any]:
        """Gradients in the order of the parameters, and the structure in which they are given."""
        raise NotImplementedError

    def step(self) -> str:
        changes = one_step(self.rng)
        zero = bool(changes.get("zero_grads"))
        grads, given = self.some_gradients(lazy=not zero)
        before, skipped = image(grads), self.skipped
        self.tell("step", given, changes)
        if zero and not all(g is None or g.flags.writeable for g in grads):
            expected = "refused"
        else:
            expected = self.expected_step(grads, changes)
        outcome, _ = attempt(self.opt.step, given, **changes)
        expect(outcome, expected)
        if zero and outcome == "right":
            before = image([None if g is None else np.zeros(g.shape, g.dtype) for g in grads])
        if image(grads) != before:
            raise WrongResultError("a gradient was written, or not set to zero")
        if outcome == "right" and self.skipped == skipped:
            check_norms(self.opt, self.norms)
        return outcome

    def step_one(self) -> str:
        p = self.rng.choice(self.parameters)
        g = self.parts[0].gradient(p)
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
        count = self.rng.choice((1, 1, 2, 3))
        for _ in range(count):
            grads, given = self.some_gradients()
            self.tell("accumulate", given)
            outcome, _ = attempt(self.opt.accumulate, given)
            expect(outcome, "right")
            for i, (p, g) in enumerate(zip(self.parameters, grads, strict=True)):
                if g is not None:
                    sums[i] = np.zeros(p.array.shape, p.dtype) if sums[i] is None else sums[i]
                    reference.step("sgd", sums[i], converted(g, p.dtype), {}, 1, {"lr": 1.0}, maximize=True)
        way = self.rng.choice(("mean", "sum"))
        self.tell("step", way)
        expected = self.expected_step(sums, divisor=count if way == "mean" else 1)
        outcome, _ = attempt(self.opt.step, accumulated=way)
        expect(outcome, expected)
        if outcome == "nonfinite":  # what was gathered is still there
            self.opt.discard()
        return outcome
