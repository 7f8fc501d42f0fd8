"""The state of an optimizer as torch has it: tensors by torch's names, and the state of fastopt from such tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import _core
from ..decays import KEYS
from ..group import Group
from ..nest import Array, Name, describe
from ..optimizer import Optimizer
from ..options import AVERAGES
from ..saving import changed_decays, counts, state_dict
from ..scalars import is_number
from ..scheduled import at
from ..storage import OF_ITSELF, values_of
from ..stored import Stored
from .sharded import like, local_of, placed_like
from .tensors import of_one_element, tensor_of

STEP = "step"
STEP_COUNT = "step_count"  # of the optimizer, in a state dict where it is not the most that a parameter has made
BEGUN, AVERAGED = "begun", "averaged"  # what the averages of a parameter have taken in
LAST_STEP = "last_step"  # of each row that catches up
DECAY = "decay_"  # begins the name of a decay that a bias correction uses, where it does not follow from the group


Entries = Mapping[torch.Tensor, Mapping[str, torch.Tensor]]


class Parameter(NamedTuple):
    """A parameter of an optimizer of fastopt, with its state."""

    name: Name
    tensor: torch.Tensor
    array: Array
    letters: Mapping[str, Array | Stored]
    steps: int
    hyper: Group


def parameters_of(inner: Optimizer, tensors: Sequence[torch.Tensor]) -> Iterator[Parameter]:
    """Yield the parameters of an optimizer; the tensors are in its order."""
    hyper = ((array, group) for group in inner.groups for array in group["params"])
    rows = zip(inner.state.items(), tensors, inner._table.steps(), hyper, strict=True)
    for (name, letters), tensor, steps, (array, group) in rows:
        yield Parameter(name, tensor, array, letters, steps, group)


def shown(array: Array | Stored) -> torch.Tensor:
    """Return a buffer as a tensor: in its memory, unless it is stored in codes."""
    if not isinstance(array, Stored):
        return tensor_of(array)
    if array.format == "bfloat16":
        return tensor_of(array.codes.view(np.int16)).view(torch.bfloat16)
    return tensor_of(array.codes if array.format == "float16" else np.asarray(array))


def entry_of(inner: Optimizer, one: Parameter) -> dict[str, torch.Tensor]:
    """Return the state of a parameter by torch's names, and what torch does not have by the letters of the rule."""
    letters = {letter: shown(array) for letter, array in one.letters.items()}
    found = inner._to_torch(letters, one.steps, at(one.hyper, max(inner.step_count - 1, 0)))
    return {
        key: like(one.tensor, value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64))
        for key, value in {STEP: float(one.steps), **found}.items()
    }


