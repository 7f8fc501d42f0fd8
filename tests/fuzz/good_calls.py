"""Well-formed calls of an optimizer: each must do exactly what the oracles do."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections import UserDict, UserList, deque
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import image, numbers, parts
from fuzz.expected import Expected
from fuzz.outcomes import WrongResultError, attempt, expect
from fuzz.values import Array, a_value, alone, garbage, is_fixed, kind_of, plain_type, understood
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


def copied(rng: random.Random, arrays: list[Array], opt: Any) -> tuple[list[Array], Any]:
    """Copies of the parameters and of their optimizer."""
    if rng.random() < 0.5:
        return copy.deepcopy((arrays, opt))
    copies: tuple[list[Array], Any] = pickle.loads(pickle.dumps((arrays, opt)))
    return copies


class GoodCalls(Expected):
    """Each method makes one call and returns its outcome."""

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
        g = self.gradient(p)
        changes = {name: value for name, value in one_step(self.rng).items() if name in ("grad_scale", "clip_value")}
        self.tell("step_one", p.name, g, changes)
        clips_several = "clip_norm" in self.options and self.options["clip_norm_per"] != "parameter"
        of_all = p.oracle.case.rule in reference.TOGETHER or clips_several
        if of_all or (self.scale and "grad_scale" not in changes):
            expected = "refused"
        else:
            expected = self.expected_step([g if q is p else None for q in self.parameters], changes, one=True)
        outcome, _ = attempt(self.opt.step_one, p.name, g, **changes)
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

    def bind(self) -> str:
        grads = self.gradients()
        given = self.build(grads)
        self.tell("bind", given)
        outcome, _ = attempt(self.opt.bind, given)
        expect(outcome, "right")
        self.bound = grads
        return outcome

    def step_bound(self) -> str:
        for g in self.bound or ():
            if g is not None and g.flags.writeable:
                g[...] = numbers(self.rng, g.shape, g.dtype)
        self.tell("step", None, "bound", self.bound)
        expected = "refused" if self.bound is None else self.expected_step(self.bound)
        outcome, _ = attempt(self.opt.step)
        expect(outcome, expected)
        return outcome

    def reload(self) -> str:
        """Save, make some steps, go back to what was saved."""
        saved = self.opt.state_dict()
        if self.rng.random() < 0.3:
            saved = pickle.loads(pickle.dumps(saved))
        before = self.remember()
        for _ in range(self.rng.randrange(3)):
            self.step()
        self.set_hyper()
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        self.go_back(before)
        return outcome

    def remember(self) -> Any:
        """All that a state dict holds, as the oracles have it."""
        oracles = [
            (
                *copy.deepcopy((p.oracle.state, p.averages, p.buffers, p.itself)),
                p.oracle.t,
                p.oracle.decays,
                p.oracle.largest_lr,
            )
            for p in self.parameters
        ]
        return self.step_count, list(self.settings), oracles

    def go_back(self, before: Any) -> None:
        """Have what was remembered."""
        self.step_count, settings, oracles = before
        for p, (state, averages, buffers, itself, *numbers_of_one) in zip(self.parameters, oracles, strict=True):
            p.oracle.state, p.averages, p.buffers = state, averages, buffers
            p.oracle.t, p.oracle.decays, p.oracle.largest_lr = numbers_of_one
            p.take_rest(itself and itself[1])
        for group, values in enumerate(settings):
            self.accept(group, values)

    def load_live(self) -> str:
        """Load the optimizer's own buffers, not copies of them, two of a parameter in each other's place."""
        saved = self.opt.state_dict()
        for p in self.parameters:
            whole = [letter for letter, buffer in p.oracle.buffers.items() if buffer.shape == p.oracle.p.shape]
            letters = [letter for letter in whole if letter not in p.forms]
            buffers = [self.opt.state[p.name][letter] for letter in letters]
            saved["state"][p.name].update(zip(letters, reversed(buffers), strict=True))
            values = [p.oracle.state[letter] for letter in reversed(letters)]
            p.oracle.state.update(zip(letters, values, strict=True))
        self.tell("load_state_dict", saved)
        outcome, _ = attempt(self.opt.load_state_dict, saved)
        expect(outcome, "right")
        return outcome

    def save(self) -> str:
        """Save to a file and load it, whole or damaged."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state")
            fastopt.save(path, self.opt)
            whole = path.read_bytes()
            content = bytearray(whole)
            at = self.rng.randrange(len(content))
            self.rng.choice(
                (
                    lambda: None,
                    lambda: content.__setitem__(at, content[at] ^ 1 << self.rng.randrange(8)),
                    lambda: content.__delitem__(slice(at, None)),
                    lambda: content.__delitem__(slice(at, at + 8)),
                    lambda: content.__setitem__(slice(at, at), bytes(self.rng.randrange(1, 9))),
                    lambda: content.extend(content[at:]),
                )
            )()
            path.write_bytes(content)
            self.tell("load", path)
            outcome, _ = attempt(fastopt.load, path, self.opt)
        expect(outcome, "right" if content == whole else "refused")
        return outcome

    def replace(self) -> str:
        """Go on with a copy, of parameters in other memory."""
        self.tell("pickle or copy")
        self.go_on_with(*copied(self.rng, [p.array for p in self.parameters], self.opt))
        return "right"

    def go_on_with(self, arrays: list[Array], opt: Any) -> None:
        """Have another optimizer, of other arrays, in the place of this one."""
        self.opt = opt
        for p, array in zip(self.parameters, arrays, strict=True):
            p.array = array
            if p.form is None and not p.forms:  # else elements are rounded by their place in the walk, which stays
                p.set_order()
        self.bound = self.holder = None

    def rebind(self) -> str:
        """Go on with the same values in other memory."""
        for p in self.parameters:
            p.move(self.rng, p.array)
        self.holder = self.build([p.array for p in self.parameters])
        given = [{"params": entry} for entry in self.holder] if self.grouped else self.holder
        self.tell("rebind", given)
        if self.bound is not None and any(map(self.reads_parameter, self.bound)):
            return "right"
        outcome, _ = attempt(self.opt.rebind, given)
        expect(outcome, "right")
        return outcome

    def misplace(self) -> str:
        """Replace an array in the container that it came in, and put it back."""
        group = self.rng.randrange(len(self.kinds))
        holder = self.holder[group] if self.grouped and self.holder is not None else self.holder
        mine = self.members(group)
        if not isinstance(holder, (list, dict, UserDict, UserList, deque)):
            return self.step()
        i = self.rng.randrange(len(mine))
        if self.kinds[group] == "nest":
            (holder,) = holder.values()
        if isinstance(holder, tuple):
            return self.step()
        key = i if not isinstance(holder, (dict, UserDict)) else list(holder)[i]
        array, holder[key] = holder[key], mine[i].array.copy()
        self.tell("step with a replaced array", mine[i].name)
        outcome, _ = attempt(self.opt.step, self.build(self.gradients()))
        holder[key] = array
        expect(outcome, "refused")
        return outcome

    def set_hyper(self) -> str:
        """Set hyperparameters of a group, any of which may be out of range or no number."""
        group = self.rng.randrange(len(self.kinds))
        names = self.rng.sample(list(self.settings[group]), self.rng.choice((1, 1, 1, 2)))
        changes = {name: a_value(self.rng, kind_of(self.cls, name)) for name in names}
        if self.rng.random() < 0.5:
            changes[names[-1]] = (garbage(self.rng), 0.5) if self.rng.random() < 0.1 else garbage(self.rng)
        after = {**self.settings[group], **changes}
        try:
            understood(self.cls, after)
            plain = all(plain_type(kind_of(self.cls, name), value) for name, value in changes.items())
            allowed = ("right",) if plain else ("right", "refused")
            if any(is_fixed(self.cls, name) for name in names):
                allowed = ("right", "refused")
        except ValueError:
            allowed = ("refused",)
        self.tell("set", group, changes)
        target = self.opt.groups[group]
        if len(names) == 1 and self.rng.random() < 0.5:
            outcome, _ = attempt(target.__setitem__, *changes.popitem())
        else:
            outcome, _ = attempt(target.update, changes)
        expect(outcome, *allowed)
        if outcome == "right":
            self.accept(group, after)
        return outcome

    def set_lr(self) -> str:
        kind = kind_of(self.cls, "lr")
        value = a_value(self.rng, kind) if self.rng.random() < 0.5 else garbage(self.rng)
        if self.rng.random() < 0.2:
            value = self.rng.choice((tuple, list))(a_value(self.rng, kind) for _ in self.kinds)
        several = alone(value)
        if type(several) is Array and several.ndim == 1 and several.dtype.kind in "fiu":
            several = several.tolist()
        rates = several if isinstance(several, (tuple, list)) else [value] * len(self.kinds)
        after = [{**settings, "lr": rate} for settings, rate in zip(self.settings, rates, strict=False)]
        try:
            if len(rates) != len(self.kinds):
                raise ValueError
            for settings in after:
                understood(self.cls, settings)
            allowed = ("right",) if all(plain_type(kind, rate) for rate in rates) else ("right", "refused")
        except ValueError:
            allowed = ("refused",)
        self.tell("lr", value)
        outcome, _ = attempt(setattr, self.opt, "lr", value)
        expect(outcome, *allowed)
        if outcome == "right":
            for group, settings in enumerate(after):
                self.accept(group, settings)
        return outcome

    def state_arrays(self) -> list[Array]:
        """The arrays in which the state lies."""
        return [array for letters in self.opt.state.values() for one in letters.values() for array in parts(one)]

    def reads_parameter(self, g: Any) -> bool:
        """Whether an array lies in memory that a step writes."""
        mine = [q.array for q in self.parameters]
        mine += self.state_arrays()
        return isinstance(g, Array) and any(np.shares_memory(g, array) for array in mine)
