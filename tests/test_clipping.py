"""Clipping: NaN, norms at the ends of the numbers, norms per group and parameter, schedules; and too many skips."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference, sums
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import RULES, Oracle, step_together

A = np.array


def root_of_squares(*arrays):
    """The norm of all, by Python's own sum that neither overflows nor underflows."""
    return math.hypot(*(float(x) for array in arrays for x in np.ravel(array)))


# ---- NaN ----


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("options", [{}, {"clip_value": 0.5}, {"grad_scale": 2.0}], ids=str)
def test_nan_reaches_every_clipped_gradient(options, dtype, threads):
    a, b = np.zeros(1, dtype), np.zeros(40_000, dtype)
    opt = fastopt.SGD([a, b], lr=0.1, clip_norm=1.0, num_threads=threads, **options)
    opt.step([np.full_like(a, math.nan), np.full_like(b, 1e6)])
    assert math.isnan(opt.grad_norm)
    assert np.isnan(a).all()
    assert np.isnan(b).all()


def test_torch_has_nan_alike():
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    for values in ([math.nan, 1e6], [math.inf, 1e6], [1.0, 1e6]):
        theirs = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in values]
        for p, value in zip(theirs, values, strict=True):
            p.grad = torch.tensor([value], dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        ours = [np.zeros(1), np.zeros(1)]
        fastopt.SGD(ours, lr=1.0, clip_norm=1.0).step([A([value]) for value in values])
        np.testing.assert_allclose(np.ravel(ours), [-float(p.grad) for p in theirs], rtol=1e-12)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_nan_is_raised_or_skipped_before_it_clips(nonfinite):
    a, b = np.zeros(1), np.zeros(3)
    opt = fastopt.SGD([a, b], lr=0.1, clip_norm=1.0, nonfinite=nonfinite)
    grads = [A([math.nan]), np.full(3, 1e6)]
    if nonfinite == "raise":
        with pytest.raises(FloatingPointError, match="parameter 0"):
            opt.step(grads)
    else:
        opt.step(grads)
        assert opt.skipped_steps == 1
    assert (a == 0).all()
    assert (b == 0).all()


def test_nan_stays_in_its_clip_group():
    params = [np.zeros(1), np.zeros(2)]
    opt = fastopt.SGD(params, lr=1.0, clip_norm=1.0, clip_norm_per="parameter")
    opt.step([A([math.nan]), A([3.0, 4.0])])
    assert np.isnan(params[0]).all()
    np.testing.assert_allclose(params[1], [-0.6, -0.8], rtol=1e-6)


def test_an_infinite_limit_measures_alone():
    """Whatever the norm is, also where infinity / infinity would be NaN."""
    for value in (math.nan, math.inf, 1.0):
        p = np.zeros(2)
        opt = fastopt.SGD(p, lr=1.0, clip_norm=math.inf)
        opt.step(A([value, 2.0]))
        np.testing.assert_array_equal(p, [-value, -2.0])
        np.testing.assert_equal(opt.grad_norm, root_of_squares([value, 2.0]))


def test_nan_stays_under_a_clip_by_value():
    p = np.zeros(3)
    fastopt.SGD(p, lr=1.0, clip_value=1.0).step(A([math.nan, math.inf, -5.0]))
    np.testing.assert_array_equal(p, [math.nan, -1.0, 1.0])


@pytest.mark.parametrize("shape", [(6,), (3, 2)], ids=str)
def test_nan_does_not_switch_off_the_clip_of_adafactor(shape):
    """The size of the update is NaN, and so is what it divides."""
    p, g = np.ones(shape), np.ones(shape)
    g.flat[0] = math.nan
    fastopt.Adafactor(p).step(g)
    assert np.isnan(p).all()


def test_nan_does_not_end_the_search_of_prodigy_in_silence():
    p = np.ones(3)
    opt = fastopt.Prodigy([p, np.ones(2)])
    opt.step([np.ones(3), np.ones(2)])
    opt.step([A([1.0, math.nan, 1.0]), np.ones(2)])
    assert math.isnan(opt.state[0]["d"])
    assert np.isnan(p).all()


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_nan_does_not_stop_sm3_in_silence(shape):
    """A root of NaN is NaN, on later steps as well; it was infinite, and their updates were 0."""
    p, g = np.ones(shape), np.ones(shape)
    opt = fastopt.SM3(p, momentum=0.0)
    g.flat[0] = math.nan
    opt.step(g)
    opt.step(np.ones(shape))
    assert np.isnan(opt.state[0]["mu"]).any()
    assert np.isnan(p.flat[0])
    if len(shape) == 2:  # the row and the column of the bad element have a NaN for their mu
        assert np.isnan(p.flat[1])
        assert np.isnan(p.flat[2])


def test_a_schedule_that_gives_nan_is_refused():
    def broken(step):
        return math.nan if step else 1.0

    for options in ({"lr": broken}, {"lr": 1.0, "clip_norm": broken}):
        p = np.ones(3)
        opt = fastopt.SGD(p, **options)
        opt.step(np.ones(3))
        before = p.copy()
        with pytest.raises(ValueError, match=r"SGD after 1 steps: (lr|clip_norm) must be .*, got nan"):
            opt.step(np.ones(3))
        assert_same_bits(p, before)
        assert opt.step_count == 1


# ---- The ends of the numbers ----

EXTREMES = [1e-300, 1e-200, 1e-162, 1e-154, 1e-100, 1.0, 1e100, 1e154, 1e200, 1e300]


def test_factors_below_the_smallest_normal_number(isas):
    """The largest float64 gradient, clipped to 1e-3: a factor that is subnormal."""
    for _ in isas:
        p = np.zeros(2)
        fastopt.SGD(p, lr=1.0, clip_norm=1e-3).step(np.array([np.finfo(np.float64).max, 1e300]))
        np.testing.assert_allclose(p, [-1e-3, -1e-3 * (1e300 / np.finfo(np.float64).max)], rtol=1e-3)


@pytest.mark.parametrize("size", [1, 3, 17, 1025, 20_000])
@pytest.mark.parametrize("scale", EXTREMES)
def test_norms_are_right_at_the_ends_of_float64(scale, size):
    g = scale * np.random.default_rng(size).standard_normal(size)
    opt = fastopt.SGD(np.zeros(size), lr=1.0, clip_norm=scale, num_threads=2)
    opt.step(g)
    assert opt.grad_norm == pytest.approx(root_of_squares(g), rel=1e-13)
    assert opt.grad_norm == sums.norm([g])
    wanted = -g * min(1.0, scale / (root_of_squares(g) + 1e-6))
    np.testing.assert_allclose(opt.groups[0]["params"][0], wanted, rtol=1e-13, atol=np.finfo(np.float64).tiny)


def test_the_example_of_a_norm_beyond_its_squares():
    p = np.zeros(3)
    opt = fastopt.SGD(p, lr=1.0, clip_norm=1.0)
    opt.step(np.full(3, 1e200))
    assert opt.grad_norm == pytest.approx(math.sqrt(3) * 1e200, rel=1e-15)
    np.testing.assert_allclose(p, -1 / math.sqrt(3), rtol=1e-15)


def mixed_extremes(seed, n):
    """Blocks of all sizes, some of them 0."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal(n)
    for i, block in enumerate(np.array_split(g, 7)):
        block *= (0.0, *EXTREMES)[(i * 3 + seed) % (1 + len(EXTREMES))]
    return g


@pytest.mark.parametrize("seed", range(6))
def test_parts_of_all_sizes_have_one_norm(seed, isas):
    """It does not depend on threads, and float32 and float64 join."""
    g = [mixed_extremes(seed, 40_001), np.linspace(-1, 1, 50).astype(np.float32), mixed_extremes(seed + 1, 100)]
    norms = set()
    for _ in isas:
        for threads in (1, 2, 3):
            opt = fastopt.SGD([np.zeros_like(x) for x in g], clip_norm=math.inf, num_threads=threads)
            opt.step(g)
            norms.add(opt.grad_norm)
    assert norms == {sums.norm(g)}
    assert norms.pop() == pytest.approx(root_of_squares(*g), rel=1e-13)


LOOK_AT_NORMS = ("lars", "lamb", "novograd", "adafactor")
NORMED = [case for case in RULES if case.rule.startswith(LOOK_AT_NORMS)]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("case", NORMED, ids=ids)
def test_rules_that_look_at_norms_equal_the_oracle_there(case, scale, isas):
    """To the bit, also back among the usual numbers."""
    shapes = [(3,), (5, 7), (20_000,)]
    rng = np.random.default_rng(2)
    params = [scale * rng.standard_normal(shape) for shape in shapes]
    streams = [gradients(i, shape, np.float64) for i, shape in enumerate(shapes)]
    grads = [[factor * next(stream) for stream in streams] for factor in (scale, scale, 1.0, 1.0, scale)]
    oracles = [Oracle(case, p) for p in params]
    for gs in grads:
        step_together(oracles, gs)
    for _ in isas:
        opt = case.make([p.copy() for p in params], num_threads=2)
        for gs in grads:
            opt.step(gs)
        for i, oracle in enumerate(oracles):
            assert_like(opt, i, opt.groups[0]["params"][i], oracle)


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**-560, 2.0**560, 2.0**600])
def test_lars_does_not_depend_on_the_unit(scale):
    """p and g in another unit: the step is the same in it."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal(100), rng.standard_normal(100)
    there = p * scale
    a, b = fastopt.LARS(p, lr=0.5), fastopt.LARS(there, lr=0.5)
    for _ in range(3):
        a.step(g)
        b.step(g * scale)
    np.testing.assert_array_equal(there, p * scale)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1.0, 1e200, 1e300])
