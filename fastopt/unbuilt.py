"""The error message where the compiled part of the package is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from platform import python_implementation, python_version


def explained(error: ImportError) -> ImportError:
    """Return the error of an import of `_core`, or one that says how to build it where it is not there at all."""
    spec = find_spec("fastopt._core")
    if spec is not None and spec.origin is not None:  # the folder of its sources alone has no origin
        return error
    root = Path(__file__).resolve().parents[1]
    return ImportError(
        f"fastopt in {root} is a source tree that is not built for {python_implementation()} {python_version()}: build"
        f' it there, by python -m pip install --editable "{root}", or start Python in another folder to use a fastopt'
        " that is installed"
    )
