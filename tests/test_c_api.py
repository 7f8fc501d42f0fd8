"""The C core as an embedder uses it: its own compiler, no Python headers."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.builds import CSRC, INCLUDE, OPTIMISED, WARNINGS, built, core

PROGRAM, STORAGE = Path(__file__).with_name("c_api.c"), Path(__file__).with_name("storage.c")
pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", params=["gcc", "clang"])
def compiler(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def objects(compiler, builds):
    return core(builds, compiler, OPTIMISED)


def test_program(compiler, objects, builds):
    run(built(builds, compiler, *OPTIMISED, *WARNINGS, f"-I{INCLUDE}", *objects, PROGRAM, "-lm", "-pthread"))


def test_every_format_of_every_buffer(compiler, objects, builds):
    run(built(builds, compiler, *OPTIMISED, *WARNINGS, f"-I{INCLUDE}", *objects, STORAGE, "-lm", "-pthread"))


def test_every_global_symbol_has_the_prefix(objects):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    lines = [line for path in objects for line in run("nm", "-g", "--defined-only", path).splitlines()]
    names = [line.split()[-1].lstrip("_") for line in lines if line]
    assert "fastopt_step_sized" in names
    assert [name for name in names if not name.startswith("fastopt_")] == []


@pytest.mark.parametrize("header", ["fastopt.h", "fastopt_testing.h"])
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_header_in_cxx(standard, header, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    source = tmp_path / "user.cpp"
    source.write_text(f'#include "{header}"\nint main() {{ fastopt_tensor t{{}}; return fastopt_step(&t, 0, 1); }}\n')
    run(
        "g++",
        f"-std={standard}",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{INCLUDE}",
        "-fsyntax-only",
        source,
    )
