"""fastopt.torch against torch.optim and against fastopt on arrays: the same runs, whatever users do between steps."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from support.registry import CLASSES
from support.torch_twins import ROWS, TWINS, assert_close

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")

pytestmark = pytest.mark.usefixtures("torch_doubles")

STEPS = 12
TAKE_ROWS = [
    name
    for name, cls in CLASSES.items()
    if not cls.for_matrices and getattr(fastopt, name)(np.ones((4, 3)))._table.takes_rows(0)
]
SHAPES = ((3, 4), (17,), (), (2, 3, 5))
DTYPES = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}


def parameters(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes
    ]


def set_gradients(seed, *lists):
    """Give the parameters of several lists the same gradients."""
    generator = torch.Generator().manual_seed(seed)
    for of_all in zip(*lists, strict=True):
        g = torch.randn(of_all[0].shape, generator=generator, dtype=torch.float64)
        for p in of_all:
            p.grad = g.to(p.dtype)


def arrays(tensors):
    return [p.detach().double().numpy().copy() for p in tensors]


@pytest.mark.parametrize(("cls", "draws"), ROWS.values(), ids=ROWS)
def test_trajectory(cls, draws):
    rng = np.random.default_rng(7)
    kwargs = {name: draw(rng) for name, draw in draws.items()}
    ours, theirs = parameters(), parameters()
    opt, peer = getattr(fastopt.torch, cls)(ours, **kwargs), getattr(torch.optim, cls)(theirs, **kwargs)
    for i in range(STEPS):
        if i == STEPS // 2:
            opt.param_groups[0]["lr"] = peer.param_groups[0]["lr"] = kwargs["lr"] / 2
        set_gradients(i, ours, theirs)
        opt.step()
        peer.step()
    assert_close(arrays(ours), arrays(theirs), 1e-12)


@pytest.mark.parametrize("cls", TWINS)
def test_arguments_are_those_of_torch(cls):
    """Each by position and with torch's default; those of fastopt follow by name."""
    ours = getattr(fastopt.torch, cls).__signature__.parameters
    theirs = inspect.signature(getattr(torch.optim, cls)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name: ours[name] for name in theirs} == dict(theirs)
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(ours)[len(theirs) :])


def shapes_for(cls):
    return [(4, 6), (130, 3)] if CLASSES[cls].for_matrices else [*SHAPES, (0, 3)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_bits_of_fastopt(cls, dtype):
    """A class makes the steps of the class of fastopt, in the memory of the tensors."""
    ours = parameters(shapes_for(cls), dtype)
    theirs = [p.detach().numpy().copy() for p in ours]
    options = {"lr": 1e-2, "weight_decay": 1e-2}
    opt, peer = getattr(fastopt.torch, cls)(ours, **options), getattr(fastopt, cls)(theirs, **options)
    where = [p.data_ptr() for p in ours]
    for i in range(STEPS):
        set_gradients(i, ours)
        opt.step()
        peer.step([p.grad.numpy() for p in ours])
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q)
    assert where == [p.data_ptr() for p in ours]


def test_bfloat16():
    ours = parameters(dtype=torch.bfloat16)
    theirs = [p.detach().float().numpy().astype(ml_dtypes.bfloat16) for p in ours]
    opt, peer = fastopt.torch.AdamW(ours), fastopt.AdamW(theirs)
    for i in range(STEPS):
        set_gradients(i, ours)
        opt.step()
        peer.step([p.grad.float().numpy() for p in ours])
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.detach().float().numpy(), q.astype(np.float32))


def transposed(t):
    return t.t().contiguous().t()


def channels_last(t):
    return t.reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)


def sliced(t):
    wide = torch.zeros(t.shape[0], 2 * t.shape[1], dtype=t.dtype)
    wide[:, ::2] = t
    return wide[:, ::2]


LAYOUTS = {"contiguous": lambda t: t.clone(), "transposed": transposed, "sliced": sliced}


