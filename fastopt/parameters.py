"""Parameter groups: how parameters are given, and the hyperparameters of each group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, takewhile
from reprlib import repr as brief
from typing import Any, TypeAlias
from warnings import warn

import numpy as np

from . import _core
from .declarations import (
    DECAYS,
    ROWS,
    VECTOR,
    Declaration,
    check_number,
    first_of,
    is_schedule,
    nearest,
    scaled,
)
from .labels import label_of
from .nest import Array, Name, Part, Place, is_consumed, is_nest, is_sequence, members, places
from .scalars import each_unwrapped, unwrapped

Params: TypeAlias = Array | Sequence[Any] | Mapping[Name, Any] | Iterable[Any]
# A group's nest of arrays, its hyperparameters, and its mapping, or None where there are no groups.
Given: TypeAlias = tuple[Any, dict[str, Any], Mapping[str, Any] | None]


def groups(params: Mapping[str, Array], patterns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make parameter groups from named parameters by patterns of their names.

    ::

        opt = fastopt.AdamW(fastopt.groups(params, {"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 1e-2}}), lr=1e-3)
        opt.step(grads)         # gradients come in one mapping, like the parameters

    Parameters
    ----------
    params : mapping of name to array
        The parameters; names are strings.  Arrays may be nested: the name of params["block"]["w"] is "block.w".
    patterns : mapping of pattern to mapping
        For each pattern the hyperparameters in which its group differs.  A pattern is that of a shell, as in `fnmatch`:
        ``*`` is anything, ``?`` one character, ``[abc]`` one of some; case counts.  A parameter belongs to the first
        pattern that its name matches.

    Returns
    -------
    list of dict
        A group for each pattern, in their order, then one for the parameters that no pattern matches, if there are
        any.  Within a group parameters keep their order.  Every optimizer takes this list as its parameters.

    Raises
    ------
    TypeError, ValueError
        For a pattern that leaves its group without parameters, and for what is not a mapping.
    """
    from fnmatch import fnmatchcase  # it takes its time

    if not isinstance(params, Mapping):
        raise TypeError(f"groups: params must be a mapping of name to array, got {type(params).__name__}")
    if not params:
        raise ValueError("groups: params must hold at least one array, got none")
    if not isinstance(patterns, Mapping):
        raise TypeError(f"groups: patterns must be a mapping of pattern to hyperparameters, got {brief(patterns)}")
    structure, names, arrays = members("groups: params", params, 0)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"groups: params must have names that are str, got {brief(name)}")
    left: dict[str, Array] = dict(zip(map(str, names), arrays, strict=True))
    check_names("groups", names)
    known, where = list(left), list(places(params, structure, names))
    found: list[dict[str, Any]] = []
    for pattern, overrides in patterns.items():
        if not isinstance(pattern, str):
            raise TypeError(f"groups: patterns must be str, got {brief(pattern)}")
        if not isinstance(overrides, Mapping):
            raise TypeError(f"groups: overrides of {pattern!r} must be a mapping, got {brief(overrides)}")
        if "params" in overrides:
            raise ValueError(f"groups: overrides of {pattern!r} must be hyperparameters, got 'params'")
        matching = [name for name in left if fnmatchcase(name, pattern)]
        if not matching:
            taken = [name for name in known if fnmatchcase(name, pattern)]
            what = f"but earlier patterns have {brief(taken)}" if taken else f"got none of {brief(known)}"
            raise ValueError(f"groups: pattern {pattern!r} must match a name that is left, {what}")
        found.append({**overrides, "params": Part({name: left.pop(name) for name in matching}, where)})
    if left:
        found.append({"params": Part(left, where)})
    return found


# ---- Schedules ----

ON = 0.5  # what a scheduled hyperparameter counts as where the rule, and so its state, is chosen


def scheduled(label: str, name: str, schedule: Any, step_count: int) -> float:
    """Return the value of a schedule for the step after this many, in the range of an option of this name; or raise."""
    return check_number(f"{label} after {step_count} steps: {name}", name, schedule(step_count))


def is_scheduled(hyper: Mapping[str, Any]) -> bool:
    """Return whether there is a schedule among these hyperparameters, alone or in a pair."""
    for key, value in hyper.items():
        if type(value) is float or key == "params":
            continue
        if is_schedule(value) or (isinstance(value, (tuple, list)) and any(map(is_schedule, value))):
            return True
    return False


