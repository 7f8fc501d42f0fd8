"""The averages of the parameters: those of the options, and those that rules keep themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from reprlib import repr as brief
from typing import Any

from .layout import Layout
from .nest import Array, Name, describe
from .options import AVERAGES, decay_at
from .scheduled import at
from .storage import values_of


def averages_of(layout: Layout) -> tuple[str, ...]:
    """Return the names of the averages that are kept, but for `slow`, which is a part of the step."""
    return (*(name for name in layout.averages if name != "slow"), *layout.declaration.averages)


def average(layout: Layout, name: str) -> dict[Name, Array]:
    """Return an average of each parameter by name, or raise ValueError for one that is not there."""
    if name not in layout.declaration.averages:
        return _of_options(layout, name)
    found: dict[Name, Array] = {}
    average_of, steps = layout.declaration.average_of, iter(layout.table.steps())
    for group, names in zip(layout.groups, layout.members, strict=True):
        hyper = at(group, max(layout.table.step_count - 1, 0))
        for parameter, p in zip(names, group["params"], strict=True):
            state = layout.state[parameter]
            values = values_of(p, state)
            found[parameter] = average_of(values, state, hyper) if next(steps) else values.copy()
    return found


def _of_options(layout: Layout, name: str) -> dict[Name, Array]:
    """Return an average that an option asks for, up to the last step."""
    label, options, table = layout.declaration.name, layout.options, layout.table
    if name not in layout.averages:
        raise ValueError(f"{label}: {name} needs the option {AVERAGES[name]}, got None")
    with table:
        start, _ = options["swa"] or (0, 0)
        if name == "swa" and table.step_count < start:
            raise ValueError(f"{label}: swa must have begun, after step {start}, got {table.step_count} steps")
        decay = decay_at(label, options["ema_decay"] or 0.0, max(table.step_count - 1, 0))
        found: dict[Name, Array] = {}
        for i, ((key, letters), p) in enumerate(zip(layout.state.items(), layout.arrays, strict=True)):
            values = table.average(i, name, letters[name], decay)
            found[key] = values if values.dtype == letters[name].dtype else values_of(p, letters)
        return found


@contextmanager
def swapped(layout: Layout, label: str, name: Any) -> Iterator[None]:
    """Put an average in the place of the parameters, and the parameters back at the end."""
    kept, table = averages_of(layout), layout.table
    if not isinstance(name, str) or name not in kept:
        there = ", ".join(kept) or "one that this optimizer keeps, which has none"
        raise ValueError(f"{label}: average must be {there}, got {brief(name)}")
    with table:
        table.check_own(label)
        table.check_containers(label)
        names, arrays = layout.names, layout.given_arrays()
        averages = average(layout, name)
        before = [array.copy() for array in arrays]
        for parameter, array in zip(names, arrays, strict=True):
            if not array.flags.writeable:
                raise ValueError(f"{label}: {describe(parameter)} must be writable, got a read-only array")
        table.swapped = name  # still in this turn: no step comes between the copy and this
    try:
        for parameter, array in zip(names, arrays, strict=True):
            array[...] = averages[parameter]
        yield
    finally:
        for array, values in zip(arrays, before, strict=True):
            array[...] = values
        table.swapped = None
