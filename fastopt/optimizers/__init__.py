"""The optimizers: one class in each file, which has the class's name, and below the class its rule in plain NumPy.

In every equation `t` counts a parameter's steps from 1, and `g` is its gradient after `maximize` (g = -g) and L2 decay
(g = g + weight_decay * p).

The rules in plain NumPy are written as their papers write them, and as one would write them by hand.  The demo and the
benchmarks race fastopt against these functions, and the tests compare its results with theirs.  Each function has the
name of its class in lower case, updates the parameter ``p`` in place and leaves the gradient ``g`` alone.  ``state`` is
a dict, empty before the first step, that keeps the state arrays by the letters of the papers.  ``t`` counts the steps
from 1.  All of them share two options: ``weight_decay``, which acts as in the class by default, and ``maximize``, which
walks up the gradient.  Bias corrections are those of betas that stay the same.

>>> import numpy as np, fastopt
>>> adam = fastopt.optimizers.plain("Adam")
>>> p, state = np.array([1.0, -2.0]), {}
>>> for t in range(1, 4):
...     adam(p, 2 * p, state, t, lr=0.1)
>>> p.round(3)
array([ 0.702, -1.701])
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from os import listdir
from os.path import dirname

__all__ = ["load_all", "plain"]


def load_all() -> None:
    """Import the files of all optimizers."""
    for file in listdir(dirname(__file__)):
        if file.endswith(".py") and not file.startswith("_"):
            import_module(f"{__name__}.{file.removesuffix('.py')}")


def plain(name: str) -> Callable[..., None]:
    """Return the rule of the class of this name in plain NumPy."""
    function: Callable[..., None] = getattr(import_module(f"{__name__}.{name.lower()}"), name.lower())
    return function
