"""torch's own table of configurations of its optimizers: each gives the same run in fastopt.torch."""

import copy
import re

import pytest

import fastopt
from support.registry import CLASSES
from support.torch_twins import assert_close

torch = pytest.importorskip("torch", reason="the table is torch's")
pytest.importorskip("expecttest", reason="torch's table needs expecttest")
common = pytest.importorskip("torch.testing._internal.common_optimizers", reason="this torch has no such table")

pytestmark = pytest.mark.usefixtures("torch_doubles")

STEPS = 10
INFOS = {info.name: info for info in common.optim_db if info.name in CLASSES}
CONFIGURATIONS = [
    pytest.param(name, given.kwargs, id=f"{name}-{given.desc or 'plain'}")
    for name, info in INFOS.items()
    for given in info.optim_inputs_func(device="cpu", dtype=torch.float64)
]
ERRORS = [
    pytest.param(name, given, id=f"{name}-{given.optimizer_error_input.desc}")
    for name, info in INFOS.items()
    for given in info.optim_error_inputs_func("cpu", torch.float64)
    if given.error_on is common.OptimizerErrorEnum.CONSTRUCTION_ERROR
    and given.error_type is not UserWarning
    # Some of torch's implementations take no tensors as lr or betas; fastopt takes them.
    and not re.search("[tT]ensors?[ 0-9]|Tensors$", given.optimizer_error_input.desc.replace("Tensor lr must be", ""))
]


def tensors(kind):
    """A weight and a bias, contiguous or every second element of larger tensors; those of Muon are weights alone."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(10, 5), (5, 10)] if kind == "matrices" else [(10, 5), (10,)]
    if kind == "strided":
        return [torch.nn.Parameter(torch.randn(*shape, 2, generator=generator)[..., 0]) for shape in shapes]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("kind", ["contiguous", "strided", "named", "groups"])
@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_configurations(name, kwargs, kind):
    lists = [tensors("matrices" if CLASSES[name].for_matrices else kind) for _ in range(2)]
    optimizers = []
    for cls, params in ((getattr(fastopt.torch, name), lists[0]), (INFOS[name].optim_cls, lists[1])):
        given = params
        if kind == "named":
            given = [(f"p{i}", p) for i, p in enumerate(params)]
        elif kind == "groups":
            given = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0}]
        optimizers.append(cls(given, **copy.deepcopy(kwargs)))
    generator = torch.Generator().manual_seed(4)
    for _ in range(STEPS):
        for p, q in zip(*lists, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    ours, theirs = ([p.detach().numpy() for p in params] for params in lists)
    tolerance = 1e-12 if not CLASSES[name].for_matrices else 2e-2  # torch multiplies matrices in bfloat16
    assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_states(name, kwargs):
    """Two runs change places on the way: each goes on with the state dict of the other."""
    makes = [getattr(fastopt.torch, name), INFOS[name].optim_cls]
    lists = [tensors("matrices" if CLASSES[name].for_matrices else "contiguous") for _ in range(3)]
    runs = [make(params, **copy.deepcopy(kwargs)) for make, params in zip([*makes, makes[1]], lists, strict=True)]
    generator = torch.Generator().manual_seed(5)
    for i in range(STEPS):
        if i % 3 == 2:
            lists[0], lists[1] = lists[1], lists[0]
            states = [copy.deepcopy(run.state_dict()) for run in runs[:2]]
            runs[:2] = [make(params) for make, params in zip(makes, lists[:2], strict=True)]
            for run, state in zip(runs[:2], reversed(states), strict=True):
                run.load_state_dict(state)
        for of_all in zip(*lists, strict=True):
            g = torch.randn(of_all[0].shape, generator=generator)
            for p in of_all:
                p.grad = g.clone()
        for run in runs:
            run.step()
    ours, swapped, theirs = ([p.detach().numpy() for p in params] for params in lists)
    tolerance = 1e-12 if not CLASSES[name].for_matrices else 2e-2
    assert_close(ours, theirs, tolerance)
    assert_close(swapped, theirs, tolerance)


SCHEDULED = [
    pytest.param(name, makes, id=f"{name}-{i}")
    for name, info in INFOS.items()
    for i, makes in enumerate(info.scheduler_inputs)
]


@pytest.mark.parametrize(("name", "makes"), SCHEDULED)
def test_schedulers(name, makes):
    """Those of the table, several at once."""
    lists = [tensors("matrices" if CLASSES[name].for_matrices else "contiguous") for _ in range(2)]
    classes = (getattr(fastopt.torch, name), INFOS[name].optim_cls)
    optimizers = [cls(params, lr=0.01) for cls, params in zip(classes, lists, strict=True)]
    schedulers = [[make(optimizer) for make in makes] for optimizer in optimizers]
    generator = torch.Generator().manual_seed(6)
    for _ in range(3 * STEPS):
        for p, q in zip(*lists, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for optimizer, of_one in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            for scheduler in of_one:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*([1.0] if plateau else []))
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
    ours, theirs = ([p.detach().numpy() for p in params] for params in lists)
    assert_close(ours, theirs, 1e-12 if not CLASSES[name].for_matrices else 2e-2)


SPARSE = [
    pytest.param(name, {**kwargs, **info.metadata_for_sparse[0]}, id=f"{name}-{given.desc or 'plain'}")
    for name, info in INFOS.items()
    if info.supports_sparse
    for given in info.optim_inputs_func(device="cpu", dtype=torch.float64)
    if not (kwargs := given.kwargs).get("weight_decay")  # which torch refuses with them, or applies to all rows
]


@pytest.mark.parametrize(("name", "kwargs"), SPARSE)
def test_sparse_gradients(name, kwargs):
    lists = [[torch.nn.Parameter(torch.ones(20, 3))] for _ in range(2)]
    classes = (getattr(fastopt.torch, name), INFOS[name].optim_cls)
    optimizers = [cls(params, **copy.deepcopy(kwargs)) for cls, params in zip(classes, lists, strict=True)]
    generator = torch.Generator().manual_seed(7)
    for i in range(STEPS):
        rows, values = torch.tensor([[3, i, 3, 7]]), torch.randn(4, 3, generator=generator)
        for optimizer, (p,) in zip(optimizers, lists, strict=True):
            p.grad = torch.sparse_coo_tensor(rows, values.clone(), p.shape, check_invariants=True)
            optimizer.step()
    assert_close(*([p.detach().numpy() for p in params] for params in lists), 1e-12)


@pytest.mark.parametrize(("name", "given"), ERRORS)
def test_errors(name, given):
    """Refused with the same type of error when it is made."""
    params = given.optimizer_error_input.params or tensors("matrices")
    with pytest.raises((given.error_type, TypeError, ValueError)):
        getattr(fastopt.torch, name)(params, **given.optimizer_error_input.kwargs)
