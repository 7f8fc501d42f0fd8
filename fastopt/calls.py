"""Calls whose arguments do not fit: the words of their messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform as dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Return a value that only type checkers read."""
        return lambda cls: cls


P = ParamSpec("P")
R = TypeVar("R")

# Words of other libraries, for which there is another one here.
ELSEWHERE = {
    "b1": "betas",
    "backoff_factor": "backoff",
    "beta_1": "betas",
    "beta_2": "betas",
    "decay": "weight_decay",
    "decay_mult": "weight_decay",
    "epsilon": "eps",
    "growth_factor": "growth",
    "growth_interval": "interval",
    "init_scale": "value",
    "l2": "weight_decay",
    "learning_rate": "lr",
    "lr_mult": "lr_scale",
    "lr_multiplier": "lr_scale",
    "wd": "weight_decay",
}


def nearest(name: Any, names: Collection[str]) -> str:
    """Return a question after the name that was meant, if another library has it or one is much like this."""
    from difflib import get_close_matches  # only those who mistype pay for it

    if not isinstance(name, str):
        return ""
    here = ELSEWHERE.get(name.lower())
    found = [here] if here in names else get_close_matches(name.lower(), list(names), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def refuse_unknown(label: str, takes: Collection[str], unknown: Collection[str]) -> None:
    """Raise TypeError for the first keyword that a class does not take."""
    for key in unknown:
        raise TypeError(f"{label}: arguments are {', '.join(takes)}, got {key!r}{nearest(key, takes)}")


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Have a public function, method or constructor name its arguments where those of a call do not fit.

    Python's own message names neither the class nor the value.  A valid call costs nothing more than the call.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if problem := misfit(function, args, kwargs):
                raise TypeError(problem) from None
            raise

    return call


def misfit(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Return why a function cannot be called with these arguments, or None."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        pass
    else:
        return None
    label, takes = function.__name__, list(signature.parameters.values())
    if "." in function.__qualname__:  # a method, whose first argument is the object
        owner = type(args[0]).__name__ if args else function.__qualname__.partition(".")[0]
        label = owner if label == "__init__" else f"{owner}.{label}"
        takes, args = takes[1:], args[1:]
    by_position = [p.name for p in takes if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p.name for p in takes if p.kind is p.KEYWORD_ONLY]
    required = [
        name for name in (*by_position, *by_name) if signature.parameters[name].default is inspect.Parameter.empty
    ]
    return problem(label, by_position, by_name, required, args, kwargs)


def problem(
    label: str,
    by_position: Sequence[str],
    by_name: Sequence[str],
    required: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str:
    """Return the problem with the arguments of an invalid call."""
    known, names = [*by_position, *by_name], ", ".join(by_position)
    if len(args) > len(by_position):
        beyond = brief(args[len(by_position)])
        if by_name:
            subject = f"arguments after {names}" if names else "arguments"
            return f"{label}: {subject} must be given by name, one of {', '.join(by_name)}, got {beyond} by position"
        return f"{label}: arguments are {names or 'none'}, got {beyond} beyond them"
    for key in kwargs:
        if key not in known:
            return f"{label}: arguments are {', '.join(known) or 'none'}, got {key!r}{nearest(key, known)}"
        if key in by_position[: len(args)]:
            return f"{label}: {key} must be given once, got it by position and by name"
    given = {*by_position[: len(args)], *kwargs}
    return f"{label}: {next((name for name in required if name not in given), 'the object')} must be given, got none"
