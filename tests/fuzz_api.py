"""Random calls, well-formed and malformed, of everything a user can call.

Each call must do exactly what the oracle does, or raise TypeError or ValueError (FloatingPointError for gradients that
are not finite) and leave parameters, gradients, state, hyperparameters and counts as they were.

    python tests/fuzz_api.py --seconds 60 --seed 1       prints how many calls had each outcome
    python tests/fuzz_api.py --seed 1 --only 1234        one scenario again
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":  # the calls are those of the tree that this file lies in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.scenarios import report, scenario

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def work(seed: int, first: int, seconds: float) -> None:
    """Run scenarios from the first on; the error output names the one that runs, in case it crashes."""
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + seconds
    index = first
    while time.monotonic() < end:
        print(index, file=sys.stderr)
        scenario(seed, index, counts)
        index += 1
    print(report(counts))


def limit_memory() -> None:
    """Turn what would take all memory into a MemoryError; AddressSanitizer reserves more than any limit itself."""
    if resource is not None and "asan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", type=int, help="run this scenario alone, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_memory()
    if options.only is not None:
        scenario(options.seed, options.only, Counter())
        return 0
    if options.worker:
        work(options.seed, 0, options.seconds)
        return 0
    command = [sys.executable, "-X", "faulthandler", __file__, "--worker"]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    index, said = "0", []
    for line in worker.stderr:
        if line.strip().isdecimal():
            index = line.strip()
        else:
            said.append(line)
    out = worker.stdout.read()
    if code := worker.wait():
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        print(*said, f"fuzz_api: {how} in scenario {index} of seed {options.seed}", sep="")
        return 1
    print(f"seed {options.seed}\n{out}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
