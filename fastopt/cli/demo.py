"""``python -m fastopt demo``: every rule trains a network on real data, next to plain NumPy.

The network is a multilayer perceptron with backpropagation written by hand; the data are the 1797 handwritten digits
that come with scikit-learn. Each rule trains two copies of the network from the same start on the same minibatches,
one with fastopt and one with its plain NumPy form, in turns, so that whatever else the machine does slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastopt
from fastopt import catalogue
from fastopt.cli import Parser, check_writable, console, integer, names
from fastopt.cli.networks import Array, Labels, backprop, forward, network
from fastopt.cli.pictures import COLOURS, STYLE, label_ends, write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RULES", "main"]

TRAIN_IMAGES = 1500  # of 1797; the others are the test
PIXELS, DIGITS = 64, 10
START, MINIMUM = (1.0, 1.6), (3.0, 0.5)  # in the valley


@dataclass(frozen=True)
class Rule:
    """A rule, and the learning rates that suit the network and the valley."""

    name: str
    lr: float
    valley_lr: float
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the rule."""
        return {**catalogue.rules()[self.name].options, **self.more}

    @property
    def plain(self) -> Callable[..., None]:
        """The rule in plain NumPy."""
        return catalogue.rules()[self.name].plain

    def fastopt(self, params: list[Array], lr: float, threads: int | None = None) -> Any:
        """Return fastopt's optimizer."""
        return catalogue.rules()[self.name].make(params, lr=lr, num_threads=threads, **self.more)


RULES = {
    rule.name: rule
    for rule in (
        Rule("sgd", 0.1, 0.004),
        Rule("momentum", 0.02, 0.001),
        Rule("nesterov", 0.03, 0.0016),
        Rule("adagrad", 0.005, 0.6),
        Rule("adadelta", 1.0, 1.0),
        Rule("rmsprop", 2e-4, 0.02, {"alpha": 0.9}),
        Rule("adam", 1e-3, 0.2),
        Rule("adamw", 7e-4, 0.3, {"weight_decay": 0.01}),
        Rule("adamax", 2e-3, 0.5),
        Rule("nadam", 5e-4, 0.12),
    )
}


@dataclass(frozen=True)
class Digits:
    """Images and labels, to train on and to test with."""

    train_x: Array
    train_y: Labels
    test_x: Array
    test_y: Labels


@dataclass(frozen=True)
class Race:
    """The results of one rule."""

    losses: list[float]
    accuracy: float
    numpy_accuracy: float
    ms: float
    numpy_ms: float
    difference: float


