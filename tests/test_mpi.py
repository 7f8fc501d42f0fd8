"""fastopt.mpi on several processes of MPI.

The processes of one number run all checks in turn.  A check returns nothing, or what must be the same on all of them.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

import fastopt
from support.processes import assert_all_right, outcomes_of
from support.registry import CLASSES

pytest.importorskip("mpi4py", reason="fastopt.mpi is for mpi4py")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
PAGE = Path(__file__).parents[1] / "docs" / "mpi.md"
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
if MPIEXEC is None:
    pytest.skip("mpiexec is not installed", allow_module_level=True)

WORLDS = (4, 3, 2, 1)  # in this order: states are saved on four processes and loaded on fewer
STEPS = 3
SHAPES = {"w": (5, 60), "b": (65,), "s": (), "none": (0, 3), "few": (3,)}
SCOPES = {name: getattr(fastopt, name)(np.ones((4, 3)))._layout.all_settings()[0].scope for name in CLASSES}
BY_ELEMENT = [name for name, scope in SCOPES.items() if scope == "element"]
BY_SUMS = [name for name, scope in SCOPES.items() if scope == "sums"]
OTHERS = [name for name in SCOPES if name not in BY_ELEMENT + BY_SUMS]
FORMATS = {
    "float32": (np.float32, {}),
    "float64": (np.float64, {"ema_decay": 0.9}),
    "8 bits": (np.float32, {"state_dtype": "8bit"}),
    "bfloat16": (ml_dtypes.bfloat16, {"state_dtype": "bfloat16"}),
}
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def params_of(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def gradients_of(step, rank, dtype=np.float32):
    """Gradients of a process, of so few digits that their sums are exact."""
    rng = np.random.default_rng((step, rank))
    return {name: np.asarray(rng.integers(-16, 17, shape) / 16).astype(dtype) for name, shape in SHAPES.items()}


def summed(step, world, dtype=np.float32):
    all_of_them = [gradients_of(step, rank, np.float64) for rank in range(world)]
    return {name: np.asarray(sum(g[name] for g in all_of_them)).astype(dtype) for name in SHAPES}


def assert_same(ours, theirs, label=""):
    for name, p in ours.items():
        assert p.tobytes() == theirs[name].tobytes(), f"{label} {name}"


def bits(arrays):
    return {name: array.tobytes().hex() for name, array in arrays.items()}


def pair(comm, cls, dtype=np.float32, **options):
    """Return an optimizer of all processes and one of this process, with their parameters."""
    ours, theirs = params_of(dtype), params_of(dtype)
    opt = fastopt.mpi.Sharded(getattr(fastopt, cls), ours, comm, gradients="sum", **options)
    return ours, opt, theirs, getattr(fastopt, cls)(theirs, **options)


@check
def every_rule(comm, folder):
    """The bits of one process for rules by element, in several formats; agreement to rounding for rules that sum."""
    wide = {np.float32: np.float32, np.float64: np.float64}
    for label, (dtype, options) in FORMATS.items():
        for cls in (*BY_ELEMENT, *BY_SUMS) if label == "float32" else ("AdamW", *BY_SUMS[:1]):
            ours, opt, theirs, peer = pair(comm, cls, dtype, weight_decay=1e-2, **options)
            of_step = wide.get(dtype, np.float32)
            for i in range(STEPS):
                opt.step(gradients_of(i, comm.rank, of_step))
                peer.step(summed(i, comm.size, of_step))
            if cls in BY_ELEMENT:
                assert_same(ours, theirs, f"{cls}, {label}")
            elif dtype in wide:
                for name, p in ours.items():
                    np.testing.assert_allclose(p, theirs[name], rtol=1e-6, atol=1e-6, err_msg=f"{cls}, {label}")


@check
def options(comm, folder):
    """Clipped norms, schedules, groups, and means of gradients, some of which a process does not have."""
    ours, theirs = params_of(), params_of()
    patterns = {"b": {"weight_decay": 0.0, "lr": 1e-3}}
    more = {"lr": fastopt.schedules.linear(1e-2, 1e-3, 5), "clip_norm": 0.5, "nonfinite": "skip"}
    opt = fastopt.mpi.Sharded(fastopt.AdamW, fastopt.groups(ours, patterns), comm, **more)
    peer = fastopt.AdamW(fastopt.groups(theirs, patterns), **more)
    for i in range(STEPS):
        grads = gradients_of(i, comm.rank)
        if comm.rank and i == 1:
            grads["w"] = None
        opt.step({**grads, "few": None})
        total = summed(i, comm.size)
        total["w"] = gradients_of(i, 0)["w"] if i == 1 else total["w"]
        peer.step({**{name: g / comm.size for name, g in total.items()}, "few": None})
        np.testing.assert_allclose(opt.grad_norm, peer.grad_norm, rtol=1e-6)
    for name, p in ours.items():
        np.testing.assert_allclose(p, theirs[name], rtol=1e-6, atol=1e-6)
    assert (opt.step_count, opt.lr) == (peer.step_count, peer.lr)
    return bits(ours)


@check
def nonfinite(comm, folder):
    """All processes skip where one has a gradient that is not finite, and a loss scale moves alike."""
    for clip in ({}, {"clip_norm": 1.0}):
        params, scale = params_of(), fastopt.LossScale(2.0)
        opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm, grad_scale=scale, nonfinite="skip", **clip)
        grads = gradients_of(0, comm.rank)
        if comm.rank == comm.size - 1:
            grads["w"][0, 0] = np.nan
        opt.step(grads)
        assert (opt.skipped_steps, opt.step_count, scale.value) == (1, 0, 1.0)
        assert_same(params, params_of())
        raising = fastopt.mpi.Sharded(fastopt.AdamW, params, comm, nonfinite="raise", **clip)
        with pytest.raises(FloatingPointError, match=r"got NaN or infinity in that of 'w'$"):
            raising.step(grads)
        assert_same(params, params_of())


@check
def averages(comm, folder):
    ours, opt, theirs, peer = pair(comm, "AdamW", ema_decay=0.9)
    for i in range(STEPS):
        opt.step(gradients_of(i, comm.rank))
        peer.step(summed(i, comm.size))
    with opt.swapped("ema"), peer.swapped("ema"):
        assert_same(ours, theirs)
    assert_same(ours, theirs)
    one = sum(comm.allgather(opt.nbytes))
    assert one <= peer.nbytes + 64
    if comm.size > 1:
        assert opt.nbytes < peer.nbytes


@check
def states(comm, folder):
    """A state that four processes have saved is loaded on fewer, and by one optimizer; all go on to the same bits."""
    for label, (dtype, more) in FORMATS.items():
        ours, opt, theirs, peer = pair(comm, "AdamW", dtype, **more)
        of_step = np.float64 if dtype is np.float64 else np.float32
        if comm.size == 4:
            for i in range(STEPS):
                opt.step(summed(i, 4, of_step) if comm.rank == 0 else dict.fromkeys(SHAPES))
            state = opt.state_dict()
            assert (state is None) == (comm.rank > 0)
            if comm.rank == 0:
                Path(folder, f"{label}.pickle").write_bytes(pickle.dumps((state, ours)))
        comm.Barrier()
        state, params = pickle.loads(Path(folder, f"{label}.pickle").read_bytes())
        for name, p in params.items():
            ours[name][...] = theirs[name][...] = p
        peer.load_state_dict(state)
        opt.load_state_dict(state if comm.rank == 0 else None)
        for i in range(STEPS, 2 * STEPS):
            opt.step(gradients_of(i, comm.rank, of_step))
            peer.step(summed(i, comm.size, of_step))
        assert_same(ours, theirs, label)
        with pytest.raises(ValueError, match="rule must be 'AdamW', got 'Lion'"):
            opt.load_state_dict({**state, "rule": "Lion"})
        with pytest.raises(TypeError, match="the state must be a mapping"):
            opt.load_state_dict(None)


@check
def refusals(comm, folder):
    def refused(error, match, params=None, rule=fastopt.AdamW, **more):
        with pytest.raises(error, match=match):
            fastopt.mpi.Sharded(rule, np.ones((4, 6)) if params is None else params, more.pop("comm", comm), **more)

    for cls in OTHERS:
        refused(
            ValueError,
            r"Sharded: parameter 0 must be of a rule that works element by element",
            rule=getattr(fastopt, cls),
        )
    refused(TypeError, "rule must be a class of fastopt", rule=fastopt.Optimizer)
    refused(TypeError, "comm must be a communicator", comm=None)
    refused(ValueError, "gradients must be mean or sum, got 'product'", gradients="product")
    refused(ValueError, "zero_grads must be False, got True", zero_grads=True)
    refused(ValueError, r"'w' must be C-contiguous, got strides", {"w": np.ones((4, 6)).T})
    params = params_of()
    opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm)
    for bad, error, match in (
        (
            {"w": np.ones(3)},
            ValueError,
            r"gradient of parameter 0 must have its parameter's shape \(5, 60\), got \(3,\)",
        ),
        ({"w": np.ones((5, 60), int)}, TypeError, "must be of floats, got int64"),
        ({"w": fastopt.RowGrad([0], np.ones((1, 60)))}, TypeError, "must be an array or None, got a RowGrad"),
    ):
        is_bad = comm.rank == comm.size - 1
        with pytest.raises(error if is_bad else ValueError, match=match if is_bad else "another one has refused"):
            opt.step({**gradients_of(0, comm.rank), **(bad if is_bad else {})})
        assert_same(params, params_of())
    params["w"] = params["w"].copy()
    with pytest.raises(ValueError, match="must stay the arrays that the optimizer updates"):
        opt.step(gradients_of(0, comm.rank))


def run_checks(folder):
    """Make all checks as one of several processes, and leave the outcomes in a file."""
    from mpi4py import MPI

    import fastopt.mpi  # noqa: F401

    comm, outcomes = MPI.COMM_WORLD, {}
    for name, function in CHECKS.items():
        try:
            outcomes[name] = {"value": function(comm, folder)}
        except BaseException:  # pytest.raises has one
            outcomes[name] = {"error": traceback.format_exc()}
        comm.Barrier()
    Path(folder, f"{comm.size}-{comm.rank}.json").write_text(json.dumps(outcomes))


def lose_one():
    """Step without end, until the last process is lost."""
    from mpi4py import MPI

    comm, params = MPI.COMM_WORLD, params_of()
    opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm)
    for i in range(1 << 30):
        if i == STEPS and comm.rank == comm.size - 1:
            os._exit(3)
        opt.step(gradients_of(i, comm.rank))


def start(program, world):
    """Run a program on several processes."""
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), *sys.path])}
    command = [MPIEXEC, "-n", str(world), sys.executable, "-X", "faulthandler", "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcomes of each process, for each number of processes."""
    folder = tmp_path_factory.mktemp("processes")
    for world in WORLDS:
        done = start(f"import test_mpi; test_mpi.run_checks({str(folder)!r})", world)
        assert done.returncode == 0, done.stderr
    return outcomes_of(folder, WORLDS)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CHECKS)
def test_on_several_processes(outcomes, name, world):
    assert_all_right([of_rank[name] for of_rank in outcomes[world]])


def test_a_process_that_is_lost():
    """The others end too."""
    assert start("import test_mpi; test_mpi.lose_one()", 2).returncode != 0


@pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")
def test_the_page():
    """Its block trains on two processes; both end with the same parameters."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    checks = "assert len(set(comm.allgather(params['w'].tobytes()))) == 1\nassert abs(params['w'] - w).max() < 0.1"
    done = start(f"{block}\n{checks}\n", 2)
    assert done.returncode == 0, done.stderr
