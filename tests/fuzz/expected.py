"""The reference run: the oracles make the step that the optimizer is asked for, and say its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any

import numpy as np

from fuzz.model import Model, Parameter
from fuzz.values import Array
from support import reference, sums
from support.arithmetic import converted


class Expected(Model):
    """A model whose oracles can make a step."""

    def walked(self, p: Parameter, g: Array) -> Array:
        """A gradient in the order in which its parameter was walked when its state was laid out."""
        return np.ascontiguousarray(converted(g, p.dtype).transpose(p.order))

    def advance(self, grads: Sequence[Any], one: bool, **around: float) -> None:
        """Make the oracles' step with the gradients that are given."""
        stepped = [p for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        now = max(stepped[0].oracle.t, self.step_count - 1) + 1 if one else self.step_count + 1
        for p in stepped:
            p.averages.before(p.oracle.p, p.oracle.t + 1, now)
        for group in range(len(self.kinds)):
            mine = [(p, converted(g, p.dtype)) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
            mine = [(p, g) for p, g in mine if p.group == group]
            if mine and mine[0][0].oracle.case.rule in reference.TOGETHER:
                begun = []
                for p, g in mine:
                    p.oracle.t += 1
                    case = p.oracle.case
                    values = p.oracle.hyper(**around), p.oracle.options(**around)
                    oracle = p.oracle
                    begun.append(
                        reference.begin(case.rule, oracle.p, g, oracle.state, oracle.t, values[0], **values[1])
                    )
                reference.finish(begun)
            else:
                for p, g in mine:
                    p.oracle.step(g, **around)
        for p in stepped:
            p.averages.after(p.oracle.p, p.oracle.t, now)
            p.store()
        for p in [] if one else self.parameters:
            if p not in stepped:
                p.averages.rest(p.oracle.p, p.oracle.t, now)

    def adapt(self, made: bool) -> None:
        """What a step does to the scale of the loss."""
        self.good_steps = self.good_steps + 1 if made else 0
        if not made:
            self.scale /= 2
        elif self.good_steps == 2:
            self.scale, self.good_steps = 2 * self.scale, 0

    def expected_step(
        self,
        grads: Sequence[Any],
        changes: Mapping[str, Any] = MappingProxyType({}),
        divisor: int = 1,
        one: bool = False,
    ) -> str:
        """Make the oracles' step; what it must come to."""
        mode = self.options.get("nonfinite", "propagate")
        adapts = self.scale and "grad_scale" not in changes
        scale = float(self.scale if adapts else changes.get("grad_scale", 1))
        given = [(p, g) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        finite = all(np.isfinite(np.asarray(g, p.dtype)).all() for p, g in given)
        if mode == "skip" and not finite:
            self.skipped += 1
            if adapts:
                self.adapt(made=False)
            return "right"
        if mode == "raise" and not finite:
            return "nonfinite"
        factor, self.norm = 1 / (divisor * scale), None
        if "clip_norm" in changes:
            walked = [self.walked(p, g) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
            self.norm = factor * sums.norm(walked)
            clip = float(changes["clip_norm"]) / (self.norm + 1e-6)
            if clip < 1 or (clip != clip and changes["clip_norm"] < inf):
                factor *= clip
        self.advance(grads, one, scale=factor, clip_value=float(changes.get("clip_value", 0)))
        stepped = [p.oracle.t for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        self.step_count = max(self.step_count, *stepped) if one else self.step_count + 1
        if adapts:
            self.adapt(made=True)
        return "right"
