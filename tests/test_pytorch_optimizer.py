"""Rules that neither torch.optim nor optax has, against pytorch_optimizer: 50 steps."""

import numpy as np
import pytest

import fastopt
from support.optax_runs import SHAPES, numbers
from support.registry import CLASSES

torch = pytest.importorskip("torch", reason="compares with pytorch_optimizer, which needs torch")
module = pytest.importorskip("pytorch_optimizer", reason="compares with pytorch_optimizer, which is not installed")

TWINS = [
    pytest.param(cls, twin, id="-".join(filter(None, (cls.name, name))))
    for cls in CLASSES.values()
    for name, twin in cls.pytorch_optimizer.items()
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cls", "twin"), TWINS)
def test_trajectory(cls, twin, dtype):
    ours, grads = numbers(dtype)
    start = [p.copy() for p in ours]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
    opt, peer = getattr(fastopt, cls.name)(ours, **twin.options), twin.peer(module, theirs)
    for of_step in grads:
        for p, g in zip(theirs, of_step, strict=True):
            p.grad = torch.tensor(g)
        opt.step(of_step)
        peer.step()
    assert len(ours) == len(SHAPES)
    tolerance = 2e-6 if dtype == "float32" else 1e-12
    for p, q, before in zip(ours, (q.detach().numpy() for q in theirs), start, strict=True):
        assert abs(p - before).max() > 1e-3
        np.testing.assert_allclose(p, q, rtol=0, atol=tolerance * abs(q).max())
