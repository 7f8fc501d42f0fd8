"""The oracle: every row of csrc/rules/rules.def in plain NumPy, one operation at a time in the order of the C loop.

The two agree to the last bit in float32 and in float64. Kernels run with subnormals flushed, so the arrays here are
`Flushed` ones. The rules themselves stand in tests/rules/; this is what happens around them.
"""

import contextlib
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from support.arithmetic import Decay, Flushed, flush, flush_number, rough_power
from support.registry import RULES

ALONE = {name for name, rule in RULES.items() if rule.gathers in ("alone", "matrices")}
TOGETHER = {name for name, rule in RULES.items() if rule.gathers == "together"}
STARTS = {name for name, rule in RULES.items() if rule.starts}
CORRECTED = {name: rule.corrected for name, rule in RULES.items() if rule.corrected}
CARRIES = {name: rule.carries for name, rule in RULES.items() if rule.carries}
EXTENTS = {name: rule.extents for name, rule in RULES.items() if rule.extents}
CATCH_UP = {name for name, rule in RULES.items() if rule.catch_up}


@cache
def state_names(rule: str) -> tuple[str, ...]:
    """The letters of a rule's state buffers, in order."""
    names = inspect.signature(RULES[rule].oracle).parameters.values()
    return tuple(p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD)[2:]


