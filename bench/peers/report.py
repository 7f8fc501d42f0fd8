"""The tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .contenders import CONTENDERS, FASTOPT
from .races import EXTRAS, QUICK
from .results import ALONE, COLD, ITERATION, PAUSED, STEP, TOLERANCE, Race, Results, Row, ratio
from .targets import Verdict, judge, judge_race
from .workloads import Workload

LOOP_COLUMNS = ("inside", "mean", "99 %", "iteration", "alone", "paused", "cold")


def seconds(value: float) -> str:
    """Write a time with three digits and the unit that suits it."""
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * scale >= 1:
            return f"{_three(value * scale)} {unit}"
    return f"{_three(value * 1e9)} ns"


def _three(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def times(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def spread(row: Row, what: str = STEP) -> str:
    """Write half the distance between the quartiles, relative to the median."""
    low, high = row.quartiles(what)
    return f"± {(high - low) / 2 / row.median(what):.0%}"


def heading(results: Results) -> RenderableType:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return Group(
        Text(f"{machine['cpu']}, {machine['threads']} threads, {machine['memory_gib']} GiB, {machine['system']}"),
        Text(f"Python {machine['python']}, {versions}"),
        Text(
            "Times are per step: the median over rounds, and ± half the distance between the quartiles. Ratios to "
            f"fastopt are taken within rounds. Differences of parameters are relative to the way they went; up to "
            f"{TOLERANCE:g} is the same answer. Inside loops: median, mean and 99th percentile of a step, and the mean "
            "of an iteration.",
            style="dim",
        ),
    )


def race_table(race: Race) -> RenderableType:
    table = Table(title=race.title, title_justify="left", title_style="bold")
    table.add_column("")
    columns = LOOP_COLUMNS if race.loop else ("step", "", "GB/s")
    for column in (*columns, "/ fastopt"):
        table.add_column(column, justify="right")
    table.add_column("target")
    table.add_column("difference", justify="right")
    verdicts: dict[str, list[Verdict]] = {}
    for verdict in judge_race(race):
        verdicts.setdefault(verdict.row, []).append(verdict)
    order = sorted((row for row in race.rows.values() if row.raced), key=Row.median)
    for row in order:
        table.add_row(*_cells(race, row, verdicts.get(row.name, [])), style="bold" if row.name == FASTOPT else "")
    notes = [f"{CONTENDERS[row.name].label}: {row.note}" for row in order if row.note]
    absent = [f"{CONTENDERS[row.name].label}: {row.problem}" for row in race.rows.values() if row.problem]
    lines = [Text(f"  {line}", style="dim") for line in (*notes, *absent)]
    if race.disturbed:
        lines.append(
            Text(f"  Disturbed: {race.busy_cpus:.1f} CPUs were busy with other work when this race began.", style="red")
        )
    return Group(table, *lines, Text(""))


def _cells(race: Race, row: Row, verdicts: list[Verdict]) -> list[RenderableType]:
    if race.loop:
        inside = row.median(), row.mean(), row.percentile(99), row.mean(ITERATION)
        measured = [*map(seconds, inside), *(seconds(row.median(what)) for what in (ALONE, PAUSED, COLD))]
    else:
        measured = [seconds(row.median()), spread(row), f"{race.traffic / row.median() / 1e9:.1f}"]
    if not row.right:
        compared = Text("another answer", style="red")
    elif row.name == FASTOPT:
        share = race.share_of_limit()
        compared = Text(f"{share:.0%} of limit" if share is not None else "")
    else:
        compared = Text(times(ratio(row, race.fastopt)))
    difference = "" if row.difference is None else f"{row.difference:.0e}"
    marks = Group(*(_mark(verdict, race.disturbed) for verdict in verdicts))
    return [CONTENDERS[row.name].label, *measured, compared, marks, difference]


def _mark(verdict: Verdict, disturbed: bool) -> Text:
    if disturbed:
        return Text(f"{verdict.bar} ? disturbed", style="yellow")
    mark, style = ("✓", "green") if verdict.passed else ("✗ short", "red")
    return Text(f"{verdict.bar} {mark}", style=style)


def closing_tables(results: Results) -> Iterator[RenderableType]:
    if results.sweep:
        yield sweep_table(results)
    if results.import_seconds:
        low, high = min(results.import_seconds), max(results.import_seconds)
        yield Text(
            f"import fastopt, beyond NumPy: {seconds(median(results.import_seconds))} in the median of "
            f"{len(results.import_seconds)} fresh processes, {seconds(low)} to {seconds(high)}"
        )
    if results.memory:
        table = Table(title="Memory beyond state, Adam, GPT-2 small", title_justify="left", min_width=40)
        table.add_column("")
        table.add_column("MiB", justify="right")
        for name, extra in results.memory.items():
            table.add_row(CONTENDERS[name].label, f"{extra / 2**20:.1f}" if isinstance(extra, int) else extra)
        yield table
    if verdicts := judge(results):
        table = Table(title="Targets", title_justify="left", title_style="bold")
        for column in ("workload", "what", "target", "measured"):
            table.add_column(column)
        disturbed = {race.name for race in results.races if race.disturbed}
        for verdict in verdicts:
            table.add_row(verdict.race, verdict.what, _mark(verdict, verdict.race in disturbed), verdict.measured)
        yield table


def sweep_table(results: Results) -> Table:
    """Billions of elements per second, by size."""
    table = Table(title="Adam on one array: billions of elements per second", title_justify="left")
    table.add_column("elements", justify="right")
    names = list(results.sweep[-1].rows)
    for name in names:
        table.add_column(CONTENDERS[name].label, justify="right")
    for race in results.sweep:
        rows = (race.rows.get(name) for name in names)
        speeds = (f"{race.elements / row.median() / 1e9:.3f}" if row is not None and row.raced else "" for row in rows)
        table.add_row(f"{race.elements:,}", *speeds)
    return table


def listing(workloads: Mapping[str, Workload]) -> RenderableType:
    table = Table(title="Workloads", title_justify="left")
    for column in ("name", "what", "arrays", "elements", "quick form"):
        table.add_column(column, justify="right" if column in ("arrays", "elements") else "left")
    for workload in workloads.values():
        size = (str(len(workload.shapes)), f"{workload.elements:,}")
        table.add_row(workload.name, workload.title, *size, "yes" if workload.name in QUICK else "")
    for name, what in EXTRAS.items():
        table.add_row(name, what, "", "", "yes")
    return Group(table, Text(f"Peers: {', '.join(CONTENDERS)}"))
