"""The results of a comparison: tables, files and pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastopt
from fastopt.cli.pictures import COLOURS, STYLE, label_ends, write_title

from .sweep import Result, Run, mean
from .tasks import TASKS, task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BEGIN", "END", "LEGEND", "Row", "cells", "draw_curves", "draw_rates", "headings", "markdown", "rows",
    "update_page", "write_csv", "write_json",
]  # fmt: skip

Results = dict[tuple[str, str, str], Result]  # by task, schedule and rule

CLOSE = 0.1  # of the way from the start to the best is left
BEGIN, END = "<!-- tables of python -m fastopt compare -->", "<!-- end of the tables -->"
MORE_COLOURS = (
    "#0b7a75", "#a83279", "#5b8c00", "#b35c00", "#3d4fbf", "#8c564b",
    "#00a36c", "#c2185b", "#6a8caf", "#9c7a00", "#4b2e83", "#e4572e",
)  # fmt: skip
NAMED = ("sgd", "nesterov", "adam")  # curves that have colour and name everywhere
BEST = 3  # and how many others of a task have them


@dataclass(frozen=True)
class Row:
    """The numbers of one rule on one task with one schedule; losses are above the least possible one."""

    task: str
    schedule: str
    rule: str
    rate: float
    at_end: bool  # of the rates that were tried, so that a better one may lie beyond
    loss: float
    spread: float  # the standard deviation over seeds
    held_out: float
    default_rate: float
    default_loss: float
    decades: float  # of learning rates that come close to the best rule's best loss
    steps: int | None  # that it takes to come as close


def rows(results: Results) -> list[Row]:
    """Return a row per task, schedule and rule, best first within a task and schedule."""
    found = []
    for (name, schedule, rule), result in results.items():
        left = left_of(results, name)
        rates = sorted(result.sweep)
        curve = median_curve(result.runs)
        close = [i for i, loss in enumerate(curve) if left(loss) <= CLOSE]
        least = task(name).least
        losses = [run.loss - least for run in result.runs]
        decade = math.log10(rates[-1] / rates[0]) / (len(rates) - 1) if len(rates) > 1 else 0.0
        found.append(
            Row(
                name,
                schedule,
                rule,
                result.best,
                result.best in (rates[0], rates[-1]),
                mean(losses),
                statistics.stdev(losses) if len(losses) > 1 and math.isfinite(sum(losses)) else math.nan,
                mean(run.held_out for run in result.runs),
                result.default,
                mean(run.loss - least for run in result.default_runs),
                decade * sum(left(loss) <= CLOSE for loss in result.sweep.values()),
                result.steps * close[0] // (len(curve) - 1) if close else None,
            )
        )
    order = {key: i for i, key in enumerate(dict.fromkeys((name, schedule) for name, schedule, _ in results))}
    return sorted(found, key=lambda row: (order[row.task, row.schedule], row.loss))


def median_curve(runs: Sequence[Run]) -> list[float]:
    """Return the median of loss curves."""
    return [statistics.median(losses) for losses in zip(*(run.curve for run in runs), strict=True)]


def left_of(results: Results, name: str) -> Callable[[float], float]:
    """Return the function from a loss to the share of the way down that is left: 1 at the start, 0 at the best rule."""
    here = [result for (task_name, _, _), result in results.items() if task_name == name]
    start = statistics.median(run.curve[0] for result in here for run in result.runs)
    best = min(mean(run.loss for run in result.runs) for result in here)
    return lambda loss: (loss - best) / (start - best) if start > best else 1.0


def number(value: float) -> str:
    """Return three digits, or "diverged"."""
    if math.isinf(value):
        return "diverged"
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1000 else f"{value:.1e}"


def with_spread(row: Row) -> str:
    """Return a loss and its standard deviation."""
    return number(row.loss) + (f" ± {row.spread:.1g}" if math.isfinite(row.spread) else "")


LEGEND = """\
best rate: of those tried; * where it is the first or last of them, so that a better one may lie beyond
loss: mean and standard deviation over seeds other than those that chose the rate
at default: the loss at the learning rate in brackets, the rule's default
decades, steps: the width of the learning rates at which, and the steps after which, a tenth or less
of the way from the start to the best rule's loss is left; - where that is never so"""


