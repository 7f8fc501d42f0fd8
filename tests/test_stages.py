"""The stages around the rule in the same pass: scaling, clipping, zeroing; and all of them, with averages, at once."""

import math

import numpy as np
import pytest

import fastopt
from support import reference, sums
from support.arrays import DTYPES, several
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import PLAIN, RULES, Oracle, step_together
from support.covering import all_pairs

CLIP = [{"clip_norm": 0.5}, {"clip_norm": 1e9}, {"clip_value": 0.01}, {"grad_scale": 1024.0}]
CLIP += [{"clip_norm": 0.5, "clip_value": 1e-3, "grad_scale": 3.0}]


def factor(grads, clip_norm=0.0, grad_scale=1.0, clip_value=0.0):
    """The norm, and what the rule's gradient is multiplied by, as documented."""
    norm = 1 / grad_scale * sums.norm(grads)
    clip = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
    return norm, 1 / grad_scale * clip if clip < 1 else 1 / grad_scale


@pytest.mark.parametrize(("case", "options", "dtype"), all_pairs(RULES, CLIP, DTYPES), ids=ids)
def test_scale_and_clip(case, options, dtype, isas):
    params, grads = several(dtype, 3)
    oracles, norms = [Oracle(case, p) for p in params], []
    for gs in grads:
        norm, scale = factor(gs, **options)
        step_together(oracles, gs, scale=scale, clip_value=options.get("clip_value", 0.0))
        norms.append(norm if "clip_norm" in options else None)
    for _ in isas:
        for threads in (1, 3):
            opt = case.make([p.copy() for p in params], num_threads=threads, **options)
            for gs, norm in zip(grads, norms, strict=True):
                opt.step(gs)
                assert opt.grad_norm == norm
            for i, oracle in enumerate(oracles):
                assert_like(opt, i, opt.groups[0]["params"][i], oracle)


def test_options_of_one_step():
    """An option of a step replaces the optimizer's own, for that step alone."""
    params, grads = several(np.float32, 4)
    own = fastopt.Adam([p.copy() for p in params], clip_norm=0.5)
    given = fastopt.Adam([p.copy() for p in params])
    for i, gs in enumerate(grads):
        if i % 2:
            given.step(gs, clip_norm=0.5)
            own.step(gs)
        else:
            given.step(gs, clip_value=0.1, grad_scale=2.0)
            own.step([np.asarray(np.clip(g / 2, -0.1, 0.1)) for g in gs], clip_norm=math.inf)
            assert own.grad_norm > 0
            assert given.grad_norm is None
    for a, b in zip(own.groups[0]["params"], given.groups[0]["params"], strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "sliced", "bytes"])
def test_norm_of_any_layout(layout):
    g = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    views = {"transposed": g.T, "reversed": g[::-1, ::-1], "sliced": np.repeat(g, 2, axis=1)[:, ::2]}
    raw = np.empty(g.nbytes + 1, np.uint8)
    views["bytes"] = raw[1:].view(np.float32).reshape(g.shape)
    views["bytes"][...] = g
    view = views[layout]
    opt = fastopt.SGD(np.zeros_like(view), clip_norm=1.0)
    opt.step(view)
    assert opt.grad_norm == sums.norm([np.ascontiguousarray(view)])


def test_norms_are_right():
    """Against NumPy's own, where float32 sums would overflow or lose digits."""
    for dtype in DTYPES:
        for size in (1, 15, 16, 17, 1023, 1025, 16383, 16385, 100_000):
            for scale in (1e-30, 1.0, 1e30):
                g = (np.random.default_rng(size).standard_normal(size) * scale).astype(dtype)
                opt = fastopt.SGD(np.zeros_like(g), clip_norm=math.inf)
                opt.step(g)
                wanted = math.sqrt(math.fsum(float(x) ** 2 for x in g))
                assert opt.grad_norm == pytest.approx(wanted, rel=1e-13)


def test_torch_clips_alike():
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    params, grads = several(np.float64, 20)
    theirs = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    peer = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1)
    opt = fastopt.AdamW(params, lr=1e-2, weight_decay=0.1, clip_norm=0.3)
    for gs in grads:
        for p, g in zip(theirs, gs, strict=True):
            p.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.3)
        peer.step()
        opt.step(gs)
        assert opt.grad_norm == pytest.approx(float(norm), rel=1e-12)
    for p, their in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p, their.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("options", "dtype", "bad"), all_pairs(CLIP, DTYPES, [math.nan, math.inf, -math.inf]), ids=ids)
def test_skip_with_clipping(options, dtype, bad):
    params, (first, gs) = several(dtype, 2)
    opt = fastopt.Adam(params, nonfinite="skip", num_threads=2, **options)
    opt.step(first)
    before = [p.copy() for p in params], opt.state_dict()
    gs[3][-1] = bad
    opt.step(gs)
    assert opt.skipped_steps == 1
    assert all((p == q).all() for p, q in zip(params, before[0], strict=True))
    assert repr(opt.state_dict()) == repr(before[1])


