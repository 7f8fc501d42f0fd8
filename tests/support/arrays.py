"""The dtypes of parameters, and parameters and gradients to draw."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

DTYPES = (np.float32, np.float64)
# Of several parameters: without axes, without elements, and of three pieces of what a thread claims.
SHAPES = [(3,), (40, 50), (), (33001,), (0,), (7, 600)]


def gradients(seed: int, shape: Any, dtype: Any) -> Iterator[np.ndarray]:
    """Gradients over many magnitudes, with some zeros of either sign."""
    rng = np.random.default_rng(seed)
    while True:
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 2, shape)
        g = np.where(rng.random(shape) < 0.02, np.copysign(0.0, g), g)
        yield np.asarray(g, dtype)


def several(
    dtype: Any, steps: int, shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 5
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters of these shapes, and their gradients for each of so many steps."""
    rng = np.random.default_rng(seed)
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    streams = [gradients(seed + i, shape, dtype) for i, shape in enumerate(shapes)]
    return params, [[next(stream) for stream in streams] for _ in range(steps)]


def special_values(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of a special parameter and a special gradient, many times over so that vector loops meet them."""
    number = np.finfo(dtype)
    values = [0, 1, number.tiny, number.tiny / 2, number.smallest_subnormal, 1e-30, 1e15, number.max, np.inf]
    values = np.array([sign * x for x in values for sign in (1, -1)] + [np.nan], dtype)
    p, g = np.meshgrid(values, values)
    return np.tile(p.ravel(), 3), np.tile(g.ravel(), 3)
