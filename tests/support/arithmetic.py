"""The numbers of the oracle: arithmetic that flushes subnormals, powers and logarithms, and running means as in csrc/.

Scalars of a step are computed in Python floats, as C does in doubles, and rounded once to the dtype of the parameter.
"""

import math
import sys
from decimal import Context, Decimal
from typing import Any

import numpy as np

# Of each dtype that kernels compute in: an integer for its bits, a mask for those of the size, and the bits of the
# smallest normal number.
BITS = {
    dtype: (integer, integer(2 ** (8 * dtype.itemsize - 1) - 1), integer(least))
    for dtype, integer, least in (
        (np.dtype(np.float32), np.uint32, 1 << 23),
        (np.dtype(np.float64), np.uint64, 1 << 52),
    )
}


def flush(x: Any) -> np.ndarray:
    """x with subnormals replaced by zeros of the same sign; x itself where there are none."""
    x = np.asarray(x)
    if x.dtype not in BITS:
        return x
    integer, mask, least = BITS[x.dtype]
    size = x.view(integer) & mask  # compared as integers, which is faster than as numbers
    is_small = size < least
    if is_small.any() and (is_subnormal := is_small & (size > 0)).any():
        return np.where(is_subnormal, np.copysign(x.dtype.type(0), x), x)
    return x


