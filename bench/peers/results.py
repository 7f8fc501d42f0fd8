"""The measurements: raw rounds, their statistics, and their JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from .contenders import FASTOPT, MEMORY_LIMIT

# Largest difference of a parameter from fastopt's after the checked steps, relative to the farthest that one has gone
# in them. Parameters are about 0.1 and are rounded to 4e-9; the shortest way is 1e-5: rounding alone stays below this,
# a step that is wrong by a thousandth does not.
TOLERANCE = 1e-3
# The same of root mean squares where libraries round parameters and state, each in its way.
ROUNDED_TOLERANCE = 0.2

# The parts of a turn that are timed. Where STEP is inside a training loop, the whole iteration is timed too, and the
# same steps back to back; after pauses as long as the rest of the loop, in which a thread watches the clock and
# touches nothing; and after work on one thread that leaves nothing in the caches. None of the last three has BLAS in
# it.
STEP, ITERATION, ALONE, PAUSED, COLD = "step", "iteration", "alone", "paused", "cold"
BUSY = 0.15  # CPUs that others may use before a race's figures are called into question
PACKAGES = (
    *("fastopt", "numpy", "ml_dtypes", "numba", "torch", "jax", "jaxlib", "optax", "deepspeed"),
    *("torchao", "bitsandbytes", "bitsandbytes-cpu-fork"),
)


Statistic = Callable[[Iterable[float]], float]


@dataclass
class Turn:
    """Seconds per step of one contender in one round, batch by batch."""

    round: int
    seconds: dict[str, list[float]]


@dataclass
class Row:
    """A contender in one race.

    Attributes
    ----------
    problem : str
        Why it did not race, or was not timed to the end.
    difference : float or None
        From fastopt's parameters, see `TOLERANCE`; None where there is nothing to compare.
    tolerance : float
        The largest difference of the same answer.
    """

    name: str
    note: str = ""
    problem: str = ""
    difference: float | None = None
    tolerance: float = TOLERANCE
    turns: list[Turn] = field(default_factory=list)

    @property
    def raced(self) -> bool:
        return bool(self.turns)

    @property
    def right(self) -> bool:
        return self.difference is None or self.difference <= self.tolerance

    def per_round(self, what: str = STEP, of: Statistic = median) -> dict[int, float]:
        """Return each round's median, or another statistic of it."""
        return {turn.round: of(turn.seconds[what]) for turn in self.turns if what in turn.seconds}

    def median(self, what: str = STEP) -> float:
        return median(self.per_round(what).values())

    def quartiles(self, what: str = STEP) -> tuple[float, float]:
        """Return the quartiles of the rounds' medians."""
        values = list(self.per_round(what).values())
        if len(values) < 2:
            return values[0], values[0]
        low, _, high = quantiles(values, n=4, method="inclusive")
        return low, high

    def mean(self, what: str = STEP) -> float:
        """Return the mean of all batches of all rounds: a training run is a sum of its steps."""
        return fmean(self._all(what))

    def percentile(self, which: int, what: str = STEP) -> float:
        """Return a percentile of all batches of all rounds."""
        values = self._all(what)
        return quantiles(values, n=100, method="inclusive")[which - 1] if len(values) > 1 else values[0]

    def _all(self, what: str) -> list[float]:
        return [seconds for turn in self.turns for seconds in turn.seconds[what]]


def ratio(row: Row, base: Row, what: str = STEP, of: Statistic = median) -> float:
    """Return how many times as long as `base` a contender takes: the median of the ratios within rounds."""
    mine, theirs = row.per_round(what, of), base.per_round(what, of)
    return median(mine[i] / theirs[i] for i in mine.keys() & theirs.keys())


@dataclass
class Race:
    """One workload's outcome."""

    name: str
    title: str
    rule: str
    arrays: int
    elements: int
    traffic: int  # bytes per step
    loop: str  # whose training loop the steps are inside; empty where there is none
    busy_cpus: float  # what others used when the race began
    rows: dict[str, Row]

    @property
    def disturbed(self) -> bool:
        return self.busy_cpus > BUSY

    @property
    def fastopt(self) -> Row:
        return self.rows[FASTOPT]

    def peers(self) -> list[Row]:
        """Return the rows that can be compared with fastopt: they raced, and got the same answer."""
        if not self.fastopt.raced:
            return []
        special = (FASTOPT, MEMORY_LIMIT)
        return [row for row in self.rows.values() if row.name not in special and row.raced and row.right]

    def share_of_limit(self) -> float | None:
        """Return the memory limit's time as a share of fastopt's."""
        limit = self.rows.get(MEMORY_LIMIT)
        return ratio(limit, self.fastopt) if limit is not None and limit.raced and self.fastopt.raced else None


@dataclass
class Results:
    """A whole run."""

    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    races: list[Race] = field(default_factory=list)
    sweep: list[Race] = field(default_factory=list)
    import_seconds: list[float] = field(default_factory=list)
    memory: dict[str, int | str] = field(default_factory=dict)  # bytes, or why there are none

    def save(self, path: Path) -> None:
        # Six digits are more than any clock has, and keep the file small.
        path.write_text(json.dumps(rounded(asdict(self)), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        try:
            data = json.loads(path.read_text())
            for key in ("races", "sweep"):
                data[key] = [_race(race) for race in data[key]]
            return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path} must hold the JSON of an earlier run, got {what}") from error


def _race(data: dict[str, Any]) -> Race:
    rows = {name: _row(**row) for name, row in data["rows"].items()}
    return Race(**{**data, "rows": rows})


def _row(difference: float | str | None, turns: list[dict[str, Any]], **rest: Any) -> Row:
    # JSON has no infinity: it is kept as a word.
    return Row(
        difference=None if difference is None else float(difference), turns=[Turn(**turn) for turn in turns], **rest
    )


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def describe_machine(threads: int) -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "caches": _caches(),
        "memory_gib": round(_memory_total() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "environment": {
            name: value for name, value in os.environ.items() if re.match(r"(OMP|OPENBLAS|MKL|FASTOPT|NUMBA)_", name)
        },
    }


def describe_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def busy_cpus(seconds: float = 0.25) -> float:
    """Return how many CPUs are at work, while this process sleeps."""
    before = _idle_and_total()
    time.sleep(seconds)
    after = _idle_and_total()
    if before is None or after is None or after[1] == before[1]:
        return 0.0
    idle, total = (new - old for new, old in zip(after, before, strict=True))
    return (1 - idle / total) * (os.cpu_count() or 1)


def _idle_and_total() -> tuple[int, int] | None:
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    return ticks[3] + ticks[4], sum(ticks)


def available_memory() -> int:
    return _meminfo("MemAvailable") or 4 * 2**30


def _memory_total() -> int:
    return _meminfo("MemTotal") or 0


def _meminfo(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        caches[f"L{level} {kind.lower()}"] = size
    return caches
