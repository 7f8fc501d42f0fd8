"""A buffer in another format than that in which the rule computes, as users see it."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from .nest import Array


class Stored:
    """A state buffer of bfloat16, float16 or 8-bit codes: ``numpy.asarray(buffer)`` has its values as float32.

    What a step writes is seen at once in `codes` and `scales`, and in arrays that are made from then on.

    Attributes
    ----------
    codes : ndarray
        The memory: float16, the bits of bfloat16 as uint16, int8 or uint8, of the parameter's shape.
    scales : ndarray of float32 or None
        The scale of each 64 codes, in the order in which the parameter is walked; None where there are none.
    format : str
        "float16", "bfloat16", "codes_signed" or "codes_nonnegative".
    """

    __slots__ = ("codes", "format", "order", "scales")

    def __init__(self, format: str, codes: Array, scales: Array | None, order: tuple[int, ...]) -> None:
        self.format, self.codes, self.scales, self.order = format, codes, scales, order

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its parameter."""
        return self.codes.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.codes.size

    @property
    def nbytes(self) -> int:
        """The bytes of codes and scales."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def dtype(self) -> str:
        """The word for it in `state_dtype`."""
        return "8bit" if self.scales is not None else self.format

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("the values of a stored buffer are made from its codes: copy must not be False")
        walked = np.ascontiguousarray(self.codes.transpose(self.order))
        values = _core.decoded(self.format, walked, self.scales)
        values = values.transpose(np.argsort(self.order))
        return values if dtype is None else values.astype(dtype)

    def encoded(self, values: Array) -> tuple[Array, Array | None]:
        """Return codes and scales of values in this format, rounded to nearest."""
        walked = np.ascontiguousarray(values.transpose(self.order), np.float32)
        codes, scales = _core.encoded(
            self.format, walked, self.codes.dtype, 0 if self.scales is None else self.scales.size
        )
        return codes.transpose(np.argsort(self.order)), scales

    def __setitem__(self, key: Any, value: Any) -> None:
        values = np.array(self)
        values[key] = value
        self.codes[...], scales = self.encoded(values)
        if self.scales is not None:
            self.scales[...] = scales

    def copy(self) -> Stored:
        """Return a copy in memory of its own."""
        return Stored(self.format, self.codes.copy(), None if self.scales is None else self.scales.copy(), self.order)

    def __repr__(self) -> str:
        return f"Stored({self.dtype}, shape {self.shape})"
