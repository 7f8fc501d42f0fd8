"""Where state lives: one block of memory, each buffer away from the addresses its parameter uses.

Arrays of one size from one allocator start at the same offset within a 4 KiB page, and the CPU takes a load for
dependent on an earlier store when those offsets agree.  Four such streams run at half speed; an offset between them
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
LINE = 64
APART = 512  # bytes between two streams of one parameter, within a page
SMALL = 4096  # bytes below which a buffer is not moved
MAX_PADDING = 1 << 20  # bytes spent on moving buffers, whatever the model


def lay_out_state(
    params: list[NDArray[Any]], shapes: list[list[tuple[int, ...]]], orders: list[tuple[int, ...]]
) -> tuple[NDArray[np.uint8], list[list[NDArray[Any]]]]:
    """Make zeroed state buffers: those of parameter i have its dtype and the shapes `shapes[i]`.

    `orders[i]` are its axes from the slowest to the fastest, in which buffers of its shape lie in memory.

    Returns
    -------
    arena : ndarray of uint8
        The memory that holds them all.  Its pages are touched by whoever updates them first.
    state : list of list of ndarray
        The buffers of each parameter.
    """
    rounds = range(max(map(len, shapes), default=0))
    sizes = [[prod(shape) * p.itemsize for shape in of_p] for p, of_p in zip(params, shapes, strict=True)]
    total = sum(size + LINE for of_p in sizes for size in of_p)
    arena = np.zeros(total + MAX_PADDING if total >= MAX_PADDING else 2 * total + LINE, np.uint8)
    base = arena.ctypes.data
    at = -base % LINE
    padding = 0
    limit = len(arena) - total - LINE
    state: list[list[NDArray[Any]]] = [[] for _ in params]
    used: list[list[int]] = [[] for _ in params]
    for s in rounds:
        for p, of_p, bytes_of_p, order, buffers, taken in zip(params, shapes, sizes, orders, state, used, strict=True):
            if s >= len(of_p):
                continue
            shape, size = of_p[s], bytes_of_p[s]
            if size >= SMALL:
                taken += [] if taken else [p.ctypes.data]
                move = distance(base + at, taken)
                if padding + move <= limit:
                    at += move
                    padding += move
                taken.append(base + at)
            if p.ndim > 1 and shape == p.shape:
                buffers.append(np.ndarray(shape, p.dtype, arena, at, strides_of(shape, order, p.itemsize)))
            else:
                buffers.append(np.ndarray(shape, p.dtype, arena, at))
            at += -(-size // LINE) * LINE
    return arena, state


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