@pytest.mark.parametrize("of_p", LAYOUTS)
@pytest.mark.parametrize("of_g", [*LAYOUTS, "expanded"])
def test_layouts(of_p, of_g):
    generator = torch.Generator().manual_seed(1)
    plain = torch.nn.Parameter(torch.randn(4, 6, generator=generator))
    other = torch.nn.Parameter(LAYOUTS[of_p](plain.data))
    one, two = fastopt.torch.Adam([plain]), fastopt.torch.Adam([other])
    for _ in range(3):
        if of_g == "expanded":
            g = torch.randn(6, generator=generator)
            plain.grad, other.grad = g.repeat(4, 1), g.expand(4, 6)
        else:
            plain.grad = torch.randn(4, 6, generator=generator)
            other.grad = LAYOUTS[of_g](plain.grad)
        one.step()
        two.step()
    assert torch.equal(plain, other)


def test_channels_last():
    plain = torch.nn.Parameter(torch.randn(2, 3, 2, 2))
    other = torch.nn.Parameter(channels_last(plain.data))
    one, two = fastopt.torch.Adam([plain]), fastopt.torch.Adam([other])
    for _ in range(3):
        plain.grad = torch.randn(2, 3, 2, 2)
        other.grad = channels_last(plain.grad)
        one.step()
        two.step()
    assert torch.equal(plain, other)


def test_gradients_of_tensors_for_arrays():
    """The classes of fastopt take tensors as gradients."""
    tensors = parameters(dtype=torch.float32)
    ours, theirs = ([p.detach().numpy().copy() for p in tensors] for _ in range(2))
    opt, peer = fastopt.AdamW(ours), fastopt.AdamW(theirs)
    set_gradients(0, tensors)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
        grads = [p.grad.to(dtype) for p in tensors]
        opt.step(grads)
        peer.step([g.double().numpy() for g in grads])
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p, q)


def refused(gradient, shape=(3,)):
    p = np.zeros(shape, np.float32)
    opt = fastopt.Adam([p])
    with pytest.raises((TypeError, ValueError)) as error:
        opt.step([gradient])
    assert not p.any()
    assert opt.step_count == 0
    return str(error.value)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_gradients_that_cannot_be_read():
    assert "must be on the CPU, got a tensor on meta" in refused(torch.zeros(3, device="meta"))
    assert "must have dtype float16, bfloat16" in refused(torch.zeros(3, dtype=torch.complex64))
    assert "got torch.int32" in refused(torch.zeros(3, dtype=torch.int32))
    negated = torch.ones(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    assert "resolve_neg()" in refused(negated)
    assert "resolve_neg()" in refused(torch.ones(1, dtype=torch.complex64).conj().imag, (1,))
    assert "must be dense, got a tensor of layout torch.sparse_csr" in refused(torch.ones(3, 3).to_sparse_csr(), (3, 3))
    assert "sparse along its first axis alone" in refused(torch.ones(3, 3).to_sparse(), (3, 3))
    assert "must have its parameter's shape (3,), got (4,)" in refused(torch.zeros(4))


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize("bad", ["meta", "complex", "float8", "overlapping", "twice", "shared"])
def test_parameters_that_cannot_be_stepped(bad):
    good = torch.nn.Parameter(torch.zeros(3))
    params = {
        "meta": [torch.nn.Parameter(torch.zeros(3, device="meta"))],
        "complex": [torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))],
        "float8": [torch.zeros(3, dtype=torch.float8_e4m3fn)],
        "overlapping": [torch.zeros(1).expand(3)],
        "twice": [good, good],
        "shared": [torch.nn.Parameter(good.data[:2]), good],
    }
    with pytest.raises((TypeError, ValueError), match=r"^Adam: .*parameter \d"):
        fastopt.torch.Adam(params[bad])


def test_tensors_are_no_parameters_of_the_classes_for_arrays():
    """The message says where their classes are."""
    with pytest.raises(TypeError, match=r"got Parameter; fastopt\.torch has the rules for tensors"):
        fastopt.Adam(torch.nn.Linear(2, 2).parameters())


def test_parameters_of_integers_are_left_alone():
    whole = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    p = torch.nn.Parameter(torch.zeros(3))
    opt = fastopt.torch.Adam([whole, p])
    p.grad = torch.ones(3)
    opt.step()
    assert whole.tolist() == [0, 1, 2]
    assert p.tolist() != [0, 0, 0]


