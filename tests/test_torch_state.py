"""The state of fastopt.torch in torch's form: to torch.optim and back, and from fastopt to fastopt to the bit."""

import copy
import io
import pickle

import numpy as np
import pytest

import fastopt
from support.registry import CLASSES
from support.torch_twins import ROWS, TWINS, assert_close

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")
pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")

pytestmark = pytest.mark.usefixtures("torch_doubles")

SHAPES = ((3, 4), (130,), (), (2, 3, 5))
EXACT = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def parameters(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def shapes_for(cls):
    return ((4, 6), (130, 3)) if CLASSES[cls].for_matrices else SHAPES


def copies(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def steps(numbers, *runs):
    """Make the steps with these numbers in several runs, each an optimizer and its parameters."""
    for i in numbers:
        generator = torch.Generator().manual_seed(i)
        for of_all in zip(*(params for _, params in runs), strict=True):
            g = torch.randn(of_all[0].shape, generator=generator)
            for p in of_all:
                p.grad = g.to(p.dtype)
        for opt, _ in runs:
            opt.step()


def saved(opt):
    """Return a state dict from a file that only has what torch thinks safe."""
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def values(params):
    return [p.detach().double().numpy().copy() for p in params]


def assert_same_bits(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        kind = EXACT[p.dtype]
        assert p.dtype == q.dtype
        assert torch.equal(p.detach().contiguous().view(kind), q.detach().contiguous().view(kind))


@pytest.mark.parametrize(("cls", "draws"), ROWS.values(), ids=ROWS)
def test_a_run_goes_on_in_torch_and_back(cls, draws):
    """Two runs change places, by files, and end where a run of torch alone ends."""
    rng = np.random.default_rng(7)
    kwargs = {name: draw(rng) for name, draw in draws.items()}
    makes = [getattr(module, cls) for module in (fastopt.torch, torch.optim)]
    first = parameters(shapes_for(cls))
    a, b, whole = copies(first), copies(first), copies(first)
    opt, peer, alone = makes[0](a, **kwargs), makes[1](b, **kwargs), makes[1](whole, **kwargs)
    for i in range(3):
        steps(range(4 * i, 4 * i + 4), (opt, a), (peer, b), (alone, whole))
        of_ours, of_torch = saved(opt), saved(peer)
        for place, entry in of_torch["state"].items():
            for key, value in entry.items():
                assert of_ours["state"][place][key].shape == value.shape
        a, b = b, a
        opt, peer = makes[0](a, **kwargs), makes[1](b, **kwargs)
        opt.load_state_dict(of_torch)
        peer.load_state_dict(of_ours)
    assert_close(values(a), values(whole), 1e-12)
    assert_close(values(b), values(whole), 1e-12)


@pytest.mark.parametrize("cls", TWINS)
def test_names_are_those_of_torch(cls):
    """Besides there are the steps of rules that torch does not count, and the exact s of RMSprop."""
    ours, theirs = parameters(shapes_for(cls)), parameters(shapes_for(cls))
    opt, peer = getattr(fastopt.torch, cls)(ours), getattr(torch.optim, cls)(theirs)
    steps(range(2), (opt, ours), (peer, theirs))
    for p, q in zip(ours, theirs, strict=True):
        assert {"step", *peer.state[q]} == set(opt.state[p])
    ours = parameters()
    opt = fastopt.torch.RMSprop(ours, centered=True, momentum=0.9)
    steps(range(2), (opt, ours))
    assert set(opt.state[ours[0]]) == {"step", "square_avg", "grad_avg", "momentum_buffer", "s"}


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls not in TWINS and hasattr(torch.optim, cls)])
def test_buffers_go_on_where_steps_are_rounded_otherwise(cls):
    """torch multiplies matrices in bfloat16; the buffers follow from the gradients alone."""
    ours, theirs = parameters(shapes_for(cls)), parameters(shapes_for(cls))
    opt, peer = getattr(fastopt.torch, cls)(ours), getattr(torch.optim, cls)(theirs)
    for i in range(4):
        steps([2 * i, 2 * i + 1], (opt, ours), (peer, theirs))
        of_ours, of_torch = saved(opt), saved(peer)
        opt.load_state_dict(of_torch)
        peer.load_state_dict(of_ours)
        for p, q in zip(ours, theirs, strict=True):
            ours_now, theirs_now = opt.state[p], peer.state[q]
            assert_close(
                *([entry[key].numpy() for key in theirs_now if key != "step"] for entry in (ours_now, theirs_now)),
                1e-12,
            )


def test_groups_of_torch_are_taken_over():
    """Also those that have other buffers."""
    ours, theirs = parameters(), parameters()
    peer = torch.optim.Adam(theirs, lr=0.01, amsgrad=True, betas=(0.8, 0.99))
    opt = fastopt.torch.Adam(ours)
    steps(range(3), (opt, ours), (peer, theirs))
    opt.load_state_dict(saved(peer))
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q)
    steps(range(3, 6), (opt, ours), (peer, theirs))
    assert_close(values(ours), values(theirs), 1e-12)
    assert opt.param_groups[0]["betas"] == (0.8, 0.99)


