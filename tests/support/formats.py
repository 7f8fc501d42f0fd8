"""The oracle of the storage formats: elements to what is stored and back, in integers and exact arithmetic.

A format stores float32 elements as an array of data and a second one, the rest. `random` are the 16 random bits of each
element, or None for rounding to nearest, halfway to even.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

GROUP = 64
SIZE = 0x7FFFFFFF  # all bits but the sign
INFINITE = 0x7F800000
NORMAL = 0x00800000  # the smallest normal number
LARGEST_SCALED = 0x7F7F0000  # the largest bfloat16: a group with a larger element is infinite

Stored = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Format:
    """A format by its functions. elements(n) is how many entries the rest has for n elements."""

    name: str
    store: Callable[[np.ndarray, np.ndarray | None], Stored]
    load: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    data: Any  # dtype
    rest: Any = None
    group: int = 1
    rounds: bool = True  # whether random bits change anything

    def empty(self, n: int) -> Stored:
        """Room for n elements."""
        return np.zeros(n, self.data), self.rest and np.zeros(-(-n // self.group), self.rest)


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.int64)


def floats(b: np.ndarray) -> np.ndarray:
    return (np.asarray(b) & 0xFFFFFFFF).astype(np.uint32).view(np.float32)


def narrow(x: np.ndarray) -> np.ndarray:
    """What is stored of elements that are not float32: a double below the smallest normal float32 counts as 0."""
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.where(abs(x) < np.finfo(np.float32).tiny, np.copysign(0, x), x).astype(np.float32)


def shortened(b: np.ndarray, cut: int, random: np.ndarray | None) -> np.ndarray:
    """Bits without the last `cut` ones."""
    return (b + (random if random is not None else (1 << cut - 1) - 1 + (b >> cut & 1))) >> cut


# ---- bfloat16 and float16 ----


def store_bfloat16(x: np.ndarray, random: np.ndarray | None) -> Stored:
    return np.where(np.isnan(x), 0x7FC0, shortened(bits(x), 16, random)).astype(np.uint16), None


def load_bfloat16(data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
    return floats(data.astype(np.int64) << 16)


def store_float16(x: np.ndarray, random: np.ndarray | None) -> Stored:
    """To nearest as NumPy has it. At random: the size in units of the last place, with 13 bits behind the point."""
    if random is None:
        with np.errstate(over="ignore"):
            half = x.astype(np.float16).view(np.uint16)
    else:
        size = abs(x).astype(np.float64)
        size = np.where(size < 2.0**17, size, 2.0**17)  # the same for all that are infinite, and for NaN
        exponent = np.maximum(np.frexp(size)[1] - 1, -14, where=size > 0, out=np.full(len(x), -14))
        units = np.rint(np.ldexp(size, 10 - exponent + 13)).astype(np.int64)  # 1024 to 2047 of them in each exponent
        half = np.minimum(((exponent + 14).astype(np.int64) << 10) + (units + (random >> 3) >> 13), 0x7C00)
        half = half | np.signbit(x) * 0x8000
    nan = np.where(np.signbit(x), 0xFE00, 0x7E00)
    return np.where(np.isnan(x), nan, half).astype(np.uint16), None


def load_float16(data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
    return data.view(np.float16).astype(np.float32)


# ---- bfloat16 with what it lacks ----


def split_bits(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), 0x7FC00000, bits(x))


def store_split16(x: np.ndarray, random: np.ndarray | None) -> Stored:
    b = split_bits(x)
    upper = (b + 0x8000) >> 16
    return upper.astype(np.uint16), (b - (upper << 16)).astype(np.int16)


def load_split16(data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
    assert rest is not None
    return floats((data.astype(np.int64) << 16) + rest)


def store_split8(x: np.ndarray, random: np.ndarray | None) -> Stored:
    b = shortened(split_bits(x), 8, random if random is None else random >> 8)
    upper = (b + 0x80) >> 8
    return upper.astype(np.uint16), (b - (upper << 8)).astype(np.int8)


def load_split8(data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
    assert rest is not None
    return floats((data.astype(np.int64) << 16) + (rest.astype(np.int64) << 8))


# ---- A float32 beside what it rounds to ----


def master(short: Format) -> Format:
    def store(x: np.ndarray, random: np.ndarray | None) -> Stored:
        return short.store(x, None)[0], x.astype(np.float32)

    def load(data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        assert rest is not None
        return np.where(short.store(rest, None)[0] == data, rest, short.load(data, None))

    return Format(f"master_{short.name}", store, load, np.uint16, np.float32, rounds=False)


# ---- Codes ----


def levels(k: int, codes: int) -> np.ndarray:
    """The level of each code: itself up to 2^k; above, the logarithm of code / 2^k is 1 / 2^k of that of level / 2^k,
    with a logarithm that is exact for powers of two and linear between them.
    """
    code = np.arange(codes, dtype=np.float64)
    mantissa, exponent = np.frexp(np.maximum(code, 1))
    log = (2 * mantissa - 1 + exponent - 1 - k) * 2**k + k
    power = np.ldexp(1 + log - np.floor(log), np.floor(log).astype(int))
    return np.where(code <= 2**k, code, power)


@dataclass(frozen=True)
class Codes:
    """Codes of elements with a sign (k = 1) or without."""

    k: int
    signed: bool

    @property
    def levels(self) -> np.ndarray:
        return levels(self.k, 128 if self.signed else 256)

    def scales(self, groups: np.ndarray) -> np.ndarray:
        """18 bits, rounded up."""
        largest = (bits(groups) & SIZE).max(axis=1)
        exact = floats(largest) / np.float32(self.levels[-1])
        scale = np.maximum(floats(bits(exact) + 63 & ~63), np.float32(2.0**-109 if self.signed else 2.0**-126))
        scale = np.where(largest > LARGEST_SCALED, np.float32(np.inf), scale)
        scale = np.where(largest > INFINITE, np.float32(np.nan), scale)
        return np.where(largest < NORMAL, np.float32(0), scale).astype(np.float32)

    def store(self, x: np.ndarray, random: np.ndarray | None) -> Stored:
        groups = np.zeros((-(-len(x) // GROUP), GROUP), np.float32)
        groups.ravel()[: len(x)] = x
        scales = self.scales(groups)
        finite = (scales < np.inf)[:, None]
        inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=(scales > 0) & finite[:, 0])
        size = np.where(finite, abs(groups), 0)
        u = size * inverse[:, None]
        below = np.minimum(np.searchsorted(self.levels, u, "right") - 1, len(self.levels) - 2)
        code = below + (u - self.levels[below]) / (
            self.levels[below + 1] - self.levels[below]
        )  # divided by powers of 2
        ulp = np.spacing(np.maximum(code, 1).astype(np.float32)).astype(np.float64)
        code = np.where(u > 2**self.k, np.floor(code / ulp) * ulp, code)  # in float32, cut off
        sign = np.where(self.signed & np.signbit(groups), -1, 1)
        if not self.signed:
            code = np.where(size >= np.finfo(np.float32).tiny, np.maximum(code, 1), 0)
        if random is None:
            integer = sign * np.rint(code).astype(np.int64)
        else:
            randoms = np.zeros(groups.shape, np.int64)
            randoms.ravel()[: len(x)] = random
            integer = (sign * np.rint(np.ldexp(code, 15)).astype(np.int64) + (randoms >> 1)) >> 15
        infinite = np.where(np.isnan(scales)[:, None], 1, sign) * (len(self.levels) - 1)
        integer = np.where(finite, integer, infinite)
        return integer.ravel()[: len(x)].astype(CODES[self.signed].data), scales

    def load(self, data: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        assert rest is not None
        code = data.astype(int)
        scale = np.repeat(rest, GROUP)[: len(data)]
        level = np.where(code < 0, -1, 1) * self.levels[abs(code)]
        return np.where(np.isnan(scale), np.float32(np.nan), level.astype(np.float32) * scale)


FLOAT16 = Format("float16", store_float16, load_float16, np.uint16)
BFLOAT16 = Format("bfloat16", store_bfloat16, load_bfloat16, np.uint16)
FLOAT32 = Format("float32", lambda x, random: (narrow(x), None), lambda data, rest: data, np.float32, rounds=False)
CODES = {
    signed: Format(name, codes.store, codes.load, dtype, np.float32, GROUP)
    for signed, name, dtype, codes in (
        (True, "codes_signed", np.int8, Codes(1, True)),
        (False, "codes_nonnegative", np.uint8, Codes(3, False)),
    )
}
FORMATS = {
    form.name: form
    for form in (
        FLOAT16,
        BFLOAT16,
        Format("split16", store_split16, load_split16, np.uint16, np.int16, rounds=False),
        Format("split8", store_split8, load_split8, np.uint16, np.int8),
        master(FLOAT16),
        master(BFLOAT16),
        CODES[True],
        CODES[False],
    )
}


def kept(form: Format, values: np.ndarray, random: np.ndarray | None) -> np.ndarray:
    """What is left of elements once they have been stored."""
    data, rest = form.store(narrow(values.ravel()), random)
    return loaded(form, data, rest, values.dtype).reshape(values.shape)


def loaded(form: Format, data: np.ndarray, rest: np.ndarray | None, dtype: Any) -> np.ndarray:
    """Stored elements in the dtype in which a rule computes: subnormals of float32 are 0 in float64."""
    values = form.load(data, rest)
    return values.astype(dtype) if dtype == np.float32 else narrow(values.astype(dtype)).astype(dtype)


# ---- Random bits ----


def mix(x: int) -> int:
    x = (x ^ x >> 32) * 0xE9846AF9B1A615D9 % 2**64
    x = (x ^ x >> 29) * 0x9E3779B97F4A7C15 % 2**64
    return x ^ x >> 32


def random_key(seed: int, parameter: int, step: int) -> int:
    """The key of a parameter's step."""
    return mix((mix((mix(seed) + parameter) % 2**64) + step) % 2**64)