def state_shapes(rule: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a rule's state buffers for a parameter of this shape."""
    others = EXTENTS.get(rule, {})
    return {name: others[name](shape) if name in others else shape for name in state_names(rule)}


@cache
def hyper_names(rule: str) -> tuple[str, ...]:
    """A rule's hyperparameters, in order."""
    names = inspect.signature(RULES[rule].oracle).parameters.values()
    return tuple(p.name for p in names if p.kind is p.KEYWORD_ONLY and p.name not in ("t", "carry"))


def noted(rule: str, t: int, hyper: Mapping[str, float], before: Mapping[str, Decay]) -> dict[str, Decay]:
    """The decays on step t, from the decays on the step before."""
    decays = {}
    for name in CORRECTED.get(rule, ()):
        last = before.get(name) if t > 1 else None
        if last is None or last == hyper[name]:
            decays[name] = Decay(hyper[name]) if last is None else last
        else:
            decays[name] = last.then(hyper[name], t - 1)
    return decays


def new_state(rule: str, p: np.ndarray, start: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """State before the first step: zeros, except where something else is asked for by name."""
    shapes = state_shapes(rule, p.shape)
    return {name: np.full(shape, start.get(name, 0.0), p.dtype) for name, shape in shapes.items()}


def step(
    rule: str,
    p: np.ndarray,
    g: np.ndarray,
    state: dict[str, Any],
    t: int,
    hyper: Mapping[str, float],
    **options: Any,
) -> None:
    """One step in place on p and on the arrays (and carried doubles) of state; `begin` has the options."""
    step_all(rule, [p], [g], [state], t, hyper, **options)


def step_all(
    rule: str,
    params: list[np.ndarray],
    grads: list[np.ndarray],
    states: list[dict[str, Any]],
    t: int,
    hyper: Mapping[str, float],
    **options: Any,
) -> None:
    """One step of parameters that share their hyperparameters: the stages, then the rule."""
    with np.errstate(all="ignore"):
        begun = [begin(rule, *each, t, hyper, **options) for each in zip(params, grads, states, strict=True)]
        if rule in TOGETHER:
            finish(begun)


def finish(begun: list[Any]) -> None:
    """Go on with what `begin` has begun, once the sums of all of them are known."""
    terms = [next(one) for one in begun]
    sums = [0.0] * (len(terms[0]) if terms else 0)
    for of_one in terms:
        for i, values in enumerate(of_one):
            for value in values:
                sums[i] += value
    for one in begun:
        with contextlib.suppress(StopIteration):
            one.send(sums)


def begin(
    rule: str,
    p: np.ndarray,
    g: np.ndarray,
    state: dict[str, Any],
    t: int,
    hyper: Mapping[str, float],
    *,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    independent_decay: float = 0.0,
    cautious_decay: bool = False,
    largest_lr: float | None = None,
    maximize: bool = False,
    scale: float = 1.0,
    clip_value: float = 0.0,
) -> Any:
    """The stages, then what the rule returns."""
    T = p.dtype.type
    p, g = p.view(Flushed), g.view(Flushed)
    extra = {"carry": state} if rule in CARRIES else {}
    number = np.finfo(T)
    if not (scale == 0 or number.tiny <= abs(scale) <= number.max):  # a factor beyond T is applied in two parts
        rest = 2.0**-100 if abs(scale) < number.tiny else 2.0**100
        g = (T(scale / rest) * g) * T(rest)
    elif T(scale) != 1:
        g = T(scale) * g
    if maximize:
        g = -g
    if clip_value:
        clip = T(clip_value) if T(clip_value) >= number.tiny else T(0)
        g = np.where(g > clip, clip, np.where(g < -clip, -clip, g)).view(Flushed)
    if T(weight_decay) >= np.finfo(T).tiny:  # a smaller decay is 0, and none even where p is infinite
        g = g + T(weight_decay) * p
    # Computed within the pass, where subnormal doubles count as 0 too.
    lr, decoupled, independent = map(float, flush([hyper["lr"], decoupled_decay, independent_decay]))
    corrected = flush_number(lr / largest_lr) if largest_lr else 1.0
    share = flush_number(flush_number(lr * decoupled) * corrected) + independent
    if "decay" in hyper:
        own, scaled = hyper["decay"], hyper["lr"] / largest_lr if largest_lr else 1.0
        hyper = {**hyper, "decay": 0.0 if cautious_decay else own * scaled}
        if cautious_decay and (own := flush_number(own)):
            rate = flush_number(RULES[rule].decay_rate(T, t, state, hyper))
            share += flush_number(flush_number(rate * own) * corrected)
    if (decoupled_decay or independent_decay) and not cautious_decay:
        p *= T(1 - flush_number(flush_number(lr * decoupled) * corrected) - independent)
    before = p.copy()
    begun = RULES[rule].oracle(p, g, *(state[name].view(Flushed) for name in state_names(rule)), t=t, **extra, **hyper)
    if not cautious_decay:
        return begun
    if rule in TOGETHER:
        return then_decayed(begun, p, before, share)
    decay_cautiously(p, before, share)
    return None


def then_decayed(begun: Any, p: np.ndarray, before: np.ndarray, share: float) -> Any:
    """The rest of a step that looks at all parameters, and cautious decay after it."""
    sums = yield next(begun)
    with contextlib.suppress(StopIteration):
        begun.send(sums)
    decay_cautiously(p, before, share)


def decay_cautiously(p: np.ndarray, before: np.ndarray, share: float) -> None:
    """Take a share of p as it was before the step where the step has moved it towards 0, or has not moved it."""
    if flush(p.dtype.type(share)) == 0:
        return
    u = before - p
    along = np.where(before < 0, -u, u) >= 0
    p -= np.where(along, flush(p.dtype.type(share)) * before, p.dtype.type(0))


def catch_up(rule: str, p: np.ndarray, state: dict[str, Any], skipped: int, hyper: Mapping[str, float]) -> None:
    """Make up in place for so many steps whose gradient was 0."""
    with np.errstate(all="ignore"):
        RULES[rule].catch_up(
            p.view(Flushed), {key: array.view(Flushed) for key, array in state.items()}, skipped, **hyper
        )


def mixed(average: np.ndarray, p: np.ndarray, rate: float) -> np.ndarray:
    """The average when it has moved towards p; all the way it is a copy."""
    T = p.dtype.type
    if T(rate) == 1:
        return p.copy()
    average, p = average.view(Flushed), p.view(Flushed)
    return np.asarray(average + T(rate) * (p - average))


class Averages:
    """ema, swa and slow of one parameter, whose arrays it is given, as csrc/kernels/stages.h keeps them.

    A round is a step of the optimizer, t one of the parameter; both are counted from 1.
    """

    def __init__(
        self,
        p: np.ndarray,
        ema_decay: float | None = None,
        swa: tuple[int, int] | None = None,
        lookahead: tuple[int, float] | None = None,
    ) -> None:
        self.ema_decay, self.swa, self.lookahead = ema_decay, swa, lookahead
        names = [
            name for name, option in {"ema": ema_decay, "swa": swa, "slow": lookahead}.items() if option is not None
        ]
        self.buffers = {name: np.zeros_like(p) for name in names}
        self.averaged = self.begun = 0

    def samples(self, round: int) -> int:
        start, every = self.swa or (sys.maxsize, 1)
        return 0 if round < start else (round - start) // every + 1

    def mix(self, name: str, p: np.ndarray, rate: float) -> None:
        with np.errstate(all="ignore"):
            self.buffers[name] = mixed(self.buffers[name], p, rate)

    def take_in(self, p: np.ndarray, first: int, last: int) -> None:
        """Move for the rounds after one up to another, in all of which the parameter was the same."""
        if first < 0:
            self.buffers |= {name: p.copy() for name in self.buffers if name != "slow"}
            return
        if "ema" in self.buffers and first < last:
            self.mix("ema", p, 1 - rough_power(float(self.ema_decay), last - first))
        if "swa" in self.buffers and (more := self.samples(last) - self.samples(first)) > 0:
            self.mix("swa", p, min(1.0, more / max(1, self.samples(last) - self.samples(self.begun))))

    def before(self, p: np.ndarray, t: int, round: int) -> None:
        """Before the step: averages begin, or make up for the rounds that the parameter has missed."""
        if t == 1:
            self.begun = round - 1
            self.buffers = {name: p.copy() for name in self.buffers}
        else:
            self.take_in(p, self.averaged, round - 1)

    def after(self, p: np.ndarray, t: int, round: int) -> None:
        """After the step: averages take the parameter in, and Lookahead moves it."""
        if "slow" in self.buffers and t % self.lookahead[0] == 0:
            self.mix("slow", p, self.lookahead[1])
            p[...] = self.buffers["slow"]
        self.take_in(p, round - 1, round)
        self.averaged = round

    def rest(self, p: np.ndarray, made: int, round: int) -> None:
        """A round in which the parameter, which has made some steps, has no gradient."""
        if made:
            self.take_in(p, self.averaged, round)
            self.averaged = round
