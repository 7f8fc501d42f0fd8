"""Loops that are C functions already: ctypes, cffi, Numba, Cython and SciPy's LowLevelCallable, by their signatures."""

from __future__ import annotations

import ctypes
import re
from importlib import import_module
from reprlib import repr as brief
from typing import Any, NamedTuple

LOOPS = {
    "float32": "void (float *, float *, void *, void *, ptrdiff_t)",
    "float64": "void (double *, double *, void *, void *, ptrdiff_t)",
}
SCALARS = "void (int64_t, void *, double *)"
# Integers of 64 bits, or of the size of a pointer.
INTEGERS = {"Py_ssize_t", "int64_t", "intptr_t", "long", "long long", "ptrdiff_t", "ssize_t"}


class Pointer(NamedTuple):
    """A C function."""

    address: int
    #: Keeps it alive.
    owner: Any


def pointer(label: str, value: Any, required: str) -> Pointer:
    """Return the C function that an object stands for, or raise TypeError unless it has this signature."""
    if type(value).__name__ == "LowLevelCallable":
        if value.user_data is not None:
            raise TypeError(f"{label} must have no user_data, got {brief(value.user_data)}")
        return pointer(label, value.function, required)._replace(owner=value)
    if type(value).__name__ == "PyCapsule":
        signature, address = _of_capsule(value)
    elif isinstance(value, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        signature, address = _of_ctypes(label, value)
    elif type(value).__module__ == "_cffi_backend":
        signature, address = _of_cffi(label, value)
    elif hasattr(value, "address") and hasattr(value, "_sig"):
        signature, address = _of_numba(value), value.address
    else:
        raise TypeError(
            f"{label} must be a function of ctypes, cffi or numba.cfunc, a capsule of Cython or a"
            f" scipy.LowLevelCallable, got {brief(value)}"
        )
    if not address or not _fits(_parts(signature), _parts(required)):
        raise TypeError(f"{label} must have signature {required!r}, got {signature!r}")
    return Pointer(address, value)


def _parts(signature: str) -> list[str]:
    """Return the type of the result and those of the arguments, without qualifiers and with one word for integers."""
    signature = re.sub(r"\b(const|restrict|noexcept|nogil)\b|\(\*\)", " ", signature)
    parts = (re.sub(r"\s*\*", "*", " ".join(part.split())) for part in re.split(r"[(,)]", signature))
    return ["integer" if part in INTEGERS else part for part in parts if part]


def _fits(found: list[str], required: list[str]) -> bool:
    """Return whether types are the required ones; `void *` stands for any pointer."""
    return len(found) == len(required) and all(
        one == other or (other == "void*" and one.endswith("*")) for one, other in zip(found, required, strict=True)
    )


def _of_capsule(value: Any) -> tuple[str, int]:
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = name(value)
    return (signature or b"").decode(), address(value, signature)


def _of_ctypes(label: str, value: Any) -> tuple[str, int]:
    if value.argtypes is None:
        raise TypeError(f"{label} must have argtypes and restype, got {brief(value)}")
    words: dict[Any, str] = {
        ctypes.c_float: "float",
        ctypes.c_double: "double",
        ctypes.c_void_p: "void *",
        None: "void",
    }

    def word(of: Any) -> str:
        if hasattr(of, "contents"):
            return f"{word(of._type_)} *".replace("* *", "**")
        if of in (ctypes.c_ssize_t, ctypes.c_int64, ctypes.c_longlong):
            return "int64_t"
        return words.get(of, brief(of))

    signature = f"{word(value.restype)} ({', '.join(map(word, value.argtypes))})"
    return signature, ctypes.cast(value, ctypes.c_void_p).value or 0


def _of_cffi(label: str, value: Any) -> tuple[str, int]:
    ffi: Any = import_module("cffi").FFI()
    of = ffi.typeof(value)
    if of.kind not in ("function", "pointer"):
        raise TypeError(f"{label} must be a function of cffi, got {of.cname}")
    return of.cname, int(ffi.cast("uintptr_t", value))


def _of_numba(value: Any) -> str:
    words = {"none": "void", "float32": "float", "float64": "double", "int64": "int64_t"}

    def word(of: Any) -> str:
        return f"{word(of.dtype)} *".replace("* *", "**") if hasattr(of, "dtype") else words.get(str(of), str(of))

    return f"{word(value._sig.return_type)} ({', '.join(map(word, value._sig.args))})"
