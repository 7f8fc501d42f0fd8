"""How parameters are cut: the part of each that a process has, and the part of a saved state for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd, prod
from typing import Any

import numpy as np

from .. import _core
from ..declarations import ROWS, VECTOR
from ..nest import Array
from ..optimizer import Optimizer
from ..storage import DESCRIPTIONS, SCALES

GROUP = max(one.group for one in _core.formats())  # elements of a state of 8 bits that share a scale
SMALL = 1 << 14  # elements below which a parameter is not cut: messages with its parts would be short


class Cut:
    """The parts of one parameter, in the order of the processes; some may be empty.

    Parameters
    ----------
    array : ndarray
        The whole parameter, C-contiguous.
    unit : int
        Entries of the view that stay together.
    by_row : bool
        Whether a part consists of whole rows along the first axis: then the view is the array, else it is flat.
    """

    def __init__(self, array: Array, unit: int, by_row: bool) -> None:
        self.array, self.unit, self.by_row = array, unit, by_row
        self.view = self.view_of(array)
        self.entry_size = prod(self.view.shape[1:])  # elements of an entry of the view
        length = len(self.view)
        self.units = -(-length // unit) if length else 0
        # No part has one element: an array of one element is not stored as codes of 8 bits, but the whole may be.
        if self.units > 1 and (length - (self.units - 1) * unit) * self.entry_size == 1:
            self.units -= 1
        self.is_whole = self.units <= 1  # whether one process has all of it
        self.places: list[int] = []  # where the parts begin in the view, and where the last one ends

    @property
    def unit_nbytes(self) -> int:
        """The bytes of a unit."""
        return self.unit * self.entry_size * self.array.itemsize

    def share_out(self, loads: list[int]) -> None:
        """Share out the units evenly, those that remain to the processes with the fewest bytes; add to `loads`."""
        each, left = divmod(self.units, len(loads))
        chosen = sorted(range(len(loads)), key=loads.__getitem__)[:left]
        ends = np.cumsum([each + (rank in chosen) for rank in range(len(loads))])
        self.places = [0, *np.where(ends == self.units, len(self.view), ends * self.unit).tolist()]
        for rank, count in enumerate(self.counts):
            loads[rank] += count * self.array.itemsize

    @property
    def bounds(self) -> list[int]:
        """Where the parts begin among the elements, and where the last one ends."""
        return [place * self.entry_size for place in self.places]

    @property
    def counts(self) -> list[int]:
        """The number of elements of each part."""
        counts: list[int] = np.diff(self.bounds).tolist()
        return counts

    @property
    def owner(self) -> int:
        """The process that has all of a parameter that is not cut."""
        return int(np.argmax(np.diff(self.places)))

    def view_of(self, array: Array) -> Array:
        """Return the view of an array of the parameter's shape that is cut along its first axis."""
        return array if self.by_row else array.reshape(-1)

    def part(self, rank: int, array: Array) -> Array:
        """Return the part that a process has of an array of the parameter's shape."""
        return self.view_of(array)[self.places[rank] : self.places[rank + 1]]

    def shape_of_part(self, rank: int) -> tuple[int, ...]:
        """Return the shape of the part of a process."""
        return self.places[rank + 1] - self.places[rank], *self.view.shape[1:]

    def of(self, array: Array) -> Cut:
        """Return the cut of another array in the same places."""
        found = Cut(array, self.unit, self.by_row)
        found.places = self.places
        return found

    # -- saved states --

    def part_of_given(self, value: Any, rank: int) -> Any:
        """Return the part of a saved array for a process, or all of it if it does not have the parameter's shape."""
        fits = isinstance(value, np.ndarray) and value.shape == self.array.shape
        return self.part(rank, value) if fits else value

    def state_of_part(self, entry: Any, rank: int) -> Any:
        """Return the part of the parameter's saved state for a process; an empty part has no arrays."""
        if not isinstance(entry, Mapping):
            return entry
        if self.counts[rank] == 0:
            return {k: v for k, v in entry.items() if not isinstance(v, np.ndarray) and k not in DESCRIPTIONS}
        if self.is_whole:
            flat = {} if self.by_row else {k: v.reshape(-1) for k, v in entry.items() if isinstance(v, np.ndarray)}
            return {**entry, **flat}
        return {k: self._array_of_part(k, v, rank) if isinstance(v, np.ndarray) else v for k, v in entry.items()}

    def _array_of_part(self, key: str, value: Array, rank: int) -> Array:
        if key.endswith(SCALES):
            begin, end = self.bounds[rank : rank + 2]
            return value[begin // GROUP : -(-end // GROUP)]
        if self.by_row and value.shape[:1] == self.array.shape[:1]:  # also an entry for each row
            return value[self.places[rank] : self.places[rank + 1]]
        found: Array = self.part_of_given(value, rank)
        return found

    def joined_state(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the saved state of the parameter, from those of its parts."""
        lengths: list[int] = np.diff(self.places).tolist()
        some = [(part, length) for part, length in zip(parts, lengths, strict=True) if length] or [(parts[0], 0)]
        found = dict(some[0][0])
        for key in found:
            values = [part[key] for part, _ in some]
            if not any(isinstance(value, np.ndarray) for value in values):
                continue
            # Some parts have an entry for each row, others one entry for all of their rows.
            arrays = [
                value if isinstance(value, np.ndarray) else np.full(length, value)
                for value, (_, length) in zip(values, some, strict=True)
            ]
            whole = np.concatenate(arrays)
            found[key] = whole if self.by_row or key.endswith(SCALES) else whole.reshape(self.array.shape)
        return found


def cut(rule: type[Optimizer], array: Array, world: int, state_dtype: Any) -> Cut:
    """Return how a parameter is cut for so many processes: between rows, between elements, or not at all."""
    scopes, is_table = scopes_of(rule), array.ndim > 1
    if array.size < SMALL or not scopes <= {"element", "sums", "row"}:
        return Cut(array, max(len(array) if is_table else array.size, 1), is_table)
    if is_table:
        words = state_dtype.values() if isinstance(state_dtype, Mapping) else [state_dtype]
        by_row = Cut(array, GROUP // gcd(GROUP, array.size // len(array)) if "8bit" in words else 1, True)
        if "row" in scopes or by_row.units >= world:
            return by_row
    return Cut(array, GROUP, False)


def share_out(cuts: Sequence[Cut], loads: list[int]) -> None:
    """Share out parameters among processes that already have bytes (`loads`), so that all get about the same number."""
    for one in sorted(cuts, key=lambda one: one.unit_nbytes, reverse=True):
        one.share_out(loads)


def scopes_of(rule: type[Optimizer]) -> set[str]:
    """Return the scopes of the rows of a class: the elements that decide the update of one element."""
    rows = {name for row in rule._rules for name in (row, row + VECTOR) if name == row or name in ROWS}
    return {_core.Settings(row).scope for row in rows}
