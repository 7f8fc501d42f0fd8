"""More than 2^31 elements in one array."""

import os

import numpy as np
import pytest

import fastopt


@pytest.mark.huge
@pytest.mark.skipif(not os.environ.get("FASTOPT_TEST_HUGE"), reason="takes 9 GB of memory; FASTOPT_TEST_HUGE=1 runs it")
def test_more_elements_than_an_int_can_count():
    size = 2**31 + 1000
    p = np.zeros(size, np.float32)
    g = np.broadcast_to(np.float32(1), size)
    fastopt.SGD([p], lr=0.5, num_threads=3).step([g])
    assert p.min() == p.max() == -0.5
    fastopt.SGD([p], lr=0.5, num_threads=1).step([g])
    assert p.min() == p.max() == -1.0
