"""The state of an optimizer as plain data: saved, checked whole, and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .decays import Decay, restored_decays, saved_decays
from .declarations import Declaration
from .layout import Layout
from .nest import Array, Name, can_be_copied, describe, holds, together
from .scalars import is_integer, is_number, unwrapped
from .scheduled import restored, saved, warn_of_passed
from .storage import DESCRIPTIONS, DTYPES_OF_PARAMETERS, OF_STORAGE, described, parts_of, stored_as_here

FORMAT = 1  # of state_dict()


class Loaded(NamedTuple):
    """The parts of a state that did not fit when it was loaded with ``strict=False``."""

    #: Parameters without state in it.
    missing: tuple[Name, ...]
    #: Parameters in it that the optimizer does not have.
    unexpected: tuple[Name, ...]
    #: Parameters whose state in it is of another shape or dtype, or of other buffers.
    mismatched: tuple[Name, ...]
    #: Indices of groups that kept their hyperparameters, since no saved group, or several, have parameters of theirs.
    groups: tuple[int, ...]


def state_dict(layout: Layout, *, copies: bool = True) -> dict[str, Any]:
    """Return everything but the parameters, as plain data: the state arrays or copies of them, numbers and strings."""
    table = layout.table
    with table:
        groups = [
            {**saved(group), "params": list(names)} for group, names in zip(layout.groups, layout.members, strict=True)
        ]
        of_parameters = counts(layout), changed_decays(layout), layout.all_settings()
        rows = zip(layout.names, layout.arrays, *of_parameters, strict=True)
        state: dict[Name, dict[str, Any]] = {}
        for name, array, counted, decays, settings in rows:
            state[name] = counted | {
                key: float(value) if key in settings.carry_names else value.copy() if copies else value
                for key, value in parts_of(layout.state[name]).items()
            }
            state[name] |= described(array, layout.state[name])
            if decays:
                state[name]["decays"] = decays
        step_count = table.step_count
    rule = layout.declaration.name
    return {"format": FORMAT, "rule": rule, "step_count": step_count, "groups": groups, "state": state}


def counts(layout: Layout) -> list[dict[str, Any]]:
    """Return the steps that each parameter has made, and from and up to which step of all its averages are."""
    steps = layout.table.steps()
    if not _is_averaged(layout):
        return [{"step": made} for made in steps]
    return [
        {"step": made, "begun": layout.table.begun(i), "averaged": layout.table.averaged_up_to(i)}
        for i, made in enumerate(steps)
    ]


def _is_averaged(layout: Layout) -> bool:
    """Return whether there are averages that move with every step, also without a gradient."""
    return "ema" in layout.averages or "swa" in layout.averages


def changed_decays(layout: Layout) -> Iterator[dict[str, Any]]:
    """Yield for each parameter those decays that do not follow from the hyperparameters."""
    of_parameters = iter(layout.table.decays())
    for group in layout.groups:
        for _ in group["params"]:
            yield saved_decays(next(of_parameters), group, layout.declaration.parts)


# ---- Copies ----


def copied(layout: Layout) -> dict[str, Any]:
    """Return the parts of an optimizer for a copy or a pickle: parameters, rules, hyperparameters, options, state."""
    table = layout.table
    table.check_own(f"{layout.declaration.name}: a copy")
    parameters = {id(array) for array in layout.given_arrays()}
    return {
        "grouped": layout.grouped,
        "params": [
            together(structure, iter(group["params"]))
            for structure, group in zip(layout.structure, layout.groups, strict=True)
        ],
        "containers": [one for one in table.containers if holds(one) and can_be_copied(one[0], parameters)],
        "rules": [group.settings.rule_name for group in layout.groups],
        "hyper": [{key: value for key, value in group.items() if key != "params"} for group in layout.groups],
        "options": {**layout.options, "num_threads": table.runner.num_threads or None},
        "defaults": layout.defaults,
        "orders": layout.orders,
        "skipped_steps": table.runner.skipped_steps,
        "skips": table.runner.skips(),
        "state_dict": state_dict(layout),
    }


def layout_of_copy(declaration: Declaration, copy: Mapping[str, Any]) -> Layout:
    """Lay out the parameters of a copy, from the result of `copied`; the caller loads its state."""
    return Layout(
        declaration,
        copy["grouped"],
        [
            (params, declaration.added | hyper, None)
            for params, hyper in zip(copy["params"], copy["hyper"], strict=True)
        ],
        {"seed": 0} | copy["options"],
        declaration.added | copy["defaults"],
        [declaration.settings(row, False)[0].state_names for row in copy["rules"]],
        copy["state_dict"]["step_count"],
        [one for one in copy["containers"] if holds(one)],
        copy.get("orders", {}),
    )


# ---- Loading ----


def prepared_load(
    layout: Layout,
    given: Mapping[str, Any],
    strict: bool,
    hyperparameters: str,
    convert: bool,
    parameters: Mapping[Name, Array] | None,
) -> Callable[[], Loaded]:
    """Return a function that restores a state, and parameters if given, once all is known to be valid; or raise."""
    label, table = f"{layout.declaration.name}.load_state_dict", layout.table
    if not isinstance(strict, (bool, np.bool_)):
        raise TypeError(f"{label}: strict must be True or False, got {brief(strict)}")
    if not isinstance(convert, (bool, np.bool_)):
        raise TypeError(f"{label}: convert must be True or False, got {brief(convert)}")
    if not isinstance(hyperparameters, str) or hyperparameters not in ("saved", "current"):
        raise ValueError(f"{label}: hyperparameters must be saved or current, got {brief(hyperparameters)}")
    table.check_not_held()
    given = check_entries(label, "the state", given, ["format", "rule", "step_count", "groups", "state"])
    if not is_integer(version := unwrapped(given["format"])) or version != FORMAT:
        raise ValueError(f"{label}: format must be {FORMAT}, got {brief(given['format'])}")
    if not isinstance(given["rule"], str) or given["rule"] != layout.declaration.name:
        raise ValueError(f"{label}: rule must be {layout.declaration.name!r}, got {brief(given['rule'])}")
    step_count = _count(f"{label}: step_count", given["step_count"])
    matched = _matched_groups(layout, label, given["groups"], strict)
    changes, restorers = _changes_of_groups(layout, label, matched, strict, hyperparameters, step_count)

    entries = given["state"]
    if strict or not isinstance(entries, Mapping):
        entries = check_entries(label, "state", entries, layout.names)
    if parameters is not None:
        table.check_own(label)
        table.check_containers(label)
    hyper_of = {name: entry for entry in given["groups"] for name in entry["params"]}
    names, steps = layout.names, table.steps()
    mismatched: list[Name] = []
    found: list[_OfParameter] = []
    of_arrays = ((group, array) for group in layout.groups for array in group["params"])
    for i, (name, (group, array), decays) in enumerate(zip(names, of_arrays, table.decays(), strict=True)):
        where, problem, p = f"state of {describe(name)}", None, None
        settings = group.settings_of(array)
        if name in entries:
            entry = entries[name]
            if parameters is not None:
                p = parameters.get(name)
                problem = _misfit_of(describe(name), array, p, any_float=convert)
            if problem is None and isinstance(entry, Mapping):
                buffers = {key: value for key, value in layout.state[name].items() if key not in settings.carry_names}
                entry, p, problem = stored_as_here(f"the {where}", entry, buffers, array, p, convert)
            problem = problem or _misfit(layout, label, where, name, entry, settings)
            if problem is None and name not in hyper_of:
                problem = f"the {where} must be of a parameter of a group, but none of groups has it"
            if problem is not None and strict:
                raise ValueError(f"{label}: {problem}")
        if name not in entries or problem is not None:
            mismatched += [name] if name in entries else []
            kept = (table.begun(i), table.averaged_up_to(i))
            found.append(_OfParameter(steps[i], kept, decays, []))
            continue
        hyper = {**group, **hyper_of[name]}
        found.append(_of_parameter(layout, label, where, i, name, settings, hyper, entry, step_count))
        if parameters is not None:
            if not array.flags.writeable:
                raise ValueError(f"{label}: {describe(name)} must be writable, got a read-only array")
            found[-1].values.append((array, p))

    known = set(names)
    loaded = Loaded(
        missing=tuple(name for name in names if name not in entries),
        unexpected=tuple(name for name in entries if name not in known),
        mismatched=tuple(mismatched),
        groups=tuple(i for i, entry in enumerate(matched) if entry is None),
    )
    if hyperparameters == "current":
        warn_of_passed([(layout.declaration.name, group) for group in layout.groups], step_count)

    def load() -> Loaded:
        for restore in restorers:
            restore()
        with table:
            if parameters is not None:
                table.check_own(label)
            if len(found) != len(layout.names):
                raise RuntimeError(
                    f"{label}: parameters must not be added during a load, but another thread has added some"
                )
            table.load(
                [one.step for one in found],
                [one.averaged for one in found],
                step_count,
                changes,
                [value for one in found for value in one.values],
                [one.decays for one in found],
            )
        return loaded

    return load


class _OfParameter:
    """The values of one parameter that a load sets."""

    def __init__(
        self,
        step: int,
        averaged: tuple[int, int | Array],
        decays: Mapping[str, Decay],
        values: list[tuple[Array, Any]],
    ) -> None:
        self.step, self.averaged, self.decays, self.values = step, averaged, decays, values


def _of_parameter(
    layout: Layout,
    label: str,
    where: str,
    i: int,
    name: Name,
    settings: _core.Settings,
    hyper: Mapping[str, Any],
    entry: Mapping[str, Any],
    step_count: int,
) -> _OfParameter:
    """Return the values of a parameter that a load sets, from an entry that fits, or raise."""
    step = _count(f"{label}: step in the {where}", entry["step"])
    rows = len(layout.arrays[i]) if layout.table.takes_rows(i) else None
    begun = _count(f"{label}: begun in the {where}", entry.get("begun", 0))
    averaged = _averaged(f"{label}: averaged in the {where}", entry.get("averaged", 0), step_count, rows)
    text, corrected = f"{label}: decays in the {where}", settings.corrected if step else ()
    decays = restored_decays(text, entry.get("decays", {}), hyper, layout.declaration.parts, corrected, step)
    values = _new_values(layout, label, where, name, entry, settings)
    return _OfParameter(step, (begun, averaged), decays, values)


def _changes_of_groups(
    layout: Layout,
    label: str,
    matched: Sequence[Mapping[str, Any] | None],
    strict: bool,
    hyperparameters: str,
    step_count: int,
) -> tuple[list[tuple[Any, ...]], list[Callable[[], None]]]:
    """Return the changes of groups that a load makes, and functions that restore states of schedules; or raise."""
    changes: list[tuple[Any, ...]] = []
    restorers: list[Callable[[], None]] = []
    for i, (group, entry) in enumerate(zip(layout.groups, matched, strict=True)):
        if entry is None:
            continue
        where = f"{label}: groups[{i}]"
        hyper, own = group.parted({**layout.declaration.added, **entry})
        for key in OF_STORAGE:
            layout.declaration.hyper[key].check(f"{where}: {key}", hyper[key])
        if strict:
            check_entries(label, f"groups[{i}]", hyper, [*group.names, "params"])
        for key in ("params", *OF_STORAGE):  # the formats of the state are looked at themselves
            del hyper[key]
        if hyperparameters == "current":
            group.check_compatible(where, hyper)
            continue
        hyper, of_schedules = restored(where, group, hyper)
        restorers += of_schedules
        try:
            changes.append(group.change(group.checked(hyper | own, step_count)))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{label}: {error}") from None
    return changes, restorers


def _matched_groups(layout: Layout, label: str, groups: Any, strict: bool) -> list[Mapping[str, Any] | None]:
    """Return the saved group for each group, None where no single one belongs to it; or raise."""
    if not isinstance(groups, (list, tuple)) or (strict and len(groups) != len(layout.groups)):
        raise ValueError(f"{label}: groups must be a list of {len(layout.groups)}, got {brief(groups)}")
    for i, entry in enumerate(groups):
        if not isinstance(entry, Mapping):
            raise TypeError(f"{label}: groups[{i}] must be a mapping, got {type(entry).__name__}")
        names = entry.get("params")
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, int)) for name in names):
            raise ValueError(f"{label}: params of groups[{i}] must be a list of names, got {brief(names)}")
    if strict:
        for i, (names, entry) in enumerate(zip(layout.members, groups, strict=True)):
            if set(entry["params"]) != set(names):
                what = f"must be {names!r:.200}, got {brief(entry['params'])}"
                raise ValueError(f"{label}: params of groups[{i}] {what}")
        return list(groups)
    with_some = [[entry for entry in groups if set(entry["params"]) & set(names)] for names in layout.members]
    return [found[0] if len(found) == 1 else None for found in with_some]


def _misfit(layout: Layout, label: str, where: str, name: Name, entry: Any, settings: _core.Settings) -> str | None:
    """Return why the state of a parameter cannot be its state here, or None; raise where it is not one at all."""
    if not isinstance(entry, Mapping):
        raise TypeError(f"{label}: {where} must be a mapping, got {type(entry).__name__}")
    parts = parts_of(layout.state[name])
    counts = ["step", "begun", "averaged"] if _is_averaged(layout) else ["step"]
    if problem := entries_problem(where, entry, [*counts, *parts], optional=["decays", *DESCRIPTIONS]):
        return problem
    for key, array in parts.items():
        value = entry[key]
        if key in settings.carry_names:
            continue
        if not issubclass(type(value), np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{label}: {key!r} in the {where} must be an array, got {type(value).__name__}")
        if problem := _misfit_of(f"{key!r} in the {where}", array, value):
            return problem
    return None


def _new_values(
    layout: Layout, label: str, where: str, name: Name, entry: Mapping[str, Any], settings: _core.Settings
) -> list[tuple[Array, Any]]:
    """Return the state arrays of a parameter with their values from an entry that fits, or raise."""
    values: list[tuple[Array, Any]] = []
    for key, array in parts_of(layout.state[name]).items():
        value = entry[key]
        if key in settings.carry_names:
            if not is_number(value := unwrapped(value)):
                raise TypeError(f"{label}: {key!r} in the {where} must be a number, got {brief(value)}")
            try:
                values.append((array, float(value)))
            except OverflowError:
                what = f"must be a number that a float can hold, got {brief(value)}"
                raise ValueError(f"{label}: {key!r} in the {where} {what}") from None
            continue
        value = np.asarray(value)  # a subclass may change comparison and copies
        # The caller may give arrays of this state, in another order.
        values.append((array, value.copy() if layout.is_state(value) else value))
        if key == "last_step" and value.size and not 0 <= value.min() <= value.max() <= entry["step"]:
            what = f"must be in [0, {entry['step']}], its step, got {value.min()} to {value.max()}"
            raise ValueError(f"{label}: 'last_step' in the {where} {what}")
    return values


def _misfit_of(what: str, array: Array, value: Any, any_float: bool = False) -> str | None:
    """Return why a value cannot be copied to an array, converted if any dtype of parameters will do, or None."""
    if value is None:
        return f"{what} must be there, but it is missing"
    value = np.asarray(value)  # a subclass may change comparison and copies
    fits = value.dtype == array.dtype or (any_float and value.dtype.name in DTYPES_OF_PARAMETERS)
    if value.shape != array.shape or not fits:
        return f"{what} must have shape {array.shape} and dtype {array.dtype}, got {value.shape} and {value.dtype}"
    return None


def check_entries(
    label: str, what: str, given: Any, names: Sequence[Any], optional: Sequence[Any] = ()
) -> dict[Any, Any]:
    """Return a mapping's entries as a dict, or raise unless their names are the ones asked for, all or the optional."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{label}: {what} must be a mapping, got {type(given).__name__}")
    if problem := entries_problem(what, given, names, optional):
        raise ValueError(f"{label}: {problem}")
    return dict(given)