def test_a_parameter_that_moves_keeps_its_state():
    ours, theirs = parameters(), parameters()
    opt, peer = fastopt.torch.AdamW(ours), torch.optim.AdamW(theirs)
    for i in range(STEPS):
        for p, q in zip(ours, theirs, strict=True):
            if i % 3 == 2:
                p.data = p.data * 1.5
                q.data = q.data * 1.5
        set_gradients(i, ours, theirs)
        opt.step()
        peer.step()
    assert_close(arrays(ours), arrays(theirs), 1e-12)


def test_a_parameter_that_changes_its_dtype():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float32))
    opt = fastopt.torch.Adam([p])
    p.data = p.data.double()
    p.grad = torch.ones(3, dtype=torch.float64)
    opt.step()
    assert opt.state[p]["exp_avg"].dtype == torch.float64
    p.data = p.data.float()
    p.grad = torch.ones(3, dtype=torch.float32)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"Adam\.step: parameter 0 must keep shape"):
        opt.step()
    assert torch.equal(p, before)


def test_frozen_and_thawed_parameters():
    """A parameter without a gradient stays, and its count of steps too."""
    ours, theirs = parameters(), parameters()
    opt, peer = fastopt.torch.Adam(ours), torch.optim.Adam(theirs)
    for i in range(STEPS):
        set_gradients(i, ours, theirs)
        for of_both in zip(ours, theirs, strict=True):
            for p in of_both:
                p.requires_grad_(i % 3 != 1)
                if i % 3 == 1 or (i == 0 and of_both[0] is ours[0]):
                    p.grad = None
        opt.step()
        peer.step()
        assert set(map(id, opt.state)) == {id(p) for p, q in zip(ours, theirs, strict=True) if q in peer.state}
    assert_close(arrays(ours), arrays(theirs), 1e-12)
    assert [opt.state[p]["step"].item() for p in ours] == [peer.state[q]["step"].item() for q in theirs]


def test_groups():
    """Groups with hyperparameters of their own, edited between steps; one that is added on the way."""
    ours, theirs = parameters(), parameters()
    pairs = []
    for cls, params in ((fastopt.torch.SGD, ours), (torch.optim.SGD, theirs)):
        groups = [{"params": params[:2], "momentum": 0.9, "name": "first"}, {"params": params[2:4], "lr": 0.2}]
        pairs.append(cls(groups, lr=0.1))
    for i in range(STEPS):
        set_gradients(i, ours, theirs)
        for opt, params in zip(pairs, (ours, theirs), strict=True):
            if i == 3:
                opt.param_groups[0]["momentum"] = 0.5
                opt.param_groups[1].update(lr=0.05, weight_decay=0.1)
            if i == 5:
                opt.add_param_group({"params": params[4:], "lr": 0.3, "nesterov": False})
            opt.step()
    assert_close(arrays(ours), arrays(theirs), 1e-12)


def test_a_value_out_of_range_is_refused():
    p = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="lr"):
        fastopt.torch.Adam([p], lr=-1.0)
    opt = fastopt.torch.Adam([p])
    opt.param_groups[0]["lr"] = -1.0
    p.grad = torch.ones(3)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"groups\[0\].*lr must be"):
            opt.step()
    assert p.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="Adam: capturable must be False on a CPU, got True"):
        fastopt.torch.Adam([p], capturable=True)
    with pytest.raises(TypeError, match="did you mean 'weight_decay'"):
        fastopt.torch.Adam([p], wd=0.1)
    opt.param_groups[0]["lr"] = 1.0
    with pytest.raises(ValueError, match="eps must be"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "eps": -1.0})
    assert len(opt.param_groups) == 1


def test_tensors_as_hyperparameters():
    ours, theirs = parameters(), parameters()
    lrs = [torch.tensor(0.1), torch.tensor(0.1)]
    opt, peer = fastopt.torch.Adam(ours, lr=lrs[0]), torch.optim.Adam(theirs, lr=lrs[1])
    for i in range(STEPS):
        set_gradients(i, ours, theirs)
        for lr in lrs:
            lr.mul_(0.9)
        opt.step()
        peer.step()
    assert_close(arrays(ours), arrays(theirs), 1e-12)


