"""The stages around the rule in the same pass: scaling, clipping, decay, zeroing, averages."""

import copy
import math
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference, sums
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, assert_same_bits, ids
from support.cases import AVERAGING, BY_ROW, PLAIN, RULES, Oracle, step_together

SHAPES = [(3,), (40, 50), (), (70001,), (0,), (7, 3)]
CLIP = [{"clip_norm": 0.5}, {"clip_norm": 1e9}, {"clip_value": 0.01}, {"grad_scale": 1024.0}]
CLIP += [{"clip_norm": 0.5, "clip_value": 1e-3, "grad_scale": 3.0}]


def some(dtype, seed=5, shapes=SHAPES):
    """Parameters, and an endless supply of gradients for them."""
    rng = np.random.default_rng(seed)
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    streams = [gradients(seed + i, shape, dtype) for i, shape in enumerate(shapes)]
    return params, iter(lambda: [next(stream) for stream in streams], None)


def factor(grads, clip_norm=0.0, grad_scale=1.0, clip_value=0.0):
    """The norm, and what the rule's gradient is multiplied by, as documented."""
    norm = 1 / grad_scale * sums.norm(grads)
    clip = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
    return norm, 1 / grad_scale * clip if clip < 1 else 1 / grad_scale


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("options", CLIP, ids=str)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_scale_and_clip(case, options, dtype, isa):
    params, grads = some(dtype)
    oracles = [Oracle(case, p) for p in params]
    opts = [case.make([p.copy() for p in params], num_threads=threads, **options) for threads in (1, 3)]
    for _, gs in zip(range(3), grads, strict=False):
        norm, scale = factor(gs, **options)
        step_together(oracles, gs, scale=scale, clip_value=options.get("clip_value", 0.0))
        for opt in opts:
            opt.step(gs)
            assert opt.grad_norm == (norm if "clip_norm" in options else None)
    for opt in opts:
        for i, oracle in enumerate(oracles):
            assert_like(opt, i, opt.groups[0]["params"][i], oracle)


def test_options_of_one_step():
    """An option of a step replaces the optimizer's own, for that step alone."""
    params, grads = some(np.float32)
    own = fastopt.Adam([p.copy() for p in params], clip_norm=0.5)
    given = fastopt.Adam([p.copy() for p in params])
    for i, gs in zip(range(4), grads, strict=False):
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
    params, grads = some(np.float64)
    theirs = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    peer = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1)
    opt = fastopt.AdamW(params, lr=1e-2, weight_decay=0.1, clip_norm=0.3)
    for _, gs in zip(range(20), grads, strict=False):
        for p, g in zip(theirs, gs, strict=True):
            p.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.3)
        peer.step()
        opt.step(gs)
        assert opt.grad_norm == pytest.approx(float(norm), rel=1e-12)
    for p, their in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p, their.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("options", CLIP, ids=str)
def test_skip_with_clipping(options, dtype, bad):
    params, grads = some(dtype)
    opt = fastopt.Adam(params, nonfinite="skip", num_threads=2, **options)
    opt.step(next(grads))
    before = [p.copy() for p in params], opt.state_dict()
    gs = next(grads)
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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_zeroing(case, dtype, threads):
    params, grads = some(dtype)
    oracles = [Oracle(case, p) for p in params]
    opt = case.make(params, num_threads=threads, zero_grads=True)
    for _, gs in zip(range(2), grads, strict=False):
        step_together(oracles, gs)
        opt.step(gs)
        assert all((g == 0).all() for g in gs)
    for i, oracle in enumerate(oracles):
        assert_like(opt, i, params[i], oracle)


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


# ---- Averages ----


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_averages(case, dtype, threads, isa):
    params, grads = some(dtype)
    plain = [p.copy() for p in params]
    options = {"ema_decay": 0.9, "swa": (2, 3)} | ({} if case.cls in AVERAGING else {"lookahead": (4, 0.25)})
    opt = case.make(params, num_threads=threads, **options)
    other = case.make(plain)
    averages = [reference.Averages(p, **options) for p in params]
    for t, gs in zip(range(1, 10), grads, strict=False):
        for p, of in zip(plain, averages, strict=True):
            of.before(p, t, t)
        opt.step(gs)
        other.step(gs)
        for i, (p, of) in enumerate(zip(plain, averages, strict=True)):
            of.after(p, t, t)
            assert_same_bits(params[i], p)
            for name, average in of.buffers.items():
                assert_same_bits(opt.state[i][name], average, name)
    for i, of in enumerate(averages):
        assert_same_bits(opt.ema[i], of.buffers["ema"])
        assert_same_bits(opt.swa[i], of.buffers["swa"])


def test_averages_start_at_the_first_step():
    """From the parameters as they are then, before their decay, whatever they were when the optimizer was made."""
    options = {"ema_decay": 0.75, "weight_decay": 0.5, "weight_decay_form": "independent"}
    p = np.zeros(2)
    opt = fastopt.SGD(p, **options)
    p[...] = 8
    opt.step(np.zeros(2))
    assert p.tolist() == [4, 4]
    assert opt.ema[0].tolist() == [7, 7]  # 8 + (1 - 0.75) * (4 - 8)
    p, frozen = np.zeros(2), np.zeros(3)
    opt = fastopt.SGD([p, frozen], ema_decay=0.99, swa=(1, 1), lookahead=(1, 0.5))
    p[...], frozen[...] = 7, 3
    opt.step([np.zeros(2), None])
    assert p.tolist() == [7, 7]
    for average in ("ema", "swa"):
        assert getattr(opt, average)[0].tolist() == [7, 7]
        with opt.swapped(average):
            assert (p.tolist(), frozen.tolist()) == ([7, 7], [3, 3, 3])


def test_averages_of_a_parameter_without_a_gradient():
    """By hand: they move towards it as it is, and swa counts the steps of all."""
    p, q = np.zeros(1), np.zeros(1)
    opt = fastopt.SGD([p, q], lr=1.0, ema_decay=0.5, swa=(2, 2))
    expected = [-0.5, -0.75, 0.125, 0.5625, 0.78125]
    for t, ema in enumerate(expected, 1):
        opt.step([np.ones(1) if t == 1 else None, np.ones(1)])
        assert opt.ema[0] == ema
        if t == 2:
            p[...] = 1
    assert opt.swa[0] == 0  # the mean of -1 after step 2 and of 1 after step 4
    assert opt.swa[1] == -3
    assert opt.state_dict()["state"][0]["step"] == 1


def test_a_parameter_that_was_never_stepped_is_its_average():
    p, q = np.zeros(2), np.zeros(3)
    opt = fastopt.SGD({"p": p, "q": q}, lr=1.0, ema_decay=0.5, swa=(2, 1))
    for t in range(1, 6):
        q[...] = t
        opt.step({"p": np.ones(2), "q": None})
        for average in ("ema", "swa") if t > 1 else ("ema",):
            with opt.swapped(average):
                assert q.tolist() == [t, t, t]
            own = getattr(opt, average)["q"]
            own[...] = 9
            assert q.tolist() == [t, t, t]
    opt.step({"p": np.ones(2), "q": np.ones(3)})
    assert opt.ema["q"].tolist() == [4.5, 4.5, 4.5]  # (5 + 4) / 2
    assert opt.swa["q"].tolist() == [4, 4, 4]  # from its own first step on


