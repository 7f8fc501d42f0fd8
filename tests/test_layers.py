"""Imports run one way: programs import the library, which never imports them, and no files import each other."""

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


def test_no_circle():
    """Neither at the top of files nor within functions, where a circle would hide."""
    names = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in LIBRARY}
    files = {name.removesuffix(".__init__"): file for name, file in names.items() if file != PACKAGE / "__init__.py"}
    left = {
        name: {other for other in imported(file) if other in files and other != name} for name, file in files.items()
    }
    assert "fastopt.parameters" in left["fastopt.optimizer"]
    while without := {name for name, others in left.items() if not others}:
        left = {name: others - without for name, others in left.items() if name not in without}
    assert left == {}  # those that are left import each other
