"""Every rule that optax has against it: 50 steps."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import fastopt
from support import optax_runs

pytestmark = pytest.mark.skipif(find_spec("optax") is None, reason="compares with optax, which is not installed")
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The parameters of optax after its steps, by name, dtype and parameter."""
    out = tmp_path_factory.mktemp("optax") / "runs.npz"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", "support.optax_runs", str(out)], check=True, env=environment)
    return np.load(out)


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * abs(theirs).max())


@pytest.mark.parametrize("dtype", optax_runs.DTYPES)
@pytest.mark.parametrize("name", optax_runs.RUNS)
def test_trajectory(name, dtype, theirs):
    cls, twin = optax_runs.RUNS[name]
    params, grads = optax_runs.numbers(dtype)
    start = [p.copy() for p in params]
    opt = getattr(fastopt, cls.name)(params, **twin.options)
    for i, (letter, value) in itertools.product(range(len(params)), twin.start.items()):
        opt.state[i][letter][...] = value
    for g in grads:
        opt.step(g)
    for i, (p, q) in enumerate(zip(params, start, strict=True)):
        assert_close(p, theirs[f"{name} {dtype} {i}"], TOLERANCE[dtype])
        assert abs(p - q).max() > 1e-3
        if twin.average:
            assert_close(opt.x[i], theirs[f"{name} {dtype} x {i}"], TOLERANCE[dtype])
