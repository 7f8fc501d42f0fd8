"""fastopt.kernels: the rules on the caller's own buffers."""

import ml_dtypes
import numpy as np
import pytest

import fastopt
from fastopt.stored import Stored
from support import reference
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids, refused
from support.cases import CASES, RULES, Case, Oracle
from support.covering import all_pairs
from support.hyper import range_of


def buffers(case: Case, p: np.ndarray) -> list[np.ndarray]:
    """The arguments of the kernel after parameter and gradient: the state of Oracle before the first step."""
    carry = next(carry for name, _, _, carry in fastopt._core.rules() if name == case.rule)
    return [*Oracle(case, p).buffers.values(), *(np.zeros(1) for _ in carry)]


@pytest.mark.parametrize(("case", "size", "dtype"), all_pairs(CASES, [0, 1, 65, 40003], DTYPES), ids=ids)
def test_the_bits_of_the_class(case, dtype, size, isas):
    for isa in isas:
        own = np.random.default_rng(1).standard_normal(size).astype(dtype)
        p, state = own.copy(), buffers(case, own)
        opt, kernel = case.make(own), getattr(fastopt.kernels, case.rule)
        for t, g in zip((1, 2, 3), gradients(2, size, dtype), strict=False):
            opt.step(g)
            kernel(p, g, *state, step=t, num_threads=t, **case.hyper(), **case.options())
        assert_same_bits(p, own, f"{isa}, p: ")
        for (letter, wanted), buffer in zip(opt.state[0].items(), state, strict=True):
            assert_same_bits(buffer.reshape(wanted.shape), wanted, f"{isa}, {letter}: ")


BFLOAT16 = ml_dtypes.bfloat16


def own_buffer(value: object) -> object:
    """A copy of a state buffer of an optimizer, as users have their own: an array where there are no codes."""
    if not isinstance(value, Stored):
        return value.copy().reshape(1) if value.ndim == 0 else value.copy()
    return (
        value.copy()
        if value.scales is not None
        else value.codes.copy().view(BFLOAT16 if value.format == "bfloat16" else value.codes.dtype)
    )


def memory(value: object) -> list[np.ndarray]:
    """The bytes of a buffer."""
    arrays = [value.codes, value.scales] if isinstance(value, Stored) else [value]
    return [array.reshape(-1).view(np.uint8) for array in arrays if array is not None]


@pytest.mark.parametrize(
    ("dtype", "word", "rounding"),
    [
        (np.float32, "8bit", "stochastic"),
        (np.float64, "bfloat16", "nearest"),
        (np.float16, "float16", "stochastic"),
        (BFLOAT16, "8bit", "nearest"),
        (BFLOAT16, "bfloat16", "stochastic"),
    ],
    ids=ids,
)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_the_bits_of_the_class_in_fewer_bytes(case, dtype, word, rounding):
    own = np.random.default_rng(1).standard_normal(1000).astype(dtype)
    p = own.copy()
    opt = case.make({"w": own}, state_dtype=word, master=None, rounding=rounding, seed=3)
    state, kernel = [own_buffer(value) for value in opt.state["w"].values()], getattr(fastopt.kernels, case.rule)
    how = {"rounding": rounding, "seed": 3, "name": "w"}
    for t, g in zip((1, 2, 3), gradients(2, 1000, np.float32), strict=False):
        g = g.astype(BFLOAT16) if t == 2 else g
        opt.step({"w": g})
        kernel(p, g, *state, step=t, num_threads=t, **how, **case.hyper(), **case.options())
    for letter, mine, wanted in zip(("p", *opt.state["w"]), [p, *state], [own, *opt.state["w"].values()], strict=True):
        for a, b in zip(memory(mine), memory(wanted), strict=True):
            np.testing.assert_array_equal(a, b, letter)


