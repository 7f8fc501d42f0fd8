"""The C core and other sources, compiled as tests want them: once for all tests of a run and all workers.

A compiler is a command, of one or more words.
"""

import os
import platform
import subprocess
from hashlib import sha256
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
INCLUDE = CSRC / "include"
X86 = platform.machine() in ("x86_64", "AMD64")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# The flags of setup.py, and the fewest that the core needs, with which it may also be in a shared library.
OPTIMISED = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
PLAIN = ["-std=c11", "-O0", "-ffp-contract=off", "-fPIC"]


def built(folder: Path, compiler: str, *words: object, suffix: str = "") -> Path:
    """The file that a compiler makes of these flags and sources."""
    command = [*compiler.split(), *map(str, words)]
    target = folder / f"{sha256(' '.join(command).encode()).hexdigest()}{suffix}"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}{suffix}")
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        part.replace(target)  # in one step, since another worker may look for it
    return target


def kernels(folder: Path, compiler: str, isa: str, *flags: str) -> Path:
    """The loops of an instruction set."""
    return built(folder, compiler, *OPTIMISED, *WARNINGS, *flags, "-c", CSRC / f"kernels/kernels_{isa}.c", suffix=".o")


def core(folder: Path, compiler: str, flags: list[str]) -> list[Path]:
    """The whole core, an object for each source."""
    return [
        built(folder, compiler, *flags, *WARNINGS, "-c", source, suffix=".o") for source in sorted(CSRC.rglob("*.c"))
    ]
