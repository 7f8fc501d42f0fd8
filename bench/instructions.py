"""Instructions per element, array and call, compared with checked-in figures: ``python -m bench.instructions``.

Times depend on the machine and on what else it does; instruction counts do not. valgrind's callgrind counts them on one
thread, by instruction set AVX2 (it has no AVX-512). Figures per element and per array are slopes between two sizes, so
that what a call costs once drops out. They depend on the compiler, and what Python adds on the interpreter, so each has
figures of its own in instructions.json; ``--update`` writes those measured now, where they are new or have moved.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fastopt

FILE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03  # by which a figure may grow

DTYPES = (np.float32, np.float64)
ELEMENTS = (32_768, 65_536)
COLUMNS = 1024
USUAL = (0.5, 1.5, -0.5)  # values of hyperparameters: the first that is in the range
ARRAYS = (10, 110)
CALLS = (50, 150)
WARM = 20  # calls after which the interpreter has specialised the code
ELEMENT, ARRAY, CORE, CALL = "per element", "per array", "per array, C core alone", "per call"

Block = tuple[str, str, int, Callable[[], Any], int]  # unit, row, size of which the figure is a slope, call, how often


# ---- The calls to count, in a process under callgrind ----


def in_range(name: str, value: float) -> bool:
    """Return whether a hyperparameter may have a value."""
    try:
        fastopt._core.check_range(name, name, value)
    except ValueError:
        return False
    return True


def rule_blocks() -> Iterator[Block]:
    """Every row of rules.def."""
    for (rule, _, hyper, carry), dtype in itertools.product(fastopt._core.rules(), DTYPES):
        usual = {name: next(value for value in USUAL if in_range(name, value)) for name in hyper}
        keywords = {"step": 3, "num_threads": 1, **usual}
        settings = fastopt._core.Settings(rule)
        for n in ELEMENTS:
            p = np.ones((n // COLUMNS, COLUMNS), dtype)
            buffers = [p, np.ones_like(p), *(np.ones(shape, dtype) for shape in settings.shapes(p))]
            buffers += [np.ones(1) for _ in carry]
            kernel = getattr(fastopt.kernels, rule)
            yield ELEMENT, f"{rule} {dtype.__name__}", n, partial(kernel, *buffers, **keywords), 1


def stage_blocks() -> Iterator[Block]:
    """Options and layouts around a rule."""
    stages: dict[str, tuple[dict[str, Any], Callable[[int, Any], Any], Callable[[int, Any], Any]]] = {
        "weight decay": ({"weight_decay": 0.1}, np.ones, np.ones),
        "maximize": ({"maximize": True}, np.ones, np.ones),
        "check of the gradient": ({"nonfinite": "skip"}, np.ones, np.ones),
        "every second element": ({}, lambda n, dtype: np.ones(2 * n, dtype)[::2], np.ones),
        "gradient backwards": ({}, np.ones, lambda n, dtype: np.ones(n, dtype)[::-1]),
    }
    for (name, (options, parameter, gradient)), dtype in itertools.product(stages.items(), DTYPES):
        for n in ELEMENTS:
            opt, g = fastopt.Adam(parameter(n, dtype), num_threads=1, **options), gradient(n, dtype)
            yield ELEMENT, f"adam, {name} {dtype.__name__}", n, partial(opt.step, g), 1
    for dtype in DTYPES:
        for n in ELEMENTS:
            opt, g = fastopt.AdamW(np.ones(n, dtype), num_threads=1), np.ones(n, dtype)
            yield ELEMENT, f"adam, decoupled decay {dtype.__name__}", n, partial(opt.step, g), 1


def array_blocks() -> Iterator[Block]:
    """A step on many arrays of one element."""
    for count in ARRAYS:
        names = [f"p{i}" for i in range(count)]
        grads = [np.ones(1, np.float32) for _ in names]

        def params(n: int = count) -> list[Any]:
            return [np.ones(1, np.float32) for _ in range(n)]

        sgd, adam = fastopt.SGD(params()), fastopt.Adam(params())
        yield ARRAY, "SGD, list", count, partial(sgd.step, grads), 1
        yield ARRAY, "Adam, list", count, partial(adam.step, grads), 1
        mapped = fastopt.Adam(dict(zip(names, params(), strict=True)))
        gradients: dict[str | int, Any] = dict(zip(names, grads, strict=True))
        yield ARRAY, "Adam, mapping", count, partial(mapped.step, gradients), 1
        bound = fastopt.Adam(params())
        bound.bind(grads)
        yield ARRAY, "Adam, bound", count, bound.step, 1
        # All in one piece of memory: how many pieces there are to stay clear of would count too.
        square = list(np.ones((count, 2, 2), np.float32).transpose(0, 2, 1))
        strided, plain = fastopt.Adam(square), list(np.ones((count, 2, 2), np.float32))
        yield ARRAY, "Adam, 2 x 2 transposed", count, partial(strided.step, plain), 1


def call_blocks() -> Iterator[Block]:
    """The whole call, with the loop around it, for one array of one element."""
    p, g, m, v = (np.ones(1, np.float32) for _ in range(4))
    kernel = fastopt.kernels.adam
    one, listed, bound = fastopt.Adam(p.copy()), fastopt.Adam([p.copy()]), fastopt.Adam(p.copy())
    bound.bind(g)
    for calls in CALLS:
        yield CALL, "Adam.step(g)", calls, lambda: one.step(g), calls
        yield CALL, "Adam.step([g])", calls, lambda: listed.step([g]), calls
        yield CALL, "Adam.step(), bound", calls, bound.step, calls
        yield (
            CALL,
            "kernels.adam(p, g, m, v, ...)",
            calls,
            lambda: kernel(p, g, m, v, step=3, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8),
            calls,
        )


def blocks() -> Iterator[Block]:
    yield from rule_blocks()
    yield from stage_blocks()
    yield from array_blocks()
    yield from call_blocks()


MARK = "fastopt_version"  # callgrind writes what it has counted whenever this function of the C core is called


def repeat(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


def work() -> None:
    """Run every block between two marks, and say what it was."""
    gc.disable()
    repeat(fastopt._core.build_info, WARM)
    for unit, row, size, call, times in blocks():
        repeat(call, WARM)
        fastopt._core.build_info()
        repeat(call, times)
        fastopt._core.build_info()
        print(json.dumps([unit, row, size]))
    print(json.dumps(fastopt._core.isa()))


# ---- Counting ----


def count(folder: Path) -> tuple[str, list[tuple[str, str, int, int, int]]]:
    """Run the blocks under callgrind: the instruction set, and for each block what it took, all and in the C core."""
    options = ["--tool=callgrind", f"--dump-before={MARK}", "--compress-strings=no", "--compress-pos=no"]
    command = ["valgrind", *options, f"--callgrind-out-file={folder / 'out'}", sys.executable, "-m", __spec__.name]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "FASTOPT_NUM_THREADS": "1"}
    run = subprocess.run([*command, "--worker"], env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"valgrind failed with exit code {run.returncode}:\n{run.stderr[-5000:]}")
    *done, isa = map(json.loads, run.stdout.splitlines())
    # A dump is of what came before a mark: in turn of what lies between blocks, and of a block.
    dumps = sorted(folder.glob("out.*"), key=lambda dump: int(dump.suffix[1:]))[-2 * len(done) :]
    if len(dumps) < 2 * len(done):
        sys.exit(f"callgrind did not see {MARK}: does the extension have symbols?")
    return isa, [(*block, *instructions(dump)) for block, dump in zip(done, dumps[1::2], strict=True)]


def instructions(dump: Path) -> tuple[int, int]:
    """All instructions in a file of callgrind, and the instructions of the C core."""
    total = core = 0
    inside = skip = False
    extension = Path(fastopt._core.__file__).name
    library = ""
    for line in dump.read_text(errors="replace").splitlines():
        if line.startswith("ob="):
            library = line[3:]
        elif line.startswith("fn="):
            name = line[3:].lower()
            inside = library.endswith(extension) and not name.startswith(("__pyx", "pyinit"))
        elif line.startswith("calls="):
            skip = True  # the next line is what the callee costs, which has its own entry
        elif line[:1].isdigit():
            if not skip:
                cost = int(line.split()[1])
                total += cost
                core += cost * inside
            skip = False
    return total, core


Figures = dict[str, dict[str, dict[str, float]]]  # key, unit, row


def figures(isa: str, counted: list[tuple[str, str, int, int, int]]) -> Figures:
    """The slopes, by the keys of compiler and interpreter."""
    compiler = " ".join(fastopt._core.build_info()[1].split(".")[0].split()[:2])
    build = f"{platform.machine()}, {isa}, {compiler}"
    major, minor, _ = platform.python_version_tuple()
    python = f"{build}, {platform.python_implementation()} {major}.{minor} ({platform.python_compiler()})"
    found: Figures = {build: {ELEMENT: {}, CORE: {}}, python: {ARRAY: {}, CALL: {}}}
    sizes: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for unit, row, size, total, core in counted:
        sizes.setdefault((unit, row), []).append((size, total, core))
    for (unit, row), [(small, total, core), (large, larger_total, larger_core)] in sizes.items():
        found[build if unit == ELEMENT else python][unit][row] = round((larger_total - total) / (large - small), 3)
        if unit == ARRAY:
            found[build][CORE][row] = round((larger_core - core) / (large - small), 3)
    return found


# ---- The comparison ----


def compare(now: Figures, known: Figures, console: Console) -> list[str]:
    """Print a table per unit; returns what has become more expensive."""
    worse = []
    for key, units in now.items():
        if key not in known:
            console.print(f"No figures for this compiler or interpreter ({key}): skipped. --update would add them.")
        for unit, rows in units.items():
            table = Table(title=f"instructions {unit}\n{key}", title_justify="left")
            table.add_column("")
            for column in ("figure", "now", "change"):
                table.add_column(column, justify="right")
            for row, value in rows.items():
                figure = known.get(key, {}).get(unit, {}).get(row)
                change = "" if figure is None else f"{value / figure - 1:+.1%}"
                style = ""
                if figure is not None and value > figure * (1 + TOLERANCE):
                    worse.append(f"{row}: {figure:g} instructions {unit}, now {value:g} ({change})")
                    style = "red"
                table.add_row(escape(row), "" if figure is None else f"{figure:g}", f"{value:g}", change, style=style)
            console.print(table)
        for unit, rows in known.get(key, {}).items():
            worse += [f"{row}: no longer counted {unit}" for row in rows if row not in units.get(unit, {})]
            worse += [f"{row}: no figure {unit}; --update adds it" for row in units.get(unit, {}) if row not in rows]
    return worse


def updated(now: Figures, known: Figures) -> Figures:
    """Return what is to be checked in: figures that have not moved, within the tolerance, stay to the digit."""

    def steady(figure: float | None, value: float) -> float:
        return value if figure is None or abs(value / figure - 1) > TOLERANCE else figure

    return known | {
        key: {
            unit: {row: steady(known.get(key, {}).get(unit, {}).get(row), value) for row, value in rows.items()}
            for unit, rows in units.items()
        }
        for key, units in now.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the figures that are new or have moved")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        now = figures(*count(Path(folder)))
    known: Figures = json.loads(FILE.read_text()) if FILE.exists() else {}
    console = Console(width=None if sys.stdout.isatty() else 100)
    worse = compare(now, known, console)
    if options.update:
        FILE.write_text(json.dumps(updated(now, known), indent=1, sort_keys=True) + "\n")
        print(f"wrote {FILE}")
        return 0
    for line in worse:
        print(line)
    if not worse:
        print(f"no more instructions than the figures, within {TOLERANCE:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
