"""The bits after 100 steps do not depend on how, where and by which build the steps are made."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
import hashes
from hashes import (
    FEW,
    GRADIENTS,
    STAGES,
    STEPS,
    N,
    all_by_program,
    all_expected,
    by_oracle,
    by_package,
    digest,
    expected,
    gradient,
    numbers,
)
from support.arrays import DTYPES
from support.asserts import ids
from support.builds import CSRC, INCLUDE, OPTIMISED, PLAIN, WARNINGS, built, core
from support.cases import RULES
from support.covering import all_pairs
from support.reference import ALONE, CARRIES, TOGETHER, state_names

HERE = Path(__file__).parent

# Each rule meets both dtypes and both sets of stages, and so do these each other; the programs below run them all.
CASES = {(case.name, dtype): case for case, dtype in hashes.vectors()}
PAIRS = [(CASES[f"{rule.name}-{stages}", dtype], dtype) for rule, stages, dtype in all_pairs(RULES, [*STAGES], DTYPES)]
EVERYTHING = pytest.mark.parametrize(("case", "dtype"), PAIRS, ids=ids)
# Rules that see no more than an element.
OF_ELEMENTS = [(case, dtype) for case, dtype in PAIRS if case.rule not in ALONE | TOGETHER]
BY_ELEMENT = pytest.mark.parametrize(("case", "dtype"), OF_ELEMENTS, ids=ids)


def in_order(parts: list) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in parts])


def digest_of_parts(opt, names, params) -> str:
    """The hash of arrays that are consecutive parts of one; what is one number per array counts once."""
    letters = opt.state[names[0]]
    whole = [in_order([opt.state[name][k] for name in names]) if letters[k].ndim else letters[k] for k in letters]
    return digest([in_order(params), *whole])


# ---- In this process ----


@EVERYTHING
def test_the_oracle(case, dtype):
    assert by_package(case, dtype, 1009) == by_oracle(case, dtype, 1009)


@EVERYTHING
def test_threads(case, dtype):
    for threads in (2, 3, None):
        assert by_package(case, dtype, num_threads=threads) == expected(case, dtype), f"num_threads={threads}"


@EVERYTHING
def test_instruction_sets(case, dtype, isas):
    for isa in isas:
        assert by_package(case, dtype, num_threads=2) == expected(case, dtype), isa


@pytest.mark.parametrize("shift", [1, 3])
@EVERYTHING
def test_alignment(case, dtype, shift):
    """Every buffer starts at another element of a cache line."""
    size = np.dtype(dtype).itemsize

    def at(place: int, values: np.ndarray) -> np.ndarray:
        memory = np.empty(values.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + shift * place % 8 * size
        array = memory[start : start + values.nbytes].view(values.dtype)
        array[...] = values
        return array

    rule = getattr(fastopt.kernels, case.rule)
    p = at(1, numbers(0, N, dtype))
    grads = [at(2, gradient(t, N, dtype)) for t in range(GRADIENTS)]
    start = case.start(p)
    state = [at(3 + i, np.full(N, start.get(letter, 0.0), dtype)) for i, letter in enumerate(state_names(case.rule))]
    state += [np.zeros(()) for _ in CARRIES.get(case.rule, ())]
    for t in range(1, STEPS + 1):
        rule(p, grads[t % GRADIENTS], *state, step=t, **case.hyper(), **case.options())
    assert digest([p, *state]) == expected(case, dtype)


@EVERYTHING
def test_alignment_to_bytes(case, dtype):
    memory, g_memory = np.empty((2, N * np.dtype(dtype).itemsize + 3), np.uint8)
    p, g = memory[1:-2].view(dtype), g_memory[3:].view(dtype)
    p[...] = numbers(0, N, dtype)
    opt = case.make(p)
    for t in range(1, STEPS + 1):
        g[...] = gradient(t, N, dtype)
        opt.step(g)
    assert digest([p, *opt.state[0].values()]) == expected(case, dtype)


CUTS = (0, 1, 7, 1024, 1031, 17_000, 39_999)


@BY_ELEMENT
def test_slicing(case, dtype):
    """One array as many, each with its own descriptor and tail."""
    params = np.split(numbers(0, N, dtype).copy(), CUTS)
    opt = case.make(params, num_threads=2)
    for t in range(1, STEPS + 1):
        opt.step(np.split(gradient(t, N, dtype), CUTS))
    # The first is empty, and its carried number goes with the others'.
    assert digest_of_parts(opt, range(len(params)), params) == expected(case, dtype)


@BY_ELEMENT
def test_interleaving(case, dtype):
    """One array as three, each of every third element."""
    p = numbers(0, N - N % 3, dtype).copy()
    opt = case.make([p[i::3] for i in range(3)], num_threads=2)
    for t in range(1, STEPS + 1):
        g = gradient(t, N, dtype)[: p.size]
        opt.step([g[i::3] for i in range(3)])
    state = [np.stack([opt.state[i][k] for i in range(3)], -1) if v.ndim else v for k, v in opt.state[0].items()]
    assert digest([p, *state]) == by_package(case, dtype, p.size)


@BY_ELEMENT
def test_grouping(case, dtype):
    """Groups of every kind, in another order, among parameters of the other dtype and other hyperparameters."""
    parts = np.split(numbers(0, N, dtype).copy(), CUTS[3:6])
    other = np.ones(1001, np.float32 if dtype is np.float64 else np.float64)
    groups = [
        {"params": {"c": parts[2], "a": parts[0]}},
        {"params": other.copy(), "lr": 0.5},
        {"params": [other.copy(), parts[3]]},
        {"params": parts[1]},
    ]
    opt = case.make(groups, num_threads=3)
    for t in range(1, STEPS + 1):
        a, b, c, d = np.split(gradient(t, N, dtype), CUTS[3:6])
        opt.step([{"a": a, "c": c}, None if t % 3 else other, [None, d], b])
    names = ["a", 5, "c", 4]
    assert list(opt.state) == ["c", "a", 2, 3, 4, 5]
    assert digest_of_parts(opt, names, parts) == expected(case, dtype)


@EVERYTHING
def test_save_and_load(case, dtype):
    """On other arrays, on another number of threads, after 37 steps."""
    p = numbers(0, N, dtype).copy()
    opt = case.make(p, num_threads=3)
    for t in range(1, STEPS + 1):
        if t == 38:
            saved = pickle.dumps((p, opt.state_dict()))
            p, state = pickle.loads(saved)
            opt = case.make(p, lr=0.5, num_threads=1)
            opt.load_state_dict(state)
        opt.step(gradient(t, N, dtype))
    assert digest([p, *opt.state[0].values()]) == expected(case, dtype)


# ---- In other processes ----


def python(*arguments: str, given: bytes | None = None, **environment: str) -> list[str]:
    """The first word of each line that a Python program prints."""
    command = [sys.executable, *arguments]
    run = subprocess.run(command, input=given, check=True, stdout=subprocess.PIPE, env={**os.environ, **environment})
    return [line.split()[0] for line in run.stdout.decode().splitlines()]


@pytest.mark.parametrize("isa", fastopt._core.available_isas())
@pytest.mark.parametrize("threads", ["1", "4"])
def test_processes(isa, threads):
    """Other addresses, another seed of hashes, other settings from the environment."""
    environment = {"FASTOPT_ISA": isa, "FASTOPT_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    assert python(str(HERE / "hashes.py"), **environment) == all_expected()


SECOND_HALF = """
import pickle, sys
import hashes
for (case, dtype), (p, state) in zip(hashes.everything(), pickle.load(sys.stdin.buffer), strict=True):
    opt = case.make(p)
    opt.load_state_dict(state)
    for t in range(opt.step_count + 1, hashes.STEPS + 1):
        opt.step(hashes.gradient_of(p, t))
    print(hashes.digest([p, *opt.state[0].values()]))