def headings(name: str) -> tuple[str, ...]:
    """Return the headings of the table of a task."""
    loss = "loss above\nthe least" if task(name).least else "training\nloss"
    return ("\nrule", "best\nrate", loss, "held-out\nloss", "\nat default", "\ndecades", "\nsteps")


def cells(row: Row) -> list[str]:
    """Return a row of the table of a task."""
    return [
        row.rule,
        f"{row.rate:.3g}" + "*" * row.at_end,
        with_spread(row),
        number(row.held_out),
        f"{number(row.default_loss)} ({row.default_rate:g})",
        f"{row.decades:.1f}",
        "-" if row.steps is None else str(row.steps),
    ]


# Files.


def write_csv(table: Iterable[Row], file: Path) -> None:
    """Write the rows."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(Row.__dataclass_fields__)
        for row in table:
            writer.writerow(getattr(row, name) for name in Row.__dataclass_fields__)


def write_json(results: Results, settings: dict[str, Any], file: Path) -> None:
    """Write everything: the sweeps, the runs and their settings; null is a training that diverged."""

    def plain(values: Iterable[float]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    def runs(given: list[Run]) -> list[dict[str, Any]]:
        return [{"curve": plain(run.curve), "held_out": plain([run.held_out])[0]} for run in given]

    content = {
        "fastopt": fastopt.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "settings": settings,
        "least": {name: task(name).least for name in dict.fromkeys(name for name, _, _ in results)},
        "results": [
            {
                "task": name,
                "schedule": schedule,
                "rule": rule,
                "steps": result.steps,
                "sweep": {"rates": list(result.sweep), "losses": plain(result.sweep.values())},
                "best": {"rate": result.best, "runs": runs(result.runs)},
                "default": {"rate": result.default, "runs": runs(result.default_runs)},
            }
            for (name, schedule, rule), result in results.items()
        ],
    }
    file.write_text(json.dumps(content, allow_nan=False) + "\n")


def markdown(table: list[Row]) -> str:
    """Return tables in Markdown: for each schedule the losses at the best rates, and once those at the default ones."""
    schedules, names, rules = (
        list(dict.fromkeys(getattr(row, kind) for row in table)) for kind in ("schedule", "task", "rule")
    )
    found = {(row.task, row.schedule, row.rule): row for row in table}
    parts = []
    for schedule in schedules:
        for kind in ("best", "default") if schedule == schedules[0] else ("best",):
            title = f"Schedule {schedule}, each rule at its {kind} learning rate"
            lines = [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            here = [row for row in table if row.schedule == schedule]
            least = {name: min(loss_at(row, kind) for row in here if row.task == name) for name in names}
            for rule in sorted(rules):
                cells = [rule]
                for name in names:
                    row = found.get((name, schedule, rule))
                    cell = "-" if row is None else number(loss_at(row, kind))
                    if row is not None and kind == "best":
                        cell += f" at {row.rate:.1g}"
                    cells.append(f"**{cell}**" if row is not None and loss_at(row, kind) == least[name] else cell)
                lines.append(f"| {' | '.join(cells)} |")
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def loss_at(row: Row, kind: str) -> float:
    """Return the loss at the best or at the default learning rate."""
    return row.loss if kind == "best" else row.default_loss


def update_page(file: Path, text: str) -> None:
    """Put text between the two marks of a page."""
    before, _, rest = file.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


# Pictures.


def panels(count: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many axes, three in a row."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * lines), dpi=110, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
    for extra in axes[count:]:
        extra.remove()
    return figure, axes[:count]


def save(figure: Figure, file: Path) -> None:
    """Write a picture with 128 colours, which is small."""
    from PIL import Image  # comes with matplotlib

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(128).save(file, optimize=True)


def colours(rules: Iterable[str]) -> dict[str, str]:
    """Return a colour for each rule, the demo's where it has one."""
    others = [rule for rule in rules if rule not in COLOURS]
    return COLOURS | {rule: MORE_COLOURS[i % len(MORE_COLOURS)] for i, rule in enumerate(others)}


