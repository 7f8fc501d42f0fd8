"""The outcome of a call, and the one that is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Calls = Iterator[tuple[str, str]]  # of a scenario: each call by name, and its outcome
Tell = Callable[..., None]  # notes the call that comes, for the message when it goes wrong


class WrongResultError(Exception):
    """A call that did neither what it should nor nothing."""


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, Any]:
    """Make a call and return its outcome.  Exceptions that are not allowed pass through."""
    try:
        return "right", call(*args, **kwargs)
    except FloatingPointError as error:
        return "nonfinite", error
    except (TypeError, ValueError) as error:
        return "refused", error


def expect(outcome: str, *allowed: str) -> None:
    if outcome not in allowed:
        raise WrongResultError(f"it was {outcome}, expected {' or '.join(allowed)}")
