"""Forked children: their steps run on one thread, and they say so, once, at debug level."""

import os
import sys

from . import _core

_registered = False


def watch_forks() -> None:
    """Have every child forked from now on say it where it concerns it; Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork)


def _before_fork() -> None:
    """Register the message as late as possible.

    These functions run in the child in the order they were registered, and the locks of `logging` can be taken there
    only after its own has made them anew.  Without `logging`, nobody listens.
    """
    global _registered
    if not _registered and "logging" in sys.modules:
        os.register_at_fork(after_in_child=_say_so)
        _registered = True


def _say_so() -> None:
    if _core.forked():
        sys.modules["logging"].getLogger("fastopt").debug(
            "process %d was forked after steps on several threads: here, steps run on one thread", os.getpid()
        )
