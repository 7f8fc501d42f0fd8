"""`fastopt.rule`: an optimizer from one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from threading import Lock
from typing import Any, NamedTuple, overload

from .. import _core
from ..calls import checks_arguments
from ..declarations import Hyperparameter, as_float, rate
from ..optimizer import Optimizer
from .pointers import LOOPS, SCALARS, Pointer, pointer
from .ranges import Range, annotated_ranges, usual_range
from .source import Program, Written, corrected


class OwnNumber(Hyperparameter):
    """A hyperparameter of a rule of one's own, with a range of its own."""

    def __init__(self, of: Range, default: float) -> None:
        super().__init__(default=default)
        self.of = of

    def check(self, label: str, value: Any) -> None:
        """Raise TypeError or ValueError unless the value is a number in the range."""
        self.of.check(label, as_float(label, value))


class Names(NamedTuple):
    """The names of a rule."""

    p: str
    #: Each buffer with its kind.
    state: dict[str, str]
    #: Each hyperparameter with its default and its range.
    hyper: dict[str, tuple[float, Range]]
    scalars: list[str]


def names_of(label: str, function: Callable[..., Any], exact: Sequence[str]) -> Names:
    """Read the names of a rule from the signature of a function, or raise TypeError or ValueError."""
    ranges = annotated_ranges(label, function)
    parameters = inspect.signature(function).parameters.values()
    by_position = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    by_name = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    if len(by_position) + len(by_name) < len(parameters):
        raise TypeError(f"{label}: arguments must have names, got {inspect.signature(function)}")
    if len(by_position) < 2:
        raise TypeError(f"{label} must take p and g by position, got {inspect.signature(function)}")
    for one in by_position:
        if one.default is not one.empty:
            raise TypeError(f"{label}: {one.name} must have no default; hyperparameters stand after *")

    state: dict[str, str] = {}
    for one in by_position[2:]:
        nonnegative = one.name in ranges and ranges[one.name].low >= 0
        state[one.name] = "exact" if one.name in exact else "nonnegative" if nonnegative else "signed"
    for name in exact:
        if name not in state:
            raise ValueError(f"{label}: exact must have names of state, {list(state)}, got {brief(name)}")
    hyper: dict[str, tuple[float, Range]] = {}
    for one in by_name:
        if one.default is not one.empty:
            of = ranges.get(one.name) or usual_range(one.name)
            default = as_float(f"{label}: {one.name}", one.default)
            of.check(f"{label}: {one.name}", default)
            hyper[one.name] = default, of
    check_hyper(label, hyper, ranges)
    return Names(by_position[0].name, state, hyper, [one.name for one in by_name if one.default is one.empty])


