"""The bars to reach, in one place, and how a run stands against them.

They hold for two cores of x86-64 with AVX2, float32, two threads; ratios are taken within one run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import fmean, median

from .contenders import CONTENDERS, FASTOPT
from .races import RULES
from .results import ALONE, ITERATION, STEP, Race, Results, Row, ratio

TORCH = ("torch", "torch-foreach", "torch-fused")
TORCH_FUSED = ("torch-fused",)
NUMBA = ("numba",)  # parallel, with fused loops
NUMPY = ("numpy",)
OPTAX = ("optax",)
FLOAT32 = ("fastopt-float32",)  # the same step with nothing stored in fewer bytes

# How many times as long as fastopt the fastest of these must take.
RATIOS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("adam-1024", TORCH_FUSED, 40),
    ("adam-1024", NUMBA, 2.5),
    ("adam-1024", NUMPY, 8),
    ("adam-32M", TORCH_FUSED, 1.05),
    ("adam-32M", NUMPY, 8),
    ("adam-1000x1024", TORCH_FUSED, 20),
    ("adam-1000x1024", NUMBA, 8),
    ("adam-1000x1024", NUMPY, 25),
    ("adam-64x512x512", TORCH_FUSED, 1.15),
    ("adam-gpt2", TORCH_FUSED, 1.0),
    ("adam-gpt2", OPTAX, 1.2),
    ("adam-gpt2", NUMPY, 8),
    ("momentum-32M", TORCH_FUSED, 1.05),
    ("adagrad-32M", TORCH_FUSED, 1.05),
    ("adam-32M-clip", TORCH, 1.25),
    ("adam-64x512x512-clip", TORCH, 1.4),
    ("adam-1000x1024-clip", TORCH, 25),
    ("adamw-32M-clip-zero", TORCH, 1.3),
    ("adamw-32M-clip-zero-ema", TORCH, 1.5),
    ("adam-rows-1M", ("torch-sparse",), 20),
    ("adamw-32M-bf16-state", FLOAT32, 1.35),
    ("adamw-32M-8bit", FLOAT32, 1.25),
    ("adamw-32M-8bit", ("bitsandbytes",), 14),
    ("adamw-32M-8bit", ("torchao-8bit",), 28),
    ("adamw-1000x1024-8bit", FLOAT32, 0.6),
    ("adamw-1000x1024-8bit", ("bitsandbytes", "torchao-8bit"), 50),
    ("adamw-32M-split16", FLOAT32, 1.35),
    ("adamw-32M-split16", ("torch-bf16",), 1.3),
    ("adamw-32M-split8-8bit", FLOAT32, 1.15),
)
# The same for other rules on large arrays: for those that torch has, but in no fused form, and those of optax alone.
UNFUSED, OPTAX_ALONE = 6, 1.0

# Seconds of a step, at most.
SECONDS: tuple[tuple[str, str, float], ...] = (
    ("adam-1024", FASTOPT, 1.5e-6),
    ("adam-1024", "fastopt-kernel", 1.2e-6),
)

# The share of the memory limit's speed that every rule of one pass must reach on large arrays.
LIMIT_SHARE = 0.92
LIMIT_RACES = tuple(f"{name}-{size}" for name, rule in RULES.items() if rule.one_pass for size in ("32M", "31M"))

# How many times as long as on the smallest table a step with the gradients of some rows may take on larger ones.
ROW_RACES = ("adam-rows-10k", "adam-rows-100k", "adam-rows-1M")
ROW_GROWTH = 2.0  # caches and pages of address translation count, the rows that are left alone do not

# Inside a loop, against the better of one thread and all threads alone; the mean against the better of these in the
# loop; and against pure NumPy in the same loop, and torch in its own, there also of whole iterations.
LOOP_MEDIAN, LOOP_PERCENTILE_90, LOOP_MEAN, LOOP_NUMPY, LOOP_TORCH, LOOP_ITERATION = 1.3, 2.0, 1.05, 1.0, 2.0, 1.0

IMPORT_SECONDS = 15e-3
MEMORY_BYTES = 2**20


@dataclass(frozen=True)
class Verdict:
    """One bar and what was measured against it.

    Attributes
    ----------
    race, row : str
        Where it belongs; the row is the contender in whose line it is shown.
    what, bar, measured : str
        For people.
    """

    race: str
    row: str
    what: str
    bar: str
    measured: str
    passed: bool


def judge(results: Results) -> list[Verdict]:
    """Return a verdict for every bar that this run has measured."""
    verdicts = [verdict for race in results.races for verdict in judge_race(race)]
    verdicts += _judge_rows(results)
    if results.import_seconds:
        seconds = median(results.import_seconds)
        verdicts.append(_at_most("import", FASTOPT, "import beyond NumPy", seconds, IMPORT_SECONDS, 1e3, " ms"))
    extra = results.memory.get(FASTOPT)
    if isinstance(extra, int):
        verdicts.append(_at_most("memory", FASTOPT, "memory beyond state", extra, MEMORY_BYTES, 2**-20, " MiB"))
    return verdicts


def judge_race(race: Race) -> Iterator[Verdict]:
    if not race.fastopt.raced:
        return
    rows = {row.name: row for row in race.peers()}
    for name, group, bar in (*RATIOS, *ratios_of_rule(race.name, rows)):
        if name == race.name and (ratios := {n: ratio(rows[n], race.fastopt) for n in group if n in rows}):
            best = min(ratios, key=ratios.__getitem__)
            yield _at_least(race.name, best, f"{CONTENDERS[best].label} / fastopt", ratios[best], bar)
    rows[FASTOPT] = race.fastopt
    for name, contender, bar in SECONDS:
        if name == race.name and contender in rows:
            what = f"{CONTENDERS[contender].label}, one step"
            yield _at_most(race.name, contender, what, rows[contender].median(), bar, 1e6, " µs")
    share = race.share_of_limit()
    if race.name in LIMIT_RACES and share is not None:
        what = "speed / memory limit"
        yield Verdict(race.name, FASTOPT, what, f"≥ {LIMIT_SHARE:.0%}", f"{share:.1%}", share >= LIMIT_SHARE)
    if race.loop:
        yield from _judge_loop(race.name, rows, race.loop == "torch")


def ratios_of_rule(name: str, raced: Collection[str]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yield the bar of a rule that has none of its own, on large arrays."""
    rule = name.removesuffix("-32M")
    if rule == name or rule not in RULES or any(name == race for race, _, _ in RATIOS):
        return
    if not set(raced) & set(TORCH):
        yield name, OPTAX, OPTAX_ALONE
    elif not set(raced) & set(TORCH_FUSED):
        yield name, TORCH, UNFUSED


