"""The rules in plain NumPy, beside their numbers, which test_rules.py compares."""

import numpy as np
import pytest

from fastopt.optimizers import plain
from support.cases import DEFAULTS


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}], ids=str)
@pytest.mark.parametrize("name", DEFAULTS)
def test_arrays_stay_what_they_are(name, options, shape):
    p, g = np.ones(shape, np.float32), np.full(shape, 0.5, np.float32)
    g.flags.writeable = False
    same, state = p, {}
    for t in (1, 2):
        plain(name)(p, g, state, t, **options)
    assert p is same
    assert p.dtype == np.float32
    assert (p != 1).all()
    assert all(array.dtype == np.float32 for array in state.values() if isinstance(array, np.ndarray))


def test_adamax_without_eps():
    p, state = np.ones(2), {}
    for t in (1, 2):
        plain("Adamax")(p, np.array([0.0, 1.0]), state, t, lr=0.1, eps=0.0)
    np.testing.assert_allclose(p, [1, 0.8])
