"""Optimizers made, stepped, failed and freed: python tests/leaks.py N prints the KiB in use after some and after N.

`test_leaks.py` compares the two; `sanitize.py` runs this under valgrind, which names what was not freed.
"""

from __future__ import annotations

import copy
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

import fastopt
from support.arrays import DTYPES
from support.cases import CASES

REFUSED = (TypeError, ValueError, FloatingPointError)
WARM = 1000  # cycles after which nothing may grow any more


def arrays(dtype: type, count: int) -> dict[str, np.ndarray]:
    return {f"p{i}": np.ones((3, 4), dtype).T if i % 3 == 1 else np.ones(5, dtype) for i in range(count)}


def cycle(i: int) -> None:
    """The life of an optimizer, with every kind of mistake; another rule and dtype for every i."""
    case, dtype = CASES[i % len(CASES)], DTYPES[i // len(CASES) % 2]
    params, grads = arrays(dtype, 30 if i % 10 == 0 else 3), arrays(dtype, 30 if i % 10 == 0 else 3)
    opt = case.make([{"params": params}] if i % 2 else params, nonfinite="raise" if i % 3 else "skip")
    wrapped = [grads] if i % 2 else grads
    opt.step(wrapped)
    opt.bind(wrapped)
    opt.step()
    for key, bad in (
        ("p0", np.ones(4, dtype)),
        ("p0", np.ones(5, np.int32)),
        ("p1", np.full((4, 3), np.nan, dtype)),
        ("p1", params["p1"]),
        ("p2", [1.0]),
    ):
        spoiled = {**grads, key: bad}
        with suppress(*REFUSED):
            opt.step([spoiled] if i % 2 else spoiled)
    for wrong in (None if i % 2 else 3, {}, "text", [grads, grads], {**grads, "more": None}):
        with suppress(*REFUSED):
            opt.bind(wrong)
    for mistake in (
        lambda: case.make(list(params.values()), lr=-1.0),
        lambda: case.make([params["p0"], params["p0"]]),
        lambda: case.make([{"params": params}, 3]),
        lambda: case.make(np.ones(3, int)),
        lambda: opt.groups[0].update(lr=float("nan")),
    ):
        with suppress(*REFUSED):
            mistake()

    saved = opt.state_dict()
    opt.load_state_dict(saved)
    saved["state"]["p2"]["step"] = -1
    with suppress(*REFUSED):
        opt.load_state_dict(saved)
    copy.deepcopy(opt).step(wrapped)
    pickle.loads(pickle.dumps((params, opt)))[1].step(wrapped)
    repr(opt)

    rule = getattr(fastopt.kernels, case.rule)
    settings = opt.groups[0].settings_of(np.ones(7))
    buffers = [np.ones(7, dtype) for _ in range(2 + len(settings.state_names))]
    buffers += [np.ones(1) for _ in settings.carry_names]
    rule(*buffers, step=2, **case.hyper())
    for mistake in (
        lambda: rule(*buffers[:-1], step=2, **case.hyper()),
        lambda: rule(*buffers, step=0, **case.hyper()),
        lambda: rule(*buffers, **case.hyper()),
        lambda: rule(buffers[0], *buffers[:-1], step=1, **case.hyper()),
    ):
        with suppress(*REFUSED):
            mistake()


def memory() -> int:
    """KiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    cycles = int(sys.argv[1])
    for i in range(cycles):
        if i == min(WARM, cycles // 2):
            print(memory())
        cycle(i)
    print(memory())


if __name__ == "__main__":
    main()
