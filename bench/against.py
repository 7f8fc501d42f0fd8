"""A plain Adam step of this tree against another revision's: ``python -m bench.against REV [--rounds N]``.

The other revision is built in a temporary folder by the same compiler. Each build is in processes of its own, they take
turns in rounds of random order, and their parameters are compared. Where a process happens to have its arrays makes all
of its steps some percent faster or slower, so each build has several processes, one pair after the other.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from rich.console import Console

import fastopt

from .peers import report
from .peers.contenders import ANOTHER_REVISION
from .peers.race import Crew, Settings, race
from .peers.races import WORKLOADS
from .peers.results import Race, Row, available_memory, ratio

RACES = ("adam-1024", "adam-1000x1024", "adam-1M", "adam-32M")
SLOWER = 1.02  # how many times as long as the other revision's a step may take
BUILD = (".", ":(exclude)bench")  # both are raced by the bench of this tree
REPOSITORY = Path(__file__).parents[1]


@contextmanager
def built(revision: str) -> Iterator[Path]:
    """Build a revision of this repository in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "revision.zip"
        _run(REPOSITORY, "git", "archive", f"--output={archive}", revision, *BUILD)
        shutil.unpack_archive(archive, folder)
        _run(folder, sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")
        yield folder


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def verdict(races: Sequence[Race]) -> tuple[str, bool]:
    """Return how the two builds compare, and whether this one gave the same answer in hardly more time.

    Parameters
    ----------
    races : sequence of Race
        One for each pair of processes.
    """
    rows = [race.rows[ANOTHER_REVISION] for race in races]
    for row in rows:
        if not row.raced:
            return row.problem, False
        if not row.right:
            return f"its parameters differ by {row.difference:.0e}", False
    of = fmean if races[0].loop else median  # where late threads count
    shares = [ratio(race.fastopt, row, of=of) for race, row in zip(races, rows, strict=True)]
    share = median(shares)
    text = f"{share:.3f} times as long as there, at most {SLOWER:g}; by process {min(shares):.3f} to {max(shares):.3f}"
    return text, share <= SLOWER


def together(races: Sequence[Race]) -> Race:
    """Return the rounds of all pairs of processes as those of one race."""
    rounds = 1 + max(turn.round for race in races for turn in race.fastopt.turns)

    def row(name: str) -> Row:
        turns = [
            replace(turn, round=i * rounds + turn.round)
            for i, race in enumerate(races)
            for turn in race.rows[name].turns
        ]
        return replace(races[0].rows[name], turns=turns)

    return replace(races[0], rows={name: row(name) for name in races[0].rows})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where this tree is slower or gives another answer."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__.split(":")[0])
    parser.add_argument("revision", metavar="REV", help="a commit, branch or tag of this repository")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="of each build (default: 5)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="turns of each process (default: 10)")
    parser.add_argument("--races", default=",".join(RACES), metavar="A,B", help="workloads (default: %(default)s)")
    options = parser.parse_args(arguments)
    names = options.races.split(",")
    if unknown := set(names) - WORKLOADS.keys():
        parser.error(f"{', '.join(unknown)} is not one of {', '.join(WORKLOADS)}")
    threads = fastopt.get_num_threads()
    settings = Settings(options.rounds, 0.05, threads, available_memory())
    console = Console(width=None if sys.stdout.isatty() else 120)
    verdicts: dict[str, tuple[str, bool]] = {}
    with console.status(f"building {options.revision}") as status, built(options.revision) as folder:
        for name in names:
            races = []
            for _ in range(options.processes):
                with Crew(threads, {ANOTHER_REVISION: folder}) as crew:
                    races.append(race(WORKLOADS[name], [ANOTHER_REVISION], settings, crew, status.update))
            console.print(report.race_table(together(races)))
            verdicts[name] = verdict(races)
    for name, (text, passed) in verdicts.items():
        console.print(f"{name}: {text} {'✓' if passed else '✗'}", style="green" if passed else "red")
    return 0 if all(passed for _, passed in verdicts.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
