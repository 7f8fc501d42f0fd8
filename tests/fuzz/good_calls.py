"""Well-formed calls of an optimizer: each must do exactly what the oracles do."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections import UserDict, UserList, deque
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fuzz.arrays import numbers, parts
from fuzz.expected import Expected
from fuzz.model import Parameter
from fuzz.outcomes import attempt, expect
from fuzz.step_calls import StepCalls
from fuzz.values import Array, a_value, alone, garbage, is_fixed, kind_of, plain_type, understood


def copied(rng: random.Random, arrays: list[Array], opt: Any) -> tuple[list[Array], Any]:
    """Copies of the parameters and of their optimizer."""
    if rng.random() < 0.5:
        return copy.deepcopy((arrays, opt))
    copies: tuple[list[Array], Any] = pickle.loads(pickle.dumps((arrays, opt)))
    return copies


class GoodCalls(Expected, StepCalls):
    """Each method makes one call and returns its outcome."""

    def name_of(self, p: Parameter) -> Any:
        return p.name

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
            p.array = array  # in whatever order it lies, its elements are walked as before
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