def load(dtype: str, seed: int) -> Digits:
    """Return the digits, split with the same share of every digit in both parts."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(dtype)
    train_x, test_x, train_y, test_y = train_test_split(x, y, train_size=TRAIN_IMAGES, stratify=y, random_state=seed)
    return Digits(train_x, train_y, test_x, test_y)


def accuracy(params: list[Array], x: Array, y: Labels) -> float:
    """Return the share of images whose largest logit is at the right digit."""
    return float((forward(params, x)[-1].argmax(axis=1) == y).mean())


def minibatches(digits: Digits, epochs: int, size: int, rng: np.random.Generator) -> Iterator[tuple[Array, Labels]]:
    """Yield shuffled minibatches of one size; an epoch leaves out the last few images."""
    for _ in range(epochs):
        order = rng.permutation(TRAIN_IMAGES)
        for start in range(0, TRAIN_IMAGES - size + 1, size):
            chosen = order[start : start + size]
            yield digits.train_x[chosen], digits.train_y[chosen]


def race(rule: Rule, digits: Digits, options: argparse.Namespace, tick: Callable[[], None]) -> Race:
    """Train two copies of the network in turns, one with fastopt and one with plain NumPy."""
    rng = np.random.default_rng(options.seed)
    ours = network([PIXELS, *options.hidden, DIGITS], options.dtype, rng)
    theirs = [p.copy() for p in ours]
    optimizer = rule.fastopt(ours, rule.lr, options.threads)
    update = rule.plain
    states: list[dict[str, Any]] = [{} for _ in theirs]
    losses, seconds, numpy_seconds = [], [], []
    for t, (x, y) in enumerate(minibatches(digits, options.epochs, options.batch_size, rng), 1):
        loss, grads, _ = backprop(ours, x, y)
        losses.append(loss)
        start = time.perf_counter()
        optimizer.step(grads)
        seconds.append(time.perf_counter() - start)

        _, grads, _ = backprop(theirs, x, y)
        start = time.perf_counter()
        for p, g, state in zip(theirs, grads, states, strict=True):
            update(p, g, state, t, lr=rule.lr, **rule.options)
        numpy_seconds.append(time.perf_counter() - start)
        tick()
    return Race(
        losses,
        accuracy(ours, digits.test_x, digits.test_y),
        accuracy(theirs, digits.test_x, digits.test_y),
        1e3 * statistics.median(seconds),
        1e3 * statistics.median(numpy_seconds),
        max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)),
    )


def run(options: argparse.Namespace) -> dict[str, Race]:
    """Train with every chosen rule; show a progress bar, and at the end the table."""
    from rich import box
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    screen = console()
    digits = load(options.dtype, options.seed)
    sizes = [PIXELS, *options.hidden, DIGITS]
    count = sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(sizes))
    steps = options.epochs * (TRAIN_IMAGES // options.batch_size)
    threads = options.threads or fastopt.get_num_threads()
    screen.print(
        f"A network of {count:,} parameters ({'-'.join(map(str, sizes))}, {options.dtype}) learns {TRAIN_IMAGES} "
        f"handwritten digits: {steps} steps with each rule, minibatches of {options.batch_size}, "
        f"fastopt on {threads} threads at most."
    )
    bar = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        auto_refresh=False,  # a drawing thread would disturb what is measured
        transient=True,
        disable=not screen.is_terminal,
    )
    races = {}
    # Matrix products stay on one thread: the BLAS's others, when they wait, keep cores from what is measured.
    with bar, threadpool_limits(1, "blas"):
        task = bar.add_task("", total=steps * len(options.rules))
        drawn = time.monotonic()

        def tick() -> None:
            nonlocal drawn
            bar.advance(task)
            if time.monotonic() - drawn > 0.1:
                bar.refresh()
                drawn = time.monotonic()

        for name in options.rules:
            bar.update(task, description=name)
            races[name] = result = race(RULES[name], digits, options, tick)
            last = statistics.fmean(result.losses[-(TRAIN_IMAGES // options.batch_size) :])
            screen.print(f"  {name:10}lr {RULES[name].lr:<8g}loss {last:.4f}   test accuracy {result.accuracy:.1%}")

    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0))
    table.add_column("\nrule")
    for heading in (
        "test accuracy\nfastopt", "\nNumPy", "ms per step\nfastopt", "\nNumPy", "\nratio", "largest\ndifference",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, r in races.items():
        table.add_row(
            name,
            f"{r.accuracy:.1%}",
            f"{r.numpy_accuracy:.1%}",
            f"{r.ms:.3f}",
            f"{r.numpy_ms:.3f}",
            f"{r.numpy_ms / r.ms:.1f}",
            f"{r.difference:.1e}",
        )
    screen.print(table)
    screen.print(
        "ms per step: the median time of the update alone, without backpropagation. NumPy: the rule as its paper "
        "writes it.\nlargest difference: between a parameter of one training and the same parameter of the other, at "
        "the end; 0 where both round alike. Otherwise it stays at the last bits until one of them switches a ReLU unit "
        "on in one training and off in the other: from then on the two follow different gradients. In float64 that is "
        "far rarer."
    )
    return races


def smooth(losses: Sequence[float], beta: float = 0.95) -> Array:
    """Return the running mean with bias correction, Adam's m_hat."""
    mean, means = 0.0, []
    for t, loss in enumerate(losses, 1):
        mean = beta * mean + (1 - beta) * loss
        means.append(mean / (1 - beta**t))
    return np.array(means)


def beale(x: Array, y: Array) -> Array:
    """Return Beale's function, a curved valley with its minimum 0 at (3, 0.5)."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def beale_gradient(point: Array) -> Array:
    """Return its gradient."""
    x, y = point
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return np.array([
        2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
        2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
    ])  # fmt: skip


def descend(rule: Rule) -> Array:
    """Return the points that a rule passes on Beale's function, until it arrives."""
    point = np.array(START)
    optimizer = rule.fastopt([point], rule.valley_lr)
    path = [point.copy()]
    while len(path) <= 1000 and np.hypot(*(point - MINIMUM)) > 0.02:
        optimizer.step([beale_gradient(point)])
        path.append(point.copy())
    return np.array(path)


def draw_losses(axes: Axes, races: dict[str, Race]) -> None:
    """Draw the loss curves, each with its name at its end."""
    curves = {name: smooth(r.losses) for name, r in races.items()}
    for name, curve in curves.items():
        axes.semilogy(np.arange(1, len(curve) + 1), curve, color=COLOURS[name], lw=2)
    axes.set_xlim(0, len(next(iter(curves.values()))))
    axes.set(xlabel="step", ylabel="training loss")
    label_ends(axes, {name: curve[-1] for name, curve in curves.items()}, COLOURS)


