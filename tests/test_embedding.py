"""The header and the library of the package in programs of others: plain flags, pkg-config, CMake; C and C++."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import embedding
from support.builds import CSRC, PLAIN

PROGRAM = Path(__file__).with_name("embed.c")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
C, CXX = ["-std=c11", "-x", "c"], ["-std=c++17", "-x", "c++"]

pytestmark = pytest.mark.skipif(platform.system() == "Windows", reason="the commands are those of Unix")


def output(*command, **environment):
    done = subprocess.run([*map(str, command)], capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout


def needs(tool):
    return shutil.which(tool) or pytest.skip(f"{tool} is not installed")


def config(*options):
    return shlex.split(output(sys.executable, "-m", "fastopt", "config", *options).decode())


@pytest.fixture(scope="module")
def expected():
    """The bytes that PROGRAM writes, from fastopt's own class."""
    p = np.zeros(1000, np.float32)
    opt = fastopt.Adam([p], lr=1e-2)
    for step in range(1, 6):
        opt.step([np.array((np.arange(1000) + step) % 7 - 3, np.float32)])
    return p.tobytes()


def test_the_header_is_the_one_of_the_library():
    header = Path(fastopt.get_include(), "fastopt.h").read_text()
    assert f'#define FASTOPT_VERSION "{fastopt.__version__}"' in header
    assert Path(fastopt.get_library()).is_file()


