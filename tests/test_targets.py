"""The C core for other systems and CPUs: built by zig's C compiler, and run where that can be done here.

Without optimisation, unless FASTOPT_TEST_OPTIMISED is set: with it, zig takes much longer.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hashes import FEW, N, all_by_program, all_expected
from support.builds import CSRC, INCLUDE, OPTIMISED, PLAIN, WARNINGS, X86, built, core

HERE = Path(__file__).parent
ZIG = f"{sys.executable} -m ziglang"
HANGS = 600  # seconds
# Functions of POSIX that the program stress_team needs of some C libraries.
POSIX = "-D_DEFAULT_SOURCE"


@dataclass(frozen=True)
class Target:
    """A system and CPU, as zig names it, and the command that runs its programs here; None: nothing does."""

    name: str
    runner: str | None = None
    libraries: str = "-lm -pthread"

    def cannot_run(self) -> str:
        """Why programs do not run here, or ""."""
        if self.runner is None:
            return "nothing here runs it"
        if not self.runner:
            return "" if X86 and sys.platform == "linux" else "it needs Linux on x86-64"
        tool, *options = self.runner.split()
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
        return f"there is no {options[-1]}" if options and not Path(options[-1]).is_dir() else ""


MUSL = "-lm -pthread -static"
WINDOWS = "-lapi-ms-win-core-synch-l1-2-0"
TARGETS = [
    Target("aarch64-linux-gnu.2.17", "qemu-aarch64 -L /usr/aarch64-linux-gnu"),
    Target("aarch64-linux-musl", "qemu-aarch64", MUSL),
    Target("x86_64-linux-musl", "", MUSL),
    Target("aarch64-macos.11.0"),
    Target("x86_64-macos.11.0"),
    Target("aarch64-windows-gnu", None, WINDOWS),
    Target("x86_64-windows-gnu", "wine", WINDOWS),
]


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_target(target, builds):
    """The core and its programs compile without a warning; where they run, they give the bits of this machine."""
    if not importlib.util.find_spec("ziglang") or not CSRC.is_dir():
        pytest.skip("needs ziglang (fastopt[wheels]) and the source tree")
    compiler = f"{ZIG} cc -target {target.name} -fno-sanitize=undefined"
    flags = OPTIMISED if os.environ.get("FASTOPT_TEST_OPTIMISED") else PLAIN
    objects = core(builds, compiler, flags)

    def program(name: str) -> Path:
        words = [*flags, *WARNINGS, POSIX, f"-I{INCLUDE}", f"-I{CSRC}", *objects, HERE / f"{name}.c"]
        return built(builds, compiler, *words, *target.libraries.split(), suffix=".exe")

    posix = "windows" not in target.name
    programs = {name: program(name) for name in ("c_api", "storage", "hashes", *(["stress_team"] if posix else []))}
    if reason := target.cannot_run():
        pytest.skip(f"built; not run: {reason}")

    def run(name: str, *arguments: str) -> str:
        command = [*target.runner.split(), str(programs[name]), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    run("c_api")
    command = [*target.runner.split(), str(programs["hashes"])]
    assert all_by_program(*command, n=FEW) == all_expected(FEW)
    if flags == OPTIMISED and "qemu" not in target.runner:  # elsewhere it takes minutes
        run("storage")
        assert all_by_program(*command, n=N, threads=2) == all_expected()
    if posix:
        assert int(run("stress_team", "3", "1000", "4").split()[0]) > 0, "no job had help"
