"""Steps of Adam within a loop that Numba compiles, fastopt's against Numba's own: ``python -m bench.numba_loop``.

Both contenders step the same values, in turns; a figure is the median over rounds of the time per step.
"""

# mypy: disallow_untyped_defs=False, disallow_untyped_calls=False, disallow_untyped_decorators=False

from __future__ import annotations

import argparse
import statistics
import time

import numba
import numpy as np

import fastopt
import fastopt.numba
from bench.peers.numba_rules import adam

HYPER = (1e-3, 0.9, 0.999, 1e-8)
serial, parallel = numba.njit(adam, error_model="numpy"), numba.njit(adam, parallel=True, error_model="numpy")


def loop_of(rule):
    """Return a compiled loop of steps of this rule."""

    @numba.njit
    def loop(p, g, m, v, first, steps):
        for step in range(first, first + steps):
            rule(p, g, m, v, step, 1e-3, 0.9, 0.999, 1e-8)

    return loop


@numba.njit
def fastopt_loop(bound, steps):
    """Make bound steps."""
    for _ in range(steps):
        bound.step()


def race(n: int, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median seconds per step of each contender on n elements."""
    g = np.random.default_rng(0).standard_normal(n, np.float32)
    p = np.zeros((3, n), np.float32)
    state = np.zeros((4, n), np.float32)
    bound = fastopt.Adam([p[2]], lr=HYPER[0]).bind([g])
    count = dict.fromkeys(("serial", "parallel", "fastopt"), 0)
    loops = {"serial": loop_of(serial), "parallel": loop_of(parallel)}

    def run(name: str, steps: int) -> float:
        begin = time.perf_counter()
        if name == "fastopt":
            fastopt_loop(bound, steps)
        else:
            i = 0 if name == "serial" else 1
            loops[name](p[i], g, state[2 * i], state[2 * i + 1], count[name] + 1, steps)
        count[name] += steps
        return (time.perf_counter() - begin) / steps

    steps = {}
    for name in count:
        run(name, 1)
        steps[name] = max(1, int(seconds / run(name, 3)))
    for i in range(2):
        np.testing.assert_allclose(p[i], p[2], rtol=1e-4, atol=1e-6)
    times: dict[str, list[float]] = {name: [] for name in count}
    for turn in range(rounds + 1):
        for name in count:
            times[name] += [run(name, steps[name])] * (turn > 0)
    bound.check()
    return {name: statistics.median(of) for name, of in times.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.numba_loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one turn, about")
    parser.add_argument("--sizes", default="1024,1048576,33554432")
    arguments = parser.parse_args()
    print(f"{'elements':>10}  {'Numba, 1 thread':>16}  {'Numba, parallel':>16}  {'fastopt':>12}   (us per step)")
    for n in map(int, arguments.sizes.split(",")):
        found = race(n, arguments.rounds, arguments.seconds)
        micro = {name: 1e6 * seconds for name, seconds in found.items()}
        print(f"{n:>10}  {micro['serial']:>16.2f}  {micro['parallel']:>16.2f}  {micro['fastopt']:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
