"""State dicts with one entry changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz.arrays import numbers
from fuzz.values import Array, garbage


def snapshot(value: Any, depth: int = 4) -> Any:
    """A state dict with copies of its arrays."""
    if isinstance(value, dict) and depth:
        return {key: snapshot(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, list) and depth:
        return [snapshot(entry, depth - 1) for entry in value]
    return value.copy() if type(value) is Array else value


def an_entry(rng: random.Random, saved: dict[Any, Any]) -> tuple[Any, Any] | None:
    """A container somewhere in a state dict and the key of one of its entries; None where it is empty."""
    target: Any = saved
    while True:
        keys: list[Any] = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            return None
        key = rng.choice(keys)
        if not (isinstance(target[key], (dict, list)) and target[key] and rng.random() < 0.85):
            return target, key
        target = target[key]


def damage(rng: random.Random, saved: dict[Any, Any]) -> None:
    """Change one entry of a state dict, somewhere."""
    if not (found := an_entry(rng, saved)):
        return
    target, key = found
    value = target[key]
    array = isinstance(value, Array) and value.dtype.kind == "f"
    ways: list[Callable[[], Any]] = [
        lambda: target.__setitem__(key, garbage(rng)),
        lambda: target.__setitem__(key, garbage(rng)),
        lambda: target.pop(key),
        lambda: target.__setitem__("more", garbage(rng)) if isinstance(target, dict) else target.append(value),
        lambda: target.__setitem__(key, value),
        lambda: target.__setitem__(key, rng.choice((0, 1, 5, 2**40, 2**61, np.int64(7), 0.5))),
    ]
    if array:
        ways = [
            lambda: target.__setitem__(key, garbage(rng)),
            lambda: target.__setitem__(key, numbers(rng, value.shape, value.dtype, 0.5)),
            lambda: target.__setitem__(key, np.asfortranarray(numbers(rng, value.shape, value.dtype))),
            lambda: target.__setitem__(
                key, value.astype(rng.choice(("f4", "f8", "f2", ">f4", ">f8", "i8", "c16", "O")))
            ),
            lambda: target.__setitem__(key, np.ones((*value.shape, 1)[-64:], value.dtype)),
            lambda: target.__setitem__(key, np.ones(value.shape[1:], value.dtype)),
            lambda: target.__setitem__(key, np.ma.masked_array(value, np.ones(value.shape, bool))),
            lambda: target.__setitem__(key, value.tolist()),
            lambda: target.pop(key),
        ]
    rng.choice(ways)()