def test_averages_before_the_first_step():
    p = np.ones(3)
    opt = fastopt.SGD(p, ema_decay=0.5, swa=(3, 1))
    for t in range(3):
        with pytest.raises(ValueError, match=f"SGD: swa must have begun, after step 3, got {t} steps"):
            _ = opt.swa
        opt.step(np.ones(3))
    np.testing.assert_array_equal(opt.swa[0], p)


LAYOUTS = {
    "plain": lambda p: p.copy(),
    "transposed": lambda p: p.T.copy().T,
    "reversed": lambda p: p[::-1, ::-1].copy()[::-1, ::-1],
    "sliced": lambda p: np.repeat(p, 2, axis=1)[:, ::2],
    "bytes": lambda p: aligned_to_bytes(p),
}


def aligned_to_bytes(p):
    view = np.empty(p.nbytes + 1, np.uint8)[1:].view(p.dtype).reshape(p.shape)
    view[...] = p
    return view


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [fastopt.SGD, fastopt.LAMB, fastopt.Adafactor])
def test_averages_at_rest_in_any_layout(make, layout, dtype, threads, isa):
    """The bits of NumPy's, with gradients now and then, and parameters changed in place between."""
    rng = np.random.default_rng(3)
    shapes = [(310, 170), (0, 3), (5, 1)]
    params = [LAYOUTS[layout](rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    options = {"ema_decay": 0.9, "swa": (3, 2), "lookahead": (2, 0.5)}
    opt = make(params, lr=0.1, num_threads=threads, **options)
    averages, made = [reference.Averages(p.copy(), **options) for p in params], [0] * len(params)
    plain = make(alone := [p.copy() for p in params], lr=0.1)
    for t in range(1, 9):
        grads = [None if rng.random() < 0.5 else rng.standard_normal(shape).astype(dtype) for shape in shapes]
        for p, other in zip(params, alone, strict=True):
            p += dtype(0.25)
            other[...] = p
        for i, (average, g) in enumerate(zip(averages, grads, strict=True)):
            if g is not None:
                made[i] += 1
                average.before(alone[i], made[i], t)
        plain.step(grads)
        opt.step(grads)
        for i, (average, g) in enumerate(zip(averages, grads, strict=True)):
            if g is None:
                average.rest(alone[i], made[i], t)
            else:
                average.after(alone[i], made[i], t)
            assert_same_bits(np.ascontiguousarray(params[i]), alone[i])
            for name, buffer in average.buffers.items():
                assert_same_bits(np.ascontiguousarray(opt.state[i][name]), buffer, f"{t}, {i}: {name}")


def test_a_read_only_parameter_at_rest():
    """It is only read; one whose memory has changed is refused, as for a gradient."""
    p, q = np.zeros(2), np.zeros(2)
    opt = fastopt.SGD([p, q], lr=1.0, ema_decay=0.5)
    opt.step([np.ones(2), np.ones(2)])
    q.flags.writeable = False
    opt.step([np.ones(2), None])
    assert opt.ema[1].tolist() == [-0.75, -0.75]
    q.shape = (1, 2)
    with pytest.raises(ValueError, match=r"SGD.step: parameter 1 must stay the"):
        opt.step([np.ones(2), None])
    assert opt.step_count == 2


def test_skipped_steps_leave_averages_alone():
    params = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD(params, lr=1.0, nonfinite="skip", ema_decay=0.5, swa=(1, 1))
    opt.step([np.full(2, math.nan), None])
    params[0][...] = params[1][...] = 4
    opt.step([np.zeros(2), np.zeros(2)])
    before = repr(opt.state_dict())
    params[1][...] = 8
    opt.step([np.full(2, math.inf), None])
    assert repr(opt.state_dict()) == before
    opt.step([np.zeros(2), None])
    assert [ema.tolist() for ema in opt.ema.values()] == [[4, 4], [6, 6]]
    assert [swa.tolist() for swa in opt.swa.values()] == [[4, 4], [6, 6]]


def test_averages_with_micro_batches():
    """A parameter without a gradient in all of them is at rest."""
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    opt = fastopt.SGD(params, lr=1.0, ema_decay=0.5)
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    for _ in range(2):
        opt.accumulate({"a": np.ones(2), "b": None})
    assert opt.ema["b"].tolist() == [-0.5, -0.5]
    opt.step()
    assert (opt.ema["a"].tolist(), opt.ema["b"].tolist()) == ([-1.25, -1.25], [-0.75, -0.75])


def test_averages_one_parameter_at_a_time():
    """A round is one step of all: with None to the bit, and where a parameter is left out to rounding."""
    rng = np.random.default_rng(4)
    make = lambda: fastopt.SGD({"a": np.ones(5), "b": np.ones(5)}, lr=0.1, ema_decay=0.9, swa=(2, 3))  # noqa: E731
    whole, single, sparing = make(), make(), make()
    for t in range(12):
        a, b = rng.standard_normal(5), None if t in (1, 2, 3, 6, 7) else rng.standard_normal(5)
        whole.step({"a": a, "b": b})
        for opt in (single, sparing):
            opt.step_one("a", a)
            if b is not None or opt is single:
                opt.step_one("b", b)
        for average in ("ema", "swa") if t else ("ema",):
            for name, values in getattr(whole, average).items():
                assert_same_bits(getattr(single, average)[name], values)
                np.testing.assert_allclose(getattr(sparing, average)[name], values, rtol=1e-14)
    single.step_one("a", np.ones(5))
    assert single.swa["b"] is not single.state["b"]["swa"]  # a round behind
    saved = single.state_dict()
    single.load_state_dict(saved)
    assert repr(single.state_dict()) == repr(saved)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_rates_of_one_are_copies(dtype, isa):
    """Where p + 1 * (q - p) would not be q; subnormals are copied as they are."""
    p, plain, rest = np.full(40, 1e30, dtype), np.full(40, 1e30, dtype), np.full(40, 1e30, dtype)
    opt = fastopt.SGD([p, rest], lr=1.0, ema_decay=0.0, swa=(3, 1), lookahead=(1, 1.0))
    other = fastopt.SGD(plain, lr=1.0)
    for t, g in zip(range(1, 5), (1e30, 1.0, -3e-10, 2.0), strict=True):
        opt.step([np.full(40, g, dtype), np.zeros(40, dtype) if t == 1 else None])
        other.step(np.full(40, g, dtype))
        assert_same_bits(p, plain)
        assert_same_bits(opt.ema[0], plain)
        assert_same_bits(opt.state[0]["slow"], plain)
        assert_same_bits(opt.ema[1], rest)
        if t == 3:
            assert_same_bits(opt.swa[0], plain)
            assert_same_bits(opt.swa[1], rest)
        rest[...] = np.finfo(dtype).smallest_subnormal if t == 2 else 5


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_a_schedule_of_the_decay(dtype):
    decay = schedules.ema_warmup(0.35)
    params = [np.full(3, 2, dtype), np.ones((2, 2), dtype)]
    averages = [reference.Averages(p, 0.0) for p in params]
    opt = fastopt.Adafactor(params, lr=schedules.linear(0.1, 0.0, 5), ema_decay=decay)
    singly = copy.deepcopy(opt)
    for t in range(1, 10):
        grads = [np.full(3, t, dtype), None if t == 4 else np.full((2, 2), -t, dtype)]
        made = [t, t - (t > 3)]
        for average, p, g, count in zip(averages, params, grads, made, strict=True):
            average.ema_decay = decay(t - 1)
            if g is not None:
                average.before(p, count, t)
        opt.step(grads)
        for i, g in enumerate(grads):
            singly.step_one(i, g)
        for i, (average, p, g) in enumerate(zip(averages, params, grads, strict=True)):
            if g is None:
                average.rest(p, made[i], t)
            else:
                average.after(p, made[i], t)
            assert_same_bits(opt.ema[i], average.buffers["ema"])
            assert_same_bits(singly.ema[i], average.buffers["ema"])
        if t == 5:
            params, opt = pickle.loads(pickle.dumps((params, opt)))


def test_a_schedule_of_the_decay_that_fails():
    p = np.ones(3)
    for bad, message in ((1.0, r"in \[0, 1\), got 1.0"), ("x", "a number, got 'x'")):
        opt = fastopt.Adam(p, ema_decay=lambda t, bad=bad: 0.5 if t < 2 else bad)
        for _ in range(2):
            opt.step(np.ones(3))
        before = p.copy(), repr(opt.state_dict())
        with pytest.raises((TypeError, ValueError), match=f"Adam after 2 steps: ema_decay must be {message}"):
            opt.step(np.ones(3))
        assert_same_bits(p, before[0])
        assert repr(opt.state_dict()) == before[1]
        with pytest.raises((TypeError, ValueError), match=f"Adam after 0 steps: ema_decay must be {message}"):
            fastopt.Adam(p, ema_decay=lambda t, bad=bad: bad)


def test_averages_are_saved_with_how_far_they_are(files):
    """A parameter at rest, one never stepped and rows of their own: a run that is loaded goes on to the same bits."""

    def make(params):
        return fastopt.Adam(params, lr=0.1, ema_decay=0.9, swa=(2, 2))

    rng = np.random.default_rng(11)
    params = {"rest": np.ones(3), "never": np.full(2, 5.0), "table": np.ones((30, 4)), "late": np.ones((6, 2))}
    opt = make(params)

    def step(*optimizers):
        rows = fastopt.RowGrad(rng.integers(0, 25, 4), rng.standard_normal((4, 4)))
        late = fastopt.RowGrad(rng.integers(0, 6, 2), rng.standard_normal((2, 2)))
        rest = rng.standard_normal(3) if optimizers[0].step_count in (0, 9) else None
        for each in optimizers:
            each.step({"rest": rest, "never": None, "table": rows, "late": late if each.step_count > 7 else None})

    for _ in range(6):
        step(opt)
    fastopt.save(files / "state", opt)
    others = copy.deepcopy(params)
    loaded = make(others)
    fastopt.load(files / "state", loaded)
    assert repr(loaded.state_dict()) == repr(opt.state_dict())
    copies, copied = pickle.loads(pickle.dumps((params, opt)))
    for _ in range(6):
        step(opt, loaded, copied)
        for average in ("ema", "swa"):
            for name, values in getattr(opt, average).items():
                assert_same_bits(getattr(loaded, average)[name], values)
                assert_same_bits(getattr(copied, average)[name], values)
    for name, p in params.items():
        assert_same_bits(others[name], p)
        assert_same_bits(copies[name], p)


def test_swa_is_the_mean():
    params, grads = some(np.float64)
    opt = fastopt.SGD(params, lr=0.1, swa=(3, 2))
    seen = []
    for t, gs in zip(range(1, 12), grads, strict=False):
        opt.step(gs)
        if t >= 3 and (t - 3) % 2 == 0:
            seen.append([p.copy() for p in params])
    for i, _ in enumerate(params):
        np.testing.assert_allclose(opt.swa[i], np.mean([sample[i] for sample in seen], axis=0), atol=1e-14)


def test_torch_averages_alike():
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    p, q = np.linspace(-1, 1, 50), np.linspace(-1, 1, 50)
    theirs = torch.nn.Linear(50, 1, bias=False, dtype=torch.float64)
    theirs.weight.data = torch.tensor(q.reshape(1, 50))
    ema = torch.optim.swa_utils.AveragedModel(theirs, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95))
    ema.update_parameters(theirs)  # its first update copies
    opt = fastopt.SGD(p, lr=0.1, ema_decay=0.95)
    for g, _ in zip(gradients(1, 50, np.float64), range(30), strict=False):
        opt.step(g)
        theirs.weight.data = torch.tensor(p.copy().reshape(1, 50))
        ema.update_parameters(theirs)
    np.testing.assert_allclose(opt.ema[0], ema.module.weight.detach().numpy()[0], rtol=1e-12, atol=1e-12)


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


def test_averages_that_are_not_kept():
    opt = fastopt.Adam(np.ones(3))
    for name in ("ema", "swa"):
        with pytest.raises(ValueError, match=name):
            getattr(opt, name)


@pytest.mark.parametrize(
    "options", [{"ema_decay": 0.9, "swa": (2, 2), "lookahead": (3, 0.5), "clip_norm": 0.1}], ids=[""]
)
def test_saved_in_the_middle(options, files):
    """Averages are state: a run that is saved and loaded goes on to the same bits."""
    params, grads = some(np.float32)
    straight = fastopt.Adam([p.copy() for p in params], **options)
    first = fastopt.Adam([p.copy() for p in params], **options)
    gs = [g for g, _ in zip(grads, range(8), strict=False)]
    for g in gs:
        straight.step(g)
    for g in gs[:3]:
        first.step(g)
    fastopt.save(files / "state", first)
    second = fastopt.Adam([p.copy() for p in first.groups[0]["params"]], **options)
    fastopt.load(files / "state", second)
    for g in gs[3:]:
        second.step(g)
    for i in range(len(params)):
        assert_same_bits(second.groups[0]["params"][i], straight.groups[0]["params"][i])
        for letter in ("m", "v", "ema", "swa", "slow"):
            assert_same_bits(second.state[i][letter], straight.state[i][letter], letter)


# ---- One parameter at a time, micro-batches, rows ----


@pytest.mark.parametrize("case", [case for case in RULES if case.rule not in reference.TOGETHER], ids=ids)
def test_one_parameter_at_a_time(case):
    params, grads = some(np.float32)
    whole, single = case.make([p.copy() for p in params]), case.make(params, zero_grads=True, ema_decay=0.5)
    for t, gs in zip(range(1, 4), grads, strict=False):
        whole.step(gs)
        for i in reversed(range(len(gs))):
            single.step_one(i, gs[i])
            assert single.step_count == t
            assert (gs[i] == 0).all()
    for i, p in enumerate(params):
        assert_same_bits(p, whole.groups[0]["params"][i])
        for letter, buffer in whole.state[i].items():
            assert_same_bits(single.state[i][letter], buffer, letter)


def test_one_parameter_is_refused():
    opt = fastopt.Adam({"w": np.ones(3)}, clip_norm=1.0)
    with pytest.raises(ValueError, match="clip_norm must be None, since the norm of all gradients"):
        opt.step_one("w", np.ones(3))
    opt = fastopt.Adam({"w": np.ones(3)})
    with pytest.raises(ValueError, match="name must be that of a parameter, got 'v'"):
        opt.step_one("v", np.ones(3))
    with pytest.raises(ValueError, match="shape"):
        opt.step_one("w", np.ones(4))
    assert opt.step_count == 0
    opt = fastopt.Prodigy({"w": np.ones(3)})
    with pytest.raises(ValueError, match="needs the gradients of all parameters at once"):
        opt.step_one("w", np.ones(3))


@pytest.mark.parametrize("accumulated", ["mean", "sum"])
@pytest.mark.parametrize("structure", ["mapping", "groups"])
def test_micro_batches(structure, accumulated):
    def of(a, b):
        return {"a": a, "b": b} if structure == "mapping" else [{"a": a}, {"b": b}]

    a, b = np.ones((30, 2)).T, np.ones(5)
    params = of(a, b) if structure == "mapping" else [{"params": group} for group in of(a, b)]
    opt = fastopt.SGD(params, lr=1.0)
    opt.accumulate(of(np.full((2, 30), 3.0), None))
    opt.accumulate(of(np.full((2, 30), 5.0), None))
    with pytest.raises(ValueError, match="gradients must be None, since some have been accumulated"):
        opt.step(of(np.ones((2, 30)), None))
    with pytest.raises(ValueError, match="shape"):
        opt.accumulate(of(np.ones((2, 31)), None))
    opt.step(accumulated=accumulated)
    assert (a == (-3 if accumulated == "mean" else -7)).all()
    assert (b == 1).all()
    opt.accumulate(of(np.ones((2, 30)), np.ones(5)))
    opt.step()
    assert (a == (-4 if accumulated == "mean" else -8)).all()
    assert (b == 0).all()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()


def test_micro_batches_that_are_skipped_leave_nothing_behind():
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="skip")
    opt.accumulate(np.full(3, np.inf))
    opt.step()
    assert opt.skipped_steps == 1
    opt.accumulate(np.ones(3))
    opt.step()
    assert (p == 0).all()


