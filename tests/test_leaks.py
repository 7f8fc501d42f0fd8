"""Memory does not grow with optimizers made, stepped, failed and freed."""

import subprocess
import sys
from pathlib import Path

import pytest

CYCLES = 3000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to read memory in use")
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="the heap of a free-threaded interpreter grows for some 20,000 cycles before it stays as it is",
)
def test_memory_does_not_grow():
    """By less than the descriptors of the optimizers would, were they not freed; valgrind finds smaller leaks."""
    script = Path(__file__).with_name("leaks.py")
    run = subprocess.run([sys.executable, str(script), str(CYCLES)], check=True, stdout=subprocess.PIPE, text=True)
    before, after = map(int, run.stdout.split())
    assert after - before < 512, "KiB"
