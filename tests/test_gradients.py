"""Gradients as NumPy gives them: other float dtypes than the parameter's, and numbers for arrays without axes."""

import numpy as np
import pytest

import fastopt
from support.asserts import assert_same_bits, ids, refused
from support.cases import RULES_AND_STAGES

PAIRS = [(p, g) for p in (np.float32, np.float64) for g in (np.float16, np.float32, np.float64) if p != g]
LAYOUTS = {
    "contiguous": lambda a: a,
    "Fortran": np.asfortranarray,
    "every second column": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "aligned to bytes": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}
OPTIONS = {"clip_norm": 1.0, "grad_scale": 2.0, "clip_value": 0.5, "nonfinite": "raise"}


def values(dtype, shape=(41, 67), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("of_p", "of_g"), PAIRS, ids=ids)
@pytest.mark.parametrize("case", RULES_AND_STAGES, ids=ids)
def test_every_rule_takes_every_float_dtype(case, of_p, of_g):
    """To the bit what the converted gradient gives, with all that is around the rule."""
    p, q = np.ones((41, 67), of_p), np.ones((41, 67), of_p)
    ours, like = case.make(p, **OPTIONS), case.make(q, **OPTIONS)
    for seed in range(3):
        g = values(of_g, seed=seed)
        ours.step(g)
        like.step(g.astype(of_p))
    assert_same_bits(p, q)
    assert ours.grad_norm == like.grad_norm
    for letter, buffer in ours.state[0].items():
        assert_same_bits(buffer, like.state[0][letter], letter)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_parameter", ["contiguous", "Fortran", "backwards"])
@pytest.mark.parametrize(("of_p", "of_g"), PAIRS, ids=ids)
def test_layouts(of_p, of_g, layout, of_parameter):
    g = LAYOUTS[layout](values(of_g))
    converted = np.ascontiguousarray(g, of_p)
    p, q = (LAYOUTS[of_parameter](np.ones(g.shape, of_p)) for _ in range(2))
    for array, gradient in ((p, g), (q, converted)):
        opt = fastopt.Adam(array, clip_norm=1.0)
        opt.accumulate(gradient)
        opt.step()
        opt.step(gradient)
        if g.flags.writeable:
            opt.step(gradient, zero_grads=True)
            assert (gradient == 0).all()
    assert_same_bits(p, q)


def test_every_float16_is_exact():
    """By NumPy's own conversion: subnormals, infinities and both zeros too."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    for dtype in (np.float32, np.float64):
        p = np.zeros(2**16, dtype)
        fastopt.SGD(p, lr=1.0, maximize=True).step(halves)
        np.testing.assert_array_equal(p, halves.astype(dtype))


@pytest.mark.parametrize("of_p", [np.float32, np.float64])
@pytest.mark.parametrize("of_g", [np.float32, np.float64])
def test_subnormals_of_their_own_format_count_as_zero(of_p, of_g):
    """Also where the parameter's format has normal numbers of that size; by whatever call they come."""
    number = np.finfo(of_g)
    g = np.array([number.smallest_subnormal, number.smallest_normal / 2, -number.smallest_normal / 2], of_g)
    assert g.all()
    g = np.tile(g, (3, 1))

    def lion(w):  # whose steps are no smaller for a small gradient
        return fastopt.Lion({"w": w}, weight_decay=0.0)

    def gather(w, g):
        opt = lion(w)
        opt.accumulate({"w": g})
        opt.step()

    calls = [
        lambda w: lion(w).step({"w": g}),
        lambda w: lion(w.T).step({"w": g}),
        lambda w: lion(w).step_one("w", g),
        lambda w: lion(w).step({"w": fastopt.RowGrad([0, 0, 2], g)}),
        lambda w: fastopt.Combined([lion(w)]).step([{"w": g}]),
        lambda w: fastopt.kernels.lion(w, g, np.zeros_like(w), step=1, lr=0.1, beta1=0.9, beta2=0.99),
        lambda w: gather(w, g),
        lambda w: gather(w, fastopt.RowGrad([0, 0, 2], g)),
        lambda w: [lion(one).step({"w": g[0, 0]}) for one in [w[0, 0, ...]]],
    ]
    for i, call in enumerate(calls):
        table = np.ones((3, 3), of_p)
        call(table)
        assert (table == 1).all(), i
    opt = fastopt.SGD(np.ones((3, 3), of_p), clip_norm=1.0)
    opt.step(g)
    assert opt.grad_norm == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormals_of_rows_do_not_add_up(dtype):
    """Each counts as zero before it is added to the others of its row."""
    g = np.full((3, 2), np.finfo(dtype).smallest_normal * 0.75, dtype)
    table = np.ones((2, 2), dtype)
    fastopt.Lion(table, weight_decay=0.0).step(fastopt.RowGrad([1, 1, 1], g))
    assert (table == 1).all()