def test_a_loss_scale_grows_and_backs_off():
    scale = fastopt.LossScale(8.0, interval=2)
    opt = fastopt.SGD(np.ones(3), lr=1.0, grad_scale=scale, nonfinite="skip")
    values = []
    for g in (8.0, 8.0, 16.0, math.inf, 8.0, 8.0):
        opt.step(np.full(3, g))
        values.append(scale.value)
    assert values == [8, 16, 16, 8, 8, 16]
    assert (opt.groups[0]["params"][0] == 1 - 5).all()
    other = fastopt.LossScale(interval=2)
    other.load_state_dict(scale.state_dict())
    assert repr(other) == repr(scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", BY_ROW, ids=ids)
def test_rows(case, dtype, threads, isa):
    """Touched rows take the step of their own, duplicates summed in order; the others stay to the bit."""
    rng = np.random.default_rng(1)
    table = rng.standard_normal((500, 130)).astype(dtype)
    opt = case.make(table, num_threads=threads)
    before = {letter: buffer.copy() for letter, buffer in opt.state[0].items()} | {"p": table.copy()}
    oracle = Oracle(case, table)
    touched = np.zeros(len(table), bool)
    for _ in range(3):
        rows = rng.integers(0, 400, 300)
        values = rng.standard_normal((300, 130)).astype(dtype)
        if case.rule == "nadam":  # its carried product would count the rows' calls
            rows = np.arange(300)
        opt.step(fastopt.RowGrad(rows, values))
        unique = np.unique(rows)
        dense = np.zeros_like(table)
        np.add.at(dense, rows, values)
        kept = {letter: buffer.copy() for letter, buffer in oracle.buffers.items()} | {"p": oracle.p.copy()}
        oracle.step(dense)
        others = np.setdiff1d(np.arange(len(table)), unique)
        for letter, buffer in {**oracle.buffers, "p": oracle.p}.items():
            buffer[others] = kept[letter][others]
        touched[unique] = True
    assert_like(opt, 0, table, oracle)
    assert_same_bits(table[~touched], before["p"][~touched])
    assert (~touched).any()


def test_rows_beside_arrays():
    table, w = np.ones((10, 4), np.float32), np.ones(3, np.float32)
    opt = fastopt.SGD({"table": table, "w": w}, lr=1.0, clip_norm=1.0, zero_grads=True)
    values, g = np.ones((2, 4), np.float32), np.ones(3, np.float32)
    opt.step({"table": fastopt.RowGrad([7, 7], values), "w": g})
    assert opt.grad_norm == pytest.approx(math.sqrt(4 * 4 + 3))
    assert (values == 1).all()
    assert (g == 0).all()
    assert table[7, 0] == pytest.approx(1 - 2 / math.sqrt(19))
    opt.step({"table": np.ones((10, 4), np.float32), "w": np.ones(3, np.float32)}, clip_norm=math.inf)
    assert (table[:7] == 0).all()


def test_sgd_and_adagrad_of_rows_are_exact():
    rng = np.random.default_rng(3)
    for make in (fastopt.SGD, fastopt.Adagrad):
        dense, sparse = np.ones((20, 3)), np.ones((20, 3))
        a, b = make(dense), make(sparse)
        for _ in range(5):
            rows, values = rng.permutation(20)[:6], rng.standard_normal((6, 3))
            g = np.zeros((20, 3))
            g[rows] = values
            a.step(g)
            b.step(fastopt.RowGrad(rows, values))
        assert_same_bits(sparse, dense)


def test_torch_steps_rows_alike():
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    rng = np.random.default_rng(3)
    table = rng.standard_normal((50, 6))
    theirs = torch.tensor(table.copy(), requires_grad=True)
    # torch adds eps to sqrt(v) before the correction here; one that is too small to matter makes the two the same.
    peer, opt = torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-20), fastopt.Adam(table, lr=0.1, eps=1e-20)
    for _ in range(20):
        rows, values = rng.integers(0, 50, 12), rng.standard_normal((12, 6))
        theirs.grad = torch.sparse_coo_tensor(rows[None], values, (50, 6))
        peer.step()
        opt.step(fastopt.RowGrad(rows, values))
    np.testing.assert_allclose(table, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        ([10], (1, 4), "rows of the RowGrad of 'w' must be >= 0 and < 10"),
        ([-1], (1, 4), "rows must be >= 0, got -1"),
        ([1.0], (1, 4), "rows must be a one-dimensional array of integers"),
        ([[1]], (1, 4), "rows must be a one-dimensional array of integers"),
        ([1], (2, 4), "values must have one entry for each of the 1 rows"),
        ([1], (1, 5), "its parameter's shape per row"),
        ([1], (1,), "its parameter's shape per row"),
    ],
)
def test_bad_rows(rows, shape, message):
    w = np.ones((10, 4), np.float32)
    opt = fastopt.Adam({"w": w})
    with pytest.raises((TypeError, ValueError), match=message):
        opt.step({"w": fastopt.RowGrad(rows, np.ones(shape, np.float32))})
    assert (w == 1).all()
    assert opt.step_count == 0