def test_a_norm_beyond_the_doubles_is_no_reason_to_skip():
    p = np.zeros(3)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="raise", clip_norm=1.0)
    opt.step(np.full(3, 1.5e308))
    assert opt.grad_norm == math.inf
    assert (p == 0).all()  # scaled by 1 / infinity, as torch does


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_zeroing(case, dtype):
    params, grads = several(dtype, 2)
    oracles = [Oracle(case, p) for p in params]
    for gs in grads:
        step_together(oracles, gs)
    for threads in (1, 3):
        opt = case.make([p.copy() for p in params], num_threads=threads, zero_grads=True)
        for gs in grads:
            given = [g.copy() for g in gs]
            opt.step(given)
            assert all((g == 0).all() for g in given)
        for i, oracle in enumerate(oracles):
            assert_like(opt, i, opt.groups[0]["params"][i], oracle)


def test_zeroing_of_strided_gradients():
    memory = np.ones((6, 8), np.float32)
    opt = fastopt.SGD([np.ones((3, 4), np.float32), np.ones((4, 3), np.float32)], zero_grads=True)
    opt.step([memory[::2, ::2], memory[1::2, 1::2].T])
    assert memory.sum() == 24
    assert memory[::2, ::2].sum() == memory[1::2, 1::2].sum() == 0


@pytest.mark.parametrize("what", ["read-only", "broadcast", "the same twice", "overlapping"])
def test_gradients_that_cannot_be_zeroed(what):
    opt = fastopt.Adam({"a": np.ones(8), "b": np.ones(8)}, zero_grads=True)
    good = {"a": np.ones(8), "b": np.ones(8)}
    memory = np.ones(12)
    memory.setflags(write=what != "read-only")
    overlapping = np.lib.stride_tricks.as_strided(np.ones(1), (8,), (0,))
    bad = {
        "read-only": ({"a": np.ones(8), "b": memory[:8]}, "'b' must be writable to be set to zero"),
        "broadcast": ({"a": overlapping, "b": np.ones(8)}, "'a' must not overlap itself to be set to zero"),
        "the same twice": ({"a": memory[:8], "b": memory[:8]}, "shares memory with|is the same array as"),
        "overlapping": ({"a": memory[:8], "b": memory[4:]}, "gradient of 'b' shares memory with"),
    }[what]
    for _ in range(2):
        opt.step(good)
        before = repr(opt.state_dict())
        with pytest.raises(ValueError, match=bad[1]):
            opt.step(bad[0])
        assert repr(opt.state_dict()) == before
    if what != "read-only":
        opt.step(bad[0], zero_grads=False)


