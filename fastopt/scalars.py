"""Numbers as Python, NumPy and SciPy give them."""

from __future__ import annotations

from typing import Any

import numpy as np

PLAIN = frozenset({float, bool, str, type(None)})  # types of values that are kept as they are given


def unwrapped(value: Any) -> Any:
    """Return the number in an array of one element, such as np.where and np.interp give; all else as it is.

    NumPy's floats become Python's: np.float32(0.9) == 0.9, though they are two numbers, and values are compared.
    """
    value = value.reshape(())[()] if is_numbers(value) and value.size == 1 else value
    return float(value) if isinstance(value, np.floating) else value


def each_unwrapped(value: Any) -> Any:
    """Return several numbers, such as a pair, with each of them unwrapped; any other value as it is."""
    if isinstance(value, (tuple, list)):
        return type(value)([unwrapped(part) for part in value]) if type(value) in (tuple, list) else value
    return tuple(map(unwrapped, value)) if is_numbers(value) and value.ndim == 1 else value


def is_numbers(value: Any) -> bool:
    """Return whether a value is an array of numbers or truth values, none of them masked."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and not isinstance(value, np.ma.MaskedArray)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number; a truth value is none."""
    return isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer; a truth value is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