@pytest.mark.parametrize("case", BY_ROW, ids=ids)
def test_averages_of_rows(case):
    """As those of the whole table after every step, to rounding; now and then with a whole gradient, or none."""
    rng = np.random.default_rng(12)
    table = rng.standard_normal((30, 4))
    opt = case.make({"table": table}, ema_decay=0.8, swa=(3, 2))
    ema, samples = table.copy(), []
    for t in range(1, 40):
        g = fastopt.RowGrad(rng.integers(0, 20, 3), rng.standard_normal((3, 4)))
        whole = rng.standard_normal((30, 4))
        opt.step({"table": None if t in (7, 8, 21) else whole if t in (9, 25) else g})
        ema += (1 - 0.8) * (table - ema)
        samples += [table.copy()] if t >= 3 and (t - 3) % 2 == 0 else []
        np.testing.assert_allclose(opt.ema["table"], ema, rtol=1e-13, atol=1e-13)
        if samples:
            np.testing.assert_allclose(opt.swa["table"], np.mean(samples, axis=0), rtol=1e-13, atol=1e-13)
    p = table.copy()
    with opt.swapped("ema"):
        np.testing.assert_allclose(table, ema, rtol=1e-13, atol=1e-13)
        with pytest.raises(ValueError, match="must wait until the parameters are back"):
            _ = opt.ema
    assert_same_bits(table, p)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_bits_of_averages_of_rows(dtype, threads, isa):
    """Long rows, cut by blocks and by threads: each has the bits of the oracle's closed form."""
    case = next(case for case in PLAIN if case.name == "adagrad")
    rng = np.random.default_rng(13)
    table = rng.standard_normal((23, 2500)).astype(dtype)
    averages = [reference.Averages(row, 0.9, (2, 3)) for row in table]
    opt = case.make(table, num_threads=threads, ema_decay=0.9, swa=(2, 3), weight_decay=0.1)
    plain = case.make(alone := table.copy(), weight_decay=0.1)
    met = np.zeros(len(table), int)
    for t in range(1, 10):
        rows, values = rng.permutation(23)[:9], rng.standard_normal((9, 2500)).astype(dtype)
        g = rng.standard_normal(table.shape).astype(dtype) if t in (4, 9) else fastopt.RowGrad(rows, values)
        rows = range(23) if t in (4, 9) else rows
        for row in rows:
            met[row] += 1
            averages[row].before(alone[row], met[row], t)
            averages[row].begun = 0  # swa counts from the first step of the table on
        opt.step(g)
        plain.step(g)
        for row in rows:
            averages[row].after(alone[row], met[row], t)
        for name in ("ema", "swa"):
            wanted = np.stack([average.buffers[name] for average in averages])
            assert_same_bits(opt.state[0][name], wanted, f"{t}: {name}")
        wanted = [copy.deepcopy(average) for average in averages]
        for average, row, times in zip(wanted, alone, met, strict=True):
            average.before(row, 2 if times else 1, t + 1)
        assert_same_bits(opt.ema[0], np.stack([average.buffers["ema"] for average in wanted]))
        if t > 1:
            assert_same_bits(opt.swa[0], np.stack([average.buffers["swa"] for average in wanted]))
    assert_same_bits(table, alone)


