"""The functions of a rule: each is read and checked at once, and compiled when the first optimizer is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, NamedTuple

from .pointers import LOOPS, SCALARS, Pointer, pointer
from .signature import Names, arguments_by_name, by_position
from .source import Program, Results, Writes, Written, corrected, count_results

Loops = Callable[[], Mapping[str, Pointer]]


class Scalars(NamedTuple):
    """The scalars of a step."""

    #: Makes their function; None if there are none.
    function: Callable[[], Pointer] | None
    #: For each hyperparameter whether it corrects the bias of a running mean.
    corrected: list[bool]


class Sums(NamedTuple):
    """The sums of a rule over a parameter."""

    #: Makes the loops of the first pass, by the fields of fastopt_rule_spec.
    loops: Loops
    combine: Callable[[], Pointer]
    reductions: list[str]
    writes_state: bool
    #: Scalars that `combine` computes: the last ones.
    n_combined: int


def compiled_loops(
    written: Written, names: Names, arguments: Sequence[str], results: Results, writes: Writes
) -> tuple[Loops, Program]:
    """Return a function that compiles the loops of a function of one element, which is read and checked now."""
    program = Program()
    element = program.add(written, results, reductions=writes.terms)
    numbers = [*names.hyper, *names.scalars]
    scalars = [numbers.index(name) for name in arguments if name in numbers]

    def loops() -> Mapping[str, Pointer]:
        from .compiled import loop

        return {dtype: loop(written, program, element, len(names.state), scalars, writes, dtype) for dtype in LOOPS}

    return loops, program


def given_loops(label: str, loops: Any) -> Callable[[], Mapping[str, Pointer]]:
    """Return a function that returns the given C functions, or raise TypeError unless they are loops."""
    if not isinstance(loops, Mapping) or set(loops) != set(LOOPS):
        got = brief(list(loops) if isinstance(loops, Mapping) else loops)
        raise TypeError(f"{label}: loops must be a mapping with {' and '.join(LOOPS)}, got {got}")
    found = {dtype: pointer(f"{label}: loops[{dtype!r}]", loops[dtype], LOOPS[dtype]) for dtype in LOOPS}
    return lambda: found


def check_scalars(label: str, names: Names, given: Any, needed: bool) -> None:
    """Raise TypeError unless a function of scalars is given where one is needed."""
    if given is None and needed:
        what = f"since {', '.join(names.scalars)} have no default and so are scalars"
        raise TypeError(f"{label}: scalars must be a function, {what}, got None")
    if given is not None and not names.scalars:
        raise TypeError(f"{label}: scalars must be None if all arguments by name have defaults, got {brief(given)}")


def scalars_of(label: str, names: Names, given: Any) -> Scalars:
    """Return the scalars of a rule without sums."""
    check_scalars(label, names, given, bool(names.scalars))
    if given is None:
        return Scalars(None, [False] * len(names.hyper))
    if not inspect.isfunction(given):
        found = pointer(f"{label}: scalars", given, SCALARS)
        return Scalars(lambda: found, [of.is_share for _, of in names.hyper.values()])
    return compiled_scalars(Written.read(f"{label}: {given.__name__}", given), names, names.scalars, given)


def compiled_scalars(
    written: Written, names: Names, results: list[str], given: Callable[..., Any], n_sums: int = 0
) -> Scalars:
    """Return the scalars of a function, which is read and checked now."""
    hyper = list(names.hyper)
    by_name = arguments_by_name(given)
    if by_name is None or not set(by_name) <= set(hyper):
        first = "the step, then the sums" if n_sums else "the step"
        what = f"must take {first}, and then by name without defaults some of {', '.join(hyper)}"
        written.refuse(written.tree, f"{what}, got {inspect.signature(given)}")
    program = Program()
    entry = program.add(written, Results(results), hyper)

    def scalars() -> Pointer:
        from .compiled import function_of_scalars

        places = [hyper.index(name) for name in by_name]
        return function_of_scalars(written, program, entry, places, len(results), n_sums)

    return Scalars(scalars, corrected(program.functions[entry][0], hyper))


def sums_of(label: str, names: Names, scalars: Any, gather: Any, combine: Any) -> tuple[Scalars, Sums]:
    """Return the scalars and the sums of a rule that has sums."""
    for name, given in (("scalars", scalars), ("gather", gather), ("combine", combine)):
        if not inspect.isfunction(given) and not (name == "scalars" and given is None):
            raise TypeError(f"{label}: {name} must be a Python function for a rule with sums, got {brief(given)}")
    check_scalars(label, names, scalars, False)
    first, of_first = list[str](), Scalars(None, [False] * len(names.hyper))
    if scalars is not None:
        written = Written.read(f"{label}: {scalars.__name__}", scalars)
        first = names.scalars[: count_results(written.tree)]
        of_first = compiled_scalars(written, names, first, scalars)
    combined = names.scalars[len(first) :]
    sums = by_position(combine)[1:]
    written = Written.read(f"{label}: {combine.__name__}", combine)
    if not combined:
        others = f" that {scalars.__name__} does not return" if first else ""
        written.refuse(written.tree, f"must compute some argument of {label} by name without a default{others}")
    if not sums:
        written.refuse(written.tree, f"must take the step, then the sums, got {inspect.signature(combine)}")
    of_combined = compiled_scalars(written, names, combined, combine, len(sums))

    written = Written.read(f"{label}: {gather.__name__}", gather)
    required, known = [names.p, names.g, *names.state], [*names.hyper, *first]
    arguments = arguments_by_name(gather)
    if by_position(gather) != required or arguments is None or not set(arguments) <= set(known):
        what = f"must take {', '.join(required)}, and then by name without defaults some of {', '.join(known)}"
        written.refuse(written.tree, f"{what}, got {inspect.signature(gather)}")
    writes = Writes(False, bool(names.state) and count_results(written.tree) != len(sums), len(sums))
    results = Results([*(names.state if writes.state else ()), *sums], f", as {combine.__name__} takes the sums")
    loops, program = compiled_loops(written, names, arguments, results, writes)
    assert of_combined.function is not None
    corrected = [one or other for one, other in zip(of_first.corrected, of_combined.corrected, strict=True)]
    of_sums = Sums(loops, of_combined.function, program.reductions, writes.state, len(combined))
    return Scalars(of_first.function, corrected), of_sums
