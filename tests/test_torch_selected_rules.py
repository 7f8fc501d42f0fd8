"""Momentum of param_groups that is 0 for a while, or from the first step on, as in torch.optim."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from support.torch_twins import assert_close

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")

SHAPES = ((3, 4), (17,), (2, 3, 5))
VALUES = (0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.0, 0.5)  # of momentum, for each step
RUNS = {
    "momentum": ("SGD", {}),
    "dampening": ("SGD", {"dampening": 0.5, "weight_decay": 0.01}),
    "uncentered": ("RMSprop", {}),
    "centered": ("RMSprop", {"centered": True, "maximize": True}),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def set_gradients(i, *lists):
    generator = torch.Generator().manual_seed(i)
    for of_all in zip(*lists, strict=True):
        g = torch.randn(of_all[0].shape, generator=generator, dtype=torch.float64)
        for p in of_all:
            p.grad = g.clone()


def assert_alike(ours, theirs, opt, peer):
    """Parameters and all that torch keeps of them."""
    assert_close([p.detach().numpy() for p in ours], [p.detach().numpy() for p in theirs], 1e-12)
    for p, q in zip(ours, theirs, strict=True):
        for key, value in peer.state.get(q, {}).items():
            np.testing.assert_allclose(opt.state[p][key].double(), value.double(), rtol=1e-9, atol=1e-12)


def reloaded(params, opt):
    """Return another optimizer with its state, which begins with torch's defaults."""
    other = type(opt)(params)
    other.load_state_dict(opt.state_dict())
    return params, other


def with_a_further_group(params, opt):
    if len(opt.param_groups) == 1:
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.float64))]})
    return params, opt


def with_another_list(params, opt):
    """A parameter comes last in its group, so that all are laid out anew."""
    opt.param_groups[0]["params"].append(torch.nn.Parameter(torch.ones(2, dtype=torch.float64)))
    return params, opt


WAYS = {
    "none": lambda params, opt: (params, opt),
    "deepcopy": lambda *both: copy.deepcopy(both),
    "pickle": lambda *both: pickle.loads(pickle.dumps(both)),
    "load": reloaded,
    "a further group": with_a_further_group,
    "another list": with_another_list,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("run", RUNS)
def test_momentum_of_param_groups(run, way):
    """After each step and each edit a copy, a load or a change of the groups: torch does the same."""
    cls, options = RUNS[run]
    both = []
    for module in (fastopt.torch, torch.optim):
        params = parameters()
        both.append((params, getattr(module, cls)(params, lr=0.01, momentum=VALUES[0], **options)))
    for i, momentum in enumerate(VALUES):
        for _, opt in both:
            opt.param_groups[0]["momentum"] = momentum
        if i % 2:
            both = [WAYS[way](*one) for one in both]
        set_gradients(i, *(params for params, _ in both))
        for _, opt in both:
            opt.step()
        if not i % 2:
            both = [WAYS[way](*one) for one in both]
        (ours, opt), (theirs, peer) = both
        assert_alike(ours, theirs, opt, peer)


@pytest.mark.parametrize("run", ["momentum", "uncentered", "centered"])
def test_runs_change_places_with_torch(run):
    """Each goes on with the state dict of the other, also while momentum is 0."""
    cls, options = RUNS[run]
    makes = [getattr(module, cls) for module in (fastopt.torch, torch.optim)]
    lists = [parameters() for _ in range(3)]
    runs = [
        make(params, lr=0.01, momentum=VALUES[0], **options)
        for make, params in zip([*makes, makes[1]], lists, strict=True)
    ]
    for i, momentum in enumerate(VALUES):
        for opt in runs:
            opt.param_groups[0]["momentum"] = momentum
        set_gradients(i, *lists)
        for opt in runs:
            opt.step()
        lists[0], lists[1] = lists[1], lists[0]
        states = [copy.deepcopy(opt.state_dict()) for opt in runs[:2]]
        runs[:2] = [make(params) for make, params in zip(makes, lists[:2], strict=True)]
        for opt, state in zip(runs[:2], reversed(states), strict=True):
            opt.load_state_dict(state)
    for params in lists[:2]:
        assert_close([p.detach().numpy() for p in params], [p.detach().numpy() for p in lists[2]], 1e-12)


@pytest.mark.parametrize("module", [torch.optim, fastopt.torch])
def test_a_checkpoint_without_buffers(module):
    """The groups come from it too; momentum can be set afterwards, and begins with the next gradient."""
    ours, theirs = parameters(), parameters()
    first = module.SGD(parameters(), lr=0.1)
    set_gradients(0, first.param_groups[0]["params"])
    first.step()
    both = [
        (params, one.SGD(params, lr=0.1, momentum=0.9))
        for one, params in ((fastopt.torch, ours), (torch.optim, theirs))
    ]
    plain = {**copy.deepcopy(first.state_dict()), "state": {}}
    for (_, opt), state in zip(both, (first.state_dict(), plain), strict=True):
        opt.load_state_dict(state)
    for i, momentum in enumerate((0.0, 0.9, 0.9, 0.0, 0.5)):
        set_gradients(i, ours, theirs)
        for _, opt in both:
            opt.param_groups[0]["momentum"] = momentum
            opt.step()
        assert_alike(ours, theirs, both[0][1], both[1][1])


@pytest.mark.parametrize("options", [{}, {"centered": True}, {"state_dtype": "8bit"}, {"ema_decay": 0.9}], ids=str)
def test_a_buffer_that_comes_later_begins_at_zero(options):
    """As one that was laid out and not used; torch's RMSprop raises a KeyError."""
    lists = [parameters(), parameters()]
    runs = [fastopt.torch.RMSprop(params, momentum=m, **options) for params, m in zip(lists, (0.0, 0.9), strict=True)]
    for i, momentum in enumerate((0.0, 0.0, 0.9, 0.9, 0.0)):
        set_gradients(i, *lists)
        for opt in runs:
            opt.param_groups[0]["momentum"] = momentum
            opt.step()
    for p, q in zip(*lists, strict=True):
        assert torch.equal(p, q)
        entry, other = (opt.state[one] for opt, one in zip(runs, (p, q), strict=True))
        assert entry.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in entry.items())


@pytest.mark.parametrize(
    ("cls", "options", "edit"),
    [
        ("Adam", {"amsgrad": True}, {"amsgrad": False}),
        ("Adam", {}, {"amsgrad": True}),
        ("RMSprop", {"centered": True}, {"centered": False}),
        ("SGD", {"momentum": 0.9, "nesterov": True}, {"nesterov": False}),
    ],
)
@pytest.mark.parametrize("way", ["step", "another list", "deepcopy"])
def test_options_that_must_stay(cls, options, edit, way):
    """The state of another rule is refused, and nothing has changed."""
    ours, theirs = parameters(), parameters()
    opt, peer = (getattr(fastopt.torch, cls)(params, lr=0.01, **options) for params in (ours, theirs))
    set_gradients(0, ours, theirs)
    opt.step()
    peer.step()
    group = opt.param_groups[0]
    ((key, value),) = edit.items()
    before, group[key] = group[key], value
    further = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    if way == "another list":
        group["params"].append(further)
    with pytest.raises(ValueError, match=f"{key} must stay {before}, since"):
        copy.deepcopy(opt) if way == "deepcopy" else opt.step()
    group[key] = before
    if way == "another list":
        del group["params"][-1]
    set_gradients(1, ours, theirs)
    opt.step()
    peer.step()
    assert all(map(torch.equal, ours, theirs))