FORMATS = {
    "float32": (torch.float32, {}),
    "8bit": (torch.float32, {"state_dtype": "8bit"}),
    "8bit_random": (torch.float32, {"state_dtype": "8bit", "rounding": "stochastic"}),
    "bfloat16_state": (torch.float32, {"state_dtype": "bfloat16"}),
    "float16_state": (torch.float32, {"state_dtype": "float16"}),
    "bfloat16": (torch.bfloat16, {}),
    "split8": (torch.bfloat16, {"master": "split8", "state_dtype": "bfloat16"}),
    "master": (torch.bfloat16, {"master": "float32"}),
    "no_master": (torch.bfloat16, {"master": None, "rounding": "stochastic"}),
    "float16": (torch.float16, {}),
    "averages": (torch.float32, {"ema_decay": 0.9, "swa": (2, 3)}),
    "lookahead": (torch.float32, {"lookahead": (3, 0.5)}),
}


def takes_codes(cls):
    """Whether the rule has no buffers in the order of rows, whose state cannot be codes."""
    try:
        getattr(fastopt, cls)(np.ones((4, 6), np.float32), state_dtype="8bit")
    except ValueError:
        return False
    return True


OFTEN = ("float32", "8bit", "bfloat16", "averages")
OTHERS = [how for how in FORMATS if how not in OFTEN]
RUNS = [
    (cls, how)
    for i, cls in enumerate(CLASSES)
    for how in (*OFTEN, OTHERS[i % len(OTHERS)], OTHERS[(i + 1) % len(OTHERS)])
    if takes_codes(cls) or not how.startswith("8bit")
]


@pytest.mark.parametrize(("cls", "how"), RUNS)
def test_a_run_of_fastopt_goes_on_to_the_bit(cls, how):
    dtype, options = FORMATS[how]
    ours = parameters(shapes_for(cls), dtype)
    make = getattr(fastopt.torch, cls)
    opt = make(ours, lr=0.01, **options)
    steps(range(5), (opt, ours))
    theirs = copies(ours)
    other = make(theirs, lr=0.01, **options)
    before = saved(opt)
    other.load_state_dict(before)
    assert_same_bits(ours, theirs)
    steps(range(5, 9), (opt, ours), (other, theirs))
    assert_same_bits(ours, theirs)
    for average in opt._inner.averages:
        with opt.swapped(average), other.swapped(average):
            assert_same_bits(ours, theirs)
    # A state dict is what was saved: no step has changed it.
    again = make(copies(ours), lr=0.01, **options)
    again.load_state_dict(before)
    assert int(before["state"][0]["step"]) == int(again.state[again.param_groups[0]["params"][0]]["step"]) == 5


def sparse_steps(numbers, *runs):
    """Make steps with gradients of a few rows."""
    for i in numbers:
        generator = torch.Generator().manual_seed(i)
        rows, values = torch.randint(0, 20, (1, 4), generator=generator), torch.randn(4, 3, generator=generator)
        for opt, (p,) in runs:
            p.grad = torch.sparse_coo_tensor(rows, values.clone(), p.shape, check_invariants=True)
            opt.step()


