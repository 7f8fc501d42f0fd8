"""The command: options, the progress bar, and where the results go."""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from fastopt.cli import Parser, console, integer, names
from fastopt.threads import usable_cpus

from . import report
from .sweep import RATES, SCHEDULES, Rule, compare, find_rules
from .tasks import TASKS

__all__ = ["main", "parser"]

QUICK = {"rates": [1e-4, 1e-3, 1e-2, 1e-1, 1.0], "seeds": 2, "shorter": 5}


def rates(text: str) -> list[float]:
    """Return the argument as learning rates in ascending order."""
    try:
        chosen = [float(rate) for rate in text.split(",")]
    except ValueError:
        chosen = []
    if not chosen or not all(0 < rate < 1e6 for rate in chosen) or len(set(chosen)) < len(chosen):
        required = "must be numbers above 0 and below 1e6, each at most once, with commas between them"
        raise argparse.ArgumentTypeError(f"{required}; got {text!r}")
    return sorted(chosen)


def options(text: str) -> dict[str, object]:
    """Return the argument as keyword arguments of an optimizer: numbers, strings, truth values, tuples of these."""
    required = "must be options as in Python, such as weight_decay=0.1,cautious_decay=True"
    try:
        call = ast.parse(f"rule({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(keyword.arg for keyword in call.keywords):
            raise ValueError(required)
        found = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        hash(tuple(found.values()))
    except (SyntaxError, TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{required}; got {text!r}") from None
    return found


def folder(text: str) -> Path:
    """Return the argument as a folder that can be written to, or made."""
    path = Path(text)
    parent = path if path.exists() else path.parent
    if not text or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be a folder to write to, or a new one in such a folder, got {text!r}")
    return path


def page(text: str) -> Path:
    """Return the argument as a page with the two marks."""
    path = Path(text)
    try:
        _, begin, rest = path.read_text().partition(report.BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"must be a Markdown page to rewrite, got {text!r} ({error})") from None
    if not begin or report.END not in rest:
        raise argparse.ArgumentTypeError(f"must have the lines {report.BEGIN} and {report.END}, got {text!r}")
    return path


def parser() -> Parser:
    """Return the parser of the comparison's arguments."""
    known = list(find_rules())
    command = Parser(
        "compare",
        description="Train small models on real data with every rule at many learning rates. Print a table for each\n"
        "task, write the numbers to compare.csv and compare.json, and draw compare-rates.png and compare-curves.png.",
        epilog="tasks:\n" + "\n".join(f"  {name:12}{task.summary}" for name, task in TASKS.items()) + "\n\nexamples:\n"
        "  python -m fastopt compare\n"
        "  python -m fastopt compare --quick --out /tmp\n"
        "  python -m fastopt compare --rules nesterov,adam --tasks digits --rates 0.001,0.01,0.1 --seeds 20",
    )
    for option, kind, default, metavar, text in (
        ("--rules", names(*known), known, "A,B", f"only these (default: all): {', '.join(known)}"),
        ("--tasks", names(*TASKS), list(TASKS), "A,B", f"only these (default: all): {', '.join(TASKS)}"),
        ("--schedules", names(*SCHEDULES), ["constant"], "A,B", f"of {', '.join(SCHEDULES)} (default: constant)"),
        ("--seeds", integer(1, 1000), None, "N", "trainings of each rule at its best learning rate (default: 5)"),
        ("--rates", rates, None, "A,B", "learning rates to try (default: 1e-6 to 100, two per decade)"),
        ("--options", options, {}, "A=1,B=2", "options of every rule, such as weight_decay=0.1,cautious_decay=True"),
        ("--processes", integer(1, 256), usable_cpus(), "N", "trainings at a time (default: one per CPU)"),
        ("--out", folder, Path("fastopt-compare"), "DIR", "folder of the results (default: fastopt-compare)"),
        ("--page", page, None, "FILE", "a Markdown page; its tables are rewritten"),
    ):
        command.add_argument(option, type=kind, default=default, metavar=metavar, help=text)
    command.add_argument("--quick", action="store_true", help="fewer rates, seeds and steps: half a minute")
    return command


def main(arguments: Sequence[str]) -> int:
    """Run the comparison: check the arguments, train, print the tables, write the files and draw the pictures."""
    checked = parser()
    options = checked.parse_args(arguments)
    try:
        for module in ("sklearn", "matplotlib", "rich"):
            import_module(module)
    except ModuleNotFoundError as error:
        checked.error(f"needs scikit-learn, matplotlib and rich ({error}): pip install 'fastopt[demo]'")
    options.shorter = QUICK["shorter"] if options.quick else 1
    options.rates = options.rates or (QUICK["rates"] if options.quick else RATES)
    options.seeds = options.seeds or (QUICK["seeds"] if options.quick else 5)
    rules = {name: rule for name, rule in find_rules().items() if name in options.rules}
    for name, rule in rules.items():
        try:
            rule.make({"W1": np.zeros((2, 2)), "W2": np.zeros((2, 2))}, rule.default, **options.options)
        except (TypeError, ValueError) as error:
            checked.error(f"argument --options: must be options of every rule that is compared; {name}: {error}")
    if not any(rule.suits(name) for rule in rules.values() for name in options.tasks):
        checked.error("argument --tasks: must have a task that one of the rules can train")
    options.out.mkdir(exist_ok=True)
    results = run(options, rules)

    table = report.rows(results)
    show(table)
    settings = {key: getattr(options, key) for key in ("rates", "seeds", "shorter", "options")}
    report.write_csv(table, options.out / "compare.csv")
    report.write_json(results, settings, options.out / "compare.json")
    schedule = options.schedules[0]
    report.draw_rates(results, schedule, options.out / "compare-rates.png")
    report.draw_curves(results, schedule, options.out / "compare-curves.png")
    if options.page:
        report.update_page(options.page, report.markdown(table))
    print(f"Numbers and pictures are in {options.out}")
    return 0


def run(options: argparse.Namespace, rules: dict[str, Rule]) -> report.Results:
    """Train everything, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console()
    bar = Progress(
        TextColumn("{task.description:12}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )
    with bar:
        line = bar.add_task("", total=None)

        def progress(task: str, done: int, total: int) -> None:
            bar.update(line, description=task, completed=done, total=total)

        return compare(
            options.tasks,
            rules,
            options.schedules,
            options.rates,
            options.seeds,
            shorter=options.shorter,
            processes=options.processes,
            options=options.options,
            progress=progress,
        )


def show(table: list[report.Row]) -> None:
    """Print a table for each task and schedule."""
    from rich import box
    from rich.table import Table

    screen = console()
    for name, schedule in dict.fromkeys((row.task, row.schedule) for row in table):
        task = TASKS[name]
        screen.print(f"[bold]{task.title}[/bold]: {task.summary}; schedule {schedule}")
        printed = Table(box=box.SIMPLE, padding=(0, 2, 0, 0))
        for i, heading in enumerate(report.headings(name)):
            printed.add_column(heading, justify="right" if i else "left")
        for row in table:
            if (row.task, row.schedule) == (name, schedule):
                printed.add_row(*report.cells(row))
        screen.print(printed)
    screen.print(report.LEGEND)