def test_novograd_by_hand(scale):
    """eps = 0 and steady gradients: m is g / |g|, whatever the size of g."""
    g = scale * A([3.0, 4.0])
    p = np.zeros(2)
    opt = fastopt.NovoGrad(p, lr=1.0, betas=(0.0, 0.5), eps=0.0)
    for step in range(1, 6):
        opt.step(g)
        np.testing.assert_allclose(p, [-0.6 * step, -0.8 * step], rtol=1e-13)
    v = float(opt.state[0]["v"]), int(opt.state[0]["v_exponent"])
    assert v[1] == (0 if scale == 1 else math.copysign(1200, math.log(scale)))
    assert math.sqrt(v[0]) * 2.0 ** (v[1] / 2) == pytest.approx(5 * scale, rel=1e-13)


def test_novograd_comes_back_among_the_usual_numbers():
    p = np.zeros(1)
    opt = fastopt.NovoGrad(p, lr=1.0, betas=(0.0, 0.25), eps=0.0)
    for g in (1e-200, 1.0, 1e200):
        opt.step(A([g]))
    squares = 0.25 * 0.25 * 1e-400 + 0.25 * 0.75 + 0.75 * 1e200 * 1e-100  # of which the last is in another unit
    assert squares > 0
    assert math.sqrt(opt.state[0]["v"]) * 2.0**600 == pytest.approx(math.sqrt(0.75) * 1e200, rel=1e-13)
    for _ in range(700):  # 0.25^700 is 2^-1400
        opt.step(A([1.0]))
    assert opt.state[0]["v_exponent"] == 0
    assert opt.state[0]["v"] == pytest.approx(1.0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "exponents"), [(np.float32, (-110, -70, 70, 120)), (np.float64, (-900, 600, 1000))])