"""


def test_save_and_load_in_another_process():
    saved = []
    for case, dtype in hashes.everything():
        p = hashes.parameter(case, N, dtype)
        opt = case.make(p)
        for t in range(1, 51):
            opt.step(hashes.gradient_of(p, t))
        saved.append((p, opt.state_dict()))
    path = os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])
    assert python("-c", SECOND_HALF, given=pickle.dumps(saved), PYTHONPATH=path) == all_expected()


# ---- By other builds, from C ----

needs_source = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def compiled(builds: Path, compiler: str, flags: list[str], *more: str) -> Path:
    words = [*flags, *WARNINGS, *more, f"-I{INCLUDE}", *core(builds, compiler, flags), HERE / "hashes.c"]
    return built(builds, compiler, *words, "-lm", "-pthread")


@needs_source
@pytest.mark.parametrize("flags", [OPTIMISED, PLAIN], ids=["O3", "O0"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers(compiler, flags, builds):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    program = compiled(builds, compiler, flags)
    assert all_by_program(str(program), n=FEW) == all_expected(FEW)
    if flags == OPTIMISED:
        assert all_by_program(str(program), n=N, threads=2) == all_expected()


@needs_source
def test_aarch64(builds):
    """Results within half a rounding below the smallest normal number may differ there: the data have none."""
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = compiled(builds, compiler, OPTIMISED, "-static")
    assert all_by_program(emulator, str(program), n=FEW) == all_expected(FEW)
