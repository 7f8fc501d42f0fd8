"""A function of one's own, read and rewritten for one number type.

In Numba a Python number is a float64, and so is its product with a float32.  So every number in a rule becomes a name,
whose value has the type of the elements.  Functions that the rule calls are rewritten in the same way.  Code that a
rule cannot have is refused here, with its line.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import textwrap
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from reprlib import repr as brief
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..calls import nearest
from ..scalars import is_number
from .functions import (
    BY_NAME,
    exp,
    log,
    lost_mean,
    maximum,
    mean,
    minimum,
    norm,
    power,
    product,
    rms,
    sign,
    sqrt,
    tanh,
    total,
    weight,
    where,
)
from .functions import abs as absolute

PRODUCT, WEIGHT, LOST_MEAN = "_product", "_weight", "_lost_mean"

OF_STEPS = {product: PRODUCT, weight: WEIGHT, lost_mean: LOST_MEAN}
REDUCTIONS = {total, mean, norm, rms}
# Functions that are not rewritten, by the names that elementary.py has for them.
NATIVE: dict[Callable[..., Any], str] = {
    sqrt: "_sqrt",
    absolute: "_abs",
    exp: "_exp",
    log: "_log",
    power: "_power",
    tanh: "_tanh",
}
# Functions of other modules with the same meaning.
ALIKE: dict[Any, Callable[..., Any]] = {
    builtins.abs: absolute,
    math.exp: exp,
    math.fabs: absolute,
    math.log: log,
    math.pow: power,
    math.sqrt: sqrt,
    math.tanh: tanh,
    np.abs: absolute,
    np.exp: exp,
    np.fabs: absolute,
    np.log: log,
    np.maximum: maximum,
    np.minimum: minimum,
    np.power: power,
    np.sign: sign,
    np.sqrt: sqrt,
    np.tanh: tanh,
    np.where: where,
}
MOST_FACTORS = 16  # of x ** n

STATEMENTS = (ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.Pass)
EXPRESSIONS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Call, ast.Name, ast.Attribute)
OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
OTHERS = (ast.Constant, ast.Tuple, ast.Load, ast.Store)
ALLOWED = STATEMENTS + EXPRESSIONS + OPERATIONS + COMPARISONS + OTHERS


@dataclass(frozen=True)
class Written:
    """A function as its author wrote it."""

    label: str
    tree: ast.FunctionDef
    file: str
    module: str
    #: The names that its body finds outside of it.
    names: Mapping[str, Any]

    @staticmethod
    def read(label: str, function: Any) -> Written:
        """Return the source of a function, or raise TypeError."""
        if not isinstance(function, FunctionType):
            raise TypeError(f"{label} must be a Python function, got {brief(function)}")
        try:
            lines, first = inspect.getsourcelines(function)
            (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
        except (OSError, SyntaxError, ValueError) as error:
            raise TypeError(
                f"{label} must stand in a file or a notebook, where Python finds it, but {error}"
            ) from error
        if not isinstance(tree, ast.FunctionDef):
            raise TypeError(f"{label} must be written with def, got {brief(function)}")
        ast.increment_lineno(tree, first - 1)
        nonlocals: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # it has no value yet
                nonlocals[name] = cell.cell_contents
        names = ChainMap(nonlocals, function.__globals__)
        return Written(label, tree, function.__code__.co_filename, function.__module__, names)

    def refuse(self, node: ast.AST, problem: str, kind: type[Exception] = TypeError) -> NoReturn:
        """Raise an error that names the line."""
        raise kind(f"{self.label}, line {getattr(node, 'lineno', self.tree.lineno)} of {self.file}: {problem}")


class Results(NamedTuple):
    """The results that a function must return."""

    names: list[str]
    #: Why these, for messages.
    why: str = ""


class Writes(NamedTuple):
    """What the loop of a function writes."""

    p: bool
    state: bool
    #: Terms of sums.
    terms: int = 0


@dataclass
class Program:
    """The functions of a rule, rewritten."""

    #: Each with the file of its source.
    functions: dict[str, tuple[ast.FunctionDef, str]] = field(default_factory=dict)
    #: The numbers in them, whose names are their places.
    numbers: list[float] = field(default_factory=list)
    #: The names of functions that others call.
    names: dict[FunctionType, str] = field(default_factory=dict)
    #: The names of the reductions of its last results.
    reductions: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return all that determines the machine code, for a key of the cache."""
        trees = (f"{name}: {ast.dump(tree)}" for name, (tree, _) in sorted(self.functions.items()))
        return "\n".join((*trees, *map(float.hex, self.numbers)))

    def add(
        self, written: Written, results: Results | None, hyper: list[str] | None = None, reductions: int = 0
    ) -> str:
        """Rewrite a function, and those that it calls; return its name here.

        `results` are the results of a rule, or None for a function of one result.  `hyper` are the names of the
        hyperparameters for a function of scalars, else None.  `reductions` is how many of the last results are
        reductions.
        """
        name = f"_{written.tree.name}_{len(self.names)}"
        body = Body(written, self, results, hyper, reductions)
        arguments = written.tree.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        names = [one.arg for one in given] + ([PRODUCT, WEIGHT, LOST_MEAN] if hyper is not None else [])
        (tree,) = ast.parse(f"def {name}({', '.join(names)}): pass").body
        assert isinstance(tree, ast.FunctionDef)
        tree.body = body.statements()
        self.reductions = body.reductions
        self.functions[name] = ast.fix_missing_locations(ast.copy_location(tree, written.tree)), written.file
        return name


