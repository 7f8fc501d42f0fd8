"""A buffer in another format than the dtype in which the rule computes, as users see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from reprlib import repr as brief
from typing import Any

import numpy as np

from . import _core
from .nest import Array

#: The formats of the C core, by name: number, bytes of an element, bytes of an entry of the rest, elements to an entry.
FORMATS: dict[str, _core.Format] = {one.name: one for one in _core.formats()}
# The memory of a buffer as NumPy sees it, and of its rest, by its format.
DTYPES: dict[str, tuple[type[np.generic], type[np.generic] | None]] = {
    "float16": (np.float16, None),
    "bfloat16": (np.uint16, None),
    "float32": (np.float32, None),
    "split16": (np.uint16, np.int16),
    "split8": (np.uint16, np.int8),
    "master_float16": (np.float16, np.float32),
    "master_bfloat16": (np.uint16, np.float32),
    "codes_signed": (np.int8, np.float32),
    "codes_nonnegative": (np.uint8, np.float32),
}
OF_STATE = tuple(name for name in DTYPES if not name.startswith(("split", "master")))  # formats of state buffers


def misfit(what: str, format: Any, codes: Any, scales: Any, shape: tuple[int, ...]) -> str | None:
    """Return why codes and scales cannot be a state buffer of this format and shape, or None."""
    if not isinstance(format, str) or format not in OF_STATE:
        return f"{what} must be stored in a format of state buffers, got {brief(format)}"
    data, rest = DTYPES[format]
    if not isinstance(codes, np.ndarray) or codes.shape != shape or codes.dtype != data:
        return f"{what} must be an array of shape {shape} that fits {format}, got {brief(codes)}"
    n_scales = -(-codes.size // FORMATS[format].group) if rest else 0
    if (rest or scales is not None) and (
        not isinstance(scales, np.ndarray) or scales.shape != (n_scales,) or scales.dtype != rest
    ):
        return f"{what} must have {n_scales} scales of float32, got {brief(scales)}"
    return None


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return float32 or float64 values in this dtype of both, rounded to nearest."""
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def to_odd(values: Array) -> Array:
    """Return values as float32, those that are not exact with an odd last bit.

    Rounded to nearest in 16 bits next, they are what the values themselves are, which two roundings to nearest need
    not be.
    """
    nearest = rounded(values, np.dtype(np.float32))
    inexact = (nearest != values) & (values == values)
    if not inexact.any():
        return nearest
    bits = nearest.view(np.uint32)  # one less is nearer to 0
    found: Array = np.where(inexact, bits - (abs(nearest) > abs(values)) | 1, bits).astype(np.uint32).view(np.float32)
    return found


class Stored:
    """A state buffer of bfloat16, float16 or 8-bit codes; ``numpy.asarray(buffer)`` has its values as float32.

    Elements are read as float32.  An assignment rounds to nearest.

    `codes` and `scales` are the memory that steps write.  Optimizers make these buffers themselves.  For
    `fastopt.kernels` you make them; zeros of both are elements of 0::

        m = Stored("codes_signed", np.zeros(p.shape, np.int8), np.zeros(-(-p.size // 64), np.float32))

    Parameters
    ----------
    format : {"float16", "bfloat16", "float32", "codes_signed", "codes_nonnegative"}
        Codes are of 8 bits: signed, or for elements that are never negative.
    codes : ndarray
        An array of the parameter's shape: float16, the bits of bfloat16 as uint16, float32, int8 or uint8.
    scales : ndarray of float32, optional
        One scale for every 64 codes, in the order of `order`; None for formats without scales.
    order : sequence of int, optional
        The axes of the parameter from the slowest to the fastest in memory, by default C order.

    Raises
    ------
    ValueError
        For codes and scales that do not fit the format.
    """

    __slots__ = ("codes", "format", "order", "scales")
    format: str
    codes: Array
    scales: Array | None
    order: tuple[int, ...]

    def __init__(
        self, format: str, codes: Array, scales: Array | None = None, order: Sequence[int] | None = None
    ) -> None:
        shape = codes.shape if isinstance(codes, np.ndarray) else ()
        if problem := misfit("Stored: codes", format, codes, scales, shape):
            raise ValueError(problem)
        axes = tuple(range(codes.ndim))
        order = axes if order is None else tuple(order)
        if tuple(sorted(order)) != axes:
            raise ValueError(f"Stored: order must be one of the axes {axes}, got {brief(order)}")
        for name, value in zip(("format", "codes", "scales", "order"), (format, codes, scales, order), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Stored: {name} cannot be replaced; its elements can be set if it is an array")

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
            raise ValueError("copy must not be False, since the values of a stored buffer are computed from its codes")
        walked = np.asarray(self.codes.transpose(self.order), order="C")
        values = _core.decoded(self.format, walked, self.scales)
        values = values.transpose(np.argsort(self.order))
        return values if dtype is None else values.astype(dtype)

    def encoded(self, values: Array) -> tuple[Array, Array | None]:
        """Return codes and scales of values in this format, rounded to nearest."""
        is_short = self.scales is None and self.format != "float32"
        floats = to_odd(values) if is_short else rounded(values, np.dtype(np.float32))
        walked = np.asarray(floats.transpose(self.order), order="C")
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