def test_closures_and_hooks():
    p = torch.nn.Parameter(torch.ones(3))
    opt, calls = fastopt.torch.SGD([p], lr=0.1), []
    opt.register_step_pre_hook(lambda *_: calls.append("pre"))
    opt.register_step_post_hook(lambda *_: calls.append("post"))

    def closure():
        opt.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append("closure")
        return loss

    with torch.no_grad():
        assert opt.step(closure).item() == 3
    assert calls == ["pre", "closure", "post"]
    np.testing.assert_allclose(p.detach(), 0.8)
    opt.zero_grad(set_to_none=False)
    assert not p.grad.any()


def test_hooks_and_profilers_are_told_once():
    """Also where a user's own class makes the step."""

    from torch.optim.optimizer import register_optimizer_step_post_hook

    class Own(fastopt.torch.SGD):
        def step(self, closure=None):
            return super().step(closure)

    told = []
    for cls in (fastopt.torch.SGD, Own, fastopt.torch.SGD):
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        opt = cls([p], lr=0.1)
        handle = register_optimizer_step_post_hook(lambda one, *_: told.append(one))
        opt.step()
        handle.remove()
        opt.step()
        assert told.pop() is opt
        assert not told
        with torch.profiler.profile() as profile:
            opt.step()
        names = [event.name for event in profile.events() if event.name.startswith("Optimizer.step")]
        assert names == [f"Optimizer.step#{cls.__name__}.step"]
        np.testing.assert_allclose(p.detach(), 0.7)


def test_a_step_marks_its_parameters_as_changed():
    """A backward pass through values that a step has changed is refused by torch."""
    p, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = fastopt.torch.SGD([p, other], lr=0.1)
    for _ in range(2):
        losses = [(one * one).sum() for one in (p, other)]
        p.grad = torch.ones(3)
        opt.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            losses[0].backward()
        losses[1].backward()  # it had no gradient, and stayed
        other.grad = None
        p.data = p.data.clone()


