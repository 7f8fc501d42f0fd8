"""How the buffers of a parameter are stored: the formats that `state_dtype` and `master` ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arena import buffer
from .nest import Array, Name
from .stored import DTYPES, FORMATS, Stored, misfit, rounded, to_odd

if TYPE_CHECKING:
    from numpy.typing import NDArray

NATIVE = FORMATS["native"]

# How a parameter of 16 bits is stored, by its dtype and by the word for its master.
OF_PARAMETERS: dict[str, dict[str | None, str]] = {
    "bfloat16": {
        "auto": "split16",
        "split16": "split16",
        "split8": "split8",
        "float32": "master_bfloat16",
        None: "bfloat16",
    },
    "float16": {"auto": "master_float16", "float32": "master_float16", None: "float16"},
}
DTYPES_OF_PARAMETERS = (*OF_PARAMETERS, "float32", "float64")
OF_ITSELF = ("low", "master")  # letters of the second part of a parameter
OF_STORAGE = ("state_dtype", "master", "rounding")  # hyperparameters of groups that say how it is stored


class Slot:
    """A buffer of a parameter: its letter, its shape and how it is stored."""

    def __init__(
        self,
        letter: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        format: _core.Format,
        dtype_of_rest: np.dtype[Any] | None = None,
        in_order: bool = True,
    ) -> None:
        self.letter, self.shape, self.dtype, self.format = letter, shape, dtype, format
        self.dtype_of_rest = dtype_of_rest
        self.in_order = in_order  # whether its elements lie in the order in which the parameter is walked

    @property
    def rest_begins(self) -> int:
        """Where the second part begins."""
        size = prod(self.shape) * self.dtype.itemsize
        entry = self.dtype_of_rest.itemsize if self.dtype_of_rest else 1
        return -(-size // entry) * entry

    @property
    def n_rest(self) -> int:
        """The entries of the second part."""
        return -(-prod(self.shape) // self.format.group) if self.dtype_of_rest else 0

    @property
    def nbytes(self) -> int:
        """The bytes of both parts."""
        return self.rest_begins + (self.n_rest * self.dtype_of_rest.itemsize if self.dtype_of_rest else 0)

    def placed(self, arena: NDArray[np.uint8], at: int, order: tuple[int, ...]) -> tuple[Array, Array | None]:
        """Return the two parts as arrays in this memory, for a parameter that is walked in this order of axes."""
        data = buffer(arena, at, self.dtype, self.shape, order if self.in_order else None)
        if not self.dtype_of_rest:
            return data, None
        return data, buffer(arena, at + self.rest_begins, self.dtype_of_rest, (self.n_rest,))


class Formats:
    """How a parameter and its state are stored, where something is not native, as the C core takes it."""

    def __init__(
        self, numbers: tuple[int, ...], rests: tuple[Array | None, ...], stochastic: bool, seed: int, key: int
    ) -> None:
        self.numbers = numbers  # of the formats of the parameter and of each state buffer
        self.rests = rests  # their second parts
        self.stochastic, self.seed = stochastic, seed
        self.key = key  # of the parameter's random numbers


def computed_in(array: Array) -> np.dtype[Any]:
    """Return the dtype in which the rule computes for a parameter; its averages and its native state have it too."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def is_native(array: Array, hyper: Mapping[str, Any]) -> bool:
    """Return whether all buffers of a parameter are of the dtype in which the rule computes."""
    return hyper["state_dtype"] is None and array.dtype.char in "fd"


def slots(
    label: str, array: Array, settings: _core.Settings, averages: tuple[str, ...], hyper: Mapping[str, Any]
) -> tuple[_core.Format, list[Slot]]:
    """Return how a parameter is stored, and the buffers of its state, its averages and its second part; or raise.

    A buffer that the rule needs exactly, or that has not the parameter's shape, is native.
    """
    dtype, letters = computed_in(array), settings.state_names
    shapes = [*settings.shapes(array), *[array.shape] * len(averages)]
    of_p = of_parameter(label, array, hyper["master"])
    if isinstance(hyper["state_dtype"], Mapping):
        for letter in hyper["state_dtype"]:
            if letter not in letters:
                known = ", ".join(letters) or "of which there are none"
                raise ValueError(
                    f"{label}: state_dtype must have letters of the state as keys, {known}, got {letter!r}"
                )
    found: list[Slot] = []
    for s, (letter, shape) in enumerate(zip(letters, shapes, strict=False)):
        stored = of_state(label, array, settings, letter, s, hyper["state_dtype"])
        data, rest = (dtype, None) if stored is NATIVE else DTYPES[stored.name]
        found.append(
            Slot(letter, shape, np.dtype(data), stored, np.dtype(rest) if rest else None, settings.is_whole(s))
        )
    found += [Slot(name, array.shape, dtype, NATIVE) for name in averages]
    if of_p.rest_bytes:
        letter = OF_ITSELF[not of_p.name.startswith("split")]
        found.append(Slot(letter, array.shape, np.dtype(DTYPES[of_p.name][1]), NATIVE))
    return of_p, found


