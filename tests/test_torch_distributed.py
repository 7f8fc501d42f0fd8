"""fastopt.torch on several processes: replicas, parameters shared out, and parameters cut into shards.

The processes of one number run all checks in turn.  A check returns nothing, or what must be the same on all of them.
"""

import json
import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from functools import partial

import numpy as np
import pytest

import fastopt
from support.processes import assert_all_right, in_a_process, outcomes_of
from support.registry import CLASSES

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")
pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
dist = torch.distributed
if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

WORLDS = (4, 2, 1)  # in this order: checkpoints are saved on four and loaded on fewer
STEPS = 3
SHAPES = ((8, 64), (5, 3), (7,), (3, 2, 4), (2, 0))
IN_GROUPS = ((8, 64), (7, 128), (512,), (4, 4, 16))  # whose parts begin at multiples of 64, on 2 and on 4 processes
SETTINGS = {name: getattr(fastopt, name)(np.ones((4, 3)))._layout.all_settings()[0] for name in CLASSES}
SCOPES = {name: settings.scope for name, settings in SETTINGS.items()}
BY_ELEMENT = [name for name, scope in SCOPES.items() if scope == "element"]
BY_SUMS = [name for name, scope in SCOPES.items() if scope == "sums"]
BY_MATRIX = [name for name, scope in SCOPES.items() if scope == "matrix"]
FORMATS = {
    "float32": (torch.float32, {}, SHAPES),
    "float64": (torch.float64, {}, SHAPES),
    "averages": (torch.float32, {"ema_decay": 0.9}, SHAPES),
    "bfloat16 state": (torch.float32, {"state_dtype": "bfloat16"}, SHAPES),
    "float16 state, nearest": (torch.float32, {"state_dtype": "float16", "rounding": "nearest"}, SHAPES),
    "bfloat16": (torch.bfloat16, {}, SHAPES),
    "bfloat16, no master": (torch.bfloat16, {"master": None, "state_dtype": "bfloat16"}, SHAPES),
    "float16": (torch.float16, {}, SHAPES),
    "8 bits": (torch.float32, {"state_dtype": "8bit"}, IN_GROUPS),
    "8 bits of bfloat16": (torch.bfloat16, {"state_dtype": "8bit", "master": "split8"}, IN_GROUPS),
}
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def values(shapes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def mesh_of(*sizes):
    from torch.distributed.tensor import init_device_mesh

    return init_device_mesh("cpu", sizes)


def sharded(mesh, placements, whole):
    """Return a tensor that all processes know as a DTensor."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, mesh, placements, src_data_rank=None)


def net(width=64, outputs=6, dtype=torch.float32):
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, outputs)
    return torch.nn.Sequential(*layers).to(dtype)


def backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 8, generator=generator).to(next(model.parameters()).dtype)
    model(x).square().mean().backward()


def bits(tensors):
    return [t.detach().numpy().tobytes().hex() for t in tensors]


def assert_same(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        assert p.shape == q.shape
        assert torch.equal(p.detach(), q.detach())


@check
def replicas(rank, world, folder):
    """DistributedDataParallel: steps are those of one process with the mean gradients."""
    model, alone = torch.nn.parallel.DistributedDataParallel(net()), net()
    opt = fastopt.torch.AdamW(model.parameters(), lr=1e-2, clip_norm=0.1, nonfinite="skip")
    peer = fastopt.torch.AdamW(alone.parameters(), lr=1e-2, clip_norm=0.1, nonfinite="skip")
    for i in range(STEPS):
        opt.zero_grad()
        backward(model, 100 * i + rank)
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            q.grad = p.grad.clone()
        opt.step()
        peer.step()
    assert_same(model.parameters(), alone.parameters())
    return bits(model.parameters())


@check
def shared_out(rank, world, folder):
    """ZeroRedundancyOptimizer: each process steps some parameters; the state dict is one of all."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, alone = net(), net()
    options = {"lr": 1e-2, "weight_decay": 0.1}
    opt = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=fastopt.torch.AdamW, **options)
    peer = fastopt.torch.AdamW(alone.parameters(), **options)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2)
    for_peer = torch.optim.lr_scheduler.StepLR(peer, 2)

    def step(i, *pairs):
        for one, of_one, its_scheduler in pairs:
            of_one.zero_grad()
            backward(one, i)
            of_one.step()
            its_scheduler.step()

    for i in range(STEPS):
        step(i, (model, opt, scheduler), (alone, peer, for_peer))
    assert_same(model.parameters(), alone.parameters())
    refused = partial(pytest.raises, ValueError) if world > 1 else lambda match: nullcontext()
    of_groups = [name for name, settings in SETTINGS.items() if settings.estimates_group]
    for cls, more, match in (
        ("AdamW", {"clip_norm": 1.0}, r"AdamW: clip_norm must be None within Zero.* got 1.0: call .*clip_grad_norm_"),
        ("AdamW", {"nonfinite": "skip"}, r"AdamW: nonfinite must be 'propagate' within Zero.* got 'skip'"),
        *((name, {}, rf"{name} must not be used within Zero") for name in of_groups),
    ):
        with refused(match=match):
            ZeroRedundancyOptimizer(alone.parameters(), optimizer_class=getattr(fastopt.torch, cls), lr=1e-2, **more)
    by_parameter = {"clip_norm": 1.0, "clip_norm_per": "parameter"}
    ZeroRedundancyOptimizer(alone.parameters(), optimizer_class=fastopt.torch.AdamW, lr=1e-2, **by_parameter)
    opt.consolidate_state_dict(to=0)
    if rank == 0:
        again = net()
        again.load_state_dict(model.state_dict())
        resumed = fastopt.torch.AdamW(again.parameters(), **options)
        resumed.load_state_dict(opt.state_dict())
        step(STEPS, (again, resumed, torch.optim.lr_scheduler.StepLR(resumed, 2)))
        step(STEPS, (alone, peer, for_peer))
        assert_same(again.parameters(), alone.parameters())
    return bits(model.parameters())