def test_each_buffer_has_its_own_dtype():
    """Without `name`, elements are rounded as those of an optimizer's only array."""
    own = np.linspace(-1, 1, 200).astype(BFLOAT16)
    p, g = own.copy(), np.linspace(1, 2, 200).astype(np.float16)
    opt = fastopt.Adam([own], state_dtype={"m": "float16", "v": "8bit"}, master=None)
    m, v = np.zeros(200, np.float16), Stored("codes_nonnegative", np.zeros(200, np.uint8), np.zeros(4, np.float32))
    for t in (1, 2):
        opt.step([g])
        fastopt.kernels.adam(p, g, m, v, step=t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
    for mine, wanted in ((p, own), (m, opt.state[0]["m"].codes), (v, opt.state[0]["v"])):
        for a, b in zip(memory(mine), memory(wanted), strict=True):
            np.testing.assert_array_equal(a, b)
    assert abs(np.asarray(v) - 0.001 * 1.999 * g.astype(np.float32) ** 2).max() < 1e-3


def codes(data: object = None, scales: object = None) -> Stored:
    data = np.zeros(4, np.int8) if data is None else data
    return Stored("codes_signed", data, np.zeros(1, np.float32) if scales is None else scales)


SHARED = np.zeros(8, np.float32)
READ_ONLY = np.zeros(1, np.float32)
READ_ONLY.flags.writeable = False
BAD_STORED = {
    "codes of another sign": (
        {3: codes()},
        "adam: v must be stored as float16, bfloat16 or float32 or codes_nonnegative",
    ),
    "another shape": ({2: codes(np.zeros(5, np.int8))}, "adam: m must have p's shape (4,), got (5,)"),
    "scales that are the parameter": (
        {0: SHARED[:4], 2: codes(scales=SHARED[3:4])},
        "scales of adam: m must not share",
    ),
    "scales that are read-only": ({2: codes(scales=READ_ONLY)}, "adam: m must have scales that are C-contiguous, al"),
    "codes in the place of p": ({0: codes()}, "adam: p must be a numpy.ndarray"),
    "codes in the place of g": ({1: codes()}, "adam: g must be a numpy.ndarray"),
    "float64 state": ({2: np.zeros(4)}, "adam: m must have dtype float16, bfloat16 or float32, got '<f8'"),
    "codes every other byte": ({2: codes(np.zeros(8, np.int8)[::2])}, "adam: m must be C-contiguous"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_STORED.values(), ids=BAD_STORED)
def test_bad_codes(changed, message):
    arrays = [changed.get(i, np.ones(4, np.float32)) for i in range(4)]
    with refused(message, None, *(array for array in arrays if isinstance(array, np.ndarray))):
        fastopt.kernels.adam(*arrays, **ADAM)


def of_rule(name: str) -> tuple[list[np.ndarray], dict[str, float], fastopt._core.Settings]:
    """The buffers of a rule for a matrix, and keywords in their ranges."""
    row = next(row for row in fastopt._core.rules() if row[0] == name)
    settings, p = fastopt._core.Settings(name), np.ones((4, 5), np.float32)
    state = [np.ones(shape, np.float32) for shape in settings.shapes(p)]
    hyper = {key: np.mean(range_of(key).usual) for key in row[2]}
    return [p, p.copy(), *state, *(np.zeros(1) for _ in row[3])], {"step": 1, **hyper}, settings


ROWS = [row[0] for row in fastopt._core.rules()]
EXACT = [
    (name, s)
    for name in ROWS
    for s, kind in enumerate(fastopt._core.Settings(name).kinds)
    if kind == "exact" or not fastopt._core.Settings(name).is_whole(s)
]


@pytest.mark.parametrize(("name", "s"), EXACT)
def test_state_that_is_needed_exactly_is_not_rounded(name, s):
    buffers, keywords, settings = of_rule(name)
    buffers[2 + s] = buffers[2 + s].astype(np.float16)
    why = "the rule needs each of its bits" if settings.kinds[s] == "exact" else "it does not have p's shape"
    with refused(f"must have dtype float32, since {why}, got '<f2'", None, *buffers):
        getattr(fastopt.kernels, name)(*buffers, **keywords)


@pytest.mark.parametrize("name", [name for name in ROWS if fastopt._core.Settings(name).takes_matrices])
def test_codes_of_matrices(name):
    buffers, keywords, settings = of_rule(name)
    for s, kind in enumerate(settings.kinds):
        if settings.is_whole(s) and kind != "exact":
            dtype = np.int8 if kind == "signed" else np.uint8
            stored = Stored(f"codes_{kind}", np.zeros((4, 5), dtype), np.zeros(1, np.float32))
            given = [*buffers[: 2 + s], stored, *buffers[3 + s :]]
            with refused(f"since passes over rows would cut the groups of codes, got codes_{kind}", None, *buffers):
                getattr(fastopt.kernels, name)(*given, **keywords)
            buffers[2 + s] = buffers[2 + s].astype(BFLOAT16)
    getattr(fastopt.kernels, name)(*buffers, **keywords)
    assert (buffers[0] != 1).all()


def test_codes_in_another_order():
    p, g, v = (np.ones((4, 5), np.float32) for _ in range(3))
    turned = Stored("codes_signed", np.zeros((4, 5), np.int8), np.zeros(1, np.float32), (1, 0))
    with refused("adam: m must be stored in C order of its axes, got order (1, 0)", None, p, v):
        fastopt.kernels.adam(p, g, turned, v, **ADAM)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("int4", np.zeros(4, np.int8), None), "codes must be stored in a format of state buffers, got 'int4'"),
        (("split16", np.zeros(4, np.uint16), None), "codes must be stored in a format of state buffers, got 'split16'"),
        (("codes_signed", np.zeros(4, np.uint8), None), "must be an array of shape (4,) that fits codes_signed"),
        (("codes_signed", [1], None), "must be an array of shape () that fits codes_signed, got [1]"),
        (("codes_signed", np.zeros(65, np.int8), np.zeros(1, np.float32)), "codes must have 2 scales of float32"),
        (("float16", np.zeros(4, np.float16), np.zeros(1, np.float32)), "codes must have 0 scales of float32"),
        (("bfloat16", np.zeros(4, np.uint16), None, (1,)), "order must be one of the axes (0,), got (1,)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_codes_that_do_not_fit_together(given, message):
    with refused(f"Stored: {message}" if message.startswith(("codes", "order")) else message):
        Stored(*given)


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 4, 2)])
def test_shapes(shape):
    p, g, m, v = (np.ones(shape) for _ in range(4))
    flat = [np.ones(p.size) for _ in range(4)]
    hyper = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    fastopt.kernels.adam(p, g, m, v, step=3, **hyper)
    fastopt.kernels.adam(*flat, step=3, **hyper)
    assert_same_bits(p.reshape(-1), flat[0])