def draw_curves(results: Results, schedule: str, file: Path) -> None:
    """Draw the loss curves at the best learning rates; the best few and some others have colour and name."""
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    names = list(dict.fromkeys(name for name, _, _ in results))
    colour = colours(dict.fromkeys(rule for _, _, rule in results))
    with rc_context(STYLE):
        figure, axes = panels(len(names), 4.6, 3.8)
        for name, where in zip(names, axes, strict=True):
            least = task(name).least
            curves = {
                rule: np.array(median_curve(result.runs)) - least
                for (task_name, its_schedule, rule), result in results.items()
                if (task_name, its_schedule) == (name, schedule)
            }
            steps = next(result.steps for (task_name, _, _), result in results.items() if task_name == name)
            x = np.linspace(0, steps, len(next(iter(curves.values()))))
            best = sorted(curves, key=lambda rule: curves[rule][-1])
            shown = list(dict.fromkeys([*best[:BEST], *(rule for rule in NAMED if rule in curves)]))
            for rule, curve in curves.items():
                if rule not in shown:
                    where.semilogy(x, curve, color="#c9c9c9", lw=1)
            for rule in reversed(shown):
                where.semilogy(x, curves[rule], color=colour[rule], lw=2)
            where.set_xlim(0, steps)
            ends = [curve[-1] for curve in curves.values() if 0 < curve[-1] < math.inf]
            highest = max(min(curve[1], curve[0]) for curve in curves.values())  # what comes before is steep
            bottom, top = min(ends, default=1) / 1.2, 1.2 * highest
            where.set_ylim(bottom, top)
            where.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if top < 30 * bottom else (1,)))
            where.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            where.yaxis.set_minor_locator(NullLocator())
            where.set(xlabel="step", ylabel="loss above the least" if least else "training loss")
            label_ends(where, {rule: curves[rule][-1] for rule in shown}, colour, 0.07)
            write_title(where, TASKS[name].title, TASKS[name].summary, 12)
        save(figure, file)


def draw_rates(results: Results, schedule: str, file: Path) -> None:
    """Draw how much of the way down is left for every rule at every learning rate."""
    from matplotlib import rc_context
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    names = list(dict.fromkeys(name for name, _, _ in results))
    rules = list(dict.fromkeys(rule for _, its, rule in results if its == schedule))
    rates = sorted(next(iter(results.values())).sweep)
    shades = LinearSegmentedColormap.from_list("shades", ["#0b3c5d", "#2f7fae", "#9cc9df", "#f2f4f0"])
    norm = LogNorm(0.01, 1)
    with rc_context({**STYLE, "axes.grid": False}):
        figure, axes = panels(len(names), 4.4, 1.2 + 0.21 * len(rules), sharey=True)
        for name, where in zip(names, axes, strict=True):
            left = left_of(results, name)
            shown = np.full((len(rules), len(rates)), np.nan)
            for i, rule in enumerate(rules):
                result = results.get((name, schedule, rule))
                if result is None:
                    where.text(len(rates) / 2 - 0.5, i, "takes no rows", ha="center", va="center", color="#6b6b6b")
                    continue
                for j, rate in enumerate(rates):
                    if result.sweep[rate] <= result.sweep_start:
                        shown[i, j] = min(max(left(result.sweep[rate]), 0.01), 1)
                where.plot(rates.index(result.best), i, "o", ms=4.5, color="white", mec="#0b3c5d", mew=0.8)
                if rates[0] < rates[-1]:
                    place = np.interp(np.log10(result.default), np.log10(rates), np.arange(len(rates)))
                    where.plot(place, i, "s", ms=9, mfc="none", mec="black", mew=1.2)
            where.set_facecolor("#d9b8a6")  # shows where there is no number
            image = where.imshow(shown, norm=norm, cmap=shades, aspect="auto", interpolation="nearest")
            decades = [i for i, rate in enumerate(rates) if abs(math.log10(rate) % 1) < 1e-9]
            where.set_xticks(decades[::2], [f"{rates[i]:g}".replace("e-0", "e-") for i in decades[::2]])
            where.set_yticks(range(len(rules)), rules)
            where.tick_params(length=0)
            where.spines[:].set_visible(False)
            write_title(where, TASKS[name].title, TASKS[name].summary, 12)
        bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01)
        bar.set_ticks([0.01, 0.03, 0.1, 0.3, 1], labels=["1%", "3%", "10%", "30%", "100%"])
        bar.set_label("left of the way from the start to the best rule's loss")
        bar.outline.set_visible(False)
        figure.supxlabel(
            "learning rate.  White dot: the rule's best one.  Square: its default.  Brown: worse than the start.",
            size=11,
            color="#6b6b6b",
        )
        save(figure, file)
