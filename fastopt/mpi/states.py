"""The state of all parts in one state dict: gathered on one process, or sent out by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any

import numpy as np
from mpi4py import MPI

from .. import saving
from ..nest import Array, Name, describe
from ..optimizer import Optimizer
from ..saving import Loaded
from ..storage import DESCRIPTIONS
from .cuts import Cut
from .messages import on_one, raise_alike

# A state dict, and parameters if they are to be loaded too.
Given = tuple[Mapping[str, Any] | None, Mapping[Name, Array] | None]


def gathered_state(comm: MPI.Comm, optimizer: Optimizer, cuts: Sequence[Cut], root: int) -> dict[str, Any] | None:
    """Return on one process the state dict of an optimizer with whole parameters."""
    own = saving.state_dict(optimizer._layout, copies=False)
    state: dict[Name, dict[str, Any]] = {}
    for (name, entry), cut in zip(own["state"].items(), cuts, strict=True):
        parts = comm.gather(entry, root)
        if parts is not None:
            state[name] = cut.joined_state(parts)
    return {**own, "state": state} if comm.rank == root else None


def prepared_load(
    label: str,
    comm: MPI.Comm,
    optimizer: Optimizer,
    cuts: Sequence[Cut],
    given: Given,
    root: int,
    strict: bool,
    hyperparameters: str,
    convert: bool,
) -> Callable[[], tuple[Loaded, bool]]:
    """Check what one process is given, and return a function that loads this process's parts of it; or raise.

    The function also returns whether there are parameters.
    """
    layout = optimizer._layout
    whole = on_one(comm, label, root, lambda: checked_state(label, given[0], layout.names, cuts))
    head = comm.bcast(whole and {**whole, "state": list(whole["state"])}, root)
    with_parameters = comm.bcast(given[1] is not None, root)
    own = saving.state_dict(layout, copies=False)["state"]
    of_name = dict(zip(layout.names, zip(cuts, layout.arrays, strict=True), strict=True))
    state: dict[Any, Any] = {}
    parameters: dict[Name, Array] = {}
    for name in head["state"]:
        cut, part = of_name.get(name, (None, None))
        entries, arrays = None, None
        if whole is not None:
            ranks = range(comm.size)
            entry, array = whole["state"][name], (given[1] or {}).get(name)
            entries = [entry if cut is None else cut.state_of_part(entry, rank) for rank in ranks]
            arrays = [array if cut is None else cut.part_of_given(array, rank) for rank in ranks]
        state[name] = comm.scatter(entries, root)
        array = comm.scatter(arrays, root) if with_parameters else None
        if cut is not None and cut.counts[comm.rank] == 0:  # an empty part keeps its own empty arrays and their formats
            array = part
            if isinstance(state[name], dict):
                state[name] |= {k: v for k, v in own[name].items() if isinstance(v, np.ndarray) or k in DESCRIPTIONS}
        if array is not None:
            parameters[name] = array
    load, error = None, None
    try:
        of_parts = parameters if with_parameters else None
        load = optimizer._prepared_load({**head, "state": state}, strict, hyperparameters, convert, of_parts)
    except (TypeError, ValueError) as raised:
        error = raised
    raise_alike(comm, label, error)
    assert load is not None
    return lambda: (loaded_alike(comm, load, layout.names), with_parameters)


def loaded_alike(comm: MPI.Comm, load: Callable[[], Loaded], names: Sequence[Name]) -> Loaded:
    """Load, and return the names that did not fit on some process."""
    loaded = load()
    mismatched = {name for of_process in comm.allgather(loaded.mismatched) for name in of_process}
    return loaded._replace(mismatched=tuple(name for name in names if name in mismatched))


def checked_state(label: str, given: Any, names: Sequence[Name], cuts: Sequence[Cut]) -> dict[str, Any]:
    """Return a state dict that can be cut, or raise."""
    if not isinstance(given, Mapping) or not isinstance(given.get("state"), Mapping):
        raise TypeError(f"{label}: the state must be a mapping, the result of state_dict(), got {brief(given)}")
    for name, cut in zip(names, cuts, strict=True):
        entry = given["state"].get(name)
        order = entry.get("order") if isinstance(entry, Mapping) else None
        if order is not None and not cut.is_whole:
            raise ValueError(
                f"{label}: the codes of {describe(name)}, which is cut, must be in C order, got the axes in the order"
                f" {order}: load and save it with convert=True in one process first"
            )
    return dict(given)