def _judge_rows(results: Results) -> Iterator[Verdict]:
    raced = {race.name: race.fastopt for race in results.races if race.name in ROW_RACES and race.fastopt.raced}
    if ROW_RACES[0] in raced:
        smallest = raced.pop(ROW_RACES[0]).median()
        for name, row in raced.items():
            yield _at_most(name, FASTOPT, f"step / {ROW_RACES[0]}'s", row.median() / smallest, ROW_GROWTH, 1, "x")


def _judge_loop(name: str, rows: dict[str, Row], of_torch: bool) -> Iterator[Verdict]:
    fastopt = rows[FASTOPT]
    fixed = [rows[n] for n in ("fastopt-1", "fastopt-all") if n in rows]
    if fixed:
        alone = [row.per_round(ALONE) for row in fixed]
        best = {i: min(rounds[i] for rounds in alone if i in rounds) for i in alone[0]}
        inside = fastopt.per_round()
        share = median(inside[i] / best[i] for i in inside.keys() & best.keys())
        yield _at_most(name, FASTOPT, "median inside / best alone", share, LOOP_MEDIAN, 1, "x")
        tail = fastopt.percentile(90) / median(best.values())
        yield _at_most(name, FASTOPT, "90th percentile inside / best alone", tail, LOOP_PERCENTILE_90, 1, "x")
        # Of all rounds: the better number of threads is one choice for the whole run.
        mean = fastopt.mean() / min(row.mean() for row in fixed)
        yield _at_most(name, FASTOPT, "mean inside / best inside", mean, LOOP_MEAN, 1, "x")
    if "numpy" in rows:
        yield _at_least(name, "numpy", "NumPy / fastopt, inside", ratio(rows["numpy"], fastopt), LOOP_NUMPY)
    if of_torch and (torch := rows.get("torch-shared")):
        for what, label, bar in ((STEP, "means inside", LOOP_TORCH), (ITERATION, "iterations", LOOP_ITERATION)):
            share = ratio(torch, fastopt, what, fmean)
            yield _at_least(name, torch.name, f"torch fused / fastopt, {label}", share, bar)


def _at_least(race: str, row: str, what: str, value: float, bar: float) -> Verdict:
    return Verdict(race, row, what, f"≥ {bar:g}x", f"{value:.3g}x", value >= bar)


def _at_most(race: str, row: str, what: str, value: float, bar: float, scale: float, unit: str) -> Verdict:
    return Verdict(race, row, what, f"≤ {bar * scale:g}{unit}", f"{value * scale:.3g}{unit}", value <= bar)
