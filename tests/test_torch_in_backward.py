"""Steps inside of backward: the bits of ordinary steps, with little memory for gradients."""

import copy
import gc
import pickle
import weakref
from contextlib import nullcontext

import numpy as np
import pytest

import fastopt
from support.registry import CLASSES

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")
pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")

STEPS = 8
LAYERS = 4
NEEDS_ALL = [name for name in CLASSES if getattr(fastopt, name)([np.ones((2, 2))])._table.estimates_groups]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads of torch that wait for each other take far longer than these small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def net(dtype=torch.float32, for_matrices=False):
    """Layers of which the last is used twice, so that its gradients are added up before they are complete."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6, bias=not for_matrices) for _ in range(LAYERS)]
    norm = [] if for_matrices else [torch.nn.LayerNorm(6)]
    return torch.nn.Sequential(*layers, torch.nn.Tanh(), *norm, layers[-1]).to(dtype)


def loss_of(model, seed):
    p = next(model.parameters())
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)).to(p.dtype)
    return (model(x) ** 2).mean()


def make(cls, model, **options):
    return getattr(fastopt.torch, cls)(model.parameters(), **options)


def pair(cls, dtype=torch.float32, for_matrices=False, **options):
    """An optimizer that steps in backward and one that does not, each with a model of its own."""
    models = [net(dtype, for_matrices) for _ in range(2)]
    return models, [make(cls, model, in_backward=i == 0, **options) for i, model in enumerate(models)]


def same(models):
    return all(torch.equal(p, q) for p, q in zip(*(model.parameters() for model in models), strict=True))


def run(models, opts, steps=STEPS, after=lambda i: None):
    for i in range(steps):
        for model, opt in zip(models, opts, strict=True):
            opt.zero_grad()
            loss_of(model, i).backward()
            opt.step()
        after(i)
        assert same(models), i


def gradients(model):
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cls", [name for name in CLASSES if name not in NEEDS_ALL])
def test_bits_of_every_rule(cls, dtype):
    """With a scheduler, and decay."""
    models, opts = pair(cls, dtype, CLASSES[cls].for_matrices, lr=1e-2, weight_decay=1e-2)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(opt, 0.8) for opt in opts]

    def after(i):
        assert gradients(models[0]) == [None] * len(gradients(models[0]))
        for scheduler in schedulers:
            scheduler.step()

    run(models, opts, after=after)
    assert opts[0].step_count == opts[1].step_count == STEPS
    for (p, a), (q, b) in zip(opts[0].state.items(), opts[1].state.items(), strict=True):
        assert p.shape == q.shape
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.9, "swa": (1, 2)},
        {"ema_decay": fastopt.schedules.ema_warmup(0.99)},
        {"lookahead": (3, 0.5)},
        {"clip_norm": 0.01, "clip_norm_per": "parameter", "clip_value": 0.005},
        {"grad_scale": 8.0, "zero_grads": True},
        {"state_dtype": "8bit"},
        {"lr": fastopt.schedules.cosine(0.1, 6), "corrected_decay": True},
        {"amsgrad": True, "maximize": True, "num_threads": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_bits_of_options(options):
    models, opts = pair("AdamW", **options)
    frozen = [list(model.parameters())[:2] for model in models]

    def after(i):
        for params in frozen:  # which have no gradient then: neither a step nor its count, but averages go on
            for p in params:
                p.requires_grad_(i % 3 != 1)
        for average in opts[0]._inner.averages if i > 1 else ():
            with opts[0].swapped(average), opts[1].swapped(average):
                assert same(models)

    run(models, opts, after=after)
    assert [opts[0].state[p]["step"] for p in models[0].parameters()] == [
        opts[1].state[p]["step"] for p in models[1].parameters()
    ]
    assert opts[0].grad_norm is None


def test_groups_that_change():
    """Values, groups and memory that change between steps, and a parameter that is frozen at first."""
    models, opts = pair("AdamW", lr=0.1)
    extra = [torch.nn.Parameter(torch.ones(6)) for _ in models]
    for model in models:
        model[0].weight.requires_grad_(False)
    opts = [
        fastopt.torch.AdamW([{"params": m[0].parameters()}, {"params": m[1:3].parameters()}], in_backward=i == 0)
        for i, m in enumerate(models)
    ]
    for i in range(STEPS):
        for model, opt, more in zip(models, opts, extra, strict=True):
            opt.zero_grad()
            (loss_of(model, i) + (more**2).sum()).backward()
            opt.step()
            if i == 1:
                opt.param_groups[1]["betas"] = (0.8, 0.9)
                model[0].weight.requires_grad_(True)
            if i == 2:
                opt.add_param_group({"params": [more], "lr": 0.5})
                more.grad = None
            if i == 3:
                model[1].weight.data = model[1].weight.data.clone()
            if i == 4:
                del opt.param_groups[1]["params"][0]
        assert same(models), i
        assert torch.equal(*extra), i
    assert models[0][0].weight.grad is None
    assert models[0][1].weight.grad is not None
    assert extra[0].ne(1).all()


def test_memory_of_gradients():
    """At the peak there is one gradient, not all of them."""
    model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(12)))
    peak = {True: 0, False: 0}
    for in_backward in peak:

        def note(_, key=in_backward):
            peak[key] = max(peak[key], sum(g.nbytes for g in gradients(model) if g is not None))

        handles = [p.register_post_accumulate_grad_hook(note) for p in model.parameters()]
        opt = make("AdamW", model, in_backward=in_backward)
        model(torch.randn(4, 32)).square().mean().backward()
        opt.step()
        opt.zero_grad()
        for handle in handles:
            handle.remove()
        del opt
    assert peak == {True: model[0].weight.nbytes, False: sum(p.nbytes for p in model.parameters())}


def test_micro_batches():
    """The last backward of a step uses the sums; step() those that it did not reach."""
    models, opts = pair("AdamW")
    alone = [torch.nn.Parameter(torch.ones(3)) for _ in models]
    for i in range(STEPS):
        for model, opt, p in zip(models, opts, alone, strict=True):
            if i == 0:
                opt.add_param_group({"params": [p]})
            before = [q.detach().clone() for q in model.parameters()]
            with opt.accumulating():
                (loss_of(model, 3 * i) + (p**2).sum()).backward()
                with opt.accumulating():
                    loss_of(model, 3 * i + 1).backward()
            assert all(map(torch.equal, before, model.parameters()))
            assert all(q.grad is not None for q in model.parameters())
            if i % 2 == 0:  # else step() makes all of it
                loss_of(model, 3 * i + 2).backward()
            opt.step()
            if opt is opts[0]:
                assert p.grad is None
            opt.zero_grad()
        assert same(models)
        assert torch.equal(*alone)


def test_closures_and_hooks():
    models, opts = pair("SGD", lr=0.1)
    calls = []
    for opt in opts:
        opt.register_step_pre_hook(lambda *_: calls.append("pre"))
        opt.register_step_post_hook(lambda *_: calls.append("post"))
    for i in range(STEPS):
        for model, opt in zip(models, opts, strict=True):

            def closure(model=model, opt=opt, i=i):
                opt.zero_grad(set_to_none=False)
                loss = loss_of(model, i)
                loss.backward()
                return loss

            assert opt.step(closure).ndim == 0
        assert same(models)
    assert calls == ["pre", "post"] * 2 * STEPS


def test_a_second_backward():
    """It is refused for a parameter that has been updated; parameters of its own are updated as always."""
    models, opts = pair("SGD", lr=0.1)
    model, opt = models[0], opts[0]
    loss_of(model, 0).backward()
    after = copy.deepcopy(model)
    for call in (lambda: loss_of(model, 1).backward(), opt.step):
        with pytest.raises(RuntimeError, match=r"^SGD: parameter \d must get one gradient a step .* accumulating\(\)"):
            call()
        assert same([model, after])
        assert opt.step_count == 0
    opt.zero_grad()
    opt.step()
    assert opt.step_count == 1
    loss_of(models[1], 0).backward()
    opts[1].step()
    run(models, opts)

    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = fastopt.torch.SGD([p, q], lr=0.1, in_backward=True)
    (p**2).sum().backward()
    (q**2).sum().backward()
    opt.step()
    np.testing.assert_allclose(torch.stack([p, q]).detach(), 0.8)


def test_values_that_a_later_part_of_backward_needs():
    """torch notices where a parameter was updated too early for them."""
    p = torch.nn.Parameter(torch.ones(3))
    _ = fastopt.torch.SGD([p], lr=0.1, in_backward=True)
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("nonfinite", ["raise", "skip", "propagate"])
def test_gradients_that_are_not_finite(nonfinite):
    model = net()
    opt = make("SGD", model, lr=0.1, in_backward=True, nonfinite=nonfinite)
    bad, before = model[1].bias, copy.deepcopy(model)
    bad.register_hook(lambda g: g * float("nan"))
    loss = loss_of(model, 0)
    if nonfinite == "raise":
        with pytest.raises(FloatingPointError, match=r"parameter 3; this .* and [1-7] of 10 parameters"):
            loss.backward()
        assert bad.grad is not None
        with pytest.raises(FloatingPointError):
            opt.step()
        opt.zero_grad()
    else:
        loss.backward()
    opt.step()
    assert bad.isfinite().all() == (nonfinite != "propagate")
    assert torch.equal(bad, before[1].bias) == (nonfinite != "propagate")
    assert not torch.equal(model[3].bias, before[3].bias)
    assert opt.skipped_steps == (nonfinite == "skip")
    assert opt.step_count == 1
    assert gradients(model) == [None] * 10


def test_skips_in_a_row():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    opt = fastopt.torch.SGD([p, q], lr=0.1, in_backward=True, nonfinite="skip", max_skips=2)
    for _ in range(2):
        (p * float("nan") + q).sum().backward()
        opt.step()
    with pytest.raises(FloatingPointError, match="after 2 skipped steps in a row"):
        (p * float("nan")).sum().backward()
    np.testing.assert_allclose(torch.stack([p, q]).detach(), [[1.0, 1.0], [0.8, 0.8]])


def test_gradients_of_rows():
    tables = [torch.nn.Embedding(20, 3, sparse=True) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    opts = [make("Adagrad", table, lr=0.1, in_backward=i == 0, ema_decay=0.9) for i, table in enumerate(tables)]
    for i in range(STEPS):
        for table, opt in zip(tables, opts, strict=True):
            opt.zero_grad()
            (table(torch.tensor([3, i, 3, 7])) ** 2).sum().backward()
            opt.step()
        assert same(tables)
    with opts[0].swapped("ema"), opts[1].swapped("ema"):
        assert same(tables)


def test_an_error_on_the_way_changes_nothing():
    model = net()
    opt = make("AdamW", model, in_backward=True)
    before = copy.deepcopy(model)
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"groups\[0\]: lr must be"):
        loss_of(model, 0).backward()
    assert same([model, before])
    opt.param_groups[0]["lr"] = 0.1
    opt.zero_grad()
    loss_of(model, 0).backward()
    assert not same([model, before])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip_norm": 1.0}, "clip_norm must be None .*clip_norm_per='all'.* got 1.0: use clip_norm_per="),
        ({"clip_norm": 1.0, "clip_norm_per": "group"}, "clip_norm_per='group'.*StableAdamW"),
        ({"grad_scale": fastopt.LossScale(), "nonfinite": "skip"}, "grad_scale must be a number or None .*LossScale"),
        ({"in_backward": 1}, "in_backward must be True or False, got 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_need_all_gradients(options, says):
    model = net()
    with pytest.raises((TypeError, ValueError), match=f"^AdamW: .*{says}"):
        make("AdamW", model, **{"in_backward": True, **options})
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize("cls", NEEDS_ALL)
def test_rules_that_need_all_gradients(cls):
    with pytest.raises(ValueError, match=f"^{cls}: in_backward must be False, since this rule makes one estimate"):
        make(cls, net(), in_backward=True)


def test_a_scaler_of_torch():
    model = net()
    opt = make("AdamW", model, in_backward=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(ValueError, match="in_backward must be False with a GradScaler"):
        scaler.step(opt)


def test_a_group_of_processes():
    """Their gradients are summed after they are complete here."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = net()
    opt = make("AdamW", model, in_backward=True)
    before = copy.deepcopy(model)
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with pytest.raises(ValueError, match=r"^AdamW: in_backward must be False in a group of 2 processes"):
            loss_of(model, 0).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert same([model, before])
    opt.zero_grad()
    loss_of(model, 0).backward()
    assert not same([model, before])


