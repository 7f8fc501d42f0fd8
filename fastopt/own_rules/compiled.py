"""Rules of one's own as machine code, by Numba: a loop for each number type, and the function of the scalars."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from .pointers import Pointer
from .source import Program, Writes, Written

try:
    import numba
    from numba import types
    from numba.core.compiler import Compiler
    from numba.core.compiler_machinery import PassManager, register_pass
    from numba.core.errors import NumbaError
    from numba.core.lowering import Lower
    from numba.core.typed_passes import NativeLowering

    from .elementary import of_elements, of_scalars
except ImportError as _error:
    raise ImportError("fastopt.rule needs Numba: pip install 'fastopt[numba]'") from _error

VERSION = 2  # of elementary.py: machine code of another version is not taken from the cache


def vector_bits() -> int:
    """Return the width of vectors that the engine's kernels have, or less where the CPU has less."""
    return 512 if _core.isa() == "avx512wide" else 256


class LowerLoop(Lower):
    """Makes vectors as wide as those of the engine's kernels."""

    def lower_function_body(self) -> Any:
        """Lower, and pass the width to LLVM."""
        body = super().lower_function_body()
        width = f'"prefer-vector-width"="{vector_bits()}"'
        set.add(self.function.attributes, width)  # its own add() accepts fewer attributes
        return body


@register_pass(mutates_CFG=True, analysis_only=False)
class LoopLowering(NativeLowering):
    """The pass of `LowerLoop`."""

    _name = "fastopt_loop_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        """Its class."""
        return LowerLoop


class LoopCompiler(Compiler):
    """Compiles a loop whose pointers do not overlap, so that it needs no checks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state.flags.noalias = True

    def define_pipelines(self) -> Any:
        """Replace the pass that lowers."""
        (pipeline,) = super().define_pipelines()
        passes = PassManager(pipeline.pipeline_name)
        for one, words in pipeline.passes:
            passes.add_pass(LoopLowering if one is NativeLowering else one, words)
        passes.finalize()
        return [passes]


class MixedTypesError(Exception):
    """A variable of another type than the elements."""


class OneType(Compiler):
    """Compiles a function that computes in float32 alone."""

    def compile_extra(self, func: Any) -> Any:
        """Compile, and raise MixedTypesError where another number type occurs."""
        result = super().compile_extra(func)
        for name, of in result.type_annotation.typemap.items():
            if (
                isinstance(of, types.Number)
                and of != types.float32
                and not isinstance(of, (types.Boolean, types.Literal))
            ):
                raise MixedTypesError(name.split(".")[0], str(of))
        return result


def inner(compiler: type[Compiler]) -> Any:
    """Return a decorator that compiles a function for calls from compiled functions alone."""
    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
    return numba.njit(pipeline_class=compiler, **options)


def functions_of(program: Program, kind: Any, native: dict[str, Any]) -> dict[str, Any]:
    """Return the functions of a program for a number type, compiled when they are first called."""
    number = np.dtype(str(kind)).type
    names: dict[str, Any] = {f"_number_{i}": number(value) for i, value in enumerate(program.numbers)}
    names |= native
    for name, (tree, file) in program.functions.items():
        exec(compile(ast.Module([tree], []), file, "exec"), names)
        names[name] = inner(OneType if kind is types.float32 else Compiler)(names[name])
    return names


