"""Steps of AdamW on several processes of MPI: ``mpiexec -n 2 python -m bench.mpi [--arrays N] [--elements N]``.

The contenders are `Sharded`, in turn and at once, and an Allreduce before a whole step on each process. They alternate;
times are in milliseconds, totals the longest of the processes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

import fastopt
import fastopt.mpi
from fastopt.mpi import messages


class Contenders:
    """Optimizers of the same parameters, each with a step whose phases are timed."""

    def __init__(self, comm: MPI.Comm, arrays: int, elements: int, threads: int) -> None:
        self.comm = comm
        rng = np.random.default_rng(comm.rank)
        self.grads = [rng.standard_normal(elements, np.float32) for _ in range(arrays)]
        self.summed = [np.empty_like(g) for g in self.grads]
        params = [np.ones(elements, np.float32) for _ in range(arrays)]
        self.sharded = fastopt.mpi.Sharded(fastopt.AdamW, params, comm, num_threads=threads)
        self.whole = fastopt.AdamW([p.copy() for p in params], num_threads=threads)

    def in_turn(self) -> list[float]:
        """Return the time of a step whose messages overlap with updates."""
        begin = time.perf_counter()
        self.sharded.step(self.grads)
        return [time.perf_counter() - begin]

    def at_once(self) -> list[float]:
        """Return the times of the reduce-scatter, the updates and the gathering, one after another."""
        sharded, times = self.sharded, [time.perf_counter()]
        found = sharded._messages_for(True, [np.float32] * len(self.grads))
        in_flight = messages.InFlight()
        for message in found:
            in_flight.add(partial(message.add_up, self.grads))
        in_flight.end()
        times.append(time.perf_counter())
        sharded.optimizer._table.step_flat(sharded._flat(found, {}), {}, divisor=self.comm.size)
        times.append(time.perf_counter())
        messages.gather(found)
        times.append(time.perf_counter())
        return np.diff(times).tolist()

    def allreduce(self) -> list[float]:
        """Return the times of adding up all gradients, and of a whole step."""
        times = [time.perf_counter()]
        for g, summed in zip(self.grads, self.summed, strict=True):
            self.comm.Allreduce(g, summed)
        times.append(time.perf_counter())
        self.whole.step(self.summed, grad_scale=self.comm.size)
        times.append(time.perf_counter())
        return np.diff(times).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", type=int, default=16)
    parser.add_argument("--elements", type=int, default=1_000_000, help="of each array")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    contenders = Contenders(comm, options.arrays, options.elements, options.threads)
    steps: dict[str, Callable[[], list[float]]] = {
        "Sharded, in turn": contenders.in_turn,
        "Sharded, at once": contenders.at_once,
        "Allreduce and a whole step": contenders.allreduce,
    }
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    end, rounds = time.perf_counter() + options.seconds, 0
    while comm.bcast(time.perf_counter() < end or rounds < 3):
        rounds += 1
        for name, step in steps.items():
            comm.Barrier()
            phases = np.array(step())
            longest = comm.allreduce(float(phases.sum()), MPI.MAX)
            if rounds > 2:  # the first ones touch memory
                times[name].append([longest, *phases])
    if comm.rank == 0:
        print(MPI.Get_library_version().splitlines()[0])
        for name, found in times.items():
            total, *phases = (1000 * np.median(found, axis=0)).tolist()
            least = 1000 * min(one[0] for one in found)
            print(f"{name:28} median {total:6.1f}  least {least:6.1f}  phases", [round(phase, 1) for phase in phases])


if __name__ == "__main__":
    main()
