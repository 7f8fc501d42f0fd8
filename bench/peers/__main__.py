"""The command line: ``python -m bench.peers``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

import fastopt
from fastopt.cli import check_writable

from . import footprint, report
from .contenders import CONTENDERS
from .race import Crew, Settings, race
from .races import EXTRAS, IMPORT, MEMORY, NOT_QUICK, QUICK, SWEEP, SWEEP_PEERS, WORKLOADS, sweep
from .results import Results, available_memory, describe_machine, describe_versions

MEMORY_SHARE = 0.6  # of the memory that is free at the start
# The workloads whose loop can be run here.
HERE = {name: workload for name, workload in WORKLOADS.items() if workload.loop != "torch" or find_spec("torch")}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Race fastopt against what a user would pick instead."
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--quick", action="store_true", help="some workloads and peers, under three minutes (the default)"
    )
    form.add_argument("--full", action="store_true", help="everything, in more than half an hour")
    parser.add_argument("--workloads", metavar="A,B", type=_names(*HERE, *EXTRAS), help="only these; see --list")
    parser.add_argument("--peers", metavar="A,B", type=_names(*CONTENDERS), help="race only these against fastopt")
    parser.add_argument("--json", metavar="FILE", type=_writable, help="write raw rounds, machine and versions")
    parser.add_argument("--picture", metavar="FILE", type=_picture, help="draw bars; more in FILE-loop and so on")
    parser.add_argument("--load", metavar="FILE", type=_earlier, help="report an earlier run instead of measuring")
    parser.add_argument("--list", action="store_true", help="list workloads and peers")
    options = parser.parse_args(arguments)
    if options.load and (options.workloads or options.peers):
        parser.error("--load reports the whole of an earlier run, without --workloads and --peers")
    raced = {peer for name, workload in HERE.items() if name in chosen(options) for peer in workload.peers}
    if idle := set(options.peers or ()) - raced - {*SWEEP_PEERS, *footprint.MEMORY_PEERS}:
        parser.error(f"--peers: no workload that was chosen has {', '.join(sorted(idle))}")
    return options


def chosen(options: argparse.Namespace) -> Sequence[str]:
    """Return the names of what is to be measured."""
    return options.workloads or (*(HERE if options.full else QUICK), *EXTRAS)


def _names(*known: str):  # type: ignore[no-untyped-def]
    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(known)}")
        return names

    return read


def _writable(text: str) -> Path:
    """Return a path that can be written to, so that no run is lost for want of it."""
    try:
        check_writable(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"must be a file to write, got {text!r} ({error.strerror})") from error
    return Path(text)


def _earlier(text: str) -> Results:
    try:
        return Results.load(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _picture(text: str) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise argparse.ArgumentTypeError(f"pictures need matplotlib: {error}") from error
    known = Figure().canvas.get_supported_filetypes()
    if Path(text).suffix.lstrip(".") not in known:
        raise argparse.ArgumentTypeError(f"must end in one of {', '.join(sorted(known))}, got {text!r}")
    return _writable(text)


def prepare(options: argparse.Namespace) -> tuple[Settings, Results]:
    """Choose how much to measure, and describe where."""
    threads = fastopt.get_num_threads()
    settings = Settings(
        rounds=10 if options.full else 5,
        turn=0.1 if options.full else 0.05,
        threads=threads,
        memory=int(available_memory() * MEMORY_SHARE),
    )
    shown = {"form": "full" if options.full else "quick", "rounds": settings.rounds, "turn_seconds": settings.turn}
    return settings, Results(describe_machine(threads), describe_versions(), shown)


def measure(options: argparse.Namespace, settings: Settings, results: Results, console: Console) -> None:
    """Run what was asked for and print each table as soon as it is there."""
    names = chosen(options)
    threads = settings.threads

    def wanted(peers: Sequence[str]) -> list[str]:
        if options.peers:
            return [name for name in peers if name in options.peers]
        return [name for name in peers if options.full or name not in NOT_QUICK]

    with console.status("") as status:
        progress = status.update
        for name in names:
            if name in HERE:
                workload = HERE[name]
                with Crew(threads) as crew:
                    results.races.append(race(workload, wanted(workload.peers), settings, crew, progress))
                console.print(report.race_table(results.races[-1]))
        if IMPORT in names:
            results.import_seconds = footprint.import_seconds(20 if options.full else 9, progress)
        if MEMORY in names:
            peers = footprint.MEMORY_PEERS if options.full else ()
            results.memory = footprint.memory(wanted(peers), threads, 3 if options.full else 1, progress)
        if SWEEP in names:
            with Crew(threads) as crew:  # the same processes for all sizes
                for workload in sweep(*((1e8, 2) if options.full else (1e6, 1))):
                    results.sweep.append(race(workload, wanted(workload.peers), settings, crew, progress))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.list:
        console.print(report.listing(HERE))
        return
    if options.load:
        results = options.load
        console.print(report.heading(results))
        for finished in results.races:
            console.print(report.race_table(finished))
    else:
        settings, results = prepare(options)
        console.print(report.heading(results))
        try:
            measure(options, settings, results, console)
        except KeyboardInterrupt:
            console.print("Interrupted; this is what there is.")
        finally:
            if options.json:
                results.save(options.json)
    for table in report.closing_tables(results):
        console.print(table)
    if options.picture:
        from . import picture

        for path in picture.draw(results, options.picture):
            console.print(f"drew {path}")


if __name__ == "__main__":
    main()