def test_skipped_gradients_are_zeroed_too():
    """They have been used up: a buffer that is added to would keep its NaN for ever."""
    p, memory = np.ones((4, 3)), np.full((4, 6), math.nan)
    opt = fastopt.SGD({"p": p, "q": np.ones(2)}, nonfinite="skip", zero_grads=True)
    g, values = np.ones(2), np.ones((1, 3))
    opt.step({"p": memory[:, ::2], "q": g})
    assert opt.skipped_steps == 1
    assert (memory[:, ::2] == 0).all()
    assert np.isnan(memory[:, 1::2]).all()
    assert (g == 0).all()
    g[...] = math.inf
    opt.step_one("q", g)
    assert (g == 0).all()
    g[...] = math.inf
    opt.step({"p": fastopt.RowGrad([1], values), "q": g})
    assert opt.skipped_steps == 3
    assert (values == 1).all()
    assert (g == 0).all()
    g[...] = math.inf
    opt.step({"p": None, "q": g}, zero_grads=False)
    assert (g == math.inf).all()
    assert (p == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0}, "clip_norm must be > 0"),
        ({"clip_norm": math.nan}, "clip_norm must be > 0"),
        ({"clip_norm": "1"}, "clip_norm must be a number"),
        ({"clip_value": -1.0}, "clip_value must be > 0"),
        ({"clip_value": math.nan}, "clip_value must be > 0"),
        ({"grad_scale": 0.0}, "grad_scale must be finite and > 0"),
        ({"grad_scale": fastopt.LossScale()}, 'with nonfinite="skip"'),
        ({"zero_grads": 1}, "zero_grads must be True or False, got 1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"swa": (0, 1)}, r"swa\[0\] must be an integer >= 1, got 0"),
        ({"swa": 3}, r"swa must be a pair \(start, every\) or None, got 3"),
        ({"lookahead": (5, 2.0)}, r"lookahead\[1\] must be in \[0, 1\], got 2.0"),
        ({"lookahead": (2.5, 0.5)}, r"lookahead\[0\] must be an integer >= 1, got 2.5"),
        ({"weight_decay_form": "none"}, "weight_decay_form must be one of l2, decoupled, independent, got 'none'"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.Adam(np.ones(3), **options)
    if set(options) & {"clip_norm", "clip_value", "grad_scale", "zero_grads"}:
        p = np.ones(3)
        opt = fastopt.Adam(p)
        with pytest.raises((TypeError, ValueError), match=message):
            opt.step(p.copy(), **options)
        assert (p == 1).all()
        assert opt.step_count == 0


# Of float32: gradient, options, and what a step of 1 moves a parameter of three by.
BEYOND = {
    "clip_value": (1.0, {"clip_value": 1e-40}, 0.0),
    "clip_norm": (1e38, {"clip_norm": 1.0}, 1 / math.sqrt(3)),
    "large grad_scale": (1e38, {"grad_scale": 2.0**127}, 1e38 / 2.0**127),
    "small grad_scale": (1e-37, {"grad_scale": 1e-39}, 1e-37 / 1e-39),
    "maximize": (1e38, {"grad_scale": 2.0**127, "maximize": True}, -1e38 / 2.0**127),
    "decay": (1e38, {"grad_scale": 2.0**127, "weight_decay": 0.5}, 1e38 / 2.0**127 + 0.5),
}


@pytest.mark.parametrize("name", BEYOND)
def test_factors_beyond_float32(name, isas):
    gradient, options, moved = BEYOND[name]
    for isa in isas:
        p = np.ones(3, np.float32)
        fastopt.SGD(p, lr=1.0, **options).step(np.full(3, gradient, np.float32))
        np.testing.assert_allclose(p, 1 - moved, rtol=1e-6, err_msg=isa)


# ---- Everything at once ----


ALL_OF_IT = {"ema_decay": 0.9, "swa": (1, 1), "lookahead": (2, 0.5), "zero_grads": True, "clip_norm": 0.7}


@pytest.mark.parametrize("way", ["step", "accumulate", "bind"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_everything_at_once(dtype, way):
    """Scale, norm, clipping, decay, averages, zeroing, groups, schedules, a skip: as NumPy has it, one by one."""
    rng = np.random.default_rng(8)
    w, b = rng.standard_normal((9, 5)).astype(dtype).T, rng.standard_normal(5).astype(dtype)
    scale = fastopt.LossScale(64.0, interval=3)
    groups = fastopt.groups({"w": w, "b": b}, {"b": {"weight_decay": 0.0, "lr": lambda t: 0.1 / (t + 1)}})
    options = {**ALL_OF_IT, "clip_value": 0.2, "grad_scale": scale, "nonfinite": "skip"}
    opt = fastopt.Adam(groups, lr=0.05, weight_decay=0.1, **options)
    case = next(case for case in PLAIN if case.name == "adam")
    oracles = {"w": Oracle(case, w.T), "b": Oracle(case, b)}
    averages = {n: reference.Averages(o.p, 0.9, (1, 1), (2, 0.5)) for n, o in oracles.items()}
    buffers = {"w": np.zeros((9, 5), dtype).T, "b": np.zeros(5, dtype)}
    if way == "bind":
        opt.bind(buffers)
    value, good, t, skipped = 64.0, 0, 0, 0
    for call in range(8):
        for g in buffers.values():
            assert (g == 0).all()
            g[...] = rng.standard_normal(g.shape) * value
        if call == 4:
            buffers["w"][1, 2] = math.inf
        copies = {name: np.array(g.T if name == "w" else g, order="C") for name, g in buffers.items()}
        if way == "accumulate":
            opt.accumulate(buffers)
            opt.accumulate(buffers)
            opt.step()
            for g in buffers.values():
                g[...] = 0
        else:
            opt.step(buffers if way == "step" else None)
        if call == 4:
            value, good, skipped = value / 2, 0, skipped + 1
        else:
            t += 1
            copies = {n: g + g for n, g in copies.items()} if way == "accumulate" else copies
            factor = 1 / (value * 2 if way == "accumulate" else value)
            norm = factor * sums.norm([copies["b"], copies["w"]])
            clip = 0.7 / (norm + 1e-6)
            for name, oracle in oracles.items():
                own = {"lr": 0.1 / t, "weight_decay": 0.0} if name == "b" else {"lr": 0.05, "weight_decay": 0.1}
                averages[name].before(oracle.p, t, t)
                oracle.step(copies[name], scale=factor * clip if clip < 1 else factor, clip_value=0.2, **own)
                averages[name].after(oracle.p, t, t)
            good += 1
            if good == 3:
                value, good = 2 * value, 0
            assert opt.grad_norm == norm
        assert (scale.value, opt.step_count, opt.skipped_steps) == (value, t, skipped)
        for name, p in {"w": w.T, "b": b}.items():
            assert_same_bits(p, oracles[name].p, name)
            for letter, buffer in {**oracles[name].buffers, **averages[name].buffers}.items():
                mine = opt.state[name][letter]
                assert_same_bits(np.ascontiguousarray(mine.T if name == "w" else mine), buffer, f"{name}: {letter}")