class Body(ast.NodeTransformer):
    """Rewrites the body of one function."""

    def __init__(
        self, written: Written, program: Program, results: Results | None, hyper: list[str] | None, reductions: int
    ) -> None:
        self.written, self.program, self.results, self.hyper = written, program, results, hyper
        self.n_reductions = reductions
        self.reductions: list[str] = []
        arguments = written.tree.args
        self.locals = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        self.arguments = frozenset(self.locals)
        for node in ast.walk(written.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.add(node.id)
        self.label = written.label

    def statements(self) -> list[ast.stmt]:
        """Return the rewritten body."""
        body = self.written.tree.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]  # the docstring
        if not ends(body):
            self.written.refuse(body[-1] if body else self.written.tree, f"must return {self._words()} at its end")
        return [self.visit(statement) for statement in body]

    def visit(self, node: ast.AST) -> Any:
        """Rewrite a node by the method of its type, or refuse it."""
        allowed = ALLOWED if self.hyper is None else (*ALLOWED, ast.Mod, ast.FloorDiv)
        if not isinstance(node, allowed):
            self.written.refuse(
                node, f"must consist of assignments, if, return and arithmetic, got {type(node).__name__}"
            )
        return super().visit(node)

    def visit_Return(self, node: ast.Return) -> ast.Return:
        """Check the number of results."""
        if self.results is None:
            if node.value is None or isinstance(node.value, ast.Tuple):
                self.written.refuse(node, "must return one number")
            self.generic_visit(node)
            return node
        values = values_of(node)
        if len(values) != len(self.results.names):
            self.written.refuse(node, f"must return {self._words()}, got {len(values)} value{'s' * (len(values) != 1)}")
        if self.n_reductions:
            values[-self.n_reductions :] = self._terms(node, values[-self.n_reductions :])
        elements = ast.Tuple([self.visit(value) for value in values], ast.Load())
        return ast.copy_location(ast.Return(ast.copy_location(elements, node)), node)

    def _terms(self, node: ast.Return, values: list[ast.expr]) -> list[ast.expr]:
        """Return the terms of reductions, and keep the names of these."""
        names, terms = [], []
        for value in values:
            called = isinstance(value, ast.Call) and not self._is_local(value.func) and self._value_of(value.func)
            if called not in REDUCTIONS:
                self.written.refuse(value, f"must return each sum as {reductions()}, got {ast.unparse(value)}")
            assert isinstance(value, ast.Call)
            if len(value.args) != 1 or value.keywords:
                self.written.refuse(value, f"{ast.unparse(value.func)} must get one term, got {ast.unparse(value)}")
            names.append(called.__name__)
            terms.append(value.args[0])
        if self.reductions not in ([], names):
            self.written.refuse(node, f"must return {', '.join(self.reductions)} everywhere, got {', '.join(names)}")
        self.reductions = names
        return terms

    def _words(self) -> str:
        return "one number" if self.results is None else ", ".join(self.results.names) + self.results.why

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """Put a name in the place of a number."""
        if isinstance(node.value, bool):
            return node
        if not isinstance(node.value, (int, float)):
            self.written.refuse(node, f"constants must be numbers, got {brief(node.value)}")
        self.program.numbers.append(float(node.value))
        return ast.copy_location(ast.Name(f"_number_{len(self.program.numbers) - 1}", ast.Load()), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Drop the annotation."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return self.visit(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Check that both sides are numbers, and rewrite powers."""
        for side in (node.left, node.right):
            if isinstance(side, (ast.Compare, ast.BoolOp)) or (
                isinstance(side, ast.UnaryOp) and isinstance(side.op, ast.Not)
            ):
                self.written.refuse(side, "a comparison is no number: use where(condition, x, y)")
        if not isinstance(node.op, ast.Pow):
            self.generic_visit(node)
            return node
        return self._power(node)

    def _power(self, node: ast.BinOp) -> ast.expr:
        """Rewrite x ** n: products for a small integer, a root for 0.5, else a power."""
        exponent = self._constant(node.right)
        if isinstance(exponent, float) and exponent.is_integer():
            exponent = int(exponent)
        if isinstance(exponent, int) and abs(exponent) <= MOST_FACTORS:
            right: ast.expr = ast.copy_location(ast.Constant(exponent), node.right)
            return ast.copy_location(ast.BinOp(self.visit(node.left), node.op, right), node)
        if exponent == 0.5:
            return self._native(sqrt, [self.visit(node.left)], node)
        if isinstance(exponent, int) and self.hyper is None:
            what = f"an integer exponent must be from -{MOST_FACTORS} to {MOST_FACTORS}"
            self.written.refuse(node, f"{what}, got {exponent}; power(x, {exponent}) is for x >= 0")
        return self._native(power, [self.visit(node.left), self.visit(node.right)], node)

    def _constant(self, node: ast.expr) -> int | float | None:
        """Return the number that an expression always is, or None."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            return None if value is None else -value
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, (int, float)) else None
        if isinstance(node, (ast.Name, ast.Attribute)) and not self._is_local(node):
            value = self._value_of(node)
            return value if is_number(value) else None
        return None

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Keep names of the function's own."""
        return node if self._is_local(node) else self._number(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Rewrite a constant of a module."""
        return self._number(node)

    def _is_local(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self.locals

    def _number(self, node: ast.Name | ast.Attribute) -> ast.expr:
        """Rewrite a name from outside, which must stand for a number."""
        value = self._value_of(node)
        if not is_number(value):
            self.written.refuse(node, f"{ast.unparse(node)} must be a number, got {brief(value)}")
        return self.visit_Constant(ast.copy_location(ast.Constant(float(value)), node))

    def _value_of(self, node: ast.expr) -> Any:
        """Return what a name from outside the function stands for."""
        if isinstance(node, ast.Name):
            if node.id in self.written.names:
                return self.written.names[node.id]
            if node.id in BY_NAME:
                return BY_NAME[node.id]
            known = [*self.locals, *BY_NAME]
            self.written.refuse(
                node,
                f"{node.id} is not known; functions are {', '.join(sorted(BY_NAME))}{nearest(node.id, known)}",
                NameError,
            )
        if isinstance(node, ast.Attribute):
            of = self._value_of(node.value)
            if isinstance(of, ModuleType) and hasattr(of, node.attr):
                return getattr(of, node.attr)
        self.written.refuse(node, f"{ast.unparse(node)} must be a name, or a name of a module", NameError)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Rewrite a call, and the function that it calls."""
        name = ast.unparse(node.func)
        if self._is_local(node.func):
            self.written.refuse(node, f"{name} is a number and cannot be called")
        if node.keywords or any(isinstance(value, ast.Starred) for value in node.args):
            self.written.refuse(node, f"arguments of {name} must be given by position")
        value = self._value_of(node.func)
        function = next((ours for theirs, ours in ALIKE.items() if theirs is value), value)
        if not isinstance(function, FunctionType):
            known = ", ".join(sorted(BY_NAME))
            self.written.refuse(node, f"{name} must be one of {known}, or a Python function, got {brief(value)}")
        takes = inspect.signature(function).parameters
        if len(node.args) != len(takes):
            self.written.refuse(node, f"{name} must get {', '.join(takes)}, got {len(node.args)} arguments")
        if function in OF_STEPS and self.hyper is None:
            self.written.refuse(node, f"{name} is for the scalars of a rule, see fastopt.rule, not for its loop")
        if function in REDUCTIONS:
            self.written.refuse(node, f"{name} must be one of the last results of gather, not within an expression")
        if function in OF_STEPS:
            return self._of_steps(OF_STEPS[function], name, node)
        arguments = [self.visit(value) for value in node.args]
        if function in NATIVE:
            return self._native(function, arguments, node)
        if self.program.names.get(function) == "":
            self.written.refuse(node, f"{name} must not call itself")
        if function not in self.program.names:
            self.program.names[function] = ""  # while it is rewritten
            self.program.names[function] = self.program.add(Written.read(f"{self.label}: {name}", function), None)
        return self._call(self.program.names[function], arguments, node)

    def _of_steps(self, table: str, name: str, node: ast.Call) -> ast.expr:
        """Rewrite product(beta), weight(beta) and lost_mean(beta): the core computes them."""
        (beta,) = node.args
        assert self.hyper is not None
        if not isinstance(beta, ast.Name) or beta.id not in self.hyper or beta.id not in self.arguments:
            self.written.refuse(node, f"{name} must get the name of a hyperparameter, got {ast.unparse(beta)}")
        entry = ast.Subscript(ast.Name(table, ast.Load()), ast.Constant(self.hyper.index(beta.id)), ast.Load())
        return ast.fix_missing_locations(ast.copy_location(entry, node))

    def _native(self, function: Callable[..., Any], arguments: list[ast.expr], node: ast.AST) -> ast.expr:
        return self._call(NATIVE[function], arguments, node)

    @staticmethod
    def _call(name: str, arguments: list[ast.expr], node: ast.AST) -> ast.expr:
        call = ast.Call(ast.Name(name, ast.Load()), arguments, [])
        return ast.fix_missing_locations(ast.copy_location(call, node))


def reductions() -> str:
    """Return the forms of reductions, in words."""
    *first, last = sorted(f"{function.__name__}(x)" for function in REDUCTIONS)
    return f"{', '.join(first)} or {last}"


def values_of(node: ast.Return) -> list[ast.expr]:
    """Return the expressions of the results."""
    return list(node.value.elts) if isinstance(node.value, ast.Tuple) else [node.value] if node.value else []


def count_results(tree: ast.FunctionDef) -> int:
    """Return the number of results in the first return of a function."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Return))
    return next((len(values_of(node)) for node in found), 0)


def ends(body: list[ast.stmt]) -> bool:
    """Return whether every way through these statements ends with a return."""
    last = body[-1] if body else None
    return isinstance(last, ast.Return) or (isinstance(last, ast.If) and ends(last.body) and ends(last.orelse))


def corrected(tree: ast.AST, hyper: list[str]) -> list[bool]:
    """Return for each hyperparameter whether a rewritten function of scalars reads its product over the steps."""
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    return [i in read for i in range(len(hyper))]
