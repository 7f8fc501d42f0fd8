"""Every rule, dtype, size, instruction set and thread count gives the oracle's bits, and the paper's numbers."""

import copy
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import fastopt
from fastopt.optimizers import plain
from support import reference
from support.arrays import DTYPES, gradients, special_values
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import BY_ELEMENT, CASES, RULES, Case, Oracle, step_together

SIZES = (0, 1, 7, 63, 64, 65, 1023, 1025, 40003)
CUTS = np.cumsum(SIZES)[:-1]
STEPS = 6  # the first that RAdam rectifies
TINY = {dtype: np.finfo(dtype).smallest_normal for dtype in DTYPES}


@cache
def data(dtype: type) -> tuple[np.ndarray, list[np.ndarray]]:
    """One long parameter, which the tests cut into the sizes, and its gradients."""
    p = np.random.default_rng(1).standard_normal(sum(SIZES)).astype(dtype)
    gs = gradients(2, p.shape, dtype)
    return p, [next(gs) for _ in range(STEPS)]


@cache
def expected(case: Case, dtype: type) -> Oracle:
    """The oracle after all steps. Most rules do not look at an element's neighbours, so that all sizes are one run."""
    p, gs = data(dtype)
    oracle = Oracle(case, p)
    for g in gs:
        oracle.step(g)
    return oracle


