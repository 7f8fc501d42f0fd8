"""The bits of parameter and state after 100 steps, as a hash: equal wherever and however the steps are made.

    python tests/hashes.py             the hash of every rule, dtype and set of stages, by this build of the package
    python tests/hashes.py --jobs      the same as jobs for the program hashes.c, which prints the same hashes

The data are made of integers and powers of two, so that no rounding and no library has a say in them.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from support.arrays import DTYPES
from support.cases import RULES, Case, Oracle
from support.reference import state_names

N = 40_009  # three chunks of the engine
FEW = 2003  # for programs that are slow
STEPS, GRADIENTS = 100, 10
ROWS = 7  # of a matrix
STAGES: dict[str, dict[str, Any]] = {"plain": {}, "stages": {"weight_decay": 0.01, "maximize": True}}

U = np.uint64


def mix(z: Any) -> Any:
    """Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014."""
    z = z + U(0x9E3779B97F4A7C15)
    z = (z ^ z >> U(30)) * U(0xBF58476D1CE4E5B9)
    z = (z ^ z >> U(27)) * U(0x94D049BB133111EB)
    return z ^ z >> U(31)


@cache
def numbers(stream: int, n: int, dtype: type) -> np.ndarray:
    """24 bits of mantissa at one of 24 scales; of 16 elements one with a square below the smallest, one subnormal."""
    i = np.arange(n)
    z = mix(U(stream << 32) | i.astype(U))
    mantissa = (z >> U(40)).astype(np.int64) - (1 << 23)
    scale = -23 - ((z >> U(8)) % U(24)).astype(np.int64)
    single = dtype is np.float32
    scale = np.where(i % 16 == 3, scale - (60 if single else 480), scale)
    scale = np.where(i % 16 == 7, -149 if single else -1074, scale)
    values = np.ldexp(mantissa, scale).astype(dtype)
    values.flags.writeable = False
    return values


def parameter(case: Case, n: int, dtype: type) -> np.ndarray:
    """n elements, or hardly fewer as a matrix, for a rule of matrices."""
    p = numbers(0, n, dtype).copy()
    return p[: n // ROWS * ROWS].reshape(ROWS, -1) if of_matrices(case) else p


def gradient(t: int, n: int, dtype: type) -> np.ndarray:
    return numbers(1 + t % GRADIENTS, n, dtype)


def gradient_of(p: np.ndarray, t: int) -> np.ndarray:
    return gradient(t, p.size, p.dtype.type).reshape(p.shape)


def digest(buffers: Iterable[np.ndarray]) -> str:
    """The hash of a parameter and its state: a sum over all elements, of the bits of each mixed with its place."""
    total = 0
    for place, buffer in enumerate(buffers):
        words = np.ascontiguousarray(buffer).reshape(-1).view(f"u{buffer.itemsize}").astype(U)
        total += int(mix(words ^ mix(U(place << 40) | np.arange(words.size, dtype=U))).sum())
    return f"{total % 2**64:016x}"


def by_package(case: Case, dtype: type, n: int = N, **options: Any) -> str:
    p = parameter(case, n, dtype)
    opt = case.make(p, **options)
    for t in range(1, STEPS + 1):
        opt.step(gradient_of(p, t))
    return digest([p, *opt.state[0].values()])


def by_oracle(case: Case, dtype: type, n: int) -> str:
    oracle = Oracle(case, parameter(case, n, dtype))
    for t in range(1, STEPS + 1):
        oracle.step(gradient_of(oracle.p, t))
    return digest([oracle.p, *map(np.asarray, oracle.state.values())])


def with_stages(case: Case, stages: str) -> Case:
    return Case(f"{case.name}-{stages}", case.cls, case.rule, {**case.kwargs, **STAGES[stages]})


@cache
def vectors() -> tuple[tuple[Case, type], ...]:
    """Every rule with and without stages, in every dtype, for arrays of one axis."""
    return tuple((with_stages(case, stages), dtype) for case in RULES for stages in STAGES for dtype in DTYPES)


def of_matrices(case: Case) -> bool:
    return case.name.startswith("matrices-")


@cache
def everything() -> tuple[tuple[Case, type], ...]:
    """The same, and the rules that have another form for matrices in that form too."""
    found = []
    for case, dtype in vectors():
        found.append((case, dtype))
        if case.rule.endswith("_vector"):
            matrices = Case(f"matrices-{case.name}", case.cls, case.rule.removesuffix("_vector"), case.kwargs)
            found.append((matrices, dtype))
    return tuple(found)


def job(case: Case, dtype: type, n: int, threads: int) -> str:
    """The same as a line for hashes.c."""
    options = case.options()
    start = [case.start(np.zeros(0)).get(letter, 0.0) for letter in state_names(case.rule)]
    decays = [options.get(name, 0.0) for name in ("weight_decay", "decoupled_decay")]
    rows = ROWS if of_matrices(case) else 0
    words = [case.rule, np.dtype(dtype).itemsize * 8, n, rows, threads, *decays, int(options["maximize"])]
    return " ".join(map(str, [*words, *start, *case.hyper().values()]))


@cache
def expected(case: Case, dtype: type, *n: int) -> str:
    """One array, one thread, memory as NumPy gives it."""
    return by_package(case, dtype, *n, num_threads=1)


def all_expected(*n: int) -> list[str]:
    return [expected(case, dtype, *n) for case, dtype in everything()]


def all_by_program(*command: str, n: int, threads: int = 1) -> list[str]:
    """The hashes of everything, by a program that was made of hashes.c."""
    jobs = "".join(job(case, dtype, n, threads) + "\n" for case, dtype in everything())
    return subprocess.run(command, input=jobs, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", action="store_true", help="print the jobs for hashes.c instead")
    parser.add_argument("--size", type=int, default=N, help="elements")
    parser.add_argument("--threads", type=int, help="threads; by default the package chooses")
    options = parser.parse_args()
    for case, dtype in everything():
        if options.jobs:
            print(job(case, dtype, options.size, options.threads or 1))
        else:
            print(by_package(case, dtype, options.size, num_threads=options.threads), case.name, dtype.__name__)


if __name__ == "__main__":
    main()
