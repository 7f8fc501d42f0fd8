"""The compiler turns every loop into packed instructions, with no operation fused or approximated."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt
from support import disassembly
from support.builds import CSRC, OPTIMISED, X86, built, kernels

RULES = disassembly.updating([row[0] for row in fastopt._core.rules()])
ISAS = tuple(disassembly.REGISTERS)
# Loops as those of rules are named, that the checks must find fault with where flags make them so: quick to compile.
LOOPS = """
#include <math.h>
#define LOOPS(T, FN, SQRT) \\
    void FN(adam)(T *restrict p, const T *restrict g, long n) \\
    { \\
        for (long i = 0; i < n; i++) \\
            p[i] = p[i] * (T)0.5 + g[i] / SQRT(p[i] * g[i]); \\
    } \\
    T FN(sum_squares)(const T *x, long n) \\
    { \\
        T lanes[16] = {0}; \\
        for (long i = 0; i + 16 <= n; i += 16) \\
            for (int j = 0; j < 16; j++) \\
                lanes[j] += x[i + j] * x[i + j]; \\
        T sum = 0; \\
        for (int j = 0; j < 16; j++) \\
            sum += lanes[j]; \\
        return sum; \\
    }
#define F32(name) name##_f32_avx2
#define F64(name) name##_f64_avx2
LOOPS(float, F32, sqrtf)
LOOPS(double, F64, sqrt)
"""
SCALAR = {"gcc": ["-fno-tree-vectorize"], "clang": ["-fno-vectorize", "-fno-slp-vectorize"]}

pytestmark = [
    pytest.mark.skipif(not X86, reason="knows the instructions of x86-64"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed"),
]


@pytest.fixture(params=["gcc", "clang"])
def compiler(request):
    if shutil.which(request.param) is None or not CSRC.is_dir():
        pytest.skip(f"needs {request.param} and the source tree")
    return request.param


@pytest.fixture
def problems(compiler, tmp_path):
    """A function that finds the faults of the loops above, compiled with these flags for AVX2."""
    source = tmp_path / "loops.c"
    source.write_text(LOOPS)

    def found(*flags: str) -> list[str]:
        file = built(tmp_path, compiler, *OPTIMISED, "-mavx2", *flags, "-c", source, suffix=".o")
        return disassembly.problems(file, {"adam"}, {"sum_squares"})

    return found


@pytest.mark.parametrize("isa", ISAS)
def test_loops(compiler, isa, builds):
    assert disassembly.problems(kernels(builds, compiler, isa), RULES, disassembly.gathering()) == []


def test_the_extension():
    """The same in the extension that this Python imports."""
    found = disassembly.loops(Path(fastopt._core.__file__), RULES)
    if not found:
        pytest.skip("the extension has no symbols")
    assert {isa for _, _, isa in found} == set(ISAS)
    assert disassembly.problems(Path(fastopt._core.__file__), RULES) == []


def test_the_memory_limit_is_one_loop(compiler, builds):
    """Two loops of half the streams each would take longer, and rules be faster than the limit they are held to."""
    file = kernels(builds, compiler, "avx2")
    for buffers in range(5):
        for dtype in ("f32", "f64"):
            function = f"traffic{buffers}_{dtype}_avx2"
            assert disassembly.packed_loops(file, function) == 1, function


# ---- The checks can fail ----


def test_good_loops_have_no_problem(problems):
    assert problems() == []


def test_scalar_loops_are_found(compiler, problems):
    """Every loop is reported when the compiler may not vectorise."""
    wrong = [f"{loop}_{dtype}_avx2" for dtype in ("f32", "f64") for loop in ("adam", "sum_squares")]
    assert problems(*SCALAR[compiler]) == [f"{loop}: no packed instruction on ymm registers" for loop in wrong]


def test_fused_operations_are_found(problems):
    assert any("adam_f32_avx2: vf" in line for line in problems("-ffp-contract=fast", "-mfma"))


def test_approximations_are_found(problems):
    # As much of -ffast-math as approximations need: all of it is refused.
    flags = ["-funsafe-math-optimizations", "-ffinite-math-only", "-fsigned-zeros", "-mrecip=all"]
    assert any("adam_f32_avx2: vr" in line for line in problems(*flags))


def test_fast_math_is_refused(compiler, tmp_path):
    with pytest.raises(AssertionError, match="must be compiled without -ffast-math"):
        kernels(tmp_path, compiler, "avx2", "-ffast-math")


def test_missing_loops_are_found(compiler, builds):
    assert disassembly.problems(kernels(builds, compiler, "avx2"), {"abacus", *RULES}) == [
        "abacus_f32_avx2: not in the file",
        "abacus_f64_avx2: not in the file",
    ]


def test_the_script(compiler, builds, tmp_path):
    """The command for developers: exit code 0 on good loops, 1 where some are bad or missing."""
    source = tmp_path / "loops.c"
    source.write_text(LOOPS)
    some = built(tmp_path, compiler, *OPTIMISED, "-mavx2", "-c", source, suffix=".o")
    for target, code in ((kernels(builds, compiler, "avx2"), 0), (some, 1)):
        command = [sys.executable, disassembly.__file__, str(target)]
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == code
