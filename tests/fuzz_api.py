"""Random calls, well-formed and malformed, of everything a user can call.

Each call must do exactly what the oracle does, or raise TypeError or ValueError (FloatingPointError for gradients that
are not finite) and leave parameters, gradients, state, hyperparameters and counts as they were.

    python tests/fuzz_api.py --seconds 60 --seed 1         prints how many calls had each outcome
    python tests/fuzz_api.py --scenarios 10000 --seed 1    the same calls on every machine
    python tests/fuzz_api.py --seed 1 --only 1234          one scenario again
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
from itertools import count
from pathlib import Path

if __name__ == "__main__":  # the calls are those of the tree that this file lies in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.scenarios import report, scenario

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def work(seed: int, seconds: float, scenarios: int | None) -> None:
    """Run this many scenarios, or else for some time; the error output names the one that runs, in case it crashes."""
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + seconds
    for index in count() if scenarios is None else range(scenarios):
        if scenarios is None and time.monotonic() >= end:
            break
        print(index, file=sys.stderr)
        scenario(seed, index, counts)
    print(report(counts))


def limit_memory() -> None:
    """Turn what would take all memory into a MemoryError; AddressSanitizer reserves more than any limit itself."""
    if resource is not None and "asan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60)
    length.add_argument("--scenarios", type=int, help="run this many instead of for some time")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", type=int, help="run this scenario alone, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_memory()
    if options.only is not None:
        scenario(options.seed, options.only, Counter())
        return 0
    if options.worker:
        work(options.seed, options.seconds, options.scenarios)
        return 0
    command = [sys.executable, "-X", "faulthandler", __file__, "--worker"]
    command += ["--seed", str(options.seed)]
    if options.scenarios is None:
        command += ["--seconds", str(options.seconds)]
    else:
        command += ["--scenarios", str(options.scenarios)]
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
