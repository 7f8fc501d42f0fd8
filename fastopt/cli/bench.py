"""``python -m fastopt bench``: the time of a step of each rule here, compared with the limit of the memory.

The limit is measured, not looked up: a loop of the same traffic (the same arrays read and written, one addition each)
on the same memory and the same number of threads, in turns with the rule, so that whatever else the machine does slows
both alike. Buffers move as they are stored. Rules that pass over memory several times move more bytes than that loop,
which makes one pass over their arrays: they are compared with it by bytes per second.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

import fastopt
from fastopt import catalogue
from fastopt.cli import Parser, integer, names
from fastopt.declarations import STATE_DTYPES

__all__ = ["RULES", "main", "measure"]

RULES = {name: rule for name, rule in catalogue.rules().items() if name == rule.row and not rule.calls_numpy}
# For each number of state arrays of the parameter's shape, a rule that has those and no others.
WHOLE = {len(rule.state): name for name, rule in reversed(RULES.items()) if not rule.by_matrices}

HELP = """examples:
  python -m fastopt bench                                  the usual rules on 2^25 floats
  python -m fastopt bench --roofline                       the same, compared with the memory limit
  python -m fastopt bench --rules lamb,prodigy --roofline  rules of two passes, with the bytes of each
  python -m fastopt bench --rules adam --size 31234567 --threads 1 --roofline
  python -m fastopt bench --rules adam --dtype bfloat16 --master split8 --state-dtype 8bit --roofline"""

MASTERS = ("auto", "split16", "split8", "float32", "none")


def measure(
    rule: str,
    size: int,
    dtype: str,
    threads: int,
    rounds: int,
    roofline: bool,
    storage: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[list[float], list[float], tuple[float, ...], float]:
    """Time steps of one rule on one array.

    Parameters
    ----------
    rule : str
        A key of `RULES`.
    size : int
        Elements of the array.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of the parameter and the gradient.
    threads : int
    rounds : int
        Steps measured, after two that are not.
    roofline : bool
        Whether to move the bytes of one pass without the rule, in turns.
    storage : mapping
        How parameter and state are stored, as options of the optimizer; for rules of one pass.

    Returns
    -------
    steps, limits : list of float
        Seconds of each step, and of each pass without the rule (empty without `roofline`).
    moved : tuple of float
        Bytes read plus bytes written for an element, for each pass of a step.
    limit_moved : float
        The same of the pass without the rule.
    """
    shape = _matrix(size) if RULES[rule].by_matrices else (size,)
    p = np.ones(shape, numpy_dtype(dtype))
    g = np.full(shape, 1e-3, p.dtype)
    fewer = bool(storage) or p.itemsize == 2
    optimizer = limit_of = RULES[rule].make([p], num_threads=threads, **storage)
    buffers = [optimizer.state[0][letter] for letter in RULES[rule].state]
    states = sum(array.shape == shape for array in buffers)
    if states < len(buffers):  # the loop without the rule knows buffers of the parameter's shape alone
        limit_of = RULES[WHOLE[states]].make([p], num_threads=threads, **storage)
    kept = limit_of.nbytes if fewer else p.nbytes * (1 + states)
    limit_moved = (2 * kept + g.nbytes) / size
    moved = tuple(float(p.itemsize * n) for n in RULES[rule].streams)

    def timed(call: Callable[[], None]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    steps, limits = [], []
    for i in range(rounds + 2):
        step = timed(lambda: optimizer.step([g]))
        limit = timed(lambda: limit_of._table.traffic(0, g, threads)) if roofline else 0.0
        if i >= 2:
            steps.append(step)
            limits += [limit] if roofline else []
    return steps, limits, moved or (limit_moved,), limit_moved


def numpy_dtype(name: str) -> Any:
    """Return the dtype of a name, which may be one of ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _matrix(size: int) -> tuple[int, int]:
    """Return rows and columns of a matrix of that many elements, as near to a square as there is one."""
    rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return rows, size // rows


