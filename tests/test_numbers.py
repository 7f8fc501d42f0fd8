"""NaN, infinities and subnormals: contained as asked for, and nothing of the caller's floating-point world changes."""

import contextlib
import copy
import ctypes
import ctypes.util
import platform
import re
import threading
import warnings
from itertools import islice, product

import numpy as np
import pytest

import fastopt
from support.arithmetic import flush
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import BY_ELEMENT, CASES, RULES, Oracle
from support.covering import all_pairs
from support.reference import CARRIES, state_names

SIZE = 50_001  # elements, enough for three threads, and no multiple of anything
BAD = (np.nan, -np.nan, np.inf, -np.inf)
PLACES = (0, SIZE // 2, SIZE - 1)
CASE = pytest.mark.parametrize("case", RULES, ids=ids)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=ids)


def strided(x):
    """The same values at every second place, backwards."""
    return np.repeat(x[::-1], 2)[::-2]


LAYOUTS = {"contiguous": np.copy, "strided": strided}


def everything(opt):
    """The bits of parameters, state and counts."""
    content = opt.state_dict()
    arrays = [p for group in opt.groups for p in group["params"]]
    numbers = [opt.step_count]
    for entry in content["state"].values():
        for value in entry.values():
            (arrays if isinstance(value, np.ndarray) else numbers).append(value)
    return numbers, [array.tobytes() for array in arrays]


# ---- NaN and infinity ----


@pytest.mark.parametrize("case", BY_ELEMENT, ids=ids)
@DTYPE
def test_propagate_is_what_ieee_says(case, dtype):
    """They reach their own element, as in NumPy, and no other; it is the default."""
    start = np.linspace(-2, 2, SIZE, dtype=dtype)
    oracle, gs = Oracle(case, start), list(islice(gradients(0, SIZE, dtype), 6))
    for g, bad in zip(gs, (None, *BAD, None), strict=True):
        if bad is not None:
            g[list(PLACES)] = bad
        oracle.step(g)
    for layout in LAYOUTS.values():
        p = start.copy()
        opt = case.make(p, num_threads=2)
        for g in gs:
            opt.step(layout(g))
        assert_like(opt, 0, p, oracle)
        assert np.isfinite(np.delete(p, PLACES)).all()
        assert opt.skipped_steps == 0


@pytest.mark.parametrize(
    ("case", "dtype", "nonfinite", "num_threads"), all_pairs(RULES, DTYPES, ["raise", "skip"], [1, 2, 3]), ids=ids
)
def test_a_bad_gradient_changes_nothing(case, dtype, nonfinite, num_threads):
    """Wherever the one bad element is, and whichever; steps before and after it are those of the oracle."""
    p = np.linspace(-2, 2, SIZE, dtype=dtype)
    oracle = Oracle(case, p)
    opt = case.make(p, nonfinite=nonfinite, num_threads=num_threads)
    source = gradients(0, SIZE, dtype)
    good = next(source)
    opt.step(good)
    oracle.step(good)
    before = everything(opt)
    for i, (bad, place, layout) in enumerate(product(BAD, PLACES, LAYOUTS.values())):
        g = good.copy()
        g[place] = bad
        g = layout(g)
        if nonfinite == "skip":
            opt.step(g)
        else:
            with pytest.raises(FloatingPointError, match=r"NaN or infinity in the gradient of parameter 0$"):
                opt.step(g)
        assert opt.skipped_steps == (i + 1 if nonfinite == "skip" else 0)
        assert everything(opt) == before
    good = next(source)
    opt.step(good)
    oracle.step(good)
    assert_like(opt, 0, p, oracle)
    for name in opt.state[0].keys() - oracle.buffers.keys():
        assert opt.state[0][name] == oracle.state[name]


