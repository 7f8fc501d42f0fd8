"""NorMuon: against its formula in plain NumPy and by singular values, and what its step promises."""

import copy
import math

import numpy as np
import pytest

import fastopt
from fastopt.optimizers import plain
from support.arithmetic import keep, rest
from support.arrays import DTYPES
from support.asserts import assert_same_bits, ids
from support.rule import ByHand, Class, Rule


def normuon(p, g, b, u, v, *, t, lr, momentum, nesterov):
    """The two passes with nothing between them."""
    T = p.dtype.type
    mu, of_g = keep(T, momentum), rest(T, momentum)
    b[...] = mu * b + of_g * g
    u[...] = (mu if nesterov else T(1)) * b + (of_g if nesterov else T(0)) * g
    p -= T(lr) * u


RULES = [Rule(normuon, gathers="alone", extents={"v": lambda shape: shape[:-1]})]

# 0.2 sqrt(4) / |Y| where both rows of Y, (1, 0) / (sqrt(v) + eps) of one number each, have the size 1
SIZE = 0.4 / math.sqrt(2)
CLASSES = [
    Class(
        "NorMuon",
        {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.95,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "ns_steps": 5,
            "beta2": 0.95,
            "nesterov": False,
            "eps": 1e-8,
        },
        "normuon",
        decay_form="decoupled",
        for_matrices=True,
        by_hand={
            # X = (0.792, 0; 0, 0.944) as of Muon, v = half of X^2 / 2, Y = X / (X / 2) = (2, 0; 0, 2)
            "": ByHand(
                {
                    "weight_decay": 0.5,
                    "momentum": 0.0,
                    "ns_coefficients": (1.5, -0.5, 0.0),
                    "ns_steps": 1,
                    "beta2": 0.5,
                    "eps": 0.0,
                },
                [[[3, 0], [0, 4]]],
                [[[0.95 - 0.1 * SIZE, 0.95], [0.95, 0.95 - 0.1 * SIZE]]],
                start=((1.0, 1.0), (1.0, 1.0)),
                state={"b": [[[3, 0], [0, 4]]], "v": [[0.792**2 / 4, 0.944**2 / 4]]},
            ),
        },
        twin="test_by_singular_values",
    )
]

SHAPES = ((6, 6), (5, 17), (40, 8), (1, 7), (3, 1))
OPTIONS = {
    "default": {},
    "nesterov": {"nesterov": True, "momentum": 0.8, "weight_decay": 0.0},
    "other": {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 12, "beta2": 0.5, "eps": 1e-3},
}


def some(dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_paper_form(dtype, options):
    params = some(dtype)
    paper = [p.astype(np.float64) for p in params]
    opt, states = fastopt.NorMuon(params, lr=0.05, **options), [{} for _ in params]
    for t in range(1, 31):
        gs = some(dtype, seed=10 + t)
        opt.step(gs)
        for p, g, state in zip(paper, gs, states, strict=True):
            plain("NorMuon")(p, g.astype(np.float64), state, t, lr=0.05, **options)
    for i, p in enumerate(paper):
        close = 1e-11 if dtype is np.float64 else 1e-3
        np.testing.assert_allclose(params[i], p, rtol=0, atol=abs(p).max() * close)
        for letter in ("b", "v"):
            np.testing.assert_allclose(opt.state[i][letter], states[i][letter], rtol=0, atol=close)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_by_singular_values(options):
    """Algorithm 1 of the paper, with an iteration that moves each singular value and leaves the vectors."""
    settings = {**CLASSES[0].defaults, **options}
    A, B, C = settings["ns_coefficients"]
    for shape in SHAPES:
        rng = np.random.default_rng(3)
        W = rng.standard_normal(shape)
        p, M, v = W.copy(), np.zeros(shape), np.zeros(shape[0])
        opt = fastopt.NorMuon(p, lr=0.03, **options)
        for _ in range(10):
            G = rng.standard_normal(shape)
            opt.step(G)
            M = settings["momentum"] * M + (1 - settings["momentum"]) * G
            ahead = settings["momentum"] * M + (1 - settings["momentum"]) * G if settings["nesterov"] else M
            left, values, right = np.linalg.svd(ahead, full_matrices=False)
            values = values / math.sqrt(sum(values**2))
            for _ in range(settings["ns_steps"]):
                values = A * values + B * values**3 + C * values**5
            orthogonal = left @ np.diag(values) @ right
            for row in range(shape[0]):
                v[row] = settings["beta2"] * v[row] + (1 - settings["beta2"]) * sum(orthogonal[row] ** 2) / shape[1]
                orthogonal[row] /= math.sqrt(v[row]) + settings["eps"]
            rate = 0.2 * 0.03 * math.sqrt(shape[0] * shape[1]) / math.sqrt(np.sum(orthogonal**2))
            W = W - 0.03 * settings["weight_decay"] * W - rate * orthogonal
        np.testing.assert_allclose(p, W, rtol=0, atol=1e-10)


def test_rows_move_alike():
    """Each by 0.2 lr in the root mean square, though their gradients differ by powers of ten."""
    rng = np.random.default_rng(4)
    p = np.zeros((8, 30))
    fastopt.NorMuon(p, lr=1.0, weight_decay=0.0).step(np.geomspace(1, 1e-3, 8)[:, None] * rng.standard_normal((8, 30)))
    np.testing.assert_allclose(np.sqrt(np.mean(p**2, axis=1)), 0.2, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_no_gradient_is_no_step(eps):
    params = [np.ones((3, 4)), np.ones((2, 3)), np.ones((0, 3))]
    opt = fastopt.NorMuon(params, weight_decay=0.0, eps=eps)
    opt.step([np.zeros((3, 4)), np.array([[0.0, 0, 0], [1, 2, 3]]), np.zeros((0, 3))])
    assert (params[0] == 1).all()
    assert (params[1][0] == 1).all()
    assert (params[1][1] != 1).all()


def test_giving_up_between_the_passes(monkeypatch):
    """State, v too, is as it was when the second matrix cannot be computed."""
    params = [np.ones((3, 4)), np.ones((4, 3))]
    opt = fastopt.NorMuon(params)
    gs = [np.random.default_rng(i).standard_normal(p.shape) for i, p in enumerate(params)]
    opt.step(gs)
    before = copy.deepcopy((params, opt.state_dict()))
    original, calls = fastopt.optimizers.muon.orthogonal, []

    def interrupted(u, *args):
        calls.append(u.shape)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(u, *args)

    with monkeypatch.context() as patch:
        patch.setattr("fastopt.optimizers.muon.orthogonal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(gs)
    assert repr((params, opt.state_dict())) == repr(before)
    opt.step(gs)
    assert opt.step_count == 2


def test_saved_and_copied(files):
    params = some(np.float32)
    opt = fastopt.NorMuon(params)
    opt.step(some(np.float32, 5))
    fastopt.save(files / "state", opt)
    twin = copy.deepcopy(opt)
    loaded = fastopt.NorMuon([p.copy() for p in params])
    fastopt.load(files / "state", loaded)
    for each in (opt, twin, loaded):
        each.step(some(np.float32, 6))
    for each in (twin, loaded):
        for i, (p, q) in enumerate(zip(params, each.groups[0]["params"], strict=True)):
            assert_same_bits(p, q)
            assert_same_bits(opt.state[i]["v"], each.state[i]["v"])
    assert {letter: a.shape for letter, a in opt.state[1].items()} == {"b": (5, 17), "v": (5,)}
