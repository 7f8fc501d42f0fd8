"""First steps worked out by hand, which the files of tests/rules/ derive."""

import numpy as np
import pytest

import fastopt
from support.registry import CLASSES

STEPS = [
    pytest.param(cls, steps, id="-".join(filter(None, (cls.name.lower(), name))))
    for cls in CLASSES.values()
    for name, steps in cls.by_hand.items()
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 4e-16), (np.float32, 2e-7)], ids=["float64", "float32"])
@pytest.mark.parametrize(("cls", "steps"), STEPS)
def test_steps(cls, steps, dtype, tolerance):
    if cls.for_matrices and dtype is np.float64:
        tolerance = 1e-15  # products of matrices are NumPy's
    p = np.array(steps.start, dtype)
    opt = getattr(fastopt, cls.name)(p, **{"lr": 0.1, **steps.options})
    for t, (g, wanted) in enumerate(zip(steps.gradients, steps.after, strict=True)):
        opt.step(np.broadcast_to(np.array(g, dtype), p.shape))
        np.testing.assert_allclose(p, np.broadcast_to(wanted, p.shape), rtol=tolerance, atol=0)
        for letter, values in steps.state.items():
            buffer = opt.state[0][letter]
            np.testing.assert_allclose(buffer, np.broadcast_to(values[t], buffer.shape), rtol=tolerance, atol=0)