def test_muon_does_not_depend_on_the_unit(dtype, exponents, transposed):
    """A gradient in units of any power of two has the same direction, to the bit."""
    g = np.random.default_rng(0).standard_normal((6, 4)).astype(dtype)
    g = g.T if transposed else g
    usual, options = np.zeros_like(g), {"lr": 1.0, "eps": 0.0, "weight_decay": 0.0}
    fastopt.Muon(usual, **options).step(g)
    assert np.isfinite(usual).all()
    assert abs(usual).max() > 0.1
    for exponent in exponents:
        p = np.zeros_like(g)
        fastopt.Muon(p, **options).step(np.ldexp(g, exponent))
        assert_same_bits(p, usual, exponent)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_muon_passes_on_what_is_not_finite(bad):
    p, g = np.zeros((3, 3)), np.ones((3, 3))
    g[0, 0] = bad
    fastopt.Muon(p).step(g)
    assert np.isnan(p).all()


# ---- Norms per group and parameter ----


def step_apart(oracles, gs, scales):
    """One step of a group, each gradient with a factor of its own."""
    case, begun = oracles[0].case, []
    with np.errstate(all="ignore"):
        for oracle, g, scale in zip(oracles, gs, scales, strict=True):
            oracle.t += 1
            options = case.options() | {"scale": scale}
            begun.append(reference.begin(oracle.rule, oracle.p, g, oracle.state, oracle.t, case.hyper(), **options))
        if case.rule in reference.TOGETHER:
            reference.finish(begun)