@check
def every_rule_by_element(rank, world, folder):
    """A shard is stepped as the whole is, in every format."""
    from torch.distributed.tensor import Shard

    mesh, placements = mesh_of(world), [Shard(0)]
    for cls in BY_ELEMENT:
        for label, (dtype, options, shapes) in FORMATS.items():
            options = {"lr": 1e-2, "weight_decay": 1e-2, **options}
            whole = [torch.nn.Parameter(p) for p in values(shapes, dtype, 0)]
            parts = [torch.nn.Parameter(sharded(mesh, placements, p.detach())) for p in whole]
            make = getattr(fastopt.torch, cls)
            opt, peer = make(parts, **options), make(whole, **options)
            for i in range(STEPS):
                for p, part, g in zip(whole, parts, values(shapes, dtype, 1 + i), strict=True):
                    p.grad, part.grad = g, sharded(mesh, placements, g)
                opt.step()
                peer.step()
            for p, part in zip(whole, parts, strict=True):
                expected = sharded(mesh, placements, p.detach()).to_local()
                assert torch.equal(part.to_local(), expected), f"{cls}, {label}, {tuple(p.shape)}"


@check
def other_meshes(rank, world, folder):
    """Shards of replicas, of two axes of a mesh and of a parameter, and gradients that come in another placement."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    cases = [((world,), [Shard(1)]), ((world,), [Replicate()])]
    if world == 4:
        cases += [((2, 2), [Replicate(), Shard(0)]), ((2, 2), [Shard(0), Shard(0)]), ((2, 2), [Shard(0), Shard(1)])]
    for sizes, placements in cases:
        mesh = mesh_of(*sizes)
        is_run = Shard(1) not in placements
        options = {"lr": 1e-2, "state_dtype": "8bit"} if is_run else {"lr": 1e-2}
        whole = torch.nn.Parameter(values([(16, 64)], torch.float32, 0)[0])
        part = torch.nn.Parameter(sharded(mesh, placements, whole.detach()))
        opt, peer = fastopt.torch.AdamW([part], **options), fastopt.torch.AdamW([whole], **options)
        for i in range(STEPS):
            (g,) = values([(16, 64)], torch.float32, 1 + i)
            whole.grad, part.grad = g, sharded(mesh, [Partial()] * len(sizes) if i == 2 else placements, g)
            opt.step()
            peer.step()
        assert torch.equal(part.full_tensor(), whole), placements


def pairs_on(mesh, placements, shapes, dtype=torch.float32):
    """Return whole parameters and their parts, and a function that gives both the gradients of a step."""
    whole = [torch.nn.Parameter(p) for p in values(shapes, dtype, 0)]
    parts = [torch.nn.Parameter(sharded(mesh, placements, p.detach())) for p in whole]

    def give(gradients):
        for p, part, g in zip(whole, parts, gradients, strict=True):
            p.grad, part.grad = g, sharded(mesh, placements, g)

    return whole, parts, give


def assert_close(parts, whole, label):
    """Assert that parts agree with whole parameters to rounding of sums; return their bits."""
    full = [part.full_tensor().detach() for part in parts]
    for one, other in zip(full, whole, strict=True):
        eps = 1e-6 if one.dtype == torch.float32 else 1e-14
        torch.testing.assert_close(one, other.detach(), rtol=eps, atol=eps, msg=lambda text: f"{label}: {text}")
    return bits(full)


@check
def whole_sums(rank, world, folder):
    """Rules that sum over parameters, and clipped norms, have the sums of all shards, on all processes the same."""
    from torch.distributed.tensor import Replicate, Shard

    cases = [((world,), [Shard(0)], SHAPES)]
    if world == 4:
        cases += [
            ((2, 2), placements, ((8, 6), (4, 4))) for placements in ([Replicate(), Shard(0)], [Shard(0), Shard(1)])
        ]
    ends = []
    for sizes, placements, shapes in cases:
        mesh = mesh_of(*sizes)
        for cls in (*BY_SUMS, "AdamW", *(BY_MATRIX if shapes is SHAPES else [])):
            of_class = [shape for shape in shapes if len(shape) != 2] if cls in BY_MATRIX else shapes
            for dtype, options in (
                (torch.float32, {}),
                (torch.float32, {"clip_norm": 0.5}),
                (torch.float64, {"clip_norm": 0.5, "clip_norm_per": "parameter"}),
            ):
                whole, parts, give = pairs_on(mesh, placements, of_class, dtype)
                make = getattr(fastopt.torch, cls)
                opt, peer = (make(ps, weight_decay=1e-2, **options) for ps in (parts, whole))
                for i in range(STEPS):
                    give(values(of_class, dtype, 1 + i))
                    opt.step()
                    peer.step()
                norms = [one.grad_norm or 0.0 for one in (opt, peer)]
                assert norms[0] == pytest.approx(norms[1], rel=1e-14)
                ends.append(assert_close(parts, whole, f"{cls}, {dtype}, {options}, {placements}"))
    return ends


@check
def exact_sums(rank, world, folder):
    """Where sums are exact, a clipped step of shards has the bits of one of the whole."""
    from torch.distributed.tensor import Shard

    whole, parts, give = pairs_on(mesh_of(world), [Shard(0)], SHAPES)
    opt, peer = (fastopt.torch.AdamW(ps, clip_norm=0.5, nonfinite="skip") for ps in (parts, whole))
    for i in range(STEPS):
        give([(16 * g).round() / 16 for g in values(SHAPES, torch.float32, 1 + i)])
        opt.step()
        peer.step()
    assert opt.grad_norm == peer.grad_norm
    assert_same([part.full_tensor() for part in parts], whole)


@check
def nonfinite(rank, world, folder):
    """All processes skip or raise where one has a gradient that is not finite, and a loss scale moves alike."""
    from torch.distributed.tensor import Shard

    for cls, options in (("AdamW", {}), ("AdamW", {"clip_norm": 1.0}), *((cls, {}) for cls in BY_SUMS)):
        _, parts, give = pairs_on(mesh_of(world), [Shard(0)], ((8, 3), (5,)))
        scale = fastopt.LossScale(2.0)
        make = partial(getattr(fastopt.torch, cls), parts, nonfinite="skip", max_skips=1, **options)
        opt, raising = make(grad_scale=scale), getattr(fastopt.torch, cls)(parts, nonfinite="raise", **options)
        before = [part.full_tensor() for part in parts]
        gradients = values([(8, 3), (5,)], torch.float32, 1)
        gradients[0][-1, -1] = torch.inf
        give(gradients)
        opt.step()
        assert (opt.skipped_steps, opt.step_count, scale.value) == (1, 0, 1.0)
        for one in (opt, raising):
            with pytest.raises(FloatingPointError, match=r"got NaN or infinity in the gradient of parameter 0$"):
                one.step()
        assert_same([part.full_tensor() for part in parts], before)
        give(values([(8, 3), (5,)], torch.float32, 2))
        opt.step()
        assert (opt.skipped_steps, opt.step_count) == (1, 1)


@check
def grad_scaler(rank, world, folder):
    """A GradScaler of torch finds an infinite gradient of one process on all."""
    model = fully_sharded(net())
    opt = fastopt.torch.AdamW(model.parameters(), lr=1e-2, clip_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.full_tensor().detach() for p in model.parameters()]
    for i in range(2):
        opt.zero_grad()
        backward(model, i)
        last = list(model.parameters())[-1].grad._local_tensor
        if i == 0 and rank == 0:
            last[0] = torch.inf
        scaler.scale(torch.zeros(()))
        scaler.step(opt)
        scaler.update()
        assert (scaler.get_scale(), opt.step_count) == (2.0, i)
        if i == 0:
            assert_same([p.full_tensor() for p in model.parameters()], before)
    return bits(p.full_tensor() for p in model.parameters())


@check
def rows(rank, world, folder):
    """A rule that looks at rows steps whole ones."""
    from torch.distributed.tensor import Shard

    whole = torch.nn.Parameter(values([(5, 4)], torch.float32, 0)[0])
    part = torch.nn.Parameter(sharded(mesh_of(world), [Shard(0)], whole.detach()))
    opt, peer = fastopt.torch.RowWiseAdagrad([part], lr=0.1), fastopt.torch.RowWiseAdagrad([whole], lr=0.1)
    for i in range(STEPS):
        (g,) = values([(5, 4)], torch.float32, 1 + i)
        whole.grad, part.grad = g, sharded(mesh_of(world), [Shard(0)], g)
        opt.step()
        peer.step()
    assert torch.equal(part.full_tensor(), whole)
    (of_part,), (of_whole,) = opt.state.values(), peer.state.values()
    assert torch.equal(of_part["G"].full_tensor(), of_whole["G"])


@check
def matrices(rank, world, folder):
    """A rule that looks at rows and columns steps whole matrices; its state is whole too."""
    from torch.distributed.tensor import Shard

    ends = []
    for cls in BY_MATRIX:
        whole, parts, give = pairs_on(mesh_of(world), [Shard(0)], [(5, 4, 3)])
        opt, peer = (getattr(fastopt.torch, cls)(ps, lr=0.1) for ps in (parts, whole))
        for i in range(STEPS):
            give(values([(5, 4, 3)], torch.float32, 1 + i))
            opt.step()
            peer.step()
        (of_part,), (of_whole,) = opt.state.values(), peer.state.values()
        for key, value in of_part.items():
            assert key == "step" or torch.equal(value.full_tensor(), of_whole[key]), key
        again = getattr(fastopt.torch, cls)(parts, lr=0.1)
        again.load_state_dict(opt.state_dict())
        again.step()
        peer.step()
        ends.append(assert_close(parts, whole, cls))
    return ends


@check
def refusals(rank, world, folder):
    """All processes refuse a rule or option that needs more than the shard; one process with all of it does not."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    mesh = mesh_of(world)
    refused = partial(pytest.raises, ValueError) if world > 1 else lambda match: nullcontext()

    def make(cls, placements=None, shape=(8, 64), **options):
        p = torch.nn.Parameter(sharded(mesh, placements or [Shard(0)], torch.ones(shape)))
        return getattr(fastopt.torch, cls)([p], **options)

    for cls, scope in SCOPES.items():
        if scope in ("matrix", "parameter"):
            with refused(match=rf"{cls}: parameter 0 must not be sharded, .* element by element"):
                make(cls)
            make(cls, [Replicate()])
    with refused(match=r"parameter 0 must not be sharded, .* all elements of a row"):
        make("RowWiseAdagrad", [Shard(1)])
    with refused(match=r"parameter 0 must not be sharded, .* all elements of a matrix"):
        make(BY_MATRIX[0], [Shard(1)], (4, 4, 4))
    with refused(match=r"catch_up must be False .* got True"):
        make("SGD", catch_up=True)
    with refused(match=r"multiples of 64 .* shape \(5, 16\) .* use state_dtype=\"bfloat16\""):
        make("AdamW", shape=(5, 16), state_dtype="8bit")
    with refused(match=r"in runs of its elements with random rounding.* use rounding=\"nearest\""):
        make("AdamW", [Shard(1)], state_dtype="bfloat16")
    make("AdamW", [Shard(1)], state_dtype="bfloat16", rounding="nearest")
    with pytest.raises(ValueError, match=r"parameter 0 must be replicated or sharded, got placements"):
        make("AdamW", [Partial()])
    with pytest.raises(ValueError, match=r"in_backward must be False for parameters that are DTensors"):
        make("AdamW", [Replicate()], in_backward=True)
    with pytest.raises(ValueError, match=r"must have memory of its own, got a DTensor"):
        fastopt.SGD(np.zeros(4)).step(sharded(mesh, [Replicate()], torch.ones(4)))
    opt = make("AdamW", clip_value=1.0)
    with pytest.raises(ValueError, match=r"parameter 1 must be replicated or sharded"):
        opt.add_param_group({"params": [torch.nn.Parameter(sharded(mesh, [Partial()], torch.ones(4)))]})
    assert len(opt.param_groups) == 1


