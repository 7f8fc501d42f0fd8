"""The keys of a group that are the user's own, such as "name", told from misspelt hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .scalars import unwrapped

if TYPE_CHECKING:
    from .optimizer import Optimizer

Label: TypeAlias = str | bool | int | float | None

CLOSE = 0.76  # the least similarity, by difflib, to a word that may have been meant
# Words of other libraries, for which there is another one here.
ELSEWHERE = {
    "b1": "betas",
    "beta_1": "betas",
    "beta_2": "betas",
    "decay": "weight_decay",
    "decay_mult": "weight_decay",
    "epsilon": "eps",
    "l2": "weight_decay",
    "learning_rate": "lr",
    "lr_mult": "lr_scale",
    "lr_multiplier": "lr_scale",
    "wd": "weight_decay",
}


def label_of(where: str, key: Any, value: Any, hyper: Collection[str]) -> Label:
    """Return the value of a key of the user's own as Python's own, or raise TypeError or ValueError.

    `hyper` are the names of the hyperparameters of the group.
    """
    known = f"{where} can override {', '.join(hyper)}"
    if not isinstance(key, str):
        raise TypeError(f"{known}, and keys of your own must be str, got {brief(key)}")
    if word := meant(key, hyper):
        raise ValueError(f"{known}, and keys of your own must be unlike options, got {key!r}; did you mean {word!r}?")
    value = unwrapped(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, (str, bool, int, float)):
        raise TypeError(
            f"{where}: {key} must be a str, a number, True, False or None, as keys of your own are, got {brief(value)}"
        )
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
    from .optimizer import Optimizer

    parameters = inspect.signature(Optimizer.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def options_of_all() -> set[str]:
    """Return the names of the options of all optimizers, but for the parameters."""
    from .optimizer import Optimizer

    def below(cls: type[Optimizer]) -> Iterator[type[Optimizer]]:
        for inner in cls.__subclasses__():
            yield inner
            yield from below(inner)

    return {name for cls in below(Optimizer) for name in cls.__signature__.parameters} - {"params"}