def takes(cls, option):
    """Whether a rule has an option and takes gradients of rows."""
    try:
        opt = getattr(fastopt, cls)(np.ones((4, 3)), **option)
    except (TypeError, ValueError):
        return False
    return opt._table.takes_rows(0)


OF_ROWS = [
    (cls, option)
    for option in ({"catch_up": True}, {"ema_decay": 0.9, "swa": (1, 2)})
    for cls in CLASSES
    if takes(cls, option)
]


@pytest.mark.parametrize(("cls", "option"), OF_ROWS)
def test_rows_go_on_to_the_bit(cls, option):
    """A state dict has the steps that each row has missed; once torch has gone on, no row has missed a step."""
    ours = [torch.nn.Parameter(torch.ones(20, 3))]
    make = getattr(fastopt.torch, cls)
    opt = make(ours, lr=0.1, **option)
    sparse_steps(range(4), (opt, ours))
    theirs = copies(ours)
    other = make(theirs, lr=0.1, **option)
    other.load_state_dict(saved(opt))
    sparse_steps(range(4, 8), (opt, ours), (other, theirs))
    assert_same_bits(ours, theirs)
    for average in opt._inner.averages:
        with opt.swapped(average), other.swapped(average):
            assert_same_bits(ours, theirs)
    if cls in TWINS:
        peer = getattr(torch.optim, cls)(ours)
        peer.load_state_dict(saved(opt))
        steps([8], (peer, ours))
        opt.load_state_dict(saved(peer))
        last = opt._inner.state[0].get("last_step", opt._inner.step_count)
        assert np.all(last == opt._inner.step_count)


def test_betas_that_have_changed():
    """Products of betas go along; torch, which does not know them, drops them."""
    ours = parameters()
    opt = fastopt.torch.AdamW(ours)
    steps(range(2), (opt, ours))
    opt.param_groups[0]["betas"] = (0.8, 0.99)
    steps(range(2, 5), (opt, ours))
    runs = [(opt, ours)]
    for _ in range(2):
        theirs = copies(ours)
        other = fastopt.torch.AdamW(theirs)
        other.load_state_dict(saved(opt))
        runs.append((other, theirs))
    steps(range(5, 8), *runs[:2])
    assert_same_bits(ours, runs[1][1])
    between = copies(runs[2][1])
    peer = torch.optim.AdamW(between)
    peer.load_state_dict(saved(runs[2][0]))
    steps(range(5, 7), (peer, between))
    last = copies(between)
    other = fastopt.torch.AdamW(last)
    other.load_state_dict(saved(peer))
    steps(range(7, 9), (peer, between), (other, last))
    assert_close(values(last), values(between), 1e-12)


def test_what_only_fastopt_has_is_not_used_once_torch_has_gone_on():
    """The exact s of a centered RMSprop and the master of a parameter of 16 bits."""
    ours = parameters()
    opt = fastopt.torch.RMSprop(ours, centered=True)
    steps(range(3), (opt, ours))
    theirs = copies(ours)
    peer = torch.optim.RMSprop(theirs)
    peer.load_state_dict(saved(opt))
    steps(range(3, 6), (peer, theirs))
    ours = copies(theirs)
    opt = fastopt.torch.RMSprop(ours)
    opt.load_state_dict(saved(peer))
    steps(range(6, 9), (opt, ours), (peer, theirs))
    assert_close(values(ours), values(theirs), 1e-12)
    for master in ("auto", "float32"):
        halves = parameters(dtype=torch.bfloat16)
        opt = fastopt.torch.SGD(halves, lr=0.1, momentum=0.9, master=master)
        steps(range(3), (opt, halves))
        peer = torch.optim.SGD(halves)
        peer.load_state_dict(saved(opt))
        steps(range(3, 6), (peer, halves))
        opt = fastopt.torch.SGD(halves, master=master)
        opt.load_state_dict(saved(peer))
        before = copies(halves)
        opt.param_groups[0]["lr"] = 0.0
        steps([6], (opt, halves))
        assert_same_bits(halves, before)


