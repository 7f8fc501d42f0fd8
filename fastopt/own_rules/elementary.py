"""Exponentials, logarithms and powers in Numba, with the same bits on every machine: libm's differ between machines.

They consist of sums, products, quotients and shifts of bits.  Those of elements compute in the type of the elements,
without branches, so that loops of them become vectors.  Those of scalars are the functions of csrc/math/exact.h.
"""

# mypy: disallow_untyped_defs=False, disallow_untyped_calls=False, disallow_untyped_decorators=False

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

inner = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def cast(typing_context, x):
    """Take the bits of a float as an unsigned integer, and the reverse."""
    (result,) = (b if x == a else a for a, b in CASTS if x in (a, b))

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return result(x), code


LN_2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
CASTS = ((types.float32, types.uint32), (types.float64, types.uint64))
bits_of: Any = intrinsic(cast)
of_bits: Any = intrinsic(cast)


def series(arguments: str, text: str, names: dict[str, Any]) -> Callable[..., Any]:
    """Compile a polynomial that is written out, since Numba would keep a loop over its coefficients."""
    exec(f"def polynomial({arguments}):\n    return {text}\n", names)
    compiled: Callable[..., Any] = inner(names["polynomial"])
    return compiled


@cache
def of_elements(dtype: str) -> dict[str, Any]:
    """Return the functions of elements of a dtype, by the names that rewritten rules have for them."""
    is_float32 = dtype == "float32"
    number: Any = np.float32 if is_float32 else np.float64
    unsigned: Any = np.uint32 if is_float32 else np.uint64
    info = np.finfo(number)
    digits, bias = unsigned(info.nmant), unsigned(1 - info.minexp)
    smallest, largest, eps = info.tiny, info.max, info.eps
    zero, one, two = number(0), number(1), number(2)
    infinity, nan = number(np.inf), number(np.nan)
    to_integers = number(1.5) / eps  # adding it rounds to an integer, which is then in the last bits
    exponent_bits = unsigned((bias + digits) << digits)
    exponent_offset = one / eps + number(bias)
    one_bits = unsigned(bias << digits)
    to_root_half = unsigned(0.5858 / float(eps))  # carries into the exponent where the digits are above sqrt(2)
    of_2, ln_2 = number(2.8853900817779268), number(0.69314718055994531)  # 2 / ln(2)
    per_ln_2 = number(1.4426950408889634)
    # ln 2 in two parts: products of the first with k are exact.
    ln_2_high, ln_2_low = (0.693359375, -2.12194440054690582767e-04) if is_float32 else LN_2
    # The first and last numbers whose results lie from `smallest` to `largest`.
    first_exp, last_exp = (
        (-87.33654022216797, 88.72283172607422) if is_float32 else (-708.3964185322641, 709.782712893384)
    )
    ln_2_high, ln_2_low, first_exp, last_exp = map(number, (ln_2_high, ln_2_low, first_exp, last_exp))
    first_power, last_power = number(info.minexp), number(info.maxexp)
    # Exponents below 2, and others, in multiples of these have exact products with e.
    small_unit, large_unit = map(number, (2.0**15, 2.0**7) if is_float32 else (2.0**40, 2.0**31))
    largest_size = number(10 if is_float32 else 20)  # tanh is 1 from there on

    names: dict[str, Any] = {"one": one, "last": number(1 / 21)}
    names |= {f"inverse{i}": one / number(i) for i in range(1, 20)}
    terms = 8 if is_float32 else 13
    text = of_exp = of_power = "one"
    for i in range(13, 0, -1):
        of_power = f"(one + {of_power} * y * inverse{i})"
        of_exp = f"(one + {of_exp} * y * inverse{i})" if i <= terms else of_exp
        text = f"(one + {text} * y * inverse{i})" if 1 < i <= terms else text
    exponential, short_exponential = series("y", of_power, names), series("y", of_exp, names)
    growth = series("y", text, names)  # (e^y - 1) / y
    text = "last"
    for i in range(19, 0, -2):
        text = f"({text} * square + inverse{i})"
    artanh = series("square", text, names)

    @inner
    def times_power_of_2(x, shifted):
        return of_bits(unsigned(bits_of(x) + (bits_of(shifted) << digits)))

    @inner
    def exponent_and_artanh(x):
        """Return e and s + s^3 / 3 + ... with x = 2^e m, sqrt(1/2) <= m < sqrt(2), s = (m - 1) / (m + 1)."""
        bits = bits_of(x)
        biased = unsigned(unsigned(bits + to_root_half) >> digits)
        e = of_bits(unsigned(biased + exponent_bits)) - exponent_offset
        m = of_bits(unsigned(bits - unsigned(biased << digits) + one_bits))
        s = (m - one) / (m + one)
        return e, s * artanh(s * s)

    @inner
    def exp(x):
        shifted = x * per_ln_2 + to_integers
        k = shifted - to_integers
        power = times_power_of_2(short_exponential((x - k * ln_2_high) - k * ln_2_low), shifted)
        return x if x != x else (infinity if x > last_exp else (power if x >= first_exp else zero))

    @inner
    def log(x):
        e, half = exponent_and_artanh(x)
        usual = e * ln_2_high + (two * half + e * ln_2_low)
        of_small = -infinity if x > -smallest else nan
        return of_small if x < smallest else (usual if x <= largest else x)

    @inner
    def power(x, y):
        """As FN(power) of csrc/kernels/powers.h, for any y: of two parts, the product of the first with e is exact."""
        unit = small_unit if abs(y) < two else large_unit
        a = np.floor(y * unit) / unit
        low = y - a
        e, half = exponent_and_artanh(x)
        whole, rest = a * e, low * e + (a + low) * (of_2 * half)
        exponent = whole + rest
        shifted = exponent + to_integers
        f = (whole - (shifted - to_integers)) + rest
        usual = times_power_of_2(exponential(f * ln_2), shifted)
        usual = zero if exponent < first_power else (infinity if exponent >= last_power else usual)
        at_0 = zero if y > zero else (infinity if y < zero else (one if y == zero else y))
        at_infinity = infinity if y > zero else (zero if y < zero else (one if y == zero else y))
        of_small = at_0 if x > -smallest else nan
        return of_small if x < smallest else (usual if x <= largest else (at_infinity if x == x else x))

    @inner
    def tanh(x):
        """Return (e^2x - 1) / (e^2x + 1), without the loss of digits near 0."""
        size = abs(x)
        z = two * (size if size < largest_size else largest_size)
        shifted = z * per_ln_2 + to_integers
        k = shifted - to_integers
        r = (z - k * ln_2_high) - k * ln_2_low
        power = times_power_of_2(one, shifted)
        less_1 = (power - one) + power * (r * growth(r))
        result = less_1 / (less_1 + two)
        return result if x > zero else (-result if x < zero else x)

    return {"_abs": abs, "_sqrt": math.sqrt, "_exp": exp, "_log": log, "_power": power, "_tanh": tanh}