@pytest.mark.parametrize("per", ["group", "parameter"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_clip_norm_per(case, dtype, per):
    """Each is clipped as if it stood alone."""
    rng = np.random.default_rng(1)
    shapes = [[(3,), (5, 4)], [(2, 3, 2), ()], [(20_000,)]]
    params = [[np.asarray(rng.standard_normal(shape), dtype) for shape in group] for group in shapes]
    grads = [
        [np.asarray(10.0**i * rng.standard_normal(shape), dtype) for shape in group] for i, group in enumerate(shapes)
    ]
    oracles = [[Oracle(case, p) for p in group] for group in params]
    opt = case.make([{"params": [p.copy() for p in group]} for group in params], clip_norm=0.5, clip_norm_per=per)
    for _ in range(2):
        norms = []
        for of_group, gs in zip(oracles, grads, strict=True):
            parts = [gs] if per == "group" else [[g] for g in gs]
            scales = []
            for part in parts:
                norms.append(sums.norm(part))
                scales += [min(1.0, 0.5 / (norms[-1] + 1e-6))] * len(part)
            step_apart(of_group, gs, scales)
        opt.step(grads)
        found = opt.grad_norms
        assert list(found if per == "group" else found.values()) == norms
        assert opt.grad_norm == pytest.approx(root_of_squares(*(g for gs in grads for g in gs)), rel=1e-12)
    place = 0
    for group, of_group in zip(opt.groups, oracles, strict=True):
        for p, oracle in zip(group["params"], of_group, strict=True):
            assert_like(opt, place, p, oracle)
            place += 1


def test_norms_by_name():
    opt = fastopt.SGD({"a": np.ones(2), "b": np.ones(1)}, lr=1.0, clip_norm=10.0, clip_norm_per="parameter")
    assert opt.grad_norms is None
    opt.step({"a": A([3.0, 4.0]), "b": None})
    assert opt.grad_norms == {"a": 5.0, "b": 0.0}
    assert opt.grad_norm == 5.0
    opt.step_one("b", A([20.0]))
    assert opt.grad_norm == 20.0
    assert opt.grad_norms == {"a": 5.0, "b": 20.0}
    np.testing.assert_allclose(opt.groups[0]["params"][1], [1 - 10.0], rtol=1e-6)
    all_alike = fastopt.SGD(np.ones(2), clip_norm=1.0)
    all_alike.step(np.ones(2))
    assert all_alike.grad_norms is None


def test_one_parameter_at_a_time_with_a_norm_of_its_own():
    """The bits of a whole step."""
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal(5), "b": rng.standard_normal((2, 3))}
    grads = {name: 100 * rng.standard_normal(p.shape) for name, p in params.items()}
    options = {"clip_norm": schedules.linear(0.5, 0.1, 4), "clip_norm_per": "parameter"}
    whole = fastopt.Adam({name: p.copy() for name, p in params.items()}, **options)
    single = fastopt.Adam(params, **options)
    for _ in range(3):
        whole.step(grads)
        for name, g in grads.items():
            single.step_one(name, g)
    for name, p in zip(params, whole.groups[0]["params"], strict=True):
        assert_same_bits(params[name], p)
    for per in ("all", "group"):
        opt = fastopt.Adam(np.ones(3), clip_norm=1.0, clip_norm_per=per)
        with pytest.raises(ValueError, match="clip_norm must be None, since the norm of all gradients"):
            opt.step_one(0, np.ones(3))


def test_per_group_with_everything_around_it():
    """Micro-batches, rows, bound gradients and a loss scale: factors are those of the gradients that are used."""
    table, w = np.zeros((5, 2)), np.zeros(3)
    scale = fastopt.LossScale(8.0)
    opt = fastopt.SGD(
        [{"params": {"table": table}}, {"params": {"w": w}}],
        lr=1.0,
        clip_norm=1.0,
        clip_norm_per="group",
        grad_scale=scale,
        nonfinite="skip",
    )
    opt.step([{"table": fastopt.RowGrad([3, 3], np.full((2, 2), 8.0))}, {"w": 8.0 * A([0.1, 0.0, 0.0])}])
    assert opt.grad_norms == (pytest.approx(math.sqrt(8)), pytest.approx(0.1))
    np.testing.assert_allclose(table[3], -2 / math.sqrt(8), rtol=1e-6)
    assert (table[:3] == 0).all()
    np.testing.assert_allclose(w, [-0.1, 0, 0])
    for value in (16.0, 48.0):
        opt.accumulate([{"table": None}, {"w": np.full(3, value)}])
    opt.step()
    assert opt.grad_norms == (0.0, pytest.approx(math.sqrt(3) * 4))
    np.testing.assert_allclose(w, A([-0.1, 0, 0]) - 1 / math.sqrt(3), rtol=1e-6)
    bound = [{"table": np.zeros((5, 2))}, {"w": 8.0 * A([0.0, 0.0, 5.0])}]
    opt.bind(bound)
    opt.step()
    assert opt.grad_norms == (0.0, 5.0)


# ---- Schedules ----


def test_clip_norm_by_a_schedule():
    g = A([3.0, 4.0])
    asked = []

    def limit(step):
        asked.append(step)
        return (1.0, 2.0, 100.0)[step]

    p = np.zeros(2)
    opt = fastopt.SGD(p, lr=1.0, clip_norm=limit, nonfinite="skip")
    moved = []
    for gradient in (g, A([math.nan, 0.0]), g, g):
        before = p.copy()
        opt.step(gradient)
        moved.append(np.hypot(*(p - before)))
    assert moved == [pytest.approx(1, rel=1e-6), 0, pytest.approx(2, rel=1e-6), pytest.approx(5)]
    assert asked == [0, 0, 1, 1, 2]  # when it is given, then by the steps completed so far
    opt.step(g, clip_norm=0.5)
    assert asked == [0, 0, 1, 1, 2]


def test_a_schedule_of_clipping_is_copied_and_goes_on():
    rng = np.random.default_rng(0)
    p = rng.standard_normal(10)
    opt = fastopt.Adam(p, clip_norm=schedules.cosine(1.0, decay_steps=5), clip_norm_per="parameter")
    gs = [10 * rng.standard_normal(10) for _ in range(5)]
    for g in gs[:2]:
        opt.step(g)
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for g in gs[2:4]:
        opt.step(g)
        for other in others:
            other.step(g)
            assert_same_bits(other.groups[0]["params"][0], p)
            assert other.grad_norms == opt.grad_norms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": lambda step: 0.0}, "Adam after 0 steps: clip_norm must be > 0 .*, got 0.0"),
        ({"clip_norm": lambda step: "1"}, "clip_norm must be a number, got '1'"),
        ({"clip_value": lambda step: 1.0}, "clip_value must be a number"),
        ({"clip_norm_per": "tensor"}, "clip_norm_per must be one of all, group, parameter, got 'tensor'"),
        ({"clip_norm_per": None}, "clip_norm_per must be one of all, group, parameter, got None"),
        ({"max_skips": 0, "nonfinite": "skip"}, "max_skips must be an integer >= 1, got 0"),
        ({"max_skips": True, "nonfinite": "skip"}, "max_skips must be an integer >= 1, got True"),
        ({"max_skips": 3}, 'max_skips must be None unless nonfinite is "skip", got 3'),
        ({"max_skips": 3, "nonfinite": "raise"}, 'max_skips must be None unless nonfinite is "skip", got 3'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.Adam(np.ones(3), **options)


def test_a_schedule_is_no_option_of_one_step():
    opt = fastopt.Adam(np.ones(3))
    with pytest.raises(TypeError, match=r"Adam\.step: clip_norm must be a number"):
        opt.step(np.ones(3), clip_norm=lambda step: 1.0)
    assert opt.step_count == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_an_infinite_clip_by_value_does_not_clip(dtype):
    p, q, g = np.zeros(4, dtype), np.zeros(4, dtype), A([1e30, -3.0, math.inf, 0.5], dtype)
    own = fastopt.SGD(p, lr=1.0, clip_value=1.0)
    own.step(g, clip_value=math.inf)
    np.testing.assert_array_equal(p, -g)
    fastopt.SGD(q, lr=1.0, clip_value=math.inf).step(g)
    assert_same_bits(q, p)
    own.step(g)
    np.testing.assert_array_equal(p, -g - np.clip(g, -1, 1))


# ---- Too many skips ----

BAD, GOOD = A([math.nan]), A([1.0])


def steps(opt, pattern):
    """One step for each letter: b(ad) or g(ood)."""
    for letter in pattern:
        opt.step(BAD.copy() if letter == "b" else GOOD.copy())


def test_max_skips():
    p = np.zeros(1)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="skip", max_skips=2)
    steps(opt, "bbgbbgb")
    assert opt.skipped_steps == 5
    steps(opt, "b")
    for _ in range(2):  # it stays so until a step is made
        text = "SGD.step: gradients must be finite after 2 skipped steps in a row .*, got NaN or infinity"
        with pytest.raises(FloatingPointError, match=f"{text} in the gradient of parameter 0$"):
            steps(opt, "b")
    assert opt.skipped_steps == 6
    assert opt.step_count == 2
    assert (p == -2).all()
    steps(opt, "gbb")
    assert (p == -3).all()


def test_max_skips_is_copied():
    opt = fastopt.SGD(np.zeros(1), nonfinite="skip", max_skips=2)
    steps(opt, "bb")
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.skipped_steps == 2
        with pytest.raises(FloatingPointError):
            steps(other, "b")
        steps(other, "gbb")


def test_max_skips_with_a_loss_scale():
    """It backs off at each skip; the step that raises changes nothing, of the scale neither."""
    scale = fastopt.LossScale(16.0)
    opt = fastopt.SGD(np.zeros(1), grad_scale=scale, nonfinite="skip", max_skips=2)
    steps(opt, "bb")
    assert scale.value == 4
    with pytest.raises(FloatingPointError):
        steps(opt, "b")
    assert scale.value == 4


def test_max_skips_of_one_parameter_at_a_time():
    opt = fastopt.SGD({"a": np.zeros(1), "b": np.zeros(1)}, nonfinite="skip", max_skips=2)
    for _ in range(2):
        opt.step_one("a", BAD)
        opt.step_one("b", GOOD)
    with pytest.raises(FloatingPointError, match=r"in the gradient of 'a'$"):
        opt.step_one("a", BAD)
    opt.step_one("b", BAD)
    opt.step_one("a", GOOD)
    opt.step_one("a", BAD)


def test_max_skips_of_micro_batches_and_bound_gradients():
    opt = fastopt.SGD(np.zeros(1), nonfinite="skip", max_skips=1)
    opt.accumulate(BAD)
    opt.step()
    opt.accumulate(BAD)
    with pytest.raises(FloatingPointError):
        opt.step()
    opt.discard()
    g = GOOD.copy()
    opt.bind(g)
    opt.step()
    g[...] = math.inf
    opt.step()
    with pytest.raises(FloatingPointError):
        opt.step()
    assert opt.skipped_steps == 2


def test_max_skips_of_muon():
    """An optimizer whose step is made in two calls."""
    opt = fastopt.Muon(np.zeros((2, 2)), nonfinite="skip", max_skips=1, clip_norm=1.0, clip_norm_per="parameter")
    bad, good = np.full((2, 2), math.nan), np.eye(2)
    for g in (bad, good, bad):
        opt.step(g)
    with pytest.raises(FloatingPointError, match="after 1 skipped steps"):
        opt.step(bad)
    assert opt.skipped_steps == 2
    opt.step(good)
    assert opt.grad_norms == {0: pytest.approx(math.sqrt(2))}


# ---- Several optimizers as one ----


@pytest.mark.parametrize("per", ["all", "group", "parameter"])
def test_combined_clips_alike(per):
    """Norms, a schedule of the limit and the count of skips are those of one optimizer with the same groups."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (2,), "c": (5,)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    options = {"clip_norm": schedules.linear(0.5, 0.1, 4), "clip_norm_per": per, "nonfinite": "skip", "max_skips": 1}

    def split(of):
        return [{"a": of["a"]}, {"b": of["b"], "c": of["c"]}]

    ones = {name: p.copy() for name, p in params.items()}
    one = fastopt.Adam([{"params": group} for group in split(ones)], **options)
    combined = fastopt.Combined([fastopt.Adam(group) for group in split(params)], **options)
    for step in range(5):
        grads = {name: 3.0 * rng.standard_normal(shape) for name, shape in shapes.items()}
        if step == 2:
            grads["b"][0] = math.nan
        for opt in (one, combined):
            opt.step(split(grads))
        assert combined.grad_norm == one.grad_norm or step == 2
        assert combined.grad_norms == one.grad_norms or step == 2
    for name, p in params.items():
        assert_same_bits(p, ones[name])
    assert combined.skipped_steps == 1
    bad = split({name: np.full(shape, math.nan) for name, shape in shapes.items()})
    combined.step(bad)
    for opt in (combined, copy.deepcopy(combined)):
        with pytest.raises(FloatingPointError, match=r"Combined\.step: .* after 1 skipped steps in a row"):
            opt.step(bad)


def test_combined_leaves_clipping_to_itself():
    for options in ({"clip_norm_per": "group"}, {"nonfinite": "skip", "max_skips": 3}):
        with pytest.raises(ValueError, match="must be an option of Combined"):
            fastopt.Combined([fastopt.Adam(np.ones(2), **options)])


def test_groups_that_are_added_are_clipped_by_themselves():
    p, q = np.zeros(2), np.zeros(2)
    opt = fastopt.SGD([{"params": [p]}], lr=1.0, clip_norm=1.0, clip_norm_per="group")
    opt.add_param_group({"params": [q]})
    opt.step([[A([30.0, 40.0])], [A([0.3, 0.4])]])
    assert opt.grad_norms == (50.0, 0.5)
    np.testing.assert_allclose(p, [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(q, [-0.3, -0.4])
