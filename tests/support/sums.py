"""Sums over a parameter, in the order of csrc: lanes, blocks, pieces; tiles of matrices; squares of any size."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from support.arithmetic import flush

TILE, TILE_ROWS, TILE_COLUMNS, SPAN = 64 * 1024, 64, 4096, 512


def blocks(x: np.ndarray) -> Iterator[list[slice]]:
    """The blocks of 1024 elements of each piece of 16384."""
    for piece in range(0, x.size, 16384):
        end = min(piece + 16384, x.size)
        yield [slice(block, min(block + 1024, end)) for block in range(piece, end, 1024)]


def sum_of_lanes(products: np.ndarray) -> float:
    """The sum of a block, by 16 lanes."""
    lanes = np.zeros((-(-products.size // 16), 16))
    lanes.reshape(-1)[: products.size] = flush(products)
    sums = np.add.reduce(lanes, axis=0)
    while sums.size > 1:
        sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
    return float(sums[0])


def sums_of_products(x: np.ndarray, y: np.ndarray) -> Iterator[float]:
    """The terms of a sum of products as csrc adds them: in double, by pieces and blocks."""
    x, y = (np.asarray(flush(np.asarray(z)).reshape(-1), np.float64) for z in (x, y))
    for piece in blocks(x):
        total = 0.0
        for block in piece:
            total += sum_of_lanes(x[block] * y[block])
        yield total


def unit_of(sums: Any, dtype: Any) -> Any:
    """Where the sum of squares of a block is kept: 0 as it is, 1 in units of 2^1200, 2 in units of 2^-1200."""
    if dtype == np.float32:
        return np.zeros(np.shape(sums), int)
    sums = np.asarray(sums)
    return np.where(sums < 2.0**-900, 2, np.where(sums <= 2.0**900, 0, 1))


def squares(*arrays: np.ndarray) -> list[float]:
    """The sum of squares of all elements, in three parts: as it is, in units of 2^1200, in units of 2^-1200."""
    total = [0.0] * 3
    for array in arrays:
        x = np.asarray(flush(np.asarray(array)).reshape(-1), np.float64)
        for piece in blocks(x):
            of_piece = [0.0] * 3
            for block in piece:
                with np.errstate(all="ignore"):
                    unit = int(unit_of(sum_of_lanes(x[block] ** 2), array.dtype))
                    of_piece[unit] += sum_of_lanes((x[block] * (1.0, 2.0**-600, 2.0**600)[unit]) ** 2)
            total = [a + b for a, b in zip(total, of_piece, strict=True)]
    return total


def scaled(total: list[float]) -> tuple[float, int]:
    """A sum of squares as a number and the power of two it is to be multiplied by."""
    usual, huge, tiny = total
    if huge != 0:
        return huge + math.ldexp(usual, -1200), 1200
    if tiny == 0 or usual != 0:
        return usual + math.ldexp(tiny, -1200), 0
    return tiny, -1200


def root(total: list[float], divisor: float = 1) -> float:
    """sqrt(total / divisor)"""
    x, exponent = scaled(total)
    with np.errstate(all="ignore"):
        return float(np.ldexp(np.sqrt(np.float64(x) / divisor), exponent // 2))


def norm(grads: list[np.ndarray]) -> float:
    """The norm of all gradients."""
    return root(squares(*grads))


def add_up(terms: Any) -> float:
    """A sum in this order."""
    return float(np.add.accumulate(np.concatenate([[0.0], np.asarray(terms, np.float64)]))[-1])


def trust(p, u, coefficient=1.0, eps=0.0):
    """The ratio of two norms, 1 where either is 0."""
    of_p, of_u = root(squares(p)), root(squares(u))
    if of_p == 0 or of_u == 0:
        return 1.0
    return float(np.float64(coefficient * of_p) / (of_u + eps))


def tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """The tiles of matrices that lie one below the other: rows and columns.  Small matrices share a tile."""
    rows, columns = shape[-2:]
    strip, all_rows = max(TILE // min(columns, TILE_COLUMNS), TILE_ROWS), math.prod(shape[:-1])
    together = max(strip // rows, 1) if columns <= TILE_COLUMNS else 1
    for first in range(0, all_rows, together * rows):
        end = min(first + together * rows, all_rows)
        for row in range(first, end, strip):
            for column in range(0, columns, TILE_COLUMNS):
                yield slice(row, min(row + strip, end)), slice(column, column + TILE_COLUMNS)


def products_of_spans(x: np.ndarray, span: int = SPAN) -> np.ndarray:
    """The sums of squares of the spans of the rows of a tile, by 16 lanes."""
    x = flush(np.asarray(x, np.float64))
    length = min(span, x.shape[1])
    spans = -(-x.shape[1] // length)
    lanes = np.zeros((len(x), spans * length))
    lanes[:, : x.shape[1]] = flush(x * x)
    padded = np.zeros((len(x) * spans, -(-length // 16), 16))
    padded.reshape(len(padded), -1)[:, :length] = lanes.reshape(-1, length)
    sums = np.add.reduce(padded, axis=1)
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    return sums.reshape(len(x), spans)


def squares_of_tiles(x: np.ndarray) -> list[float]:
    """The sum of squares of matrices, as `squares` has it: tile by tile, row by row and span by span."""
    x = flush(np.asarray(x))
    matrices = x.reshape(-1, x.shape[-1])
    totals = []
    for tile in tiles(x.shape):
        part = np.asarray(matrices[tile], np.float64)
        sums = products_of_spans(part)
        choice = unit_of(sums, x.dtype)
        scaled_sums = [sums, products_of_spans(part * 2.0**-600), products_of_spans(part * 2.0**600)]
        totals.append([add_up(np.where(choice == i, of_unit, 0).reshape(-1)) for i, of_unit in enumerate(scaled_sums)])
    return [add_up(column) for column in zip(*totals, strict=True)]
