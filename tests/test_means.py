"""Running means are true in float32, and squares that are too small for it never make a step larger."""

from functools import partial

import numpy as np
import pytest

import fastopt
from fastopt.optimizers import plain
from support.arrays import DTYPES
from support.asserts import ids
from support.cases import OPTIONS, PLAIN, Case
from support.hyper import declared
from support.registry import CLASSES

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=ids)
N = 400


def means(steps, dtype, beta, source):
    """Adam's m and v, both with this beta, after so many steps."""
    opt = fastopt.Adam(np.zeros(N, dtype), betas=(beta, beta), num_threads=1)
    for _ in range(steps):
        opt.step(source().astype(dtype))
    return opt.state[0]["m"], opt.state[0]["v"]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99, 0.999])
def test_means_of_a_constant(beta):
    """They tend to it, to within what rounding can hold up: an ulp over 1 - beta, half of that for squares."""
    g = np.geomspace(0.1, 10, N).astype(np.float32)
    m, v = means(round(20 / (1 - beta)), np.float32, beta, lambda: g)
    ulp = 2.0**-23
    np.testing.assert_allclose(m, g, rtol=ulp / (1 - beta))
    np.testing.assert_allclose(v, g.astype(np.float64) ** 2, rtol=ulp / 2 / (1 - beta) + ulp)


@pytest.mark.parametrize(("beta", "tolerance"), [(0.9, 1e-6), (0.99, 2e-6), (0.999, 4e-6), (0.9999, 2e-5)])
def test_means_of_noise(beta, tolerance):
    """v is that of float64; with the weights of before it was off by 1e-4 where beta is 0.9999."""
    steps = round(4 / (1 - beta))
    single, double = (
        means(steps, dtype, beta, partial(lambda rng: rng.standard_normal(N).astype(np.float32), rng))
        for dtype, rng in ((dtype, np.random.default_rng(1)) for dtype in DTYPES)
    )
    np.testing.assert_allclose(single[1], double[1], rtol=tolerance)
    np.testing.assert_allclose(single[0], double[0], atol=30 * tolerance * np.sqrt(1 - beta))


@pytest.mark.parametrize(("beta", "tolerance"), [(0.99999, 1e-4), (0.999999, 3e-3)])
def test_squares_in_the_middle_of_a_long_memory(beta, tolerance):
    """v, which ended 0.14 % and 1.3 % too low, decays from 2 as it should, and stays at 1 when it should."""
    noise = np.random.default_rng(2).standard_normal((100_000, 30)).astype(np.float32)
    for start in (2.0, 1.0):
        found = []
        for dtype in DTYPES:
            opt = fastopt.RMSprop(np.zeros(30, dtype), alpha=beta, num_threads=1)
            opt.state[0]["v"][...] = start
            for g in noise.astype(dtype):
                opt.step(g)
            found.append(opt.state[0]["v"].copy())
        np.testing.assert_allclose(found[0], found[1], rtol=tolerance)


def test_the_weight_of_the_first_gradient():
    """m_hat and v_hat of one gradient are that gradient, whatever the rounding of beta."""
    for beta in (0.0, 1e-3, 0.3, 0.5, 0.9, 0.999, 0.99999, 1 - 1e-7, 1 - 1e-12):
        p = np.zeros(3, np.float32)
        fastopt.Adam(p, lr=1.0, betas=(beta, 0.999), eps=0.0).step(np.array([1e-3, 1, 1e3], np.float32))
        np.testing.assert_allclose(p, -1, rtol=4e-7, err_msg=str(beta))


@DTYPE
def test_a_small_square_after_a_large_one(dtype):
    """With a beta of 0 the mean is the last square, however large the one before: steps are of lr."""
    p = np.zeros(1, dtype)
    opt = fastopt.Adam(p, lr=1.0, betas=(0.0, 0.0), eps=0.0)
    for g, wanted in ((1e6, -1), (1e-6, -2), (-1e3, -1), (1e-3, -2)):
        opt.step(np.array([g], dtype))
        np.testing.assert_allclose(p, wanted, rtol=1e-6)


ROOTS = [case for case in PLAIN + OPTIONS if "eps" in case.hyper()]


def options_of(case):
    """No decay, and state that starts from 0."""
    start = {name: 0.0 for name, hyper in declared(case.cls).items() if hyper.fixed == "start"}
    kept = {name: value for name, value in case.kwargs.items() if name != "weight_decay_form"}
    return {**kept, "weight_decay": 0.0, **start}


