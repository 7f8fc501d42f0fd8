"""Random arrays in memory of any layout, the structures that hold them, and their images to compare."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Sequence
from math import inf, nan
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from fastopt.stored import Stored
from support.asserts import bits

Array = np.ndarray
BFLOAT16 = ml_dtypes.bfloat16
FORMATS = [np.dtype(dtype) for dtype in (np.float16, BFLOAT16, np.float32, np.float64)]  # of gradients


def numbers(rng: random.Random, shape: Any, dtype: Any, special: float = 0.1) -> Array:
    """Values over many magnitudes; sometimes with zeros, subnormals, infinities and NaN."""
    if np.dtype(dtype) == BFLOAT16:
        return numbers(rng, shape, np.float32, special).astype(dtype)
    source = np.random.default_rng(rng.getrandbits(32))
    values = source.standard_normal(shape) * 10.0 ** source.integers(-6, 2, shape)
    values = np.asarray(values, dtype)
    if rng.random() < special:
        info = np.finfo(dtype)
        odd = np.array([0, -0.0, info.tiny, info.smallest_subnormal, info.max, -info.max, inf, -inf, nan], dtype)
        values = np.where(source.random(shape) < 0.2, source.choice(odd, shape), values)
    return np.asarray(values, dtype)


def a_shape(rng: random.Random, dtype: Any) -> tuple[int, ...]:
    if rng.random() < 0.01:
        return rng.choice([(40_000,), (190, 211), (1,) * 64, (2,) * 10, (0,) * 5, (3,) + (1,) * 30])
    return tuple(rng.choice((0, 1, 1, 2, 3, 5, 17)) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))))


class Placed:
    """Values in an array of some layout, within memory of which nothing else may change."""

    def __init__(self, rng: random.Random, values: Array) -> None:
        order = list(range(values.ndim))
        steps, offset = [1] * values.ndim, 0
        if rng.random() < 0.5:
            rng.shuffle(order)
            if values.ndim < 10:
                steps = [rng.choice((1, 1, 1, -1, 2, -3)) for _ in order]
            offset = rng.choice((0, 0, 1, 4, values.itemsize))
        extents = [n * abs(step) for n, step in zip(values.shape, steps, strict=True)]
        self.memory = np.zeros(offset + math.prod(extents) * values.itemsize, np.uint8)
        whole = np.ndarray([extents[axis] for axis in order], values.dtype, self.memory, offset)
        self.array = whole.transpose(np.argsort(order))[(..., *(slice(None, None, step) for step in steps))]
        self.array[...] = np.frombuffer(b"\xff" * values.itemsize, values.dtype)
        self.gaps = self.memory == 0
        self.memory[self.gaps] = 77
        self.array[...] = values

    def gaps_are_whole(self) -> bool:
        return bool((self.memory[self.gaps] == 77).all())


def same(a: Array, b: Array) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and (bits(a) == bits(b)).all())


def parts(buffer: Any) -> list[Any]:
    """The arrays of a state buffer."""
    if not isinstance(buffer, Stored):
        return [buffer]
    return [buffer.codes, *([] if buffer.scales is None else [buffer.scales])]


def image(arrays: Sequence[Any]) -> list[Any]:
    """Something to compare that holds the bits of the arrays among these."""
    return [
        image(parts(a))
        if isinstance(a, Stored)
        else (str(a.dtype), a.shape, a.view(Array).tobytes())
        if isinstance(a, Array)
        else None
        for a in arrays
    ]


def defined(array: Array) -> Array:
    """An array with one NaN for all of its own: their signs are not defined."""
    return np.where(np.isnan(array), array.dtype.type(np.nan), array) if array.dtype in FORMATS else array


def of_buffer(buffer: Any) -> list[Any]:
    """The image of a state buffer, with one NaN for all."""
    is_bfloat16 = isinstance(buffer, Stored) and buffer.format == "bfloat16"
    return image([defined(array.view(BFLOAT16) if is_bfloat16 else array) for array in parts(buffer)])


def describe(value: Any, depth: int = 4) -> str:
    """A call's argument, however deep, long or odd."""
    if isinstance(value, Array):
        kind = "read-only " * (not value.flags.writeable) + ("array" if type(value) is Array else type(value).__name__)
        text = f"{kind}({value.dtype.str}, {value.shape}, strides {value.strides}"
        return text + (f", {value.tolist()!r:.120})" if 0 < value.size <= 4 and value.dtype.kind == "f" else ")")
    if isinstance(value, (dict, MappingProxyType, UserDict)) and depth:
        return "{" + ", ".join(f"{key!r:.40}: {describe(entry, depth - 1)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple, deque, UserList)) and depth:
        return f"{type(value).__name__}(" + ", ".join(describe(entry, depth - 1) for entry in value) + ")"
    if isinstance(value, (list, tuple)):
        return "[...]"
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


class Lazy(UserList[Any]):
    """A sequence that makes its entries anew whenever they are asked for."""

    def __getitem__(self, i: Any) -> Any:
        entry = self.data[i]
        return entry.copy(order="K") if isinstance(entry, Array) else entry


class LazyMapping(UserDict[Any, Any]):
    """The same for a mapping."""

    def __getitem__(self, key: Any) -> Any:
        entry = self.data[key]
        return entry.copy(order="K") if isinstance(entry, Array) else entry


def container(rng: random.Random, kind: str, names: Sequence[Any], arrays: Sequence[Any], lazy: bool = False) -> Any:
    """Arrays as a group's parameters or gradients are given."""
    if kind == "array":
        return arrays[0]
    if kind == "sequence":
        kinds = (list, tuple, UserList, deque, iter, lambda arrays: dict(enumerate(arrays)).values())
        return rng.choice((*kinds, Lazy) if lazy else kinds)(arrays)
    if kind == "nest":
        block, *_ = names[0].split(".")
        inner = dict(zip([name.split(".")[1] for name in names], arrays, strict=True))
        kinds = (list, tuple, deque) if "0" in inner else ()
        return {block: rng.choice(kinds)(arrays) if kinds else inner}
    entries = list(zip(names, arrays, strict=True))
    if lazy:
        rng.shuffle(entries)
    kinds = (dict, OrderedDict, UserDict, lambda entries: MappingProxyType(dict(entries)))
    return rng.choice((*kinds, LazyMapping) if lazy else kinds)(entries)
