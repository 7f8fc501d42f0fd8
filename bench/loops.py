"""Steps inside loops, by their means: ``python -m bench.loops [FOLDER ...] [--rounds N] [--seconds N] [--only A,B]``.

This tree's build, on as many threads as it chooses, on one and on two, against the builds in other folders. Each runs
in a process of its own; they take turns in random order, and the turns of one round are compared with each other. A
training run is a sum of iterations, so that means count; the median and the 99th percentile show where they come from.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent

# ---- Measurements of one process ----

Loop = tuple[Callable[[], Any], Callable[[], Any]]  # what comes between the steps, and a step
SIDE = 640  # of the matrices between steps


def numpy_loop(elements: int, threads: int | None, steps: bool = True) -> Loop:
    """Return two matrix products, and a step of Adam on one array."""
    import numpy as np

    import fastopt

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIDE, SIDE), np.float32) for _ in range(2))
    c = np.empty_like(a)
    p = [np.zeros(elements, np.float32)]
    g = [rng.standard_normal(elements, np.float32)]
    opt = fastopt.Adam(p, num_threads=threads)

    def products() -> None:
        np.matmul(a, b, out=c)
        np.matmul(b, a, out=c)

    return products, (lambda: opt.step(g)) if steps else (lambda: None)


def torch_loop(width: int, threads: int | None) -> Loop:
    """Return forward and backward passes of a torch network, and a step of Adam on NumPy views of its tensors."""
    import torch

    import fastopt

    torch.manual_seed(0)
    torch.set_num_threads(2)
    layers: list[torch.nn.Module] = []
    for _ in range(8):
        layers += [torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.LayerNorm(width)]
    net = torch.nn.Sequential(*layers)
    x, y = torch.randn(64, width), torch.randn(64, width)
    tensors = list(net.parameters())
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    opt = fastopt.Adam([tensor.detach().numpy() for tensor in tensors], lr=1e-5, num_threads=threads)
    grads = [tensor.grad.numpy() for tensor in tensors]  # type: ignore[union-attr]

    def passes() -> None:
        for tensor in tensors:
            tensor.grad.zero_()  # type: ignore[union-attr]
        torch.nn.functional.mse_loss(net(x), y).backward()  # type: ignore[no-untyped-call]

    return passes, lambda: opt.step(grads)


def alone(elements: int, arrays: int, threads: int | None, pause: float = 0) -> Loop:
    """Return a pause, and a step of Adam."""
    import numpy as np

    import fastopt

    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(elements, np.float32) for _ in range(arrays)]
    opt = fastopt.Adam([np.zeros(elements, np.float32) for _ in range(arrays)], num_threads=threads)
    return (lambda: time.sleep(pause)) if pause else (lambda: None), lambda: opt.step(grads)


SIZES = {"1024": 1024, "16k": 16384, "20k": 20_000, "32k": 32_000, "64k": 65536, "1M": 2**20, "32M": 2**25}
PAUSES = (0.1, 1, 10)  # milliseconds
LOOPS: dict[str, Callable[[int | None], Loop]] = {
    **{f"numpy-{k}k": partial(numpy_loop, 1000 * k) for k in (300, 1000, 3000)},
    **{f"torch-{d}": partial(torch_loop, d) for d in (64, 256, 512)},
    **{f"alone-{name}": partial(alone, size, 1) for name, size in SIZES.items()},
    "alone-1000x1024": partial(alone, 1024, 1000),
    **{f"pause-{ms}-{n}": partial(alone, SIZES[n], 1, pause=ms / 1000) for n in ("64k", "1M") for ms in PAUSES},
    "products-with-steps": partial(numpy_loop, 300_000),
    "products": partial(numpy_loop, 300_000, steps=False),
}


def serve(folder: str) -> None:
    """Measure what each line of standard input asks for: a loop, a number of threads, seconds."""
    sys.path.insert(0, folder)
    import fastopt

    assert Path(fastopt.__file__).is_relative_to(folder), fastopt.__file__
    loops: dict[str, Loop] = {}
    for line in sys.stdin:
        name, threads, seconds, warm_up = json.loads(line)
        if name not in loops:
            loops = {name: LOOPS[name](threads)}
            run(*loops[name], warm_up)
        run(*loops[name], min(0.1, seconds / 5))
        print(json.dumps(run(*loops[name], seconds)), flush=True)


def run(between: Callable[[], Any], step: Callable[[], Any], seconds: float) -> list[list[float]]:
    """Return the seconds of steps, and of whole iterations."""
    steps, iterations = [], []
    clock = time.perf_counter
    begin = clock()
    end = begin + seconds
    while begin < end:
        between()
        middle = clock()
        step()
        after = clock()
        steps.append(after - middle)
        iterations.append(after - begin)
        begin = after
    return [steps, iterations]


# ---- Who takes part, and the turns ----


@dataclass
class Contender:
    """A build on a number of threads, None for its own choice."""

    name: str
    folder: Path
    threads: int | None

    def __post_init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(self.folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        self.turns: list[list[list[float]]] = []

    def turn(self, loop: str, seconds: float, warm_up: float) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([loop, self.threads, seconds, warm_up]), file=self.process.stdin, flush=True)
        self.turns.append(json.loads(self.process.stdout.readline()))

    def mean(self, which: int) -> float:
        return statistics.fmean(x for turn in self.turns for x in turn[which])

    def quantile(self, share: float) -> float:
        every = sorted(x for turn in self.turns for x in turn[0])
        return every[min(len(every) - 1, int(share * len(every)))]


def ratio(a: Contender, b: Contender, which: int) -> tuple[float, float]:
    """Return the ratio of means over all turns, and the median of the ratios by round."""
    rounds = [statistics.fmean(x[which]) / statistics.fmean(y[which]) for x, y in zip(a.turns, b.turns, strict=True)]
    return a.mean(which) / b.mean(which), statistics.median(rounds)


def race(loop: str, contenders: list[Contender], rounds: int, seconds: float, warm_up: float) -> None:
    for contender in contenders:
        contender.turns = []
    for _ in range(rounds):
        for contender in random.sample(contenders, len(contenders)):
            contender.turn(loop, seconds, warm_up)
    print(f"\n{loop:<22}{'mean':>9}{'median':>9}{'p99':>9}{'iteration':>11}   ms; means / the first's")
    for c in contenders:
        numbers = [c.mean(0), c.quantile(0.5), c.quantile(0.99)]
        step, iteration = ratio(c, contenders[0], 0), ratio(c, contenders[0], 1)
        print(
            f"  {c.name:<20}" + "".join(f"{1000 * x:9.4f}" for x in numbers) + f"{1000 * c.mean(1):11.4f}"
            f"   {step[0]:.3f} ({step[1]:.3f}) / {iteration[0]:.3f} ({iteration[1]:.3f})",
            flush=True,
        )


# ---- The picture ----

OURS, THEIRS, ALONE, IDLE = "#1f5fb4", "#d1262c", "#9aa0a6", "#e8eaed"
# A step of four pieces for each of two CPUs, the second of which another thread has: what runs when, in pieces.
LATE: dict[str, list[tuple[str, list[tuple[float, float, str, str]]]]] = {
    "the step waits for all threads": [
        ("caller", [(0, 8, OURS, "its pieces, then those of the other"), (8, 8, IDLE, "waits for the worker")]),
        ("CPU 2", [(0, 16, THEIRS, "another thread, until its time is up"), (16, 0.5, ALONE, "")]),
    ],
    "the step waits for pieces": [
        ("caller", [(0, 8, OURS, "its pieces, then those of the other"), (8, 8.5, ALONE, "the program goes on")]),
        ("CPU 2", [(0, 16, THEIRS, "another thread, until its time is up"), (16, 0.5, ALONE, "")]),
    ],
    "a worker loses its CPU within a piece, and the caller gives it its own": [
        (
            "caller",
            [
                (0, 5.5, OURS, "pieces"),
                (5.5, 0.6, IDLE, ""),
                (6.1, 0.7, OURS, ""),
                (6.8, 9.7, ALONE, "the program goes on"),
            ],
        ),
        ("CPU 2", [(0, 2.5, OURS, "pieces"), (2.5, 14, THEIRS, "another thread, until its time is up")]),
    ],
}


def draw(loop: str, contenders: list[Contender], file: Path) -> None:
    """Draw what a late worker does to a step, and the share of steps that take longer than a time."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, PercentFormatter

    from .peers.picture import STYLE

    with matplotlib.rc_context({**STYLE, "font.size": 9}):
        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        top = 0.0
        for title, rows in LATE.items():
            left.text(0, top + 0.25, title, weight="bold")
            for name, spans in rows:
                top -= 1
                left.text(-0.2, top + 0.4, name, ha="right", va="center")
                for begin, length, colour, text in spans:
                    left.barh(top + 0.4, length, 0.7, begin, color=colour, align="center")
                    ink = "white" if colour in (OURS, THEIRS) else "black"
                    left.text(begin + length / 2, top + 0.4, text, ha="center", va="center", color=ink, size=8)
            top -= 1
        left.set(xlim=(-2, 17), ylim=(top + 0.7, 0.8))
        left.set_axis_off()
        for contender in contenders:
            times = sorted(1000 * x for turn in contender.turns for x in turn[0])
            longer = [1 - i / len(times) for i in range(len(times))]
            label = f"{contender.name}: mean {1000 * contender.mean(0):.2f} ms"
            right.step(times, longer, where="post", linewidth=1.8, label=label)
        right.set(
            xscale="log",
            yscale="log",
            xlabel="milliseconds",
            ylim=(2e-3, 1.1),
            title=f"Share of steps that take longer: {loop}",
        )
        right.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10]))
        right.xaxis.set_major_formatter("{x:g}")
        right.yaxis.set_major_locator(FixedLocator([0.01, 0.1, 1]))
        right.yaxis.set_major_formatter(PercentFormatter(1))
        right.minorticks_off()
        right.grid(color="#e6e6e6")
        right.legend(frameon=False, loc="upper right")
        figure.savefig(file, dpi=110)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.loops", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="other builds, each of them in its tree")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before the first turn")
    parser.add_argument("--only", default=",".join(LOOPS), metavar="A,B", help="loops, of %(default)s")
    parser.add_argument("--chosen", action="store_true", help="no fixed numbers of threads")
    parser.add_argument("--name", action="append", default=[], help="of a folder's build, in turn")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the steps of the last loop")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    fixed = [] if options.chosen else [1, 2]
    names = options.name + [folder.name for folder in options.folders[len(options.name) :]]
    contenders = [Contender(name, folder.resolve(), None) for name, folder in zip(names, options.folders, strict=True)]
    contenders += [
        Contender("as chosen", HERE, None),
        *(Contender(f"{n} thread{'s' * (n > 1)}", HERE, n) for n in fixed),
    ]
    for name in options.only.split(","):
        race(name, contenders, options.rounds, options.seconds, options.warm_up)
    if options.picture:
        draw(name, contenders, options.picture)


if __name__ == "__main__":
    main()