def test_averages_that_take_no_rows():
    good = fastopt.RowGrad([1], np.ones((1, 4)))
    for options, why in (
        ({"lookahead": (2, 0.5)}, "lookahead moves all of it"),
        ({"ema_decay": schedules.ema_warmup(0.9)}, "what the average of other rows misses has no closed form with a"),
    ):
        table = np.ones((10, 4))
        opt = fastopt.Adam(table, **options)
        with pytest.raises(ValueError, match=f"gradient of parameter 0 must be an array, since {why}"):
            opt.step(good)
        assert (table == 1).all()
        opt.step(np.ones((10, 4)))


def test_a_state_of_averages_that_does_not_fit():
    opt = fastopt.Adam([np.ones((5, 2)), np.ones((2, 5)).T], ema_decay=0.5)
    opt.step([fastopt.RowGrad([1], np.ones((1, 2))), np.ones((5, 2))])
    good = opt.state_dict()
    assert good["state"][0]["averaged"].tolist() == [-1, 1, -1, -1, -1]
    assert good["state"][1]["averaged"] == 1
    rows = np.array([-1, 1, 0, 0, 0])
    for i, value, message in (
        (
            0,
            rows.astype(np.int32),
            r"must be an integer, or one int64 for each of the 5 rows, got shape \(5,\) and dtype",
        ),
        (0, rows[:4], r"must be an integer, or one int64 for each of the 5 rows, got shape \(4,\) and dtype int64"),
        (0, rows + 2, r"must be in \[-1, 2\], got 1 to 3"),
        (0, rows - 1, r"must be in \[-1, 2\], got -2 to 0"),
        (0, True, r"must be an integer in \[-1, 2\], got True"),
        (1, 3, r"must be an integer in \[-1, 2\], got 3"),
        (1, 1.0, r"must be an integer in \[-1, 2\], got 1.0"),
        (1, rows, r"must be an integer in \[-1, 2\], got array"),
    ):
        bad = copy.deepcopy(good)
        bad["state"][i]["averaged"] = value
        with pytest.raises(
            ValueError, match=rf"Adam.load_state_dict: averaged in the state of parameter {i} {message}"
        ):
            opt.load_state_dict(bad)
        assert repr(opt.state_dict()) == repr(good)
    given = copy.deepcopy(good)
    opt.load_state_dict(given)
    given["state"][0]["averaged"][...] = 7
    assert repr(opt.state_dict()) == repr(good)