def placed(
    of_p: _core.Format,
    found: list[Slot],
    n_state: int,
    arena: NDArray[np.uint8],
    places: list[int],
    order: tuple[int, ...],
    rounding: tuple[bool, int, int],
) -> tuple[list[Array], Formats | None, dict[str, Any]]:
    """Return the buffers of a parameter in their memory, how they are stored, and both by letter."""
    parts = [slot.placed(arena, at, order) for slot, at in zip(found, places, strict=True)]
    buffers = [data for data, _ in parts]
    shown: dict[str, Any] = {
        slot.letter: data if slot.format is NATIVE else Stored(slot.format.name, data, rest, order)
        for slot, (data, rest) in zip(found, parts, strict=True)
    }
    numbers = (of_p.number, *(slot.format.number for slot in found[:n_state]))
    if not any(numbers):
        return buffers, None, shown
    rests = (buffers.pop() if of_p.rest_bytes else None, *(rest for _, rest in parts[:n_state]))
    return buffers, Formats(numbers, rests, *rounding), shown


def of_parameter(label: str, array: Array, master: str | None) -> _core.Format:
    """Return how a parameter is stored."""
    if array.dtype.name not in OF_PARAMETERS:
        return NATIVE
    masters = OF_PARAMETERS[array.dtype.name]
    if master not in masters:
        raise ValueError(
            f"{label}: master must be float32 or None for a parameter of float16, since a float16 and some more bits"
            f" cannot represent a float32, got {master!r}"
        )
    return FORMATS[masters[master]]


def check_master(label: str, master: str | None, arrays: Iterable[Array]) -> None:
    """Raise ValueError for a master that is asked for where no parameter can have one."""
    dtypes = {array.dtype.name for array in arrays}
    if master not in ("auto", None) and dtypes.isdisjoint(OF_PARAMETERS):
        raise ValueError(
            f"{label}: master must be auto or None for parameters of {' and '.join(sorted(dtypes))}, since only"
            f" parameters of 16 bits have one, got {master!r}"
        )


def of_state(label: str, array: Array, settings: _core.Settings, letter: str, s: int, state_dtype: Any) -> _core.Format:
    """Return how a state buffer is stored."""
    named = isinstance(state_dtype, Mapping) and letter in state_dtype
    word = state_dtype[letter] if named else None if isinstance(state_dtype, Mapping) else state_dtype
    if word is None or word == computed_in(array).name:
        return NATIVE
    kind = settings.kinds[s]
    if kind == "exact" or not settings.is_whole(s):
        if named:
            why = "the rule needs each of its bits" if kind == "exact" else "it is not of the parameter's shape"
            raise ValueError(f"{label}: state_dtype[{letter!r}] must be left out, since {why}, got {word!r}")
        return NATIVE
    if word != "8bit":
        return FORMATS[word]
    if settings.takes_matrices:
        raise ValueError(
            f"{label}: state_dtype must not be 8bit for {letter!r} of {settings.rule_name}, whose passes over rows"
            f" would cut the groups of codes; use float16 or bfloat16"
        )
    few = array.size < 2  # a code and its scale would take more
    return NATIVE if few else FORMATS[f"codes_{kind}"]


def format_of_itself(dtype: str, shape: tuple[int, ...], letters: Mapping[str, Any]) -> str | None:
    """Return the format of a parameter with the second part that is among its letters, None for another one."""
    of_16_bits = OF_PARAMETERS.get(dtype)
    rest = next((letters[letter] for letter in OF_ITSELF if letter in letters), None)
    if of_16_bits is None:
        return "native" if rest is None else None
    if rest is None:
        return dtype
    fits = isinstance(rest, np.ndarray) and rest.shape == shape
    with_rest = [name for name in of_16_bits.values() if DTYPES[name][1] is not None]
    return next((name for name in with_rest if fits and rest.dtype == DTYPES[name][1]), None)


