"""The team of threads: its protocol in every order, its code under stress, and its ends: exit, fork, dlclose."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fastopt
from support.builds import CSRC, PLAIN, built, core
from support.processes import FORK, HANGS, Run, assert_helped, in_a_process, step_as_a_forked_child
from support.team_model import Model, WrongError

HERE = Path(__file__).parent
FLAGS = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffp-contract=off",
    "-pthread",
    f"-I{CSRC}",
    f"-I{CSRC / 'include'}",
]

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or not CSRC.is_dir() or os.name != "posix", reason="needs gcc and the source tree"
)

# ---- The protocol ----


@pytest.mark.parametrize("numbers", [4096, 2], ids=["", "numbers that wrap round"])
def test_no_order_of_operations_is_wrong(numbers):
    """Two threads and three steps: 100,000 states, none of them wrong."""
    assert Model(numbers=numbers).explore() > 10_000


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("looks_again", "sleeps through a job"),
        ("enters_by_comparing", "while somebody is inside"),
        ("closes", "while somebody is inside"),
        ("waits_for_all", "a step returns"),
        ("says_that_it_waits", "never comes to its end"),
    ],
)
def test_no_part_of_the_protocol_can_be_left_out(part, wrong):
    """The explorer finds what each part is there for."""
    with pytest.raises(WrongError, match=wrong):
        Model(steps=2, **{part: False}).explore()


# ---- The code ----


WAYS = {"futexes": [], "conditions": ["-DFASTOPT_NO_FUTEX"], "OpenMP": ["-fopenmp", "-DFASTOPT_OPENMP"]}


@pytest.fixture(scope="module", params=WAYS)
def stress_team(request, tmp_path_factory):
    """The program stress_team, whose threads sleep on futexes or conditions, or are made by OpenMP."""
    program = tmp_path_factory.mktemp("stress") / "stress_team"
    sources = [*sorted(CSRC.glob("threads/*.c")), HERE / "stress_team.c"]
    flags = [*FLAGS, *WAYS[request.param]]
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(program), "-lm"], check=True)
    return program


@needs_compiler
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("1 1000000 2", id="a million small jobs"),
        pytest.param("1 5000 64", id="1 to 64 threads"),
        pytest.param("4 20000 4 1", id="callers at once, signals"),
        pytest.param("3 10000 3 1 30", id="forks in the middle"),
    ],
)
def test_stress(stress_team, arguments):
    done = subprocess.run([str(stress_team), *arguments.split()], capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done
    assert int(done.stdout.split()[0]) > 0, "no job had help"


def test_show_config_says_whose_threads():
    openmp = fastopt._core.build_info()[2]
    assert ("OpenMP's" if openmp else "the system's") in fastopt.show_config(mode="dicts")["threads"]


# ---- Forks, beside a user of OpenMP ----

REGION = """
#include <omp.h>
int region(void)
{
    int threads = 0;
#pragma omp parallel num_threads(3)
#pragma omp atomic
    threads++;
    return threads;
}
"""


def fork_beside_another_user(library):
    import ctypes

    region = ctypes.CDLL(library).region
    assert region() == 3  # before fastopt has made any step, so that nothing of ours can have prepared the fork
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            step_as_a_forked_child([])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
    run = Run()
    run.step()
    assert region() == 3
    assert_helped()


@FORK
class Place(ctypes.Structure):
    """fastopt_place."""

    _fields_ = [("id", ctypes.c_uint32), ("moving", ctypes.c_uint32)]


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="threads are moved on Linux alone")
def test_two_threads_move_a_third(builds):
    """During a move it is allowed on fewer CPUs: another move must not take these for its own."""
    sources = [CSRC / "threads/placement.c"]
    library = ctypes.CDLL(str(built(builds, "gcc", *FLAGS, "-shared", "-fPIC", *sources, suffix=".so")))
    cpus = os.sched_getaffinity(0)
    if len(cpus) == 1:
        pytest.skip("needs two CPUs")
    stop = threading.Event()
    third = threading.Thread(target=stop.wait)
    third.start()
    place, end = Place(third.native_id, 0), time.monotonic() + 1
    moved = [0, 0]

    def move(i):
        while time.monotonic() < end:
            moved[i] += library.fastopt_move_away(ctypes.byref(place), min(cpus) if i else max(cpus))
            library.fastopt_move_here(ctypes.byref(place))

    movers = [threading.Thread(target=move, args=(i,)) for i in range(2)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    after = os.sched_getaffinity(third.native_id)
    stop.set()
    third.join()
    assert min(moved) > 0
    assert after == cpus


@needs_compiler
def test_fork_beside_another_user_of_openmp(tmp_path):
    source, library = tmp_path / "region.c", tmp_path / "region.so"
    source.write_text(REGION)
    subprocess.run(["gcc", "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)], check=True)
    in_a_process(fork_beside_another_user, str(library))


# ---- The end ----

STEP_FOR_EVER = """
import os, sys, threading, time
import numpy as np, fastopt
p, g = np.zeros(300_000), np.ones(300_000)
opt = fastopt.Adam(p, num_threads=3)
def step():
    while True:
        opt.step(g)
