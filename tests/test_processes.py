"""fork, spawn, threads, subinterpreters and interrupts: every step is right, and whole.

What could hang or crash runs in a process of its own, which is killed when it takes too long.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastopt
from support.arrays import gradients
from support.asserts import assert_like, ids
from support.cases import RULES, Oracle, named
from support.processes import (
    FORK,
    HANGS,
    LARGE,
    Run,
    in_a_process,
    os_threads,
    step_as_a_forked_child,
)

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the set of CPUs of a thread")


def step_as_a_spawned_child():
    Run().step()


# ---- Processes ----


def fork_after_threads(num_threads):
    runs = [Run(num_threads=num_threads), Run()]
    for run in runs:
        run.step()
    assert os_threads() in (None, *range(2, 1000))
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                step_as_a_forked_child(runs)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the child failed"
        for run in runs:
            run.step()


@FORK
@pytest.mark.parametrize("num_threads", [2, 3, None])
def test_fork_after_a_threaded_step(num_threads):
    in_a_process(fork_after_threads, num_threads)


def fork_of_a_fork():
    run = Run()
    run.step()
    for generation in range(3):
        pid = os.fork()
        if pid != 0:
            _, status = os.waitpid(pid, 0)
            os._exit(os.waitstatus_to_exitcode(status) if generation else status != 0)
        step_as_a_forked_child([run])
    os._exit(0)


@FORK
def test_fork_of_a_fork():
    in_a_process(fork_of_a_fork)


def fork_before_threads():
    """A child of a process that has used no threads can use them."""
    run = Run(num_threads=1)
    run.step()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            step_as_a_forked_child([run])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
    Run().step()


@FORK
def test_fork_before_any_threaded_step():
    in_a_process(fork_before_threads)


def multiprocess(method):
    run = Run()
    run.step()
    context = multiprocessing.get_context(method)
    if method == "fork":
        children = [context.Process(target=step_as_a_forked_child, args=([run],)) for _ in range(2)]
    else:
        children = [context.Process(target=step_as_a_spawned_child) for _ in range(2)]
    for child in children:
        child.start()
    run.step()
    for child in children:
        child.join()
        assert child.exitcode == 0, "a child failed"
    run.step()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    in_a_process(multiprocess, method)


def fork_while_others_step():
    """Children forked at any moment of steps on other threads.

    They run no oracle, since they would share its objects: free-threaded CPython may leave the lock of such an object
    taken in the child, see docs/guarantees.md.
    """
    runs = [Run() for _ in range(2)]
    grads = [next(run.gradients) for run in runs]
    stop = threading.Event()

    def step_for_ever(run, g):
        while not stop.is_set():
            run.opt.step(g)
            time.sleep(1e-4)  # so that the children get CPU time

    threads = [threading.Thread(target=step_for_ever, args=pair) for pair in zip(runs, grads, strict=True)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    try:
        for _ in range(6):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    step_as_a_forked_child([])
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0, "the child failed"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for run, g in zip(runs, grads, strict=True):
        alone = Run(num_threads=1)
        while alone.opt.step_count < run.opt.step_count:
            alone.opt.step(g)
        assert alone.p.tobytes() == run.p.tobytes()


@FORK
def test_fork_while_other_threads_step():
    in_a_process(fork_while_others_step)


# ---- Threads ----


def threads_stay_where_they_may_run(cpus):
    def tasks():
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}

    os.sched_setaffinity(0, cpus)
    before = tasks()  # BLAS's
    run = Run(num_threads=3)
    for _ in range(20):
        run.step()
        time.sleep(0.001)
    workers = tasks() - before
    assert len(workers) >= 2
    end = time.monotonic() + 10
    while any(os.sched_getaffinity(task) != cpus for task in (0, *workers)):  # one is being moved
        assert time.monotonic() < end, "a thread has lost the right to a CPU"


@LINUX
@pytest.mark.parametrize("count", [1, None])
def test_threads_stay_where_they_may_run(count):
    """A worker may leave the caller's CPU, but neither gains nor loses the right to one; one CPU will do."""
    in_a_process(threads_stay_where_they_may_run, set(sorted(os.sched_getaffinity(0))[:count]))


