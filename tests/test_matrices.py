"""Rules that look at rows and columns: the oracle's bits for any shape, layout, thread count and instruction set."""

import itertools

import numpy as np
import pytest

import fastopt
from support import reference, registry
from support.arrays import DTYPES, gradients, several
from support.asserts import assert_each_step_like, assert_like, assert_same_bits, ids
from support.cases import BY_ROW, CASES, Oracle
from support.cases import RULES as EVERY_RULE
from support.covering import all_pairs

MATRIX_CASES = [case for case in CASES if case.rule.endswith("_vector")]
RULES = [case for case in EVERY_RULE if case in MATRIX_CASES]
# Around the sizes of a span, 512, of the rows and columns of a tile, 64 and 4096, and of its elements, 65536.
SHAPES = [
    (1, 1),
    (3, 4),
    (1, 9000),
    (130, 1025),
    (65, 512),
    (64, 4096),
    (65, 4097),
    (70000, 1),
    (2, 3, 17),
    (2000, 7, 5),
    (5, 1, 2049),
    (2, 2, 33000, 2),
    (0, 3),
    (4, 0),
    (2, 0, 3),
]


DECOUPLED = {"weight_decay_form": "decoupled", "weight_decay": 0.1, "maximize": True}


def start(shape, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("shape", "case", "dtype"), all_pairs(SHAPES, RULES, DTYPES), ids=ids)
def test_shapes(case, dtype, shape, isas):
    before = start(shape, dtype)
    oracle, gs = Oracle(case, before), [g for g, _ in zip(gradients(2, shape, dtype), range(3), strict=False)]
    for g in gs:
        oracle.step(g)
    for _ in isas:
        for threads in (1, 2, 3):
            p = before.copy()
            opt = case.make(p, num_threads=threads)
            for g in gs:
                opt.step(g)
            assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", MATRIX_CASES, ids=ids)
def test_options_and_many_arrays(case, dtype, isas):
    """Matrices, vectors and rules of one pass in one call."""
    before, grads = several(dtype, 3, [(40, 1030), (17,), (), (3, 5, 7), (33_001,)])
    oracles = [Oracle(case, p) for p in before]
    for gs in grads:
        for oracle, g in zip(oracles, gs, strict=True):
            oracle.step(g)
    for _ in isas:
        params = [p.copy() for p in before]
        opt = case.make(params, num_threads=2)
        for gs in grads:
            opt.step(gs)
        for i, (p, oracle) in enumerate(zip(params, oracles, strict=True)):
            assert_like(opt, i, p, oracle)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "transposed": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "unaligned": lambda a: np.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, offset=1).reshape(a.shape),
}
PAIRS = [*itertools.combinations_with_replacement(LAYOUTS, 2)]


@pytest.mark.parametrize(
    ("layouts", "case", "shape", "stages", "threads"),
    all_pairs(PAIRS, RULES, [(70, 1100), (3, 40, 50)], [{}, DECOUPLED], [1, 3]),
    ids=ids,
)
def test_layouts(case, layouts, shape, stages, threads):
    """Also where the parameter is written by the stages around the rule, averages are kept and gradients zeroed."""
    of_p, of_g = layouts
    plain = start(shape, np.float32)
    p = LAYOUTS[of_p](plain)
    options = {**stages, "ema_decay": 0.5, "zero_grads": True, "num_threads": threads}
    opt, other = case.make(p, **options), case.make(plain, **options)
    for g, _ in zip(gradients(2, shape, np.float32), range(3), strict=False):
        stored = LAYOUTS[of_g](g)
        opt.step(stored)
        other.step(g.copy())
        assert (stored == 0).all()
    assert_same_bits(p, plain)
    for letter, buffer in other.state[0].items():
        assert_same_bits(opt.state[0][letter], buffer, letter)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_stages(case, dtype, isas):
    """Decay, clipping and scaling reach every pass."""
    before, grads = several(dtype, 3, [(20, 1030)])
    changes = {"weight_decay": 0.1, "weight_decay_form": "l2", "clip_value": 0.5}
    oracle = Oracle(case, before[0])
    for (g,) in grads:
        oracle.step(g, **changes, scale=0.25)
    for _ in isas:
        p = before[0].copy()
        opt = case.make(p, **changes, grad_scale=4.0)
        for (g,) in grads:
            opt.step(g)
        assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_special_values(case, dtype, isas):
    for _ in isas:
        info = np.finfo(dtype)
        values = [
            0,
            -0.0,
            1,
            info.tiny,
            info.tiny / 2,
            info.smallest_subnormal,
            1e-30,
            info.max,
            np.inf,
            -np.inf,
            np.nan,
        ]
        for seed in range(6):
            rng = np.random.default_rng(seed)
            few = rng.choice(np.array(values[: 8 if seed < 4 else None], dtype), 3)
            p, g = rng.choice(few, (2, 9, 40))
            oracle, opt = Oracle(case, p), case.make(p)
            assert_each_step_like(opt, p, oracle, g)


