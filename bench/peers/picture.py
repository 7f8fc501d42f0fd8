"""The pictures: how long peers take per workload, and throughput against size."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from .contenders import CONTENDERS, FASTOPT, MEMORY_LIMIT
from .report import seconds, times
from .results import ALONE, ITERATION, Race, Results, Row, ratio

INK, FAINT = "#202124", "#dadce0"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "savefig.dpi": 150,
}
COLUMNS = 4
ROW_HEIGHT = 0.21  # inches per bar
CHARACTERS_PER_INCH = 14  # of the caption
MARGINS = 0.75  # inches of a panel that are not bars


def draw(results: Results, path: Path) -> Iterator[Path]:
    """Draw what the results hold and return the files written: `path`, and others named after it."""
    races = [race for race in results.races if race.peers() and not race.loop]
    loops = [race for race in results.races if race.peers() and race.loop == "NumPy"]
    torch_loops = [race for race in results.races if race.peers() and race.loop == "torch"]
    limited = [race for race in results.races if race.share_of_limit() is not None]
    figures = {
        "": (_bars, races),
        "-loop": (_loops, loops),
        "-torch-loop": (_loops, torch_loops),
        "-limit": (_limits, limited),
        "-sweep": (_sweep, results.sweep),
    }
    with matplotlib.rc_context(STYLE):
        for suffix, (make, of) in figures.items():
            if of:
                file = path.with_stem(path.stem + suffix)
                make(results, of).savefig(file)
                yield file


def _caption(results: Results) -> str:
    machine, versions = results.machine, results.versions
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")
    return f"{machine['cpu']}, {machine['threads']} threads, float32. {libraries}"


def _title(figure: Figure, results: Results, title: str, subtitle: str = "") -> None:
    """Put the title above the figure, and below it what was measured with."""
    figure.suptitle(title, x=0.01, ha="left", size=14, weight="bold")
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    lines = [*([subtitle] if subtitle else []), *textwrap.wrap(_caption(results), width)]
    figure.supxlabel("\n".join(lines), size=8, x=0.01, ha="left")


# Bars: one panel per workload, one bar per peer.


def _bars(results: Results, races: list[Race]) -> Figure:
    rows = math.ceil(len(races) / COLUMNS)
    counts = [max(len(race.peers()) for race in races[i * COLUMNS : (i + 1) * COLUMNS]) for i in range(rows)]
    heights = [count * ROW_HEIGHT + MARGINS for count in counts]
    figure = Figure(figsize=(4.1 * min(COLUMNS, len(races)), sum(heights) + 1.0), layout="constrained")
    _title(figure, results, "How many times as long as fastopt a step takes", "dotted line: the memory limit")
    panels = list(figure.subplots(rows, min(COLUMNS, len(races)), squeeze=False, height_ratios=heights).flat)
    ratios = [ratio(row, race.fastopt) for race in races for row in race.peers()]
    low, high = min(0.5, *ratios), max(ratios)
    for i, (panel, race) in enumerate(zip(panels, races, strict=False)):
        panel.set_xlim(low / 1.3, high * 6)  # room for the figures at the bars' ends
        panel.set_ylim(counts[i // COLUMNS] - 0.5, -0.5)  # bars of one height, from the top
        _panel(panel, race)
    for panel in panels[len(races) :]:
        panel.set_axis_off()
    return figure


def _panel(axes: Axes, race: Race) -> None:
    peers = sorted(race.peers(), key=lambda row: ratio(row, race.fastopt))
    axes.set_title(f"{race.title}\n", loc="left", weight="bold", size=9)
    subtitle = f"fastopt {seconds(race.fastopt.median())}"
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=CONTENDERS[FASTOPT].colour)
    axes.set_xscale("log")
    for position, row in enumerate(peers):
        value = ratio(row, race.fastopt)
        # From 1, where fastopt is: a bar to the left is a peer that is faster.
        axes.barh(position, value - 1, left=1, height=0.72, color=CONTENDERS[row.name].colour)
        text = f" {times(value)}  {seconds(row.median())}"
        axes.text(max(value, 1), position, text, va="center", size=7.5)
    axes.set_yticks(range(len(peers)), [CONTENDERS[row.name].label for row in peers])
    axes.axvline(1, color=CONTENDERS[FASTOPT].colour, linewidth=1.2)
    if (share := race.share_of_limit()) is not None:
        axes.axvline(share, color=INK, linewidth=1, linestyle=":")
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=5))  # on a wide axis, more would run into each other
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


# Inside a loop: from the time alone to the time inside, one line per contender.


def _loops(results: Results, races: list[Race]) -> Figure:
    rows = max(len(race.peers()) for race in races) + 1
    figure = Figure(figsize=(max(8, 4.3 * len(races)), rows * 0.32 + 1.6), layout="constrained")
    _title(
        figure,
        results,
        f"A step inside a {races[0].loop} training loop",
        "filled: inside, median; stroke: mean; thin line to the 99th percentile; hollow: the same steps back to back;"
        " right: a whole iteration, mean",
    )
    for axes, race in zip(figure.subplots(1, len(races), squeeze=False).flat, races, strict=True):
        _loop_panel(axes, race)
    return figure


def _loop_panel(axes: Axes, race: Race) -> None:
    rows = sorted((race.fastopt, *race.peers()), key=Row.median, reverse=True)
    axes.set_title(f"{race.elements:,} parameters", loc="left", weight="bold", size=9)
    axes.set_xscale("log")
    for position, row in enumerate(rows):
        inside, alone, colour = row.median(), row.median(ALONE), CONTENDERS[row.name].colour
        axes.plot((alone, inside), (position, position), color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot((inside, row.percentile(99)), (position, position), color=colour, linewidth=1)
        axes.plot(row.mean(), position, marker="|", markersize=12, markeredgewidth=2, color=colour)
        axes.plot(alone, position, marker="o", markersize=6, markerfacecolor="white", color=colour)
        axes.plot(inside, position, marker="o", markersize=7, color=colour)
        iteration = seconds(row.mean(ITERATION))
        axes.text(1.01, position, iteration, transform=axes.get_yaxis_transform(), va="center", size=7.5)
    axes.set_yticks(range(len(rows)), [CONTENDERS[row.name].label for row in rows])
    axes.get_yticklabels()[rows.index(race.fastopt)].set_fontweight("bold")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(length=0)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(round_time))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def round_time(value: float, _: float) -> str:
    number, unit = seconds(value).split()
    return f"{float(number):g} {unit}"


# Against the memory limit: one bar per race.


def _limits(results: Results, races: list[Race]) -> Figure:
    figure = Figure(figsize=(7.5, len(races) * 0.24 + 1.4), layout="constrained")
    limit = "the limit: a loop of the same traffic with one addition each, on as many threads"
    _title(figure, results, "Speed as a share of the memory limit", limit)
    axes = figure.subplots()
    for position, race in enumerate(reversed(races)):
        share = race.share_of_limit()
        assert share is not None
        axes.barh(position, share, height=0.72, color=CONTENDERS[FASTOPT].colour)
        text = f" {share:.0%}  {race.traffic / race.fastopt.median() / 1e9:.1f} GB/s"
        axes.text(0.01, position, text, va="center", color="white", weight="bold", size=8)
    axes.set_yticks(range(len(races)), [race.title for race in reversed(races)])
    axes.axvline(1, color=INK, linewidth=1, linestyle=":")
    axes.set_ylim(-0.6, len(races) - 0.4)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    return figure


# The sweep: one line per contender.


def _sweep(results: Results, races: list[Race]) -> Figure:
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    _title(figure, results, "Adam on one array: throughput against size")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("billions of elements per second")
    largest = races[-1]
    ends = {}
    for name in largest.rows:
        points = [
            (race.elements, race.elements / race.rows[name].median() / 1e9)
            for race in races
            if name in race.rows and race.rows[name].raced and race.rows[name].right
        ]
        if not points:
            continue
        if name == MEMORY_LIMIT:
            _memory_limit(axes, points, largest.traffic / largest.elements)
            continue
        style: Any = {"linewidth": 2.4, "zorder": 3} if name == FASTOPT else {"linewidth": 1.4}
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=CONTENDERS[name].colour, **style)
        ends[name] = points[-1]
    _label_ends(axes, ends)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    traffic = largest.traffic / largest.elements
    bytes_per_second: Any = (lambda elements: elements * traffic, lambda gigabytes: gigabytes / traffic)
    other = axes.secondary_yaxis("right", functions=bytes_per_second)
    other.set_ylabel("GB per second")
    other.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    other.spines["right"].set_visible(True)
    return figure


def _memory_limit(axes: Axes, points: list[tuple[int, float]], traffic: float) -> None:
    _, limit = points[-1]
    axes.axhline(limit, color=INK, linewidth=1, linestyle=":")
    text = f"memory limit, {limit * traffic:.0f} GB/s"
    axes.annotate(text, (100, limit), xytext=(0, 4), textcoords="offset points", size=8)


def _label_ends(axes: Axes, ends: dict[str, tuple[int, float]]) -> None:
    """Write names beside the lines' last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    apart = (high / low) ** 0.045  # as a factor, because the axis is logarithmic
    height = 0.0
    for name, (elements, speed) in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(speed, height * apart)
        axes.annotate(
            CONTENDERS[name].label,
            (elements, height),
            xytext=(8, 0),
            textcoords="offset points",
            color=CONTENDERS[name].colour,
            va="center",
            weight="bold" if name == FASTOPT else "normal",
        )
    axes.set_xlim(70, max(elements for elements, _ in ends.values()) * 12)
