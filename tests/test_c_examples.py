"""The examples in C and C++: built by plain flags, pkg-config and CMake, and run."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WARNINGS = ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(platform.system() == "Windows", reason="the commands are those of Unix"),
]


def output(*command, **environment):
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}"
    return done.stdout


def config(*options):
    return output(sys.executable, "-m", "fastopt", "config", *options)


@pytest.fixture(scope="module", params=["flags", "pkg-config", "cmake"])
def programs(request, tmp_path_factory):
    """The folder of the built examples."""
    folder = tmp_path_factory.mktemp(request.param)
    if shutil.which("cc") is None or shutil.which("c++") is None:
        pytest.skip("needs compilers of C and C++")
    if request.param != "flags" and shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "cmake":
        output("cmake", "-S", EXAMPLES, "-B", folder, f"-Dfastopt_DIR={config('--cmake-dir').strip()}")
        output("cmake", "--build", folder)
        return folder
    if request.param == "pkg-config":
        where = config("--pkg-config-dir").strip()
        flags = shlex.split(output("pkg-config", "--cflags", "--libs", "fastopt", PKG_CONFIG_PATH=where))
    else:
        flags = shlex.split(config("--cflags", "--libs"))
    output("cc", "-std=c11", *WARNINGS, EXAMPLES / "c" / "charlm.c", *flags, "-o", folder / "charlm")
    output("c++", "-std=c++17", *WARNINGS, EXAMPLES / "cpp" / "spirals.cpp", *flags, "-o", folder / "spirals")
    return folder


def losses(text):
    return [float(loss) for loss in re.findall(r"loss (\S+)", text)]


def test_the_character_model_learns_and_resumes(programs, tmp_path):
    """A run that stops and continues prints and saves the same as one that does not stop."""
    train = (programs / "charlm", ROOT / "LICENSE")
    whole = output(*train, 300, tmp_path / "whole")
    first = output(*train, 120, tmp_path / "parts")
    second = output(*train, 300, tmp_path / "parts")
    assert first + second == whole
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert losses(whole)[0] > 4.5  # log(128) is 4.85
    assert losses(whole)[-1] < 2


def test_a_damaged_checkpoint_is_refused(programs, tmp_path):
    train = (programs / "charlm", ROOT / "LICENSE", 1, tmp_path / "run")
    output(*train)
    (tmp_path / "run").write_bytes((tmp_path / "run").read_bytes()[:-1])
    done = subprocess.run([*map(str, train)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "charlm: the checkpoint is not of this program\n")


def test_the_spirals_are_told_apart(programs):
    found = losses(output(programs / "spirals"))
    assert found[-1] < 0.01 < found[0]