def converted(g: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy of a gradient as its parameter's loop reads it.  Every float16 is a normal number of the other dtypes."""
    g = np.asarray(g)
    g = g.astype(np.float32) if g.dtype.name == "bfloat16" else g
    with np.errstate(over="ignore"):
        return np.array(g if g.dtype == np.float16 else flush(g), dtype)


def flush_before_rounding(ufunc: np.ufunc, inputs: tuple[Any, ...], result: np.ndarray) -> np.ndarray:
    """A result that rounding among subnormals has raised to the smallest normal number, as 0: it was flushed before."""
    if result.dtype not in BITS:
        return result
    integer, mask, least = BITS[result.dtype]
    if not (raised := (result.view(integer) & mask) == least).any():
        return result
    smallest = np.finfo(result.dtype).smallest_normal
    x, y = inputs
    if ufunc is np.multiply:
        x, y = np.where(abs(x) < abs(y), x, y), np.where(abs(x) < abs(y), y, x)
    large = result.dtype.type(2) ** 64  # away from the subnormals the same operation rounds otherwise
    with np.errstate(all="ignore"):
        below = abs(ufunc(x * large, y)) < smallest * large
    return np.where(raised & below, np.copysign(result.dtype.type(0), result), result)


class Flushed(np.ndarray):
    """An array whose arithmetic takes subnormals for 0 and gives 0 for subnormals."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        inputs = tuple(map(flush, inputs))
        result = flush(getattr(ufunc, method)(*inputs, **kwargs))
        if ufunc in (np.multiply, np.divide) and method == "__call__":
            result = flush_before_rounding(ufunc, inputs, result)
        if out is None:
            return result.view(Flushed)
        out[0].view(np.ndarray)[...] = result
        return out[0]


def flush_number(x: float) -> float:
    return float(flush(np.float64(x)))


class Decay(float):
    """A hyperparameter that bias corrections use, with its values on the steps before `since`."""

    since: int
    product: float  # of these values
    age: float  # the sum of the weights of their gradients in the running mean, each times its age in steps

    def __new__(cls, value: float, since: int = 0, product: float = 1.0, age: float = 0.0) -> "Decay":
        decay = super().__new__(cls, value)
        decay.since, decay.product, decay.age = since, product, age
        return decay

    def __getnewargs__(self) -> Any:
        return float(self), self.since, self.product, self.age

    def then(self, value: float, steps: int) -> "Decay":
        """The same as one of another value after so many steps."""
        n, b = steps - self.since, float(self)
        left = rounded_power(b, n)
        age = left * (self.age - n * self.product) + (1 - left) * (b / (1 - b))
        return Decay(value, steps, self.product * left, 0.0 if age < 0 else min(age, float(steps)))


def rounded_power(b: float, n: int) -> float:
    """b**n, rounded once: libm's pow may be wrong in its last bit."""
    return float(Context(prec=80).power(Decimal(float(b)), n))


def rough_power(b: float, n: int) -> float:
    """b**n by repeated squaring, as csrc/math/exact.h has it."""
    power = 1.0
    while n:
        if n & 1:
            power *= b
        n, b = n >> 1, b * b
    return power


def power(b: float, n: int) -> float:
    """b**n, or the product of the values of a decay that has changed."""
    return b.product * rounded_power(b, n - b.since) if isinstance(b, Decay) else rounded_power(b, n)


def age_deficit(b: float, n: int) -> float:
    """By how much the mean age of the gradients in a running mean is below b / (1 - b) after n steps."""
    b = b if isinstance(b, Decay) else Decay(b)
    left = rounded_power(b, n - b.since)
    return ((n - b.since) * (b.product * left) + left * ((1 - b.product) * (b / (1 - b)) - b.age)) / (1 - power(b, n))


def exp(x: float) -> float:
    """exp(x) by the operations of csrc/math/exact.h, because libm's differs between machines."""
    if x < -745:
        return 0.0
    if x > 709.782:
        return math.inf
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    total = 1.0
    for i in range(14, 0, -1):
        total = 1 + total * r / i
    return math.ldexp(total, k)


def log(x: float) -> float:
    """log(x) by the operations of csrc/math/exact.h."""
    y, e = math.frexp(x)
    if y < 0.70710678118654757:
        y, e = 2 * y, e - 1
    s = (y - 1) / (y + 1)
    total = 0.0
    for i in range(25, 0, -2):
        total = total * (s * s) + 1 / i
    return e * 6.93147180369123816490e-01 + (2 * s * total + e * 1.90821492927058770002e-10)


def pow_of(x: float, y: float) -> float:
    """x**y for x >= 0 by the operations of csrc/math/exact.h."""
    return float(y == 0) if x == 0 else exp(y * log(x if x < sys.float_info.max else sys.float_info.max))


def cube_root(x: np.ndarray) -> np.ndarray:
    """The cube root by the operations of csrc/kernels/powers.h."""
    T, number = x.dtype.type, np.finfo(x.dtype)
    integer = np.uint32 if T is np.float32 else np.uint64
    bits = np.asarray(x).view(np.ndarray).view(integer)
    third = (bits >> 2) + (bits >> 4)
    third = third + (third >> 4)
    third = third + (third >> 8)
    start = integer(((number.maxexp - 1) * (4 / 3) - 0.06) / float(number.eps))
    x, r = x.view(Flushed), (start - third).view(T).view(Flushed)
    with np.errstate(all="ignore"):
        for _ in range(1 if T is np.float32 else 2):
            e = T(1) - x * r * r * r
            r = r + r * (e * (T(1 / 3) + T(2 / 9) * e))
        y = x * r * r
        e = T(1) - y * r
        return y + y * (e * (T(2 / 3) + T(5 / 9) * e))


def power_of(x: np.ndarray, a: float) -> np.ndarray:
    """x**a of elements, for 0 <= a <= 1, by the operations of csrc/kernels/powers.h."""
    T, number = x.dtype.type, np.finfo(x.dtype)
    integer, digits, bias = (np.uint32 if T is np.float32 else np.uint64), number.nmant, number.maxexp - 1
    unit = 2.0 ** (15 if T is np.float32 else 40)
    high = math.floor(a * unit) / unit
    a, a_low, at_0 = T(high), T(a - high), T(a == 0)
    to_integers = T(1.5) / number.eps
    bits, x = np.asarray(x).view(np.ndarray).view(integer), x.view(Flushed)
    biased = (bits + integer(0.5858 / float(number.eps))) >> digits
    e = (biased + integer(bias + digits << digits)).view(T).view(Flushed) - T(1 / number.eps + T(bias))
    m = (bits - (biased << digits) + integer(bias << digits)).view(T).view(Flushed)
    with np.errstate(all="ignore"):
        s = (m - T(1)) / (m + T(1))
        square, series = s * s, T(1 / 21)
        for i in range(19, 0, -2):
            series = series * square + T(1) / T(i)
        whole, rest = a * e, a_low * e + (a + a_low) * (T(2.8853900817779268) * (s * series))
        shifted = (whole + rest) + to_integers
        y = ((whole - (shifted - to_integers)) + rest) * T(0.69314718055994531)
        exponential = T(1)
        for i in range(13, 0, -1):
            exponential = T(1) + exponential * y * (T(1) / T(i))
        scaled = exponential.view(np.ndarray).view(integer) + (shifted.view(np.ndarray).view(integer) << digits)
    result = np.where(x < number.tiny, at_0, np.where(x <= number.max, scaled.view(T), x))
    return result.view(Flushed)


def larger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The maximum, NaN where either is."""
    return np.where((x > y) | (x != x), x, y).view(Flushed)


def larger_of(x: float, y: float) -> float:
    """x where it is larger than y, or NaN."""
    return x if x > y or x != x else y


def sign(x):
    """As numpy.sign, of T."""
    T = x.dtype.type
    return np.where(x > 0, T(1), np.where(x < 0, T(-1), np.where(x != x, x, T(0)))).view(Flushed)


def keep(T: Any, beta: float) -> Any:
    """The factor of a mean of gradients: the number nearest to beta, below 1."""
    return min(T(beta), 1 - np.finfo(T).epsneg)


def rest(T: Any, beta: float) -> Any:
    """The factor of the gradient: 1 minus `keep`."""
    return T(1) - keep(T, beta)


def weight(T: Any, beta: float, t: int) -> float:
    """The weight of t gradients in such a mean: 1 - keep**t, but for what stands for the power of keep / beta."""
    product, kept = power(beta, t), float(keep(T, beta))
    if kept == beta or product == 0:
        return 1 - product
    x = t * ((kept - beta) / beta)
    found = 1 - product * (1 + x * (1 + x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24)))))
    return found if found > 1 - kept else 1 - kept


def take(mean: Any, square: Any, beta: float) -> Any:
    """A mean of squares that has taken one more of them."""
    T = mean.dtype.type
    next_ = T(beta) * mean + T(1 - beta) * square if T(beta) < 0.5 else mean + T(1 - beta) * (square - mean)
    return np.where(next_ < np.inf, next_, T(np.inf)).view(Flushed)


def lost_mean(T: Any, beta: float, t: int) -> float:
    """By how much a mean of squares can be too small because small numbers count as 0."""
    return 4 * float(np.finfo(T).tiny) * min(1 / (1 - beta) if beta < 1 else math.inf, t)


def lost_sum(T: Any, t: int) -> float:
    """By how much a sum of squares can be too small."""
    return float(np.finfo(T).tiny) * t


def above_root(T, alpha, eps, t):
    return T(eps + math.sqrt(lost_mean(T, alpha, t)))


def moments(m, v, g, beta1, beta2):
    T = m.dtype.type
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    v[...] = take(v, g * g, beta2)


def adam_scalars(T, t, lr, beta1, beta2, eps):
    """The rate, and what is added to the root, with the root of the second bias correction in both."""
    root2 = math.sqrt(1 - power(beta2, t))
    return T(lr * root2 / weight(T, beta1, t)), T(eps * root2 + math.sqrt(lost_mean(T, beta2, t)))


def decay(mean, rate, skipped):
    mean *= mean.dtype.type(rough_power(rate, skipped))


def coast(p, b, lr, mu, skipped):
    power = rough_power(mu, skipped)
    p -= p.dtype.type(lr * mu * (1 - power) / (1 - mu)) * b
    b *= p.dtype.type(power)
