"""Bound steps within functions that Numba compiles: import this module, then pass the result of `bind`.

::

    import fastopt.numba

    @numba.njit
    def train(bound, w, g, x, y, steps):
        for step in range(steps):
            gradient(w, x, y, g)    # writes the bound gradient
            if bound.step():        # updates w; not 0: an error, which bound.check() raises
                break

    bound = fastopt.Adam([w], lr=1e-3).bind([g])
    train(bound, w, g, x, y, 1000)
    bound.check()

``bound.step()`` keeps nopython mode, works with ``nogil=True`` and in functions cached on disk, and returns a
``fastopt_status`` (docs/c-api.md).  Call it outside of `numba.prange`.
"""

# mypy: disallow_untyped_defs=False, disallow_untyped_calls=False, disallow_untyped_decorators=False
# mypy: disallow_subclassing_any=False

from __future__ import annotations

from typing import Any

try:
    from llvmlite import ir
    from numba.core import types
    from numba.core.cgutils import voidptr_t
    from numba.extending import NativeValue, intrinsic, models, overload_method, register_model, typeof_impl, unbox
except ImportError as error:
    raise ImportError("fastopt.numba needs numba: pip install 'fastopt[numba]'") from error

from . import _core

__all__: list[str] = []


class BoundStepType(types.Type):
    """The type of a `BoundStep`: the address of its fastopt_bound_step (fastopt.h)."""

    def __init__(self) -> None:
        super().__init__(name="fastopt.BoundStep")


register_model(BoundStepType)(models.OpaqueModel)


@typeof_impl.register(_core.BoundStep)
def type_of(value: _core.BoundStep, context: Any) -> BoundStepType:
    """Return the type of a bound step."""
    return BoundStepType()


@unbox(BoundStepType)
def unboxed(kind: BoundStepType, value: Any, context: Any) -> NativeValue:
    """Read the address, once for each call of a compiled function."""
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.pyapi.long_as_voidptr(address)
    context.pyapi.decref(address)
    return NativeValue(pointer, is_error=context.pyapi.c_api_error())


def called(typing_context, bound):
    """Call the function in a fastopt_bound_step with its argument."""

    def code(context, builder, signature, arguments):
        function = ir.FunctionType(ir.IntType(32), [voidptr_t])
        handle = ir.LiteralStructType([function.as_pointer(), voidptr_t]).as_pointer()
        fields = builder.load(builder.bitcast(arguments[0], handle))
        return builder.call(builder.extract_value(fields, 0), [builder.extract_value(fields, 1)])

    return types.int32(bound), code


call: Any = intrinsic(called)


@overload_method(BoundStepType, "step")
def step(bound):
    """Return the compiled form of ``bound.step()``."""

    def compiled(bound):
        return call(bound)

    return compiled
