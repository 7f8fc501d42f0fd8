"""What every optimizer shares: parameters, groups, state, the step, save and load."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict

import numpy as np

from . import _core
from .arena import lay_out_state
from .groups import Array, Group, Name, Params, check_hyper, describe, members, split_groups, together
from .threads import check_threads

Grads: TypeAlias = Array | Sequence[Any] | Mapping[Name, Array | None] | None

FORMAT = 1  # of state_dict()
NONFINITE = ("propagate", "raise", "skip")


class StepOptions(TypedDict, total=False):
    """The options of the step that every optimizer takes; `Optimizer` describes them."""

    maximize: bool
    nonfinite: Literal["propagate", "raise", "skip"]
    num_threads: int | None


class Shared(StepOptions, total=False):
    """The options that every optimizer takes whose default decay is the shared one."""

    weight_decay: float


class Optimizer:
    """Parameters, their state, and one fused pass over both per step.

    The classes of the rules (`fastopt.Adam` and the others) are what users make; this one holds what they share.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of name to array, or sequence of groups
        The arrays that `step` updates in place: float32 or float64, writable, any shape, any strides.  A group is a
        mapping with "params" and any hyperparameter in which it differs.
    hyper : dict
        The hyperparameters of the rule, for groups that do not override them.
    weight_decay : float, default 0
        L2 decay, >= 0: the rule sees g + weight_decay * p.  In `AdamW` it shrinks the parameter instead.
    maximize : bool, default False
        Step along the gradient instead of against it.
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What a step does with NaN or infinity in a gradient: nothing special, raise FloatingPointError, or return and
        count in `skipped_steps`.  With the last two, gradients are read once before anything is written, and such a
        step leaves parameters, state and step counts as they were.
    num_threads : int, optional
        Threads of a step, at least 1.  By default the optimizer chooses from what its steps are measured to take, up to
        `fastopt.get_num_threads()`.

    Raises
    ------
    TypeError, ValueError
        For parameters that cannot be updated in place (another type, read-only, overlapping) and hyperparameters out
        of range.  The message names what is required and what came.
    """

    _decoupled: ClassVar[bool] = False  # weight_decay shrinks the parameter, instead of joining the gradient

    def __init_subclass__(cls) -> None:
        """Show the shared options in the signature of each rule."""
        own = inspect.signature(cls.__init__).parameters
        shared = inspect.signature(Optimizer.__init__).parameters
        parameters = [p for name, p in own.items() if name not in ("self", "shared")]
        parameters += [p for name, p in shared.items() if p.kind is p.KEYWORD_ONLY and name not in own]
        cls.__signature__ = inspect.Signature(parameters)

    __signature__: ClassVar[inspect.Signature]

    def __init__(
        self,
        params: Params,
        hyper: dict[str, Any],
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["propagate", "raise", "skip"] = "propagate",
        num_threads: int | None = None,
    ) -> None:
        label = type(self).__name__
        hyper = {**hyper, "weight_decay": weight_decay, "maximize": maximize}
        if nonfinite not in NONFINITE:
            raise ValueError(f"{label}: nonfinite must be one of {', '.join(NONFINITE)}, got {brief(nonfinite)}")
        if num_threads is not None:
            check_threads(f"{label}: num_threads", num_threads, " or None")

        grouped, given = split_groups(label, params, hyper)
        self._lay_out(grouped, given, [None] * len(given), nonfinite, num_threads)

    def _lay_out(
        self,
        grouped: bool,
        given: list[tuple[Any, dict[str, Any]]],
        rules: list[str | None],
        nonfinite: Literal["propagate", "raise", "skip"],
        num_threads: int | None,
    ) -> None:
        """Make groups, state and table; `rules` names those that the hyperparameters no longer tell."""
        label = type(self).__name__
        self._grouped = grouped
        self._structure: list[Any] = []
        self._names: list[Name] = []
        self._members: list[list[Name]] = []
        self.groups: list[Group] = []
        arrays: list[Array] = []
        settings: list[_core.Settings] = []
        initial: list[dict[str, float]] = []
        for i, ((group_params, hyper), rule) in enumerate(zip(given, rules, strict=True)):
            where = f"{label}: params" + (f'[{i}]["params"]' if grouped else "")
            structure, names, group_arrays = members(where, group_params, len(arrays))
            group = Group(type(self), f"{label}: groups[{i}]" if grouped else label, group_arrays, hyper, rule)
            self._structure.append(structure)
            self._names += names
            self._members.append(names)
            self.groups.append(group)
            arrays += group_arrays
            settings += [group.settings] * len(names)
            initial += [self._initial_state(group)] * len(names)

        if not arrays:
            raise ValueError(f"{label}: params must hold at least one array, got none")
        if len(set(self._names)) < len(self._names):
            twice = next(name for i, name in enumerate(self._names) if name in self._names[:i])
            raise ValueError(f"{label}: params must have a name each, got {twice!r} twice")
        labels = [f"{label}: {describe(name)}" for name in self._names]
        for text, array in zip(labels, arrays, strict=True):
            _core.check_parameter(text, array)
        _core.check_disjoint(labels, arrays)

        arena, state = lay_out_state(arrays, [len(s.state_names) for s in settings])
        carry = [np.zeros(len(s.carry_names)) for s in settings]
        self._arena = arena
        #: Each parameter's state arrays, by its name and by the letter of the paper.
        self.state: dict[Name, dict[str, Array]] = {}
        for name, s, buffers, numbers, start in zip(self._names, settings, state, carry, initial, strict=True):
            self.state[name] = dict(zip(s.state_names, buffers, strict=True))
            self.state[name] |= {key: numbers[i, ...] for i, key in enumerate(s.carry_names)}
            for letter, value in start.items():
                self.state[name][letter][...] = value
        self._table = _core.Table(label, self._names, arrays, settings, state, carry, self._structure, grouped, arena)
        self._table.num_threads = num_threads or 0
        self._table.check_finite = nonfinite != "propagate"
        self._table.skip_nonfinite = nonfinite == "skip"
        self._nonfinite = nonfinite

    # What a subclass says of itself.

    @classmethod
    def _rule(cls, hyper: Mapping[str, Any]) -> str:
        """Return the row of rules.def that these hyperparameters select."""
        return cls.__name__.lower()

    @classmethod
    def _check(cls, label: str, hyper: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError unless these hyperparameters are valid, alone and together."""
        check_hyper(label, hyper)

    @classmethod
    def _initial_state(cls, hyper: Mapping[str, Any]) -> dict[str, float]:
        """Return what state buffers start from, where that is not 0."""
        return {}

    # The step.

    def step(self, grads: Grads = None) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        grads : array, sequence or mapping
            Gradients in the structure of the parameters (for groups: a sequence with one entry per group), each with
            its parameter's shape and dtype, any strides, never written.  A gradient of None leaves its parameter, its
            state and its count of steps alone.  Without argument: the arrays given to `bind`.

        Raises
        ------
        TypeError, ValueError
            For gradients that do not fit.  Nothing has been changed then.
        FloatingPointError
            With ``nonfinite="raise"``, for NaN or infinity in a gradient.  Nothing has been changed then.
        """
        self._table.step(grads)

    def bind(self, grads: Grads) -> None:
        """Take these arrays as the gradients of every later `step()` without argument.

        For loops whose gradient buffers never move: the structure is read once, and a step only checks that no buffer
        has been changed in place to another shape or memory.
        """
        self._table.bind(grads)

    @property
    def step_count(self) -> int:
        """How many steps have been made."""
        return self._table.step_count

    @property
    def skipped_steps(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out."""
        return self._table.skipped_steps

    @property
    def lr(self) -> float:
        """The learning rate; setting it sets that of every group."""
        rates = [group["lr"] for group in self.groups]
        if any(rate != rates[0] for rate in rates):
            raise ValueError(f"{type(self).__name__}: lr must be the same in all groups to be read here, got {rates}")
        return rates[0]  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.groups:
            group.checked({"lr": value})
        for group in self.groups:
            group["lr"] = value

    @property
    def num_threads(self) -> int | None:
        """Threads of a step, or None where the optimizer chooses."""
        return self._table.num_threads or None

    # Save and load.

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the parameters, as plain data: copies of the state arrays, numbers and strings."""
        groups = [{**group, "params": list(names)} for group, names in zip(self.groups, self._members, strict=True)]
        with self._table:
            state = {
                name: {"step": steps}
                | {key: float(value) if key in carry else value.copy() for key, value in self.state[name].items()}
                for name, steps, carry in zip(self._names, self._table.steps(), self._carry_names(), strict=True)
            }
            step_count = self.step_count
        rule = type(self).__name__
        return {"format": FORMAT, "rule": rule, "step_count": step_count, "groups": groups, "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, to the bit: state, hyperparameters and counts.

        Raises
        ------
        TypeError, ValueError
            When it is of another rule or other parameters, or damaged.  Nothing has been changed then.
        """
        label = f"{type(self).__name__}.load_state_dict"
        given = _entries(label, "the state", state_dict, ["format", "rule", "step_count", "groups", "state"])
        if not isinstance(given["format"], int) or given["format"] != FORMAT:
            raise ValueError(f"{label}: format must be {FORMAT}, got {brief(given['format'])}")
        if not isinstance(given["rule"], str) or given["rule"] != type(self).__name__:
            raise ValueError(f"{label}: rule must be {type(self).__name__!r}, got {brief(given['rule'])}")
        step_count = _count(f"{label}: step_count", given["step_count"])

        groups = given["groups"]
        if not isinstance(groups, (list, tuple)) or len(groups) != len(self.groups):
            raise ValueError(f"{label}: groups must be a list of {len(self.groups)}, got {brief(groups)}")
        changes = []
        for i, (group, names, entry) in enumerate(zip(self.groups, self._members, groups, strict=True)):
            hyper = _entries(label, f"groups[{i}]", entry, list(group))
            if not isinstance(hyper["params"], Sequence) or set(hyper["params"]) != set(names):
                raise ValueError(f"{label}: params of groups[{i}] must be {names!r:.200}, got {brief(hyper['params'])}")
            del hyper["params"]
            try:
                changes.append(group.checked(hyper))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{label}: {error}") from None

        entries = _entries(label, "state", given["state"], self._names)
        values: dict[Name, dict[str, Any]] = {}
        steps = []
        for name, carry in zip(self._names, self._carry_names(), strict=True):
            where = f"state of {describe(name)}"
            entry = _entries(label, where, entries[name], ["step", *self.state[name]])
            steps.append(_count(f"{label}: step in the {where}", entry["step"]))
            for key, array in self.state[name].items():
                value = entry[key]
                if key in carry:
                    if not isinstance(value, (float, int)):
                        raise TypeError(f"{label}: {key!r} in the {where} must be a number, got {brief(value)}")
                    if abs(value) > sys.float_info.max:
                        raise ValueError(f"{label}: {key!r} in the {where} must be finite, got {brief(value)}")
                elif not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
                    raise TypeError(f"{label}: {key!r} in the {where} must be an array, got {type(value).__name__}")
                elif value.shape != array.shape or value.dtype != array.dtype:
                    raise ValueError(
                        f"{label}: {key!r} in the {where} must have shape {array.shape} and dtype {array.dtype},"
                        f" got {value.shape} and {value.dtype}"
                    )
            # What is given may be our own state, in another order.
            values[name] = {
                key: entry[key].copy() if np.may_share_memory(entry[key], self._arena) else entry[key]
                for key in self.state[name]
            }

        with self._table:
            for group, change in zip(self.groups, changes, strict=True):
                group.update(change)
            for name, arrays in self.state.items():
                for key, array in arrays.items():
                    array[...] = values[name][key]
            self._table.restore(steps, step_count)

    def _carry_names(self) -> list[tuple[str, ...]]:
        """Return the names of the carried numbers of each parameter."""
        return [
            group.settings.carry_names for group, names in zip(self.groups, self._members, strict=True) for _ in names
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {
            "grouped": self._grouped,
            "params": [
                together(structure, names, group["params"])
                for structure, names, group in zip(self._structure, self._members, self.groups, strict=True)
            ],
            "rules": [group.settings.rule_name for group in self.groups],
            "options": {"nonfinite": self._nonfinite, "num_threads": self.num_threads},
            "skipped_steps": self.skipped_steps,
            "state_dict": self.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        hyper = [dict(group) for group in state["state_dict"]["groups"]]
        for group in hyper:
            del group["params"]
        given = list(zip(state["params"], hyper, strict=True))
        self._lay_out(state["grouped"], given, state["rules"], **state["options"])
        self.load_state_dict(state["state_dict"])
        self._table.skipped_steps = state["skipped_steps"]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}({len(self._names)} parameters, {self.step_count} steps"]
        for group in self.groups:
            lines.append("  " + ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params"))
        return "\n".join(lines) + ")"


def _entries(label: str, what: str, given: Any, names: Sequence[Any]) -> dict[Any, Any]:
    """Return a mapping's entries as a dict, or raise unless their names are exactly the ones asked for."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{label}: {what} must be a mapping, got {type(given).__name__}")
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in set(names)]
    if missing or unknown:
        lists = {"missing": missing, "unknown": unknown}
        problems = " and ".join(f"{word} {', '.join(map(repr, found))}" for word, found in lists.items() if found)
        raise ValueError(f"{label}: {what} must have exactly the entries {list(names)!r:.200}, got {problems:.200}")
    return dict(given)


def _count(label: str, value: Any) -> int:
    """Return a number of steps, or raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << 62:
        raise ValueError(f"{label} must be an integer >= 0, got {brief(value)}")
    return int(value)
