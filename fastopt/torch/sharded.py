"""Parameters that are DTensors: each process steps its own part of them, the local tensor.

A rule that works element by element makes the same step of a part as of the whole, to the bit.  What is drawn or scaled
by the place of an element (random rounding, 8-bit codes in groups) follows its place in the whole parameter, its
offset.  Sums over a parameter, or over all of them, are added up over the processes.  A rule that needs more than sums
of what other processes have is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import compress
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from ..optimizer import Optimizer
from ..storage import is_native, of_state

# The shapes of state of a parameter: its own; without its last axis; and with one column, or one row, in place of all.
SHAPES_OF_STATE: tuple[Callable[[torch.Size], tuple[int, ...]], ...] = (
    lambda shape: shape,
    lambda shape: shape[:-1],
    lambda shape: (*shape[:-1], 1),
    lambda shape: (*shape[:-2], 1, *shape[-1:]),
)
GROUP = max(one.group for one in _core.formats())  # elements that share a scale


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor.  There is none before their module has been imported, which takes long."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: Any) -> Any:
    """Return the part of a tensor that this process has; a tensor that is no DTensor itself."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor  # to_local() makes a view at each call


def placed_like(parameter: torch.Tensor, value: Any) -> Any:
    """Return the part of a gradient or of state, if it is cut, that belongs to the part of a parameter here."""
    if not is_dtensor(value):
        return value
    if not is_dtensor(parameter):
        return value.full_tensor()
    own: Any = parameter
    same = value._spec is own._spec or (value.device_mesh, value.placements) == (own.device_mesh, own.placements)
    return local_of(value if same else value.redistribute(own.device_mesh, own.placements))


def gradients_of(
    table: _core.Table, tensors: tuple[torch.Tensor, ...]
) -> tuple[tuple[Any, ...], tuple[torch.Tensor, ...]] | None:
    """Return the gradients of parameters, some of which are DTensors, and all tensors to mark as changed by a step."""
    gradients = tuple(placed_like(tensor, tensor.grad) for tensor in tensors)
    found = table.gradients_of(tuple(map(local_of, tensors)), gradients)
    if found is None:
        return None
    return gradients, (*found[1], *compress(tensors, [gradient is not None for gradient in gradients]))


