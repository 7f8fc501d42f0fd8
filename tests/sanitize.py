"""Memory safety: the C core and the extension under sanitizers, valgrind and libFuzzer.

    python tests/sanitize.py [--short] [--only PART,PART] [--seconds N]

c         the C programs c_api, storage, stress and stress_team under AddressSanitizer and UndefinedBehaviorSanitizer,
          by gcc and by clang
threads   stress and stress_team under ThreadSanitizer, by gcc and by clang, whose threads sleep on futexes, and on the
          conditions of systems without them
helgrind  stress_team under valgrind's helgrind, with both
python    the tests of the package with an extension under AddressSanitizer and UndefinedBehaviorSanitizer.  Leaks are
          left to the next part, since CPython itself frees little at its end.
leaks     10,000 optimizers made, stepped, failed and freed under valgrind: what is in use at the end must not grow
fuzz      libFuzzer on the C API (fuzz_engine.c) under both sanitizers, for N seconds; only when asked for by --only

Prints what ran and what it came to; the exit code is the number of parts that found something.  Everything is built in
a temporary directory, each source once for all programs of a part that want the same flags.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.builds import built

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CSRC = ROOT / "csrc"
FLAGS = ["-std=c11", "-D_DEFAULT_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
NUMERICS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
BOTH = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
STRICT = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
HANGS = 1800  # seconds
OPTIMIZERS_PER_CYCLE = 3  # of leaks.py, beside those that fail


class Skipped(Exception):  # noqa: N818, it is no error
    """A part that this machine cannot run."""


class Found(Exception):  # noqa: N818
    """A report of a sanitizer."""


@dataclass
class Run:
    """The options of all parts, and the folder in which they build."""

    folder: Path
    short: bool
    seconds: int


def call(*command: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return the output of a command; raise Found when it fails."""
    words = [str(word) for word in command]
    env = {**os.environ, **(environment or {})}
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(words, **both, env=env, cwd=cwd, errors="replace", timeout=HANGS)
    except subprocess.TimeoutExpired:
        raise Found(f"{' '.join(words)}: hangs for {HANGS} s") from None
    if done.returncode:
        raise Found(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-20_000:]}")
    return done.stdout


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise Skipped(f"{tool} is not installed")


PROBE = "int main(void) { return 0; }\n"
FUZZ_PROBE = "int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return size && !data; }\n"


def can_build(run: Run, *command: str, source: str = PROBE) -> bool:
    """Whether a compiler links a program with these flags."""
    file = run.folder / "probe.c"
    file.write_text(source)
    return not subprocess.run([*command, str(file), "-o", str(file.with_suffix(""))], capture_output=True).returncode


