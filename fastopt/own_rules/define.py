"""`fastopt.rule`: an optimizer from one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, overload

from .. import _core
from ..calls import checks_arguments
from ..declarations import Hyperparameter, as_float, rate
from ..optimizer import Optimizer
from .parts import Loops, Scalars, Sums, compiled_loops, given_loops, scalars_of, sums_of
from .ranges import Range
from .signature import Names, names_of
from .source import Results, Writes, Written


class OwnNumber(Hyperparameter):
    """A hyperparameter of a rule of one's own, with a range of its own."""

    def __init__(self, of: Range, default: float) -> None:
        super().__init__(default=default)
        self.of = of

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError or ValueError unless the value is a number in the range."""
        self.of.check(label, as_float(label, value))


class OwnRule:
    """Makes the record of a rule for the C core, once: for the first optimizer."""

    def __init__(
        self,
        name: str,
        names: Names,
        loops: Loops,
        scalars: Scalars,
        sums: Sums | None,
    ) -> None:
        self.name, self.names, self.loops, self.scalars, self.sums = name, names, loops, scalars, sums
        self.record: _core.OwnRule | None = None
        self.lock = Lock()

    def __call__(self) -> _core.OwnRule:
        """Return the record."""
        with self.lock:
            if self.record is None:
                self.record = self._made()
        return self.record

    def _made(self) -> _core.OwnRule:
        functions, sums = dict(self.loops()), self.sums
        if self.scalars.function is not None:
            functions["scalars"] = self.scalars.function()
        if sums is not None:
            functions |= {f"gather_{dtype}": one for dtype, one in sums.loops().items()}
            functions["combine"] = sums.combine()
        hyper = [
            (name, of.smallest, of.high, of.closed, of.words, corrects)
            for (name, (_, of)), corrects in zip(self.names.hyper.items(), self.scalars.corrected, strict=True)
        ]
        n_combined = 0 if sums is None else sums.n_combined
        return _core.OwnRule(
            self.name,
            self.names.state,
            hyper,
            len(self.names.scalars) - n_combined,
            functions,
            [] if sums is None else sums.reductions,
            sums is not None and sums.writes_state,
            n_combined,
        )


def documented(function: Callable[..., Any], names: Names) -> str:
    """Return the docstring of the class of a rule."""
    lines = [inspect.getdoc(function) or f"The rule {function.__name__}.", "", "Parameters", "----------", "params"]
    lines += ["    The arrays to update in place; see `Optimizer`."]
    lines += [f"{name} : float, {of.words}, default {default:g}" for name, (default, of) in names.hyper.items()]
    lines += ["**shared", "    weight_decay=0.0 (L2), maximize=False and the options of the step; see `Optimizer`."]
    if names.state:
        lines += ["", "Notes", "-----", f"State: {', '.join(f'``{name}``' for name in names.state)}."]
    return "\n".join(lines)


@overload
def rule(function: Callable[..., Any]) -> type[Optimizer]: ...
@overload
def rule(
    *,
    scalars: Any = None,
    gather: Callable[..., Any] | None = None,
    combine: Callable[..., Any] | None = None,
    exact: Sequence[str] = (),
    loops: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], type[Optimizer]]: ...
@checks_arguments
def rule(
    function: Callable[..., Any] | None = None,
    *,
    scalars: Any = None,
    gather: Callable[..., Any] | None = None,
    combine: Callable[..., Any] | None = None,
    exact: Sequence[str] = (),
    loops: Mapping[str, Any] | None = None,
) -> Any:
    """Make an optimizer from a function that updates one element.

    ::

        @fastopt.rule
        def sign_momentum(p, g, m, *, lr=1e-3, beta=0.9):
            m = beta * m + (1 - beta) * g
            return p - lr * sign(m), m

        opt = sign_momentum(params, lr=3e-4, clip_norm=1.0)

    The result is a class like `fastopt.Adam`: with groups, schedules, options, storage formats, copies and files.
    When the first optimizer is made, Numba compiles the function to loops for float32 and for float64.  They replace
    the loops of a built-in rule.

    Parameters
    ----------
    function : function, optional
        Takes the parameter, its gradient and its state by position, and hyperparameters by name, each with its default,
        lr first.  Returns the parameter and the state after the step.  It consists of assignments, ``if``, ``return``,
        arithmetic on its arguments and numbers, and calls of the functions of `fastopt.own_rules` or of functions of
        your own with the same parts.  ``Annotated[float, fastopt.Range(low, high)]`` gives a hyperparameter its range.
        Without a range, momentum and names that begin with beta are in [0, 1), eps is >= 0, and others are finite.
        State whose range begins at 0 is never negative; its codes of 8 bits have no sign.  Without a function, `rule`
        returns a decorator.
    scalars : function or C function, optional
        Computes numbers of a step in double, once for all elements.  ``scalars(t, *, lr, ...)`` takes the step, counted
        from 1, and hyperparameters.  It returns a number for each argument by name that has no default in `function`.
    gather : function, optional
        For a rule with sums over a whole parameter.  Computes the terms of one element, in a pass before `function`.
        Takes the same arguments by position, and hyperparameters and scalars by name.  Returns each sum as ``norm(x)``,
        ``rms(x)``, ``total(x)`` or ``mean(x)``.  It may return the state before the sums: then this pass writes the
        state, and `function` reads the new state and returns the parameter alone.
    combine : function, optional
        Computes the scalars that `scalars` does not return, once for each parameter.  ``combine(t, x, y, *, lr, ...)``
        takes the step, the sums in the order of `gather`, and hyperparameters.
    exact : sequence of str, default ()
        State that no storage format may shorten.
    loops : mapping with "float32" and "float64", optional
        C functions that replace the compiled loops: of ctypes, cffi, numba.cfunc, Cython (a capsule) or
        scipy.LowLevelCallable.  The signature is ``void (float *p, float *g, void *state, void *scalars, ptrdiff_t
        n)``, with double for float64; csrc/include/fastopt.h explains it.  The body of `function` is then not used.  A
        C function as `scalars` has the signature ``void (int64_t t, void *in, double *scalars)``.

    Returns
    -------
    type
        A subclass of `fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError, NameError
        For a function that is no rule; the message names the rule and the line.
    ImportError
        Without Numba, when the first optimizer is made.

    Notes
    -----
    Numbers in the function have the type of the elements; hyperparameters are rounded to it.  Each operation is rounded
    once, as in C.  So results do not depend on threads and machines, nor, without sums, on slices.
    """
    if function is None:
        return lambda given: _made(given, scalars, gather, combine, exact, loops)
    return _made(function, scalars, gather, combine, exact, loops)


def _made(function: Any, scalars: Any, gather: Any, combine: Any, exact: Sequence[str], loops: Any) -> type[Optimizer]:
    label = getattr(function, "__name__", "fastopt.rule: function")
    written = Written.read(label, function)
    names = names_of(label, function, exact)
    sums, writes, results = None, Writes(True, True), Results([names.p, *names.state])
    if gather is None and combine is None:
        of_scalars = scalars_of(label, names, scalars)
    elif loops is not None:
        raise TypeError(
            f"{label}: loops must be None for a rule with sums, got C functions: for these use fastopt_rule_create()"
        )
    else:
        of_scalars, sums = sums_of(label, names, scalars, gather, combine)
    if sums is not None and sums.writes_state:
        writes, results = Writes(True, False), Results([names.p], f" alone, since {gather.__name__} returns the state")
    if loops is None:
        of_loops, _ = compiled_loops(written, names, list(inspect.signature(function).parameters), results, writes)
    else:
        of_loops = given_loops(label, loops)
    attributes: dict[str, Any] = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": documented(function, names),
        "_rules": {label: {}},
        "_own_rule": OwnRule(label, names, of_loops, of_scalars, sums),
        **{name: OwnNumber(of, default) for name, (default, of) in names.hyper.items()},
        "lr": rate(default=names.hyper["lr"][0], kw_only=False),
    }
    return type(label, (Optimizer,), attributes)