@DTYPE
@pytest.mark.parametrize("case", [case for case in ROOTS if CLASSES[case.cls].overflows], ids=ids)
def test_a_square_that_overflows_makes_no_large_step(case, dtype):
    """No step is larger than all of those of a large gradient whose square does not overflow, and none is NaN."""
    steps = {}
    for large in (1e15, 1e25 if dtype == np.float32 else 1e200):
        p = np.ones(3, dtype if large > 1e15 else np.float64)
        opt, moved = case.make(p, **{**options_of(case), "lr": 1e-3}), []
        for factor in (*[1.0] * 7, large, 0.5, -large, *[1.0] * 4):
            before = p.copy()
            opt.step(np.array([1.0, -0.5, 2.0], p.dtype) * p.dtype.type(factor))
            moved.append(np.abs(p - before))
        steps[large] = np.max(moved, axis=0)
    exact, found = steps.values()
    if exact.max() > 1e6:
        pytest.skip("with these options steps are proportional to gradients, not divided by a root")
    assert (found <= 1.01 * exact + 1e-7).all(), (found, exact)


@DTYPE
def test_a_square_that_overflows_stops_its_parameter(dtype):
    """As in torch: v is infinite, and stays so."""
    p = np.ones(2, dtype)
    opt = fastopt.Adam(p, lr=1e-3)
    opt.step(np.ones(2, dtype))
    before = p.copy()
    for g in (1e25 if dtype == np.float32 else 1e200, 1.0, 1.0):
        opt.step(np.array([g, 1.0], dtype))
        assert opt.state[0]["v"][0] == np.inf
    assert p[0] == before[0]
    np.testing.assert_allclose(p[1], before[1] - 3e-3, rtol=1e-6)


# ---- Squares that are too small ----

BETAS = [Case(f"adam-{betas}", "Adam", "adam", {"betas": betas}) for betas in ((0.9, 0.9), (0.5, 0.4))]


@pytest.mark.parametrize("eps", [0.0, 1e-40, 1e-30, 1e-20, 1e-12])
@pytest.mark.parametrize("case", [case for case in ROOTS + BETAS if CLASSES[case.cls].never_larger], ids=ids)
def test_no_step_is_larger_than_the_exact_one(case, eps):
    """Gradients from 1e-30 to 1e-13, whose squares float32 has not; against the papers' equations in float64."""
    g = 10 ** np.random.default_rng(5).uniform(-30, -13, 3000)
    g = g.astype(np.float32)
    p, exact, state = np.zeros(g.size, np.float32), np.zeros(g.size), {}
    options = {**options_of(case), "eps": eps, "lr": 0.5}
    opt = case.make(p, **options)
    for t in range(1, 1 + CLASSES[case.cls].never_larger):
        opt.step(g)
        with np.errstate(all="ignore"):
            plain(case.cls)(exact, g.astype(np.float64), state, t, **options)
        exact = np.where(np.isnan(exact), np.inf, exact)  # 0 / 0 of the paper
        assert np.isfinite(p).all()
        assert (abs(p) <= abs(exact) * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("eps", "g", "most"), [(0.0, 1e-18, 1e-3), (1e-30, 1e-18, 1e-3), (1e-20, 1e-18, 1e-3), (1e-40, 0.0, 0.0)]
)
def test_adam_with_a_small_eps(eps, g, most):
    """Steps that were -inf, -1e9, 0.1 and NaN. The exact ones are of lr, 0.001; ours are not above, and not nothing."""
    p = np.zeros(1, np.float32)
    fastopt.Adam(p, lr=1e-3, eps=eps).step(np.full(1, g, np.float32))
    assert -most <= p[0] <= -0.1 * most


@DTYPE
def test_the_step_is_exact_once_squares_are_there(dtype):
    """The floor shows below a gradient of 1e-14, and not above."""
    for g in (1e-14, 1e-9, 1.0):
        p = np.zeros(1, dtype)
        opt = fastopt.Adam(p, lr=1.0, eps=0.0)
        for t in range(1, 40):
            opt.step(np.full(1, g, dtype))
            np.testing.assert_allclose(p, -t, rtol=3e-3 if g == 1e-14 else 1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-40, 1e-310])
@DTYPE
@pytest.mark.parametrize("case", ROOTS, ids=ids)
def test_no_gradient_is_no_step(case, dtype, eps):
    """0 over a root of 0 and an eps of 0, or of one that counts as 0."""
    p = np.linspace(-1, 1, 7, dtype=dtype)
    opt = case.make(p, **{**options_of(case), "eps": eps})
    before = p.copy()
    for _ in range(7):
        opt.step(np.zeros(7, dtype))
    np.testing.assert_array_equal(p, before)