class State(defaultdict[torch.Tensor, dict[str, torch.Tensor]]):
    """The state of each parameter that has made a step, by the parameter.

    Buffers are the memory that steps update, but for 8-bit codes and for what fastopt keeps in another form than torch,
    which are copies.  Edits of the copies, and values and entries that are replaced or removed, are taken over by the
    next step.
    """

    is_current: bool  # whether it has been shown since the last step
    _shown: dict[torch.Tensor, dict[str, torch.Tensor]]  # the entries as they were before edits
    _steps: list[int]  # of each parameter, when it was shown
    _memory: Memory | None  # what was shown, where it is counts and the memory of an optimizer

    def __init__(self) -> None:
        super().__init__(dict)
        self.forget()

    def __reduce__(self) -> Any:
        return defaultdict, (dict, dict(self))

    def copy(self) -> defaultdict[torch.Tensor, dict[str, torch.Tensor]]:  # type: ignore[override]
        """Return the entries without the optimizer."""
        return defaultdict(dict, self)

    __copy__ = copy  # type: ignore[assignment]

    def forget(self) -> None:
        """Remove all entries."""
        self.clear()
        self.is_current, self._shown, self._steps, self._memory = False, {}, [], None

    def show(self, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> None:
        """Have the entries of an optimizer; those that are there already keep their tensors."""
        steps = inner._table.steps()
        if self._memory is None or not self._memory.show(self, steps):
            self._show_all(inner, tensors)
        self.is_current, self._steps = True, steps

    def _show_all(self, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> None:
        before, self._shown = self._shown, {}
        kept = dict(self)
        self.clear()
        for one in parameters_of(inner, tensors):
            if not one.steps:
                continue
            entry, old = entry_of(inner, one), before.get(one.tensor, {})
            for key, value in entry.items():
                if key in old and (old[key].shape, old[key].dtype) == (value.shape, value.dtype):
                    if not is_same_memory(old[key], value):
                        old[key].copy_(value)
                    entry[key] = old[key]
            self._shown[one.tensor] = entry
            self[one.tensor] = kept.get(one.tensor, {})
            self[one.tensor].clear()
            self[one.tensor].update(entry)
        self._memory = None

    def is_edited(self, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> bool:
        """Return whether users have changed it since it was shown, and no step in backward has since."""
        if inner._table.steps() != self._steps:
            return False
        if self._memory is not None and self._memory.is_shown(self, self._steps):
            return False
        has_copies = False
        for one in parameters_of(inner, tensors):
            entry, before = self.get(one.tensor, {}), self._shown.get(one.tensor, {})
            if entry.keys() != before.keys() or any(entry[key] is not value for key, value in before.items()):
                return True
            for key, value in (entry_of(inner, one) if before else {}).items():
                if not is_same_memory(entry[key], value):
                    if not torch.equal(local_of(entry[key]), local_of(value)):
                        return True
                    has_copies = has_copies or key != STEP
        self._memory = None if has_copies else Memory(self, self._shown, self._steps)
        return False


class Memory:
    """The entries of a state that are counts of steps and memory of an optimizer: they are shown and checked at once.

    `shown` are the parameters that have an entry of the optimizer, `steps` the steps of each parameter.
    """

    def __init__(self, state: Entries, shown: Iterable[torch.Tensor], steps: Sequence[int]) -> None:
        entries = [state[tensor] for tensor in shown]
        self._keys, self._entries = tuple(state), tuple(state.values())
        self._watched = [(entry, tuple(entry), tuple(entry.values())) for entry in entries]
        self._lengths = lengths(state)
        self._counts = [entry[STEP] for entry in entries]
        self._tensors = [local_of(value) for entry in entries for value in entry.values()]
        self._places = places(self._tensors)
        self._have_state = [bool(count) for count in steps]

    def _is_there(self, state: Entries) -> bool:
        """Return whether the entries are the same tensors in the same memory."""
        return (
            lengths(state) == self._lengths
            and _core.changed_container([(state, self._keys, self._entries), *self._watched]) is None
            and places(self._tensors) == self._places
        )

    def is_shown(self, state: Entries, steps: Sequence[int]) -> bool:
        """Return whether the entries are as they were shown after these steps."""
        return self._is_there(state) and [tensor.item() for tensor in self._counts] == list(filter(None, steps))

    def show(self, state: Entries, steps: Sequence[int]) -> bool:
        """Set the counts to these; return False where others than these entries are to be shown."""
        if [bool(count) for count in steps] != self._have_state or not self._is_there(state):
            return False
        for tensor, count in zip(self._counts, filter(None, steps), strict=True):
            tensor.fill_(count)
        return True


def lengths(state: Entries) -> list[int]:
    """Return the numbers of values in the entries of a state."""
    return [len(entry) for entry in state.values()]


def places(tensors: Sequence[torch.Tensor]) -> list[tuple[int, tuple[int, ...]]]:
    """Return where the elements of tensors lie."""
    return [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]


def is_same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors of one shape are one memory."""
    one, other = local_of(one), local_of(other)
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()


# ---- Saving ----


def saved(inner: Optimizer, places: Sequence[int], state: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
    """Return copies of the entries of a state dict of torch, with what only fastopt needs to go on to the bit.

    `places` are the keys in it of the parameters of the optimizer.
    """
    entries = {
        key: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in entry.items()}
        for key, entry in state.items()
    }
    rows = list(zip(places, counts(inner._layout), changed_decays(inner._layout), strict=True))
    for place, counted, decays in rows:
        if place not in entries:
            continue
        entry, steps = entries[place], counted.pop("step")
        for key, value in counted.items():
            entry[key] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, decay in decays.items():
            numbers = [steps, *(decay[key] for key in KEYS)]
            entry[DECAY + name] = torch.tensor(numbers, dtype=torch.float64)
    most = max(inner._table.steps(), default=0)
    return {"state": entries} | ({} if inner.step_count == most else {STEP_COUNT: inner.step_count})


# ---- Loading ----


@dataclass(frozen=True)
class Whole:
    """An entry of a state dict as it was given: torch would cast its tensors to the dtype of the parameter."""

    entry: Mapping[str, Any]


def check_form(label: str, given: Any) -> None:
    """Raise ValueError unless this has the form of a state dict of torch."""
    form = isinstance(given, Mapping) and isinstance(given.get("state"), Mapping)
    groups = given.get("param_groups") if form else None
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        raise ValueError(f"{label}: the state must be a mapping with state and param_groups, got {brief(given)}")
    for i, group in enumerate(groups):
        params = group.get("params")
        if not isinstance(params, (list, tuple)) or not all(isinstance(one, Hashable) for one in params):
            raise ValueError(f"{label}: params of param_groups[{i}] must be a list of keys, got {brief(params)}")
    for key, entry in given["state"].items():
        if key != STEP_COUNT and not isinstance(entry, Mapping):
            raise ValueError(f"{label}: the state of parameter {key} must be a mapping, got {brief(entry)}")


def kept_whole(_: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict whose entries torch leaves as they are."""
    state = {key: Whole(entry) for key, entry in given["state"].items()}
    count = {STEP_COUNT: given[STEP_COUNT]} if STEP_COUNT in given else {}
    return {**given, "state": {**state, **count}}


def letters_of(rule: type[Optimizer], entry: Any) -> set[str]:
    """Return the letters of the state in an entry of a state dict."""
    letters = {name: letter for letter, name in rule._torch_names.items()}
    given = entry.entry if isinstance(entry, Whole) else entry
    return {letters.get(name, name) for name, value in given.items() if value is not None}


def load(inner: Optimizer, tensors: Sequence[torch.Tensor], state: Mapping[Any, Any]) -> None:
    """Give an optimizer the state of its parameters that torch has, others as before a step; or raise ValueError."""
    try:
        _load(inner, tensors, state)
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError) as error:
        label = f"{type(inner).__name__}.load_state_dict"
        raise ValueError(f"{label}: the state must be one of this rule in torch's form: {error}") from error


def _load(inner: Optimizer, tensors: Sequence[torch.Tensor], state: Mapping[Any, Any]) -> None:
    given = state_dict(inner._layout, copies=False)
    absent: list[Name] = []
    found: dict[Name, dict[str, Any]] = {}
    for one in parameters_of(inner, tensors):
        entry = state.get(one.tensor, {})
        entry = entry.entry if isinstance(entry, Whole) else entry
        entry = {key: placed_like(one.tensor, value) for key, value in entry.items() if value is not None}
        letters = inner._from_torch(entry)
        settings = one.hyper.settings_of(one.array)
        unused = set(settings.state_names) - set(settings.stepped_names)  # with the present hyperparameters
        own = [letter for letter in one.letters if letter not in (*AVERAGES, *OF_ITSELF, LAST_STEP, *unused)]
        if not entry:
            absent += [one.name] if one.steps else []
            continue
        if missing := [letter for letter in own if letter not in letters]:
            names = ", ".join(repr(inner._torch_names.get(letter, letter)) for letter in missing)
            label = f"{type(inner).__name__}: the state of {describe(one.name)}"
            raise ValueError(f"{label} must have {names}, got {', '.join(map(repr, entry)):.200}")
        found[one.name] = letters
    most = max((steps_of(letters) for letters in found.values()), default=0)
    given["step_count"] = max(most, count_of(STEP_COUNT, state.get(STEP_COUNT, inner.step_count)))
    for one in parameters_of(inner, tensors):
        if one.name in found:
            given["state"][one.name] = native(one, given["state"][one.name], found[one.name], given["step_count"])
    inner.load_state_dict(given, hyperparameters="current", convert=True)
    if absent:
        inner.reset(absent)


def steps_of(letters: Mapping[str, Any]) -> int:
    """Return how many steps a parameter has made; torch does not count those of some rules."""
    return count_of("step of a parameter", letters.get(STEP, 1))


def count_of(what: str, given: Any) -> int:
    """Return a count in a state, which may be in a tensor, or raise ValueError."""
    count = of_one_element(f"load_state_dict: {what}", given)
    if not is_number(count) or not 0 <= count < 1 << 62 or count != int(count):
        raise ValueError(f"load_state_dict: {what} must be an integer >= 0, got {brief(given)}")
    return int(count)


def number_of(what: str, given: Any) -> float:
    """Return a number in a state, which may be in a tensor, or raise ValueError."""
    number = of_one_element(f"load_state_dict: {what}", given)
    if not is_number(number):
        raise ValueError(f"load_state_dict: {what} must be a number, got {brief(given)}")
    return float(number)


def native(one: Parameter, before: Mapping[str, Any], given: Mapping[str, Any], step_count: int) -> dict[str, Any]:
    """Return the entry of a parameter in a state dict of fastopt, from its entry now and the state that is given."""
    steps = steps_of(given)
    entry: dict[str, Any] = {STEP: steps}
    if "decays" in before and steps == one.steps:
        entry["decays"] = before["decays"]
    if decays := dict(decays_of(given, steps)):
        entry["decays"] = decays
    for letter, array in one.letters.items():
        value: Any = given.get(letter)
        if letter in OF_ITSELF:
            if value is not None and numbers(value).dtype == array.dtype and value.shape == array.shape:
                entry[letter] = numbers(value)
        elif letter == LAST_STEP:
            exact = value is not None and value.dtype == torch.int64
            entry[letter] = np.minimum(numbers(value), steps) if exact else np.full(array.shape, steps)
        elif isinstance(before[letter], float):
            entry[letter] = number_of(f"{letter} of a parameter", value)
        else:
            dtype = np.float32 if isinstance(array, Stored) else array.dtype
            if value is not None:
                values = numbers(value)
            else:
                values = values_of(one.array, one.letters) if letter in AVERAGES else np.zeros(array.shape)
            entry[letter] = values.astype(dtype, copy=False)
    if AVERAGED in before:
        entry |= averaged(one, before, given, step_count)
    return entry


def averaged(one: Parameter, before: Mapping[str, Any], given: Mapping[str, Any], step_count: int) -> dict[str, Any]:
    """Return what the averages of a parameter have taken in; they begin anew where they are not given."""
    if any(letter not in given for letter in AVERAGES if letter in one.letters):
        return {BEGUN: step_count, AVERAGED: step_count}
    if BEGUN not in given or AVERAGED not in given:
        if one.steps:
            return {key: before[key] for key in (BEGUN, AVERAGED)}
        return {BEGUN: step_count - steps_of(given), AVERAGED: step_count}
    up_to = given[AVERAGED]
    if isinstance(up_to, torch.Tensor):
        up_to = np.minimum(numbers(up_to).astype(np.int64), step_count)
    return {BEGUN: count_of(f"{BEGUN} of a parameter", given[BEGUN]), AVERAGED: up_to}


def decays_of(given: Mapping[str, Any], steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the decays in a state that are of its steps: torch, which does not know them, may have gone on since."""
    for name, value in given.items():
        if name.startswith(DECAY) and value.dtype == torch.float64 and int(value[0]) == steps:
            decay = dict(zip(KEYS, value[1:].tolist(), strict=True))
            yield name[len(DECAY) :], {**decay, "since": int(decay["since"])}


def numbers(value: Any) -> Array:
    """Return the values of a tensor of a state as an array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"load_state_dict: values of a parameter must be a tensor, got {brief(value)}")
    tensor = torch.as_tensor(value).detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
