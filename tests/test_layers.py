"""Imports run one way: programs import the library, which never imports them."""

import ast
from pathlib import Path

import pytest

import fastopt

PACKAGE = Path(fastopt.__file__).parent
PROGRAMS = PACKAGE / "cli"
LIBRARY = [
    file for file in sorted(PACKAGE.rglob("*.py")) if PROGRAMS not in file.parents and file.name != "__main__.py"
]


def imported(file):
    """Return the absolute names of the modules that a file of the package imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = file.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join((*parents, *filter(None, [node.module])))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", LIBRARY, ids=[str(file.relative_to(PACKAGE)) for file in LIBRARY])
def test_the_library_does_not_import_programs(file):
    assert not {name for name in imported(file) if name.startswith("fastopt.cli")}