def callback(written: Written, text: str, names: dict[str, Any], signature: Any, sources: str) -> Pointer:
    """Compile the function `made(version)` of a text to a C function, cached on disk if its rule is in a file.

    Numba looks for it by the file of the rule and by the values of the closure: `version` stands for this text and all
    sources that it calls.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if "lineno" in node._attributes:
            node.lineno = node.end_lineno = written.tree.lineno  # type: ignore[attr-defined]
    names["__name__"] = written.module
    exec(compile(tree, written.file, "exec"), names)
    version = sha256(f"{VERSION} {vector_bits()} {numba.__version__} {text} {sources}".encode()).hexdigest()
    function = names["made"](int(version[:15], 16))
    function.__name__ = written.tree.name
    function.__qualname__ = written.tree.name
    options = {"error_model": "numpy"}
    try:
        try:
            made = numba.cfunc(signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            made = numba.cfunc(signature, **options)(function)
    except MixedTypesError as error:
        name, of = error.args
        what = name if name.isidentifier() else "a value"
        raise TypeError(
            f"{written.label} must compute in the type of its elements, but {what} has type {of}"
        ) from error
    except NumbaError as error:
        raise TypeError(f"{written.label} cannot be compiled{place(error, written)}: {problem(error)}") from error
    return Pointer(made.address, made)


def place(error: Exception, written: Written) -> str:
    """Return the line that Numba's error is about, in words."""
    found = re.findall(r'File "([^"]*)", line (\d+)', str(error))
    lines = [line for file, line in found if Path(file).name == Path(written.file).name]
    return f", line {lines[0]} of {written.file}" if lines else ""


def problem(error: Exception) -> str:
    """Return the line of Numba's error that explains it best."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    found = [line for line in lines if line and not line.startswith(("Failed in", "During", "File", "-", "^"))]
    return " ".join(line.lstrip("> ") for line in found[: 2 if found[0].endswith(":") else 1])


def loop(
    written: Written, program: Program, element: str, n_state: int, places: Sequence[int], writes: Writes, dtype: str
) -> Pointer:
    """Return the loop of a function over elements of a dtype, as the engine calls it.

    `places` are those of the scalars that the function takes by name, among all.
    """
    kind = getattr(types, dtype)
    state, terms = [f"s{i}" for i in range(n_state)], [f"t{i}" for i in range(writes.terms)]
    scalars = [f"k{place}" for place in places]
    results = ["p"] * writes.p + state * writes.state + terms
    update = (
        f"def update({', '.join(('p', 'g', *state, *terms, *scalars, 'n'))}):\n"
        f"    for i in range(n):\n"
        f"        {', '.join(f'{name}[i]' for name in results)}, ="
        f" element({', '.join((*(f'{name}[i]' for name in ('p', 'g', *state)), *scalars))})\n"
    )
    names = functions_of(program, kind, of_elements(dtype))
    compiled = {"element": names[element]}
    exec(update, compiled)
    names["update"] = inner(LoopCompiler)(compiled["update"])
    given = ["p", "g", *(f"state[{i}]" for i in range(n_state)), *(f"terms[{i}]" for i in range(writes.terms))]
    arguments = ", ".join(("p", "g", "state", "scalars", *["terms"] * bool(terms), "n"))
    text = (
        "def made(version):\n"
        f"    def loop({arguments}):\n"
        "        version\n"
        f"        update({', '.join((*given, *(f'scalars[{i}]' for i in places), 'n'))})\n"
        "    return loop\n"
    )
    pointer = types.CPointer(kind)
    buffers = types.CPointer(pointer)
    signature = types.void(pointer, pointer, buffers, pointer, *[buffers] * bool(terms), types.intp)
    return callback(written, text, names, signature, f"{update} {program.text()}")


def function_of_scalars(
    written: Written, program: Program, function: str, places: Sequence[int], n: int, n_sums: int = 0
) -> Pointer:
    """Return the function of n scalars of a step; `places` are those of its hyperparameters among all."""
    names = functions_of(program, types.float64, of_scalars())
    names["function"], names["real"] = names[function], types.float64
    given = ["real(t)", *(f"sums[{i}]" for i in range(n_sums)), *(f"given[0][{place}]" for place in places)]
    arguments = ", ".join(("t", "given", *["sums"] * bool(n_sums), "out"))
    text = (
        "def made(version):\n"
        f"    def scalars({arguments}):\n"
        "        version\n"
        f"        {', '.join(f'out[{i}]' for i in range(n))}, ="
        f" function({', '.join((*given, 'given[1]', 'given[2]', 'given[3]'))})\n"
        "    return scalars\n"
    )
    pointer = types.CPointer(types.float64)
    signature = types.void(types.int64, types.CPointer(pointer), *[pointer] * bool(n_sums), pointer)
    return callback(written, text, names, signature, program.text())