def draw_valley(axes: Axes, chosen: Sequence[str]) -> None:
    """Draw every rule's way down Beale's function."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patheffects import Normal, Stroke

    extent = (-0.35, 3.65, -1.3, 1.85)
    x, y = np.meshgrid(np.linspace(*extent[:2], 400), np.linspace(*extent[2:], 400))
    height = np.log10(beale(x, y) + 1e-2)
    slate = LinearSegmentedColormap.from_list("slate", ["#ffffff", "#e3e9f0", "#b9c5d3", "#8fa0b4"])
    axes.contourf(x, y, height, 24, cmap=slate)
    axes.contour(x, y, height, 24, colors="white", linewidths=0.4)
    halo = [Stroke(linewidth=3.2, foreground="white"), Normal()]
    for name in chosen:
        axes.plot(*descend(RULES[name]).T, color=COLOURS[name], lw=1.9, path_effects=halo)
    for point, marker, size, text, offset in (
        (START, "o", 8, "start", (8, 5)),
        (MINIMUM, "*", 16, "minimum", (-2, -20)),
    ):
        axes.plot(*point, marker, color="black", ms=size, mec="white", zorder=5)
        axes.annotate(text, point, offset, textcoords="offset points", weight="bold")
    axes.axis(extent)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw(races: dict[str, Race], file: Path) -> None:
    """Draw the picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(13, 5.6), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_losses(left, races)
        draw_valley(right, list(races))
        for axes, title, note in (
            (
                left,
                "A network learns handwritten digits",
                "running mean of the loss, each rule at its own learning rate",
            ),
            (right, "The same rules in Beale's valley", "until a rule reaches the minimum, or for 1000 steps"),
        ):
            write_title(axes, title, note)
        figure.savefig(file)


def picture(text: str) -> Path:
    """Return the argument as the path of a PNG file that can be written."""
    file = Path(text)
    if text and file.is_dir():
        file /= "fastopt-demo.png"
    try:
        if file.suffix.lower() != ".png":
            raise ValueError("neither of the two")
        check_writable(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"must be a folder or a .png file to write, got {text!r} ({reason})") from None
    return file


def widths(text: str) -> list[int]:
    """Return the argument as the widths of the hidden layers."""
    try:
        chosen = [int(width) for width in text.split(",")]
    except ValueError:
        chosen = []
    if not (1 <= len(chosen) <= 8 and all(1 <= width <= 8192 for width in chosen)):
        raise argparse.ArgumentTypeError(f"must be 1 to 8 whole numbers from 1 to 8192, with commas, got {text!r}")
    return chosen


def parser() -> Parser:
    """Return the parser of the demo's arguments."""
    demo = Parser(
        "demo",
        description="Train a small network on real data with every rule, with fastopt and with plain NumPy in turns.\n"
        "Print a table of accuracies and times, and draw loss curves and paths through a valley.",
        epilog="examples:\n"
        "  python -m fastopt demo\n"
        "  python -m fastopt demo --rules adam,nadam --epochs 5\n"
        "  python -m fastopt demo --hidden 2000,2000 --dtype float64 --threads 1 --out docs",
    )
    for option, kind, default, metavar, text in (
        ("--rules", names(*RULES), list(RULES), "A,B", f"only these (default: all): {', '.join(RULES)}"),
        ("--epochs", integer(1, 10_000), 15, "N", "passes over the images (default: 15)"),
        ("--hidden", widths, [960, 960], "A,B", "widths of the hidden layers (default: 960,960)"),
        ("--batch-size", integer(1, TRAIN_IMAGES), 64, "N", "images in a minibatch (default: 64)"),
        ("--threads", integer(1, 256), None, "N", "threads of fastopt (default: chosen automatically)"),
        ("--seed", integer(0, 2**32 - 1), 0, "N", "seed of start, split and minibatches (default: 0)"),
        ("--out", picture, "fastopt-demo.png", "PATH", "file or folder of the picture (default: fastopt-demo.png)"),
    ):
        demo.add_argument(option, type=kind, default=default, metavar=metavar, help=text)
    demo.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="dtype of the network (default: float32)"
    )
    return demo


def main(arguments: Sequence[str]) -> int:
    """Run the demo: check the arguments, train, print the table and draw the picture."""
    checked = parser()
    options = checked.parse_args(arguments)
    try:
        for module in ("sklearn", "matplotlib", "rich"):
            import_module(module)
    except ModuleNotFoundError as error:
        checked.error(f"needs scikit-learn, matplotlib and rich ({error}): pip install 'fastopt[demo]'")
    races = run(options)
    draw(races, options.out)
    print(f"The picture is in {options.out}")
    return 0