def entries_problem(
    what: str, given: Mapping[Any, Any], names: Sequence[Any], optional: Sequence[Any] = ()
) -> str | None:
    """Return the problem with the names of a mapping's entries, or None."""
    known = {*names, *optional}
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in known]
    if not missing and not unknown:
        return None
    lists = {"missing": missing, "unknown": unknown}
    problems = " and ".join(f"{word} {', '.join(map(repr, found))}" for word, found in lists.items() if found)
    return f"{what} must have exactly the entries {list(names)!r:.200}, got {problems:.200}"


def _averaged(label: str, value: Any, step_count: int, rows: int | None) -> int | Array:
    """Return the last step that averages have taken in, or an array of it for each of some rows, or raise."""
    # A parameter without a gradient that comes first in a round of step_one() is ahead of the count.
    least, most = -1, step_count + 1
    if type(value) is np.ndarray and rows is not None:
        if value.shape != (rows,) or value.dtype != np.int64:
            raise ValueError(
                f"{label} must be an integer, or one int64 for each of the {rows} rows, got shape {value.shape} and"
                f" dtype {value.dtype}"
            )
        if rows and not least <= value.min() <= value.max() <= most:
            raise ValueError(f"{label} must be in [{least}, {most}], got {value.min()} to {value.max()}")
        return value.copy()
    if not is_integer(value := unwrapped(value)) or not least <= value <= most:
        raise ValueError(f"{label} must be an integer in [{least}, {most}], got {brief(value)}")
    return int(value)


def _count(label: str, value: Any) -> int:
    """Return a number of steps, or raise."""
    if not is_integer(value := unwrapped(value)) or not 0 <= value < 1 << 62:
        raise ValueError(f"{label} must be an integer >= 0, got {brief(value)}")
    return int(value)
