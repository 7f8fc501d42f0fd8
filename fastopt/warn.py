"""Warnings that are shown at the line of the user's that called the library."""

from __future__ import annotations

import sys
from warnings import warn


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line that is not of this package."""
    level, frame = 1, sys._getframe()
    while (caller := frame.f_back) is not None and frame.f_globals["__name__"].partition(".")[0] == "fastopt":
        level, frame = level + 1, caller
    warn(message, category, stacklevel=level)