def check_hyper(label: str, hyper: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raise TypeError unless these can be hyperparameters beside the options of every rule."""
    first = next(iter(hyper), "none")
    if first != "lr" or "lr" in ranges:
        got = "a Range of its own" if first == "lr" else first
        raise TypeError(
            f"{label}: the first hyperparameter must be lr, with the range that it has everywhere, got {got}"
        )
    for name in hyper:
        if name != "lr" and name in Optimizer._declared:
            raise TypeError(f"{label}: {name} must have another name, since it is an option of every rule")


class OwnRule:
    """Makes the record of a rule for the C core, once: for the first optimizer."""

    def __init__(
        self,
        name: str,
        names: Names,
        loops: Callable[[], Mapping[str, Pointer]],
        scalars: Callable[[], Pointer] | None,
        corrected: Sequence[bool],
    ) -> None:
        self.name, self.names, self.loops, self.scalars, self.corrected = name, names, loops, scalars, corrected
        self.record: _core.OwnRule | None = None
        self.lock = Lock()

    def __call__(self) -> _core.OwnRule:
        """Return the record."""
        with self.lock:
            if self.record is None:
                self.record = self._made()
        return self.record

    def _made(self) -> _core.OwnRule:
        loops, scalars = self.loops(), None if self.scalars is None else self.scalars()
        hyper = [
            (name, of.smallest, of.high, of.closed, of.words, corrects)
            for (name, (_, of)), corrects in zip(self.names.hyper.items(), self.corrected, strict=True)
        ]
        return _core.OwnRule(
            self.name,
            self.names.state,
            hyper,
            len(self.names.scalars),
            0 if scalars is None else scalars.address,
            loops["float32"].address,
            loops["float64"].address,
            (loops, scalars),
        )


def compiled_loops(written: Written, names: Names) -> Callable[[], Mapping[str, Pointer]]:
    """Return a function that compiles the loops of a rule, which is read and checked now."""
    program = Program()
    element = program.add(written, [names.p, *names.state])

    def loops() -> Mapping[str, Pointer]:
        from .compiled import loop

        scalars = len(names.hyper) + len(names.scalars)
        return {dtype: loop(written, program, element, len(names.state), scalars, dtype) for dtype in LOOPS}

    return loops


def given_loops(label: str, loops: Any) -> Callable[[], Mapping[str, Pointer]]:
    """Return a function that returns loops which are C functions already, or raise TypeError."""
    if not isinstance(loops, Mapping) or set(loops) != set(LOOPS):
        got = brief(list(loops) if isinstance(loops, Mapping) else loops)
        raise TypeError(f"{label}: loops must be a mapping with {' and '.join(LOOPS)}, got {got}")
    found = {dtype: pointer(f"{label}: loops[{dtype!r}]", loops[dtype], LOOPS[dtype]) for dtype in LOOPS}
    return lambda: found


def scalars_of(label: str, names: Names, given: Any) -> tuple[Callable[[], Pointer] | None, list[bool]]:
    """Return a function that makes the C function of scalars, and which hyperparameters correct biases."""
    hyper = list(names.hyper)
    if given is None and names.scalars:
        what = f"since {', '.join(names.scalars)} have no default and so are scalars"
        raise TypeError(f"{label}: scalars must be a function, {what}, got None")
    if given is not None and not names.scalars:
        raise TypeError(
            f"{label}: scalars must be None without arguments by name that have no default, got {brief(given)}"
        )
    if given is None:
        return None, [False] * len(hyper)
    if not inspect.isfunction(given):
        found = pointer(f"{label}: scalars", given, SCALARS)
        return lambda: found, [of.is_share for _, of in names.hyper.values()]

    written = Written.read(f"{label}: {given.__name__}", given)
    step, *by_name = inspect.signature(given).parameters.values()
    taken = [one.name for one in by_name if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if step.kind is step.KEYWORD_ONLY or len(taken) < len(by_name) or not set(taken) <= set(hyper):
        what = f"must take the step, and then by name without defaults some of {', '.join(hyper)}"
        written.refuse(written.tree, f"{what}, got {inspect.signature(given)}")
    program = Program()
    entry = program.add(written, names.scalars, hyper)

    def scalars() -> Pointer:
        from .compiled import function_of_scalars

        return function_of_scalars(written, program, entry, list(map(hyper.index, taken)), len(names.scalars))

    return scalars, corrected(program.functions[entry][0], hyper)


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
    *, scalars: Any = None, exact: Sequence[str] = (), loops: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., Any]], type[Optimizer]]: ...
@checks_arguments
def rule(
    function: Callable[..., Any] | None = None,
    *,
    scalars: Any = None,
    exact: Sequence[str] = (),
    loops: Mapping[str, Any] | None = None,
) -> Any:
    """Make an optimizer of a function that updates one element.

    ::

        @fastopt.rule
        def sign_momentum(p, g, m, *, lr=1e-3, beta=0.9):
            m = beta * m + (1 - beta) * g
            return p - lr * sign(m), m

        opt = sign_momentum(params, lr=3e-4, clip_norm=1.0)

    The result is a class like `fastopt.Adam`: with groups, schedules, options, storage formats, copies and files.
    When the first optimizer is made, Numba compiles the function for float32 and for float64 to loops that take the
    place of a built-in rule's.

    Parameters
    ----------
    function : function, optional
        Takes the parameter, its gradient and its state by position, and hyperparameters by name, each with its default,
        lr first.  Returns the parameter and the state after the step.  It consists of assignments, ``if``, ``return``
        and arithmetic on its arguments, numbers and the functions of `fastopt.own_rules`.  ``Annotated[float,
        fastopt.Range(low, high)]`` gives a hyperparameter its range; without it, beta... and momentum lie in [0, 1),
        eps is >= 0, others are finite.  State with a range from 0 on is never negative, which codes of 8 bits use.
        Without a function, `rule` returns a decorator.
    scalars : function or C function, optional
        Computes numbers of a step in double, once for all elements: ``scalars(t, *, lr, ...)`` takes the step, from 1,
        and hyperparameters, and returns a number for each argument by name that has no default in `function`.
    exact : sequence of str, default ()
        State that no storage format may shorten.
    loops : mapping with "float32" and "float64", optional
        C functions in the place of the compiled ones, of ctypes, cffi, numba.cfunc, Cython (a capsule) or
        scipy.LowLevelCallable, with signature ``void (float *p, float *g, void *state, void *scalars, ptrdiff_t n)``,
        for float64 with double, as csrc/include/fastopt.h explains; the body of `function` is then not used.  The
        signature of a C function of `scalars` is ``void (int64_t t, void *in, double *scalars)``.

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
    once, as in C: threads, slices and machines change no bit.
    """
    if function is None:
        return lambda given: _made(given, scalars, exact, loops)
    return _made(function, scalars, exact, loops)


def _made(function: Any, scalars: Any, exact: Sequence[str], loops: Any) -> type[Optimizer]:
    label = getattr(function, "__name__", "fastopt.rule: function")
    written = Written.read(label, function)
    names = names_of(label, function, exact)
    of_loops = compiled_loops(written, names) if loops is None else given_loops(label, loops)
    attributes: dict[str, Any] = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": documented(function, names),
        "_rules": {label: {}},
        "_own_rule": OwnRule(label, names, of_loops, *scalars_of(label, names, scalars)),
        **{name: OwnNumber(of, default) for name, (default, of) in names.hyper.items()},
        "lr": rate(default=names.hyper["lr"][0], kw_only=False),
    }
    return type(label, (Optimizer,), attributes)