def test_rows_that_do_not_fit():
    good = fastopt.RowGrad([1], np.ones((1, 4), np.float32))
    for array in (np.ones((4, 10), np.float32).T, np.ones((10, 8), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="must be C-contiguous"):
            fastopt.Adam(array).step(good)
    with pytest.raises(TypeError, match="dtype"):
        fastopt.Adam(np.ones((10, 4))).step(fastopt.RowGrad([1], np.ones((1, 4), np.int64)))
    for make in (fastopt.LAMB, fastopt.ASGD, fastopt.Rprop, fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW):
        with pytest.raises(ValueError, match="this rule needs all of it"):
            make(np.ones((10, 4), np.float32)).step(good)
    table = np.ones((10, 4), np.float32)
    with pytest.raises(ValueError, match="must not share memory"):
        fastopt.Adam(table).step(fastopt.RowGrad([1], table[:1]))


@pytest.mark.parametrize("shape", [(10, 4), (10, 0), (0, 4), (10,), (5, 2, 2)], ids=str)
def test_no_rows(shape):
    """Nothing is written, but the step counts: the next one has the bias correction of the second."""
    table = np.ones(shape)
    opt = fastopt.Adam(table, clip_norm=1.0, nonfinite="raise")
    opt.step(fastopt.RowGrad(np.zeros(0, int), np.ones((0, *shape[1:]))))
    assert (opt.step_count, opt.grad_norm, opt.state_dict()["state"][0]["step"]) == (1, 0.0, 1)
    assert (table == 1).all()
    if table.size:
        opt.step(fastopt.RowGrad([1], np.ones((1, *shape[1:]))), clip_norm=math.inf)
        m, v = 0.1 / (1 - 0.9**2), 0.001 / (1 - 0.999**2)
        assert table[1] == pytest.approx(1 - 1e-3 * m / (math.sqrt(v) + 1e-8), rel=1e-14)
    elif shape[0]:
        opt.step(fastopt.RowGrad([1, 1], np.ones((2, *shape[1:]))))
        assert opt.step_count == 2


# ---- Together ----


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


def test_what_was_gathered_can_be_discarded():
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=1.0, nonfinite="raise")
    opt.discard()
    for _ in range(2):
        opt.accumulate(np.full(3, math.nan))
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            opt.step()
    opt.discard()
    opt.accumulate(np.ones(3))
    opt.step()
    assert (p == 0).all()
    opt.accumulate(np.ones(3))
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()
    opt.step(np.ones(3))
    assert (p == -1).all()


@pytest.mark.parametrize("value", ["median", None, 1, np.ones(2)], ids=str)
def test_accumulated_must_be_known(value):
    p = np.ones(3)
    opt = fastopt.SGD(p)
    with pytest.raises(ValueError, match=r"SGD.step: accumulated must be mean or sum, got"):
        opt.step(np.ones(3), accumulated=value)
    with pytest.raises(TypeError, match=r"SGD.step_one: accumulated is an option of step\(\), got"):
        opt.step_one(0, np.ones(3), accumulated=value)
    assert (p == 1).all()


def test_a_loss_scale_is_for_whole_steps():
    """It would change in the middle of a round, whose gradients have been scaled alike."""
    p, scale = np.ones(2), fastopt.LossScale(4.0, interval=1)
    own = fastopt.SGD(p, lr=1.0, grad_scale=scale, nonfinite="skip")
    given = fastopt.SGD(p, lr=1.0, nonfinite="skip")
    for call in (lambda: own.step_one(0, np.ones(2)), lambda: given.step_one(0, np.ones(2), grad_scale=scale)):
        with pytest.raises(ValueError, match=r"SGD.step_one: grad_scale must be a number, since a LossScale adapts to"):
            call()
    assert (p == 1).all()
    own.step_one(0, np.full(2, 2.0), grad_scale=scale.value)
    assert (p == 0.5).all()
    assert scale.value == 4.0


def test_a_loss_scale_stays_where_float32_has_its_inverse():
    scale = fastopt.LossScale(1.0, interval=1)
    own = fastopt.SGD(np.ones(1), grad_scale=scale, nonfinite="skip")
    for g, end in ((math.inf, 2.0**-126), (1.0, 2.0**126)):
        for _ in range(300):
            own.step(np.full(1, g))
        assert scale.value == end
        p = np.ones(2, np.float32)
        fastopt.SGD(p, lr=0.5).step(np.full(2, end, np.float32), grad_scale=scale.value)
        assert (p == 0.5).all()
    for value in (1e300, 1e-300, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="LossScale: value must be"):
            scale.value = value
        assert scale.value == 2.0**126
        with pytest.raises(ValueError, match="LossScale: value must be"):
            fastopt.LossScale(value)
        with pytest.raises(ValueError, match=r"LossScale.load_state_dict: value must be"):
            scale.load_state_dict({"value": value, "good_steps": 0})
    with pytest.raises(TypeError, match="LossScale: value must be a number, got '8'"):
        scale.value = "8"
    scale.value = np.float32(8)
    assert type(scale.value) is float


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


@pytest.mark.parametrize("way", ["step", "step_one", "accumulate", "bind"])
def test_rows_with_everything_that_goes_with_them(way):
    """The step with gradients that are zero elsewhere: scaled, clipped, skipped, beside arrays that are zeroed."""
    rng = np.random.default_rng(9)
    options = {"lr": 0.3, "clip_value": 0.3, "nonfinite": "skip", "zero_grads": True}
    options |= {} if way == "step_one" else {"clip_norm": 0.8}
    scales = [fastopt.LossScale(16.0, interval=2) for _ in range(2)]
    params = [{"table": np.ones((12, 3)), "w": np.ones(4)} for _ in range(2)]
    groups = [fastopt.groups(p, {"w": {"weight_decay": 0.1}}) for p in params]
    dense, sparse = (
        fastopt.SGD(group, **options, **({} if way == "step_one" else {"grad_scale": scale}))
        for group, scale in zip(groups, scales, strict=True)
    )
    for call in range(8):
        rows, values = rng.integers(0, 12, 6), 16 * rng.standard_normal((6, 3))
        if call == 3:
            values[2, 1] = math.nan
        g, before = 16 * rng.standard_normal(4), values.copy()
        whole = np.zeros((12, 3))
        np.add.at(whole, rows, values)
        if way == "step_one":
            for opt, of_table in ((dense, whole), (sparse, fastopt.RowGrad(rows, values))):
                opt.step_one("w", g.copy(), grad_scale=16.0)
                opt.step_one("table", of_table, grad_scale=16.0)
        else:
            for opt, of_table in ((dense, whole), (sparse, fastopt.RowGrad(rows, values))):
                grads = {"table": of_table, "w": g.copy()}
                if way == "accumulate":
                    opt.accumulate(grads)
                    opt.step()
                elif way == "bind":
                    opt.bind(grads)
                    opt.step()
                    assert (grads["w"] == 0).all()
                else:
                    opt.step(grads)
        np.testing.assert_array_equal(values, before)
        for name in params[0]:
            np.testing.assert_allclose(params[1][name], params[0][name], rtol=1e-13, atol=1e-13)
        assert dense.skipped_steps == sparse.skipped_steps == (call >= 3)
        assert scales[0].value == scales[1].value


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
def test_factors_beyond_float32(name, isa):
    gradient, options, moved = BEYOND[name]
    p = np.ones(3, np.float32)
    fastopt.SGD(p, lr=1.0, **options).step(np.full(3, gradient, np.float32))
    np.testing.assert_allclose(p, 1 - moved, rtol=1e-6)


def test_a_loss_scale_whose_interval_is_lowered():
    scale = fastopt.LossScale(8.0, interval=5)
    opt = fastopt.SGD(np.ones(2), grad_scale=scale, nonfinite="skip")
    for _ in range(3):
        opt.step(np.ones(2))
    scale.interval = 2
    opt.step(np.ones(2))
    assert scale.value == 16.0


