"""Every class and option against torch.optim: swapping one for the other keeps a run's trajectory."""

from typing import Any

import numpy as np
import pytest

import fastopt
from support.arrays import DTYPES
from support.asserts import ids
from support.covering import all_pairs
from support.registry import CLASSES, RULES
from support.torch_twins import ROWS, TWINS, assert_close

torch = pytest.importorskip("torch", reason="compares with torch.optim")

pytestmark = pytest.mark.usefixtures("torch_doubles")

STEPS = 50
DRAWS = 3
SHAPES = ((3, 4), (17,), (), (2, 3, 5))


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


@pytest.mark.parametrize(("row", "dtype", "seed"), all_pairs([*ROWS], DTYPES, range(DRAWS)), ids=ids)
def test_trajectory(row, dtype, seed):
    cls, draws = ROWS[row]
    rng = np.random.default_rng([seed, 7])
    kwargs = {name: draw(rng) for name, draw in draws.items()}
    assert_close(*run(cls, kwargs, dtype, seed), 1e-12 if dtype is np.float64 else 2e-6)


@pytest.mark.parametrize("cls", TWINS)
def test_defaults(cls):
    """The same call with nothing but a learning rate."""
    assert_close(*run(cls, {"lr": max(CLASSES[cls].own["lr"], 1e-2)}, np.float64, seed=11), 1e-12)


@pytest.mark.parametrize("cls", [cls for cls in TWINS if "betas" in CLASSES[cls].own])
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
    # NAdam corrects by products of its momenta in both.
    if "beta1" in RULES[CLASSES[cls].rule_of(CLASSES[cls].defaults)].corrected:
        np.testing.assert_allclose(steps[1], (0.1, 0.1 * 0.55 / 0.75), rtol=1e-7)
    else:
        np.testing.assert_allclose(*steps[1], rtol=1e-7)
