"""The time of importing fastopt, and the memory of its steps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from statistics import median

from .contenders import CONTENDERS, FASTOPT, UnavailableError
from .race import FailedError, Player, Progress
from .races import WORKLOADS

IMPORT = """
from time import perf_counter
import numpy
start = perf_counter()
import fastopt
print(perf_counter() - start)
"""

MEMORY_WORKLOAD = WORKLOADS["adam-gpt2"]
MEMORY_PEERS = ("numpy", "numpy-out", "numba", "torch-foreach", "torch-fused", "optax")


def import_seconds(processes: int, progress: Progress) -> list[float]:
    """Return how long importing fastopt takes after NumPy, in that many fresh processes."""
    # Bytecode is cached, as it is for an installed package.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for i in range(1 + processes):
        progress(f"import in fresh processes: {i} of {processes}")
        command = [sys.executable, "-c", IMPORT]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        seconds.append(float(printed))
    return seconds[1:]  # the first one reads the files from disk


def memory(peers: Iterable[str], threads: int, processes: int, progress: Progress) -> dict[str, int | str]:
    """Return the bytes each contender's steps need beyond parameters, gradients and state; fastopt's, in the median."""
    found: dict[str, int | str] = {}
    for name in (FASTOPT, *peers):
        progress(f"memory: {CONTENDERS[name].label}")
        try:
            # Huge pages cover the gaps between state buffers or not, as addresses fall, which differ between processes.
            found[name] = int(median(_memory(name, threads) for _ in range(processes if name == FASTOPT else 1)))
        except (UnavailableError, FailedError) as error:
            found[name] = str(error)
    return found


def _memory(name: str, threads: int) -> int:
    player = Player(name, threads)
    try:
        return int(player.call("memory", MEMORY_WORKLOAD))
    finally:
        player.close()
