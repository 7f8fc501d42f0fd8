"""Docstrings name the arguments in their order, with the defaults that they have; their examples run."""

import ast
import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import fastopt
from fastopt import schedules
from support.docstrings import SHARED, entries, range_in_words
from support.registry import CLASSES

PUBLIC = {
    name: call
    for module in (fastopt, schedules)
    for name in module.__all__
    if (inspect.isfunction(call := getattr(module, name)) or inspect.isclass(call)) and call is not fastopt.RowGrad
}  # of classes in Cython Python knows no signature


def test_shared_options_are_documented_as_declared():
    found = {entry: (line, text) for entry, line, text in entries(fastopt.Optimizer)}
    assert list(found) == [name for name in SHARED if name != "lr"]
    for name, argument in SHARED.items():
        if name in ("params", "lr"):
            continue
        line = found[name][0]
        ending = ", optional" if argument.default is None else f", default {shown(argument.default)}"
        assert line.endswith(ending), f"fastopt/optimizer.py: {name} : ...{ending}"
        if name in ("weight_decay", "grad_scale", "clip_norm", "clip_value", "ema_decay"):
            words = range_in_words(fastopt.Adam, "lr", name)
            assert line.removesuffix(ending).endswith(f", {words}"), f"fastopt/optimizer.py: {name} : ..., {words}"


def shown(default):
    """A default as a docstring shows it."""
    if isinstance(default, str):
        return f'"{default}"'
    return f"{default:g}" if isinstance(default, float) else repr(default)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in CLASSES and name != "Optimizer"])
def test_arguments_are_documented_in_order_with_their_defaults(name):
    takes = dict(inspect.signature(PUBLIC[name]).parameters)
    found = [(entry.split(", "), line) for entry, line, _ in entries(PUBLIC[name])]
    assert [one for names, _ in found for one in names] == list(takes), f"{name}: parameters in the docstring"
    for names, line in found:
        defaults = [takes[one].default for one in names]
        wrong = f"{name}: {', '.join(names)} : {line}, but the defaults are {defaults}"
        if ", default " in line:
            words = line.partition(", default ")[2]
            values = [ast.literal_eval(one) for one in words.split(" and ")]
            assert (values * len(names) if len(values) == 1 else values) == defaults, wrong
        elif line:  # several options that are those of another class have none
            assert set(defaults) <= ({None} if line.endswith(", optional") else {inspect.Parameter.empty}), wrong


def test_examples():
    names = {module.name for module in pkgutil.walk_packages(fastopt.__path__, "fastopt.")} - {"fastopt.__main__"}
    results = [doctest.testmod(fastopt)]
    for name in sorted(names):
        try:
            module = import_module(name)
        except ImportError:
            continue  # of a library that is not here
        results.append(doctest.testmod(module))
    assert not sum(result.failed for result in results)
    assert sum(result.attempted for result in results) >= 12
