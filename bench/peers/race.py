"""How a race is run: one process per contender, one measuring at a time, in a new random order every round."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from .contenders import FASTOPT, MEMORY_LIMIT, UnavailableError
from .results import ROUNDED_TOLERANCE, TOLERANCE, Race, Row, Turn, busy_cpus
from .worker import serve
from .workloads import Workload

MEMORY_MATTERS = 2**20  # elements from which a race shows the memory limit
OVERHEAD = 1.25  # memory a contender may need, as a multiple of parameters, gradients and state
FEWEST_TURNS = 3
PATIENCE = 3  # a contender that has used that many times its share of time has no more turns

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Parameters
    ----------
    rounds : int
        How often every contender has a turn.
    turn : float
        Seconds of a turn, where a step is not longer than that.
    threads : int
        Threads of every contender.
    memory : int
        Bytes that the contenders of one heat may hold together.
    """

    rounds: int
    turn: float
    threads: int
    memory: int


class FailedError(Exception):
    """A contender raised an error, or its process ended."""


class Player:
    """The process of one contender, from the race's side."""

    def __init__(self, name: str, threads: int, home: Path | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, threads), daemon=True)
        with _environment(threads), _importing_from(home):
            self.process.start()
        theirs.close()

    def ask(self, request: str, *arguments: Any) -> None:
        self.connection.send((request, arguments))

    def answer(self) -> Any:
        try:
            kind, answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise FailedError(f"its process ended with exit code {self.process.exitcode}") from error
        if kind == "unavailable":
            raise UnavailableError(answer)
        if kind == "failed":
            raise FailedError(answer)
        return answer

    def call(self, request: str, *arguments: Any) -> Any:
        self.ask(request, *arguments)
        return self.answer()

    def close(self) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what libraries read when they are loaded, for a process started meanwhile."""
    before = dict(os.environ)
    os.environ.update(
        NUMBA_NUM_THREADS=str(threads),
        NPROC=str(threads),  # XLA's thread pool
        JAX_PLATFORMS="cpu",
        DS_ACCELERATOR="cpu",
        # DeepSpeed compiles with the ninja that pip put beside this interpreter.
        PATH=os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", ""))),
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _importing_from(home: Path | None) -> Iterator[None]:
    """Have a process started meanwhile, which takes over the path of imports, look here first."""
    before = list(sys.path)
    if home is not None:
        sys.path.insert(0, str(home))
    try:
        yield
    finally:
        sys.path[:] = before


class Crew:
    """Processes by contender, started when first needed and kept until closed.

    Parameters
    ----------
    threads : int
        Threads of every contender.
    homes : mapping, optional
        Where contenders import packages from first, for those that do not take what is installed.
    """

    def __init__(self, threads: int, homes: Mapping[str, Path] = MappingProxyType({})) -> None:
        self.threads = threads
        self.homes = homes
        self.players: dict[str, Player] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        for player in self.players.values():
            player.close()

    def __getitem__(self, name: str) -> Player:
        if name not in self.players or not self.players[name].process.is_alive():
            self.players[name] = Player(name, self.threads, self.homes.get(name))
        return self.players[name]


def race(workload: Workload, peers: Iterable[str], settings: Settings, crew: Crew, progress: Progress) -> Race:
    """Race fastopt against `peers` and return every round."""
    names = list(peers)
    if _has_limit(workload):
        names.insert(0, MEMORY_LIMIT)
    tolerance = TOLERANCE if workload.storage is None else ROUNDED_TOLERANCE
    rows = {name: Row(name, tolerance=tolerance) for name in (FASTOPT, *names)}
    busy = busy_cpus()
    with tempfile.TemporaryDirectory() as folder:
        answers = Answers(workload, Path(folder))
        first_round = 0
        for heat in _heats(names, workload, settings.memory):
            _Heat(workload, rows, heat, settings, crew, answers, progress).run(first_round)
            first_round += settings.rounds
    return Race(
        name=workload.name,
        title=workload.title,
        rule=workload.rule.name,
        arrays=len(workload.shapes),
        elements=workload.elements,
        traffic=workload.traffic,
        loop=workload.loop,
        busy_cpus=busy,
        rows=rows,
    )


def _has_limit(workload: Workload) -> bool:
    """Return whether the memory limit has the traffic of this workload's steps, and matters."""
    plain = workload.rule.one_pass and workload.options <= {"storage"} and not workload.loop
    return plain and workload.elements >= MEMORY_MATTERS