def test_the_error_names_every_bad_parameter():
    params = {"w": np.ones((2, 3)), 7: np.ones(3), "b": np.ones(()), "empty": np.ones(0), "none": np.ones(3)}
    opt = fastopt.Adam(params, nonfinite="raise")
    grads = {name: np.ones_like(p) for name, p in params.items()} | {"none": None}
    before = everything(opt)
    for bad in (["w"], [7], ["b"], ["w", 7], ["w", 7, "b"]):
        now = copy.deepcopy(grads)
        for name in bad:
            now[name][...] = np.inf
        names = ", ".join("parameter 7" if name == 7 else repr(name) for name in bad)
        text = f"Adam.step: gradients must be finite, got NaN or infinity in the gradient of {names}"
        with pytest.raises(FloatingPointError, match=re.escape(text) + "$"):
            opt.step(now)
        assert everything(opt) == before
    opt.step(grads)
    assert opt.step_count == 1


@DTYPE
def test_one_bad_parameter_holds_all_back(dtype):
    """A step is made for all parameters or for none, in all groups."""
    params = [np.ones(n, dtype) for n in (5, 40_000, 3)]
    opt = fastopt.NAdam([{"params": params[:2]}, {"params": params[2:]}], nonfinite="skip", num_threads=2)
    grads = [np.ones_like(p) for p in params]
    for bad in range(3):
        before = everything(opt)
        grads[bad][-1] = np.nan
        opt.step([grads[:2], grads[2:]])
        assert everything(opt) == before
        assert opt.skipped_steps == bad + 1
        grads[bad][-1] = 1
    opt.step([grads[:2], grads[2:]])
    assert opt.step_count == 1


def test_bound_gradients_are_checked_on_every_step():
    p, g = np.ones(5), np.ones(5)
    opt = fastopt.Adam(p, nonfinite="skip")
    opt.bind(g)
    for value, skipped in [(1, 0), (np.nan, 1), (1, 1), (-np.inf, 2)]:
        g[3] = value
        opt.step()
        assert opt.skipped_steps == skipped
    assert opt.step_count == 2


@CASE
@DTYPE
def test_finite_gradients_of_any_size_are_no_reason_to_skip(case, dtype):
    """The largest and the smallest numbers are finite, whatever becomes of their squares."""
    limits = np.finfo(dtype)
    g = np.array([limits.max, -limits.max, limits.smallest_subnormal, -0.0, limits.smallest_normal, 1], dtype)
    p = np.ones(6, dtype)
    oracle, opt = Oracle(case, p), case.make(p, nonfinite="raise")
    for _ in range(3):
        opt.step(g)
        oracle.step(g)
    assert_like(opt, 0, p, oracle)


# ---- Subnormals ----


def around_zero(seed, dtype, size=4096):
    """Numbers from the smallest subnormal to some normal ones, of both signs, and zeros."""
    rng = np.random.default_rng(seed)
    tiny, least = np.finfo(dtype).smallest_normal, np.finfo(dtype).smallest_subnormal
    numbers = np.array([0, least, 2 * least, tiny / 3, tiny - least, tiny, 1.5 * tiny, 16 * tiny, 1e-3, 1], dtype)
    return np.where(rng.random(size) < 0.5, -1, 1).astype(dtype) * rng.choice(numbers, size)


@pytest.mark.parametrize("case", CASES, ids=ids)
@DTYPE
def test_subnormals_count_as_zero(case, dtype):
    """In parameters, gradients and state alike, in every rule and stage, and every layout."""
    start, gs = around_zero(0, dtype), [around_zero(10 + i, dtype) for i in range(3)]
    oracle, before = Oracle(case, start), {}
    for i, (letter, buffer) in enumerate(oracle.buffers.items()):
        # The argument of a root is never negative.
        buffer[...] = around_zero(i + 1, dtype) if letter in "mba" else abs(around_zero(i + 1, dtype))
        before[letter] = buffer.copy()
    for g in gs:
        oracle.step(g)
    for layout in LAYOUTS.values():
        p = layout(start)
        opt = case.make(p, num_threads=1)
        for letter, buffer in before.items():
            opt.state[0][letter][...] = buffer
        for g in gs:
            opt.step(layout(g))
        assert_like(opt, 0, p, oracle)
    for buffer in oracle.buffers.values():
        assert_same_bits(buffer, flush(buffer))