for _ in range(20):
    opt.step(g)
"""
IN_A_DAEMON = "threading.Thread(target=step, daemon=True).start(); time.sleep(0.05)\n"
ENDS = {
    "returns": "",
    "sys.exit": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "atexit": "import atexit; atexit.register(lambda: [opt.step(g) for _ in range(5)])",
    "forked": "pid = os.fork(); pid or [opt.step(g) for _ in range(5)]; pid and sys.exit(os.waitpid(pid, 0)[1])",
}


@pytest.mark.parametrize(("end", "daemon"), [*itertools.product(ENDS, [False, True])])
def test_the_process_ends(end, daemon):
    """While the team sleeps, and while it works for a thread that does not stop."""
    if end == "forked" and (daemon or not hasattr(os, "fork")):
        pytest.skip("a child of a process in the middle of a step is another matter")
    if end == "atexit" and daemon:
        pytest.skip("the daemon may hold the optimizer for ever")
    code = STEP_FOR_EVER + IN_A_DAEMON * daemon + ENDS[end]
    for _ in range(3):
        done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, timeout=HANGS)
        assert done.returncode == 0, done


CPU_TIME = """
import os, sys, time
import numpy as np, fastopt
if sys.argv[2] == "quota":
    open(f"{sys.argv[3]}/cgroup.procs", "w").write(str(os.getpid()))
else:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
p, g = np.zeros(200_000, np.float32), np.ones(200_000, np.float32)
opt = fastopt.Adam(p, num_threads=int(sys.argv[1]))
def steps(count):
    begin = time.process_time()
    for _ in range(count):
        opt.step(g)
        time.sleep(0.0005)
    return time.process_time() - begin
steps(50)
print(min(steps(100) for _ in range(5)))
"""


def half_a_cpu():
    """A new control group with a quota of half a CPU, or None where none can be made."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        parent, limits = root, {"cpu.max": "50000 100000"}
    else:
        parent, limits = root / "cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    group = parent / f"fastopt-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        for name, limit in limits.items():
            (group / name).write_text(limit)
    except OSError:
        group.rmdir()
        return None
    return group


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the set of CPUs of a thread")
@pytest.mark.parametrize("place", ["one CPU", "quota"])
def test_waiting_takes_little_cpu_time(place):
    """On one CPU, or half of one, two threads take hardly more of it than one: they do not spin it away."""
    group = half_a_cpu() if place == "quota" else None
    if place == "quota" and group is None:
        pytest.skip("no control group can be made here")
    try:
        taken = {}
        for threads in (1, 2):
            command = [sys.executable, "-c", CPU_TIME, str(threads), place, str(group)]
            taken[threads] = float(subprocess.check_output(command, text=True, timeout=HANGS))
    finally:
        if group:
            group.rmdir()
    assert taken[2] < 1.5 * taken[1] + 0.005, taken


PLUGIN = """
#include "fastopt.h"
int use(void)
{
    enum { N = 100000 };
    static float p[N], g[N];
    const double hyper[] = {1.0, 0.0, 0.0};
    const fastopt_rule *rule = fastopt_find_rule("sgd");
    fastopt_tensor t = {.rule = rule, .p = p, .g = g, .n = N, .hyper = hyper};
    for (int i = 0; i < N; i++)
        g[i] = 1;
    for (t.step = 1; t.step <= 20; t.step++)
        if (fastopt_step(&t, 1, 3) != FASTOPT_OK)
            return 0;
    return p[0] == p[N - 1] && p[0] != 0;
}
"""
HOST = """
#include <dlfcn.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int i = 0; argc > 1 && i < 5; i++) {
        void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        int (*use)(void) = plugin ? (int (*)(void))dlsym(plugin, "use") : 0;
        if (!use || !use())
            return 1;
        if (i % 2)
            usleep(1000); /* the team sleeps, or not yet */
        dlclose(plugin);
        usleep(1000);
    }
    return 0;
}
"""


@needs_compiler
def test_a_plugin_that_is_closed(tmp_path, builds):
    """Its threads go on sleeping in code that is still there."""
    plugin, host = tmp_path / "plugin.c", tmp_path / "host.c"
    plugin.write_text(PLUGIN)
    host.write_text(HOST)
    library, program = tmp_path / "plugin.so", tmp_path / "host"
    sources = [*map(str, core(builds, "gcc", PLAIN)), str(plugin)]
    subprocess.run(["gcc", *FLAGS, "-shared", "-fPIC", *sources, "-o", str(library), "-lm"], check=True)
    subprocess.run(["gcc", *FLAGS, str(host), "-o", str(program), "-ldl"], check=True)
    done = subprocess.run([str(program), str(library)], capture_output=True, timeout=HANGS)
    assert done.returncode == 0, done