# ---- One scale, several optimizers ----


def sharing(count=2, **more):
    """A scale of 8 that so many optimizers share, and these; each has one parameter of 0 and a rate of 1."""
    scale = fastopt.LossScale(8.0, **more)
    return scale, *(fastopt.SGD(np.zeros(1), lr=1.0, grad_scale=scale, nonfinite="skip") for _ in range(count))


def value_of(opt):
    return float(opt.groups[0]["params"][0][0])


def test_a_shared_scale_is_the_same_for_all_of_an_iteration():
    """After an overflow in the first optimizer the second still divides by the scale of its gradients."""
    scale, a, b = sharing()
    gradient = scale.value * np.ones(1)
    a.step(np.full(1, math.inf))
    assert scale.value == 8
    b.step(gradient)
    assert (value_of(a), value_of(b)) == (0, -1)
    assert scale.value == 8
    scale.update()
    assert scale.value == 4


def test_two_overflows_of_an_iteration_back_off_once():
    scale, a, b = sharing()
    a.step(np.full(1, math.inf))
    b.step(np.full(1, math.nan))
    scale.update()
    assert scale.value == 4
    assert (a.skipped_steps, b.skipped_steps) == (1, 1)


def test_a_shared_scale_counts_iterations():
    """As torch's GradScaler, step for step."""
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    peer = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    peer.scale(torch.ones(1))  # without which it refuses to step
    theirs = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    peers = [torch.optim.SGD([parameter]) for parameter in theirs]
    scale, *ours = sharing(3, interval=3)
    rng = np.random.default_rng(0)
    values = set()
    for _ in range(60):
        for parameter, theirs_steps, opt in zip(theirs, peers, ours, strict=True):
            g = math.inf if rng.random() < 0.1 else 1.0
            parameter.grad = torch.full((1,), g)
            peer.step(theirs_steps)
            opt.step(np.full(1, g))
        peer.update()
        scale.update()
        assert scale.value == peer.get_scale()
        assert scale.good_steps == peer._get_growth_tracker()
        values.add(scale.value)
    assert len(values) > 3


def test_an_update_that_is_forgotten_or_made_twice():
    scale, a, b = sharing(interval=2)
    for _ in range(3):  # three iterations that count as one
        a.step(np.ones(1))
        b.step(np.ones(1))
    scale.update()
    scale.update()  # nothing has been done since
    assert (scale.value, scale.good_steps) == (8, 1)
    a.step(np.ones(1))
    scale.update()
    assert (scale.value, scale.good_steps) == (16, 0)
    with pytest.raises(ValueError, match="shape"):
        a.step(np.ones(2))
    scale.update()
    assert (scale.value, scale.good_steps) == (16, 0)


def test_a_shared_scale_that_is_never_updated_warns():
    """It cannot back off, so every later step would overflow as well."""
    _, a, b = sharing()
    a.step(np.full(1, math.inf))
    b.step(np.full(1, math.inf))
    with pytest.warns(
        RuntimeWarning, match=r"update\(\) must be called once per iteration .* a SGD has skipped two"
    ) as caught:
        a.step(np.full(1, math.inf))
    assert caught[0].filename == __file__


def test_a_scale_belongs_to_the_optimizers_that_are_alive():
    scale, a, b = sharing()
    del b
    a.step(np.full(1, math.inf))
    assert scale.value == 4  # its own again
    c = fastopt.SGD(np.zeros(1), grad_scale=scale, nonfinite="skip")
    a.step(np.full(1, math.inf))
    assert scale.value == 4
    del c
    a.step(np.full(1, 4.0))
    assert (scale.value, scale.good_steps) == (2, 0)  # with the overflow that nobody had made up for


def test_once_updated_a_scale_of_one_optimizer_moves_by_update():
    scale, a = sharing(1, interval=2)
    a.step(np.ones(1))
    assert scale.good_steps == 1
    scale.update()  # the step has moved it
    assert scale.good_steps == 1
    a.step(np.full(1, math.inf))
    a.step(np.full(1, 8.0))
    assert (scale.value, scale.good_steps) == (8, 1)
    scale.update()
    assert (scale.value, scale.good_steps) == (4, 0)


def test_a_scale_given_to_single_steps_moves_by_update():
    scale = fastopt.LossScale(8.0)
    a, b = (fastopt.SGD(np.zeros(1), lr=1.0, nonfinite="skip") for _ in range(2))
    a.step(np.full(1, math.inf), grad_scale=scale)
    b.step(np.full(1, 8.0), grad_scale=scale)
    assert (scale.value, value_of(b)) == (8, -1)
    scale.update()
    assert scale.value == 4


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_copies_of_a_scale(copied):
    """Optimizers copied together share a copy of the scale; a copy belongs to those that hold it."""
    scale, a, b = sharing()
    a.step(np.full(1, math.inf))
    scale2, a2, b2 = copied([scale, a, b])
    b2.step(np.full(1, math.inf))
    assert (scale.value, scale2.value) == (8, 8)
    scale2.update()
    scale.update()
    assert (scale.value, scale2.value) == (4, 4)

    scale, a = sharing(1)
    a2 = copied(a)  # each with a scale of its own
    a2.step(np.full(1, math.inf))
    assert scale.value == 8
    a2.step(np.full(1, 4.0))
    assert value_of(a2) == -1
    alone = copied(scale)
    opt = fastopt.SGD(np.zeros(1), grad_scale=alone, nonfinite="skip")
    opt.step(np.full(1, math.inf))
    assert (scale.value, alone.value) == (8, 4)


def test_a_scale_that_is_loaded_has_recorded_nothing():
    scale, a, _ = sharing()
    a.step(np.full(1, math.inf))
    scale.load_state_dict({"value": 32.0, "good_steps": 5})
    scale.update()
    assert (scale.value, scale.good_steps) == (32, 5)


# ---- Micro-batches of rows ----


def rows_of(rng, dtype, count=40, high=30, tail=(5,)):
    """Gradients of rows, some of which come several times, some of them 0 of either sign."""
    values = rng.standard_normal((count, *tail)).astype(dtype)
    values[rng.random(count) < 0.1] = -0.0
    return fastopt.RowGrad(rng.integers(0, high, count), values)