@pytest.mark.parametrize("language", [C, CXX], ids=["c11", "c++17"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_plain_flags(compiler, language, tmp_path, expected):
    needs(compiler)
    program = tmp_path / "program"
    output(compiler, *language, *WARNINGS, *config("--cflags"), PROGRAM, "-x", "none", *config("--libs"), "-o", program)
    assert output(program) == expected


def test_the_library_by_its_path(tmp_path, expected):
    program = tmp_path / "program"
    flags = ["-pthread", "-lm", *["-fopenmp"] * bool(fastopt.show_config("dicts")["threads"].count("OpenMP"))]
    output(needs("cc"), PROGRAM, f"-I{fastopt.get_include()}", fastopt.get_library(), *flags, "-o", program)
    assert output(program) == expected


def test_pkg_config(tmp_path, expected):
    """Also after the files have moved."""
    shutil.copytree(fastopt.get_include(), tmp_path / "moved here" / "include")
    shutil.copytree(Path(fastopt.get_library()).parent, tmp_path / "moved here" / "lib")
    (folder,) = config("--pkg-config-dir")
    for path in (folder, str(tmp_path / "moved here" / "lib" / "pkgconfig")):
        ask = (needs("pkg-config"), "fastopt")
        flags = shlex.split(output(*ask, "--cflags", "--libs", PKG_CONFIG_PATH=path).decode())
        output(needs("cc"), PROGRAM, *flags, "-o", tmp_path / "program")
        assert output(tmp_path / "program") == expected
        assert output(*ask, "--modversion", PKG_CONFIG_PATH=path).decode().strip() == fastopt.__version__
    assert any("moved here" in flag for flag in flags)


CMAKE = f"""
cmake_minimum_required(VERSION 3.15)
project(embedded C)
find_package(fastopt {fastopt.__version__} EXACT REQUIRED CONFIG)
add_executable(program embed.c)
target_link_libraries(program PRIVATE fastopt::fastopt)
"""


def test_cmake(tmp_path, expected):
    cmake = needs("cmake")
    shutil.copy(PROGRAM, tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    output(cmake, "-S", tmp_path, "-B", tmp_path / "build", f"-Dfastopt_DIR={config('--cmake-dir')[0]}")
    output(cmake, "--build", tmp_path / "build")
    assert output(tmp_path / "build" / "program") == expected


@pytest.mark.parametrize(("asked", "found"), [(f"{fastopt.__version__.split('.')[0]}.0", True), ("999", False)])
def test_cmake_compares_versions(asked, found, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        CMAKE.replace(f"{fastopt.__version__} EXACT REQUIRED", f"{asked} QUIET").split("add_executable")[0]
        + 'message(STATUS "found: ${fastopt_FOUND}")\n'
    )
    said = output(needs("cmake"), "-S", tmp_path, "-B", tmp_path, f"-Dfastopt_DIR={embedding.CMAKE_DIR}").decode()
    assert f"found: {int(found)}" in said


def test_the_static_library_is_small():
    """Without debug information, which would take four times the space."""
    assert Path(fastopt.get_library()).stat().st_size < 4e6


# The ABI: objects of one header, and libraries of another.  A header is kept in tests/abi when its version is released.

HEADERS = sorted(Path(__file__).with_name("abi").glob("fastopt-*.h"))
GROWN = ("fastopt_tensor", "fastopt_options", "fastopt_call")  # the structs that get fields at their end
SETS_A_FIELD = """
#include "fastopt.h"
int main(void)
{
    const double lr[] = {1};
    double p[1] = {2}, g[1] = {1};
    fastopt_options options = {.later = OPTIONS};
    fastopt_tensor t = {.rule = fastopt_find_rule("sgd"), .dtype = FASTOPT_FLOAT64, .n = 1, .p = p, .g = g, .hyper = lr,
                        .step = 1, .options = &options, .later = TENSOR};
    fastopt_call call = {.num_threads = 1, .later = CALL};
    const fastopt_status status = fastopt_step_with(&t, 1, &call);
    return status == FASTOPT_BAD_ABI && p[0] == 2 ? 0 : status == FASTOPT_OK && p[0] == 1 ? 1 : 2;
}
"""


def program_of(header, library, folder, source=PROGRAM, *flags):
    """PROGRAM, compiled with this header and linked with these objects."""
    (folder / "include").mkdir(exist_ok=True)
    shutil.copy(header, folder / "include" / "fastopt.h")
    flags = ("-std=c11", f"-I{folder / 'include'}", *flags)
    output(needs("cc"), *flags, source, *library, "-pthread", "-lm", "-o", folder / "program")
    return folder / "program"


def of_several(folder):
    """The bytes that PROGRAM writes with an argument, of this header and this library."""
    return output(program_of(Path(fastopt.get_include(), "fastopt.h"), config("--libs"), folder), "several")


@pytest.mark.parametrize("header", HEADERS, ids=[header.stem for header in HEADERS])
def test_programs_of_released_headers(header, tmp_path, expected):
    wanted = of_several(tmp_path)
    program = program_of(header, config("--libs"), tmp_path)
    assert output(program) == expected
    assert output(program, "several") == wanted


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """The header of a later version, whose structs have more fields, and its library."""
    if not CSRC.is_dir():
        pytest.skip("needs the source tree")
    needs("gcc")
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(CSRC, folder / "csrc")
    header = folder / "csrc" / "include" / "fastopt.h"
    text = header.read_text()
    for name in GROWN:
        assert f"}} {name};" in text
        text = text.replace(f"}} {name};", f"    double later, more[3];\n}} {name};")
    header.write_text(text)
    sources = sorted((folder / "csrc").rglob("*.c"))
    subprocess.run(["gcc", *PLAIN, "-c", *map(str, sources)], cwd=folder, check=True)
    return header, sorted(folder.glob("*.o"))


def test_a_later_library(grown, tmp_path, expected):
    """Works on copies of the structs of this header, also between the two calls of a step."""
    wanted = of_several(tmp_path)
    program = program_of(Path(fastopt.get_include(), "fastopt.h"), grown[1], tmp_path)
    assert output(program) == expected
    assert output(program, "several", MALLOC_PERTURB_="85") == wanted  # glibc overwrites memory that is freed


def test_a_later_header(grown, tmp_path, expected):
    """Works with this library, while the fields that the library does not have are zeros."""
    wanted = of_several(tmp_path)
    program = program_of(grown[0], config("--libs"), tmp_path)
    assert output(program) == expected
    assert output(program, "several") == wanted


@pytest.mark.parametrize("values", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_fields_that_the_library_does_not_have(values, grown, tmp_path):
    source = tmp_path / "user.c"
    source.write_text(SETS_A_FIELD)
    flags = [f"-D{name}={value}" for name, value in zip(("OPTIONS", "TENSOR", "CALL"), values, strict=True)]
    program = program_of(grown[0], config("--libs"), tmp_path, source, *flags)
    assert subprocess.run([program]).returncode == (0 if any(values) else 1)


def test_another_abi_version(tmp_path):
    source = tmp_path / "user.c"
    source.write_text(
        '#include "fastopt.h"\n'
        "int main(void)\n{\n    fastopt_sizes sizes = fastopt_header_sizes();\n    sizes.abi_version++;\n"
        "    return fastopt_step_sized(sizes, NULL, 0, 1) != FASTOPT_BAD_ABI || fastopt_abi_version() != 1;\n}\n"
    )
    output(program_of(Path(fastopt.get_include(), "fastopt.h"), config("--libs"), tmp_path, source))