def test_tensors_that_are_swapped_in_one_memory_are_marked_as_changed():
    """torch gives a parameter the insides of another tensor, such as its count of changes."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = fastopt.torch.SGD([p], lr=0.1)
    p.grad = torch.ones(3)
    for _ in range(2):
        opt.step()
        gradient = p.grad
        torch.utils.swap_tensors(p, torch.nn.Parameter(p.data))
        p.grad = gradient
        loss = (p * p).sum()
        opt.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        del loss  # torch swaps no tensor that something else refers to
    np.testing.assert_allclose(p.detach(), 0.6, rtol=1e-6)


def test_versions_are_counted_alike():
    """Each step counts one change of each parameter that has a gradient, whatever is done to the parameters."""
    p, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = fastopt.torch.SGD([p], lr=0.1)
    opt.add_param_group({"params": [other]})
    with torch.inference_mode():
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    for i in range(4):
        before = p._version, other._version
        p.grad, other.grad = torch.ones(3), torch.ones(3) if i % 2 else None
        opt.step()
        assert (p._version, other._version) == (before[0] + 1, before[1] + i % 2)


@pytest.mark.parametrize("cls", TAKE_ROWS)
def test_sparse_gradients(cls):
    """A sparse gradient is a RowGrad."""
    table = torch.nn.Embedding(20, 3, sparse=True)
    array = table.weight.detach().numpy().copy()
    opt, peer = getattr(fastopt.torch, cls)(table.parameters(), lr=0.1), getattr(fastopt, cls)([array], lr=0.1)
    for i in range(4):
        rows = torch.tensor([3, i, 3, 7])
        opt.zero_grad()
        (table(rows) ** 2).sum().backward()
        g = table.weight.grad
        peer.step([fastopt.RowGrad(g._indices()[0].numpy(), g._values().numpy())])
        opt.step()
    np.testing.assert_array_equal(table.weight.detach().numpy(), array)


def test_sparse_adam():
    table, other = (torch.nn.Embedding(20, 3, sparse=True) for _ in range(2))
    other.load_state_dict(table.state_dict())
    # torch adds eps to the root before the bias is corrected.
    opt = fastopt.torch.Adam(table.parameters(), eps=1e-30)
    peer = torch.optim.SparseAdam(other.parameters(), eps=1e-30)
    for i in range(6):
        for one, model in ((opt, table), (peer, other)):
            one.zero_grad()
            (model(torch.tensor([3, i, 3, 7])) ** 2).sum().backward()
            one.step()
    np.testing.assert_allclose(table.weight.detach(), other.weight.detach(), rtol=0, atol=1e-12)


def test_grad_scaler():
    ours, theirs = parameters(), parameters()
    opt, peer = fastopt.torch.AdamW(ours), torch.optim.AdamW(theirs)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3) for _ in range(2)]
    for i in range(STEPS):
        for scaler, one, params in zip(scalers, (opt, peer), (ours, theirs), strict=True):
            one.zero_grad()
            loss = sum(((p - 1) ** 2).sum() for p in params) * (float("inf") if i == 4 else 1.0)
            scaler.scale(loss).backward()
            if i % 2:
                scaler.unscale_(one)
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(one)
            scaler.update()
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert_close(arrays(ours), arrays(theirs), 1e-12)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("cls", CLASSES)
def test_copies_go_on(cls, way):
    ours = parameters(shapes_for(cls))
    opt = getattr(fastopt.torch, cls)(ours, lr=0.01)
    for i in range(3):
        set_gradients(i, ours)
        opt.step()
    both = (ours, opt)
    theirs, other = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert type(other) is type(opt)
    assert all(p is q for p, q in zip(theirs, other.param_groups[0]["params"], strict=True))
    for i in range(3):
        set_gradients(i, ours, theirs)
        opt.step()
        other.step()
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "load_state_dict"])
def test_elements_keep_their_places_in_a_walk(way):
    """Parameters that have come to lie in another order keep their groups of codes and their random numbers."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(20, 30).to(torch.bfloat16))]
    opt = fastopt.torch.AdamW(ours, lr=0.01, master="split8", state_dtype="8bit")

    def step(*optimizers):
        for one in optimizers:
            (p,) = one.param_groups[0]["params"]
            p.grad = torch.linspace(-1, 1, p.numel()).reshape(p.shape).to(p.dtype)
            one.step()

    step(opt)
    ours[0].data = ours[0].data.t().contiguous().t()
    step(opt)
    if way == "load_state_dict":
        theirs, other = copy.deepcopy((ours, opt))
        other.load_state_dict(opt.state_dict())
    else:
        theirs, other = (copy.deepcopy if way == "deepcopy" else lambda both: pickle.loads(pickle.dumps(both)))(
            (ours, opt)
        )
    step(opt, other)
    assert torch.equal(ours[0], theirs[0])
    assert (opt._inner.state[0]["low"] == other._inner.state[0]["low"]).all()


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "load_state_dict"])
def test_norms_keep_their_order(way):
    """Squares are added up in the order of the first step, wherever parameters have moved since."""
    ours = parameters(((37, 53), (8, 9, 10)), torch.float32)
    opt = fastopt.torch.Adam(ours, clip_norm=1.0)
    set_gradients(0, ours)
    opt.step()
    for p in ours:
        p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
    set_gradients(1, ours)
    opt.step()
    theirs, other = pickle.loads(pickle.dumps((ours, opt))) if way == "pickle" else copy.deepcopy((ours, opt))
    if way == "load_state_dict":
        other.load_state_dict(opt.state_dict())
    for i in range(2, 12):
        set_gradients(i, ours, theirs)
        opt.step()
        other.step()
        assert opt.grad_norm == other.grad_norm
        assert all(map(torch.equal, ours, theirs))


def test_copies_count_skipped_steps():
    p = torch.nn.Parameter(torch.ones(2))
    opt = fastopt.torch.SGD([p], nonfinite="skip", max_skips=2)
    p.grad = torch.full((2,), torch.nan)
    opt.step()
    other = copy.deepcopy(opt)
    assert other.skipped_steps == 1
    for _ in range(2):
        other.param_groups[0]["params"][0].grad = torch.full((2,), torch.nan)
        if other.skipped_steps == 1:
            other.step()
    with pytest.raises(FloatingPointError):
        other.step()


