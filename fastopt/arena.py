"""Where state lives: one block of memory, each buffer away from the addresses its parameter uses.

Arrays of one size from one allocator start at the same offset within a 4 KiB page, and the CPU takes a load for
dependent on an earlier store when those offsets agree.  Four such streams run at half speed; an offset between them
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

PAGE = 4096
LINE = 64
APART = 512  # bytes between two streams of one parameter, within a page
SMALL = 4096  # bytes below which a buffer is not moved
MAX_PADDING = 1 << 20  # bytes spent on moving buffers, whatever the model


def lay_out(params: Sequence[NDArray[Any]], sizes: list[list[int]]) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """Find places for zeroed buffers of so many bytes for each parameter.

    Returns
    -------
    arena : ndarray of uint8
        The memory that holds them all.  Its pages are touched by whoever updates them first.
    places : list of list of int
        Where in it the buffers of each parameter begin, each at a cache line.
    """
    total = sum(size + LINE for of_p in sizes for size in of_p)
    arena = np.zeros(total + MAX_PADDING if total >= MAX_PADDING else 2 * total + LINE, np.uint8)
    base = arena.ctypes.data
    at = -base % LINE
    padding = 0
    limit = len(arena) - total - LINE
    places: list[list[int]] = [[] for _ in sizes]
    used: list[list[int]] = [[] for _ in sizes]
    for s in range(max(map(len, sizes), default=0)):  # the first buffers of all parameters come first
        for p, of_p, places_of_p, taken in zip(params, sizes, places, used, strict=True):
            if s >= len(of_p):
                continue
            if of_p[s] >= SMALL:
                taken += [] if taken else [p.ctypes.data]
                move = distance(base + at, taken)
                if padding + move <= limit:
                    at += move
                    padding += move
                taken.append(base + at)
            places_of_p.append(at)
            at += -(-of_p[s] // LINE) * LINE
    return arena, places


def buffer(
    arena: NDArray[np.uint8], at: int, dtype: DTypeLike, shape: tuple[int, ...], order: Sequence[int] | None = None
) -> NDArray[Any]:
    """Return an array in this memory, whose axes lie in this order from the slowest to the fastest."""
    if order is None or len(shape) < 2:
        return np.ndarray(shape, dtype, arena, at)
    return np.ndarray(shape, dtype, arena, at, strides_of(shape, order, np.dtype(dtype).itemsize))


def strides_of(shape: tuple[int, ...], order: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the strides of an array without gaps whose axes lie in this order, from the slowest to the fastest."""
    strides, stride = [0] * len(shape), itemsize
    for axis in reversed(order):
        strides[axis] = stride
        stride *= max(shape[axis], 1)
    return tuple(strides)


def distance(address: int, taken: list[int]) -> int:
    """Return how far to move an address, in lines, to be APART from all those taken, modulo a page."""
    for move in range(0, PAGE, LINE):
        if all(APART <= (address + move - other) % PAGE <= PAGE - APART for other in taken):
            return move
    return 0