def test_steps_in_any_order():
    """The powers of the decay rates that a thread keeps from step to step never show."""
    hyper = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    steps = [31, 32, 33, 1, 64, 63, 1_000_003, 1_000_004, 2, 2, 1_000_031, 1_000_032, 2**40, 7, 95]
    for beta1 in (0.9, 0.5, 0.0, 0.99, 0.999, 0.1, 0.2, 0.3, 0.4, 0.6):
        for step in steps:
            p, g, m, v = (np.ones(3) for _ in range(4))
            expected, state = np.ones(3), {"m": np.ones(3), "v": np.ones(3)}
            fastopt.kernels.adam(p, g, m, v, step=step, **{**hyper, "beta1": beta1})
            reference.step("adam", expected, g, state, step, {**hyper, "beta1": beta1})
            assert_same_bits(p, expected, f"beta1={beta1}, step {step}: ")


def test_a_read_only_gradient():
    p, g = np.ones(3), np.ones(3)
    g.flags.writeable = False
    fastopt.kernels.sgd(p, g, step=1, lr=0.5)
    np.testing.assert_array_equal(p, 0.5)


# ---- Mistakes ----

MEMORY = np.arange(20.0)
ADAM = {"step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}


def fresh() -> list:
    return [np.ones(4) for _ in range(4)]


def replaced(i: int, value: object) -> list:
    arrays = fresh()
    arrays[i] = value
    return arrays


def read_only(n: int) -> np.ndarray:
    a = np.ones(n)
    a.flags.writeable = False
    return a


BUFFERS = {
    "none": ([], "p, g, m, v"),
    "one missing": (fresh()[:3], "p, g, m, v"),
    "one too many": ([*fresh(), np.ones(4)], "p, g, m, v"),
    "a list": (replaced(1, [1.0] * 4), "g must be a numpy.ndarray"),
    "None": (replaced(1, None), "g must be a numpy.ndarray"),
    "integers": (replaced(0, np.ones(4, int)), "p must have dtype"),
    "float16": (replaced(0, np.ones(4, np.float16)), "float16"),
    "another dtype": (replaced(2, np.ones(4, np.int8)), "m must have"),
    "other byte order": ([np.ones(4, np.dtype(float).newbyteorder())] * 4, "p must have dtype"),
    "other byte order in one": (replaced(3, np.ones(4, np.dtype(float).newbyteorder())), "v must have"),
    "another size": (replaced(1, np.ones(5)), "g must have"),
    "another shape": (replaced(3, np.ones((2, 2))), "v must have"),
    "a shape that broadcasts": (replaced(1, np.ones(1)), "g must have"),
    "read-only parameter": (replaced(0, read_only(4)), "p must be writable"),
    "read-only state": (replaced(3, read_only(4)), "v must be writable"),
    "the gradient is the parameter": ([MEMORY[:4], MEMORY[:4], *fresh()[2:]], "share memory"),
    "the gradient is state": ([np.ones(4), MEMORY[:4], np.ones(4), MEMORY[:4]], "share memory"),
    "state is the parameter": ([MEMORY[:4], np.ones(4), MEMORY[1:5], np.ones(4)], "share memory"),
    "state twice": ([*fresh()[:2], MEMORY[:4], MEMORY[3:7]], "share memory"),
    "masked": (replaced(1, np.ma.masked_array(np.ones(4), [True, False, False, False])), "g must be a numpy.ndarray"),
}


@pytest.mark.parametrize(("arrays", "message"), BUFFERS.values(), ids=BUFFERS)
def test_bad_buffers(arrays, message):
    with refused(message, None, *arrays):
        fastopt.kernels.adam(*arrays, **ADAM)
    with pytest.raises((TypeError, ValueError), match=r"^adam: "):
        fastopt.kernels.adam(*arrays, **ADAM)


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize(
    "stored",
    [MEMORY[:8:2], MEMORY[3::-1], MEMORY[:8].view(np.uint8)[1:33].view(float)],
    ids=["strided", "backwards", "unaligned"],
)
def test_layouts_are_handled_or_refused(i, stored):
    """Never silently wrong."""
    arrays, wanted = replaced(i, stored.copy()), replaced(i, stored.copy())
    arrays[i] = stored
    before = MEMORY.copy()
    fastopt.kernels.adam(*wanted, **ADAM)
    try:
        fastopt.kernels.adam(*arrays, **ADAM)
    except (TypeError, ValueError):
        assert_same_bits(MEMORY, before)
        for j in {0, 1, 2, 3} - {i}:
            np.testing.assert_array_equal(arrays[j], 1)
    else:
        for array, copied in zip(arrays, wanted, strict=True):
            assert_same_bits(array, copied)
    finally:
        MEMORY[:] = before


BAD_KEYWORDS = {
    "step of 0": ({"step": 0}, "step must be >= 1, got 0"),
    "negative step": ({"step": -1}, "step must be"),
    "step of 1.5": ({"step": 1.5}, ""),
    "step None": ({"step": None}, "step must be"),
    "step beyond 64 bits": ({"step": 2**64}, ""),
    "negative learning rate": ({"lr": -1.0}, "adam: lr must be finite and >= 0, got -1.0"),
    "NaN": ({"lr": float("nan")}, "adam: lr must be finite and >= 0, got nan"),
    "beta of 1": ({"beta2": 1.0}, "adam: beta2 must be in [0, 1), got 1.0"),
    "a string": ({"eps": "1e-8"}, ""),
    "None": ({"eps": None}, ""),
    "unknown": ({"alpha": 0.9}, "alpha"),
    "betas": ({"betas": (0.9, 0.99)}, "betas"),
    "negative decay": ({"weight_decay": -1.0}, "adam: weight_decay must be finite and >= 0, got -1.0"),
    "infinite decay": ({"decoupled_decay": float("inf")}, "adam: decoupled_decay must be finite and >= 0, got inf"),
    "no threads": ({"num_threads": 0}, "num_threads must be"),
    "half a thread": ({"num_threads": 1.5}, ""),
    "maximize that is no bool": ({"maximize": "yes"}, ""),
    "unknown rounding": ({"rounding": "up"}, "adam: rounding must be one of stochastic, nearest, got 'up'"),
    "negative seed": ({"seed": -1}, "adam: seed must be an integer in [0, 2**64), got -1"),
    "a name that is none": ({"name": 1.5}, "adam: name must be a string or an integer, got 1.5"),
}


@pytest.mark.parametrize(("keywords", "message"), BAD_KEYWORDS.values(), ids=BAD_KEYWORDS)
def test_bad_keywords(keywords, message):
    arrays = fresh()
    with refused(message, None, *arrays):
        fastopt.kernels.adam(*arrays, **{**ADAM, **keywords})


@pytest.mark.parametrize("name", ADAM)
def test_missing_keywords(name):
    arrays = fresh()
    with refused(f"adam: {name} must be given", None, *arrays):
        fastopt.kernels.adam(*arrays, **{key: value for key, value in ADAM.items() if key != name})


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_every_rule_refuses_a_missing_buffer_and_a_bad_learning_rate(case):
    p, g = np.ones(3), np.ones(3)
    state, kernel, hyper = buffers(case, p), getattr(fastopt.kernels, case.rule), case.hyper()
    with refused(f"{case.rule}: ", None, p, *state):
        kernel(*[p, g, *state][:-1], step=1, **hyper)
    with refused(f"{case.rule}: lr must be", None, p, *state):
        kernel(p, g, *state, step=1, **{**hyper, "lr": -1.0})


@pytest.mark.parametrize("carry", [np.zeros(1, np.float32), np.zeros(2), np.zeros(0), 0.0, [0.0]], ids=repr)
def test_a_bad_carried_number(carry):
    p, g, m, v = fresh()
    with refused("nadam: mu_product must be", None, p, m, v):
        fastopt.kernels.nadam(p, g, m, v, carry, **ADAM, momentum_decay=4e-3)
