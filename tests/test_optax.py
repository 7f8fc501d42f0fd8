"""The rules that torch.optim has not, or whose state is not of their parameter's shape, against optax: 50 steps."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import optax_runs
import pytest

import fastopt

pytestmark = pytest.mark.skipif(find_spec("optax") is None, reason="compares with optax, which is not installed")
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What optax comes to, by name, dtype and parameter."""
    out = tmp_path_factory.mktemp("optax") / "runs.npz"
    subprocess.run([sys.executable, optax_runs.__file__, str(out)], check=True)
    return np.load(out)


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * abs(theirs).max())


@pytest.mark.parametrize("dtype", optax_runs.DTYPES)
@pytest.mark.parametrize("name", optax_runs.RUNS)
def test_trajectory(name, dtype, theirs):
    cls, options, _ = optax_runs.RUNS[name]
    params, grads = optax_runs.numbers(dtype)
    start = [p.copy() for p in params]
    opt = getattr(fastopt, cls)(params, **options)
    if cls == "Yogi":
        for i in range(len(params)):
            opt.state[i]["m"][...] = 1e-6  # as in optax
    for g in grads:
        opt.step(g)
    for i, (p, q) in enumerate(zip(params, start, strict=True)):
        assert_close(p, theirs[f"{name} {dtype} {i}"], TOLERANCE[dtype])
        assert abs(p - q).max() > 1e-3
        if cls.startswith("ScheduleFree"):
            assert_close(opt.x[i], theirs[f"{name} {dtype} x {i}"], TOLERANCE[dtype])
