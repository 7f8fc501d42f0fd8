"""The user's own keys of a group, such as "name", and the difference to misspelt hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from reprlib import repr as brief
from typing import Any, TypeAlias

import numpy as np

from .calls import ELSEWHERE
from .declarations import Declaring
from .scalars import unwrapped

Label: TypeAlias = str | bool | int | float | None

CLOSE = 0.76  # the least similarity, by difflib, to a word that may have been meant


def label_of(where: str, key: Any, value: Any, hyper: Collection[str]) -> Label:
    """Return the value of a key of the user's own as Python's own, or raise TypeError or ValueError.

    `hyper` are the names of the hyperparameters of the group.
    """
    known = f"{where} can override {', '.join(hyper)}"
    if not isinstance(key, str):
        raise TypeError(f"{known}, and keys of your own must be str, got {brief(key)}")
    if word := meant(key, hyper):
        hint = f"; did you mean {word!r}?"
        if word == key:
            of_all = ", which all groups share: pass it to the optimizer"
            hint = of_all if key in shared_options() else ", which is an option of other rules"
        raise ValueError(f"{known}, and keys of your own must not be similar to options, got {key!r}{hint}")
    value = unwrapped(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, (str, bool, int, float)):
        raise TypeError(
            f"{where}: {key} must be a str, a number, True, False or None, as keys of your own are, got {brief(value)}"
        )
    if isinstance(value, int) and abs(value) >= 1 << 63:  # JSON would have all of its digits, if Python wrote them
        raise ValueError(f"{where}: {key} must be an integer that 64 bits hold, got {value.bit_length()} bits")
    return value


def meant(key: str, hyper: Collection[str]) -> str | None:
    """Return the option that a key may have been meant for, or None."""
    from difflib import get_close_matches

    word = key.lower()
    if ELSEWHERE.get(word) in hyper:
        return ELSEWHERE[word]
    close = get_close_matches(word, [*hyper, *shared_options()], 1, CLOSE)
    return close[0] if close else word if word in options_of_all() else None


def shared_options() -> list[str]:
    """Return the names of the options that every optimizer takes."""
    shared = {name for cls in Declaring.__subclasses__() for name in cls._shared}
    return sorted(shared - {"params", "lr", "lr_scale"})


def options_of_all() -> set[str]:
    """Return the names of the options of all optimizers, but for the parameters."""
    from .optimizers import load_all

    load_all()

    def below(cls: type[Declaring]) -> Iterator[type[Declaring]]:
        for inner in cls.__subclasses__():
            yield inner
            yield from below(inner)

    return {name for cls in below(Declaring) for name in inspect.signature(cls).parameters} - {"params"}
