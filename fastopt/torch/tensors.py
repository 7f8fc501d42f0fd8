"""Tensors as the arrays that fastopt steps: in the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import _core
from ..nest import Array
from ..scalars import each_unwrapped, unwrapped

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def can_be_stepped(tensor: torch.Tensor) -> bool:
    """Return whether a tensor can ever have a gradient: those of integers are left alone, as torch leaves them."""
    return tensor.is_floating_point() or tensor.is_complex()


def array_of(label: str, tensor: torch.Tensor) -> Array:
    """Return the memory of a tensor as an array, or raise TypeError or ValueError where it cannot be stepped."""
    _core.check_tensor(label, tensor)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{label} must have dtype float16, bfloat16, float32 or float64, got {tensor.dtype}")
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(f"{label} is bfloat16, which needs ml_dtypes: pip install 'fastopt[bfloat16]'") from None
    return tensor.view(torch.int16).numpy().view(bfloat16)


def tensor_of(array: Array) -> torch.Tensor:
    """Return the memory of an array of state as a tensor."""
    return torch.from_numpy(array)


class Counters:
    """Tensors that share the version counters of others, for `increment_version`.

    Where Python alone refers to a tensor, torch takes the GIL and counts references each time it looks at it, which is
    most of the time of incrementing.  A view refers to its base without Python: each of these tensors has one.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        detached = [tensor.detach() for tensor in tensors]
        self._views = [tensor.view_as(tensor) for tensor in detached]
        self.tensors = tuple(detached)


def plain(label: str, value: Any) -> Any:
    """Return a hyperparameter as plain values, where it comes as a tensor, an array or a list; or raise ValueError."""
    value = each_unwrapped(of_one_element(label, value))
    return tuple(of_one_element(label, part) for part in value) if isinstance(value, (tuple, list)) else value


def of_one_element(label: str, value: Any) -> Any:
    """Return the number in a tensor or an array of one element, all else as it is; or raise ValueError."""
    if not isinstance(value, torch.Tensor):
        return unwrapped(value)
    if value.numel() != 1:
        raise ValueError(f"{label} must be a tensor of one element, got shape {tuple(value.shape)}")
    return value.item()


def may_change_in_place(value: Any) -> bool:
    """Return whether a hyperparameter may become another one and yet be the same object."""
    if isinstance(value, tuple):
        return any(map(may_change_in_place, value))
    return isinstance(value, (torch.Tensor, np.ndarray, list))