def values_of(array: Array, letters: Mapping[str, Any]) -> Array:
    """Return the values that a parameter and its second part stand for: a new array, or itself where it is native."""
    name = format_of_itself(array.dtype.name, array.shape, letters)
    if name is None or name == "native":
        return array
    rest = next((np.asarray(letters[letter], order="C") for letter in OF_ITSELF if letter in letters), None)
    values: Array = _core.decoded(name, np.asarray(array, order="C"), rest)
    return values


def rest_of(name: str, array: Array, values: Array) -> Array | None:
    """Return the second part of a parameter of this format that stands for about these float32 values, or None."""
    of_rest = None if name == "native" else DTYPES[name][1]
    if of_rest is None:
        return None
    dtype = np.dtype(of_rest)
    if dtype == np.float32:
        return values
    low = values.view(np.uint32).astype(np.int64) - (array.view(np.uint16).astype(np.int64) << 16)
    info, shift = np.iinfo(dtype), 16 - 8 * dtype.itemsize
    rounded = np.clip((low + (1 << shift >> 1)) >> shift, info.min, info.max)
    return np.asarray(rounded, dtype)


def as_parameter(name: str, dtype: np.dtype[Any], values: Array) -> tuple[Array, Array | None]:
    """Return a parameter of this format and its second part that stand for these values, rounded once."""
    if name == "native":
        return rounded(values, dtype), None
    data, of_rest = np.empty(values.shape, dtype), DTYPES[name][1]
    rest = None if of_rest is None else np.empty(values.shape, of_rest)
    _core.encode(name, to_odd(values) if rest is None else rounded(values, np.dtype(np.float32)), data, rest)
    return data, rest


def key_of(name: Name) -> int:
    """Return the number by which a parameter's elements are rounded, the same wherever it has this name."""
    from hashlib import blake2b  # only those whose elements are rounded pay for it

    plain = str(name) if isinstance(name, str) else int(name)  # a subclass may have another repr
    return int.from_bytes(blake2b(repr(plain).encode(), digest_size=8).digest(), "little")


def initial_values(letters: Mapping[str, Array | Stored], initial: Mapping[str, float]) -> list[tuple[Array, Any]]:
    """Return the arrays of a parameter's state with the values that they start from, but for those of itself."""
    values: list[tuple[Array, Any]] = []
    for letter, array in letters.items():
        if letter in OF_ITSELF:
            continue
        value = initial.get(letter, 0)
        if not isinstance(array, Stored):
            values.append((array, value))
            continue
        codes, scales = array.encoded(np.full(array.shape, value, np.float32))
        values.append((array.codes, codes))
        if array.scales is not None:
            values.append((array.scales, scales))
    return values


# ---- Saving ----

SCALES = ".scales"  # ends the name under which the scales of a buffer are saved


def parts_of(letters: Mapping[str, Array | Stored]) -> dict[str, Array]:
    """Return the arrays of a parameter's state as they are saved: codes by their letter, scales beside them."""
    found: dict[str, Array] = {}
    for letter, value in letters.items():
        if not isinstance(value, Stored):
            found[letter] = value
            continue
        found[letter] = value.codes
        if value.scales is not None:
            found[letter + SCALES] = value.scales
    return found


DESCRIPTIONS = ("dtype", "formats", "order")  # entries of a saved state that say how all is stored


def described(array: Array, letters: Mapping[str, Array | Stored]) -> dict[str, Any]:
    """Return how a parameter and its state are stored, for its saved state.

    That is its dtype, and by letter the formats of the buffers that are not native.  Scales come in the order in which
    the parameter is walked; "order" gives that order unless it is C order.
    """
    stored = {letter: value for letter, value in letters.items() if isinstance(value, Stored)}
    orders = {value.order for value in stored.values() if value.scales is not None}
    unusual = [list(order) for order in orders if order != tuple(range(len(order)))]
    formats = {"formats": {letter: value.format for letter, value in stored.items()}} if stored else {}
    return {"dtype": array.dtype.name} | formats | ({"order": unusual[0]} if unusual else {})


def walk_of(order: Iterable[int], array: Array) -> list[int]:
    """Return the axes along which a parameter is walked in this order; those of one element do not count."""
    return [axis for axis in order if array.shape[axis] > 1]


