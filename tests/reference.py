"""The oracle: every row of csrc/rules/rules.def in plain NumPy, one operation at a time in the order of the C loop.

The two agree to the last bit in float32 and in float64. Scalars of a step are computed in Python floats, as C does in
doubles, and rounded once to the dtype of the parameter. Kernels run with subnormals flushed, so the arrays here are
`Flushed` ones. Written for the tests alone; the package never imports it.
"""

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

import numpy as np


def flush(x: Any) -> np.ndarray:
    """x with subnormals replaced by zeros of the same sign."""
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return x
    return np.where(abs(x) < np.finfo(x.dtype).smallest_normal, np.copysign(x.dtype.type(0), x), x)


def converted(g: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy of a gradient as its parameter's loop reads it.  Every float16 is a normal number of the other dtypes."""
    g = np.asarray(g)
    with np.errstate(over="ignore"):
        return np.array(g if g.dtype == np.float16 else flush(g), dtype)


def flush_before_rounding(ufunc: np.ufunc, inputs: tuple[Any, ...], result: np.ndarray) -> np.ndarray:
    """A result that rounding among subnormals has raised to the smallest normal number, as 0: it was flushed before."""
    if result.dtype.kind != "f":
        return result
    smallest = np.finfo(result.dtype).smallest_normal
    if not (raised := abs(result) == smallest).any():
        return result
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


def larger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The maximum, NaN where either is."""
    return np.where((x > y) | (x != x), x, y)


def keep(T: Any, beta: float) -> Any:
    """The factor of a mean of gradients: the number nearest to beta, below 1."""
    return min(T(beta), 1 - np.finfo(T).epsneg)


def rest(T: Any, beta: float) -> Any:
    """What that leaves for the gradient."""
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
    largest = np.finfo(T).max
    held = np.where(largest < square, largest, square).view(Flushed)
    if T(beta) < 0.5:
        return T(beta) * mean + T(1 - beta) * held
    return mean + T(1 - beta) * (held - mean)


def lost_mean(T: Any, beta: float, t: int) -> float:
    """By how much a mean of squares can be too small because small numbers count as 0."""
    return 4 * float(np.finfo(T).tiny) * min(1 / (1 - beta) if beta < 1 else math.inf, t)


def lost_sum(T: Any, t: int) -> float:
    """By how much a sum of squares can be too small."""
    return float(np.finfo(T).tiny) * t


# The rules. Parameter and gradient, then the state by the paper's letters, then t, the step counted from 1, and the
# hyperparameters in the order of rules.def. A rule that carries a double from step to step has a `carry`. One that
# gathers over all parameters together yields the terms of its sums, and is sent the sums.


def sgd(p, g, *, t, lr):
    T = p.dtype.type
    p -= T(lr) * g


def momentum(p, g, b, *, t, lr, momentum, dampening):
    T = p.dtype.type
    undamped = T(1) if t == 1 or momentum == 0 else T(1 - dampening)
    b[...] = T(momentum) * b + undamped * g
    p -= T(lr) * b


def nesterov(p, g, b, *, t, lr, momentum):
    T = p.dtype.type
    b[...] = T(momentum) * b + g
    p -= T(lr) * (g + T(momentum) * b)


def adagrad(p, g, G, *, t, lr, lr_decay, eps):
    T = p.dtype.type
    lr_t = T(lr / (1 + (t - 1) * lr_decay))
    G += g * g
    p -= lr_t * g / (np.sqrt(G) + T(eps + math.sqrt(lost_sum(T, t))))


def adadelta(p, g, E, D, *, t, lr, rho, eps):
    T = p.dtype.type
    E[...] = keep(T, rho) * E + rest(T, rho) * (g * g)
    d = np.sqrt((D + T(eps)) / (E + T(eps + lost_mean(T, rho, t)))) * g
    D[...] = keep(T, rho) * D + rest(T, rho) * (d * d)
    p -= T(lr) * d


def variance(s, a, g, alpha):
    T = a.dtype.type
    d = g - a
    s[...] = take(s, keep(T, alpha) * (d * d), alpha)
    a[...] = keep(T, alpha) * a + rest(T, alpha) * g


def above_root(T, alpha, eps, t):
    return T(eps + math.sqrt(lost_mean(T, alpha, t)))


def rmsprop(p, g, v, *, t, lr, alpha, eps):
    T = p.dtype.type
    v[...] = take(v, g * g, alpha)
    p -= T(lr) * g / (np.sqrt(v) + above_root(T, alpha, eps, t))


def rmsprop_centered(p, g, s, a, *, t, lr, alpha, eps):
    T = p.dtype.type
    variance(s, a, g, alpha)
    p -= T(lr) * g / (np.sqrt(s) + above_root(T, alpha, eps, t))


def rmsprop_momentum(p, g, v, b, *, t, lr, alpha, eps, momentum):
    T = p.dtype.type
    v[...] = take(v, g * g, alpha)
    b[...] = T(momentum) * b + g / (np.sqrt(v) + above_root(T, alpha, eps, t))
    p -= T(lr) * b


def rmsprop_centered_momentum(p, g, s, a, b, *, t, lr, alpha, eps, momentum):
    T = p.dtype.type
    variance(s, a, g, alpha)
    b[...] = T(momentum) * b + g / (np.sqrt(s) + above_root(T, alpha, eps, t))
    p -= T(lr) * b


def moments(m, v, g, beta1, beta2):
    T = m.dtype.type
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    v[...] = take(v, g * g, beta2)


def adam_scalars(T, t, lr, beta1, beta2, eps):
    """The rate, and what is added to the root, with the root of the second bias correction in both."""
    root2 = math.sqrt(1 - power(beta2, t))
    return T(lr * root2 / weight(T, beta1, t)), T(eps * root2 + math.sqrt(lost_mean(T, beta2, t)))


def adam(p, g, m, v, *, t, lr, beta1, beta2, eps):
    lr_t, eps_t = adam_scalars(p.dtype.type, t, lr, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    p -= lr_t * m / (np.sqrt(v) + eps_t)


def amsgrad(p, g, m, v, vmax, *, t, lr, beta1, beta2, eps):
    lr_t, eps_t = adam_scalars(p.dtype.type, t, lr, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    vmax[...] = larger(vmax, v)
    p -= lr_t * m / (np.sqrt(vmax) + eps_t)


def adamax(p, g, m, u, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t = T(lr / weight(T, beta1, t))
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    u[...] = larger(T(beta2) * u, abs(g) + T(eps))
    p -= np.where(u == 0, T(0), lr_t * m / u)


def nadam(p, g, m, v, *, t, carry, lr, beta1, beta2, eps, momentum_decay):
    T = p.dtype.type

    def mu_at(t):
        return beta1 * (1 - 0.5 * exp(t * momentum_decay * -0.040821994520255166))  # ln 0.96

    mu, mu_next = mu_at(t), mu_at(t + 1)
    product = (1.0 if t == 1 else carry["mu_product"]) * mu
    carry["mu_product"] = product
    root2 = math.sqrt(1 - power(beta2, t))
    lr_m, lr_g = T(lr * root2 * mu_next / (1 - product * mu_next)), T(lr * root2 * (1 - mu) / (1 - product))
    moments(m, v, g, beta1, beta2)
    p -= (lr_m * m + lr_g * g) / (np.sqrt(v) + T(eps * root2 + math.sqrt(lost_mean(T, beta2, t))))


def radam(p, g, m, v, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    power2, rho_inf = power(beta2, t), 2 / (1 - beta2) - 1
    rho = min(rho_inf - 2 * age_deficit(beta2, t), rho_inf)
    lr_t = lr / weight(T, beta1, t)
    if rho > 5:
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        lr_t *= r * math.sqrt(1 - power2)
    moments(m, v, g, beta1, beta2)
    p -= T(lr_t) * m / (np.sqrt(v) + above_root(T, beta2, eps, t) if rho > 5 else T(1))


def sign(x):
    """As numpy.sign, of T."""
    T = x.dtype.type
    return np.where(x > 0, T(1), np.where(x < 0, T(-1), np.where(x != x, x, T(0)))).view(Flushed)


def lion(p, g, m, *, t, lr, beta1, beta2):
    T = p.dtype.type
    p -= T(lr) * sign(keep(T, beta1) * m + rest(T, beta1) * g)
    m[...] = keep(T, beta2) * m + rest(T, beta2) * g


def signum(p, g, m, *, t, lr, beta):
    T = p.dtype.type
    m[...] = keep(T, beta) * m + rest(T, beta) * g
    p -= T(lr) * sign(m)


def adabelief(p, g, m, s, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    s[...] = take(s, (g - m) * (g - m), beta2) + T(eps)
    p -= lr_t * m / (np.sqrt(s) + eps_t)


def yogi(p, g, m, v, *, t, lr, beta1, beta2, eps):
    T = p.dtype.type
    lr_t, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    square = g * g
    v -= T(1 - beta2) * (sign(v - square) * square)
    p -= lr_t * m / (np.sqrt(v) + eps_t)


def adan(p, g, m, v, n, prev, *, t, lr, beta1, beta2, beta3, eps):
    T = p.dtype.type
    root3 = math.sqrt(weight(T, beta3, t))
    lr_m, lr_v = T(lr * root3 / weight(T, beta1, t)), T(lr * root3 * beta2 / weight(T, beta2, t))
    if t == 1:
        prev[...] = g - T(0)
    d = g - prev
    ahead = g + keep(T, beta2) * d
    m[...] = keep(T, beta1) * m + rest(T, beta1) * g
    v[...] = keep(T, beta2) * v + rest(T, beta2) * d
    n[...] = keep(T, beta3) * n + rest(T, beta3) * (ahead * ahead)
    p -= (lr_m * m + lr_v * v) / (np.sqrt(n) + T(eps * root3 + math.sqrt(lost_mean(T, beta3, t))))
    prev[...] = g - T(0)


def ademamix(p, g, m1, m2, v, *, t, lr, beta1, beta2, beta3, eps, mix, warmup):
    T = p.dtype.type
    if t < warmup:
        x = t / warmup
        logs = [log(beta) if beta > 0 else -math.inf for beta in (beta1, beta3)]
        inverse = (1 - x) / logs[0] + x / logs[1]
        mix, beta3 = mix * x, min(exp(1 / inverse if inverse else -math.inf), beta3)
    moments(m1, v, g, beta1, beta2)
    m2[...] = keep(T, beta3) * m2 + rest(T, beta3) * g
    lr_1, eps_t = adam_scalars(T, t, lr, beta1, beta2, eps)
    p -= (lr_1 * m1 + T(lr * math.sqrt(1 - power(beta2, t)) * mix) * m2) / (np.sqrt(v) + eps_t)


def rprop(p, g, prev, step_size, *, t, lr, eta_minus, eta_plus, step_min, step_max):
    T = p.dtype.type
    numbers = [T(x) for x in (lr, eta_minus, eta_plus, step_min, step_max)]
    lr, eta_minus, eta_plus, step_min, step_max = abs(flush(numbers))  # 0 for -0, and for subnormals
    if t == 1:
        step_size[...] = lr

    def sign(x):
        return np.where(x > 0, T(1), np.where(x < 0, T(-1), T(0))).view(Flushed)

    turn = sign(g) * sign(prev)
    eta = np.where(turn > 0, T(eta_plus), np.where(turn < 0, T(eta_minus), T(1)))
    raised = larger(step_size * eta, T(step_min))
    step_size[...] = np.where(raised > T(step_max), T(step_max), raised)
    p -= np.where(turn < 0, T(0), sign(g)).view(Flushed) * step_size
    prev[...] = np.where(turn < 0, T(0), g - T(0))


def asgd(p, g, ax, *, t, carry, lr, lambd, alpha, t0):
    T = p.dtype.type
    eta = lr if t == 1 else carry["eta"]
    base = 1 + lambd * lr * t
    carry["eta"] = lr * exp(-alpha * log(min(base, sys.float_info.max)))
    mu = T(1 / (t - 1 - t0) if t - 1 - t0 > 1 else 1)
    p[...] = T(1 - lambd * eta) * p - T(eta) * g
    ax[...] = p if mu == 1 else ax + mu * (p - ax)


def trust(p, u, coefficient=1.0, eps=0.0):
    """The ratio of two norms, 1 where either is 0."""
    of_p, of_u = root(squares(p)), root(squares(u))
    if of_p == 0 or of_u == 0:
        return 1.0
    return float(np.float64(coefficient * of_p) / (of_u + eps))


def lars(p, g, b, *, t, lr, momentum, trust_coefficient, eps):
    T = p.dtype.type
    step = T(lr * trust(p, g, trust_coefficient, eps)) * g
    b[...] = T(momentum) * b + step
    p -= b


def lars_nesterov(p, g, b, *, t, lr, momentum, trust_coefficient, eps):
    T = p.dtype.type
    step = T(lr * trust(p, g, trust_coefficient, eps)) * g
    b[...] = T(momentum) * b + step
    p -= T(momentum) * b + step


def lamb(p, g, m, v, *, t, lr, beta1, beta2, eps, decay):
    T = p.dtype.type
    unbias, eps_t = adam_scalars(T, t, 1.0, beta1, beta2, eps)
    moments(m, v, g, beta1, beta2)
    u = unbias * m / (np.sqrt(v) + eps_t) + T(decay) * p
    p -= T(lr * trust(p, u)) * u


def novograd(p, g, m, *, t, carry, lr, beta1, beta2, eps, decay):
    T = p.dtype.type
    square, of_square = scaled(squares(g))
    v, exponent = square, of_square
    if t > 1:
        of_v = 1200 * int(np.sign(carry["v_exponent"]))
        if square == 0 or (carry["v"] != 0 and of_v > of_square):
            exponent = of_v
        v = beta2 * np.ldexp(carry["v"], of_v - exponent) + (1 - beta2) * np.ldexp(square, of_square - exponent)
    if (exponent > 0 and v < 2.0**-300) or (exponent < 0 and v > 2.0**300):
        v, exponent = np.ldexp(v, exponent), 0
    carry["v"], carry["v_exponent"] = float(v), float(exponent)
    root = np.ldexp(np.sqrt(np.float64(v)), exponent // 2) + eps  # NaN for a v below 0, as C has it
    scale = T(0 if root == 0 else min(1 / root, float(np.finfo(T).max)))
    m[...] = T(beta1) * m + (scale * g + T(decay) * p)
    p -= T(lr) * m


def prodigy(p, g, m, v, s, p0, *, t, carry, lr, beta1, beta2, beta3, eps, d0, d_coef, decay, safeguard_warmup):
    T = p.dtype.type
    d, r = (d0, 0.0) if t == 1 else (carry["d"], carry["r"])
    if t == 1:
        p0[...] = p - T(0)
    dlr = d * lr * math.sqrt(1 - power(beta2, t)) / weight(T, beta1, t)
    moments(m, v, T(d) * g, beta1, beta2)
    s[...] = T(beta3) * s + T(d / d0 * (d if safeguard_warmup else dlr)) * g
    product, size = yield sums_of_products(g, p0 - p), sums_of_products(abs(s), np.ones_like(s))
    r = beta3 * r + d / d0 * dlr * product
    estimate = 0.0 if size == 0 else d_coef * r / size
    carry["d"], carry["r"] = larger_of(estimate, d), r
    p -= T(dlr) * (m / (np.sqrt(v) + above_root(T, beta2, carry["d"] * eps, t)) + T(decay) * p)


def schedulefree(p, z, t, carry, lr, beta, warmup_steps, r, weight_lr_power):
    """The numbers of a step, and z before the first."""
    T = p.dtype.type
    if t == 1:
        z[...] = p - T(0)
        carry["weight_sum"], carry["lr_max"] = 0.0, 0.0
    lr_t = lr * (t / warmup_steps) if t < warmup_steps else lr
    carry["lr_max"] = lr_t if lr_t > carry["lr_max"] else carry["lr_max"]
    weight = pow_of(t, r) * pow_of(carry["lr_max"], weight_lr_power)
    carry["weight_sum"] += weight
    c = weight / carry["weight_sum"] if carry["weight_sum"] > 0 else 0.0
    return T(lr_t), T(c), T(lr_t * (1 - beta * (1 - c)))


def schedulefreesgd(p, g, z, *, t, carry, lr, momentum, warmup_steps, r, weight_lr_power):
    lr_t, c, rate = schedulefree(p, z, t, carry, lr, momentum, warmup_steps, r, weight_lr_power)
    p[...] = p + c * (z - p) - rate * g
    z -= lr_t * g


def schedulefreeadamw(p, g, z, v, *, t, carry, lr, beta1, beta2, eps, decay, warmup_steps, r, weight_lr_power):
    T = p.dtype.type
    lr_t, c, rate = schedulefree(p, z, t, carry, lr, beta1, warmup_steps, r, weight_lr_power)
    v[...] = take(v, g * g, beta2)
    root2 = math.sqrt(1 - power(beta2, t))
    u = T(root2) * g / (np.sqrt(v) + above_root(T, beta2, eps * root2, t)) + T(decay) * p
    p[...] = p + c * (z - p) - rate * u
    z -= lr_t * u


def add_up(terms: Any) -> float:
    """A sum in this order."""
    return float(np.add.accumulate(np.concatenate([[0.0], np.asarray(terms, np.float64)]))[-1])


def flush_number(x: float) -> float:
    return float(flush(np.float64(x)))


def adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay, flushed=float):
    """1 - beta, the smallest root, the shrinking of p, and its rate from the sizes of p and u.

    For matrices they are computed within the passes, where subnormal doubles count as 0.
    """
    T = p.dtype.type
    shrink = T(1 - lr * decay)
    lr, beta2_decay, eps1, eps2 = map(flushed, (lr, beta2_decay, eps1, eps2))
    eps = float(np.finfo(T).eps) if eps1 == math.inf else eps1
    taken = flushed(exp(flushed(beta2_decay * log(t))))
    length = max(p.shape[-2:]) if p.ndim > 1 else 1
    least = 2.0**8 * math.sqrt(length * lost_mean(T, 1 - taken, t))

    def rate(of_p, of_u):
        if p.size == 0:
            return T(0)
        alpha = flushed(larger_of(root(of_p, p.size), eps2) * min(lr, 1 / math.sqrt(t)))
        return T(alpha / larger_of(root(of_u, p.size) / d, 1.0))

    return taken, eps, T(max(eps, least)), shrink, rate


def larger_of(x: float, y: float) -> float:
    """x where it is larger than y, or NaN."""
    return x if x > y or x != x else y


def adafactor_vector(p, g, v, *, t, lr, beta2_decay, eps1, eps2, d, decay):
    taken, _, least, shrink, rate = adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay)
    v[...] = take(v, g * g, 1 - taken)
    u = g / larger(np.sqrt(v), least)
    p[...] = shrink * p - rate(squares(p), squares(u)) * u


TILE, TILE_ROWS, TILE_COLUMNS, SPAN = 64 * 1024, 64, 4096, 512


def tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """The tiles of matrices that lie one below the other: rows and columns.  Small matrices share a tile."""
    rows, columns = shape[-2:]
    strip, all_rows = max(TILE // min(columns, TILE_COLUMNS), TILE_ROWS), math.prod(shape[:-1])
    together = max(strip // rows, 1) if columns <= TILE_COLUMNS else 1
    for first in range(0, all_rows, together * rows):
        end = min(first + together * rows, all_rows)
        for row in range(first, end, strip):
            for column in range(0, columns, TILE_COLUMNS):
                yield slice(row, min(row + strip, end)), slice(column, column + TILE_COLUMNS)


def products_of_spans(x: np.ndarray) -> np.ndarray:
    """The sums of squares of the spans of the rows of a tile, by 16 lanes."""
    x = flush(np.asarray(x, np.float64))
    length = min(SPAN, x.shape[1])
    spans = -(-x.shape[1] // length)
    lanes = np.zeros((len(x), spans * length))
    lanes[:, : x.shape[1]] = flush(x * x)
    padded = np.zeros((len(x) * spans, -(-length // 16), 16))
    padded.reshape(len(padded), -1)[:, :length] = lanes.reshape(-1, length)
    sums = np.add.reduce(padded, axis=1)
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    return sums.reshape(len(x), spans)


def squares_of_tiles(x: np.ndarray) -> list[float]:
    """The sum of squares of matrices, as `squares` has it: tile by tile, row by row and span by span."""
    x = flush(np.asarray(x))
    matrices = x.reshape(-1, x.shape[-1])
    totals = []
    for tile in tiles(x.shape):
        part = np.asarray(matrices[tile], np.float64)
        sums = products_of_spans(part)
        choice = unit_of(sums, x.dtype)
        scaled_sums = [sums, products_of_spans(part * 2.0**-600), products_of_spans(part * 2.0**600)]
        totals.append([add_up(np.where(choice == i, of_unit, 0).reshape(-1)) for i, of_unit in enumerate(scaled_sums)])
    return [add_up(column) for column in zip(*totals, strict=True)]


def adafactor(p, g, R, C, *, t, lr, beta2_decay, eps1, eps2, d, decay):
    if p.size == 0:
        return
    T = p.dtype.type
    taken, eps, least, shrink, rate = adafactor_steps(p, t, lr, beta2_decay, eps1, eps2, d, decay, flush_number)
    rows, columns = p.shape[-2:]
    gradient = flush(np.asarray(g)).reshape(-1, columns)
    of_rows, of_columns = np.zeros(len(gradient)), np.zeros((len(gradient) // rows, columns))
    for row, column in tiles(p.shape):
        part = gradient[row, column]
        of_rows[row] += np.add.accumulate(products_of_spans(part), axis=1)[:, -1]
        of_matrices = flush(np.asarray(part, np.float64) ** 2).reshape(-1, min(rows, len(part)), part.shape[1])
        first = row.start // rows
        of_columns[first : first + len(of_matrices), column] += np.add.accumulate(of_matrices, axis=1)[:, -1]

    def mix(means, sums, count):
        double = flush((1 - taken) * flush(np.asarray(means, np.float64)).reshape(sums.shape))
        means[...] = flush(flush(double + flush(taken * flush(sums / count))).astype(T)).reshape(means.shape)

    mix(R, of_rows, columns)
    mix(C, of_columns, rows)
    lead = np.empty((len(of_columns), rows))
    for of_row, row in zip(lead, np.asarray(R, np.float64).reshape(-1, rows), strict=True):
        mean, smallest = add_up(row) / rows, larger_of(eps, sys.float_info.min)
        of_row[...] = flush(row / (smallest if mean < smallest else mean))  # NaN stays
    v = flush(lead.astype(T)).reshape(*p.shape[:-1], 1).view(Flushed) * C.reshape(*p.shape[:-2], 1, columns)
    u = g / larger(np.sqrt(v), least)
    p[...] = shrink * p - rate(squares_of_tiles(p), squares_of_tiles(u)) * u


def sm3_square(mu, g, b2):
    T = g.dtype.type
    return mu + g * g if b2 == 1 else keep(T, b2) * mu + rest(T, b2) * (g * g)


def sm3_update(p, g, m, nu, t, lr, momentum, b2, eps):
    T = p.dtype.type
    lost = lost_sum(T, t) if b2 == 1 else lost_mean(T, b2, t)
    root = np.where(nu != 0, np.sqrt(nu + T(eps + lost)), T(math.inf)).view(Flushed)
    m[...] = keep(T, momentum) * m + rest(T, momentum) * (g / root)
    p -= T(lr) * m


def sm3(p, g, m, mu, *, t, lr, momentum, b2, eps):
    if p.size == 0:
        return
    of_axes = np.split(mu, np.cumsum(p.shape)[:-1])
    smallest = flush(of_axes[0].reshape(-1, *[1] * (p.ndim - 1)))
    for axis, of_axis in enumerate(of_axes[1:], 1):
        smallest = np.minimum(smallest, flush(of_axis).reshape([-1 if i == axis else 1 for i in range(p.ndim)]))
    nu = sm3_square(smallest.view(Flushed), g, b2)
    for axis, of_axis in enumerate(of_axes):
        others = tuple(i for i in range(p.ndim) if i != axis)
        of_axis[...] = np.max(
            np.asarray(nu), axis=others, initial=0
        )  # that of no steps is 0, and it never shrinks below
    sm3_update(p, g, m, nu, t, lr, momentum, b2, eps)


def sm3_vector(p, g, m, mu, *, t, lr, momentum, b2, eps):
    mu[...] = sm3_square(mu, g, b2)
    sm3_update(p, g, m, mu, t, lr, momentum, b2, eps)


def muon(p, g, b, u, *, t, lr, momentum, nesterov):
    """The two passes with nothing between them."""
    T = p.dtype.type
    mu, of_g = keep(T, momentum), rest(T, momentum)
    b[...] = mu * b + of_g * g
    u[...] = (mu if nesterov else T(1)) * b + (of_g if nesterov else T(0)) * g
    p -= T(lr) * u


RULES: dict[str, Callable[..., Any]] = {
    rule.__name__: rule
    for rule in (
        sgd,
        momentum,
        nesterov,
        adagrad,
        adadelta,
        rmsprop,
        rmsprop_centered,
        rmsprop_momentum,
        rmsprop_centered_momentum,
        adam,
        amsgrad,
        adamax,
        nadam,
        radam,
        rprop,
        lion,
        signum,
        adabelief,
        yogi,
        adan,
        ademamix,
        asgd,
        lars,
        lars_nesterov,
        lamb,
        novograd,
        prodigy,
        schedulefreesgd,
        schedulefreeadamw,
        adafactor,
        adafactor_vector,
        sm3,
        sm3_vector,
        muon,
    )
}
ALONE = {"lars", "lars_nesterov", "lamb", "novograd"}  # rules that look at all of a parameter
ALONE |= {"adafactor", "adafactor_vector", "sm3", "muon"}
TOGETHER = {"prodigy"}  # and those that look at all parameters
# Whose powers correct the bias of running means.
CORRECTED = dict.fromkeys(("adam", "amsgrad", "radam", "adabelief", "yogi", "ademamix", "lamb"), ("beta1", "beta2"))
CORRECTED |= {"adamax": ("beta1",), "nadam": ("beta2",), "adan": ("beta1", "beta2", "beta3")}
CORRECTED |= {"prodigy": ("beta1", "beta2"), "schedulefreeadamw": ("beta2",)}
STARTS = {"asgd", "rprop", "schedulefreesgd", "schedulefreeadamw"}  # and those whose first step sets all state
CARRIES = {"nadam": ("mu_product",), "asgd": ("eta",), "novograd": ("v", "v_exponent"), "prodigy": ("d", "r")}
CARRIES |= dict.fromkeys(("schedulefreesgd", "schedulefreeadamw"), ("weight_sum", "lr_max"))


# The shapes of state that is not of its parameter's.
EXTENTS: dict[str, dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]]] = {
    "adafactor": {"R": lambda shape: shape[:-1], "C": lambda shape: shape[:-2] + shape[-1:]},
    "sm3": {"mu": lambda shape: (sum(shape),)},
}


def state_names(rule: str) -> tuple[str, ...]:
    """The letters of a rule's state buffers, in order."""
    names = inspect.signature(RULES[rule]).parameters.values()
    return tuple(p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD)[2:]


def state_shapes(rule: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a rule's state buffers for a parameter of this shape."""
    others = EXTENTS.get(rule, {})
    return {name: others[name](shape) if name in others else shape for name in state_names(rule)}


def hyper_names(rule: str) -> tuple[str, ...]:
    """A rule's hyperparameters, in order."""
    names = inspect.signature(RULES[rule]).parameters.values()
    return tuple(p.name for p in names if p.kind is p.KEYWORD_ONLY and p.name not in ("t", "carry"))


def noted(rule: str, t: int, hyper: Mapping[str, float], before: Mapping[str, Decay]) -> dict[str, Decay]:
    """The decays on step t, from those of the step before."""
    decays = {}
    for name in CORRECTED.get(rule, ()):
        last = before.get(name) if t > 1 else None
        if last is None or last == hyper[name]:
            decays[name] = Decay(hyper[name]) if last is None else last
        else:
            decays[name] = last.then(hyper[name], t - 1)
    return decays


def new_state(rule: str, p: np.ndarray, start: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """State before the first step: zeros, except where something else is asked for by name."""
    shapes = state_shapes(rule, p.shape)
    return {name: np.full(shape, start.get(name, 0.0), p.dtype) for name, shape in shapes.items()}


def step(
    rule: str,
    p: np.ndarray,
    g: np.ndarray,
    state: dict[str, Any],
    t: int,
    hyper: Mapping[str, float],
    *,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    independent_decay: float = 0.0,
    maximize: bool = False,
    scale: float = 1.0,
    clip_value: float = 0.0,
) -> None:
    """One step in place on p and on the arrays (and carried doubles) of state."""
    options = {"weight_decay": weight_decay, "decoupled_decay": decoupled_decay, "independent_decay": independent_decay}
    options |= {"maximize": maximize, "scale": scale, "clip_value": clip_value}
    step_all(rule, [p], [g], [state], t, hyper, **options)


def step_all(
    rule: str,
    params: list[np.ndarray],
    grads: list[np.ndarray],
    states: list[dict[str, Any]],
    t: int,
    hyper: Mapping[str, float],
    **options: Any,
) -> None:
    """One step of parameters that share their hyperparameters: the stages, then the rule."""
    with np.errstate(all="ignore"):
        begun = [begin(rule, *each, t, hyper, **options) for each in zip(params, grads, states, strict=True)]
        if rule in TOGETHER:
            finish(begun)


def finish(begun: list[Any]) -> None:
    """Go on with what `begin` has begun, once the sums of all of them are known."""
    terms = [next(one) for one in begun]
    sums = [0.0] * (len(terms[0]) if terms else 0)
    for of_one in terms:
        for i, values in enumerate(of_one):
            for value in values:
                sums[i] += value
    for one in begun:
        with contextlib.suppress(StopIteration):
            one.send(sums)


def begin(
    rule: str,
    p: np.ndarray,
    g: np.ndarray,
    state: dict[str, Any],
    t: int,
    hyper: Mapping[str, float],
    *,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    independent_decay: float = 0.0,
    maximize: bool = False,
    scale: float = 1.0,
    clip_value: float = 0.0,
) -> Any:
    """The stages, then what the rule returns."""
    T = p.dtype.type
    p, g = p.view(Flushed), g.view(Flushed)
    extra = {"carry": state} if rule in CARRIES else {}
    number = np.finfo(T)
    if not (scale == 0 or number.tiny <= abs(scale) <= number.max):  # a factor beyond T is applied in two parts
        rest = 2.0**-100 if abs(scale) < number.tiny else 2.0**100
        g = (T(scale / rest) * g) * T(rest)
    elif T(scale) != 1:
        g = T(scale) * g
    if maximize:
        g = -g
    if clip_value:
        clip = T(clip_value) if T(clip_value) >= number.tiny else T(0)
        g = np.where(g > clip, clip, np.where(g < -clip, -clip, g)).view(Flushed)
    if T(weight_decay) >= np.finfo(T).tiny:  # a smaller decay is 0, and none even where p is infinite
        g = g + T(weight_decay) * p
    if decoupled_decay or independent_decay:
        # Computed within the pass, where subnormal doubles count as 0 too.
        lr, decoupled, independent = map(float, flush([hyper["lr"], decoupled_decay, independent_decay]))
        p *= T(1 - lr * decoupled - independent)
    return RULES[rule](p, g, *(state[name].view(Flushed) for name in state_names(rule)), t=t, **extra, **hyper)


# ---- What steps whose gradient is 0 come to ----


def rough_power(b: float, n: int) -> float:
    """b**n by repeated squaring, as csrc/math/exact.h has it."""
    power = 1.0
    while n:
        if n & 1:
            power *= b
        n, b = n >> 1, b * b
    return power


def decay(mean, rate, skipped):
    mean *= mean.dtype.type(rough_power(rate, skipped))


def decay_variance(s, a, alpha, skipped):
    left, T = rough_power(alpha, skipped), a.dtype.type
    s[...] = T(left) * s + T(left * (1 - left)) * (a * a)
    a *= T(left)


def coast(p, b, lr, mu, skipped):
    power = rough_power(mu, skipped)
    p -= p.dtype.type(lr * mu * (1 - power) / (1 - mu)) * b
    b *= p.dtype.type(power)


CATCH_UP: dict[str, Callable[..., Any]] = {
    "sgd": lambda p, state, skipped, **hyper: None,
    "momentum": lambda p, state, skipped, lr, momentum, **_: coast(p, state["b"], lr, momentum, skipped),
    "nesterov": lambda p, state, skipped, lr, momentum: coast(p, state["b"], lr * momentum, momentum, skipped),
    "adagrad": lambda p, state, skipped, **hyper: None,
    "adadelta": lambda p, state, skipped, rho, **_: [decay(state[name], rho, skipped) for name in "ED"],
    "rmsprop": lambda p, state, skipped, alpha, **_: decay(state["v"], alpha, skipped),
    "rmsprop_centered": lambda p, state, skipped, alpha, **_: decay_variance(state["s"], state["a"], alpha, skipped),
    "rmsprop_momentum": lambda p, state, skipped, lr, alpha, momentum, **_: [
        decay(state["v"], alpha, skipped),
        coast(p, state["b"], lr, momentum, skipped),
    ],
    "rmsprop_centered_momentum": lambda p, state, skipped, lr, alpha, momentum, **_: [
        decay_variance(state["s"], state["a"], alpha, skipped),
        coast(p, state["b"], lr, momentum, skipped),
    ],
}


def catch_up(rule: str, p: np.ndarray, state: dict[str, Any], skipped: int, hyper: Mapping[str, float]) -> None:
    """Make up in place for so many steps whose gradient was 0."""
    with np.errstate(all="ignore"):
        CATCH_UP[rule](p.view(Flushed), {key: array.view(Flushed) for key, array in state.items()}, skipped, **hyper)


# ---- Averages of a parameter ----


def mixed(average: np.ndarray, p: np.ndarray, rate: float) -> np.ndarray:
    """The average when it has moved towards p; all the way it is a copy."""
    T = p.dtype.type
    if T(rate) == 1:
        return p.copy()
    average, p = average.view(Flushed), p.view(Flushed)
    return np.asarray(average + T(rate) * (p - average))


class Averages:
    """ema, swa and slow of one parameter, whose arrays it is given, as csrc/kernels/stages.h keeps them.

    A round is a step of the optimizer, t one of the parameter; both are counted from 1.
    """

    def __init__(
        self,
        p: np.ndarray,
        ema_decay: float | None = None,
        swa: tuple[int, int] | None = None,
        lookahead: tuple[int, float] | None = None,
    ) -> None:
        self.ema_decay, self.swa, self.lookahead = ema_decay, swa, lookahead
        names = [
            name for name, option in {"ema": ema_decay, "swa": swa, "slow": lookahead}.items() if option is not None
        ]
        self.buffers = {name: np.zeros_like(p) for name in names}
        self.averaged = self.begun = 0

    def samples(self, round: int) -> int:
        start, every = self.swa or (sys.maxsize, 1)
        return 0 if round < start else (round - start) // every + 1

    def mix(self, name: str, p: np.ndarray, rate: float) -> None:
        with np.errstate(all="ignore"):
            self.buffers[name] = mixed(self.buffers[name], p, rate)

    def take_in(self, p: np.ndarray, first: int, last: int) -> None:
        """Move for the rounds after one up to another, in all of which the parameter was the same."""
        if first < 0:
            self.buffers |= {name: p.copy() for name in self.buffers if name != "slow"}
            return
        if "ema" in self.buffers and first < last:
            self.mix("ema", p, 1 - rough_power(float(self.ema_decay), last - first))
        if "swa" in self.buffers and (more := self.samples(last) - self.samples(first)) > 0:
            self.mix("swa", p, min(1.0, more / max(1, self.samples(last) - self.samples(self.begun))))

    def before(self, p: np.ndarray, t: int, round: int) -> None:
        """What comes before the step: they begin, or make up for the rounds that the parameter has missed."""
        if t == 1:
            self.begun = round - 1
            self.buffers = {name: p.copy() for name in self.buffers}
        else:
            self.take_in(p, self.averaged, round - 1)

    def after(self, p: np.ndarray, t: int, round: int) -> None:
        """What comes after it; Lookahead moves the parameter."""
        if "slow" in self.buffers and t % self.lookahead[0] == 0:
            self.mix("slow", p, self.lookahead[1])
            p[...] = self.buffers["slow"]
        self.take_in(p, round - 1, round)
        self.averaged = round

    def rest(self, p: np.ndarray, made: int, round: int) -> None:
        """A round in which the parameter, which has made some steps, has no gradient."""
        if made:
            self.take_in(p, self.averaged, round)
            self.averaged = round


def blocks(x: np.ndarray) -> Iterator[list[slice]]:
    """The blocks of 1024 elements of each piece of 16384."""
    for piece in range(0, x.size, 16384):
        end = min(piece + 16384, x.size)
        yield [slice(block, min(block + 1024, end)) for block in range(piece, end, 1024)]


def sum_of_lanes(products: np.ndarray) -> float:
    """The sum of a block, by 16 lanes."""
    lanes = np.zeros((-(-products.size // 16), 16))
    lanes.reshape(-1)[: products.size] = flush(products)
    sums = np.add.reduce(lanes, axis=0)
    while sums.size > 1:
        sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
    return float(sums[0])


def sums_of_products(x: np.ndarray, y: np.ndarray) -> Iterator[float]:
    """What csrc adds up for a sum of products: in double, by pieces and blocks."""
    x, y = (np.asarray(flush(np.asarray(z)).reshape(-1), np.float64) for z in (x, y))
    for piece in blocks(x):
        total = 0.0
        for block in piece:
            total += sum_of_lanes(x[block] * y[block])
        yield total


def unit_of(sums: Any, dtype: Any) -> Any:
    """Where the sum of squares of a block is kept: 0 as it is, 1 in units of 2^1200, 2 in units of 2^-1200."""
    if dtype == np.float32:
        return np.zeros(np.shape(sums), int)
    sums = np.asarray(sums)
    return np.where(sums < 2.0**-900, 2, np.where(sums <= 2.0**900, 0, 1))


def squares(*arrays: np.ndarray) -> list[float]:
    """The sum of squares of all elements, in three parts: as it is, in units of 2^1200, in units of 2^-1200."""
    total = [0.0] * 3
    for array in arrays:
        x = np.asarray(flush(np.asarray(array)).reshape(-1), np.float64)
        for piece in blocks(x):
            of_piece = [0.0] * 3
            for block in piece:
                with np.errstate(all="ignore"):
                    unit = int(unit_of(sum_of_lanes(x[block] ** 2), array.dtype))
                    of_piece[unit] += sum_of_lanes((x[block] * (1.0, 2.0**-600, 2.0**600)[unit]) ** 2)
            total = [a + b for a, b in zip(total, of_piece, strict=True)]
    return total


def scaled(total: list[float]) -> tuple[float, int]:
    """A sum of squares as a number and the power of two it is to be multiplied by."""
    usual, huge, tiny = total
    if huge != 0:
        return huge + math.ldexp(usual, -1200), 1200
    if tiny == 0 or usual != 0:
        return usual + math.ldexp(tiny, -1200), 0
    return tiny, -1200


def root(total: list[float], divisor: float = 1) -> float:
    """sqrt(total / divisor)"""
    x, exponent = scaled(total)
    with np.errstate(all="ignore"):
        return float(np.ldexp(np.sqrt(np.float64(x) / divisor), exponent // 2))


def norm(grads: list[np.ndarray]) -> float:
    """The norm of all gradients."""
    return root(squares(*grads))
