"""Imports run one way: programs import the library, which never imports them, and no files import each other.

`import fastopt` loads the files that a step needs; the others are loaded when they are first used.
"""

import ast
import subprocess
import sys
from importlib import import_module
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


def imported_later():
    """Return (module, name) for the names of the package that `import fastopt` does not import."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    lazy = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return [(node.module, alias.name) for node in lazy.body for alias in node.names]


# Modules that are slow to import, or that a plain step does not need.
LATER = {"dataclasses", "difflib", "fnmatch", "hashlib", "json", "logging", "ml_dtypes", "numpy.typing", "pathlib"}
LATER |= {
    "platform",
    "safetensors",
    "tempfile",
    "torch",
    "typing_extensions",
    "fastopt.catalogue",
    "fastopt.cli",
    "fastopt.torch",
}
LATER |= {f"fastopt.{module or name}" for module, name in imported_later()}


def test_import_loads_what_a_step_needs():
    code = "import sys, numpy; before = {*sys.modules}; import fastopt; print(*{*sys.modules} - before)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "fastopt.optimizer" in loaded
    assert not loaded & LATER


def test_later_names_are_those_that_type_checkers_read():
    for module, name in imported_later():
        where = import_module(f"fastopt.{module or name}")
        assert getattr(fastopt, name) is (getattr(where, name) if module else where)
    assert {name for _, name in imported_later()} < set(fastopt.__all__) <= set(dir(fastopt))