def random_bits(key: int, stream: int, offset: int, n: int) -> np.ndarray:
    """32 bits of the n places from offset on, as int64."""
    place = np.arange(offset, offset + n, dtype=np.uint64)
    found = np.empty(n, np.int64)
    for high in np.unique(place >> np.uint64(32)):
        key_here = mix((key + (stream << 56) + int(high)) % 2**64)
        there = place >> np.uint64(32) == high
        x = (place[there] * np.uint64(0x9E3779B9) + np.uint64(key_here % 2**32)).astype(np.uint32)
        x = (x ^ x >> 16) * np.uint32(0x21F0AAAD)
        x = ((x ^ x >> 15) + np.uint32(key_here >> 32)) * np.uint32(0x735A2D97)
        found[there] = x ^ x >> 15
    return found


class Rounding:
    """How the buffers of a parameter are rounded in one step, in the order in which they are stored."""

    def __init__(self, rounding: str, seed: int, parameter: int, step: int) -> None:
        self.key = random_key(seed, parameter, step) if rounding == "stochastic" else None
        self.count = 0  # of the buffers that have had random bits

    def bits(self, form: Format, n: int) -> np.ndarray | None:
        """The 16 random bits of each element of the next buffer, or None."""
        if self.key is None or not form.rounds:
            return None
        stream, half = divmod(self.count, 2)
        self.count += 1
        return random_bits(self.key, stream, 0, n) >> 16 * half & 0xFFFF
