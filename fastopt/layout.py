"""The parameters of an optimizer in groups, with their settings, their state and the table that C reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from reprlib import repr as brief
from types import MappingProxyType
from typing import Any

import numpy as np

from . import _core
from .arena import buffer, lay_out
from .declarations import Declaration, is_schedule, scaled
from .fixed import FixedDict
from .group import Group
from .nest import Array, Name, Watched, describe, members, watched
from .options import averages_kept, decay_at, for_every_rule
from .parameters import Given, Params, check_names, group_hyper, places_of, split_groups
from .scheduled import at
from .storage import Formats, check_master, initial_values, is_native, key_of, placed, slots


class Parameters:
    """Parameters that one table steps: their arrays and names, and the structure in which gradients come."""

    def __init__(
        self,
        grouped: bool,
        structure: list[Any],
        members: list[list[Name]],
        arrays: list[Array],
        arenas: list[Array],
    ) -> None:
        self.grouped = grouped  # whether gradients come as a sequence with one entry per group
        self.structure = structure  # of each group, as in nest.py
        self.members = members  # the names of each group's parameters
        self.arrays, self.arenas = arrays, arenas  # the parameters, and the memory of their state

    @property
    def names(self) -> list[Name]:
        """The name of each parameter."""
        return [name for names in self.members for name in names]

    @property
    def group_of(self) -> list[int]:
        """The number of the group of each parameter."""
        return [i for i, names in enumerate(self.members) for _ in names]


class Layout(Parameters):
    """The parameters of one optimizer in groups, their settings and their state, laid out for its table.

    Groups can be added, arrays replaced and state reset; an error changes nothing.
    """

    def __init__(
        self,
        declaration: Declaration,
        grouped: bool,
        given: list[Given],
        options: dict[str, Any],
        defaults: Mapping[str, Any],
        kept: Sequence[Collection[str]] = (),
        step_count: int = 0,
        containers: list[Watched] | None = None,
        orders: Mapping[Name, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        """Lay out groups as they are given, with valid options, and `defaults` as hyperparameters of later groups.

        A copy has the `kept` letters of state of its groups, for which the hyperparameters may no longer ask, the steps
        made, the `containers` in which the user has the arrays, which are not those in which they are given, and the
        `orders` of the walks that must stay, in whatever order a copy lies.
        """
        super().__init__(grouped, [], [], [], [])
        self.declaration, self.options, self.defaults = declaration, options, defaults
        self.for_every_rule = for_every_rule(options)
        self.averages = averages_kept(options)  # those of the options
        #: The groups' parameters and hyperparameters, which can be set here.
        self.groups: tuple[Group, ...] = ()
        #: The order in which each parameter is walked: sums and stored elements follow it.
        self.orders = dict(orders)
        #: Each parameter's state arrays, by its name and by the letter of the paper.
        self.state: dict[Name, dict[str, Array]] = FixedDict()
        label, decay = declaration.name, options["ema_decay"]
        follow = partial(decay_at, label, decay) if is_schedule(decay) else None
        self.table = _core.Table(f"{label}.step", self.averages, follow)
        wheres = [f"{label}: params" + (f'[{i}]["params"]' if grouped else "") for i in range(len(given))]
        self.append(label, grouped, wheres, given, kept or [()] * len(given), step_count, containers)
        if not self.arrays:
            raise ValueError(f"{label}: params must hold at least one array, got none")
        check_master(label, defaults["master"], self.arrays)

    def append(
        self,
        label: str,
        grouped: bool,
        wheres: list[str],
        given: list[Given],
        kept: Iterable[Collection[str]],
        step_count: int,
        containers: list[Watched] | None = None,
    ) -> Parameters:
        """Check further groups, lay out their state and add them to the table; return the new part."""
        added = Parameters(grouped, [], [], [], [])
        groups: list[Group] = []
        arrays: list[Array] = []  # as they are given
        initial: list[dict[str, float]] = []
        for i, (where, (group_params, hyper, _), letters) in enumerate(zip(wheres, given, kept, strict=True)):
            structure, names, group_arrays = members(where, group_params, len(self.arrays) + len(arrays))
            group_label = self.label_of_group(len(self.groups) + i, grouped)
            group = Group(self.declaration, group_label, group_arrays, hyper, self.for_every_rule, letters, step_count)
            added.structure.append(structure)
            added.members.append(names)
            groups.append(group)
            arrays += group_arrays
            initial += [self.declaration.initial_state(scaled(group_label, at(group, step_count)))] * len(names)

        before = self.names
        names = before + added.names
        check_names(label, names)
        self.check_arrays(label, names, self.given_arrays() + arrays, len(before))
        for group, where, (_, _, mapping) in zip(groups, wheres, given, strict=True):
            if self.options["catch_up"]:
                group.check_catch_up(group)
            if mapping is not None and "master" in mapping:
                check_master(where, group["master"], group["params"])
        if containers is None:
            containers = watched(places_of(given, added.structure, added.members))

        added.arrays = [np.asarray(array) for array in arrays]  # a subclass may change indexing and arithmetic
        of_arrays = iter(added.arrays)
        settings = [group.settings_of(next(of_arrays)) for group in groups for _ in group["params"]]
        buffers, formats, walks, shown = self.lay_out_state(label, added, arrays, groups, settings)
        none = np.zeros(0)
        carry = [np.zeros(len(s.carry_names)) if s.carry_names else none for s in settings]
        state = {
            name: FixedDict(self.complete(*row))
            for name, *row in zip(added.names, added.arrays, settings, shown, carry, initial, strict=True)
        }
        last_steps = [letters.get("last_step") for letters in state.values()]
        self.table.append(
            added.names,
            arrays,
            settings,
            buffers,
            formats,
            walks,
            carry,
            last_steps,
            added.structure,
            grouped,
            added.arenas,
            containers,
        )
        dict.update(self.state, state)
        self.orders |= zip(added.names, walks, strict=True)
        self.grouped = grouped
        self.structure = self.structure + added.structure
        self.members = self.members + added.members
        self.arrays += added.arrays
        self.arenas = self.arenas + added.arenas
        self.groups = (*self.groups, *groups)
        self.table.runner.group_of = self.group_of
        for group in groups:
            group.attach(self.table)
        return added

    def lay_out_state(
        self, label: str, added: Parameters, given: list[Array], groups: list[Group], settings: list[_core.Settings]
    ) -> tuple[list[list[Array]], list[Formats | None], list[tuple[int, ...]], list[dict[str, Any]]]:
        """Return for each added parameter its state buffers, their formats, its walk, and the state by letter."""
        of_group = [group for group in groups for _ in group["params"]]
        each = list(zip(added.names, added.arrays, given, of_group, settings, strict=True))
        found: list[Any] = []  # of each parameter: the shapes of its buffers where all are native, else its slots
        sizes: list[list[int]] = []
        for name, array, _, group, s in each:
            if is_native(array, group):
                shapes = s.shapes(array) + [array.shape] * len(self.averages)
                found.append(shapes)
                sizes.append([prod(shape) * array.itemsize for shape in shapes])
            else:
                found.append(slots(f"{label}: {describe(name)}", array, s, self.averages, group))
                sizes.append([slot.nbytes for slot in found[-1][1]])
        arena, places = lay_out(added.arrays, sizes)
        added.arenas = [arena]
        buffers: list[list[Array]] = []
        formats: list[Formats | None] = []
        walks: list[tuple[int, ...]] = []
        shown: list[dict[str, Any]] = []
        for (name, array, whole, group, s), of_one, begins in zip(each, found, places, strict=True):
            order, how = self.orders.get(name) or s.order(whole), None
            if type(of_one) is list:
                pairs = zip(begins, of_one, strict=True)
                own = [
                    buffer(arena, place, array.dtype, shape, order if shape == array.shape else None)
                    for place, shape in pairs
                ]
                letters = dict(zip((*s.state_names, *self.averages), own, strict=True))
            else:
                of_p, stored = of_one
                rounding = group["rounding"] == "stochastic", self.options["seed"], key_of(name)
                own, how, letters = placed(of_p, stored, len(s.state_names), arena, begins, order, rounding)

            walks.append(order)
            buffers.append(own)
            formats.append(how)
            shown.append(letters)
        return buffers, formats, walks, shown

    def complete(
        self,
        array: Array,
        settings: _core.Settings,
        letters: dict[str, Any],
        carry: Array,
        initial: Mapping[str, float],
    ) -> dict[str, Any]:
        """Return the state of a parameter by the letters of the paper, with carried numbers and initial values."""
        for i, key in enumerate(settings.carry_names):
            letters[key] = carry[i, ...]
        if self.options["catch_up"]:
            letters["last_step"] = np.zeros(len(array), np.int64)
        for letter, value in initial.items():
            letters[letter][...] = value
        return letters

    def group(self, label: str, group: Any) -> Given:
        """Return a group to add, with the hyperparameters of the optimizer where it has none of its own; or raise."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f'{label}: group must be a mapping with "params", got {brief(group)}')
        return group["params"], group_hyper(f"{label}: group", group, self.defaults), group

    def add(self, label: str, given: Given) -> Parameters:
        """Add a group, while holding the lock of the table; return the new part."""
        self.table.check_own(label)
        added = self.append(label, True, [f'{label}: group["params"]'], [given], [()], self.table.step_count)
        self.groups[0].rename(self.label_of_group(0, True))
        self.groups[0].attach(self.table)
        return added

    def rebind(self, label: str, params: Params) -> None:
        """Take other arrays in place of the parameters."""
        hyper = {key: None for group in self.groups for key in group if key != "params"}
        grouped, given = split_groups(label, params, hyper)
        if (grouped, len(given)) != (self.grouped, len(self.groups)):
            has = f"{len(self.groups)} groups" if self.grouped else "no groups"
            raise ValueError(f"{label}: params must have {has}, got {len(given) if grouped else 'none'}")
        arrays: list[Array] = []
        for i, (group_params, _, _) in enumerate(given):
            where = f"{label}: params" + (f'[{i}]["params"]' if grouped else "")
            structure, names, group_arrays = members(where, group_params, len(arrays))
            if names != self.members[i] or structure != self.structure[i]:
                raise ValueError(f"{where} must be nested and named like {self.members[i]!r:.200}, got {names!r:.200}")
            arrays += group_arrays
        for name, array, new in zip(self.names, self.arrays, map(np.asarray, arrays), strict=True):
            if (new.shape, new.dtype) != (array.shape, array.dtype):
                raise ValueError(
                    f"{label}: {describe(name)} must have shape {array.shape} and dtype {array.dtype}, got"
                    f" {new.shape} and {new.dtype}"
                )
        self.check_arrays(label, self.names, arrays)
        of_groups = iter(arrays)
        changes = [(group, tuple(next(of_groups) for _ in group["params"])) for group in self.groups]
        if self.options["catch_up"]:
            for group, of_group in changes:
                group.check_rows(of_group)
        containers = watched(places_of(given, self.structure, self.members))
        lows = [self.state[name].get("low") for name in self.names]
        self.table.rebind(label, arrays, changes, self.arrays, containers, lows)

    def reset(self, label: str, chosen: Name | Iterable[Name] | None) -> None:
        """Forget the state of all parameters, or of those that are chosen."""
        names, table = self.names, self.table
        forgotten = set(names if chosen is None else [chosen] if isinstance(chosen, (str, int)) else chosen)
        if unknown := forgotten - set(names):
            raise ValueError(f"{label}: names must be names of parameters, got {brief(next(iter(unknown)))}")
        table.check_not_held()
        with table:
            table.check_own(label)
            step_count = 0 if chosen is None else table.step_count
            values: list[tuple[Array, Any]] = []
            for group, of_group in zip(self.groups, self.members, strict=True):
                left = [name for name in of_group if name not in forgotten]
                if group.settings.estimates_group and 0 < len(left) < len(of_group):
                    raise ValueError(
                        f"{label}: names must have all parameters of a group, since this rule makes one"
                        f" estimate for it, but {describe(left[0])} is missing"
                    )
                initial = self.declaration.initial_state(scaled(label, at(group, step_count)))
                for name in of_group:
                    if name in forgotten:
                        values += initial_values(self.state[name], initial)
            if table.catches_up:
                table.catch_up_locked()  # with the steps that were made: the counts begin anew
            steps = [0 if name in forgotten else t for name, t in zip(names, table.steps(), strict=True)]
            averaged = [(table.begun(i), table.averaged_up_to(i)) if made else (0, 0) for i, made in enumerate(steps)]
            table.load(steps, averaged, step_count, [], values, table.decays())

    def check_arrays(self, label: str, names: list[Name], arrays: list[Array], kept: int = 0) -> None:
        """Raise TypeError or ValueError unless these can be the parameters; the first, so many, already are."""
        labels = [describe(name) for name in names]
        for name, array in list(zip(labels, arrays, strict=True))[kept:]:
            _core.check_parameter(f"{label}: {name}", array)
            self.declaration.check_array(f"{label}: {name}", array)
        _core.check_disjoint(label, labels, arrays)

    def label_of_group(self, i: int, grouped: bool) -> str:
        """Return the words by which messages name a group."""
        return f"{self.declaration.name}: groups[{i}]" if grouped else self.declaration.name

    def given_arrays(self) -> list[Array]:
        """Return the arrays as the user gave them, which may be of subclasses."""
        return [array for group in self.groups for array in group["params"]]

    def all_groups(self) -> list[Group]:
        """Return the group of each parameter."""
        return [group for group in self.groups for _ in group["params"]]

    def all_settings(self) -> list[_core.Settings]:
        """Return the values that C reads for each parameter."""
        return [group.settings_of(array) for group in self.groups for array in group["params"]]

    def nbytes_of(self, name: Name) -> int:
        """Return the bytes of a parameter and of its state."""
        if name not in self.state:
            raise KeyError(f"{self.declaration.name}: name must be the name of a parameter, got {brief(name)}")
        array = self.arrays[self.names.index(name)]
        return array.nbytes + sum(int(buffer.nbytes) for buffer in self.state[name].values())

    def is_state(self, value: Array) -> bool:
        """Return whether an array may be of the state."""
        return any(np.may_share_memory(value, arena) for arena in self.arenas)