def _heats(names: list[str], workload: Workload, memory: int) -> list[list[str]]:
    """Split the contenders into heats that fit into memory; fastopt takes part in each."""
    room = max(1, int(memory / (workload.footprint * OVERHEAD)) - 1)
    return [names[i : i + room] for i in range(0, len(names), room)] or [[]]


class Answers:
    """fastopt's parameters after the checked steps, one file per set of changed hyperparameters."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload = workload
        self.folder = folder
        self.paths: dict[str, str] = {}

    def make(self, fastopt: Player, changes: dict[str, Any]) -> str:
        key = repr(changes)
        if key not in self.paths:
            path = str(self.folder / str(len(self.paths)))
            fastopt.call("build", self.workload, changes)
            fastopt.call("save", path)
            self.paths[key] = path
        return self.paths[key]


class _Heat:
    """Contenders whose arrays are in memory at the same time."""

    def __init__(
        self,
        workload: Workload,
        rows: dict[str, Row],
        names: list[str],
        settings: Settings,
        crew: Crew,
        answers: Answers,
        progress: Progress,
    ) -> None:
        self.workload, self.rows, self.settings, self.answers = workload, rows, settings, answers
        self.progress = progress
        self.players = {name: crew[name] for name in (FASTOPT, *names)}

    def run(self, first_round: int) -> None:
        changes = self._build()
        self._check(changes)
        estimates: dict[str, float] = {}
        for name in list(self.players):
            self.progress(f"{self.workload.title}: {name} warms up")
            if (estimate := self._attempt(name, "estimate")) is not None:
                estimates[name] = estimate
        used = dict.fromkeys(self.players, 0.0)
        # A turn of a training loop has four parts, longer than a plain one; others make new gradients between steps.
        longer = 10 if self.workload.loop else 2 if self.workload.zero else 1
        patience = PATIENCE * self.settings.rounds * self.settings.turn * longer
        for i in range(self.settings.rounds):
            self.progress(f"{self.workload.title}: round {i + 1} of {self.settings.rounds}")
            for name in random.sample(list(self.players), len(self.players)):
                if i >= FEWEST_TURNS and used[name] > patience:
                    continue
                start = perf_counter()
                seconds = self._attempt(name, "turn", self.settings.turn, estimates[name])
                used[name] += perf_counter() - start
                if seconds is not None:
                    self.rows[name].turns.append(Turn(first_round + i, seconds))
        for name in list(self.players):
            self._attempt(name, "free")

    def _build(self) -> dict[str, dict[str, Any]]:
        """Let everyone make arrays at the same time, and return whose answers need other hyperparameters."""
        self.progress(f"{self.workload.title}: building")
        changes = {}
        for player in self.players.values():
            player.ask("build", self.workload)
        for name in list(self.players):
            if (built := self._receive(name)) is not None:
                self.rows[name].note = built["note"]
                changes[name] = built["compared_with"]
        return changes

    def _check(self, changes: dict[str, dict[str, Any]]) -> None:
        """Compare everyone's answers with fastopt's."""
        self.progress(f"{self.workload.title}: checking answers")
        fastopt = self.players[FASTOPT]
        for name in changes:
            if changes[name]:
                self.answers.make(fastopt, changes[name])
        standard = self.answers.make(fastopt, {})
        if any(changes.values()):
            fastopt.call("build", self.workload)
        compared = [name for name in self.players if name not in (FASTOPT, MEMORY_LIMIT)]
        for name in compared:
            path = self.answers.make(fastopt, changes[name]) if changes.get(name) else standard
            self.players[name].ask("difference", path)
        for name in compared:
            self.rows[name].difference = self._receive(name)

    def _attempt(self, name: str, request: str, *arguments: Any) -> Any:
        self.players[name].ask(request, *arguments)
        return self._receive(name)

    def _receive(self, name: str) -> Any:
        """Return a player's answer, or take it out of the heat and return None."""
        try:
            return self.players[name].answer()
        except (UnavailableError, FailedError) as error:
            if name == FASTOPT:
                raise
            self.rows[name].problem = str(error).strip()
            self.players.pop(name)
            return None