def stored_as_here(
    where: str,
    entry: Mapping[str, Any],
    letters: Mapping[str, Array | Stored],
    array: Array,
    given: Array | None,
    convert: bool,
) -> tuple[Mapping[str, Any], Array | None, str | None]:
    """Return a saved state and its parameter stored as they are here, rounded once, or why they are stored otherwise.

    The parameter here is `array`; `given` is the saved one, None where the one here stays as it is.
    """
    here = described(array, letters)
    dtype = entry.get("dtype", here["dtype"]) if given is None else given.dtype.name
    of_p_here = format_of_itself(here["dtype"], array.shape, letters)
    of_p = format_of_itself(dtype, array.shape, entry) if isinstance(dtype, str) else None
    # A second part that is of no parameter is refused as it is.
    same_p = dtype == here["dtype"] and of_p in (None, of_p_here)
    if same_p and all(entry.get(key) == here.get(key) for key in ("formats", "order")):
        return entry, given, None
    once = "; convert=True rounds it once"
    if not isinstance(dtype, str) or dtype not in DTYPES_OF_PARAMETERS:
        return entry, given, f"dtype in {where} must be a dtype of parameters, got {brief(dtype)}"
    if of_p is None and not same_p:
        return entry, given, f"the parameter of {where} must have a second part of {dtype}, got another one"
    if dtype != here["dtype"] and not convert:
        return entry, given, f"the parameter of {where} must have dtype {here['dtype']}, got {dtype}{once}"
    found, problem = buffers_as_here(where, entry, letters, array, convert)
    if problem is not None or same_p:
        return {**found, **here}, given, problem
    if not convert:
        return entry, given, f"the parameter of {where} must be stored as {of_p_here}, got {of_p}{once}"
    for letter in OF_ITSELF:
        found.pop(letter, None)
    if given is not None:
        given, rest = as_parameter(str(of_p_here), array.dtype, values_of(given, entry))
    else:  # the second part of another dtype fits no parameter here
        rest = rest_of(str(of_p_here), array, values_of(array, entry if dtype == here["dtype"] else {}))
    found |= {letter: rest for letter in OF_ITSELF if letter in letters}
    return found | here, given, None


def buffers_as_here(
    where: str, entry: Mapping[str, Any], letters: Mapping[str, Array | Stored], array: Array, convert: bool
) -> tuple[dict[str, Any], str | None]:
    """Return the entries of a saved state with its buffers in the formats of those here, or why they have others."""
    saved, here = entry.get("formats", {}), described(array, letters)
    found = {key: value for key, value in entry.items() if key not in DESCRIPTIONS}
    if not isinstance(saved, Mapping):
        return found, f"formats in {where} must be a mapping, got {brief(saved)}"
    if not set(saved) <= set(letters):
        return found, f"formats in {where} must name buffers among {', '.join(letters)}, got {brief(saved)}"
    order, order_here = (one.get("order", list(range(array.ndim))) for one in (entry, here))
    are_axes = isinstance(order, (list, tuple)) and all(type(axis) is int for axis in order)
    if not are_axes or sorted(order) != [*range(array.ndim)]:
        return found, f"order in {where} must be one of the axes of {array.ndim}, got {brief(order)}"
    in_order, once = walk_of(order, array) == walk_of(order_here, array), "; convert=True rounds it once"
    for letter, value in letters.items():
        before, now = saved.get(letter, "native"), value.format if isinstance(value, Stored) else "native"
        if letter not in entry or letter in OF_ITSELF:
            continue
        values, what = entry[letter], f"{letter!r} in {where}"
        if before == now:
            both_native = now == "native" and is_native_buffer(value) and is_native_buffer(values)
            if not (both_native and values.dtype != value.dtype) and (in_order or not now.startswith("codes")):
                continue
        if not convert:
            if before != now:
                return found, f"{what} must be stored as {now}, got {brief(before)}{once}"
            if now == "native":
                return found, f"{what} must have dtype {value.dtype}, got {values.dtype}{once}"
            return found, f"the codes of {what} must be in the order of axes {order_here}, got {brief(order)}{once}"
        scales = found.pop(letter + SCALES, None)
        if before == "native":
            if not is_native_buffer(values) or values.shape != value.shape:
                return found, f"{what} must be an array of floats of shape {value.shape}, got {brief(values)}"
        elif problem := misfit(what, before, values, scales, value.shape):
            return found, problem
        else:
            values = np.asarray(Stored(before, values, scales, order))
        if isinstance(value, Stored):
            found[letter], scales = value.encoded(values)
            found |= {} if scales is None else {letter + SCALES: scales}
        else:
            found[letter] = rounded(values, value.dtype)
    return found, None


def is_native_buffer(value: Any) -> bool:
    """Return whether a value is a buffer of float32 or float64."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        return False
    return bool(value.dtype == np.float32 or value.dtype == np.float64)
