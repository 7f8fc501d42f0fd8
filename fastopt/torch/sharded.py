"""Parameters that are DTensors: each process steps its own part of them, the local tensor.

A rule that works element by element makes the same step of a part as of the whole, to the bit.  What is drawn or scaled
by the place of an element (random rounding, 8-bit codes in groups) follows its place in the whole parameter, its
offset.  What needs sums over a whole parameter, or over all of them, is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import compress
from math import prod
from typing import Any

import numpy as np
import torch

from .. import _core
from ..optimizer import Optimizer
from ..storage import is_native, of_state

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
    shape, local = own.shape, own._local_tensor.shape
    if buffer.shape != local:
        if len(local) < 2 or buffer.shape != local[:-1]:
            return buffer  # carried numbers, which are the same everywhere, and sums over a parameter that is not cut
        shape = shape[:-1]
    stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    whole: torch.Tensor = type(own).from_local(
        buffer, own.device_mesh, own.placements, run_check=False, shape=shape, stride=stride
    )
    return whole


def offsets_of(label: str, inner: Optimizer, tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return where the part of each parameter begins in the whole; or raise where it cannot be stepped by itself."""
    offsets: list[int] = []
    layout = inner._layout
    groups = [group for group in inner.groups for _ in group["params"]]
    rows = zip(tensors, layout.arrays, layout.all_settings(), groups, strict=True)
    for i, (tensor, array, settings, group) in enumerate(rows):
        where = f"{label}: parameter {i}"
        axes = cut_axes(where, tensor)
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


def cut_axes(label: str, tensor: torch.Tensor) -> set[int]:
    """Return the axes of a parameter of which several processes have parts."""
    if not is_dtensor(tensor):
        return set()
    own: Any = tensor
    if any(placement.is_partial() for placement in own.placements):
        raise ValueError(f"{label} must be replicated or sharded, got placements {own.placements}")
    pairs = zip(own.placements, own.device_mesh.shape, strict=True)
    return {placement.dim for placement, size in pairs if size > 1 and not placement.is_replicate()}


def check_rule(label: str, rule: str, scope: str, tensor: torch.Tensor, axes: set[int]) -> None:
    """Raise for a rule whose step of an element needs elements that other processes have."""
    if scope == "element" or (scope == "row" and tensor.ndim - 1 not in axes):
        return
    needed = {"row": "all elements of a row", "parameter": "all of its elements", "group": "all parameters at once"}
    raise ValueError(
        f"{label} must not be sharded, since a step of {rule} needs {needed[scope]}, got {described(tensor)}: use a"
        f" rule that works element by element, or keep the parameter whole (ignored_params of fully_shard)"
    )


def check_options(label: str, options: dict[str, Any]) -> None:
    """Raise for options of a step that look at all gradients, of which each process has a part."""
    if options["catch_up"]:
        raise ValueError(f"{label}: catch_up must be False where parameters are sharded, got True")
    if options["clip_norm"] is not None:
        raise ValueError(
            f"{label}: clip_norm must be None where parameters are sharded, since each process has a part of the"
            f" gradients, got {options['clip_norm']!r}: call torch.nn.utils.clip_grad_norm_ before the step"
        )
    if options["nonfinite"] != "propagate":
        raise ValueError(
            f"{label}: nonfinite must be 'propagate' where parameters are sharded, since each process would decide by"
            f" its part of the gradients, got {options['nonfinite']!r}: look at the norm that"
            f" torch.nn.utils.clip_grad_norm_ returns before the step"
        )


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