def like(parameter: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Return a buffer of state of a parameter's part as a part of the whole state, in the same memory."""
    if not is_dtensor(parameter):
        return buffer
    own: Any = parameter
    shapes = [(of(own.shape), of(own._local_tensor.shape)) for of in SHAPES_OF_STATE]
    shape = next((whole for whole, part in shapes if part == buffer.shape), None)
    if shape is None or buffer.ndim < 1 <= own.ndim:
        return buffer  # carried numbers, which are the same everywhere, and entries for each axis of a whole parameter
    stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    found: torch.Tensor = type(own).from_local(
        buffer, own.device_mesh, own.placements, run_check=False, shape=shape, stride=stride
    )
    return found


def set_parts(label: str, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> None:
    """Have an optimizer step parts of these parameters, or raise where they cannot be stepped."""
    offsets = offsets_of(label, inner, tensors)
    inner._table.set_parts(offsets, [tensor.numel() for tensor in tensors], sum_over(tensors))


def sum_over(tensors: Sequence[torch.Tensor]) -> Callable[[NDArray[np.float64]], None] | None:
    """Return a function that adds up the rows of an array, one for each parameter, over the processes with its parts.

    None where no parameter is cut.  Replicas have the same sums and add nothing.
    """
    groups: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        for mesh_axis, _ in cuts_of(tensor):
            own: Any = tensor
            groups.setdefault(own.device_mesh.get_group(mesh_axis), []).append(i)
    if not groups:
        return None

    def sum_parts(values: NDArray[np.float64]) -> None:
        for group, rows in groups.items():
            part = values[rows]
            torch.distributed.all_reduce(torch.from_numpy(part), group=group)
            values[rows] = part

    return sum_parts


def offsets_of(label: str, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return where the part of each parameter begins in the whole; or raise where it cannot be stepped by itself."""
    offsets: list[int] = []
    layout = inner._layout
    rows = zip(tensors, layout.arrays, layout.all_settings(), layout.all_groups(), strict=True)
    for i, (tensor, array, settings, group) in enumerate(rows):
        where = f"{label}: parameter {i}"
        check_placements(where, tensor)
        axes = {axis for _, axis in cuts_of(tensor)}
        offsets.append(0)
        if not axes:
            continue
        check_rule(where, label, settings.scope, tensor, axes)
        check_options(label, inner._options)
        whole = np.broadcast_to(np.zeros((), array.dtype), tensor.shape)
        formats = [
            of_state(where, whole, settings, letter, s, group["state_dtype"])
            for s, letter in enumerate(settings.state_names)
        ]
        if any(one.group > 1 for one in formats):
            offsets[-1] = offset_of(where, tensor, axes, GROUP, "8-bit state", 'state_dtype="bfloat16"')
        elif group["rounding"] == "stochastic" and not is_native(array, group):
            offsets[-1] = offset_of(where, tensor, axes, 1, "random rounding", 'rounding="nearest"')
    return offsets


def check_placements(label: str, tensor: torch.Tensor) -> None:
    """Raise for a parameter of which processes have terms of a sum."""
    own: Any = tensor
    if is_dtensor(tensor) and any(placement.is_partial() for placement in own.placements):
        raise ValueError(f"{label} must be replicated or sharded, got placements {own.placements}")


def cuts_of(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Return the axes of its mesh along which processes have parts of a parameter, each with the axis that is cut."""
    if not is_dtensor(tensor):
        return []
    own: Any = tensor
    pairs = enumerate(zip(own.placements, own.device_mesh.shape, strict=True))
    return [(i, placement.dim) for i, (placement, size) in pairs if size > 1 and not placement.is_replicate()]


def check_rule(label: str, rule: str, scope: str, tensor: torch.Tensor, axes: set[int]) -> None:
    """Raise for a rule whose step of an element needs more than sums of elements that other processes have."""
    kept = {"element": 0, "sums": 0, "row": 1, "matrix": 2, "parameter": tensor.ndim}[
        scope
    ]  # last axes, that stay whole
    if max(axes) < tensor.ndim - kept:
        return
    needed = {"row": "all elements of a row", "matrix": "all elements of a matrix", "parameter": "all of its elements"}
    raise ValueError(
        f"{label} must not be sharded, since a step of {rule} needs {needed[scope]}, got {described(tensor)}: use a"
        f" rule that works element by element, or keep the parameter whole (ignored_params of fully_shard)"
    )


def check_options(label: str, options: dict[str, Any]) -> None:
    """Raise for options that parameters in parts do not have."""
    if options["catch_up"]:
        raise ValueError(f"{label}: catch_up must be False where parameters are sharded, got True")


def check_shared_out(label: str, rule: type[Optimizer], options: dict[str, Any]) -> None:
    """Raise for a step that looks at all gradients, where a ZeroRedundancyOptimizer makes the optimizer for some."""
    if not is_made_by_zero():
        return
    where = "within ZeroRedundancyOptimizer, which gives each process some of the parameters"
    if any(row.estimates_group for row in rule._declaration.settings_of_rows()):
        raise ValueError(
            f"{label} must not be used {where}, since its step needs all of them: use DistributedDataParallel"
        )
    if options["clip_norm"] is not None and options["clip_norm_per"] != "parameter":
        raise ValueError(
            f"{label}: clip_norm must be None {where}, got {options['clip_norm']!r}: call"
            f" torch.nn.utils.clip_grad_norm_ before the step, or clip by parameter (clip_norm_per)"
        )
    if options["nonfinite"] != "propagate":
        raise ValueError(
            f"{label}: nonfinite must be 'propagate' {where}, got {options['nonfinite']!r}: look at the norm that"
            f" torch.nn.utils.clip_grad_norm_ returns before the step"
        )


def is_made_by_zero() -> bool:
    """Return whether the caller is called by ZeroRedundancyOptimizer, in one of several processes.

    It has no other sign: it makes an optimizer with a part of the parameters and of the options that it was given.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = None if module is None else sys._getframe()
    while frame is not None and frame.f_globals is not vars(module):
        frame = frame.f_back
    return frame is not None and torch.distributed.get_world_size() > 1


def described(tensor: torch.Tensor) -> str:
    """Return the words by which messages describe a DTensor."""
    own: Any = tensor
    return f"shape {tuple(own.shape)} with placements {own.placements} on a mesh of {own.device_mesh.shape}"


def offset_of(label: str, tensor: torch.Tensor, axes: set[int], multiple: int, needs_it: str, way_out: str) -> int:
    """Return where the part of this process begins in the elements of the whole parameter.

    Raise ValueError, on all processes alike, unless all parts are runs of these elements that begin at multiples.
    """
    own: Any = tensor
    axis = min(axes)
    length = prod(own.shape[axis + 1 :])
    parts = parts_of(own, axis)
    at = place_among(own)
    is_run = len(axes) == 1 and prod(own.shape[:axis]) == 1 and own._local_tensor.is_contiguous()
    # Other kinds of shards, which may be subclasses of Shard, cut in another order.
    if is_run and all(type(placement).__name__ in ("Replicate", "Shard") for placement in own.placements):
        bad = [begin * length for begin, extent in parts if extent and begin * length % multiple]
        if not bad and parts[at][1] == own._local_tensor.shape[axis]:
            return parts[at][0] * length if parts[at][1] else 0
        found = f", where a part begins at {bad[0]}" if bad else ""
    else:
        found = ""
    required = "in runs of its elements" + (f" that begin at multiples of {multiple}" if multiple > 1 else "")
    raise ValueError(f"{label} must be cut {required} with {needs_it}, got {described(tensor)}{found}: use {way_out}")


def parts_of(tensor: Any, axis: int) -> list[tuple[int, int]]:
    """Return the first index and the extent along an axis of the parts that shards of a mesh cut it into, in turn."""
    parts = [(0, tensor.shape[axis])]
    for placement, size in zip(tensor.placements, tensor.device_mesh.shape, strict=True):
        if not placement.is_replicate():
            parts = [
                (begin + k * chunk, max(0, min(chunk, extent - k * chunk)))
                for begin, extent in parts
                for chunk in (-(-extent // size),)
                for k in range(size)
            ]
    return parts


def place_among(tensor: Any) -> int:
    """Return which of these parts this process has."""
    mesh, place = tensor.device_mesh, 0
    for placement, size, at in zip(tensor.placements, mesh.shape, mesh.get_coordinate(), strict=True):
        place = place if placement.is_replicate() else place * size + at
    return place
