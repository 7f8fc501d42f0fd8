"""The source distribution in the hands of someone who has nothing else: python tests/sdist.py [--short].

Builds it, and the wheel from it in an isolated environment; installs the wheel with the packages for tests into an
empty virtual environment; and runs the tests that were in it from a folder where there is nothing but them.  Tests that
need the sources, or torch, are skipped there.  Everything is built from a copy, in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = (".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
SHORT = [
    "by_hand",
    "bad_input",
    "kernels",
    "checkpoint",
    "complete",
    "properties",
    "embedding",
    "embedding_in_cython",
]  # for tests in short


def call(*command: object, cwd: Path) -> None:
    """Run a command without the settings of this environment; leave with its exit code when it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FASTOPT"))}
    words = [str(word) for word in command]
    print(f"$ {' '.join(words)}", flush=True)
    if code := subprocess.run(words, cwd=cwd, env=environment).returncode:
        sys.exit(f"{words[0]}: exit code {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a selection of the tests")
    short = parser.parse_args().short
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source, dist, tests = (Path(folder, name) for name in ("source", "dist", "tests"))
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCES))
        call(sys.executable, "-m", "build", "--outdir", dist, source, cwd=Path(folder))  # the wheel from the sdist
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")

        with tarfile.open(sdist) as archive:
            archive.extractall(Path(folder), filter="data")
        shutil.copytree(Path(folder, sdist.name.removesuffix(".tar.gz"), "tests"), tests)
        venv.create(Path(folder, "venv"), with_pip=True)
        python = Path(folder, "venv", "Scripts" if os.name == "nt" else "bin", "python")
        call(python, "-m", "pip", "install", "--quiet", f"fastopt[test] @ {wheel.as_uri()}", cwd=tests)
        call(python, "-m", "pip", "check", cwd=tests)
        where = f"import fastopt; assert fastopt.__file__.startswith({folder + os.sep + 'venv'!r}), fastopt.__file__"
        call(python, "-c", where, cwd=tests)
        chosen = [f"test_{name}.py" for name in SHORT] if short else ["."]
        call(python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *chosen, cwd=tests)
    print(f"the sdist builds, and its wheel passes ({time.monotonic() - begin:.0f} s)")


if __name__ == "__main__":
    main()