def test_averages_begin_anew_after_a_run_of_torch():
    ours = parameters(dtype=torch.float32)
    peer = torch.optim.Adam(ours)
    steps(range(3), (peer, ours))
    opt = fastopt.torch.Adam(ours, ema_decay=0.5)
    opt.load_state_dict(peer.state_dict())
    before = copies(ours)
    with opt.swapped("ema"):
        assert_same_bits(ours, before)
    steps([3], (opt, ours))
    with opt.swapped("ema"):
        mean = copies(ours)
    for p, q, r in zip(mean, before, ours, strict=True):
        torch.testing.assert_close(p.detach(), (q.detach() + r.detach()) / 2)


def test_state_of_float32_for_parameters_of_16_bits_keeps_its_bits():
    ours = parameters(dtype=torch.bfloat16)
    opt = fastopt.torch.Adam(ours)
    steps(range(3), (opt, ours))
    m = opt.state[ours[0]]["exp_avg"].clone()
    assert m.dtype == torch.float32
    opt.load_state_dict(opt.state_dict())
    assert torch.equal(opt.state[ours[0]]["exp_avg"], m)


def test_many_steps():
    """More than float32 can count."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = fastopt.torch.Adam([p])
    steps(range(1), (opt, [p]))
    state = opt.state_dict()
    state["state"][0]["step"] = torch.tensor(2.0**24 + 1)
    opt.load_state_dict(state)
    steps(range(1), (opt, [p]))
    assert opt.state[p]["step"].item() == 2**24 + 2


def test_hooks_of_state_dicts():
    p = torch.nn.Parameter(torch.ones(3))
    opt, calls = fastopt.torch.Adam([p]), []
    steps(range(1), (opt, [p]))
    opt.register_state_dict_post_hook(lambda _, state: calls.append("saved"))
    opt.register_load_state_dict_pre_hook(
        lambda _, state: {**state, "param_groups": [{**state["param_groups"][0], "lr": 7.0}]}
    )
    opt.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    opt.load_state_dict(opt.state_dict())
    assert calls == ["saved", "loaded"]
    assert opt.param_groups[0]["lr"] == 7.0
    assert len(opt._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("damage", ["shape", "missing", "groups", "hyper", "rule"])
def test_a_state_that_does_not_fit_changes_nothing(damage):
    ours = parameters()
    opt = fastopt.torch.Adam(ours)
    steps(range(2), (opt, ours))
    before, groups = copy.deepcopy(opt.state_dict()), opt.param_groups
    given = copy.deepcopy(before)
    if damage == "shape":
        given["state"][1]["exp_avg"] = torch.zeros(4)
    elif damage == "missing":
        del given["state"][1]["exp_avg_sq"]
    elif damage == "groups":
        given["param_groups"].append(given["param_groups"][0])
    elif damage == "hyper":
        given["param_groups"][0]["eps"] = -1.0
    else:
        peer = fastopt.torch.SGD(copies(ours), momentum=0.9)
        steps(range(1), (peer, peer.param_groups[0]["params"]))
        given["state"] = peer.state_dict()["state"]
    text = {
        "shape": "must have shape",
        "missing": "the state of parameter 1 must have 'exp_avg_sq', got 'step', 'exp_avg'",
        "groups": "different number of parameter groups",
        "hyper": "eps must be",
        "rule": "must have 'exp_avg', 'exp_avg_sq', got 'step', 'momentum_buffer'",
    }[damage]
    with pytest.raises(ValueError, match=text):
        opt.load_state_dict(given)
    assert opt.param_groups is groups
    after = opt.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for place, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][place][key]) for key, value in entry.items())


def test_numbers_of_a_state_that_are_none():
    """Masked values and truth values too, which int() and float() accept or refuse each in their own way."""
    p = torch.nn.Parameter(torch.ones(()))
    opt = fastopt.torch.NAdam([p], ema_decay=0.9)
    p.grad = torch.ones(())
    opt.step()
    saved = {**opt.state_dict(), "step_count": 1}
    before = repr((opt.state_dict(), p))
    texts = {
        "step": "step of a parameter must be an integer >= 0",
        "begun": "begun of a parameter must be an integer >= 0",
        "mu_product": "mu_product of a parameter must be a number",
    }
    for bad in (np.ma.masked, True, "1"):
        for key, text in texts.items():
            with pytest.raises(ValueError, match=text):
                opt.load_state_dict({**saved, "state": {0: {**saved["state"][0], key: bad}}})
        with pytest.raises(ValueError, match="step_count must be an integer >= 0"):
            opt.load_state_dict({**saved, "step_count": bad})
    with pytest.raises(ValueError, match="values of a parameter must be a tensor, got masked"):
        opt.load_state_dict({**saved, "state": {0: {**saved["state"][0], "exp_avg": np.ma.masked}}})
    assert before == repr((opt.state_dict(), p))
    opt.load_state_dict(saved)


# ---- opt.state ----


def test_states_that_have_not_the_form_are_refused():
    p = torch.nn.Parameter(torch.ones(2))
    opt = fastopt.torch.Adam([p], betas=[0.9, 0.99])
    p.grad = torch.ones(2)
    opt.step()
    before = repr((opt.state_dict(), p))
    for key, value in (("state", 3), ("param_groups", None), ("param_groups", [3]), ("param_groups", [{"params": 0}])):
        with pytest.raises(ValueError, match=r"Adam\.load_state_dict: "):
            opt.load_state_dict({**opt.state_dict(), key: value})
    entry = opt.state_dict()["state"][0]
    sparse = entry["exp_avg"].to_sparse()
    for changed in (
        {"step": float("inf")},
        {"step": "x"},
        {"exp_avg": torch.ones(3)},
        {"exp_avg": sparse},
    ):
        with pytest.raises(ValueError, match=r"Adam|step of a parameter must be an integer"):
            opt.load_state_dict({**opt.state_dict(), "state": {0: {**entry, **changed}}})
    with pytest.raises(ValueError, match="the state of parameter 0 must be a mapping"):
        opt.load_state_dict({**opt.state_dict(), "state": {0: 3}})
    opt.state_dict()["param_groups"][0]["betas"].pop()  # a copy
    assert before == repr((opt.state_dict(), p))


def test_edits_of_the_state():
    """Buffers in their memory at once, values and entries by the next step, as in torch."""
    ours, theirs = parameters(), parameters()
    runs = (fastopt.torch.Adam(ours), ours), (torch.optim.Adam(theirs), theirs)
    steps(range(3), *runs)
    for opt, params in runs:
        opt.state[params[0]]["exp_avg"].mul_(0.5)
        opt.state[params[1]]["exp_avg_sq"] = torch.full_like(params[1], 0.3)
        opt.state[params[2]]["step"].fill_(1)
        del opt.state[params[3]]
    steps(range(3, 5), *runs)
    assert_close(values(ours), values(theirs), 1e-12)
    for opt, params in runs:
        opt.state[params[0]] = {}
        opt.state[params[1]] = copy.deepcopy(opt.state[params[1]])
        opt.state[params[1]]["exp_avg"].zero_()
    assert float(runs[0][0].state_dict()["state"][1]["exp_avg"].abs().max()) == 0
    steps(range(5, 7), *runs)
    assert_close(values(ours), values(theirs), 1e-12)
    for opt, _ in runs:
        opt.state.clear()
    other = pickle.loads(pickle.dumps(runs[0][0]))
    assert not other.state
    steps(range(7, 9), *runs)
    assert_close(values(ours), values(theirs), 1e-12)


def replace_memory(state, p):
    state[p]["exp_avg"].data = torch.full_like(state[p]["exp_avg"], 0.3)


EDITS = {
    "in memory": lambda state, p: state[p]["exp_avg"].mul_(0.5),
    "another tensor": lambda state, p: state[p].update(exp_avg=state[p]["exp_avg"] * 0.5),
    "other memory": replace_memory,
    "steps": lambda state, p: state[p]["step"].fill_(1),
    "no entry": lambda state, p: state.pop(p),
    "an empty entry": lambda state, p: state[p].clear(),
    "another entry": lambda state, p: state.update({p: {k: v * 1 for k, v in state[p].items()}}),
    "none": lambda state, p: None,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_of_a_state_that_is_read_before_each_step(edit):
    """They count from the next step on."""
    ours, theirs = parameters(), parameters()
    runs = (fastopt.torch.Adam(ours), ours), (torch.optim.Adam(theirs), theirs)
    for i in range(9):
        for opt, params in runs:
            if i in (4, 7):
                edit(opt.state, params[1])
            assert not i or float(opt.state[params[0]]["step"]) == i
        steps([i], *runs)
        assert_close(values(ours), values(theirs), 1e-12)
        (one, _), (other, _) = runs
        assert [float(one.state[p]["step"]) for p in ours] == [float(other.state[p]["step"]) for p in theirs]


def test_edits_of_copies():
    """Codes of 8 bits, and the mean of squares of a centered RMSprop."""
    ours = parameters(dtype=torch.float32)
    opt = fastopt.torch.Adam(ours, state_dtype="8bit")
    steps(range(2), (opt, ours))
    opt.state[ours[0]]["exp_avg"].zero_()
    opt.param_groups[0]["lr"] = 0.0
    for p in ours:
        p.grad.zero_()
    opt.step()
    assert not opt.state[ours[0]]["exp_avg"].any()
    assert opt.state[ours[1]]["exp_avg"].any()
    ours, theirs = parameters(), parameters()
    runs = [
        (one.RMSprop(params, centered=True), params) for one, params in ((fastopt.torch, ours), (torch.optim, theirs))
    ]
    steps(range(2), *runs)
    for one, params in runs:
        one.state[params[0]]["square_avg"].add_(1.0)
    steps(range(2, 4), *runs)
    assert_close(values(ours), values(theirs), 1e-12)


def test_state_that_is_read_between_steps_in_backward():
    """Reading it is no edit; edits are taken over by the next step."""
    ours, theirs = parameters(), parameters()
    opt, peer = fastopt.torch.Adam(ours, in_backward=True), torch.optim.Adam(theirs)
    read = []
    ours[1].register_post_accumulate_grad_hook(lambda p: read.append(len(opt.state)))
    for i in range(4):
        for one, params in ((opt, ours), (peer, theirs)):
            sum(((i + 1) * p**2).sum() for p in params).backward()
            one.step()
            one.state[params[0]]["step"].fill_(1)
            one.zero_grad()
    assert len(read) == 4
    assert_close(values(ours), values(theirs), 1e-12)


def test_copies_of_the_state():
    """They are dictionaries, which can be put back."""
    ours = parameters()
    opt = fastopt.torch.Adam(ours)
    steps(range(2), (opt, ours))
    theirs = copies(ours)
    states = {q: copy.deepcopy(opt.state[p]) for p, q in zip(ours, theirs, strict=True)}
    for one in (copy.copy(opt.state), opt.state.copy(), pickle.loads(pickle.dumps(opt.state))):
        assert len(one) == len(ours)
        assert one["none"] == {}
    assert len(opt.state) == len(ours)
    other = fastopt.torch.Adam(theirs)
    other.state = states
    steps(range(2, 4), (opt, ours), (other, theirs))
    assert_same_bits(ours, theirs)


def test_schedules_of_fastopt():
    """A state dict has their values; where there is a schedule it stays, and goes on at the step that was saved."""
    schedule = fastopt.schedules.cosine(0.1, 10)
    ours = parameters()
    opt = fastopt.torch.Adam(ours, lr=schedule)
    steps(range(3), (opt, ours))
    theirs = copies(ours)
    other = fastopt.torch.Adam(theirs, lr=schedule)
    state = saved(opt)
    assert state["param_groups"][0]["lr"] == schedule(3)
    other.load_state_dict(state)
    steps(range(3, 6), (opt, ours), (other, theirs))
    assert_same_bits(ours, theirs)
    peer = fastopt.torch.Adam(copies(ours))
    peer.load_state_dict(state)
    assert peer.param_groups[0]["lr"] == schedule(3)


def test_parameters_that_are_taken_out():
    ours = parameters()
    opt = fastopt.torch.Adam(ours)
    steps(range(2), (opt, ours))
    del opt.param_groups[0]["params"][1]
    assert set(opt.state_dict()["state"]) == {0, 1, 2}


def test_an_edit_that_does_not_fit_is_refused_by_the_step():
    ours = parameters()
    opt = fastopt.torch.Adam(ours)
    steps(range(2), (opt, ours))
    before = copies(ours)
    opt.state[ours[0]]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match="must have shape"):
        opt.step()
    assert_same_bits(ours, before)


def test_state_is_shown_as_it_is_now():
    ours = parameters(dtype=torch.float32)
    opt = fastopt.torch.Adam(ours, state_dtype="8bit")
    steps(range(1), (opt, ours))
    m, step = opt.state[ours[0]]["exp_avg"], opt.state[ours[0]]["step"]
    before = m.clone()
    steps(range(1, 3), (opt, ours))
    assert opt.state[ours[0]]["exp_avg"] is m
    assert not torch.equal(m, before)
    assert step.item() == 3


# ---- torch.distributed.checkpoint ----


def can_stand_still(cls):
    """Whether a step of lr 0 leaves the parameters, with which torch makes the state into which it loads."""
    p = np.ones((4, 6))
    opt = getattr(fastopt, cls)(p, lr=0.0)
    opt.step(np.zeros_like(p))
    return not CLASSES[cls].for_matrices and (p == 1).all()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("cls", [cls for cls in CLASSES if can_stand_still(cls)])
def test_state_dicts_of_torch_distributed(cls, flat):
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    other = copy.deepcopy(model)
    make = getattr(fastopt.torch, cls)
    opt, peer = make(model.parameters(), lr=0.01), make(other.parameters(), lr=0.5)
    steps(range(3), (opt, [*model.parameters()]))
    other.load_state_dict(model.state_dict())
    given = dcp.get_optimizer_state_dict(model, opt, options=options)
    dcp.set_optimizer_state_dict(other, peer, given, options=options)
    steps(range(3, 5), (opt, [*model.parameters()]), (peer, [*other.parameters()]))
    assert_same_bits([*model.parameters()], [*other.parameters()])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", [fastopt.torch, torch.optim])
@pytest.mark.parametrize(
    ("cls", "options", "before"),
    [("AdamW", {"betas": (0.8, 0.99)}, {}), ("SGD", {"momentum": 0.8}, {"momentum": 0.9})],
)
def test_files_of_torch_distributed(cls, options, before, module, tmp_path):
    """A file of either is read into the tensors of a new optimizer, which goes on."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict as dcp

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    opt = getattr(module, cls)(model.parameters(), lr=0.01, **options)
    steps(range(3), (opt, [*model.parameters()]))
    checkpoint.save({"optim": dcp.get_optimizer_state_dict(model, opt)}, checkpoint_id=tmp_path, no_dist=True)
    other = copy.deepcopy(model)
    peer = getattr(fastopt.torch, cls)(other.parameters(), **before)
    found = {"optim": dcp.get_optimizer_state_dict(other, peer)}
    # Groups of torch.optim lack the options of fastopt, and its SGD the count of steps.
    planner = checkpoint.DefaultLoadPlanner(allow_partial_load=module is torch.optim)
    checkpoint.load(found, checkpoint_id=tmp_path, no_dist=True, planner=planner)
    dcp.set_optimizer_state_dict(other, peer, found["optim"])
    steps(range(3, 6), (opt, [*model.parameters()]), (peer, [*other.parameters()]))
    assert all(peer.param_groups[0][key] == value for key, value in options.items())
    assert_close(values(other.parameters()), values(model.parameters()), 1e-12)