def test_a_state_that_is_loaded_within_a_step():
    """The step begins anew, from there."""
    models, opts = pair("AdamW")
    run(models, opts, 3)
    saved = copy.deepcopy((models[0].state_dict(), opts[0].state_dict()))
    loss_of(models[0], 9).backward()
    models[0].load_state_dict(saved[0])
    opts[0].load_state_dict(saved[1])
    run(models, opts)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
def test_copies_step_in_backward_too(way):
    models, opts = pair("AdamW")
    run(models, opts, 3)
    model, opt = way((models[0], opts[0]))
    run([model, models[1]], [opt, opts[1]])
    assert gradients(model) == [None] * 10
    assert not same([model, models[0]])


def refused_load(model, opt):
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be"):
        opt.load_state_dict(saved)


def load_anew(model, opt):
    opt.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))


def move(model, opt):
    for p in model.parameters():
        p.data = p.data.t().clone().t()


def edit(model, opt):
    del opt.param_groups[0]["params"][1]
    opt.param_groups[0]["lr"] = 0.01


def add(model, opt):
    model.register_parameter("more", torch.nn.Parameter(torch.ones(3)))
    opt.add_param_group({"params": [model.more], "lr": 0.5})


def copied(model, opt):
    return copy.deepcopy((model, opt))


