"""A contender in a process of its own, driven over a pipe: one request, one answer."""

from __future__ import annotations

import ctypes
import gc
import math
import operator
import os
import re
import signal
import sys
import timeit
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from .contenders import CONTENDERS, Contender, Entry, UnavailableError
from .results import ALONE, COLD, ITERATION, PAUSED, STEP
from .training import Network, network
from .workloads import Array, Workload

# The gradients of the steps that are checked, as multiples of those that are timed. They change in sign and size,
# because some rules forget the size of a constant gradient, and with it a mistake. Powers of two keep them exact.
CHECK_FACTORS = (-0.5, 4.0, 1.0, 2.0, -1.0, 0.5, 1.0, 4.0)

BATCHES = 20  # of a turn, where steps are short enough
LOOP_WARM_UP, REFILL_WARM_UP = 3, 1  # iterations
BLAS_AWAKE = 0.15  # seconds for which OpenBLAS's threads spin after the last product
PYTHON_SMALL, PYTHON_ROOM = 448, 2**22  # bytes; Python's own allocator serves objects of up to 512
CACHES = 2**27  # bytes, more than the last cache of most machines


class Worker:
    """Answers a race's requests for one contender."""

    def __init__(self, name: str, threads: int) -> None:
        self.card = CONTENDERS[name]
        self.threads = threads
        self.contender: Contender | None = None
        self.network: Network | None = None
        self.fresh: list[Array] = []  # gradients for steps that set theirs to zero

    def build(self, workload: Workload, changes: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Make the contender's arrays and optimizer, and say what the race must know of it."""
        self.free()
        self.workload = workload
        params: Any = workload.parameters()
        grads: Any = workload.gradients()
        if workload.loop:
            params, grads = list(params), list(grads)
            self.network = network(workload, params, grads, self.threads)
            self.pause = min(timeit.repeat(self.network.backpropagate, number=1, repeat=5))
            self.other = np.zeros(CACHES, np.int8)
        entry = Entry(workload, params, grads, workload.hyperparameters(**changes), self.threads)
        self.fresh = list(workload.gradients()) if workload.zero else []
        self.contender = self.card.make(entry)
        return {"note": self.contender.note, "compared_with": dict(self.contender.compared_with)}

    def free(self) -> None:
        self.contender = self.network = None
        self.fresh = []
        gc.collect()

    def save(self, path: str) -> None:
        """Make the checked steps and write the answer to a file."""
        with open(path, "wb") as file:
            for p in self._after_checked_steps():
                file.write(p.tobytes())

    def difference(self, path: str) -> float:
        """Make the checked steps and return the largest difference from a file's, in the way a parameter went.

        Where state and parameters are rounded, some elements differ by all of it: then it is the root of mean squares.
        """
        theirs = np.memmap(path, np.float32, mode="r")
        rounded = self.workload.storage is not None
        size, add = (_sum_of_squares, operator.add) if rounded else (_largest, max)
        moved = difference = 0.0
        start = 0
        for p, before in zip_longest(self._after_checked_steps(), self.workload.parameters()):
            part = theirs[start : start + p.size].reshape(p.shape)
            start += p.size
            if before is not None:
                moved = add(moved, size(part - before))
            # max() would pass over a NaN, and a NaN is as wrong as can be.
            worst = size(p - part)
            difference = math.inf if math.isnan(worst) else add(difference, worst)
        return math.sqrt(difference / moved) if rounded else difference / moved

    def _after_checked_steps(self) -> Iterator[Array]:
        assert self.contender is not None
        for factor in CHECK_FACTORS:
            self.contender.load_gradients(self.workload.gradients(factor))
            self.contender.run(1)
        return self.contender.answer()

    def estimate(self) -> float:
        """Return about how many seconds a step takes, once warm."""
        assert self.contender is not None
        steps = 1
        while (seconds := self.contender.measure(1, steps)[0]) * steps < 0.01:
            steps *= 4
        return seconds

    def turn(self, seconds: float, step_seconds: float) -> dict[str, list[float]]:
        """Measure for about that long: seconds per step, alone and, if the workload has a loop, inside it."""
        assert self.contender is not None
        gc.disable()
        try:
            if self.fresh:
                # Caches are as after a backward pass that has written the gradients.
                contender, fresh = self.contender, self.fresh
                return {STEP: self._after(lambda: contender.load_gradients(fresh), seconds, REFILL_WARM_UP)[0]}
            if self.network is None:
                return {STEP: self._alone(seconds, step_seconds)}
            inside, iterations = self._after(self.network.backpropagate, 4 * seconds)
            cold, _ = self._after(lambda: np.add(self.other, 1, out=self.other), 2 * seconds)
            sleep(BLAS_AWAKE)
            alone = self._alone(seconds, step_seconds)
            paused, _ = self._after(lambda: _pause(self.pause), 2 * seconds)
            return {STEP: inside, ITERATION: iterations, COLD: cold, ALONE: alone, PAUSED: paused}
        finally:
            gc.enable()

    def _alone(self, seconds: float, step_seconds: float) -> list[float]:
        assert self.contender is not None
        steps = max(1, int(seconds / BATCHES / step_seconds))
        batches = min(BATCHES, max(1, round(seconds / (steps * step_seconds))))
        if batches > 1:
            self.contender.run(steps)  # wakes threads and fills caches again after the others' turns
        return self.contender.measure(batches, steps)

    def _after(
        self, work: Callable[[], Any], seconds: float, warm_up: int = LOOP_WARM_UP
    ) -> tuple[list[float], list[float]]:
        """Alternate between other work and a step, and time the steps, and both together."""
        assert self.contender is not None
        step = self.contender.single()
        steps: list[float] = []
        iterations: list[float] = []
        begin = perf_counter()
        end = begin + seconds
        while len(steps) < 2 * warm_up or begin < end:
            work()
            start = perf_counter()
            step()
            done = perf_counter()
            steps.append(done - start)
            iterations.append(done - begin)
            begin = perf_counter()
        return steps[warm_up:], iterations[warm_up:]

    def memory(self, workload: Workload) -> int:
        """Return the bytes that steps need at their peak beyond parameters, gradients and state."""
        # A small run first, so that code, threads and the allocator's first pages do not count; and room among Python's
        # objects, whose allocator takes memory by the MiB.
        self._warm(replace(workload, shapes=((4,), (100, 100))))
        objects = [bytes(PYTHON_SMALL) for _ in range(PYTHON_ROOM // PYTHON_SMALL)]
        kept = objects[::64]  # some in each of its arenas, which are else given back
        del objects
        before = _resident()
        peak = self._warm(workload)
        del kept
        return peak - before - workload.footprint

    def _warm(self, workload: Workload) -> int:
        """Make the first steps and return the process's peak memory during later ones."""
        self.build(workload)
        assert self.contender is not None
        self.contender.run(1)  # some make their state, or compile, in the first step
        gc.collect()
        _forget_peak()
        self.contender.run(3)
        return _peak()


def _largest(x: Array) -> float:
    return float(np.max(np.abs(x), initial=0))


def _sum_of_squares(x: Array) -> float:
    return float(np.sum(np.square(x), dtype=np.float64))


def _pause(seconds: float) -> None:
    """Keep a thread awake that touches no memory."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def _resident() -> int:
    return _kilobytes("/proc/self/smaps_rollup", "Rss")


def _peak() -> int:
    return _kilobytes("/proc/self/status", "VmHWM")


def _kilobytes(path: str, field: str) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    if found is None:
        raise UnavailableError(f"{path} has no {field}")
    return int(found[1]) * 1024


def _forget_peak() -> None:
    """Give free memory back to the system and let the peak start from what is left."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError) as error:
        raise UnavailableError(f"peak memory is read on Linux with glibc only ({error})") from error


def serve(connection: Connection, name: str, threads: int) -> None:
    """Answer requests until the race hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the race hangs up when it is interrupted
    # Libraries print at import or on first use; the terminal belongs to the report.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    worker = Worker(name, threads)
    with suppress(EOFError, OSError):
        while True:
            request, arguments = connection.recv()
            connection.send(_answer(worker, request, arguments))


def _answer(worker: Worker, request: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", getattr(worker, request)(*arguments)
    except UnavailableError as error:
        return "unavailable", str(error)
    except Exception:
        return "failed", traceback.format_exc()
