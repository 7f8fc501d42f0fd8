"""Malformed calls of an optimizer: each must be refused and change nothing."""

from __future__ import annotations

from collections import UserDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz.arrays import BFLOAT16, FORMATS, image
from fuzz.damage import damage, snapshot
from fuzz.good_calls import GoodCalls
from fuzz.model import Parameter
from fuzz.outcomes import WrongResultError, attempt, expect
from fuzz.values import Array, alone, as_float, deep, garbage, is_own
from support import reference
from support.arithmetic import Decay
from support.rule import STORAGE


class BadCalls(GoodCalls):
    """Each method makes one call and returns its outcome."""

    def overlapping(self, p: Parameter) -> Array | None:
        """An array of the shape of p that shares memory with a parameter or with the state."""
        targets = [q.array for q in self.parameters]
        targets += [array for array in self.state_arrays() if array.ndim]
        targets = [a for a in targets if a.dtype == p.dtype and a.size]
        if not targets or not p.array.size:
            return None
        target = self.rng.choice(targets)
        if target.shape == p.array.shape and self.rng.random() < 0.5:
            return target[(slice(None, None, -1),) * target.ndim] if self.rng.random() < 0.5 else target[...]
        return np.broadcast_to(target[(*(0,) * target.ndim, ...)], p.array.shape)

    def bad_gradient(self, p: Parameter) -> Any:
        """Something that is no gradient of p."""
        g = self.gradient(p)
        g = g.astype(np.float32) if g.dtype == BFLOAT16 else g  # of which NumPy makes fewer dtypes
        shape = g.shape
        ways: list[Callable[[], Any]] = [
            lambda: g.astype(self.rng.choice(("i4", "i8", ">f2", "c8", "c16", "?", "O", "U8", np.longdouble))),
            lambda: g.astype(g.dtype.newbyteorder()),
            lambda: np.ones((*shape, 1)[-64:], p.dtype),
            lambda: np.ones((*shape, 0)[-64:], p.dtype),
            lambda: np.ones((*shape[:-1], shape[-1] + 1 if shape else 2), p.dtype),
            lambda: np.ma.masked_array(g, np.zeros(shape, bool)),
            lambda: g.tolist(),
            lambda: g.tobytes(),
            lambda: memoryview(np.array(g)),
            lambda: [g],
            lambda: {p.name: g},
            lambda: garbage(self.rng),
            lambda: self.overlapping(p),
        ]
        bad = self.rng.choice(ways)()
        if bad is None or self.is_gradient(p, bad):
            return g.astype("c8")
        return bad

    def is_gradient(self, p: Parameter, g: Any) -> bool:
        """Whether garbage happens to be right."""
        if not isinstance(g, Array):
            number = isinstance(g, (int, float, np.integer, np.floating)) and not isinstance(g, bool)
            return number and p.array.ndim == 0
        return (
            g.shape == p.array.shape
            and (g.dtype in FORMATS or (g.dtype.kind in "iu" and g.ndim == 0))
            and not isinstance(g, np.ma.MaskedArray)
            and not self.reads_parameter(g)
        )

    def bad_structure(self, grads: list[Any]) -> Any:
        given = self.build(grads)
        p = self.parameters[0]
        if self.grouped and self.rng.random() < 0.5:
            # Numbers are gradients of parameters without axes, also some of those among garbage.
            odd = garbage(self.rng) if all(p.array.ndim for p in self.parameters) else object()
            wrong = (given[:-1], [*given, None], {0: given[0]}, deque(), iter(given[1:]), set(), odd)
            return self.rng.choice(wrong)
        spoiled = given if not self.grouped else given[0]
        kind = self.kinds[0]
        if kind == "array":
            bad = self.rng.choice(([spoiled], (spoiled,), {p.name: spoiled}, [], UserDict({0: spoiled}), deep()))
        elif kind == "sequence":
            entries = list(spoiled)
            bad = self.rng.choice(
                (
                    entries[:-1],
                    [*entries, None],
                    entries * 2,
                    dict(enumerate(entries)),
                    "text",
                    p.array,
                    iter(entries[1:]),
                    iter([*entries, None]),
                    set(range(len(entries))),
                    {p.name: None},
                    range(10**30),
                    range(10**9),
                    "x" * len(entries),
                )
            )
        else:
            entries = dict(spoiled)
            bad = self.rng.choice(
                (
                    {**entries, "more": None},
                    dict(list(entries.items())[1:]),
                    {f"{k}'": v for k, v in entries.items()},
                    list(entries.values()),
                    list(entries.items()),
                    set(entries),
                    p.array,
                    {**entries, 0: None},
                    {k.encode(): v for k, v in entries.items()},
                    "text",
                )
            )
        return [bad, *given[1:]] if self.grouped else bad

    def step_badly(self) -> str:
        grads = self.gradients()
        if self.rng.random() < 0.35:
            given = self.bad_structure(grads)
        else:
            i = self.rng.randrange(len(grads))
            grads[i] = self.bad_gradient(self.parameters[i])
            given = self.build(grads)
        if given is None and self.bound is not None:
            return self.step_bound()
        call = self.rng.choice((self.opt.step, self.opt.step, self.opt.bind, self.opt.accumulate))
        if call == self.opt.accumulate and any(map(self.reads_parameter, grads)):
            call = self.opt.step  # to read a parameter is no mistake where none is written
        before = image(grads)
        self.tell(call.__name__, given)
        outcome, _ = attempt(call, given)
        expect(outcome, "refused")
        if image(grads) != before:
            raise WrongResultError("a gradient was written")
        return outcome

    def step_read_only(self) -> str:
        """The parameter is no longer what it was when the optimizer was made."""
        p = self.rng.choice(self.parameters)
        if p.array is not p.placed.array:
            return self.step()
        grads = [self.gradient(q) for q in self.parameters]
        self.tell("step with a read-only parameter", p.name)
        p.array.flags.writeable = False
        outcome, _ = attempt(self.opt.step, self.build(grads))
        p.array.flags.writeable = True
        expect(outcome, "refused")
        return outcome

    def load_badly(self) -> str:
        """Load a saved state with one or two entries changed, or garbage."""
        saved = self.opt.state_dict()
        if self.rng.random() < 0.1:
            saved = garbage(self.rng)
        else:
            for _ in range(self.rng.choice((1, 1, 1, 2))):
                damage(self.rng, saved)
        self.tell("load_state_dict", saved)
        wanted = snapshot(saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right", "refused")
        if outcome == "right":
            self.take_over(wanted)
        return outcome

    def take_over(self, saved: dict[str, Any]) -> None:
        """A state that was loaded must be complete and valid."""
        try:
            if (saved["format"], saved["rule"], set(saved)) != (1, self.cls, set(self.opt.state_dict())):
                raise ValueError("its kind")
            self.step_count = int(saved["step_count"])
            for i, entry in enumerate(saved["groups"]):
                added = type(self.opt)._declaration.added
                values = {**added, **{name: value for name, value in entry.items() if name != "params"}}
                values = {name: value for name, value in values.items() if name not in STORAGE}  # of which state tells
                own = {name: values.pop(name) for name in set(values) - set(self.settings[i])}
                if not all(is_own(*one) for one in own.items()):
                    raise ValueError(f"keys of groups[{i}]")
                if set(values) != set(self.settings[i]) or set(entry["params"]) != {p.name for p in self.members(i)}:
                    raise ValueError(f"groups[{i}]")
                self.accept(i, values)
            if set(saved["state"]) != {p.name for p in self.parameters}:
                raise ValueError("names")
            for p in self.parameters:
                entry = dict(saved["state"][p.name])
                p.oracle.t = int(entry.pop("step"))
                p.oracle.decays = {name: Decay(value) for name, value in p.oracle.case.hyper().items()}
                if p.averages.ema_decay is not None or p.averages.swa is not None:
                    p.averages.averaged, p.averages.begun = entry.pop("averaged"), int(entry.pop("begun"))
                    self.over |= type(p.averages.averaged) is Array  # as rows have it
                for name, decay in entry.pop("decays", {}).items():
                    if set(decay) != {"value", "since", "product", "age"}:
                        raise ValueError(f"decays of {p.name!r}")
                    p.oracle.decays[name] = Decay(**decay)
                if entry.pop("dtype", p.array.dtype.name) != p.array.dtype.name:
                    raise ValueError(f"dtype of {p.name!r}")
                if entry.pop("formats", {}) != {letter: form.name for letter, form in p.forms.items()}:
                    raise ValueError(f"formats of {p.name!r}")
                entry.pop("order", None)
                scales = {letter: entry.pop(f"{letter}.scales", None) for letter in p.forms}
                if set(entry) != set(self.opt.state[p.name]):
                    raise ValueError(f"state of {p.name!r}")
                if "largest_lr" in entry:
                    p.oracle.largest_lr = as_float(alone(entry.pop("largest_lr")))
                rests = [p.walked(entry.pop(letter)) for letter in p.expected_rest()]
                for letter in p.forms:
                    data = p.walked(entry.pop(letter))
                    p.buffers[letter] = data.view(p.forms[letter].data), scales[letter]
                carries = reference.CARRIES.get(p.oracle.rule, ())
                for letter in carries:
                    entry[letter] = as_float(entry[letter])
                if any(type(entry[letter]) is not Array for letter in entry if letter not in carries):
                    raise ValueError(f"arrays of {p.name!r}")
                p.averages.buffers = {name: entry.pop(name).copy() for name in p.averages.buffers}
                p.oracle.state |= {k: v if k in carries else v.copy() for k, v in entry.items()}
                p.take_rest(rests[0] if rests else None)
                p.load()
        except (KeyError, TypeError, ValueError) as error:
            raise WrongResultError(f"load_state_dict took what it should refuse: {error}") from error

    def misuse_group(self) -> str:
        group = self.rng.choice(self.opt.groups)
        name = self.rng.choice(("lr", "params", "nothing", 3))
        way = self.rng.choice(
            (
                lambda: group.pop(name),
                group.clear,
                group.popitem,
                lambda: group.__delitem__(name),
                lambda: group.update({"lr": 0.5, "nothing": 1}),
                lambda: group.__setitem__("params", []),
                lambda: group.setdefault("x", 1),
                lambda: group.update(garbage(self.rng)),
                lambda: group.update(5),
                lambda: group.__ior__({"lr": 0.5}),
            )
        )
        self.tell("groups", name)
        outcome, _ = attempt(way)
        return outcome