@CASE
@DTYPE
def test_decaying_state_ends_at_zero(case, dtype):
    """It does not stick at a subnormal that rounds to itself."""
    p = np.ones(100, dtype)
    opt = case.make(p)
    for g in (1, 0):  # after the second step, rules that compare a gradient with the one before find no difference
        opt.step(np.full(100, g, dtype))
    for letter in opt.state[0].keys() & {"m", "b", "a"}:
        opt.state[0][letter][...] = np.finfo(dtype).smallest_normal
    for _ in range(5):
        opt.step(np.zeros(100, dtype))
    for letter in opt.state[0].keys() & {"m", "b", "a"}:
        assert (opt.state[0][letter] == 0).all()


# ---- The caller's floating-point mode ----


def subnormals_work():
    """NumPy computes with subnormals on this thread, in scalars and in vector loops."""
    for dtype in DTYPES:
        tiny = np.finfo(dtype).smallest_normal
        x = np.full(1000, tiny, dtype)
        if not ((x / 4 > 0).all() and (x / 4 * 4 == x).all() and dtype(tiny) / dtype(4) > 0):
            return False
    return True


class Fenv:
    """The calling thread's floating-point mode and exception flags, as the C library sees them."""

    def __init__(self):
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))
        x86 = platform.machine() == "x86_64"
        self.upward = 0x800 if x86 else 0x400000
        self.errors = 0x0D if x86 else 0x07  # invalid, division by zero, overflow
        # Of fenv_t on x86 SSE's register, less the flags in its lowest bits; on aarch64 the control register.
        self.word, self.mask = (7, ~0x3F) if x86 else (0, ~0)

    def reset(self):
        """Start from what every program starts with, whatever ran on this thread before."""
        assert self.libm.fesetenv(ctypes.c_void_p(-1)) == 0

    def mode(self):
        env = (ctypes.c_uint32 * 16)()
        assert self.libm.fegetenv(env) == 0
        return hex(env[self.word] & self.mask)


@pytest.fixture
def fenv():
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("this test knows the layout of fenv_t on Linux on x86-64 and aarch64 only")
    return Fenv()


def steps_of_all_kinds(check):
    """Steps by every way through the C core, with a check after each."""
    for size, num_threads, dtype, layout in product((10, SIZE), (1, 2), DTYPES, LAYOUTS.values()):
        p, g = layout(np.ones(size, dtype)), np.full(size, np.finfo(dtype).smallest_normal, dtype)
        opt = fastopt.Adam(p, weight_decay=0.1, num_threads=num_threads)
        opt.step(g)
        check()
        opt = fastopt.Adam(p, nonfinite="skip", num_threads=num_threads)
        g[-1] = np.nan
        opt.step(g)
        check()
        with pytest.raises(TypeError):
            opt.step("wrong")
        check()
    p, g, m, v = (np.full(100, 1e-40, np.float32) for _ in range(4))
    fastopt.kernels.adam(p, g, m, v, step=1, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8)
    check()


def on_threads(function, count=3):
    """Call it on this thread, then on so many new ones at once."""
    failures = []

    def call():
        try:
            function()
        except BaseException as error:
            failures.append(error)

    function()
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_numpy_keeps_its_subnormals():
    def check():
        assert subnormals_work()

    on_threads(lambda: steps_of_all_kinds(check))


def test_the_mode_comes_back_to_the_bit(fenv):
    def run():
        fenv.reset()
        before = fenv.mode()

        def check():
            assert fenv.mode() == before

        steps_of_all_kinds(check)

    on_threads(run)


def test_a_rounding_mode_of_the_caller_stays(fenv):
    """Whatever the mode was, it is the caller's."""
    fenv.reset()
    assert fenv.libm.fesetround(fenv.upward) == 0
    try:
        before = fenv.mode()
        fastopt.SGD(np.ones(SIZE), num_threads=2).step(np.ones(SIZE))
        assert fenv.libm.fegetround() == fenv.upward
        assert fenv.mode() == before
    finally:
        fenv.reset()


@CASE
@DTYPE
@pytest.mark.parametrize("size", [6, SIZE])
def test_steps_raise_no_floating_point_flags(case, dtype, size):
    """Overflow, division by zero, invalid: neither a step nor what NumPy computes next warns of them."""
    limits = np.finfo(dtype)
    g = np.resize(np.array([limits.max, limits.smallest_subnormal, 0, np.nan, np.inf, -limits.max], dtype), size)
    opt = case.make(np.full(size, limits.max, dtype), num_threads=2)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            opt.step(g)
            assert (np.ones(100, dtype) + np.ones(100, dtype)).sum() == 200