def test_hyperparameters_as_numpy_has_them():
    p = torch.nn.Parameter(torch.ones(2))
    opt = fastopt.torch.Adam([p], lr=np.float32(0.1), betas=np.array([0.5, 0.9]))
    p.grad = torch.ones(2)
    opt.step()
    assert opt._inner.groups[0]["betas"] == (0.5, 0.9)
    rate = np.array(0.25)
    opt.param_groups[0] |= {"lr": rate, "betas": np.array([0.6, 0.9])}
    opt.step()
    assert (opt._inner.groups[0]["lr"], opt._inner.groups[0]["betas"]) == (0.25, (0.6, 0.9))
    rate[...] = 0.5
    opt.step()
    assert opt._inner.groups[0]["lr"] == 0.5
    deep = []
    deep.append(deep)
    for name, bad in (("lr", np.ma.masked), ("maximize", 0), ("eps", deep), ("betas", np.ones(3))):
        before, opt.param_groups[0][name] = opt.param_groups[0][name], bad
        with pytest.raises((TypeError, ValueError), match=f"{name}.* must be"):
            opt.step()
        opt.param_groups[0][name] = before
    opt.step()
    opt.param_groups[0] |= {"lr": 1.0, "betas": (0.5, 0.0)}
    opt.step()
    for name, bad in (("lr", True), ("lr", np.True_), ("betas", (0.5, np.False_)), ("betas", [0.5, False])):
        before, opt.param_groups[0][name] = opt.param_groups[0][name], bad
        with pytest.raises((TypeError, ValueError), match=f"{name}.* must be"):
            opt.step()
        opt.param_groups[0][name] = before


def test_a_master_for_some_groups():
    full, half = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    opt = fastopt.torch.SGD([{"params": [full]}, {"params": [half]}], master="float32")
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert "master" in opt._inner.state[1]
    with pytest.raises(ValueError, match="master must be auto or None for parameters of float64"):
        fastopt.torch.SGD([full], master="float32")