@cache
def expected_cuts(case: Case, dtype: type) -> list[Oracle]:
    """The same, one oracle per size."""
    if case.rule in reference.ALONE | reference.TOGETHER:
        p, gs = data(dtype)
        cuts = [Oracle(case, part) for part in np.split(p, CUTS)]
        for g in gs:
            for cut, part in zip(cuts, np.split(g, CUTS), strict=True):
                cut.step(part)
        return cuts
    whole = expected(case, dtype)
    cuts = [Oracle(case, p) for p in np.split(whole.p, CUTS)]
    for letter, buffer in whole.buffers.items():
        for cut, part in zip(cuts, np.split(buffer, CUTS), strict=True):
            cut.state[letter] = part
    return cuts


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", [case for case in CASES if case.rule not in reference.TOGETHER], ids=ids)
def test_many_arrays(case, dtype, isas):
    p, gs = data(dtype)
    oracles = expected_cuts(case, dtype)
    for _ in isas:
        for threads in (1, 2, 3):
            params = [part.copy() for part in np.split(p, CUTS)]
            opt = case.make(params, num_threads=threads)
            for g in gs:
                opt.step(np.split(g, CUTS))
            for i, oracle in enumerate(oracles):
                assert_like(opt, i, params[i], oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", [case for case in CASES if case.rule in reference.TOGETHER], ids=ids)
def test_many_arrays_together(case, dtype, isas):
    """Rules whose parameters share sums; another group has sums of its own."""
    p, gs = data(dtype)
    oracles, oracle = [Oracle(case, part) for part in np.split(p, CUTS)], Oracle(case, p[:30001])
    for g in gs:
        step_together(oracles, np.split(g, CUTS))
        oracle.step(g[:30001])
    for _ in isas:
        for threads in (1, 2, 3):
            parts, other = [part.copy() for part in np.split(p, CUTS)], p[:30001].copy()
            opt = case.make([{"params": parts}, {"params": [other]}], num_threads=threads)
            for g in gs:
                opt.step([np.split(g, CUTS), [g[:30001]]])
            for i, each in enumerate(oracles):
                assert_like(opt, i, parts[i], each)
                assert {key: float(opt.state[i][key]) for key in reference.CARRIES[case.rule]} == {
                    key: each.state[key] for key in reference.CARRIES[case.rule]
                }
            assert_like(opt, len(parts), other, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_one_array_of_every_size(case, dtype, isas):
    start, gs = data(dtype)
    oracles = expected_cuts(case, dtype)
    for _ in isas:
        for threads in (1, 3):
            for i, oracle in enumerate(oracles):
                p = np.split(start, CUTS)[i].copy()
                opt = case.make(p, num_threads=threads)
                for g in gs:
                    opt.step(np.split(g, CUTS)[i])
                assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_paper_form(case):
    start, gs = data(np.float64)
    p, paper, state = start[-1000:].copy(), start[-1000:].copy(), {}
    opt = case.make(p)
    rule, settings = plain(case.cls), case.settings()
    settings |= {name: value for name, value in case.kwargs.items() if name == "decoupled_weight_decay"}
    form, shrink, l2 = settings.pop("weight_decay_form"), 1.0, 0.0
    del settings["cautious_decay"], settings["corrected_decay"]  # no case has them
    if form != case.form:
        decay, settings["weight_decay"] = settings["weight_decay"], 0.0
        if form == "l2":
            l2 = decay
        else:
            shrink = 1 - decay * (settings["lr"] if form == "decoupled" else 1)
    for t, g in enumerate(gs, 1):
        opt.step(g[-1000:])
        seen = g[-1000:] + l2 * paper
        paper *= shrink
        rule(paper, seen, state, t, **settings)
    np.testing.assert_allclose(p, paper, rtol=1e-12, atol=1e-12)
    state |= {"v_exponent": 0.0}  # of NovoGrad, among the usual numbers
    for letter, buffer in opt.state[0].items():
        np.testing.assert_allclose(buffer, state[letter], rtol=1e-12, atol=1e-14, err_msg=letter)  # of sums that cancel


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_a_hundred_steps(case, dtype):
    """Bias corrections and carried scalars stay exact, and a new learning rate takes effect at once."""
    p = np.linspace(-1, 1, 37, dtype=dtype)
    oracle, opt, lr = Oracle(case, p), case.make(p), case.settings()["lr"]
    for t, g in zip(range(1, 101), gradients(3, p.shape, dtype), strict=False):
        opt.lr = lr / t
        opt.step(g)
        oracle.step(g, lr=lr / t)
    assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
@pytest.mark.parametrize("start", [5000, 10**6, 2**40])
def test_late_steps(case, dtype, start):
    """The powers in the bias corrections after very many steps."""
    p = np.linspace(-1, 1, 37, dtype=dtype)
    oracle, opt = Oracle(case, p), case.make(p)
    saved = opt.state_dict()
    saved["state"][0]["step"] = oracle.t = start
    for key in reference.CARRIES.get(case.rule, ()):
        saved["state"][0][key] = oracle.state[key] = 1e-9
    opt.load_state_dict(saved)
    for _, g in zip(range(3), gradients(3, p.shape, dtype), strict=False):
        opt.step(g)
        oracle.step(g)
    assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", [case for case in RULES if "centered" in case.rule], ids=ids)
def test_a_variance_of_nothing_but_rounding(case, dtype, isas):
    """A constant gradient has none in the end: it is never below 0."""
    start, g = np.ones(1000, dtype), np.linspace(1, 2, 1000, dtype=dtype)
    oracle = Oracle(case, start)
    for _ in range(60):
        oracle.step(g, alpha=0.5)
    for _ in isas:
        p = start.copy()
        opt = case.make(p, alpha=0.5)
        for _ in range(60):
            opt.step(g)
            assert (opt.state[0]["s"] >= 0).all()
        assert np.isfinite(p).all()
        assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_special_values(case, dtype, isas):
    """Infinities, NaN, zeros of both signs, overflow and subnormals spread as in the oracle."""
    start, g = special_values(dtype)
    with np.errstate(all="ignore"):
        gs = [g * dtype(factor) for factor in (1, 0, -1)]
    oracles = [Oracle(case, start)]
    for g in gs:
        oracles.append(copy.deepcopy(oracles[-1]))
        oracles[-1].step(g)
    for _ in isas:
        p = start.copy()
        opt = case.make(p)
        for g, oracle in zip(gs, oracles[1:], strict=True):
            opt.step(g)
            assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", BY_ELEMENT, ids=ids)
def test_decay_into_subnormals(case, dtype, isas):
    """Gradients stop; state decays through the smallest normal number on every thread; means of gradients to 0."""
    # Gradients that they, or their squares, are just above it after a factor such as 1 - beta2.
    near = np.outer([1, 10, 100, 1000], [1.0001, 1.002, 1.2]).ravel() * TINY[dtype]
    few = np.concatenate([near, np.sqrt(near)]).astype(dtype)
    start = np.full(few.size, 2 * TINY[dtype], dtype)
    oracle, times = Oracle(case, start), 1667
    first = {}
    for factor in (1, 0, 0, 0, 0, 0):
        oracle.step(few * dtype(factor))
        first = first or {letter: buffer.copy() for letter, buffer in oracle.buffers.items()}
    for letter in oracle.buffers.keys() & {"m", "m1", "m2", "a", "b"}:  # momentum and means of gradients
        before, after = abs(first[letter]), abs(oracle.buffers[letter])
        assert (after < before)[before != 0].all(), f"{letter} sticks"
        assert (after[before < 1.0003 * TINY[dtype]] == 0).all(), f"{letter} does not come to 0"
    g = np.tile(few, times)
    for isa in isas:
        for threads in (1, 3):
            p = np.tile(start, times)
            opt = case.make(p, num_threads=threads)
            for factor in (1, 0, 0, 0, 0, 0):
                opt.step(g * dtype(factor))
            for name, wanted in {"p": oracle.p, **oracle.buffers}.items():
                actual, what = p if name == "p" else opt.state[0][name], f"{isa}, {threads} threads, {name}: "
                assert_same_bits(actual, np.tile(wanted, times), what)
                assert not ((actual != 0) & (abs(actual) < TINY[dtype])).any(), what


@pytest.mark.parametrize("size", [3, 100_000])
def test_the_callers_subnormals_are_left_alone(size):
    """The flush mode is put back on the calling thread."""
    fastopt.SGD(np.ones(size), num_threads=2).step(np.ones(size))
    assert TINY[np.float64] / 2 > 0


COUNT_THREADS = """
import os, sys
import numpy as np
import fastopt
p = np.zeros(100003, np.float32)
opt = fastopt.SGD(p, num_threads=int(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
opt.step(np.ones_like(p))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc to count threads")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pinned_threads_run(threads):
    """A step on n threads starts n - 1 beside the caller."""
    run = [sys.executable, "-c", COUNT_THREADS, str(threads)]
    assert int(subprocess.run(run, check=True, capture_output=True, text=True).stdout) == threads - 1
