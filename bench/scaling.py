"""How the time of an Adam step grows: ``python -m bench.scaling [--picture FILE] [--json FILE] [--largest N]``.

Two sweeps, each point the median of rounds in which all lines of a panel take turns: elements of one array, and arrays
of 1024 elements. Threads are pinned to 1, to 2, ... up to all, and left to the optimizer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastopt

Point = dict[str, float]
ROUNDS = 9
TURN = 0.02  # seconds


def thread_counts() -> dict[str, int | None]:
    """Return the lines of a panel: 1, 2, 4, ... all threads, and the optimizer's choice."""
    most = fastopt.get_num_threads()
    counts = sorted({1, most} | {2**k for k in range(1, most.bit_length()) if 2**k <= most})
    return {f"{n} thread{'s' * (n > 1)}": n for n in counts} | {"chosen": None}


def take_turns(contenders: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median seconds of a call, for each contender."""
    calls = {}
    for name, call in contenders.items():
        call()
        begin = time.perf_counter()
        call()
        calls[name] = max(1, int(TURN / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            begin = time.perf_counter()
            for _ in range(calls[name]):
                call()
            times[name].append((time.perf_counter() - begin) / calls[name])
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def steps(sizes: Sequence[int]) -> dict[str, float]:
    """Return the seconds of a step on arrays of these sizes, for each number of threads."""
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(size, np.float32) for size in sizes]
    params = [np.zeros(size, np.float32) for size in sizes]
    optimizers = {name: fastopt.Adam(params, num_threads=n) for name, n in thread_counts().items()}
    return take_turns({name: lambda o=o: o.step(grads) for name, o in optimizers.items()})  # type: ignore[misc]


def sweep(largest: int) -> dict[str, list[Point]]:
    """Measure everything."""
    sizes = [10**k * d for k in range(2, 9) for d in (1, 3) if 10**k * d <= largest]
    arrays = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000]
    return {
        "elements": [{"x": size, **steps([size])} for size in sizes],
        "arrays": [{"x": count, **steps([1024] * count)} for count in arrays],
    }


def draw(results: dict[str, list[Point]], file: Path) -> None:
    """Draw time per element against elements, and time per array against arrays."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=130, layout="constrained")
    panels = zip(
        figure.subplots(1, 2),
        results.items(),
        ("one array", "arrays of 1024 elements"),
        ("nanoseconds per element", "nanoseconds per array"),
        strict=True,
    )
    colours = ["#1f5fb4", "#d1262c", "#2c8a4b", "#7d3cae", "#f07f3c"]
    for axes, (label, points), title, unit in panels:
        x = [point["x"] for point in points]
        lines = [name for name in points[0] if name != "x"]
        for name, colour in zip(lines, colours, strict=False):
            style: dict[str, Any] = (
                {"lw": 1.4, "ls": (0, (1, 1)), "color": "black"} if name == "chosen" else {"lw": 2, "color": colour}
            )
            axes.loglog(x, [1e9 * point[name] / point["x"] for point in points], label=name, **style)
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.set_title(f"Adam, float32: {title}", loc="left", weight="bold")
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(file)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n\n")[0])
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the sweeps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every point")
    parser.add_argument("--largest", type=int, default=10**8, metavar="N", help="elements (default: 10^8, 1.6 GB)")
    options = parser.parse_args()
    results = sweep(options.largest)
    for label, points in results.items():
        names = [name for name in points[0] if name != "x"]
        print(f"{label:>12}" + "".join(f"{name:>14}" for name in names) + "   microseconds per step")
        for point in points:
            print(f"{point['x']:>12,}" + "".join(f"{1e6 * point[name]:>14,.2f}" for name in names))
    if options.json:
        options.json.write_text(json.dumps({"machine": platform.machine(), "sweeps": results}, indent=1))
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
