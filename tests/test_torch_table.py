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


@pytest.fixture(autouse=True, scope="module")
def _doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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


@pytest.mark.parametrize(("name", "given"), ERRORS)
def test_errors(name, given):
    """Refused with the same type of error when it is made."""
    params = given.optimizer_error_input.params or tensors("matrices")
    with pytest.raises((given.error_type, TypeError, ValueError)):
        getattr(fastopt.torch, name)(params, **given.optimizer_error_input.kwargs)