def test_rounded_once():
    """A float64 gradient of float32 parameters: to the nearest, ties to even; what is too large is infinite."""
    g = np.array([1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, 1e300, -1e300, 1e-300, 0.1])
    p = np.zeros(7, np.float32)
    fastopt.SGD(p, lr=1.0, maximize=True).step(g)
    np.testing.assert_array_equal(
        p, np.array([1, 1 + 2**-22, 1 + 2**-23, np.inf, -np.inf, 0, np.float32(0.1)], np.float32)
    )
    opt = fastopt.SGD(p, nonfinite="raise")
    with pytest.raises(FloatingPointError, match="parameter 0"):
        opt.step(g)


@pytest.mark.parametrize(("of_p", "of_g"), PAIRS, ids=ids)
def test_threads_slices_and_instruction_sets(of_p, of_g, isas):
    g = values(of_g, 150_001)
    found = []
    for _ in isas:
        for threads in (1, 2):
            p = np.ones(g.size, of_p)
            fastopt.Adam(p, num_threads=threads).step(g)
            found.append(p)
        p = np.ones(g.size, of_p)
        cuts = [1, 7, 300, 70_001]
        fastopt.Adam(np.split(p, cuts)).step(np.split(g, cuts))
        found.append(p)
    for p in found[1:]:
        assert_same_bits(p, found[0])


@pytest.mark.parametrize(("of_p", "of_g"), PAIRS, ids=ids)
def test_rows(of_p, of_g):
    rows = [3, 1, 3, 0]
    tables = np.ones((5, 6), of_p), np.ones((5, 6), of_p)
    g = values(of_g, (4, 6))
    for table, gradient in zip(tables, (g, g.astype(of_p)), strict=True):
        opt = fastopt.SGD(table, momentum=0.9, catch_up=True)
        for _ in range(2):
            opt.step(fastopt.RowGrad(rows, gradient))
        opt.step(np.ones((5, 6), gradient.dtype))
    assert_same_bits(*tables)


@pytest.mark.parametrize(("of_p", "of_g"), PAIRS, ids=ids)
def test_kernels(of_p, of_g):
    g = values(of_g, 1000)
    found = []
    for gradient in (g, g.astype(of_p)):
        p, m, v = np.ones(1000, of_p), np.zeros(1000, of_p), np.zeros(1000, of_p)
        fastopt.kernels.adam(p, gradient, m, v, step=1, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8)
        found.append((p, m, v))
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


def test_another_dtype_at_the_same_address():
    """Elements of another size reach further: into the parameter, here."""
    memory = np.ones(24, np.uint64)
    g, p = memory[:8].view(np.float32)[:8], memory[4:12].view(np.float64)
    opt = fastopt.SGD(p)
    opt.step(g)
    with refused("must not share memory with a parameter", opt, memory):
        opt.step(memory[:8].view(np.float64))


def test_bound_gradients_may_change_their_dtype_by_binding_anew():
    p, q = np.ones(3), np.ones(3)
    opt, like = fastopt.SGD(p), fastopt.SGD(q)
    for dtype in (np.float16, np.float64, np.float32):
        opt.bind(np.full(3, 0.5, dtype))
        opt.step()
        like.step(np.full(3, 0.5))
    assert_same_bits(p, q)


NUMBERS = [0.5, 1, -3, np.float16(0.5), np.float32(0.1), np.float64(0.1), np.int8(2), np.array(0.25, np.float16)]
NUMBERS += [np.array(3), np.array(7, np.uint8)]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_for_arrays_without_axes(number, dtype):
    """2 * w of a w without axes is a NumPy scalar."""
    p, q = {"w": np.array(2.0, dtype)}, {"w": np.array(2.0, dtype)}
    opt, like = fastopt.Adam(p), fastopt.Adam(q)
    array = np.asarray(number if isinstance(number, (np.floating, np.ndarray)) else float(number)).astype(dtype)
    opt.step({"w": number})
    opt.step_one("w", number)
    opt.bind({"w": number})
    opt.step()
    opt.accumulate({"w": number})
    opt.step()
    for _ in range(4):
        like.step({"w": array})
    assert_same_bits(p["w"], q["w"])
    one = np.array(1.0)
    fastopt.SGD(one, lr=0.5).step(2 * one)
    assert one == 0.0


@pytest.mark.parametrize("bad", [True, np.array(True), np.bool_(True), 1j, "1", 10**400, np.longdouble(1)], ids=repr)
def test_what_is_no_number(bad):
    opt = fastopt.SGD([np.array(1.0)])
    with refused("gradient of parameter 0", opt):
        opt.step([bad])
    wide = fastopt.SGD([np.ones(1)])
    with refused("gradient of parameter 0 must be a numpy.ndarray", wide):
        wide.step([1.0])


def test_numbers_cannot_be_set_to_zero():
    opt = fastopt.SGD([np.array(1.0)], zero_grads=True)
    for call in (lambda: opt.step([1.0]), lambda: opt.step_one(0, np.float64(1.0))):
        with refused("gradient of parameter 0 must be an array to be set to zero", opt):
            call()
    with refused("gradient of parameter 0 must have dtype float16, bfloat16, float32 or float64", opt):
        opt.step([np.array(1)])