def fully_sharded(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


@check
def fully_shard(rank, world, folder):
    """FSDP2: gradients of equal batches have the bits of one, and so do the steps."""
    model, alone = fully_sharded(net()), net()
    options = {"lr": 1e-2, "ema_decay": 0.9, "clip_value": 0.01}
    opt, peer = (fastopt.torch.AdamW(one.parameters(), **options) for one in (model, alone))
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=STEPS) for one in (opt, peer)]
    memory = [p._local_tensor.data_ptr() for p in model.parameters()]
    for i in range(STEPS):
        for one, of_one, scheduler in zip((model, alone), (opt, peer), schedulers, strict=True):
            of_one.zero_grad()
            backward(one, i)
            of_one.step()
            scheduler.step()
    assert_same([p.full_tensor() for p in model.parameters()], alone.parameters())
    assert memory == [p._local_tensor.data_ptr() for p in model.parameters()]
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        assert opt.state[p].keys() == peer.state[q].keys()
        assert opt.state[p]["exp_avg"].placements == p.placements
        for key, value in opt.state[p].items():
            whole = value.full_tensor() if key != "step" else value
            assert torch.equal(whole, peer.state[q][key]), key
    with opt.swapped("ema"), peer.swapped("ema"):
        assert_same([p.full_tensor() for p in model.parameters()], alone.parameters())
    assert_same([p.full_tensor() for p in model.parameters()], alone.parameters())
    return bits(p.full_tensor() for p in model.parameters())


