"""Averages of parameters: ema, swa and Lookahead move with each step, to the bits of the oracle, and survive a save."""

import copy
import math
import pickle
from itertools import chain

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference
from support.arrays import DTYPES, gradients, several
from support.asserts import assert_same_bits, ids
from support.cases import AVERAGING, RULES
from support.covering import all_pairs


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", RULES, ids=ids)
def test_averages(case, dtype, isas):
    params, grads = several(dtype, 9)
    plain = [p.copy() for p in params]
    options = {"ema_decay": 0.9, "swa": (2, 3)} | ({} if case.cls in AVERAGING else {"lookahead": (4, 0.25)})
    opts = {
        isa: [case.make([p.copy() for p in params], num_threads=threads, **options) for threads in (1, 3)]
        for isa in isas
    }
    other = case.make(plain)
    averages = [reference.Averages(p, **options) for p in params]
    for t, gs in enumerate(grads, 1):
        for p, of in zip(plain, averages, strict=True):
            of.before(p, t, t)
        other.step(gs)
        for p, of in zip(plain, averages, strict=True):
            of.after(p, t, t)
        for isa in isas:
            for opt in opts[isa]:
                opt.step(gs)
                for i, (p, of) in enumerate(zip(plain, averages, strict=True)):
                    assert_same_bits(opt.groups[0]["params"][i], p, f"{isa}, {opt.num_threads} threads, {i}: ")
                    for name, average in of.buffers.items():
                        assert_same_bits(opt.state[i][name], average, f"{isa}, {opt.num_threads} threads, {i}: {name}")
    for opt in chain(*opts.values()):
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


@pytest.mark.parametrize(
    ("make", "layout", "dtype", "threads"),
    all_pairs([fastopt.SGD, fastopt.LAMB, fastopt.Adafactor], [*LAYOUTS], DTYPES, [1, 3]),
    ids=ids,
)
def test_averages_at_rest_in_any_layout(make, layout, dtype, threads, isas):
    """The bits of NumPy's, with gradients now and then, and parameters changed in place between."""
    for _ in isas:
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
def test_rates_of_one_are_copies(dtype, isas):
    """Where p + 1 * (q - p) would not be q; subnormals are copied as they are."""
    for _ in isas:
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
    params, grads = several(np.float64, 11)
    opt = fastopt.SGD(params, lr=0.1, swa=(3, 2))
    seen = []
    for t, gs in enumerate(grads, 1):
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
    params, gs = several(np.float32, 8)
    straight = fastopt.Adam([p.copy() for p in params], **options)
    first = fastopt.Adam([p.copy() for p in params], **options)
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