def main(arguments: Sequence[str]) -> int:
    """Run the command and print a table."""
    options = parse(arguments)
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        Parser("bench", description="").error(f"needs rich ({error}): pip install 'fastopt[demo]'")
    what = [f"{options.size:,} x {options.dtype}", *(f"{key}={word}" for key, word in options.storage.items())]
    table = Table(title=f"{', '.join(what)}, {options.threads} threads, median of {options.rounds} steps")
    table.add_column("rule")
    for column in [
        "bytes/element",
        "ms",
        "GB/s",
        *(["limit GB/s", "% of limit"] if options.roofline else []),
    ]:
        table.add_column(column, justify="right")
    for rule in options.rules:
        steps, limits, passes, limit_pass = measure(
            rule, options.size, options.dtype, options.threads, options.rounds, options.roofline, options.storage
        )
        moved, limit_moved = (n * options.size / 1e9 for n in (sum(passes), limit_pass))
        seconds = statistics.median(steps)
        per_element = " + ".join(f"{n:.4g}" for n in passes)
        row = [rule, per_element, f"{1e3 * seconds:.3f}", f"{moved / seconds:.1f}"]
        if options.roofline:
            share = statistics.median(limit / step for limit, step in zip(limits, steps, strict=True))
            row += [f"{limit_moved / statistics.median(limits):.1f}", f"{100 * share * moved / limit_moved:.0f}"]
        table.add_row(*row)
    Console(width=None).print(table)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the checked options."""
    parser = Parser("bench", description="Time a step of each rule on one array.", epilog=HELP)
    parser.add_argument(
        "--rules",
        type=names(*RULES),
        default=list(catalogue.LECTURE),
        help="names with commas (default: the usual ones)",
    )
    parser.add_argument("--size", type=integer(1, 2**32), default=2**25, help="elements (default: 2^25)")
    dtypes = ["float32", "float64", "float16", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="dtype of the parameters (default: float32)")
    parser.add_argument(
        "--state-dtype", choices=STATE_DTYPES, help="format of the state (default: the dtype of computation)"
    )
    parser.add_argument("--master", choices=MASTERS, help="master of 16-bit parameters (default: auto)")
    parser.add_argument(
        "--rounding", choices=["stochastic", "nearest"], help="rounding of stored numbers (default: stochastic)"
    )
    parser.add_argument(
        "--threads", type=integer(1, 256), default=fastopt.get_num_threads(), help="threads of a step (default: all)"
    )
    parser.add_argument("--rounds", type=integer(1, 10**6), default=15, help="steps per rule (default: 15)")
    parser.add_argument("--roofline", action="store_true", help="also measure the memory limit")
    options = parser.parse_args(arguments)
    given = {"state_dtype": options.state_dtype, "master": options.master, "rounding": options.rounding}
    options.storage = {key: None if word == "none" else word for key, word in given.items() if word is not None}
    for rule in options.rules:
        _check_storage(parser, rule, options)
    arrays = 2 + max(len(RULES[rule].state) for rule in options.rules)
    needed, there = arrays * options.size * (8 if options.dtype == "float64" else 4), memory()
    if needed > there:
        parser.error(
            f"argument --size: must leave room for {arrays} arrays in the machine's {there / 2**20:.0f} MiB of memory, "
            f"got {options.size}, which takes {needed / 2**20:.0f}"
        )
    return options


def _check_storage(parser: Parser, rule: str, options: argparse.Namespace) -> None:
    """End the program unless a rule can be measured with its parameter and state stored so."""
    fewer = options.dtype in ("float16", "bfloat16") or options.storage
    if fewer and RULES[rule].streams:
        parser.error(f"argument --rules: must read and write each array once with formats, got {rule}")
    try:
        RULES[rule].make([np.ones((2, 2), numpy_dtype(options.dtype))], **options.storage)
    except (ImportError, ValueError) as error:
        parser.error(str(error))


def memory() -> float:
    """Return the machine's bytes of memory, as far as the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf
