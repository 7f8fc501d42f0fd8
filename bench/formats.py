"""Accuracy of the storage formats: ``python -m bench.formats [--seeds N] [--steps N] [--picture FILE] [--json FILE]``.

Three measurements, printed as Markdown. Trainings: final losses of six rules on tasks of ``python -m fastopt compare``,
in each format, from the same starts and minibatches. Ten decades: Adam on gradients whose squares span ten decades,
across the elements of a parameter or over the steps. Small steps: Adam at a rate of 1e-6 of the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.cli.compare.report import number, save
from fastopt.cli.compare.sweep import SWEEP_SEEDS, begin, find_rules
from fastopt.cli.compare.tasks import task
from fastopt.threads import usable_cpus

from .peers.results import describe_machine, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
BFLOAT16 = ml_dtypes.bfloat16


@dataclass(frozen=True)
class Format:
    """How parameters and state are stored; gradients have the dtype of the parameters."""

    options: dict[str, Any] = field(default_factory=dict)
    dtype: Any = np.float32


def of_16_bits(master: str | None, **options: Any) -> Format:
    """Return the format of bfloat16 parameters with this master."""
    return Format({"master": master, **options}, BFLOAT16)


EXACT = "float32"
FORMATS = {
    EXACT: Format(),
    "bf16 state": Format({"state_dtype": "bfloat16"}),
    "8-bit state": Format({"state_dtype": "8bit"}),
    "split16": of_16_bits("split16"),
    "split8, 8-bit state": of_16_bits("split8", state_dtype="8bit"),
    "pure bf16, stochastic": of_16_bits(None, state_dtype="bfloat16"),
    "pure bf16, nearest": of_16_bits(None, state_dtype="bfloat16", rounding="nearest"),
}

# Constant learning rates, the best of the tables of docs/choosing.md.
RATES = {
    "adamw": {"digits": 0.03, "cancer": 0.03, "text": 0.01, "words": 0.03},
    "adam": {"digits": 0.03, "cancer": 0.03, "text": 0.01, "words": 0.03},
    "momentum": {"digits": 0.1, "cancer": 0.1, "text": 0.1, "words": 1.0},
    "lion": {"digits": 0.003, "cancer": 0.003, "text": 0.003, "words": 0.01},
    "adagrad": {"digits": 0.1, "cancer": 0.3, "text": 0.1, "words": 1.0},
    "lamb": {"digits": 0.01, "cancer": 0.01, "text": 0.01, "words": 0.01},
}
TASKS = tuple(RATES["adam"])
SEEDS, STEPS = 8, 20_000
POINTS = 50  # of a curve

Losses = dict[tuple[str, str, str], list[float]]  # of each seed, by task, rule and format


# ---- Trainings ----


def train(most: int, job: tuple[str, str, str, int]) -> float:
    """Return the final loss above the least of a training of at most so many steps."""
    name, rule, stored, seed = job
    chosen, form = task(name), FORMATS[stored]
    params = {key: value.astype(form.dtype) for key, value in chosen.start(np.random.default_rng([seed, 0])).items()}
    how = find_rules()[rule]
    opt = replace(how, options=how.options | form.options | {"seed": seed}).make(params, RATES[rule][name])
    for batch in chosen.batches(min(most, chosen.steps), np.random.default_rng([seed, 1])):
        _, grads = chosen.gradient(values(params), batch)
        opt.step({key: grad.astype(form.dtype) for key, grad in grads.items()})
    return chosen.loss(values(params), chosen.train) - chosen.least


def values(params: dict[str, Array]) -> dict[str, Array]:
    """Return parameters in float32, for the forward pass."""
    return {key: value.astype(np.float32) for key, value in params.items()}


def trainings(tasks: Iterable[str], seeds: int, most: int, each: Callable[..., Iterable[float]] = map) -> Losses:
    """Train everything, by a `map`, with other seeds than those that chose the learning rates."""
    cells = list(product(tasks, RATES, FORMATS))
    found = list(each(partial(train, most), [(*cell, SWEEP_SEEDS + seed) for cell in cells for seed in range(seeds)]))
    return {cell: found[i * seeds : (i + 1) * seeds] for i, cell in enumerate(cells)}


def distance(losses: Losses, cell: tuple[str, str, str]) -> float:
    """Return how far a mean loss is from float32's, in standard deviations of float32's seeds."""
    exact = losses[(*cell[:2], EXACT)]
    difference = statistics.fmean(losses[cell]) - statistics.fmean(exact)
    return difference / statistics.stdev(exact) if difference else 0.0


def tables_of_losses(losses: Losses) -> Iterator[str]:
    """Yield a table for each task: mean and standard deviation over seeds; bold where the mean is outside."""
    for name in dict.fromkeys(name for name, _, _ in losses):
        yield f"| {name} | " + " | ".join(RATES) + " |"
        yield "|---" * (len(RATES) + 1) + "|"
        for stored in FORMATS:
            cells = []
            for rule in RATES:
                cell = name, rule, stored
                text = f"{number(statistics.fmean(losses[cell]))} ± {statistics.stdev(losses[cell]):.1g}"
                cells.append(f"**{text}**" if abs(distance(losses, cell)) > 1 else text)
            yield f"| {stored} | " + " | ".join(cells) + " |"
        yield ""


# ---- Ten decades ----

N = 4096
DECADES = {
    "sorted": "scales of gradients from 1 to 1e-5 in the order of the elements",
    "mixed": "the same scales in random order: each group of 64 has all of them",
    "in time": "one scale, which falls from 1 to 1e-5 over the steps",
}
OF_STATE = {
    EXACT: Format(),
    "bf16, stochastic": Format({"state_dtype": "bfloat16"}),
    "bf16, nearest": Format({"state_dtype": "bfloat16", "rounding": "nearest"}),
    "8-bit, stochastic": Format({"state_dtype": "8bit"}),
    "8-bit, nearest": Format({"state_dtype": "8bit", "rounding": "nearest"}),
    "m bf16, v 8-bit": Format({"state_dtype": {"m": "bfloat16", "v": "8bit"}}),
}


def optimizers(
    formats: dict[str, Format], start: Array, rate: Any, **options: Any
) -> dict[str, tuple[Array, fastopt.Adam]]:
    """Return, for each format, a parameter and its optimizer."""
    params = {name: start.astype(form.dtype) for name, form in formats.items()}
    return {
        name: (p, fastopt.Adam(p, lr=rate, num_threads=1, **options, **formats[name].options))
        for name, p in params.items()
    }


def root_mean_square(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def ten_decades(kind: str, steps: int) -> dict[str, dict[str, list[float]]]:
    """Minimise sum(scale * (w - target)^2 / 2) from noisy gradients; return curves.

    "error" is the root mean square of w - target. "v" is the median of v / (v in float32). "v, 99 %" is a factor:
    99 % of the elements of v are wrong by less.
    """
    rng = np.random.default_rng(0)
    scales = np.geomspace(1, 1e-5, N).astype(np.float32)
    if kind == "mixed":
        rng.shuffle(scales)
    target = rng.standard_normal(N, np.float32)
    contenders = optimizers(OF_STATE, np.zeros(N), fastopt.schedules.linear(0.01, 0.0, steps), eps=1e-12)
    marked = marks(steps)
    found: dict[str, dict[str, list[float]]] = {name: {"error": [], "v": [], "v, 99 %": []} for name in contenders}
    for t in range(1, steps + 1):
        noise = rng.standard_normal(N, np.float32)
        scale = np.float32(10 ** (-5 * t / steps)) if kind == "in time" else scales
        for p, opt in contenders.values():
            opt.step(scale * (p - target + noise))
        if t in marked:
            exact = np.asarray(contenders[EXACT][1].state[0]["v"])
            for name, (p, opt) in contenders.items():
                ratio = np.asarray(opt.state[0]["v"]) / exact
                found[name]["error"].append(root_mean_square(p - target))
                found[name]["v"].append(float(np.median(ratio)))
                found[name]["v, 99 %"].append(float(np.exp(np.quantile(abs(np.log(ratio)), 0.99))))
    return found


def marks(steps: int) -> list[int]:
    """Return the steps at which curves have a point."""
    return sorted({math.ceil(steps * i / POINTS) for i in range(1, POINTS + 1)})


def table_of_decades(found: dict[str, dict[str, dict[str, list[float]]]]) -> Iterator[str]:
    """Yield a table: the error of the parameter, and v against float32's, at the end."""
    yield "| state | " + " | ".join(f"{kind}: error | v | v, 99 %" for kind in found) + " |"
    yield "|---" * (3 * len(found) + 1) + "|"
    for name in OF_STATE:
        cells = [number(curve[-1]) for of_kind in found.values() for curve in of_kind[name].values()]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


# ---- Small steps ----

RATE = 1e-6  # of weights of 1 to 2
AWAY = 0.75  # of the way that so many steps of this rate can go
OF_PARAMETERS = {
    EXACT: Format(),
    "split16": of_16_bits("split16"),
    "float32 master": of_16_bits("float32"),
    "split8, stochastic": of_16_bits("split8"),
    "split8, nearest": of_16_bits("split8", rounding="nearest"),
    "pure bf16, stochastic": of_16_bits(None),
    "pure bf16, nearest": of_16_bits(None, rounding="nearest"),
}


def small_steps(steps: int) -> dict[str, list[float]]:
    """Go a short way at a small rate; return the share of the way that the mean of the elements has gone, by steps."""
    rng = np.random.default_rng(0)
    start = rng.uniform(1, 2, N).astype(BFLOAT16).astype(np.float32)
    way = np.float32(AWAY * RATE * steps)
    target = start + way
    contenders = optimizers(OF_PARAMETERS, start, RATE)
    marked = marks(steps)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for t in range(1, steps + 1):
        noise = 0.1 * way * rng.standard_normal(N, np.float32)
        for p, opt in contenders.values():
            opt.step((p.astype(np.float32) - target + noise).astype(p.dtype))
        if t in marked:
            for name, (p, _) in contenders.items():
                found[name].append(float(np.mean(p.astype(np.float64) - start) / way))
    return found


# ---- Bytes ----


def table_of_bytes() -> Iterator[str]:
    """Yield a table: the bytes of a parameter and its state, and with its gradient, for each rule and format."""
    rules = {rule: find_rules()[rule] for rule in ("adamw", "momentum", "lion", "adagrad")}
    yield "| bytes per parameter, with gradient | " + " | ".join(rules) + " |"
    yield "|---" * (len(rules) + 1) + "|"
    for name, form in FORMATS.items():
        if form.options.get("rounding"):
            continue
        cells = []
        for how in rules.values():
            p = np.zeros(1 << 16, form.dtype)
            opt = replace(how, options=how.options | form.options).make([p], 0.1)
            cells.append(f"{(opt.nbytes + p.nbytes) / p.size:.4g}")
        yield f"| {name.removesuffix(', stochastic')} | " + " | ".join(cells) + " |"
    yield ""


# ---- The picture ----

COLOURS = ("black", "#1f5fb4", "#d1262c", "#2c8a4b", "#7d3cae", "#f07f3c", "#27a5c9")


def draw(results: dict[str, Any], losses: Losses, file: Path) -> None:
    """Draw the distances of losses from float32's, v over the steps in which it falls, and the way of small steps."""
    import matplotlib
    from matplotlib.figure import Figure

    from fastopt.cli.pictures import STYLE, write_title

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(17, 5.6), dpi=110, layout="constrained")
        distances, decades, steps = figure.subplots(1, 3)
        draw_distances(distances, losses)
        n = results["steps"]
        draw_curves(decades, n, {name: curves["v"] for name, curves in results["decades"]["in time"].items()})
        decades.set(yscale="log", xlabel="step", ylabel="v / v of float32, median")
        draw_curves(steps, n, results["small steps"])
        steps.set(xlabel="step", ylabel="share of the way")
        for axes, title, note in (
            (distances, "Final losses", f"a point per rule and task, means of {results['seeds']} seeds"),
            (decades, "v falls by ten decades", f"Adam, {n:,} steps; the others lie behind float32"),
            (steps, "Steps of 1e-6 of the weights", f"mean of the parameters as stored, Adam, {n:,} steps"),
        ):
            write_title(axes, title, note, 13)
        save(figure, file)


def draw_distances(axes: Axes, losses: Losses) -> None:
    """Draw a point for each rule and task, by format."""
    names = [name for name in FORMATS if name != EXACT]
    for y, (name, colour) in enumerate(zip(names, COLOURS[1:], strict=True)):
        found = [distance(losses, cell) for cell in losses if cell[2] == name]
        axes.plot(found, y + np.linspace(-0.25, 0.25, len(found)), "o", ms=5, color=colour, alpha=0.8)
    axes.axvspan(-1, 1, color="#e8efe8", zorder=0)
    axes.set(
        yticks=range(len(names)), yticklabels=names, xlabel="(loss - float32's) / standard deviation of float32's seeds"
    )
    axes.invert_yaxis()


def draw_curves(axes: Axes, steps: int, curves: dict[str, list[float]]) -> None:
    """Draw a curve for each format, float32 in front; gaps of dashes show another nearest one behind."""
    for i, ((name, curve), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        line = (3 * i, (6, 6)) if name.endswith("nearest") else "-"
        axes.plot(marks(steps), curve, color=colour, lw=2.2, ls=line, label=name, zorder=9 - i)
    axes.set_xlim(0, steps)
    axes.legend(frameon=False)


# ---- The command ----


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.formats", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"of a training (default: {SEEDS})")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        metavar="N",
        help=f"of the long runs, the most of a training (default: {STEPS})",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    options = parser.parse_args(arguments)
    for name, least in (("seeds", 2), ("steps", POINTS)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(options, name)}")
    with ProcessPoolExecutor(usable_cpus(), get_context("spawn"), begin) as pool:
        decades = {kind: pool.submit(ten_decades, kind, options.steps) for kind in DECADES}
        steps = pool.submit(small_steps, options.steps)
        losses = trainings(TASKS, options.seeds, options.steps, pool.map)
        results = {
            "seeds": options.seeds,
            "steps": options.steps,
            "losses": [[*cell, of_seeds] for cell, of_seeds in losses.items()],
            "decades": {kind: run.result() for kind, run in decades.items()},
            "small steps": steps.result(),
        }
    print("\n".join([*table_of_bytes(), *tables_of_losses(losses), *table_of_decades(results["decades"])]))
    print("| small steps | share of the way |\n|---|---|")
    for name, curve in results["small steps"].items():
        print(f"| {name} | {curve[-1]:.3f} |")
    if options.json:
        options.json.write_text(json.dumps(rounded({"machine": describe_machine(1), **results}), indent=1) + "\n")
    if options.picture:
        draw(results, losses, options.picture)


if __name__ == "__main__":
    main()