@pytest.mark.parametrize("accumulated", ["mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", BY_ROW, ids=ids)
def test_one_micro_batch_of_rows_is_the_step_with_them(case, dtype, accumulated):
    rng = np.random.default_rng(3)
    straight, gathered = (case.make({"table": np.ones((50, 5), dtype), "w": np.ones(4, dtype)}) for _ in range(2))
    for t in range(4):
        grads = {"table": rows_of(rng, dtype), "w": None if t == 2 else rng.standard_normal(4).astype(dtype)}
        straight.step(grads)
        gathered.accumulate(grads)
        gathered.step(accumulated=accumulated)
    for p, q in zip(straight.groups[0]["params"], gathered.groups[0]["params"], strict=True):
        assert_same_bits(p, q)
    assert repr(straight.state_dict()) == repr(gathered.state_dict())


@pytest.mark.parametrize("tail", [(), (7,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("accumulated", ["mean", "sum"])
def test_micro_batches_of_rows_are_summed_in_their_order(accumulated, tail):
    """To the bit the step with all of the rows at once, however many come; the rest of the table does not move."""
    rng = np.random.default_rng(4)
    straight, gathered = (fastopt.Adam(np.ones((200, *tail), np.float32), lr=0.1, clip_norm=1.0) for _ in range(2))
    for count in (1, 2, 9):
        pieces = [
            rows_of(rng, np.float32, int(rng.integers(0, 50)), int(rng.integers(1, 100)), tail) for _ in range(count)
        ]
        whole = fastopt.RowGrad(
            np.concatenate([piece.rows for piece in pieces]), np.concatenate([piece.values for piece in pieces])
        )
        for piece in pieces:
            values = piece.values.copy()
            gathered.accumulate(piece)
            assert_same_bits(piece.values, values)
            piece.values[...] = np.nan  # it was copied
        gathered.step(accumulated=accumulated)
        straight.step(whole, grad_scale=float(count) if accumulated == "mean" else None)
        assert gathered.grad_norm == straight.grad_norm
    assert_same_bits(gathered.groups[0]["params"][0], straight.groups[0]["params"][0])
    assert repr(straight.state_dict()) == repr(gathered.state_dict())
    assert (gathered.groups[0]["params"][0][100:] == 1).all()
    assert (gathered.state[0]["m"][100:] == 0).all()


def test_other_rows_of_momentum_do_not_move():
    """Two steps, by hand: b = 1, then 0.9 + 2; the row that the second step does not name stays."""
    p = np.zeros((3, 1))
    opt = fastopt.SGD(p, lr=1.0, momentum=0.9)
    opt.accumulate(fastopt.RowGrad([0, 1], np.ones((2, 1))))
    opt.step()
    opt.accumulate(fastopt.RowGrad([1], np.full((1, 1), 1.0)))
    opt.accumulate(fastopt.RowGrad([1], np.full((1, 1), 3.0)))
    opt.step()
    np.testing.assert_array_equal(p[:, 0], [-1, -1 - 2.9, 0])
    np.testing.assert_array_equal(opt.state[0]["b"][:, 0], [1, 2.9, 0])


@pytest.mark.parametrize("order", ["rows, whole", "whole, rows", "rows, none, whole, rows"])
def test_a_whole_gradient_makes_rows_whole(order):
    rng = np.random.default_rng(5)
    straight, gathered = (fastopt.Adam({"table": np.ones((20, 3))}, lr=0.1) for _ in range(2))
    for _ in range(3):
        rows, g = rows_of(rng, np.float64, 15, 10, (3,)), rng.standard_normal((20, 3))
        kinds = {"rows": rows, "whole": g, "none": None}
        parts = [kinds[kind] for kind in order.split(", ")]
        total = np.zeros((20, 3))
        for part in parts:
            gathered.accumulate({"table": part})
            if part is rows:
                np.add.at(total, rows.rows, rows.values)
            elif part is g:
                total += g
        gathered.step(accumulated="sum")
        straight.step({"table": total})
        np.testing.assert_allclose(
            gathered.groups[0]["params"][0], straight.groups[0]["params"][0], rtol=1e-13, atol=1e-13
        )
    assert (gathered.groups[0]["params"][0] != 1).all()  # the whole table has moved


def test_rules_without_rows_take_micro_batches_of_rows_as_a_whole_gradient():
    rng = np.random.default_rng(6)
    for make in (fastopt.LAMB, partial(fastopt.Adam, ema_decay=0.5)):
        straight, gathered = (make(np.ones((20, 3)), lr=0.1) for _ in range(2))
        rows, total = rows_of(rng, np.float64, 15, 10, (3,)), np.zeros((20, 3))
        np.add.at(total, rows.rows, rows.values)
        gathered.accumulate(rows)
        gathered.step()
        straight.step(total)
        np.testing.assert_allclose(gathered.groups[0]["params"][0], straight.groups[0]["params"][0], rtol=1e-13)


def test_micro_batches_of_rows_that_do_not_fit_change_nothing():
    params = {"table": np.ones((20, 3)), "w": np.ones(2)}
    opt = fastopt.SGD(params, lr=1.0, nonfinite="skip")
    good = {"table": fastopt.RowGrad([1, 2, 1], np.ones((3, 3))), "w": np.ones(2)}
    opt.accumulate(good)
    for bad in (
        {**good, "w": np.ones(3)},
        {**good, "table": fastopt.RowGrad([20], np.ones((1, 3)))},
        {**good, "table": fastopt.RowGrad([1], np.ones((1, 4)))},
        {"table": np.ones((20, 3)), "w": np.ones(3)},
    ):
        with pytest.raises(ValueError, match=r"SGD\.accumulate"):
            opt.accumulate(bad)
    opt.step(accumulated="sum")
    np.testing.assert_array_equal(params["table"][:4, 0], [1, -1, 0, 1])
    np.testing.assert_array_equal(params["w"], 0)
    opt.accumulate({**good, "table": fastopt.RowGrad([3], np.full((1, 3), np.inf))})
    opt.step()
    assert opt.skipped_steps == 1
    opt.accumulate(good)
    opt.discard()
    with pytest.raises(TypeError, match="gradients must be given"):
        opt.step()
    opt.accumulate(good)
    opt.step()
    np.testing.assert_array_equal(params["table"][:4, 0], [1, -3, -1, 1])


def test_rows_that_catch_up_take_micro_batches():
    rng = np.random.default_rng(7)
    straight, gathered = (fastopt.SGD(np.ones((30, 2)), lr=0.1, momentum=0.9, catch_up=True) for _ in range(2))
    for _ in range(6):
        a, b = (rows_of(rng, np.float64, 5, 30, (2,)) for _ in range(2))
        straight.step(fastopt.RowGrad(np.concatenate([a.rows, b.rows]), np.concatenate([a.values, b.values])))
        gathered.accumulate(a)
        gathered.accumulate(b)
        gathered.step(accumulated="sum")
    straight.catch_up()
    gathered.catch_up()
    assert_same_bits(gathered.groups[0]["params"][0], straight.groups[0]["params"][0])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to measure the memory in use")
def test_micro_batches_of_rows_take_the_memory_of_rows():
    """Neither a table nor all micro-batches are kept: the pages that come into use are counted."""

    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    table = np.ones((400_000, 64), np.float32)  # 100 MB
    opt = fastopt.SGD(table, lr=0.1)
    piece = fastopt.RowGrad(np.arange(2000), np.ones((2000, 64), np.float32))
    opt.accumulate(piece)
    before = pages()
    for _ in range(50):
        opt.accumulate(piece)
    opt.discard()
    opt.accumulate(piece)
    opt.step()
    assert (pages() - before) * 4096 < 10_000_000
    assert (table[0] == 1 - np.float32(0.1)).all()
