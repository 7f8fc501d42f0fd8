"""docs/guarantees.md names a test for every promise, and all of them exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")


def functions(file):
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def rows():
    """The lines of the tables: a promise, and what holds it."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and line.strip("|-") and not line.startswith("| promise"):
            promise, held_by = (cell.strip() for cell in line.strip("|").rsplit(" | ", 1))
            yield promise, held_by


def test_every_promise_names_what_holds_it():
    assert len(list(rows())) > 50
    for promise, held_by in rows():
        assert re.search(r"`tests/[\w/]+\.\w+(::\w+)?`|`make [\w-]+`|all of these", held_by), promise


def test_every_test_exists():
    names = set(re.findall(r"`(tests/[\w./]+)(?:::(\w+))?`", PAGE.read_text()))
    assert len(names) > 70
    for file, function in names:
        assert (ROOT / file).is_file(), file
        assert not function or function in functions(ROOT / file), f"{file}::{function}"


def test_every_command_exists():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`make (\w[\w-]*)", PAGE.read_text()))
    assert {"sanitize", "fuzz", "stress"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
