"""Every class and option against torch.optim: swapping one for the other keeps a run's trajectory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, ids

import fastopt

torch = pytest.importorskip("torch", reason="compares with torch.optim")

STEPS = 50
DRAWS = 3
SHAPES = ((3, 4), (17,), (), (2, 3, 5))


@pytest.fixture(autouse=True, scope="module")
def _doubles():
    """NAdam of torch keeps its product of momenta in the default dtype, whatever the dtype of the parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


Draw = Callable[[np.random.Generator], Any]


def between(low: float, high: float) -> Draw:
    return lambda rng: float(rng.uniform(low, high))


def power_of_ten(low: float, high: float) -> Draw:
    return lambda rng: float(10 ** rng.uniform(low, high))


def betas(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0.5, 0.95)), float(rng.uniform(0.9, 0.9999))


def etas(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0.3, 0.9)), float(rng.uniform(1.05, 2))


def always(value: Any) -> Draw:
    return lambda rng: value


LR = power_of_ten(-4, -2)
EPS = power_of_ten(-8, -6)
OWN: dict[str, dict[str, Draw]] = {
    "SGD": {},
    "Adagrad": {"eps": EPS},
    "Adadelta": {"lr": between(0.1, 1), "rho": between(0.5, 0.99), "eps": EPS},
    "RMSprop": {"alpha": between(0.8, 0.999), "eps": EPS},
    "Adam": {"betas": betas, "eps": EPS},
    "AdamW": {"betas": betas, "eps": EPS},
    "Adamax": {"betas": betas, "eps": EPS},
    "NAdam": {"betas": betas, "eps": EPS},
    "RAdam": {"betas": betas, "eps": EPS},
    "Rprop": {"etas": etas},
    "ASGD": {},
    "Adafactor": {"lr": power_of_ten(-3, -1)},
}
MOMENTUM = {"momentum": between(0.5, 0.99)}
DECOUPLED = {"decoupled_weight_decay": {"weight_decay": power_of_ten(-3, -1), "decoupled_weight_decay": always(True)}}
OPTIONS: dict[str, dict[str, dict[str, Draw]]] = {
    "SGD": {
        "momentum": MOMENTUM,
        "dampening": {**MOMENTUM, "dampening": between(0, 1)},
        "nesterov": {**MOMENTUM, "nesterov": always(True)},
    },
    "Adagrad": {
        "lr_decay": {"lr_decay": power_of_ten(-3, -1)},
        "initial_accumulator_value": {"initial_accumulator_value": between(0, 1)},
    },
    "RMSprop": {
        "momentum": MOMENTUM,
        "centered": {"centered": always(True)},
        "both": {**MOMENTUM, "centered": always(True)},
    },
    "Adam": {"amsgrad": {"amsgrad": always(True)}, **DECOUPLED},
    "AdamW": {"amsgrad": {"amsgrad": always(True)}},
    "NAdam": {"momentum_decay": {"momentum_decay": power_of_ten(-4, -1)}, **DECOUPLED},
    "Rprop": {"step_sizes": {"step_sizes": always((2e-3, 2e-2))}},
    "ASGD": {"early": {"t0": between(0, 30), "lambd": power_of_ten(-3, -1), "alpha": between(0.5, 0.99)}},
    "Adafactor": {
        "eps": {"eps": lambda rng: (float(10 ** rng.uniform(-8, -2)), float(rng.uniform(0, 2)))},
        "slowing": {"beta2_decay": between(-1, -0.1), "d": between(1, 3)},
    },
    "RAdam": {"never_rectified": {"betas": always((0.9, 0.6))}, **DECOUPLED},
}
SHARED: dict[str, dict[str, Draw]] = {
    "plain": {},
    "weight_decay": {"weight_decay": power_of_ten(-3, -1)},
    "maximize": {"maximize": always(True)},
    "both_stages": {"weight_decay": power_of_ten(-3, -1), "maximize": always(True)},
}
ROWS = [
    pytest.param(cls, {"lr": LR, **own, **option}, id=f"{cls}-{name}")
    for cls, own in OWN.items()
    for name, option in {**SHARED, **OPTIONS.get(cls, {})}.items()
    if not (cls == "Rprop" and "weight_decay" in option)  # which torch's has not
]


def run(cls: str, kwargs: dict[str, Any], dtype: type, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters after the same steps with fastopt and with torch; the learning rate halves on the way."""
    rng = np.random.default_rng(seed)
    ours = [rng.standard_normal(shape).astype(dtype).reshape(shape) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
    opt, peer = getattr(fastopt, cls)(ours, **kwargs), getattr(torch.optim, cls)(theirs, **kwargs)
    for i in range(STEPS):
        if i == STEPS // 2:
            opt.lr = peer.param_groups[0]["lr"] = kwargs["lr"] / 2
        grads = [rng.standard_normal(shape).astype(dtype).reshape(shape) for shape in SHAPES]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step(grads)
        peer.step()
    return ours, [p.detach().numpy() for p in theirs]


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> None:
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=tolerance * max(abs(q).max(), 1e-300))


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize(("cls", "draws"), ROWS)
def test_trajectory(cls, draws, dtype, seed):
    rng = np.random.default_rng([seed, 7])
    kwargs = {name: draw(rng) for name, draw in draws.items()}
    assert_close(*run(cls, kwargs, dtype, seed), 1e-12 if dtype is np.float64 else 2e-6)


@pytest.mark.parametrize("cls", OWN)
def test_defaults(cls):
    """The same call with nothing but a learning rate."""
    lr = 1.0 if cls == "Adadelta" else 1e-2
    assert_close(*run(cls, {"lr": lr}, np.float64, seed=11), 1e-12)


@pytest.mark.parametrize("cls", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"])
def test_betas_that_change(cls):
    """torch corrects by beta^t of the current beta, ours by the product: there the constant 1 counts as 0.55 / 0.75."""
    ours, theirs = np.zeros(1), torch.nn.Parameter(torch.zeros(1))
    opt, peer = getattr(fastopt, cls)(ours, lr=0.1, weight_decay=0.0), None
    peer = getattr(torch.optim, cls)([theirs], lr=0.1, weight_decay=0.0)
    steps = []
    for beta1 in (0.9, 0.5):
        opt.groups[0]["betas"] = peer.param_groups[0]["betas"] = (beta1, 0.999)
        before = ours[0], theirs.item()
        theirs.grad = torch.ones(1)
        opt.step(np.ones(1))
        peer.step()
        steps.append((before[0] - ours[0], before[1] - theirs.item()))
    np.testing.assert_allclose(*steps[0], rtol=1e-7)
    if cls != "NAdam":  # whose corrections are products of its momenta in both
        np.testing.assert_allclose(steps[1], (0.1, 0.1 * 0.55 / 0.75), rtol=1e-7)
    else:
        np.testing.assert_allclose(*steps[1], rtol=1e-7)
