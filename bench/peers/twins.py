"""The other libraries' form of a rule, as its file of tests/rules/ declares it."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2] / "tests"


@cache
def _classes() -> dict[str, Any]:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    classes: dict[str, Any] = import_module("support.registry").CLASSES
    return classes


def _declared(rule: str) -> tuple[Any, str]:
    """Return the class of a rule, and the option set that selects the rule; empty for its defaults."""
    from fastopt import catalogue

    name = catalogue.rules()[rule].optimizer.__name__
    return _classes()[name], "" if rule == name.lower() else rule


def has_torch(rule: str) -> bool:
    """Return whether torch.optim has a rule."""
    return _declared(rule)[0].torch is not None


def twin(rule: str) -> Any:
    """Return the options of a rule and the function that makes it from optax, or None where optax does not have it."""
    cls, options = _declared(rule)
    return cls.optax.get(options)
