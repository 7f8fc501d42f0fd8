"""Functions of tests in processes of their own, which are killed when they take too long, and children that step."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from support.arrays import gradients
from support.asserts import assert_like
from support.cases import Oracle, named

LARGE = 150_000  # elements, enough for several threads
HANGS = 120  # seconds

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def outcomes_of(folder, worlds):
    """The outcomes that processes have left in a folder: for each number of processes a list, one mapping a process."""
    return {world: [json.loads((folder / f"{world}-{i}.json").read_text()) for i in range(world)] for world in worlds}


def assert_all_right(outcomes):
    """No process has had an error, and all have the same outcome."""
    for rank, outcome in enumerate(outcomes):
        assert "error" not in outcome, f"process {rank}: {outcome['error']}"
    assert all(outcome == outcomes[0] for outcome in outcomes)


def in_a_process(function, *args):
    """Run a function of a module of tests in a new interpreter, and return what it prints."""
    code = f"import {function.__module__} as t; t.{function.__name__}(*{args!r})"
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its children end with it
    )
    try:
        output, _ = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        output = f"hangs for {HANGS} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.communicate()
    assert process.returncode == 0, output
    return output


class Run:
    """An optimizer of large arrays on pinned threads, and its oracle."""

    def __init__(self, case=None, num_threads=2):
        case = case or named("adam")
        p = np.linspace(-1, 1, LARGE, dtype=np.float32)
        self.p, self.oracle = p.copy(), Oracle(case, p)
        self.opt = case.make(self.p, num_threads=num_threads)
        self.gradients = gradients(0, p.shape, p.dtype)

    def step(self):
        g = next(self.gradients)
        self.opt.step(g)
        self.oracle.step(g)
        assert_like(self.opt, 0, self.p, self.oracle)


def os_threads():
    """Threads of this process as the operating system counts them, where it does."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else None


def seconds_of_the_team():
    """CPU time of threads other than this one, where the operating system has it."""
    stats = [task for task in Path("/proc/self/task").glob("*/stat") if task.parent.name != str(os.getpid())]
    ticks = [sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) for stat in stats]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def step_as_a_forked_child(runs):
    """Steps of the parent's optimizers and of new ones are right, and threads of the child's own help."""
    try:
        before = os_threads()
        for run in [*runs, Run(), Run(num_threads=None)]:
            run.step()
            run.step()
        if before:
            assert os_threads() > before == 1
            assert_helped()
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None


def assert_helped():
    """Other threads come to take part in the steps of this one."""
    run, end = Run(), time.monotonic() + HANGS / 4
    g = next(run.gradients)
    while seconds_of_the_team() < 0.03:
        assert time.monotonic() < end, "no other thread has done anything"
        for _ in range(100):
            run.opt.step(g)