def all_at_once(functions):
    """Call each function on a thread of its own, all from the same moment on."""
    barrier, errors = threading.Barrier(len(functions)), []

    def call(function):
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("num_threads", [1, 2, None])
@pytest.mark.parametrize("size", [100, 40_000])
def test_eight_threads_step_eight_optimizers(size, num_threads):
    """Each on its own: rules that differ, so that nothing of one can pass for another's."""
    cases = [RULES[i % len(RULES)] for i in range(8)]
    params = [np.linspace(-i, 1, size, dtype=np.float32) for i in range(8)]
    oracles = [Oracle(case, p) for case, p in zip(cases, params, strict=True)]
    opts = [case.make(p, num_threads=num_threads) for case, p in zip(cases, params, strict=True)]
    steps = [[next(source) for _ in range(10)] for source in (gradients(i, size, np.float32) for i in range(8))]

    def step(opt, grads):
        for g in grads:
            opt.step(g)

    all_at_once([lambda opt=opt, grads=grads: step(opt, grads) for opt, grads in zip(opts, steps, strict=True)])
    for opt, p, oracle, grads in zip(opts, params, oracles, steps, strict=True):
        for g in grads:
            oracle.step(g)
        assert_like(opt, 0, p, oracle)


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_eight_threads_step_one_optimizer(case):
    """They take turns: the result is that of so many steps in a row."""
    start = np.linspace(-1, 1, 40_000, dtype=np.float32)
    g = next(gradients(1, start.shape, start.dtype))
    oracle = Oracle(case, start)
    for _ in range(40):
        oracle.step(g)
    for num_threads in (1, 2, None):
        p = start.copy()
        opt = case.make(p, num_threads=num_threads)

        def five_steps(opt=opt):
            for _ in range(5):
                opt.step(g)

        all_at_once([five_steps] * 8)
        assert opt.step_count == 40
        assert_like(opt, 0, p, oracle)


def test_threads_meet_good_and_bad_gradients():
    """A refused or skipped step of one thread leaves nothing behind in those of the others."""
    p = np.linspace(-1, 1, 40_000, dtype=np.float32)
    good = next(gradients(1, p.shape, p.dtype))
    bad = good.copy()
    bad[-1] = np.nan
    oracle, opt = Oracle(named("adam"), p), fastopt.Adam(p, nonfinite="skip", num_threads=2)

    def steps():
        for _ in range(10):
            opt.step(good)

    def skips():
        for _ in range(10):
            opt.step(bad)

    def refusals():
        for wrong in [good[:-1], good.astype(int), "g", None] * 3:
            with pytest.raises((TypeError, ValueError)):
                opt.step(wrong)

    all_at_once([steps, skips, refusals] * 2)
    assert opt.step_count == 20
    assert opt.skipped_steps == 20
    for _ in range(20):
        oracle.step(good)
    assert_like(opt, 0, p, oracle)


def test_an_error_is_about_the_gradients_of_its_own_call():
    """Even if another thread makes a step between the check and the message."""
    names = ("a", "b")
    opt = fastopt.Adam({name: np.ones(3) for name in names}, nonfinite="raise")
    grads = {bad: {name: np.full(3, np.nan if name == bad else 1.0) for name in names} for bad in names}

    def step(bad):
        with pytest.raises(FloatingPointError, match=f"in the gradient of '{bad}'$"):
            opt.step(grads[bad])

    def interfere(frame, event, arg):
        if event == "line":
            all_at_once([lambda: step("b")])
        return interfere

    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: interfere if frame.f_code is fastopt.Optimizer.step.__code__ else None)
    try:
        step("a")
    finally:
        sys.settrace(before)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter always has a GIL, see docs/guarantees.md"
)
def test_free_threading_stays_free():
    """Importing fastopt does not bring the GIL back."""
    code = "import sys, fastopt; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.check_output(command, text=True) == "False\n"


