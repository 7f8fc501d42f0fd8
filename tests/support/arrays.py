"""The dtypes of parameters, and gradients to draw."""

from collections.abc import Iterator
from typing import Any

import numpy as np

DTYPES = (np.float32, np.float64)


def gradients(seed: int, shape: Any, dtype: Any) -> Iterator[np.ndarray]:
    """Gradients over many magnitudes, with some zeros of either sign."""
    rng = np.random.default_rng(seed)
    while True:
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 2, shape)
        g = np.where(rng.random(shape) < 0.02, np.copysign(0.0, g), g)
        yield np.asarray(g, dtype)
