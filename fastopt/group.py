"""A group's hyperparameters: set, checked, and as the C core reads them at each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from reprlib import repr as brief
from typing import Any

from . import _core
from .calls import nearest
from .declarations import DECAYS, Declaration, check_number, first_of, is_schedule, scaled
from .fixed import FixedDict
from .labels import label_of
from .nest import Array
from .scalars import each_unwrapped, unwrapped
from .scheduled import ON, at, each, is_scheduled, peak_of_rate, warn_of_passed, with_schedules

RATES = {"lr", "weight_decay"}  # hyperparameters on whose values no others depend


class Group(FixedDict):
    """A group: its arrays under "params", its hyperparameters, and your own keys.

    A new value of a hyperparameter is checked, and takes effect with the next step.  It may be a schedule.  Keys cannot
    be added or removed.  Hyperparameters that determine the state, such as ``amsgrad``, are fixed.
    """

    def __init__(
        self,
        declaration: Declaration,
        label: str,
        arrays: list[Array],
        given: Mapping[str, Any],
        options: Mapping[str, Any],
        kept: Collection[str] = (),
        step_count: int = 0,
    ) -> None:
        """Check hyperparameters; a copy has the `kept` letters of state, whatever the hyperparameters select now."""
        self.names = tuple(declaration.hyper)  # other keys are the user's own
        self._options = options
        self._table: _core.Table | None = None
        self._declaration = declaration
        self.rename(label)
        hyper = declaration.unwrapped({key: given[key] for key in self.names})
        own = {key: value for key, value in given.items() if key not in hyper}
        now = self._at(hyper, step_count)
        values = declaration.plain(now)
        row = declaration.row(now, kept) if now is hyper else self._rule(hyper, kept)
        self.settings, self._of_vectors = declaration.settings(row, now["corrected_decay"])
        super().__init__(
            {**(values if now is hyper else with_schedules(values, hyper)), **own, "params": tuple(arrays)}
        )

    def rename(self, label: str) -> None:
        """Have messages name the group so."""
        self._label = label
        self.what = f"{label}: hyperparameters can be set, but not added or removed"

    @property
    def class_name(self) -> str:
        """The name of the optimizer's class."""
        return self._declaration.name

    def settings_of(self, array: Array) -> _core.Settings:
        """Return the settings that the C core reads for an array of this group."""
        return self.settings if array.ndim > 1 else self._of_vectors

    def attach(self, table: _core.Table) -> None:
        """Have the steps of a table take the hyperparameters of this group, now and whenever they are set."""
        self._table = table
        table.adopt([self.change(self._hyper() | self._own())])

    def checked(self, given: Mapping[str, Any], step_count: int | None = None) -> dict[str, Any]:
        """Return hyperparameters and keys of the user's own as they are after these changes, or raise.

        A load gives the count of steps, and all keys of the user's own.
        """
        own = self._own()
        changes, others = self.parted(given)
        unknown = [key for key in given if key == "params" or (step_count is None and key not in self)]
        if unknown:
            known = (*self.names, *own)
            what = f"{', '.join(known)}, got {brief(unknown[0])}{nearest(unknown[0], known)}"
            raise ValueError(f"{self._label}: keys must be among {what}")
        changes = self._declaration.unwrapped(changes)
        others = {key: label_of(self._label, key, value, self.names) for key, value in others.items()}
        own = own | others if step_count is None else others
        after = self._hyper() | changes
        now = self._at(after, self._step_count if step_count is None else step_count)
        changed = [key for key, value in changes.items() if value != self[key]]
        fixed = [key for key in changed if self._declaration.hyper[key].fixed == "layout"]
        selecting = [key for key in changed if key in self._declaration.selecting]
        if selecting and not self._has_state_for(after):
            fixed += selecting
        if fixed:
            raise ValueError(
                f"{self._label}: {fixed[0]} must stay {self[fixed[0]]!r}, since the state was laid out for it,"
                f" got {brief(changes[fixed[0]])}"
            )
        if step_count is None:  # set by the user; a loaded state comes with the hyperparameters that made it
            self._check_kept(changed, changes)
        if self._table is not None and self._table.catches_up:
            self.check_catch_up(after)
        values = self._declaration.plain(now)
        return (values if now is after else with_schedules(values, after)) | own

    def needs_more_state(self, changes: Mapping[str, Any]) -> bool:
        """Return whether these changes of hyperparameters ask for state that was not laid out; or raise."""
        selecting = self._declaration.selecting
        if not any(key in selecting and self[key] == self._declaration.hyper[key].default for key in changes):
            return False
        after = self._hyper() | self._declaration.unwrapped(changes)
        self._at(after, self._step_count)
        return not self._has_state_for(after)

    def _has_state_for(self, hyper: Mapping[str, Any]) -> bool:
        return set(_core.Settings(self._rule(hyper)).state_names) <= set(self.settings.state_names)

    def after_rates(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return all keys after changes of lr and weight_decay to numbers, on which nothing else depends; or raise.

        None where more may change: loops that set them at each step need not check the others.
        """
        if not given.keys() <= RATES or is_scheduled(self) or self._table is None or self._table.catches_up:
            return None
        rates = {
            key: check_number(f"{self._label}: {key}", key, unwrapped(value))
            for key, value in given.items()
            if not is_schedule(value)
        }
        if len(rates) < len(given):
            return None
        after = {key: value for key, value in self.items() if key != "params"} | rates
        scaled(self._label, after)
        return after

    def _check_kept(self, changed: Sequence[str], changes: Mapping[str, Any]) -> None:
        """Raise for a hyperparameter that can be changed no more, since state was computed with it."""
        begun = self._table is not None and self._step_count > 0
        for key in changed:
            fixed = self._declaration.hyper[key].fixed
            if fixed == "start" or (fixed == "steps" and begun and first_of(changes[key]) != first_of(self[key])):
                raise ValueError(
                    f"{self._label}: {key} must stay {self[key]!r}, since the state was made by it,"
                    f" got {brief(changes[key])}"
                )

    def check_compatible(self, where: str, saved: Mapping[str, Any], be: str = "be as it was saved,") -> None:
        """Raise for hyperparameters that must be as these, since state that is loaded was made by them."""
        for key, declared in self._declaration.hyper.items():
            if declared.fixed not in ("layout", "steps") or key not in saved:
                continue
            before, here = first_of(saved[key]), first_of(self[key])
            if before != here:
                raise ValueError(
                    f"{where}: {key} must {be} {brief(before)}, since the state was made by it, got {here!r}"
                )

    def change(self, after: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arguments by which a table sets all keys but the parameters to these valid values."""
        names, settings = self.settings.hyper_names, (self.settings, self._of_vectors)
        hyper = after if len(after) == len(self.names) else {key: after[key] for key in self.names}
        options = {**self._options, "peak_lr": peak_of_rate(hyper)} if hyper["corrected_decay"] else self._options
        if is_scheduled(hyper):
            return self, after, settings, Plan(self._declaration, self._label, hyper, names, options), None
        return self, after, settings, None, for_core(self._declaration, self._label, hyper, names, options)

    def check_catch_up(self, hyper: Mapping[str, Any]) -> None:
        """Raise unless rows can make up for the steps that they have missed, with these hyperparameters."""
        if self.settings.catch_up is None:
            raise ValueError(
                f"{self._label}: catch_up must be False for a rule without a closed form of missed steps, got True with"
                f" {self.settings.rule_name}"
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
        return self.parted(self)[1] if len(self) > len(self.names) + 1 else {}

    def parted(self, entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters and hyperparameters among these, and what is under keys of the user's own."""
        hyper = self._declaration.hyper
        ours = {key: value for key, value in entries.items() if key in hyper or key == "params"}
        return ours, {key: value for key, value in entries.items() if key not in ours}

    def _at(self, hyper: Mapping[str, Any], step_count: int) -> Mapping[str, Any]:
        """Return hyperparameters as they are for the step after this many, or raise."""
        if not is_scheduled(hyper):
            self._declaration.check(self._label, hyper)
            return hyper
        self._declaration.check_schedules(self._label, hyper)
        now = at(hyper, step_count)
        self._declaration.check(f"{self._label} after {step_count} steps", now)
        return now

    def _rule(self, hyper: Mapping[str, Any], kept: Collection[str] = ()) -> str:
        return self._declaration.row(each(hyper, lambda schedule: ON), kept)

    @property
    def _step_count(self) -> int:
        return 0 if self._table is None else self._table.step_count


def set_hyper(table: _core.Table, changes: Sequence[tuple[Group, Mapping[str, Any]]]) -> None:
    """Set hyperparameters of groups as `put_hyper`, with a warning of schedules that have passed."""
    table.check_not_held()
    warn_of_passed([(group.class_name, of_group) for group, of_group in changes], table.step_count)
    put_hyper(table, changes)


def put_hyper(table: _core.Table, changes: Sequence[tuple[Group, Mapping[str, Any]]]) -> None:
    """Set hyperparameters of groups, all or none, in one turn, so that changes by other threads are kept."""
    with table:
        adopted = [group.change(group.after_rates(of_group) or group.checked(of_group)) for group, of_group in changes]
        if table.catches_up:
            table.catch_up_locked()  # with the values that were in force
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
        # lr and weight_decay alone need no check of the others: only these are computed and put into their arguments.
        form = hyper["weight_decay_form"]
        places = {"lr": (0, "lr"), "weight_decay": (0, "decay") if form == "own" else (1, DECAYS[form])}
        factors = {"lr": hyper["lr_scale"]}  # a number, where lr and weight_decay alone are scheduled
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
    """Return the arguments of `Settings.set`: the rule's hyperparameters by their names in C, and all options."""
    flat = declaration.by_names(scaled(label, hyper))
    options = {**others, **{key: flat[key] for key in ("maximize", "cautious_decay", "corrected_decay")}}
    form, decay = flat["weight_decay_form"], flat["weight_decay"]
    flat.setdefault("decay", decay if form == "own" else 0.0)  # a part of the rule
    if form != "own":
        options[DECAYS[form]] = decay
    return {name: flat[name] for name in names}, options