def test_state_is_the_memory_of_the_step():
    ours = parameters()
    opt = fastopt.torch.Adam(ours)
    assert not opt.state
    set_gradients(0, ours)
    opt.step()
    m = opt.state[ours[0]]["exp_avg"]
    before = m.clone()
    opt.step()
    assert not torch.equal(m, before)
    assert m.data_ptr() == opt.state[ours[0]]["exp_avg"].data_ptr()
    assert opt.state[ours[0]]["step"].item() == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda lr, o: lr.StepLR(o, 3),
        lambda lr, o: lr.MultiStepLR(o, [2, 5]),
        lambda lr, o: lr.LambdaLR(o, lambda t: 0.9**t),
        lambda lr, o: lr.MultiplicativeLR(o, lambda t: 0.9),
        lambda lr, o: lr.ConstantLR(o),
        lambda lr, o: lr.LinearLR(o),
        lambda lr, o: lr.ExponentialLR(o, 0.9),
        lambda lr, o: lr.PolynomialLR(o, 9),
        lambda lr, o: lr.CosineAnnealingLR(o, 7),
        lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 4),
        lambda lr, o: lr.CyclicLR(o, 1e-3, 1e-1, 3),
        lambda lr, o: lr.OneCycleLR(o, 0.1, 20),
        lambda lr, o: lr.ReduceLROnPlateau(o, patience=1),
        lambda lr, o: lr.SequentialLR(o, [lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)], [4]),
        lambda lr, o: lr.ChainedScheduler([lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)]),
        lambda lr, o: torch.optim.swa_utils.SWALR(o, 0.01, 4),
    ],
)
def test_schedulers_of_torch(make):
    ours, theirs = parameters(), parameters()
    opt, peer = (
        one(params, lr=0.05, momentum=0.9) for one, params in ((fastopt.torch.SGD, ours), (torch.optim.SGD, theirs))
    )
    schedulers = [make(torch.optim.lr_scheduler, one) for one in (opt, peer)]
    for i in range(STEPS):
        set_gradients(i, ours, theirs)
        for one, scheduler in zip((opt, peer), schedulers, strict=True):
            one.step()
            scheduler.step(*([1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
        assert opt.param_groups[0]["lr"] == peer.param_groups[0]["lr"]
    assert_close(arrays(ours), arrays(theirs), 1e-12)


def test_every_class():
    """The catalogue has them all; each is found where pickle looks for it."""
    assert set(fastopt.torch.__all__) == {*CLASSES, "TorchOptimizer", "wrap"}
    for name in CLASSES:
        cls = getattr(fastopt.torch, name)
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert cls.__doc__.startswith(f"{name} as an optimizer of torch")


def test_fastopt_does_not_import_torch():
    code = """
import sys, fastopt, numpy
fastopt.Adam([numpy.zeros(3)]).step([numpy.ones(3)])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_averages():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float32))
    array = p.detach().numpy().copy()
    opt, peer = fastopt.torch.Adam([p], ema_decay=0.9), fastopt.Adam([array], ema_decay=0.9)
    for i in range(4):
        p.data = p.data.clone()
        set_gradients(i, [p])
        opt.step()
        peer.step([p.grad.numpy()])
    before = p.detach().clone()
    with opt.swapped("ema"):
        np.testing.assert_array_equal(p.detach().numpy(), peer.ema[0])
    assert torch.equal(p, before)
    assert opt.step_count == 4


def test_options_of_the_step():
    """Clipping, skipped steps and a scale that adapts, as in fastopt."""
    ours = parameters(dtype=torch.float32)
    theirs = [p.detach().numpy().copy() for p in ours]
    options = {"clip_norm": 0.5, "nonfinite": "skip", "zero_grads": True}
    opt = fastopt.torch.AdamW(ours, **options, grad_scale=fastopt.LossScale(4.0))
    peer = fastopt.AdamW(theirs, **options, grad_scale=fastopt.LossScale(4.0))
    for i in range(4):
        set_gradients(i, ours)
        if i == 2:
            ours[0].grad[0] = float("nan")
        grads = [p.grad.numpy().copy() for p in ours]
        opt.step()
        peer.step(grads)
        assert not any(p.grad.any() for p in ours)
        assert opt.grad_norm == peer.grad_norm or i == 2
    assert opt.skipped_steps == peer.skipped_steps == 1
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q)


def test_parameters_that_are_replaced_in_their_group():
    """Some stay with their state, one is new, one is gone."""
    ours = parameters()
    array = ours[0].detach().numpy().copy()
    opt, peer = fastopt.torch.Adam(ours[:2]), fastopt.Adam([array])
    for i in range(6):
        if i == 3:
            opt.param_groups[0]["params"][1] = ours[3]
            opt.param_groups[0]["params"].append(ours[2])
        set_gradients(i, ours)
        opt.step()
        peer.step([ours[0].grad.numpy()])
    np.testing.assert_array_equal(ours[0].detach().numpy(), array)
    assert {id(p): int(entry["step"]) for p, entry in opt.state.items()} == {
        id(ours[0]): 6,
        id(ours[3]): 3,
        id(ours[2]): 3,
    }


def test_gradients_of_types_with_attributes_of_their_own():
    """Also of a type that gets one after the first step."""

    class Changed(torch.nn.Parameter):
        pass

    class Asked(torch.nn.Parameter):
        def __getattribute__(self, name):
            return torch.full((3,), 2.0) if name == "grad" else super().__getattribute__(name)

    params = [Changed(torch.ones(3)), Asked(torch.ones(3))]
    opt = fastopt.torch.SGD(params, lr=1.0)
    params[0].grad = torch.ones(3)
    for _ in range(2):
        opt.step()
    assert [p.tolist() for p in params] == [[-1.0] * 3, [-3.0] * 3]
    Changed.grad = property(lambda self: torch.full((3,), 4.0))
    opt.step()
    assert [p.tolist() for p in params] == [[-5.0] * 3, [-5.0] * 3]


def test_tensors_of_a_torch_without_the_exchange_table():
    """They are read by their methods."""

    class Older(torch.nn.Parameter):
        __dlpack_c_exchange_api__ = None

    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        plain = torch.nn.Parameter(torch.ones(4, 6, dtype=dtype))
        older = Older(torch.ones(6, 4, dtype=dtype).t())
        one, two = fastopt.torch.Adam([plain]), fastopt.torch.Adam([older])
        for i in range(3):
            set_gradients(i, [plain])
            older.grad = Older(plain.grad.t().contiguous().t())
            one.step()
            two.step()
        assert torch.equal(plain.detach(), older.detach())
    p = Older(torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="must be on the CPU, got a tensor on meta"):
        fastopt.torch.Adam([p])
