"""The choice of kernels for the CPU, and FASTOPT_ISA, which overrides it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt

CPUINFO = Path("/proc/cpuinfo")
PRINT = "import fastopt; print(fastopt._core.isa())"


def chosen(**environment: str) -> str:
    """Return the instruction set that another process has with these variables, or its error message."""
    inherited = {key: value for key, value in os.environ.items() if key != "FASTOPT_ISA"}
    run = subprocess.run(
        [sys.executable, "-c", PRINT], capture_output=True, text=True, env={**inherited, **environment}
    )
    return run.stdout.strip() if run.returncode == 0 else run.stderr


def is_zen_5_or_later() -> bool:
    text = CPUINFO.read_text()
    family = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    return "AuthenticAMD" in text and family is not None and int(family[1]) >= 0x1A


@pytest.mark.skipif(not CPUINFO.is_file(), reason="asks Linux for the CPU")
def test_the_widest_vectors_that_are_good_here():
    """512 bits only where the CPU computes on all of them at once."""
    available = fastopt._core.available_isas()
    good = [isa for isa in available if isa != "avx512wide" or is_zen_5_or_later()]
    assert chosen() == good[-1]


@pytest.mark.parametrize("isa", fastopt._core.available_isas())
def test_the_environment_chooses(isa):
    assert chosen(FASTOPT_ISA=isa) == isa


def test_a_name_that_is_none():
    message = chosen(FASTOPT_ISA="sse9")
    assert f"one of the instruction sets available here, {', '.join(fastopt._core.available_isas())}" in message
    assert "got 'sse9'" in message