def pickled(model, opt):
    return pickle.loads(pickle.dumps((model, opt)))


@pytest.mark.parametrize("change", [refused_load, load_anew, move, edit, add, copied, pickled])
def test_gradients_that_step_finds(change):
    """Those that did not come by a hook are found among the parameters that there are now."""
    models, opts = pair("AdamW", ema_decay=0.9)
    run(models, opts, 2)
    for i in range(2):
        models[i], opts[i] = change(models[i], opts[i]) or (models[i], opts[i])
    for i in range(3):
        for model, opt in zip(models, opts, strict=True):
            for j, p in enumerate(model.parameters()):
                p.grad = None if j == i else torch.full_like(p, 0.1 * (i + j) - 0.3)
            opt.step()
            opt.zero_grad()
        assert same(models), i
    run(models, opts, 2)
    with opts[0].swapped("ema"), opts[1].swapped("ema"):
        assert same(models)


def another_shape(opt, p, q):
    q.data = torch.ones(2, 2)


def another_group(opt, p, q):
    opt.param_groups[0]["params"].pop()
    opt.add_param_group({"params": [q]})


def another_order(opt, p, q):
    opt.param_groups[0]["params"].reverse()
    opt.state_dict()


@pytest.mark.parametrize("by_hook", [True, False], ids=["hook", "step"])
@pytest.mark.parametrize("change", [another_shape, another_group, another_order])
def test_schedules_and_parameters_that_change_within_a_step(change, by_hook):
    """Parameters of before and those of after the change are stepped with the values of this step."""
    found = []
    for in_backward in (True, False):
        p, q = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
        options = {"lr": fastopt.schedules.cosine(0.1, 6), "ema_decay": fastopt.schedules.ema_warmup(0.99)}
        opt = fastopt.torch.AdamW([p, q], in_backward=in_backward, **options)
        for i in range(5):
            opt.zero_grad()
            (p**2).sum().backward()
            if i == 3:
                change(opt, p, q)
            if i >= 3:
                with nullcontext() if by_hook else opt.accumulating():
                    (q**2).sum().backward()
            opt.step()
        with opt.swapped("ema"):
            found.append([p.detach().clone(), q.detach().clone()])
        found[-1] += [p.detach(), q.detach()]
    assert all(map(torch.equal, *found))
    assert found[0][3].ne(1).all()


def test_a_parameter_that_is_taken_out_within_a_step():
    """It keeps its value and its gradient, in other memory too."""
    p, q, r = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    opt = fastopt.torch.SGD([p, q, r], lr=0.1, in_backward=True, nonfinite="raise")
    p.sum().backward()
    del opt.param_groups[0]["params"][:2]
    q.data = q.data.clone()
    q.sum().backward()
    assert q.eq(1).all()
    assert q.grad.eq(1).all()
    with pytest.raises(FloatingPointError, match="and 0 of 1 parameters have been updated"):
        (r * float("nan")).sum().backward()
    opt.zero_grad()
    r.grad = None
    opt.step()
    np.testing.assert_allclose(torch.stack([p, q, r]).detach(), [[0.9] * 2, [1] * 2, [1] * 2])


def test_hooks_go_with_the_optimizer():
    """At once: no garbage collection is needed."""
    model = net()
    gc.collect()
    gc.disable()
    try:
        opt = make("AdamW", model, in_backward=True)
        loss_of(model, 0).backward()
        opt.step()
        reference = weakref.ref(opt)
        del opt
        assert reference() is None
    finally:
        gc.enable()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    loss_of(model, 0).backward()
    assert None not in gradients(model)
