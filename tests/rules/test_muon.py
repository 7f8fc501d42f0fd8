"""Muon: against torch, against its formula in plain NumPy, and what its two passes promise."""

import copy
import threading

import numpy as np
import pytest

import fastopt
from fastopt.optimizers.muon import muon as muon_in_numpy
from support.arithmetic import keep, rest
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids, refused
from support.rule import STORAGE, ByHand, Class, Rule


def muon(p, g, b, u, *, t, lr, momentum, nesterov):
    """The two passes with nothing between them."""
    T = p.dtype.type
    mu, of_g = keep(T, momentum), rest(T, momentum)
    b[...] = mu * b + of_g * g
    u[...] = (mu if nesterov else T(1)) * b + (of_g if nesterov else T(0)) * g
    p -= T(lr) * u


RULES = [Rule(muon, gathers="alone")]
CLASSES = [
    Class(
        "Muon",
        {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
        },
        "muon",
        decay_form="decoupled",
        for_matrices=True,
        by_hand={
            # u = (3, 0; 0, 4), X = (0.6, 0; 0, 0.8), one iteration with A = 1.5, B = -0.5: x (1.5 - 0.5 x^2)
            "": ByHand(
                {"weight_decay": 0.5, "momentum": 0.0, "ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 1},
                [[[3, 0], [0, 4]]],
                [[[0.95 - 0.1 * 0.792, 0.95], [0.95, 0.95 - 0.1 * 0.944]]],
                start=((1.0, 1.0), (1.0, 1.0)),
                state={"b": [[[3, 0], [0, 4]]]},
            ),
        },
        twin="test_torch",
    )
]

SHAPES = ((6, 6), (5, 17), (40, 8), (1, 7), (3, 1))
OPTIONS = {
    "default": {},
    "plain momentum": {"nesterov": False, "momentum": 0.8},
    "rms": {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
    "coefficients": {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 12, "eps": 1e-3},
}


def some(dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def grads_of(dtype, steps):
    return [some(dtype, seed=10 + t) for t in range(steps)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_paper_form(dtype, options):
    params = some(dtype)
    paper = [p.astype(np.float64) for p in params]
    opt, states = fastopt.Muon(params, lr=0.05, **options), [{} for _ in params]
    for t, gs in enumerate(grads_of(dtype, 50), 1):
        opt.step(gs)
        for p, g, state in zip(paper, gs, states, strict=True):
            muon_in_numpy(p, g.astype(np.float64), state, t, lr=0.05, **options)
    for i, p in enumerate(paper):
        scale = abs(p).max()
        np.testing.assert_allclose(params[i], p, rtol=0, atol=scale * (1e-12 if dtype is np.float64 else 1e-4))
        np.testing.assert_allclose(
            opt.state[i]["b"], states[i]["b"], rtol=0, atol=1e-12 if dtype is np.float64 else 1e-6
        )


@pytest.mark.parametrize("options", [o for o in OPTIONS.values() if "ns_steps" not in o], ids=str)
@pytest.mark.parametrize("precise", [True, False], ids=["float64", "bfloat16"])
def test_torch(options, precise, monkeypatch):
    """torch's own steps; and the same with its rounding to bfloat16 taken out."""
    torch = pytest.importorskip("torch", reason="compares with torch.optim")
    if precise:
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.double().clone())
    ours = some(np.float64)
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
    start = [p.copy() for p in ours]
    opt, peer = fastopt.Muon(ours, lr=0.02, **options), torch.optim.Muon(theirs, lr=0.02, **options)
    for gs in grads_of(np.float64, 50):
        for p, g in zip(theirs, gs, strict=True):
            p.grad = torch.tensor(g)
        opt.step(gs)
        peer.step()
    for p, q, before in zip(ours, theirs, start, strict=True):
        moved = np.linalg.norm(p - before)
        assert np.linalg.norm(p - q.detach().numpy()) <= (1e-12 if precise else 0.03) * moved


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_the_step_is_nearly_orthogonal(dtype):
    """The polar factor: its singular vectors exactly, its singular values about."""
    rng = np.random.default_rng(0)
    for shape in ((8, 8), (4, 30), (30, 4)):
        left, _, right = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
        g = (left * np.geomspace(1, 0.05, min(shape))) @ right
        p = np.zeros(shape, dtype)
        opt = fastopt.Muon(p, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        opt.step(g.astype(dtype))
        X = -p / (0.2 * np.sqrt(max(shape)))
        values = left.T @ X @ right.T
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-13 if dtype is np.float64 else 1e-5)
        assert (abs(np.diag(values) - 0.95) < 0.3).all()
        if dtype is np.float64:
            p[...] = 0
            cubic = {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 40, "adjust_lr_fn": "original"}
            opt = fastopt.Muon(p, lr=1.0, weight_decay=0.0, **cubic)
            opt.step(g)
            np.testing.assert_allclose(-p, max(1, shape[0] / shape[1]) ** 0.5 * left @ right, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_layouts_and_empty(dtype):
    start, g = some(dtype)[1], grads_of(dtype, 1)[0][1]
    plain, strided = start.copy(), np.repeat(start, 2, axis=1)[:, ::2]
    params = [plain, strided, np.asfortranarray(start), np.zeros((0, 3), dtype), np.zeros((2, 0), dtype)]
    opt = fastopt.Muon(params, lr=0.1, num_threads=2)
    for _ in range(3):
        opt.step([g, np.asfortranarray(g), g, np.zeros((0, 3), dtype), None])
    for p in params[1:3]:
        np.testing.assert_allclose(p, plain, rtol=0, atol=1e-12 if dtype is np.float64 else 1e-5)
    assert opt._table.steps() == [3, 3, 3, 3, 0]


def test_no_gradient_is_no_step():
    p = np.ones((3, 4))
    fastopt.Muon(p, weight_decay=0.0, eps=0.0).step(np.zeros((3, 4)))
    np.testing.assert_array_equal(p, 1)


def test_stages():
    """Scaling, clipping, L2 decay and maximize come before the momentum, averages after the step, zeroing last."""
    params, others = some(np.float64), some(np.float64)
    opt = fastopt.Muon(
        params, lr=0.1, weight_decay=0.1, weight_decay_form="l2", maximize=True, clip_value=0.5, ema_decay=0.5,
        swa=(1, 1), lookahead=(2, 0.5), zero_grads=True, grad_scale=2.0,
    )  # fmt: skip
    plain = fastopt.Muon(others, lr=0.1, weight_decay=0.0)
    ema, slow = [p.copy() for p in others], [p.copy() for p in others]
    for t, gs in enumerate(grads_of(np.float64, 4), 1):
        plain.step([np.clip(-g / 2, -0.5, 0.5) + 0.1 * p for g, p in zip(gs, others, strict=True)])
        for i, p in enumerate(others):
            if t % 2 == 0:
                slow[i] += 0.5 * (p - slow[i])
                p[...] = slow[i]
            ema[i] += 0.5 * (p - ema[i])
        opt.step(gs)
        assert all((g == 0).all() for g in gs)
    for i, p in enumerate(others):
        np.testing.assert_allclose(params[i], p, rtol=0, atol=1e-13)
        np.testing.assert_allclose(opt.ema[i], ema[i], rtol=0, atol=1e-13)
    with opt.swapped("swa"):
        assert (params[0] != others[0]).any()


def test_clipping_by_the_norm():
    params, others = some(np.float64), some(np.float64)
    opt, plain = fastopt.Muon(params, clip_norm=0.1), fastopt.Muon(others)
    for gs in grads_of(np.float64, 3):
        opt.step(gs)
        norm = np.sqrt(sum((g**2).sum() for g in gs))
        assert abs(opt.grad_norm / norm - 1) < 1e-14
        plain.step([g * 0.1 / (norm + 1e-6) for g in gs])
    for i, (p, q) in enumerate(zip(params, others, strict=True)):
        np.testing.assert_allclose(opt.state[i]["b"], plain.state[i]["b"], rtol=1e-12)
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_bad_gradient_changes_nothing(nonfinite):
    params = some(np.float32)
    opt = fastopt.Muon(params, nonfinite=nonfinite)
    opt.step(some(np.float32, 3))
    before, saved = copy.deepcopy(params), repr(opt.state_dict())
    bad = some(np.float32, 4)
    bad[2][0, 0] = np.nan
    if nonfinite == "raise":
        with pytest.raises(FloatingPointError, match="parameter 2"):
            opt.step(bad)
    else:
        opt.step(bad)
        assert opt.skipped_steps == 1
    assert repr(opt.state_dict()) == saved
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)


def test_giving_up_between_the_passes(monkeypatch):
    """An interrupt within the products of matrices leaves parameters, state and counts as they were."""
    params = some(np.float32)
    opt = fastopt.Muon(params)
    opt.step(some(np.float32, 3))
    before, saved = copy.deepcopy(params), repr(opt.state_dict())
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return args[0]

    with monkeypatch.context() as patch:
        patch.setattr("fastopt.optimizers.muon.orthogonal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(some(np.float32, 4))
    assert repr(opt.state_dict()) == saved
    for p, q in zip(params, before, strict=True):
        assert_same_bits(p, q)
    opt.step(some(np.float32, 4))


def test_saved_copied_and_one_at_a_time(files):
    params = some(np.float64)
    opt = fastopt.Muon(params, nesterov=False, ns_steps=3)
    for gs in grads_of(np.float64, 2):
        opt.step(gs)
    fastopt.save(files / "state", opt)
    assert set(opt.state_dict()["state"][0]) == {"step", "dtype", "b"}
    loaded = fastopt.Muon([p.copy() for p in params], nesterov=False)
    fastopt.load(files / "state", loaded)
    twin, single = copy.deepcopy(opt), copy.deepcopy(opt)
    gs = some(np.float64, 5)
    for each in (opt, loaded, twin):
        each.step(gs)
    for i, g in enumerate(gs):
        single.step_one(i, g)
    for each in (loaded, twin, single):
        for p, q in zip(params, each.groups[0]["params"], strict=True):
            np.testing.assert_allclose(q, p, rtol=0, atol=1e-14)


def test_threads_take_turns():
    p = np.ones((30, 40))
    opt = fastopt.Muon(p, lr=1e-3, momentum=0.0, weight_decay=0.0)
    g = np.random.default_rng(0).standard_normal(p.shape)
    threads = [threading.Thread(target=lambda: [opt.step(g) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = np.ones_like(p)
    plain = fastopt.Muon(other, lr=1e-3, momentum=0.0, weight_decay=0.0)
    for _ in range(80):
        plain.step(g)
    np.testing.assert_allclose(p, other, rtol=0, atol=1e-12)


def test_groups_and_schedules():
    w, v = some(np.float64)[:2]
    opt = fastopt.Muon([{"params": [w]}, {"params": [v], "ns_steps": 2, "lr": lambda t: 0.1 / (t + 1)}], lr=0.05)
    others = some(np.float64)[:2]
    states = [{}, {}]
    for t, gs in enumerate(grads_of(np.float64, 3), 1):
        opt.step([[gs[0]], [gs[1]]])
        muon_in_numpy(others[0], gs[0], states[0], t, lr=0.05)
        muon_in_numpy(others[1], gs[1], states[1], t, lr=0.1 / t, ns_steps=2)
    for p, q in zip((w, v), others, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-13)


BAD = {
    "one axis": ({}, np.ones(3), "parameter 0 must have two axes for this rule, got shape (3,): use another optimizer"),
    "three axes": ({}, np.ones((2, 3, 4)), "must have two axes for this rule, got shape (2, 3, 4)"),
    "no axes": ({}, np.ones(()), "must have two axes for this rule, got shape ()"),
    "steps of 0": ({"ns_steps": 0}, None, "ns_steps must be an integer in [1, 100)"),
    "steps of 100": ({"ns_steps": 100}, None, "ns_steps must be an integer in [1, 100)"),
    "steps of 2.5": ({"ns_steps": 2.5}, None, "ns_steps must be an integer in [1, 100), got 2.5"),
    "steps None": ({"ns_steps": None}, None, "ns_steps must be a number"),
    "two coefficients": ({"ns_coefficients": (1.0, 2.0)}, None, "ns_coefficients must be"),
    "a coefficient of NaN": ({"ns_coefficients": (1.0, 2.0, float("nan"))}, None, "ns_coefficients[2] must be finite"),
    "another adjustment": (
        {"adjust_lr_fn": "none"},
        None,
        "must be one of None, original, match_rms_adamw",
    ),
    "an adjustment of 1": (
        {"adjust_lr_fn": 1},
        None,
        "must be one of None, original, match_rms_adamw, got 1",
    ),
    "momentum of 1": ({"momentum": 1.0}, None, "momentum must be in [0, 1), got 1.0"),
    "nesterov of 1": ({"nesterov": 1}, None, "nesterov must be True or False, got 1"),
    "negative eps": ({"eps": -1.0}, None, "eps must be finite and >= 0, got -1.0"),
    "negative rate": ({"lr": -1.0}, None, "lr must be finite and >= 0, got -1.0"),
    "negative decay": ({"weight_decay": -1.0}, None, "weight_decay must be finite and >= 0, got -1.0"),
}


@pytest.mark.parametrize(("options", "p", "message"), BAD.values(), ids=BAD)
def test_refused(options, p, message):
    with refused(message, None):
        fastopt.Muon(np.ones((2, 2)) if p is None else p, **options)
    opt = fastopt.Muon(np.ones((2, 2)))
    for name, value in options.items():
        with refused(message, None):
            opt.groups[0][name] = value
    assert {key: value for key, value in opt.groups[0].items() if key != "params"} == {
        **CLASSES[0].defaults,
        **STORAGE,
        "lr_scale": 1.0,
        "weight_decay_form": "decoupled",
    }


def test_rows_are_refused():
    opt = fastopt.Muon(np.ones((4, 3)))
    with pytest.raises(ValueError, match="must be an array, since this rule needs all of it"):
        opt.step(fastopt.RowGrad([1], np.ones((1, 3))))


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1000, 30)], ids=str)
def test_kernel(shape, nesterov, dtype, isas):
    """The two passes with nothing between them, in the oracle's bits."""
    from support import reference  # which imports this file

    for _ in isas:
        p, g, b, u = (next(gradients(i, shape, dtype)) for i in range(4))
        q, state = p.copy(), {"b": b.copy(), "u": u.copy()}
        hyper = {"lr": 0.1, "momentum": 0.9, "nesterov": float(nesterov)}
        for t in (1, 2, 3):
            fastopt.kernels.muon(p, g, b, u, step=t, num_threads=t, decoupled_decay=0.1, **hyper)
            reference.step("muon", q, g, state, t, hyper, decoupled_decay=0.1)
        for actual, wanted in ((p, q), (b, state["b"]), (u, state["u"])):
            assert_same_bits(actual, wanted)


def test_one_at_a_time_with_schedules():
    """Of what is read between the two halves of a step, too."""
    rng = np.random.default_rng(1)
    params, alone = (list(np.random.default_rng(0).standard_normal((2, 3, 4))) for _ in range(2))
    options = {"lr": 0.1, "ns_steps": lambda t: 1.0 + t, "eps": lambda t: 1e-7 * (1 + t)}
    opt, single = fastopt.Muon(params, **options), fastopt.Muon(alone, **options)
    for _ in range(3):
        gs = list(rng.standard_normal((2, 3, 4)))
        opt.step(gs)
        for i, g in enumerate(gs):
            single.step_one(i, g)
    for p, q in zip(params, alone, strict=True):
        assert_same_bits(p, q)
