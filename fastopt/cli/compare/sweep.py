"""The sweep: every rule at every learning rate, in processes of one thread each, and then fresh seeds at the best one.

A learning rate is chosen by seeds of its own, and the numbers that are reported come from other seeds, so that the rule
with the luckiest run is not taken for the best one.
"""

from __future__ import annotations

import inspect
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

import fastopt
from fastopt import catalogue, schedules

from .tasks import task

__all__ = ["RATES", "SCHEDULES", "SWEEP_SEEDS", "Job", "Result", "Rule", "Run", "compare", "find_rules", "train"]

RATES = [float(f"{10 ** (k / 2):.3g}") for k in range(-12, 5)]  # 1e-6 to 100, two in a decade
SWEEP_SEEDS = 2  # the seeds that choose the learning rate
POINTS = 40  # of a loss curve
HOPELESS = 1e6  # times the first loss: where a training is given up

# name: (learning rate, steps) -> the lr of the optimizer
SCHEDULES: dict[str, Callable[[float, int], float | Callable[[int], float]]] = {
    "constant": lambda lr, steps: lr,
    "linear": lambda lr, steps: schedules.linear(lr, 0.0, steps),
    "cosine": lambda lr, steps: schedules.cosine(lr, steps),
    "warmup-cosine": lambda lr, steps: schedules.warmup(schedules.cosine(lr, steps - tenth(steps)), tenth(steps)),
    "warmup-stable-decay": lambda lr, steps: schedules.warmup_stable_decay(
        lr, tenth(steps), steps - 3 * tenth(steps), 2 * tenth(steps)
    ),
    "one-cycle": lambda lr, steps: schedules.one_cycle(lr, steps),
}