@check
def norms_of_shards(rank, world, folder):
    """The norm that clip_grad_norm_ finds is that of all shards."""
    model, alone = fully_sharded(net()), net()
    opts = [fastopt.torch.AdamW(one.parameters(), lr=1e-2) for one in (model, alone)]
    for i in range(STEPS):
        for one, opt in zip((model, alone), opts, strict=True):
            opt.zero_grad()
            backward(one, i)
        norms = [torch.nn.utils.clip_grad_norm_(one.parameters(), 0.01) for one in (model, alone)]
        torch.testing.assert_close(norms[0].full_tensor(), norms[1])
        for opt in opts:
            opt.step()
    torch.testing.assert_close([p.full_tensor() for p in model.parameters()], list(alone.parameters()))


@check
def checkpoints(rank, world, folder):
    """torch.distributed.checkpoint: a run that is saved on four processes goes on, on fewer, to the same bits."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    variants = {
        "Adam": ("Adam", {"amsgrad": True}, torch.float32),
        "8 bits": ("AdamW", {"state_dtype": "8bit"}, torch.float32),
        "bfloat16": ("AdamW", {"state_dtype": "bfloat16", "ema_decay": 0.9}, torch.bfloat16),
        "ScheduleFreeAdamW": ("ScheduleFreeAdamW", {}, torch.float64),
        "RowWiseAdagrad": ("RowWiseAdagrad", {}, torch.float32),
        **{cls: (cls, {"clip_norm": 0.1}, torch.float32) for cls in BY_SUMS},
    }
    ends = []
    for label, (cls, options, dtype) in variants.items():
        model = fully_sharded(net(256, 256, dtype))
        opt = getattr(fastopt.torch, cls)(model.parameters(), lr=1e-2, **options)

        def train(steps, model=model, opt=opt):
            for i in steps:
                opt.zero_grad()
                backward(model, i)
                opt.step()

        where = f"{folder}/{label}"
        if world == 4:
            train(range(STEPS))
            of_model, of_opt = get_state_dict(model, opt)
            checkpoint.save({"model": of_model, "opt": of_opt}, checkpoint_id=where)
        else:
            of_model, of_opt = get_state_dict(model, opt)
            state = {"model": of_model, "opt": of_opt}
            checkpoint.load(state, checkpoint_id=where)
            set_state_dict(model, opt, model_state_dict=state["model"], optim_state_dict=state["opt"])
        train(range(STEPS, 2 * STEPS))
        end = [p.full_tensor().detach() for p in model.parameters()]
        if (rank, world) == (0, 4):
            torch.save(end, f"{where}.pt")
        elif world != 4:
            ends.append((label, end, torch.load(f"{where}.pt")))
    for label, ours, theirs in ends:
        if SCOPES[variants[label][0]] == "sums":
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        else:
            assert all(map(torch.equal, ours, theirs)), label


def run_checks(rank, world, folder):
    """Make all checks as one of several processes, and leave the outcomes in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group{world}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    outcomes = {}
    for name, function in CHECKS.items():
        try:
            outcomes[name] = {"value": function(rank, world, folder)}
        except BaseException:  # pytest.raises has one
            outcomes[name] = {"error": traceback.format_exc()}
        dist.barrier()
    with open(f"{folder}/{world}-{rank}.json", "w") as file:
        json.dump(outcomes, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # an interpreter that ends while threads of gloo run is aborted now and then


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcomes of each process, for each number of processes."""
    folder = tmp_path_factory.mktemp("processes")
    for world in WORLDS:
        with ThreadPoolExecutor(world) as pool:
            list(pool.map(partial(in_a_process, run_checks), range(world), [world] * world, [str(folder)] * world))
    return outcomes_of(folder, WORLDS)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CHECKS)
def test_on_several_processes(outcomes, name, world):
    assert_all_right([of_rank[name] for of_rank in outcomes[world]])