def test_exception_flags_of_the_caller_stay(fenv):
    """Overflow and invalid operations of a step set no flag of the caller, whose own flags stay set."""
    p, g = np.full(SIZE, 1e38, np.float32), np.full(SIZE, 3e38, np.float32)
    g[7] = np.inf
    opt = fastopt.Adam(p, num_threads=1)
    for raised in (0, fenv.errors):
        fenv.reset()
        fenv.libm.feraiseexcept(raised)
        opt.step(g)
        assert fenv.libm.fetestexcept(fenv.errors) == raised
    fenv.reset()


# ---- Minus zero ----


def with_zero(case, zero):
    """The hyperparameters of a rule, those but the rate 0 that can be."""
    hyper = case.hyper()
    for name in hyper.keys() - {"lr"}:
        with contextlib.suppress(ValueError):
            fastopt._core.check_range(name, name, zero)
            hyper[name] = zero
    return hyper


@DTYPE
@CASE
def test_minus_zero_is_zero(case, dtype):
    """As a hyperparameter: the sign of a zero makes no difference."""
    g = np.array([1.0, -1.0, 0.0, -0.0, 1e-6, -1e-6, 0.0, -0.0], dtype)
    runs = []
    for zero in (0.0, -0.0):
        p = np.array([1.0, -1.0, 0.0, -0.0, 0.0, -0.0, 2.0, -2.0], dtype)
        buffers = [
            p,
            g,
            *(np.zeros_like(p) for _ in state_names(case.rule)),
            *(np.zeros(1) for _ in CARRIES.get(case.rule, ())),
        ]
        for t in range(1, 5):
            buffers[1] = g if t % 2 else g[::-1].copy()
            getattr(fastopt.kernels, case.rule)(*buffers, step=t, **with_zero(case, zero))
        runs.append(buffers)
    for one, other in zip(*runs, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("lr", [-0.0, lambda t: -0.0], ids=["number", "schedule"])
def test_minus_zero_in_what_state_starts_from(lr):
    state = fastopt.Rprop(np.ones(2), lr=lr).state[0]
    assert_same_bits(state["step_size"], np.zeros(2))


def test_minus_zero_by_a_schedule():
    """A schedule that goes from 0 to -0 is one that stays."""
    runs, betas = [np.ones(3) for _ in range(3)], (0.0, lambda t: -0.0 if t else 0.0, -0.0)
    opts = [fastopt.Adam(p, betas=(beta1, 0.9)) for p, beta1 in zip(runs, betas, strict=True)]
    for g in ([1.0, -1.0, 0.0], [-0.0, 0.0, -0.0], [0.0, -0.0, 0.0]):
        for opt, p in zip(opts, runs, strict=True):
            opt.step(np.array(g))
            assert_same_bits(p, runs[0])
            assert_same_bits(opt.state[0]["m"], opts[0].state[0]["m"])


def test_minus_zero_in_the_warm_up_of_ademamix():
    """By hand: beta3 = 0, and so m2 is g, also where that is -0 and m2 before was not 0."""
    for zero in (0.0, -0.0):
        p, m1, m2, v = np.ones(2), np.zeros(2), np.array([-1.0, 1.0]), np.zeros(2)
        hyper = {"lr": 0.5, "beta1": zero, "beta2": 0.9, "beta3": zero, "eps": zero, "mix": 5.0, "warmup": 3.0}
        fastopt.kernels.ademamix(p, np.array([-0.0, -0.0]), m1, m2, v, step=2, **hyper)
        assert_same_bits(m2, np.array([-0.0, 0.0]))  # 0 * -1 - 0 and 0 * 1 - 0
        p, g = np.ones(2), np.array([-1.0, 1.0])
        opt = fastopt.AdEMAMix(p, lr=0.5, betas=(zero, 0.9, zero), warmup=3.0)
        opt.step(g)
        opt.step(np.array([-0.0, -0.0]))
        assert_same_bits(opt.state[0]["m2"], np.array([-0.0, 0.0]))