def each(hyper: Mapping[str, Any], change: Callable[[Any], Any]) -> Mapping[str, Any]:
    """Return hyperparameters with every schedule replaced by what `change` makes of it; as given if there is none."""
    if not is_scheduled(hyper):
        return hyper

    def changed(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(changed, value))
        return change(value) if is_schedule(value) else value

    return {key: value if key == "params" else changed(value) for key, value in hyper.items()}


def at(hyper: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """Return hyperparameters as they are for the step after this many."""

    def value(schedule: Any) -> Any:
        given = unwrapped(schedule(step))
        # np.float32(0.9) == 0.9, though they are two numbers: what is equal here must be the same.
        return float(given) if isinstance(given, np.floating) else given

    return each(hyper, value)


def with_schedules(values: dict[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the schedules of these hyperparameters in their places."""
    if not is_scheduled(hyper):
        return values

    def chosen(value: Any, given: Any) -> Any:
        if is_schedule(given):
            return given
        return tuple(map(chosen, value, given)) if isinstance(value, tuple) else value

    return {key: chosen(value, hyper[key]) for key, value in values.items()}


def saved(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as plain data."""

    def plainly(schedule: Any) -> Any:
        from . import schedules  # only those who use them pay for them

        return schedules.saved(schedule)

    return dict(each(hyper, plainly))


def restored(
    label: str, hyper: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Callable[[], None]]]:
    """Return the hyperparameters of what `saved` gave, and what restores the states of schedules; or raise."""
    restorers: list[Callable[[], None]] = []

    def one(where: str, here: Any, value: Any) -> Any:
        if is_schedule(here):
            from . import schedules

            restorers.append(schedules.restorer(where, here, value))
            return here
        if isinstance(value, Mapping):
            from . import schedules

            raise ValueError(f"{where} must be a number, as it is here, got a schedule, {brief(value)}{schedules.HINT}")
        if isinstance(here, tuple) and isinstance(value, (tuple, list)) and len(here) == len(value):
            return tuple(one(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(here, value, strict=True)))
        return value

    return {key: one(f"{label}: {key}", hyper[key], value) for key, value in entry.items()}, restorers


class Fixed(dict[Any, Any]):
    """A dict whose entries stay: what is put in their place would not take part in a step."""

    what = "state arrays can be written to, but not replaced, added or removed"

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(self.what)

    __setitem__ = __delitem__ = __ior__ = setdefault = update = pop = popitem = clear = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Group(Fixed):
    """A group's arrays under "params", its hyperparameters, and keys of the user's own.

    Setting a hyperparameter checks it and takes effect with the next step.  A schedule is a value like a number.  Keys
    can be neither added nor removed, and what decides which state exists (such as ``amsgrad``) stays as it was made.
    """

    def __init__(
        self,
        declaration: Declaration,
        label: str,
        arrays: list[Array],
        given: Mapping[str, Any],
        options: Mapping[str, Any],
        rule: str | None = None,
        step_count: int = 0,
    ) -> None:
        self.names = tuple(declaration.hyper)  # other keys are the user's own
        self._options = options
        self._table: _core.Table | None = None
        self._declaration = declaration
        self.rename(label)
        hyper = declaration.unwrapped({key: given[key] for key in self.names})
        own = {key: value for key, value in given.items() if key not in hyper}
        now = self._at(hyper, step_count)
        self.settings = _core.Settings(rule or self._rule(hyper))
        of_vectors = self.settings.rule_name + VECTOR
        self._of_vectors = _core.Settings(of_vectors) if of_vectors in ROWS else self.settings
        super().__init__({**with_schedules(declaration.plain(now), hyper), **own, "params": tuple(arrays)})

    def rename(self, label: str) -> None:
        """Have messages name the group so."""
        self._label = label
        self.what = f"{label}: hyperparameters can be set, but not added or removed"

    @property
    def class_name(self) -> str:
        """The name of the optimizer's class."""
        return self._declaration.name

    def settings_of(self, array: Array) -> _core.Settings:
        """Return what the C core reads for an array of this group."""
        return self.settings if array.ndim > 1 else self._of_vectors

    def attach(self, table: _core.Table) -> None:
        """Have the steps of a table take the hyperparameters of this group, now and whenever they are set."""
        self._table = table
        table.adopt([self.change(self._hyper() | self._own())])

    def checked(self, given: Mapping[str, Any], step_count: int | None = None) -> dict[str, Any]:
        """Return hyperparameters and keys of the user's own as they are after these changes, or raise.

        What is loaded, after so many steps, has all keys of the user's own.
        """
        own = self._own()
        changes, others = self.parted(given)
        known = (*self.names, *own)
        unknown = [key for key in given if key == "params" or (step_count is None and key not in known)]
        if unknown:
            what = f"{', '.join(known)}, got {brief(unknown[0])}{nearest(unknown[0], known)}"
            raise ValueError(f"{self._label}: what can be set is {what}")
        changes = self._declaration.unwrapped(changes)
        others = {key: label_of(self._label, key, value, self.names) for key, value in others.items()}
        own = own | others if step_count is None else others
        after = self._hyper() | changes
        now = self._at(after, self._step_count if step_count is None else step_count)
        changed = [key for key, value in changes.items() if value != self[key]]
        fixed = [key for key in changed if self._declaration.hyper[key].fixed == "layout"]
        needed = _core.Settings(self._rule(after)).state_names
        if not set(needed) <= set(self.settings.state_names):
            fixed += [key for key in changed if key in self._declaration.selecting]
        if fixed:
            raise ValueError(
                f"{self._label}: {fixed[0]} must stay {self[fixed[0]]!r}, since the state was laid out for it,"
                f" got {brief(changes[fixed[0]])}"
            )
        if step_count is None:  # set by the user; a state that is loaded comes with what it goes with
            self._check_kept(changed, changes)
        if self._table is not None and self._table.catches_up:
            self.check_catch_up(after)
        return with_schedules(self._declaration.plain(now), after) | own

    def _check_kept(self, changed: Sequence[str], changes: Mapping[str, Any]) -> None:
        """Raise for what can be changed no more, since state was made by it."""
        begun = self._table is not None and self._step_count > 0
        for key in changed:
            fixed = self._declaration.hyper[key].fixed
            if fixed == "start" or (fixed == "steps" and begun and first_of(changes[key]) != first_of(self[key])):
                raise ValueError(
                    f"{self._label}: {key} must stay {self[key]!r}, since the state was made by it,"
                    f" got {brief(changes[key])}"
                )

    def check_compatible(self, where: str, saved: Mapping[str, Any]) -> None:
        """Raise for hyperparameters that must be as they were saved, since state that is loaded was made by them."""
        for key, declared in self._declaration.hyper.items():
            if declared.fixed not in ("layout", "steps") or key not in saved:
                continue
            before, here = first_of(saved[key]), first_of(self[key])
            if before != here:
                raise ValueError(
                    f"{where}: {key} must be as it was saved, {before!r}, since the state was made by it, got {here!r}"
                )

    def change(self, after: dict[str, Any]) -> tuple[Any, ...]:
        """Return what a table takes to set all keys but the parameters to these, which are known to be valid."""
        names, settings = self.settings.hyper_names, (self.settings, self._of_vectors)
        hyper = {key: after[key] for key in self.names}
        if is_scheduled(hyper):
            return self, after, settings, Plan(self._declaration, self._label, hyper, names, self._options), None
        return self, after, settings, None, for_core(self._declaration, self._label, hyper, names, self._options)

    def check_catch_up(self, hyper: Mapping[str, Any]) -> None:
        """Raise unless rows can make up for the steps that they have missed, with these hyperparameters."""
        if self.settings.catch_up is None:
            raise ValueError(
                f"{self._label}: catch_up must be False for a rule whose steps without a gradient have no closed form,"
                f" got True with {self.settings.rule_name}"
            )
        if is_schedule(hyper["weight_decay"]) or hyper["weight_decay"]:
            raise ValueError(f"{self._label}: weight_decay must be 0 with catch_up, got {hyper['weight_decay']!r}")
        read = {*self.settings.catch_up, "lr_scale"}  # by their names in rules.def
        for key, declared in self._declaration.hyper.items():
            if not read.isdisjoint(declared.names) and is_scheduled({key: hyper[key]}):
                needed = "a number" if len(declared.names) == 1 else "numbers"
                raise ValueError(f"{self._label}: {key} must be {needed} with catch_up, got {hyper[key]!r}")
        self.check_rows(self["params"])

    def check_rows(self, arrays: Sequence[Array]) -> None:
        """Raise unless rows of these arrays can make up for the steps that they have missed."""
        for array in arrays:
            if array.ndim < 1 or not array.flags.c_contiguous or not array.flags.aligned:
                raise ValueError(
                    f"{self._label}: params must be C-contiguous with at least one axis with catch_up, got shape"
                    f" {array.shape} and strides {array.strides}"
                )

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several hyperparameters, all or none."""
        assert self._table is not None
        set_hyper(self._table, [(self, dict(*args, **kwargs))])

    def __setitem__(self, key: str, value: Any) -> None:
        assert self._table is not None
        set_hyper(self._table, [(self, {key: value})])

    def _hyper(self) -> dict[str, Any]:
        return {key: self[key] for key in self.names}

    def _own(self) -> dict[str, Any]:
        return self.parted(self)[1]

    def parted(self, entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters and hyperparameters among these, and what is under keys of the user's own."""
        ours = {key: value for key, value in entries.items() if key in self.names or key == "params"}
        return ours, {key: value for key, value in entries.items() if key not in ours}

    def _at(self, hyper: Mapping[str, Any], step_count: int) -> Mapping[str, Any]:
        """Return hyperparameters as they are for the step after this many, or raise."""
        self._declaration.check_schedules(self._label, hyper)
        now = at(hyper, step_count)
        self._declaration.check(self._label if now is hyper else f"{self._label} after {step_count} steps", now)
        return now

    def _rule(self, hyper: Mapping[str, Any]) -> str:
        return self._declaration.row(each(hyper, lambda schedule: ON))

    @property
    def _step_count(self) -> int:
        return 0 if self._table is None else self._table.step_count


def set_hyper(table: _core.Table, changes: Sequence[tuple[Group, Mapping[str, Any]]], level: int = 4) -> None:
    """Set hyperparameters of groups as `put_hyper`, with a warning of schedules that have passed.

    The warning is shown at the line so many calls above.
    """
    table.check_turn()
    warn_of_passed([(group.class_name, of_group) for group, of_group in changes], table.step_count, level)
    put_hyper(table, changes)


def put_hyper(table: _core.Table, changes: Sequence[tuple[Group, Mapping[str, Any]]]) -> None:
    """Set hyperparameters of groups, all or none, in one turn: what other threads set meanwhile is kept."""
    with table:
        adopted = [group.change(group.checked(of_group)) for group, of_group in changes]
        if table.catches_up:
            table.catch_up_in_turn()  # with the values that were in force
        table.adopt(adopted)


def rates_of(label: str, groups: Sequence[Group], value: Any) -> list[tuple[Group, dict[str, Any]]]:
    """Return each group with the learning rate that it gets, of one for all or one for each; or raise ValueError."""
    given = each_unwrapped(unwrapped(value))
    rates = given if isinstance(given, (tuple, list)) else [given] * len(groups)
    if len(rates) != len(groups):
        raise ValueError(
            f"{label}: lr must be one for all of the {len(groups)} groups or one for each, got {brief(value)}"
        )
    return [(group, {"lr": rate}) for group, rate in zip(groups, rates, strict=True)]


def warn_of_passed(changes: Sequence[tuple[str, Mapping[str, Any]]], step_count: int, level: int = 4) -> None:
    """Warn of schedules that will not change any more, before they are set: a warning may be made an error.

    Each change is the name of a class and hyperparameters.  The warning is shown at the line so many calls above.
    """
    found: dict[str, None] = {}

    def look(label: str, schedule: Callable[[int], Any]) -> None:
        from . import schedules

        horizon = schedules.horizon_of(schedule)
        if horizon is not None and 0 < horizon <= step_count:
            found[f"{label} is {schedule!r}, which stays the same from step {horizon} on"] = None

    for name, hyper in changes:
        for key, value in hyper.items():
            each({key: value}, partial(look, f"{name}: {key}"))
    if found:
        warn(
            f"{'; '.join(found)}, but {step_count} steps have been made: fastopt.schedules.shift(schedule,"
            " opt.step_count) is one that starts now",
            UserWarning,
            stacklevel=level,
        )


class Plan:
    """The numbers of a group that the C core reads at each step.  It holds no arrays: their table may hold it."""

    def __init__(
        self,
        declaration: Declaration,
        label: str,
        hyper: Mapping[str, Any],
        names: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        self._declaration, self._label, self._names, self._options = declaration, label, names, options
        self._hyper = hyper
        self._schedules: list[Callable[[int], Any]] = []
        each(hyper, self._schedules.append)
        # Where nothing but what stands alone is scheduled, only that is looked at; the places are in the arguments.
        form = hyper["weight_decay_form"]
        places = {"lr": (0, "lr"), "weight_decay": (0, "decay") if form == "own" else (1, DECAYS[form])}
        factors = {"lr": hyper["lr_scale"]}  # a number, if the others stand alone
        alone = [
            (key, hyper[key], factors.get(key, 1.0), *place) for key, place in places.items() if is_schedule(hyper[key])
        ]
        self._alone = alone if len(alone) == len(self._schedules) else []
        self._values: list[Any] = []
        self._arguments: tuple[dict[str, float], dict[str, Any]] = {}, {}

    def __call__(self, step_count: int) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the arguments of `Settings.set` for the step after this many, or raise."""
        if self._alone and self._values:
            for key, schedule, factor, which, name in self._alone:
                label = f"{self._label} after {step_count} steps: {key}"
                value = check_number(label, key, schedule(step_count))
                if factor != 1:
                    value = check_number(f"{label} * lr_scale", key, value * factor)
                self._arguments[which][name] = value
            return self._arguments
        values = [unwrapped(schedule(step_count)) for schedule in self._schedules]
        # Equal floats are the same number; NumPy's may be equal and yet be rounded otherwise.
        if any(type(value) is not float for value in values) or values != self._values:
            given = iter(values)
            hyper = each(self._hyper, lambda schedule: next(given))
            self._declaration.check(f"{self._label} after {step_count} steps", hyper)
            self._arguments = for_core(self._declaration, self._label, hyper, self._names, self._options)
            self._values = values if all(type(value) is float for value in values) else []
        return self._arguments


def for_core(
    declaration: Declaration, label: str, hyper: Mapping[str, Any], names: tuple[str, ...], others: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what `Settings.set` takes: the rule's hyperparameters by their names in C, and all options."""
    flat = declaration.by_names(scaled(label, hyper))
    options = {**others, "maximize": flat["maximize"]}
    form, decay = flat["weight_decay_form"], flat["weight_decay"]
    flat["decay"] = decay if form == "own" else 0.0  # a part of the rule
    if form != "own":
        options[DECAYS[form]] = decay
    return {name: flat[name] for name in names}, options


def split_groups(label: str, params: Params, hyper: Mapping[str, Any]) -> tuple[bool, list[Given]]:
    """Return whether parameters come in groups, and each group as it is given."""
    grouped = False
    if is_consumed(params):
        consumed = iter(params)
        begin = list(islice(consumed, 1))
        grouped = bool(begin) and is_group(begin[0])
        params = list(chain(begin, consumed)) if grouped else chain(begin, consumed)
    elif is_sequence(params):
        grouped = any(map(is_group, takewhile(is_nest, params)))
    if not grouped:
        return False, [(params, dict(hyper), None)]
    groups: list[Given] = []
    for i, group in enumerate(params):
        if not is_group(group):
            raise TypeError(f'{label}: params[{i}] must be a mapping with "params", as others are, got {brief(group)}')
        groups.append((group["params"], group_hyper(f"{label}: params[{i}]", group, hyper), group))
    return True, groups


def group_hyper(where: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a group, its own and for the others the defaults, and keys of the user's own."""
    others = [key for key in group if key != "params" and key not in defaults]
    own = {key: label_of(where, key, group[key], defaults) for key in others}
    return {key: group.get(key, default) for key, default in defaults.items()} | own


def check_names(label: str, names: Sequence[Name]) -> None:
    """Raise ValueError where two parameters have one name."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{label}: params must have a name each, got {twice!r} twice")


def is_group(value: Any) -> bool:
    """Return whether a value is a group of parameters."""
    return isinstance(value, Mapping) and "params" in value


def places_of(given: Sequence[Given], structures: Sequence[Any], names_of: Sequence[list[Name]]) -> Iterator[Place]:
    """Yield where the arrays of groups are."""
    for (params, _, group), structure, names in zip(given, structures, names_of, strict=True):
        if group is not None and names:
            yield group, "params", params, names
        yield from places(params, structure, names)
        if isinstance(params, Part):
            yield from params.places
