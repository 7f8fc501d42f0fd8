"""How OpenMP's idle threads wait, settled before the C core loads the runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# After a parallel region the runtime's threads spin in case another one follows: about 5 ms in GCC's, 200 ms in LLVM's.
# Steps back to back need some microseconds of it.  In a training loop the rest is taken from whoever uses the cores
# next: NumPy's matrix products after a step took 2 to 3 times as long.
SETTINGS = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


@contextmanager
def short_spin() -> Iterator[None]:
    """Have an OpenMP runtime that is loaded meanwhile spin briefly, unless the environment says how long."""
    ours = {} if "OMP_WAIT_POLICY" in os.environ else {k: v for k, v in SETTINGS.items() if k not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            del os.environ[key]