def in_parallel(function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
    """The results of a function that runs another program, for as many values at once as there are CPUs."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, values))


def build(run: Run, name: str, compiler: str, *flags: object, core: str = "*", team: tuple[str, ...] = ()) -> Path:
    """Compile a C program of tests/ with these folders of the core; `team` are flags of the threads and the program."""

    def compiled(source: Path) -> Path:
        more = team if source.parent.name in ("threads", HERE.name) else ()
        return built(run.folder, compiler, *flags, *more, *FLAGS, *NUMERICS, "-c", source, suffix=".o")

    objects = in_parallel(compiled, [*sorted(CSRC.glob(f"{core}/*.c")), HERE / f"{name}.c"])
    return built(run.folder, compiler, *flags, *objects, "-lm", "-pthread")


# ---- The parts: each yields a line for everything that it has run ----


def c_programs(run: Run) -> Iterator[str]:
    tried = False
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler) is None or not can_build(run, compiler, *BOTH):
            yield f"skipped: {compiler} with sanitizers is not installed"
            continue
        tried = True
        for name in ("c_api", "storage"):
            call(build(run, name, compiler, *BOTH), environment=STRICT)
        rounds = 10 if run.short else 100
        said = call(build(run, "stress", compiler, *BOTH), 4, rounds, environment=STRICT)
        yield f"{compiler}: c_api, storage; stress: {said.strip()}"
        # Without forks: a child may find the lock of the sanitizer's allocator taken for ever.
        program = build(run, "stress_team", compiler, *BOTH, core="threads")
        said = call(program, 4, 100 * rounds, 8, 1, environment=STRICT)
        yield f"{compiler}: stress_team: {said.strip()}"
    if not tried:
        raise Skipped("there is no compiler to do it with")


def threads(run: Run) -> Iterator[str]:
    # A child of a fork may not start threads under the sanitizer: these programs then do without one.
    environment = {"TSAN_OPTIONS": "halt_on_error=0:exitcode=66"}
    tried = False
    for compiler, flag in itertools.product(("gcc", "clang"), ("-UFASTOPT_NO_FUTEX", "-DFASTOPT_NO_FUTEX")):
        if shutil.which(compiler) is None or not can_build(run, compiler, "-fsanitize=thread"):
            yield f"skipped: {compiler} with ThreadSanitizer is not installed"
            continue
        tried = True
        program = build(run, "stress", compiler, "-fsanitize=thread", team=(flag,))
        for count in (2, 4, 8):
            said = call(program, count, 3 if run.short else 30, 0, environment=environment)
            yield f"{compiler} {flag}: stress, {count} threads: {said.strip().splitlines()[-1]}"
        program = build(run, "stress_team", compiler, "-fsanitize=thread", core="threads", team=(flag,))
        for callers, jobs, most, signals in ((1, 50_000, 2, 0), (4, 3_000, 4, 1), (2, 1_000, 64, 1)):
            said = call(program, callers, jobs if run.short else 10 * jobs, most, signals, environment=environment)
            yield f"{compiler} {flag}: stress_team, up to {most} threads: {said.strip().splitlines()[-1]}"
    if not tried:
        raise Skipped("there is no compiler to do it with")


def helgrind(run: Run) -> Iterator[str]:
    need("gcc", "valgrind")
    if not can_build(run, "gcc", "-include", str(HERE / "helgrind.h")):
        raise Skipped("the headers of valgrind are not installed")
    flags = ("-UFASTOPT_NO_FUTEX", "-DFASTOPT_NO_FUTEX")
    marks = ("-include", HERE / "helgrind.h")
    programs = {flag: build(run, "stress_team", "gcc", flag, *marks, core="threads") for flag in flags}

    def stressed(case: tuple[str, tuple[int, int, int]]) -> str:
        flag, (callers, jobs, most) = case
        count = jobs if run.short else 10 * jobs
        options = ["-q", "--tool=helgrind", "--error-exitcode=9"]
        said = call("valgrind", *options, programs[flag], callers, count, most)
        return f"{flag}: stress_team, up to {most} threads: {said.strip().splitlines()[-1]}"

    yield from in_parallel(stressed, itertools.product(flags, ((1, 2000, 2), (3, 1000, 4))))


# For the extension: what works on arrays, and threads, forks and signals.  Sizes that matter to memory are those about
# a block and a vector, so that tests of many steps or of much data are left out.
SUITE = ["rules", "properties", "bad_input", "kernels", "stages", "averages", "rows", "micro_batches"]
SUITE += ["numbers", "processes", "matrices", "catch_up", "swapped", "hostile", "loss_scale"]
SUITE += ["schedules", "scheduled_steps", "scheduled_state"]
LEFT_OUT = ["many_arrays", "hundred", "late", "torch", "optax", "plot", "take_the_memory"]
# And for --short: one dtype, one instruction set, fewer of the options that go around a rule.
SHORT_SUITE = SUITE[:8]
SHORT_LEFT_OUT = [*LEFT_OUT, "float64", "special", "independent", "decoupled", "any_layout"]
LAST_ISA = "import fastopt; print(fastopt._core.available_isas()[-1])"


def python_suite(run: Run) -> Iterator[str]:
    need("gcc")
    if not can_build(run, "gcc", *BOTH):
        raise Skipped("gcc with sanitizers is not installed")
    if missing := [name for name in ("Cython", "setuptools") if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{' and '.join(missing)} must be installed to build the extension")
    tree = run.folder / "tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "fastopt", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    compiler = ["gcc", *BOTH, "-fno-omit-frame-pointer", "-g1"]
    environment = {"CC": " ".join(compiler), "LDSHARED": " ".join([*compiler, "-shared"])}
    call(sys.executable, "setup.py", "build_ext", "--inplace", environment=environment, cwd=tree)

    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, stdout=subprocess.PIPE, text=True)
    environment = {
        "LD_PRELOAD": library.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=4000",
        "UBSAN_OPTIONS": STRICT["UBSAN_OPTIONS"],
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tree),
    }

    def python(*arguments: object) -> str:
        return call(sys.executable, *arguments, environment=environment, cwd=tree / "tests").strip()

    python("-c", f"import fastopt; assert fastopt.__file__.startswith({str(tree)!r})")
    if run.short:
        environment["FASTOPT_TEST_ISAS"] = python("-c", LAST_ISA)
    left_out = SHORT_LEFT_OUT if run.short else LEFT_OUT
    tests = [f"test_{name}.py" for name in (SHORT_SUITE if run.short else SUITE)] + ([] if run.short else ["rules"])
    options = ["-q", "-x", "-n", "2", "-p", "no:cacheprovider"]
    options += ["--capture=sys"]  # reports of the sanitizers go to the descriptor
    said = python("-m", "pytest", *options, *tests, "-k", " and ".join(f"not {word}" for word in left_out))
    yield f"{' '.join(tests)}: {said.splitlines()[-1]}"
    scenarios = 2000 if run.short else 20_000

    def random_calls(seed: int) -> str:
        said = python("fuzz_api.py", "--scenarios", scenarios, "--seed", seed)
        return f"fuzz_api.py: {scenarios:,} scenarios, right, refused and not finite: {' '.join(said.split()[-3:])}"

    yield from in_parallel(random_calls, (0, 1))


def leaks(run: Run) -> Iterator[str]:
    need("valgrind")
    few, many = (300, 500) if run.short else (400, 3400)  # 300 cycles meet every case in both dtypes
    totals = in_parallel(lambda cycles: in_use(run, cycles), (few, many))
    through = [through for _, through in totals]
    yield (
        f"{many * OPTIMIZERS_PER_CYCLE:,} optimizers: {totals[1][0]:,} bytes in use at the end, {through[1]:,} of them"
        f" definitely lost through fastopt; {few * OPTIMIZERS_PER_CYCLE:,} optimizers: {totals[0][0]:,} and"
        f" {through[0]:,}"
    )
    if through[1] > through[0] or totals[1][0] - totals[0][0] > many - few:
        raise Found("memory in use grows by more than a byte per cycle")


def in_use(run: Run, cycles: int) -> tuple[int, int]:
    """Bytes in use when Python has ended, and the bytes among them that fastopt allocated and nothing points to."""
    report = run.folder / f"valgrind-{cycles}.xml"
    options = ["--leak-check=full", "--show-leak-kinds=all", "--undef-value-errors=no", "--num-callers=15"]
    environment = {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command = ["valgrind", *options, "--xml=yes", f"--xml-file={report}", sys.executable, HERE / "leaks.py", cycles]
    try:
        call(*command, environment=environment)
    except Found as error:
        if "debuginfo reader" in str(error):
            raise Skipped("this valgrind is too old for the debug information of this build") from None
        raise
    total = through = 0
    for _, entry in ElementTree.iterparse(report):
        if entry.tag == "error":
            kind, size = entry.findtext("kind", ""), int(entry.findtext("xwhat/leakedbytes", "0"))
            mine = any("fastopt" in (path.text or "") for path in entry.iter("obj"))
            if mine and not kind.startswith("Leak"):
                raise Found(ElementTree.tostring(entry, encoding="unicode"))
            total += size
            through += size * (mine and kind == "Leak_DefinitelyLost")
            entry.clear()
    return total, through


def fuzz(run: Run) -> Iterator[str]:
    need("clang")
    flags = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    if not can_build(run, "clang", *flags, source=FUZZ_PROBE):
        raise Skipped("clang with libFuzzer is not installed")
    program = build(run, "fuzz_engine", "clang", *flags)
    corpus = run.folder / "corpus"
    corpus.mkdir()
    options = [
        "-max_len=512",
        "-len_control=0",
        "-timeout=60",
        f"-max_total_time={run.seconds}",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus}/",
    ]
    said = call(program, *options, corpus, environment=STRICT, cwd=run.folder)
    runs = next(line.split()[1] for line in said.splitlines() if line.startswith("Done "))
    yield f"{int(runs):,} inputs in {run.seconds} s, {len(list(corpus.iterdir())):,} of them kept"


PARTS: dict[str, Callable[[Run], Iterator[str]]] = {
    "c": c_programs,
    "threads": threads,
    "helgrind": helgrind,
    "python": python_suite,
    "leaks": leaks,
    "fuzz": fuzz,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less of everything, in about three minutes")
    parser.add_argument("--only", metavar="PART,PART", help=f"these parts, of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for the part fuzz")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else [name for name in PARTS if name != "fuzz"]
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}")
    found = 0
    for name in chosen:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                for line in PARTS[name](Run(Path(folder), options.short, options.seconds)):
                    print(f"{name:>8}  {line}", flush=True)
                outcome = "ok"
            except Skipped as reason:
                outcome = f"skipped: {reason}"
            except (Found, AssertionError) as error:
                outcome, found = f"FOUND: {error}", found + 1
        print(f"{name:>8}  {outcome} ({time.monotonic() - begin:.0f} s)", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
