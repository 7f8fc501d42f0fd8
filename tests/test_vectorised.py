"""The compiler turns every loop into packed instructions, with no operation fused or approximated."""

import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fastopt
from support import disassembly

CSRC = Path(__file__).parents[1] / "csrc"
RULES = disassembly.updating([row[0] for row in fastopt._core.rules()])
ISAS = ("baseline", "avx2", "avx512")
# Those of setup.py.
FLAGS = [
    "-std=c11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-mprefer-vector-width=256",
]

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="knows the instructions of x86-64"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed"),
]


@pytest.fixture(scope="module", params=["gcc", "clang"])
def build(request, tmp_path_factory):
    """A function that compiles the loops of an instruction set, once for the same flags."""
    if shutil.which(request.param) is None or not CSRC.is_dir():
        pytest.skip(f"needs {request.param} and the source tree")

    @cache
    def compile_loops(isa: str, *flags: str) -> Path:
        target = tmp_path_factory.mktemp("loops") / f"{isa}.o"
        subprocess.run(
            [request.param, *FLAGS, *flags, "-c", str(CSRC / f"kernels/kernels_{isa}.c"), "-o", str(target)], check=True
        )
        return target

    compile_loops.compiler = request.param
    return compile_loops


@pytest.mark.parametrize("isa", ISAS)
def test_loops(build, isa):
    assert disassembly.problems(build(isa), RULES, disassembly.gathering()) == []


def test_the_extension():
    """The same in the extension that this Python imports."""
    found = disassembly.loops(Path(fastopt._core.__file__), RULES)
    if not found:
        pytest.skip("the extension has no symbols")
    assert {isa for _, _, isa in found} == set(ISAS)
    assert disassembly.problems(Path(fastopt._core.__file__), RULES) == []


@pytest.mark.parametrize("buffers", range(5))
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_memory_limit_is_one_loop(build, buffers, dtype):
    """Two loops of half the streams each would take longer, and rules be faster than the limit they are held to."""
    assert disassembly.packed_loops(build("avx2"), f"traffic{buffers}_{dtype}_avx2") == 1


def test_scalar_loops_are_found(build):
    """The check can fail: every loop is reported when the compiler may not vectorise."""
    flags = {"gcc": ["-fno-tree-vectorize"], "clang": ["-fno-vectorize", "-fno-slp-vectorize"]}[build.compiler]
    wrong = disassembly.problems(build("avx2", *flags), RULES)
    assert wrong == [
        f"{rule}_{dtype}_avx2: no packed instruction on ymm registers"
        for dtype in ("f32", "f64")
        for rule in sorted(RULES)
    ]


def test_scalar_loops_that_gather_are_found(build):
    flags = {"gcc": ["-fno-tree-vectorize"], "clang": ["-fno-vectorize", "-fno-slp-vectorize"]}[build.compiler]
    wrong = disassembly.problems(build("avx2", *flags), set(), disassembly.gathering())
    for loop in ("sum_squares", "prodigy_gather", "adafactor_squares", "adafactor_size"):
        assert f"{loop}_f32_avx2: no packed instruction on ymm registers" in wrong


def test_fused_operations_are_found(build):
    wrong = disassembly.problems(build("avx2", "-ffp-contract=fast", "-mfma"), RULES)
    assert any("adam_f32_avx2: vf" in line for line in wrong)


def test_approximations_are_found(build):
    # As much of -ffast-math as approximations need: all of it is refused.
    flags = ["-funsafe-math-optimizations", "-ffinite-math-only", "-fsigned-zeros", "-mrecip=all"]
    wrong = disassembly.problems(build("avx2", *flags), RULES)
    assert any("adam_f32_avx2: vr" in line for line in wrong)


def test_fast_math_is_refused(build, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        build("avx2", "-ffast-math")
    assert "must be compiled without -ffast-math" in capfd.readouterr().err


def test_missing_loops_are_found(build):
    assert disassembly.problems(build("avx2"), {"abacus", *RULES}) == [
        "abacus_f32_avx2: not in the file",
        "abacus_f64_avx2: not in the file",
    ]


def test_the_script(build):
    """The command for developers: exit code 0 on good loops, 1 on bad ones."""

    def run(target: Path) -> int:
        return subprocess.run([sys.executable, disassembly.__file__, str(target)], stdout=subprocess.DEVNULL).returncode

    assert run(build("avx2")) == 0
    assert run(build("avx2", "-O1")) == 1