@pytest.mark.parametrize("shape", [(3, 4), (70, 1100), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_kernels(case, shape, isas):
    for _ in isas:
        own = start(shape, np.float32)
        p, opt = own.copy(), case.make(own)
        state = [buffer.copy() for buffer in opt.state[0].values()]
        kernel = getattr(fastopt.kernels, case.rule.removesuffix("_vector"))
        for t, g in zip((1, 2, 3), gradients(2, shape, np.float32), strict=False):
            opt.step(g)
            kernel(p, g, *state, step=t, num_threads=t, **case.hyper(), **case.options())
        assert_same_bits(p, own)
        for (letter, wanted), buffer in zip(opt.state[0].items(), state, strict=True):
            assert_same_bits(buffer, wanted, letter)


def test_kernels_refuse():
    hyper = {"step": 1, "lr": 0.1, "beta2_decay": -0.8, "eps1": 0.0, "eps2": 0.0, "d": 1.0, "decay": 0.0}
    p, g, R, C = np.ones((3, 4)), np.ones((3, 4)), np.zeros(3), np.zeros(4)
    with pytest.raises(ValueError, match=r"adafactor: R must have shape \(3,\) for p of shape \(3, 4\), got \(4,\)"):
        fastopt.kernels.adafactor(p, g, C, R, **hyper)
    with pytest.raises(ValueError, match=r"adafactor: p must have at least two axes, got \(3,\)"):
        fastopt.kernels.adafactor(np.ones(3), np.ones(3), np.zeros(3), np.zeros(3), **hyper)
    assert (p == 1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_shapes_of_state(dtype):
    """No more is kept than is needed."""
    params = {"w": np.ones((4, 5), dtype), "conv": np.ones((2, 3, 4, 5), dtype), "b": np.ones(7, dtype)}
    opt = fastopt.Adafactor(params)
    shapes = {name: {key: a.shape for key, a in state.items()} for name, state in opt.state.items()}
    assert shapes == {
        "w": {"R": (4,), "C": (5,)},
        "conv": {"R": (2, 3, 4), "C": (2, 3, 5)},
        "b": {"v": (7,)},
    }
    assert sum(arena.nbytes for arena in opt._layout.arenas) < 4096
    params["scalar"] = np.ones((), dtype)
    opt = fastopt.SM3(params)
    shapes = {name: {key: a.shape for key, a in state.items()} for name, state in opt.state.items()}
    assert shapes == {
        "w": {"m": (4, 5), "mu": (9,)},
        "conv": {"m": (2, 3, 4, 5), "mu": (14,)},
        "b": {"m": (7,), "mu": (7,)},
        "scalar": {"m": (), "mu": ()},
    }


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_saved_and_copied(case, files):
    """A run that is saved, loaded and unpickled goes on to the same bits."""
    import copy

    params = [start((6, 7), np.float32), start((5,), np.float32), start((2, 3, 4), np.float32)]
    draws = [gradients(i, p.shape, np.float32) for i, p in enumerate(params)]
    gs = [[next(draw) for draw in draws] for _ in range(6)]
    opt = case.make(params)
    for g in gs[:3]:
        opt.step(g)
    fastopt.save(files / "state", opt)
    twin = copy.deepcopy(opt)
    loaded = case.make([p.copy() for p in params])
    fastopt.load(files / "state", loaded)
    for g in gs[3:]:
        for each in (opt, twin, loaded):
            each.step(g)
    for each in (twin, loaded):
        for p, q in zip(params, each.groups[0]["params"], strict=True):
            assert_same_bits(p, q)


def test_one_parameter_at_a_time_and_rows():
    for case in RULES:
        params = [start((6, 7), np.float32), start((5,), np.float32)]
        whole, single = case.make([p.copy() for p in params]), case.make(params)
        gs = [start(p.shape, np.float32, seed=5) for p in params]
        whole.step(gs)
        for i, g in enumerate(gs):
            single.step_one(i, g)
        for p, q in zip(params, whole.groups[0]["params"], strict=True):
            assert_same_bits(p, q)
        if case in BY_ROW:
            continue
        with pytest.raises(ValueError, match="must be an array, since this rule needs all of it"):
            single.step([fastopt.RowGrad([1], np.ones((1, 7), np.float32)), None])


def test_the_rule_of_each_parameter_follows_a_schedule():
    """Matrices and vectors of a group have the same hyperparameters."""
    params, others = ([start((6, 7), np.float64), start((5,), np.float64)] for _ in range(2))
    opt = fastopt.Adafactor(params, lr=lambda t: 0.1 / (t + 1))
    plain = fastopt.Adafactor(others)
    for t in range(4):
        plain.lr = 0.1 / (t + 1)
        gs = [start(p.shape, np.float64, seed=t) for p in params]
        opt.step(gs)
        plain.step(gs)
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p, q)


def test_every_matrix_rule_has_a_case():
    rules = {row[0] for row in fastopt._core.rules()}
    in_numpy = {name for name in reference.EXTENTS if registry.RULES[name].gathers == "alone"}  # in tests/rules/
    assert {case.rule.removesuffix("_vector") for case in RULES} == set(reference.EXTENTS) - in_numpy <= rules