@inner
def scalar_exp(x):
    """As fastopt_exp of csrc/math/exact.h."""
    if x != x:
        return x
    if x < -745:
        return 0.0
    if x > 709.782:
        return math.inf
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * LN_2[0]) - k * LN_2[1]
    sums = 1.0
    for i in range(14, 0, -1):
        sums = 1 + sums * r / i
    places: Any = np.int32(k)
    return math.ldexp(sums, places)


@inner
def scalar_log(x):
    """As fastopt_log of csrc/math/exact.h."""
    if not 0 < x < math.inf:
        return x if not x <= 0 else (-math.inf if x == 0 else math.nan)
    y, e = math.frexp(x)
    if y < 0.70710678118654757:
        y, e = 2 * y, e - 1
    s = (y - 1) / (y + 1)
    square = s * s
    sums = 0.0
    for i in range(25, 0, -2):
        sums = sums * square + 1.0 / i
    return e * LN_2[0] + (2 * s * sums + e * LN_2[1])


@inner
def scalar_power(x, y):
    """As fastopt_pow of csrc/math/exact.h; also for x below 0 with an integer y, and for y below 0."""
    if x != x or y != y or (x < 0 and y != math.floor(y)):
        return math.nan
    size, exponent = abs(x), abs(y)
    if size == 0 or size == math.inf or exponent == math.inf:
        power = size**exponent
    else:
        power = scalar_exp(exponent * scalar_log(size))
    if x < 0 and y % 2 == 1:
        power = -power
    return 1 / power if y < 0 else power


@cache
def of_scalars() -> dict[str, Any]:
    """Return the functions of scalars, by the same names."""
    own = {"_exp": scalar_exp, "_log": scalar_log, "_power": scalar_power}
    return {**of_elements("float64"), **own}
