"""The reference run: the oracles make the step that the optimizer is asked for, and say its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from math import inf
from types import MappingProxyType
from typing import Any

import numpy as np

from fuzz.model import Model, Parameter
from fuzz.values import Array
from support import reference, sums
from support.arithmetic import converted


class Steps:
    """The outcome of steps of one optimizer, or of several that step as one, with the options of the step."""

    options: dict[str, Any]
    scale: float
    good_steps: int
    skipped: int
    norms: dict[Any, float] | None  # of the last step that has clipped

    @property
    def parts(self) -> list[Expected]:
        """The optimizers that step."""
        raise NotImplementedError

    def adapt(self, made: bool) -> None:
        """What a step does to the scale of the loss."""
        self.good_steps = self.good_steps + 1 if made else 0
        if not made:
            self.scale /= 2
        elif self.good_steps == 2:
            self.scale, self.good_steps = 2 * self.scale, 0

    def units(self) -> list[Any]:
        """What each parameter is clipped with: those of one unit have one norm."""
        per = self.options.get("clip_norm_per", "all")
        places = [(k, p.group, i) for k, part in enumerate(self.parts) for i, p in enumerate(part.parameters)]
        return [{"all": None, "group": (k, group), "parameter": (k, i)}[per] for k, group, i in places]

    def expected_step(
        self,
        grads: Sequence[Any],
        changes: Mapping[str, Any] = MappingProxyType({}),
        divisor: int = 1,
        one: bool = False,
    ) -> str:
        """Make the oracles' step; what it must come to."""
        parameters = [p for part in self.parts for p in part.parameters]
        mode = self.options.get("nonfinite", "propagate")
        adapts = self.scale and "grad_scale" not in changes
        scale = float(self.scale if adapts else changes.get("grad_scale", self.options.get("grad_scale", 1)))
        given = [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]
        finite = all(np.isfinite(np.asarray(g, p.dtype)).all() for p, g in given)
        if mode == "skip" and not finite:
            self.skipped += 1
            if adapts:
                self.adapt(made=False)
            return "right"
        if mode == "raise" and not finite:
            return "nonfinite"
        walked = [None if g is None else walked_gradient(p, g) for p, g in zip(parameters, grads, strict=True)]
        limit = changes.get("clip_norm", self.options.get("clip_norm"))
        factors, self.norms = clipped(self.units(), walked, 1 / (divisor * scale), limit)
        clip_value = float(changes.get("clip_value", self.options.get("clip_value", 0)))
        rest = iter(zip(grads, factors, strict=True))
        for part in self.parts:
            mine, of_mine = zip(*islice(rest, len(part.parameters)), strict=True)
            if not one or any(g is not None for g in mine):
                part.advance(mine, of_mine, one, clip_value)
        if adapts:
            self.adapt(made=True)
        return "right"


def clipped(
    units: Sequence[Any], grads: Sequence[Array | None], factor: float, limit: float | None
) -> tuple[list[float], dict[Any, float] | None]:
    """The factor of each gradient, and the norm of each unit, None where nothing is clipped."""
    if limit is None:
        return [factor] * len(units), None
    norms, factors = {}, {}
    for unit in dict.fromkeys(units):
        mine = [g for one, g in zip(units, grads, strict=True) if one == unit and g is not None]
        norms[unit] = factor * sums.norm(mine)
        clip = float(limit) / (norms[unit] + 1e-6)
        factors[unit] = factor * clip if clip < 1 or (clip != clip and limit < inf) else factor
    return [factors[unit] for unit in units], norms


def walked_gradient(p: Parameter, g: Array) -> Array:
    """A gradient in the order in which its parameter was walked when its state was laid out."""
    return np.ascontiguousarray(converted(g, p.dtype).transpose(p.order))


class Expected(Model, Steps):
    """A model whose oracles can make a step."""

    @property
    def parts(self) -> list[Expected]:
        return [self]

    def advance(self, grads: Sequence[Any], factors: Sequence[float], one: bool = False, clip_value: float = 0) -> None:
        """Make the oracles' step with the gradients that are given, each times its factor."""
        around = [{"scale": factor, "clip_value": clip_value} for factor in factors]
        stepped = [p for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        now = max(stepped[0].oracle.t, self.step_count - 1) + 1 if one else self.step_count + 1
        for p in stepped:
            p.averages.before(p.oracle.p, p.oracle.t + 1, now)
        for group in range(len(self.kinds)):
            rows = zip(self.parameters, grads, around, strict=True)
            mine = [(p, converted(g, p.dtype), a) for p, g, a in rows if g is not None and p.group == group]
            if mine and mine[0][0].oracle.case.rule in reference.TOGETHER:
                begun = []
                for p, g, a in mine:
                    p.oracle.t += 1
                    case = p.oracle.case
                    values = p.oracle.hyper(**a), p.oracle.options(**a)
                    oracle = p.oracle
                    begun.append(
                        reference.begin(case.rule, oracle.p, g, oracle.state, oracle.t, values[0], **values[1])
                    )
                reference.finish(begun)
            else:
                for p, g, a in mine:
                    p.oracle.step(g, **a)
        for p in stepped:
            p.averages.after(p.oracle.p, p.oracle.t, now)
            p.store()
        for p in [] if one else self.parameters:
            if p not in stepped:
                p.averages.rest(p.oracle.p, p.oracle.t, now)
        counts = [p.oracle.t for p in stepped]
        self.step_count = max(self.step_count, *counts) if one else self.step_count + 1
