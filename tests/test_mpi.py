"""fastopt.mpi on several processes of MPI.

The processes of one number run all checks in turn.  A check returns nothing, or what must be the same on all of them.
"""

import copy
import hashlib
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
SHAPES = {  # what is cut between rows, and between elements; what is not cut
    "w": (70, 300),
    "wide": (2, 8200),
    "b": (16385,),
    "m": (5, 60),
    "few": (3,),
    "s": (),
    "none": (0, 3),
}
MATRICES = {"w": (70, 300), "m": (5, 60), "tall": (300, 70), "none": (0, 3)}  # for rules that take only such
SCOPES = {name: getattr(fastopt, name)(np.ones((4, 3)))._layout.all_settings()[0].scope for name in CLASSES}
BY_SUMS, BY_ROW, BY_MATRIX = (
    [name for name, scope in SCOPES.items() if scope == one] for one in ("sums", "row", "matrix")
)


def takes(cls, array):
    """Whether a rule takes parameters of such a shape."""
    try:
        getattr(fastopt, cls)(array)
    except ValueError:
        return False
    return True


OF_MATRICES = [name for name in CLASSES if not takes(name, np.ones(3))]
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


def params_of(dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def gradients_of(step, rank, dtype=np.float32, shapes=SHAPES):
    """Gradients of a process, of so few digits that their sums are exact."""
    rng = np.random.default_rng((step, rank))
    return {name: np.asarray(rng.integers(-16, 17, shape) / 16).astype(dtype) for name, shape in shapes.items()}


def summed(step, world, dtype=np.float32, shapes=SHAPES):
    all_of_them = [gradients_of(step, rank, np.float64, shapes) for rank in range(world)]
    return {name: np.asarray(sum(g[name] for g in all_of_them)).astype(dtype) for name in shapes}


def assert_same(ours, theirs, label=""):
    assert ours.keys() == theirs.keys()
    for name, p in ours.items():
        assert p.tobytes() == theirs[name].tobytes(), f"{label} {name}"


def assert_same_state(ours, theirs):
    """Two saved states are the same to the bit, but for learning rates that schedules have."""
    assert (ours["step_count"], ours["rule"]) == (theirs["step_count"], theirs["rule"])
    assert ours["state"].keys() == theirs["state"].keys()
    for name, entry in ours["state"].items():
        assert entry.keys() == theirs["state"][name].keys()
        for key, value in entry.items():
            other = theirs["state"][name][key]
            if isinstance(value, np.ndarray):
                assert (value.shape, value.dtype) == (other.shape, other.dtype), f"{name} {key}"
                assert value.tobytes() == other.tobytes(), f"{name} {key}"
            else:
                assert value == other, f"{name} {key}"


def bits(arrays):
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def pair(comm, cls, dtype=np.float32, shapes=SHAPES, **options):
    """Return an optimizer of all processes and one of this process, with their parameters."""
    ours, theirs = params_of(dtype, shapes), params_of(dtype, shapes)
    opt = fastopt.mpi.Sharded(getattr(fastopt, cls), ours, comm, gradients="sum", **options)
    return ours, opt, theirs, getattr(fastopt, cls)(theirs, **options)


def step_both(comm, opt, peer, steps, dtype=np.float32, shapes=SHAPES, **changes):
    for i in steps:
        opt.step(gradients_of(i, comm.rank, dtype, shapes), **changes)
        peer.step(summed(i, comm.size, dtype, shapes), **changes)


@check
def every_rule(comm, folder):
    """The bits of one process, in several formats; agreement to rounding for rules that sum over parameters."""
    wide = {np.float32: np.float32, np.float64: np.float64}
    for label, (dtype, options) in FORMATS.items():
        for cls in CLASSES if label == "float32" else ("AdamW", BY_MATRIX[0], BY_SUMS[0]):
            if cls in BY_MATRIX and label == "8 bits":
                continue  # its passes over rows would cut the groups of codes
            shapes = MATRICES if cls in OF_MATRICES else SHAPES
            ours, opt, theirs, peer = pair(comm, cls, dtype, shapes, weight_decay=1e-2, **options)
            step_both(comm, opt, peer, range(STEPS), wide.get(dtype, np.float32), shapes)
            if cls not in BY_SUMS:
                assert_same(ours, theirs, f"{cls}, {label}")
                state = opt.state_dict()
                if state is not None:
                    assert_same_state(state, peer.state_dict())
            elif dtype in wide:
                for name, p in ours.items():
                    np.testing.assert_allclose(p, theirs[name], rtol=1e-6, atol=1e-6, err_msg=f"{cls}, {label}")


@check
def at_once(comm, folder):
    """Options that need all gradients first lead to the same bits."""
    for more in ({"nonfinite": "skip"}, {"clip_norm": np.inf}, {"clip_norm": np.inf, "clip_norm_per": "parameter"}):
        ours, opt, theirs, peer = pair(comm, "AdamW", lookahead=(2, 0.5), swa=(1, 2), **more)
        step_both(comm, opt, peer, range(STEPS), clip_value=0.5, grad_scale=2.0)
        assert_same(ours, theirs)
    rest = {"few": None, "wide": None}
    ours, opt, theirs, peer = pair(comm, "AdamW", ema_decay=0.9)
    for i, left_out in enumerate(({}, rest, {})):
        opt.step({**gradients_of(i, comm.rank), **left_out})
        peer.step({**summed(i, comm.size), **left_out})
    assert_same(ours, theirs)
    with opt.swapped("ema"):
        assert_same(ours, peer.ema)


def rows_of(step, rank, dtype=np.float32):
    rng = np.random.default_rng((step, rank, 1))
    found = {}
    for name, count in (("w", 9), ("m", 2), ("b", 50)):
        rows = rng.integers(0, SHAPES[name][0], count)
        values = rng.integers(-16, 17, (count, *SHAPES[name][1:])) / 16
        found[name] = fastopt.RowGrad(rows, values.astype(dtype))
    return found


@check
def rows(comm, folder):
    """Gradients of rows: the bits of one process that has accumulated those of all, and no other row moves."""
    cases = (
        ("SGD", np.float32, {"momentum": 0.9}),
        ("Adam", np.float64, {"ema_decay": 0.9}),
        ("Adam", np.float32, {"state_dtype": "8bit"}),
        ("AdamW", ml_dtypes.bfloat16, {"nonfinite": "skip"}),
        (BY_ROW[0], np.float32, {}),
    )
    for cls, dtype, more in cases:
        ours, opt, theirs, peer = pair(comm, cls, dtype, **more)
        of_step = np.float64 if dtype is np.float64 else np.float32
        for i in range(STEPS):
            step = []
            for rank in range(comm.size):
                step.append({**dict.fromkeys(SHAPES), **rows_of(i, rank, of_step)})
                if i == 1 and rank == 0:  # a whole gradient on one process, and none
                    step[-1] |= {"w": gradients_of(i, rank, of_step)["w"], "m": None}
                peer.accumulate(step[-1])
            opt.step(step[comm.rank])
            peer.step(accumulated="sum")
        assert_same(ours, theirs, f"{cls} {more}")
        state = opt.state_dict()
        if state is not None:
            assert_same_state(state, peer.state_dict())
        before = {name: p.copy() for name, p in ours.items()}
        opt.step({**dict.fromkeys(SHAPES), "w": fastopt.RowGrad([69], np.ones((1, 300), of_step))})
        changed = np.flatnonzero((before["w"] != ours["w"]).any(axis=1)).tolist()
        assert changed == [69]


@check
def micro_batches(comm, folder):
    """The bits of one process that accumulates the micro-batches of all."""
    for mean in ("mean", "sum"):
        ours, theirs = params_of(), params_of()
        opt = fastopt.mpi.Sharded(fastopt.AdamW, ours, comm, gradients=mean, clip_value=1.0)
        peer = fastopt.AdamW(theirs, clip_value=1.0)
        for i in range(STEPS):
            for k in range(2):
                opt.accumulate({**gradients_of(2 * i + k, comm.rank), "few": None})
                for rank in range(comm.size):
                    peer.accumulate({**gradients_of(2 * i + k, rank), "few": None})
            opt.step(accumulated=mean)
            peer.step(accumulated=mean)
        assert_same(ours, theirs, mean)
        assert (opt.step_count, peer.step_count) == (STEPS, STEPS)
    opt.accumulate(gradients_of(0, comm.rank))
    with pytest.raises(ValueError, match="gradients must be None, since some have been accumulated"):
        opt.step(gradients_of(0, comm.rank))
    if comm.rank == 0:
        opt.accumulate(gradients_of(0, comm.rank))
    if comm.size > 1:
        with pytest.raises(
            ValueError, match="the number of micro-batches must be the same on all processes, got 1 and 2"
        ):
            opt.step()
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given or accumulated, got none"):
        opt.step()
    assert_same(ours, theirs)


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
        with pytest.raises(FloatingPointError, match=r"got NaN or infinity in the gradient of 'w'$"):
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
        step_both(comm, opt, peer, range(STEPS, 2 * STEPS), of_step)
        assert_same(ours, theirs, label)
        with pytest.raises(ValueError, match="rule must be 'AdamW', got 'SGD'"):
            opt.load_state_dict({**state, "rule": "SGD"})
        with pytest.raises(TypeError, match="the state must be a mapping"):
            opt.load_state_dict(None)


@check
def files(comm, folder):
    """A file of four processes is that of one; fewer load it, and one process does; all go on to the same bits."""
    for cls, dtype, more in (
        ("AdamW", np.float32, {"ema_decay": 0.9, "lr": fastopt.schedules.linear(1e-2, 1e-3, 9)}),
        ("AdamW", ml_dtypes.bfloat16, {"state_dtype": "8bit"}),
        (BY_MATRIX[0], np.float32, {}),
        (BY_ROW[0], np.float32, {}),
    ):
        path, seen = Path(folder, f"{cls} {dtype.__name__}"), []
        progress = lambda done, total, seen=seen: seen.append((done, total))  # noqa: E731
        if comm.size == 4:
            _, opt, _, peer = pair(comm, cls, dtype, **more)
            step_both(comm, opt, peer, range(STEPS))
            fastopt.save(path, opt, parameters=True, progress=progress)
            assert (len(seen) > 0) == (comm.rank == 0)
            if comm.rank == 0:
                assert seen[-1][0] == seen[-1][1]
                fastopt.save(f"{path}.one", peer, parameters=True)
                assert path.read_bytes() == Path(f"{path}.one").read_bytes()
        comm.Barrier()
        ours, opt, theirs, peer = pair(comm, cls, dtype, **more)
        for p in ours.values():
            p[...] = 0
        seen.clear()
        assert not any(fastopt.load(path, opt, parameters=True, progress=progress))
        assert (len(seen) > 0) == (comm.rank == 0)
        fastopt.load(path, peer, parameters=True)
        assert_same(ours, theirs)
        step_both(comm, opt, peer, range(STEPS, 2 * STEPS))
        assert_same(ours, theirs)
        back = params_of(dtype)
        another = fastopt.mpi.Sharded(getattr(fastopt, cls), {"w": back["w"]}, comm, **more)
        loaded = fastopt.load(path, another, strict=False, convert=True)
        assert set(loaded.unexpected) == {*SHAPES} - {"w"}
        refused = fastopt.mpi.Sharded(fastopt.SGD, params_of(dtype), comm)
        with pytest.raises(ValueError, match=f"rule must be 'SGD', got '{cls}'"):
            fastopt.load(path, refused)
        for call in (fastopt.load, fastopt.save):
            with pytest.raises(OSError, match="none"):
                call(path / "none", refused)


@check
def groups(comm, folder):
    """Hyperparameters that are set, groups that are added, and a state that is forgotten."""
    ours, theirs = params_of(), params_of()
    first, rest = ("w", "few", "s"), ("b", "wide", "m", "none")
    of_one = {"params": {name: ours[name] for name in first}, "lr": 1e-2}
    opt = fastopt.mpi.Sharded(fastopt.AdamW, [of_one], comm, gradients="sum")
    peer = fastopt.AdamW([of_one | {"params": {name: theirs[name] for name in first}}])
    for i in range(2 * STEPS):
        names = first if i < STEPS else (*first, *rest)
        if i == STEPS:
            for one, params in ((opt, ours), (peer, theirs)):
                one.accumulate({name: np.ones(SHAPES[name], np.float32) for name in first})
                one.add_param_group({"params": {name: params[name] for name in rest}, "weight_decay": 0.5})
                one.discard()
                one.groups[0]["betas"] = (0.8, 0.99)
                one.reset("few")
        if i == STEPS + 1:
            opt.lr = peer.lr = (1e-3, fastopt.schedules.linear(1e-2, 1e-3, 9))
        opt.step({name: g for name, g in gradients_of(i, comm.rank).items() if name in names})
        peer.step({name: g for name, g in summed(i, comm.size).items() if name in names})
        assert opt.lr == peer.lr
    assert_same(ours, theirs)
    sizes = comm.allgather(opt.nbytes)
    assert sum(sizes) <= peer.nbytes + 100
    assert max(sizes) <= 1.3 * peer.nbytes / comm.size


@check
def copies(comm, folder):
    """Copies go on by themselves, a deep one with arrays of its own; pickling says that it cannot."""
    ours, opt, theirs, peer = pair(comm, "AdamW", ema_decay=0.9)
    step_both(comm, opt, peer, range(STEPS))
    both = copy.deepcopy((ours, opt))
    step_both(comm, both[1], peer, range(STEPS, 2 * STEPS))
    assert_same(both[0], theirs)
    step_both(comm, copy.copy(opt), copy.deepcopy(peer), range(STEPS))
    both[0]["w"] = both[0]["w"].copy()
    with pytest.raises(ValueError, match="must stay the arrays"):
        both[1].step(gradients_of(0, comm.rank))
    with pytest.raises(
        TypeError, match=r"cannot be pickled, .* pickle the result of state_dict\(\), or use fastopt.save"
    ):
        pickle.dumps(opt)


@check
def refusals(comm, folder):
    def refused(error, match, params=None, rule=fastopt.AdamW, **more):
        with pytest.raises(error, match=match):
            fastopt.mpi.Sharded(rule, np.ones((4, 6)) if params is None else params, more.pop("comm", comm), **more)

    refused(TypeError, "rule must be a class of fastopt", rule=fastopt.Optimizer)
    refused(TypeError, "comm must be a communicator", comm=None)
    refused(ValueError, "gradients must be mean or sum, got 'product'", gradients="product")
    refused(ValueError, "zero_grads must be False, got True", zero_grads=True)
    refused(ValueError, "catch_up must be False, got True", catch_up=True)
    refused(ValueError, r"'w' must be C-contiguous, got strides", {"w": np.ones((4, 6)).T})
    both = np.ones(9)
    refused(ValueError, "'b' shares memory with 'a'", {"a": both[:5], "b": both[4:]})
    params = params_of()
    opt = fastopt.mpi.Sharded(fastopt.AdamW, params, comm)
    last = comm.size - 1
    for bad, error, match in (
        ({"w": np.ones(3)}, ValueError, r"gradient of 'w' must have its parameter's shape \(70, 300\), got \(3,\)"),
        ({"w": np.ones((70, 300), int)}, TypeError, "must have dtype float16, bfloat16, float32 or float64"),
        ({"w": fastopt.RowGrad([70], np.ones((1, 300)))}, ValueError, "must be >= 0 and < 70, as many"),
        ({"w": fastopt.RowGrad([0], np.ones((1, 3)))}, ValueError, r"shape per row \(300,\), got \(3,\)"),
        ({"x": None}, ValueError, "x"),
    ):
        is_bad = comm.rank == last
        with pytest.raises(error, match=match if is_bad else f"process {last} has failed: .*{match}"):
            opt.step({**gradients_of(0, comm.rank), **(bad if is_bad else {})})
        assert_same(params, params_of())
    if comm.size > 1:
        with pytest.raises(ValueError, match="the options that need all gradients at once must be the same on all"):
            opt.step(gradients_of(0, comm.rank), **({"clip_norm": 1.0} if comm.rank == last else {}))
    if comm.size > 2:
        with pytest.raises(ValueError, match=f"the parameter is cut within its 2 rows for {comm.size} processes"):
            opt.step({**gradients_of(0, comm.rank), "wide": fastopt.RowGrad([0], np.ones((1, 8200)))})
    with pytest.raises(ValueError, match="zero_grads must be False"):
        opt.step(gradients_of(0, comm.rank), zero_grads=True)
    with pytest.raises(ValueError, match="clip_norm"):
        opt.step(gradients_of(0, comm.rank), clip_norm=-1.0)
    with pytest.raises(ValueError, match="must be an array, since the step needs all of it, got a RowGrad"):
        fastopt.mpi.Sharded(getattr(fastopt, BY_SUMS[0]), params_of(), comm).step(
            {**gradients_of(0, 0), **rows_of(0, 0)}
        )
    assert_same(params, params_of())
    params["w"] = params["w"].copy()
    with pytest.raises(ValueError, match="must stay the arrays that the optimizer updates"):
        opt.step(gradients_of(0, comm.rank))


@check
def many_optimizers(comm, folder):
    """MPI has room for some thousands of communicators; optimizers share one."""
    for _ in range(5000):
        fastopt.mpi.Sharded(fastopt.SGD, np.ones(2), comm)


def run_checks(folder):
    """Make all checks as one of several processes, and leave the outcomes in a file."""
    from mpi4py import MPI

    import fastopt.mpi  # noqa: F401

    comm, outcomes = MPI.COMM_WORLD, {}
    for name, function in CHECKS.items():
        try:
            outcomes[name] = {"value": function(comm, folder)}
        except BaseException:  # pytest.raises has one
            print(f"process {comm.rank} of {comm.size}: {name}", traceback.format_exc(), file=sys.stderr, flush=True)
            comm.Abort(1)  # the others would wait for it
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


def start(program, world, folder=None):
    """Run a program on several processes, in this folder."""
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), *sys.path])}
    command = [MPIEXEC, "-n", str(world), sys.executable, "-X", "faulthandler", "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, cwd=folder)


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
def test_the_page(tmp_path):
    """Its block trains on two processes; both end with the same parameters."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    checks = "assert len(set(comm.allgather(params['w'].tobytes()))) == 1\nassert abs(params['w'] - w).max() < 0.1"
    done = start(f"{block}\n{checks}\n", 2, tmp_path)
    assert done.returncode == 0, done.stderr