def tenth(steps: int) -> int:
    """Return a tenth of the steps, at least one."""
    return max(1, steps // 10)


# Classes of which all rules are compared; of other classes, only the rule of their defaults.
ALL_VARIANTS = ("SGD", "Adam")


# The learning rate of AdamW for the arrays that a rule for matrices alone does not take.
REST_RATE = 0.01


@dataclass(frozen=True)
class Rule:
    """A class of fastopt with options."""

    optimizer: str
    options: dict[str, Any] = field(default_factory=dict)
    matrices_only: bool = False  # it steps the hidden matrices, and AdamW all other arrays

    def make(self, params: Any, lr: float | Callable[[int], float], **options: Any) -> Any:
        """Return the optimizer, on one thread."""
        cls = getattr(fastopt, self.optimizer)
        if not self.matrices_only:
            return cls(params, lr=lr, num_threads=1, **self.options, **options)
        hidden = hidden_matrices(params)
        rest = {name: p for name, p in params.items() if name not in hidden}
        optimizers = [cls({name: params[name] for name in hidden}, lr=lr, **self.options, **options)]
        return fastopt.Combined([*optimizers, fastopt.AdamW(rest, lr=REST_RATE)], num_threads=1)

    @property
    def default(self) -> float:
        """The learning rate that the class has by default."""
        return float(inspect.signature(getattr(fastopt, self.optimizer)).parameters["lr"].default)

    def suits(self, name: str) -> bool:
        """Return whether the rule can train a task: the task has arrays for it, and it takes their gradients."""
        chosen = task(name)
        if self.matrices_only:
            return bool(hidden_matrices(chosen.start(np.random.default_rng(0))))
        return not chosen.rows or self.takes_rows()

    def takes_rows(self) -> bool:
        """Return whether a step takes a RowGrad; rules that need all of a gradient do not."""
        table = np.zeros((2, 2))
        try:
            self.make(table, 0.1).step(fastopt.RowGrad([0], np.ones((1, 2))))
        except ValueError:
            return False
        return True


def takes_vectors(cls: type[fastopt.Optimizer]) -> bool:
    """Return whether a class takes arrays of any shape, not matrices alone."""
    try:
        cls(np.zeros(1))
    except ValueError:
        return False
    return True


def hidden_matrices(params: Mapping[str, Any]) -> list[str]:
    """Return the names of the matrices between layers: neither an embedding nor the last layer's weights."""
    return [name for name, p in params.items() if p.ndim == 2 and name != "embedding"][:-1]


@cache
def find_rules() -> dict[str, Rule]:
    """Return every rule of the package that needs nothing but parameters, by name."""
    rules = {}
    for name, cls in catalogue.classes().items():
        parameters = list(inspect.signature(cls).parameters.values())
        if any(p.default is p.empty for p in parameters[1:]) or "lr" not in {p.name for p in parameters}:
            continue
        for rule in list(catalogue.variants(name).values())[: None if name in ALL_VARIANTS else 1]:
            rules[rule.name] = Rule(name, dict(rule.options), matrices_only=not takes_vectors(cls))
    # As in the lecture: SGD and its momenta first, then all others in alphabetical order.
    first = list(catalogue.variants("SGD"))
    return {label: rules[label] for label in [*first, *sorted(rules.keys() - first)]}


@dataclass(frozen=True)
class Job:
    """One training."""

    task: str
    rule: str
    schedule: str
    rate: float
    seed: int
    steps: int
    points: int = 1  # of the loss curve, after the start; at most one per step
    options: tuple[tuple[str, Any], ...] = ()  # of the rule, besides its own


@dataclass(frozen=True)
class Run:
    """The result of a training; infinity if it diverged."""

    curve: list[float]  # the loss on the training data, before the first step and then at equal distances
    held_out: float

    @property
    def loss(self) -> float:
        """The loss on the training data at the end."""
        return self.curve[-1]


@dataclass
class Result:
    """The results of one rule on one task with one schedule."""

    steps: int
    sweep_start: float  # the loss before the first step, with the seeds of the sweep
    sweep: dict[float, float]  # the mean of the final losses by learning rate
    best: float
    runs: list[Run]  # with fresh seeds, at the best learning rate
    default: float
    default_runs: list[Run]  # with the same seeds, at the rule's default learning rate


def train(job: Job) -> Run:
    """Train, and return the losses."""
    chosen = task(job.task)
    params = chosen.start(np.random.default_rng([job.seed, 0]))
    rate = SCHEDULES[job.schedule](job.rate, job.steps)
    optimizer = find_rules()[job.rule].make(params, rate, **dict(job.options))
    recorded = {round(job.steps * i / job.points) for i in range(1, job.points + 1)}
    curve = [chosen.loss(params, chosen.train)]
    with np.errstate(all="ignore"):
        for t, batch in enumerate(chosen.batches(job.steps, np.random.default_rng([job.seed, 1]))):
            loss, grads = chosen.gradient(params, batch)
            if not loss < HOPELESS * curve[0]:
                break
            optimizer.step(grads)
            if t + 1 in recorded:
                with averaged(optimizer):
                    curve.append(finite(chosen.loss(params, chosen.train)))
        with averaged(optimizer):
            held_out = finite(chosen.loss(params, chosen.held_out))
    if len(curve) <= job.points:
        return Run(curve + [math.inf] * (job.points + 1 - len(curve)), math.inf)
    return Run(curve, held_out)


def averaged(optimizer: Any) -> Any:
    """Return the context in which the parameters hold their average, if the rule keeps one."""
    averages = optimizer.averages
    return optimizer.swapped(averages[0]) if averages else nullcontext()


def finite(loss: float) -> float:
    """Return a loss, or infinity in place of NaN."""
    return loss if math.isfinite(loss) else math.inf


def begin() -> None:
    """Prepare a process: one thread for matrix products, and interrupts are left to the parent."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)


def compare(
    tasks: Iterable[str],
    rules: Mapping[str, Rule],
    scheduled: Iterable[str],
    rates: list[float],
    seeds: int,
    *,
    shorter: int = 1,
    processes: int = 1,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> dict[tuple[str, str, str], Result]:
    """Train everything.

    Parameters
    ----------
    tasks, rules, scheduled
        The combinations to train.
    rates : list of float
        The learning rates to try.
    seeds : int
        Fresh seeds at the best learning rate.
    shorter : int
        The divisor of the number of steps.
    processes : int
        How many trainings run at a time.
    options : mapping
        Options of every rule, besides its own.
    progress : callable
        Called with the name of the task, the number of trainings done, and the number of all.

    Returns
    -------
    dict
        The result of each (task, schedule, rule), without rules that cannot train a task.
    """
    combinations = [
        (name, schedule, label)
        for name in tasks
        for schedule in scheduled
        for label, rule in rules.items()
        if rule.suits(name)
    ]
    total = len(combinations) * (len(rates) * SWEEP_SEEDS + 2 * seeds)
    done = 0
    runs: dict[Job, Run] = {}

    def steps(name: str) -> int:
        return max(1, task(name).steps // shorter)

    def job(name: str, schedule: str, rule: str, rate: float, seed: int, points: int) -> Job:
        count = steps(name)
        return Job(name, rule, schedule, rate, seed, count, min(points, count), tuple(options.items()))

    fresh = range(SWEEP_SEEDS, SWEEP_SEEDS + seeds)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin)
    try:

        def run_all(jobs: list[Job]) -> None:
            nonlocal done
            for each, run in zip(jobs, pool.map(train, jobs, chunksize=4), strict=True):
                runs[each] = run
                done += 1
                progress(each.task, done, total)

        run_all([job(*c, rate, seed, 1) for c in combinations for rate in rates for seed in range(SWEEP_SEEDS)])
        sweeps = {
            c: {rate: mean(runs[job(*c, rate, seed, 1)].loss for seed in range(SWEEP_SEEDS)) for rate in rates}
            for c in combinations
        }
        best = {c: min(rates, key=sweep.__getitem__) for c, sweep in sweeps.items()}
        run_all([job(*c, best[c], seed, POINTS) for c in combinations for seed in fresh])
        run_all([job(*c, rules[c[2]].default, seed, 1) for c in combinations for seed in fresh])
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    return {
        c: Result(
            steps(c[0]),
            mean(runs[job(*c, best[c], seed, 1)].curve[0] for seed in range(SWEEP_SEEDS)),
            sweeps[c],
            best[c],
            [runs[job(*c, best[c], seed, POINTS)] for seed in fresh],
            rules[c[2]].default,
            [runs[job(*c, rules[c[2]].default, seed, 1)] for seed in fresh],
        )
        for c in combinations
    }


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean, infinity if any value is."""
    values = list(values)
    return sum(values) / len(values)
