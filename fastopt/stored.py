"""A buffer in another format than that in which the rule computes, as users see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _core
from .nest import Array


class Stored:
    """A state buffer of bfloat16, float16 or 8-bit codes: ``numpy.asarray(buffer)`` has its values as float32.

    Reading elements gives float32; setting them rounds to nearest.

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
    format: str
    codes: Array
    scales: Array | None
    order: tuple[int, ...]

    def __init__(self, format: str, codes: Array, scales: Array | None, order: tuple[int, ...]) -> None:
        for name, value in zip(("format", "codes", "scales", "order"), (format, codes, scales, order), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Stored: {name} can be written to where it is an array, but not replaced")

    def __reduce__(self) -> Any:
        return Stored, (self.format, self.codes, self.scales, self.order)

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
        walked = np.asarray(self.codes.transpose(self.order), order="C")
        values = _core.decoded(self.format, walked, self.scales)
        values = values.transpose(np.argsort(self.order))
        return values if dtype is None else values.astype(dtype)

    def encoded(self, values: Array) -> tuple[Array, Array | None]:
        """Return codes and scales of values in this format, rounded to nearest."""
        walked = np.asarray(values.transpose(self.order), np.float32, order="C")
        codes = np.empty(walked.shape, self.codes.dtype)
        scales = None if self.scales is None else np.empty_like(self.scales)
        _core.encode(self.format, walked, codes, scales)
        return codes.transpose(np.argsort(self.order)), scales

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

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