# ---- Subinterpreters ----

STEP = """
import warnings
warnings.simplefilter("ignore")  # NumPy says that it does not support subinterpreters
try:
    import numpy as np, fastopt
    p = np.zeros(50_000)
    fastopt.SGD(p, lr=1.0, num_threads=2).step(np.ones(50_000))
    print("right" if (p == -1).all() else f"wrong: {p}", flush=True)
except (ImportError, RuntimeError) as error:  # NumPy's own words, from version to version
    print("refused:", str(error).splitlines()[0], flush=True)
"""
SUBINTERPRETERS = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
for where in sys.argv[2:]:
    if where == "main":
        exec(sys.argv[1])
    else:
        interpreter = interpreters.create()
        problem = interpreters.run_string(interpreter, sys.argv[1])
        assert problem is None, problem
        interpreters.destroy(interpreter)
"""


@pytest.mark.parametrize("order", ["main sub sub main", "sub main sub"])
def test_subinterpreters_are_refused_or_right(order):
    """As NumPy has it: one interpreter of a process can use it, and another gets an error."""
    if not find_spec("_interpreters") and not find_spec("_xxsubinterpreters"):
        pytest.skip("this interpreter has no module to make subinterpreters with")
    command = [sys.executable, "-X", "faulthandler", "-c", SUBINTERPRETERS, STEP, *order.split()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert result.returncode == 0, result
    verdicts = result.stdout.splitlines()
    assert len(verdicts) == len(order.split())
    assert verdicts[0] == "right" or order.startswith("sub")
    assert "right" in verdicts
    assert all(verdict == "right" or verdict.startswith("refused: ") for verdict in verdicts), verdicts


# ---- Interrupts ----


def interrupted(size, num_threads, trials):
    """KeyboardInterrupt at random moments of a loop: what is there is the result of a whole number of steps."""
    names = ("w", "b")
    params, copies = ({name: np.linspace(-1, 1, size, dtype=np.float32) for name in names} for _ in range(2))
    g = {name: next(gradients(i, size, np.float32)) for i, name in enumerate(names)}
    opt = fastopt.NAdam(params, num_threads=num_threads)
    uninterrupted = fastopt.NAdam(copies, num_threads=1)
    chance = random.Random(0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # what SIGINT does, at a moment set beforehand
    landed = 0
    for _ in range(trials):
        before = opt.step_count
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-4, 3e-3))
            while True:
                opt.step(g)
        except KeyboardInterrupt:
            landed += opt.step_count > before
        while uninterrupted.step_count < opt.step_count:
            uninterrupted.step(g)
        state, expected = opt.state_dict(), uninterrupted.state_dict()
        for name in names:
            assert params[name].tobytes() == copies[name].tobytes()
            assert state["state"][name].pop("step") == opt.step_count
            for key, value in state["state"][name].items():
                assert np.asarray(value).tobytes() == np.asarray(expected["state"][name][key]).tobytes()
    assert landed > trials / 4, "too few interrupts came in the middle of the loop"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer to interrupt with")
@pytest.mark.parametrize(("size", "num_threads"), [(100, None), (LARGE, 1), (LARGE, 2)])
def test_an_interrupt_leaves_a_whole_step_or_none(size, num_threads):
    in_a_process(interrupted, size, num_threads, 100)


def test_a_source_tree_that_is_not_built(tmp_path):
    """The import says how to build it, and an extension that is there but does not load says what it says."""
    (tmp_path / "fastopt" / "_core").mkdir(parents=True)  # the folder of the extension's sources
    for file in Path(fastopt.__file__).parent.glob("*.py"):
        shutil.copy(file, tmp_path / "fastopt")

    # Without what an editable installation puts there, which would find the built extension of this tree.
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in repr(f)]; import fastopt"

    def message():
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    line = message()
    assert line.startswith(f"ImportError: fastopt in {tmp_path} is a source tree that is not built for CPython 3.")
    assert "pip install --editable" in line
    (tmp_path / "fastopt" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"damaged")
    assert "is not built" not in message()
