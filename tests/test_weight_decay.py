"""Options of weight decay: cautious decay follows the step, corrected decay follows the learning rate."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference
from support.arrays import DTYPES, SHAPES, gradients, several, special_values
from support.asserts import assert_each_step_like, assert_like, assert_run_like, assert_same_bits, ids, refused
from support.cases import AVERAGING, BY_ROW, RULES, Case, Oracle, step_together

RATES = (1.0, 4.0, 2.0, 0.5)  # of steps, times the rate of the case
CAUTIOUS = {"weight_decay": 0.5, "cautious_decay": True}
CORRECTED = {"weight_decay": 0.5, "corrected_decay": True}
OPTIONS = {"cautious": CAUTIOUS, "corrected": CORRECTED, "both": {**CAUTIOUS, **CORRECTED}}


def with_options(case: Case, options: str) -> Case | None:
    """A case with options of decay in the form that goes with them, or None where there is none."""
    apart = case.form == "own" and reference.RULES[case.rule].decay_rate is not None
    form = "own" if case.form == "own" and (apart or options == "corrected") else "decoupled"
    kwargs = {**case.kwargs, **OPTIONS[options], "weight_decay_form": form}
    if case.cls.startswith("ScheduleFree") or (case.cls in AVERAGING and kwargs.get("cautious_decay")):
        return None
    kwargs.pop("decoupled_weight_decay", None)
    return Case(f"{case.name}-{options}", case.cls, case.rule, kwargs)


# Each option alone where the decay of the rule has a part in it, and for one rule where it has none.
ALONE = [case for case in RULES if case.form == "own" or case.rule == "adam"]
CASES = [
    found
    for options in OPTIONS
    for case in (RULES if options == "both" else ALONE)
    if (found := with_options(case, options)) is not None
]
INDEPENDENT = Case("adam-independent", "Adam", "adam", {**CAUTIOUS, "weight_decay_form": "independent"})
CASES.append(INDEPENDENT)
OF_ROWS = [case for case in CASES if case.rule in {row.rule for row in BY_ROW} and not case.rule.endswith("_vector")]


# ---- To the bit ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_every_rule(case, dtype, isas):
    """As the oracle, with learning rates that rise and fall, on one thread and on several."""
    params, grads = several(dtype, len(RATES))
    oracles, lr = [Oracle(case, p) for p in params], case.settings()["lr"]
    for rate, gs in zip(RATES, grads, strict=True):
        step_together(oracles, gs, lr=lr * rate)
    for _ in isas:
        for threads in (1, 3):
            opt = case.make([p.copy() for p in params], num_threads=threads)
            for rate, gs in zip(RATES, grads, strict=True):
                opt.lr = lr * rate
                opt.step(gs)
            for i, oracle in enumerate(oracles):
                assert_like(opt, i, opt.groups[0]["params"][i], oracle)
                if case.kwargs.get("corrected_decay"):
                    assert opt.state[i]["largest_lr"] == 4 * lr


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", [*CASES[:3], *CASES[-2:]], ids=ids)
def test_special_values(case, dtype, isas):
    """Infinities, NaN, zeros of both signs, overflow and subnormals spread as in the oracle."""
    start, g = special_values(dtype)
    for _ in isas:
        p = start.copy()
        oracle, opt = Oracle(case, p), case.make(p)
        assert_each_step_like(opt, p, oracle, g)


@pytest.mark.parametrize("case", [case for case in CASES if case.name.endswith("both")], ids=ids)
def test_layouts(case):
    """Strided parameters and gradients give the bits of contiguous ones; gradients are zeroed after use."""
    plain = np.random.default_rng(1).standard_normal((70, 1100)).astype(np.float32)
    opts = {}
    for threads in (1, 3):
        options = {"zero_grads": True, "clip_value": 0.5, "num_threads": threads}
        opts[threads] = case.make(np.asfortranarray(plain), **options), case.make(plain.copy(), **options)
    for g, _ in zip(gradients(2, plain.shape, np.float32), range(3), strict=False):
        for opt, other in opts.values():
            stored = np.repeat(g, 2, axis=1)[:, ::2]
            opt.step(stored)
            other.step(g.copy())
            assert (stored == 0).all()
    for threads, pair in opts.items():
        p, q = (opt.groups[0]["params"][0] for opt in pair)
        assert_same_bits(p, q, f"{threads} threads: ")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.rule not in reference.ALONE | reference.TOGETHER], ids=ids
)
def test_slices(case):
    """An array that is cut into several has the bits of the whole."""
    p = np.random.default_rng(2).standard_normal(5000).astype(np.float32)
    parts = [part.copy() for part in np.split(p, (1, 300, 1500, 1501))]
    opt, other = case.make(parts), case.make(p)
    for g, _ in zip(gradients(3, p.shape, np.float32), range(3), strict=False):
        opt.step(np.split(g, (1, 300, 1500, 1501)))
        other.step(g)
    assert_same_bits(np.concatenate(parts), p)


@pytest.mark.parametrize("case", OF_ROWS, ids=ids)
def test_rows(case):
    """Rows of a gradient decay with their step; the others stay to the bit."""
    rng = np.random.default_rng(1)
    table = rng.standard_normal((300, 130)).astype(np.float32)
    oracle, steps = Oracle(case, table), []
    for _ in range(3):
        rows = np.arange(200) if case.rule == "nadam" else np.unique(rng.integers(0, 200, 150))
        dense = np.zeros_like(table)
        dense[rows] = rng.standard_normal((len(rows), 130))
        steps.append(fastopt.RowGrad(rows, dense[rows]))
        kept = {letter: buffer.copy() for letter, buffer in oracle.buffers.items()} | {"p": oracle.p.copy()}
        oracle.step(dense)
        others = np.setdiff1d(np.arange(len(table)), rows)
        for letter, buffer in {**oracle.buffers, "p": oracle.p}.items():
            buffer[others] = kept[letter][others]
    assert_run_like(case, table, steps, oracle)


@pytest.mark.parametrize("case", [case for case in CASES if case.cls not in AVERAGING], ids=ids)
def test_averages(case):
    """Averages and Lookahead take in the parameter once it has decayed."""
    params, grads = several(np.float32, 5, SHAPES[:4])
    plain = [p.copy() for p in params]
    options = {"ema_decay": 0.9, "swa": (2, 3), "lookahead": (4, 0.25)}
    opt, other = case.make(params, **options), case.make(plain)
    averages = [reference.Averages(p, **options) for p in params]
    for t, gs in enumerate(grads, 1):
        for p, of in zip(plain, averages, strict=True):
            of.before(p, t, t)
        opt.step(gs)
        other.step(gs)
        for i, (p, of) in enumerate(zip(plain, averages, strict=True)):
            of.after(p, t, t)
            assert_same_bits(params[i], p)
            for name, average in of.buffers.items():
                assert_same_bits(opt.state[i][name], average, name)


@pytest.mark.parametrize("options", [CAUTIOUS, CORRECTED], ids=["cautious", "corrected"])
@pytest.mark.parametrize("case", [case for case in RULES if case.cls not in AVERAGING], ids=ids)
def test_without_decay_they_change_nothing(case, options):
    p = np.random.default_rng(3).standard_normal((30, 40)).astype(np.float32)
    other = p.copy()
    none = {"weight_decay": 0.0, "weight_decay_form": "decoupled"}
    opt, plain = case.make(p, **{**options, **none}), case.make(other, **none)
    for g, rate in zip(gradients(4, p.shape, np.float32), RATES, strict=False):
        opt.lr = plain.lr = case.settings()["lr"] * rate
        opt.step(g)
        plain.step(g)
    assert_same_bits(p, other)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_at_a_constant_rate_corrected_decay_is_decay(case):
    p = np.random.default_rng(3).standard_normal((30, 40)).astype(np.float32)
    other = p.copy()
    opt, plain = case.make(p), case.make(other, corrected_decay=False)
    for g, _ in zip(gradients(4, p.shape, np.float32), range(3), strict=False):
        opt.step(g)
        plain.step(g)
    assert_same_bits(p, other)


# ---- As the papers have it ----


def paper_adamw(p, gs, rates, *, decay, peak=None, cautious=False, beta1=0.9, beta2=0.999, eps=1e-8):
    """AdamW with the decay of both papers, one element after the other."""
    p = p.copy()
    for i in range(p.size):
        m = v = largest = 0.0
        for t, (g, lr) in enumerate(zip(gs, rates, strict=True), 1):
            m, v = beta1 * m + (1 - beta1) * g[i], beta2 * v + (1 - beta2) * g[i] ** 2
            u = m / (1 - beta1**t) / ((v / (1 - beta2**t)) ** 0.5 + eps)
            largest = max(largest, lr) if peak is None else peak
            mask = not cautious or u * p[i] >= 0
            p[i] -= lr * u + lr * decay * (lr / largest) * mask * p[i]
    return p


@pytest.mark.parametrize("cautious", [False, True])
def test_the_papers(cautious):
    start, gs = np.random.default_rng(6).standard_normal(200), np.random.default_rng(7).standard_normal((12, 200))
    rates = schedules.warmup(schedules.cosine(0.1, decay_steps=8), 3)
    options = {"weight_decay": 0.5, "cautious_decay": cautious, "corrected_decay": True}
    known, found, by_hand = start.copy(), start.copy(), start.copy()
    with_peak = fastopt.AdamW(known, lr=rates, **options)
    with_largest = fastopt.AdamW(found, lr=lambda t: rates(t), **options)
    set_by_hand = fastopt.AdamW(by_hand, lr=rates(0), **options)
    for t, g in enumerate(gs):
        with_peak.step(g)
        with_largest.step(g)
        set_by_hand.lr = rates(t)
        set_by_hand.step(g)
    used = [rates(t) for t in range(len(gs))]
    expected = paper_adamw(start, gs, used, decay=0.5, cautious=cautious, peak=0.1)
    np.testing.assert_allclose(known, expected, rtol=1e-12, atol=1e-14)
    used[0] = 1e-300  # 0 / 0 is not what the paper means: without a rate there is no decay
    expected = paper_adamw(start, gs, used, decay=0.5, cautious=cautious)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert_same_bits(by_hand, found)


def test_cautious_decay_by_hand():
    """SGD with lr = 0.5 takes 0.5 * 0.25 of p where g * p >= 0."""
    p = np.array([1.0, -1.0, 2.0, 0.5, 0.0])
    fastopt.SGD(p, lr=0.5, weight_decay=0.25, weight_decay_form="decoupled", cautious_decay=True).step(
        np.array([1.0, 1.0, -1.0, 0.0, 1.0])
    )
    assert p.tolist() == [0.5 - 0.125, -1.5, 2.5, 0.5 - 0.0625, -0.5]


def test_corrected_decay_by_hand():
    """Without a gradient SGD takes lr * 0.5 * lr / largest lr of p: 1/2, then 1/8, then a quarter of it."""
    p = np.ones(1)
    opt = fastopt.SGD(p, lr=1.0, weight_decay=0.5, weight_decay_form="decoupled", corrected_decay=True)
    for lr, left in ((1.0, 0.5), (0.5, 0.5 * 0.875), (2.0, 0.0)):
        opt.lr = lr
        opt.step(np.zeros(1))
        assert p[0] == left
    assert opt.state[0]["largest_lr"] == 2


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon(nesterov):
    """Against its plain form, whose step shows how far each element goes."""
    start, gs = np.random.default_rng(8).standard_normal((6, 4)), np.random.default_rng(9).standard_normal((4, 6, 4))
    p, expected, state = start.copy(), start.copy(), {}
    opt = fastopt.Muon(p, lr=0.1, weight_decay=0.5, cautious_decay=True, corrected_decay=True, nesterov=nesterov)
    for t, (g, lr) in enumerate(zip(gs, (0.1, 0.05, 0.2, 0.1), strict=True), 1):
        opt.lr = lr
        opt.step(g)
        moved = expected.copy()
        fastopt.optimizers.plain("Muon")(moved, g, state, t, lr=lr, weight_decay=0.0, nesterov=nesterov)
        decay = lr * 0.5 * lr / (0.1 if t < 3 else 0.2)
        expected = moved - decay * expected * ((expected - moved) * expected >= 0)
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-14)


# ---- The largest learning rate ----


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["copy", "pickle"])
def test_a_copy_goes_on_to_the_same_bits(copied):
    p = np.linspace(-1, 1, 50, dtype=np.float32)
    opt = fastopt.AdamW(p, lr=0.1, weight_decay=0.5, corrected_decay=True, cautious_decay=True)
    grads = gradients(1, p.shape, np.float32)
    opt.step(next(grads))
    opt.lr = 0.01
    other, g = copied(opt), next(grads)
    opt.step(g)
    other.step(g)
    assert_same_bits(other.groups[0]["params"][0], p)
    assert other.state[0]["largest_lr"] == 0.1


def test_saved_and_loaded(files):
    p = np.linspace(-1, 1, 50, dtype=np.float32)
    options = {"weight_decay": 0.5, "corrected_decay": True, "cautious_decay": True}
    opt, grads = fastopt.AdamW({"w": p}, lr=0.1, **options), gradients(1, p.shape, np.float32)
    opt.step({"w": next(grads)})
    opt.lr = 0.01
    q, g = p.copy(), next(grads)
    fastopt.save(files / "state", opt)
    other = fastopt.AdamW({"w": q}, **options)
    fastopt.load(files / "state", other)
    opt.step({"w": g})
    other.step({"w": g})
    assert_same_bits(q, p)
    without = fastopt.AdamW({"w": q})
    with refused("corrected_decay must stay False, since the state was laid out for it, got True", without):
        without.load_state_dict(opt.state_dict())


def test_states_without_these_options_are_loaded():
    """As saved before there were any: they were off."""
    p, q = np.ones(3), np.ones(3)
    opt, other = fastopt.AdamW(p), fastopt.AdamW(q, cautious_decay=True)
    opt.step(np.ones(3))
    saved = opt.state_dict()
    for option in ("cautious_decay", "corrected_decay"):
        del saved["groups"][0][option]
    other.load_state_dict(saved)
    assert not other.groups[0]["cautious_decay"]


def test_it_counts_steps_that_were_made():
    p = np.ones(3)
    opt = fastopt.AdamW([p], lr=0.1, corrected_decay=True, nonfinite="skip")
    opt.lr = 0.2  # no step
    opt.lr = 0.01
    opt.step([np.ones(3)])
    opt.lr = 0.5
    opt.step([np.full(3, np.nan)])  # skipped
    opt.lr = 0.02
    opt.step([np.ones(3)])
    opt.lr = 0.7
    opt.step([None])
    assert opt.state[0]["largest_lr"] == 0.02
    opt.reset()
    assert opt.state[0]["largest_lr"] == 0


def test_groups_have_rates_of_their_own():
    a, b, c = np.ones(3), np.ones(3), np.ones(3)
    groups = [{"params": [a], "lr": 0.4}, {"params": [b], "lr_scale": 0.5}, {"params": [c], "corrected_decay": False}]
    opt = fastopt.AdamW(groups, lr=0.1, corrected_decay=True)
    opt.add_param_group({"params": [np.ones(3)], "lr": 0.3})
    opt.step([[np.ones(3)], [np.ones(3)], [np.ones(3)], [np.ones(3)]])
    assert opt.state[0]["largest_lr"] == 0.4
    assert opt.state[1]["largest_lr"] == 0.05
    assert "largest_lr" not in opt.state[2]
    assert opt.state[3]["largest_lr"] == 0.3


def test_the_peak_counts_with_lr_scale():
    """Halfway up, a quarter of the decay; the rest as SGD without a gradient."""
    p = np.ones(1)
    rates = schedules.warmup(schedules.constant(1.0), 2)
    group = {"params": [p], "lr_scale": 0.5}
    opt = fastopt.SGD([group], lr=rates, weight_decay=0.5, weight_decay_form="decoupled", corrected_decay=True)
    for left in (1.0, 1 - 0.25 * 0.5 * 0.5, (1 - 0.0625) * (1 - 0.25)):
        opt.step([[np.zeros(1)]])
        assert p[0] == left


def test_as_one_step():
    """Beside others in `Combined`, and one parameter at a time."""
    start, grads = np.linspace(-1, 1, 50, dtype=np.float32), gradients(1, (50,), np.float32)
    p, q, r, s = (start.copy() for _ in range(4))
    options = {"weight_decay": 0.5, "corrected_decay": True, "cautious_decay": True}
    rates = [0.1, 0.2, 0.05]
    alone, one_by_one = fastopt.AdamW(p, **options), fastopt.AdamW([q], **options)
    combined = fastopt.Combined([fastopt.AdamW([r], **options), fastopt.SGD([s])])
    for lr, g in zip(rates, grads, strict=False):
        alone.lr = one_by_one.lr = combined.optimizers[0].lr = lr
        alone.step(g)
        one_by_one.step_one(0, g)
        combined.step([[g], [g]])
    assert_same_bits(q, p)
    assert_same_bits(r, p)


PEAKS = {
    schedules.constant(0.3): 0.3,
    schedules.linear(0.1, 0.5, 9, 2): 0.5,
    schedules.exponential(0.4, 0.9): 0.4,
    schedules.exponential(0.4, 1.1): None,
    schedules.step(0.3, 3, 2.0): None,
    schedules.multi_step(0.25, (2, 5), 2.0): 1.0,
    schedules.cosine(0.5, 11): 0.5,
    schedules.cosine_restarts(0.4, 5, 2): 0.4,
    schedules.cosine_restarts(0.0, 5, 2, 1.0): None,
    schedules.one_cycle(0.5, 20, pct_start=0.25): 0.5,
    schedules.inverse_sqrt(0.4, 5): 0.4,
    schedules.warmup_stable_decay(0.5, 4, 0, 5): 0.5,
    schedules.warmup(schedules.cosine(0.5, 7), 3): 0.5,
    schedules.join([schedules.linear(0.0, 1.0, 10), schedules.cosine(0.125, 10)], [5]): 0.4,
    schedules.shift(schedules.linear(0.5, 0.0, 4), -2): 0.25,
    schedules.shift(schedules.cosine_restarts(0.5, 4), -2): None,
    schedules.scale(schedules.warmup(schedules.constant(0.5), 3), 0.5): 0.25,
    schedules.scale(schedules.constant(0.5), -1.0): None,
    schedules.reduce_on_plateau(0.5): None,
    schedules.join([schedules.constant(0.1), abs], [5]): None,
}


@pytest.mark.parametrize("schedule", PEAKS, ids=repr)
def test_peaks(schedule):
    """A peak is the largest value, exactly, or not known."""
    peak = PEAKS[schedule]
    assert schedule.peak == peak
    assert peak is None or peak == max(map(schedule, range(1000)))


# ---- Refused ----


REFUSALS = [
    ("Adam", {"cautious_decay": True}, "weight_decay_form must be decoupled or independent with cautious_decay"),
    ("Adam", {"corrected_decay": True}, "weight_decay_form must be decoupled with corrected_decay"),
    (
        "AdamW",
        {"corrected_decay": True, "weight_decay_form": "independent"},
        "weight_decay_form must be decoupled with",
    ),
    ("LAMB", {"cautious_decay": True}, "weight_decay_form must be decoupled or independent with cautious_decay"),
    ("NovoGrad", {"cautious_decay": True}, "weight_decay_form must be decoupled or independent with cautious_decay"),
    ("Prodigy", {"cautious_decay": True, "weight_decay_form": "l2"}, "must be decoupled or independent or own with"),
    ("ASGD", {"cautious_decay": True}, "cautious_decay must be False for a rule that keeps an average of"),
    ("ScheduleFreeSGD", {"cautious_decay": True}, "cautious_decay must be False for a rule that keeps an average"),
    ("ScheduleFreeAdamW", {"corrected_decay": True}, "corrected_decay must be False for a rule without a schedule"),
    ("AdamW", {"cautious_decay": 1}, "cautious_decay must be True or False, got 1"),
    ("AdamW", {"corrected_decay": "yes"}, "corrected_decay must be True or False, got 'yes'"),
]


@pytest.mark.parametrize(("cls", "options", "message"), REFUSALS, ids=lambda x: x if isinstance(x, str) else "")
def test_refusals(cls, options, message):
    with refused(message):
        getattr(fastopt, cls)(np.ones((2, 2)), **options)


def test_in_groups():
    opt = fastopt.AdamW(np.ones(3))
    opt.groups[0]["cautious_decay"] = True
    with refused("weight_decay_form must be decoupled or independent with cautious_decay", opt):
        opt.groups[0]["weight_decay_form"] = "l2"
    with refused("corrected_decay must stay False, since the state was laid out for it, got True", opt):
        opt.groups[0]["corrected_decay"] = True


# ---- On buffers of one's own ----


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_kernels(case):
    """As the optimizer, whose largest learning rate is that of its one step."""
    p = np.random.default_rng(3).standard_normal((30, 40) if not case.rule.endswith("_vector") else 40)
    q, g = p.copy(), next(gradients(4, p.shape, np.float64))
    opt = case.make(p)
    oracle = Oracle(case, q)
    opt.step(g)
    hyper, options = case.hyper(), case.options()
    buffers = [np.asarray(oracle.state[name]) for name in reference.state_names(oracle.rule)]
    carry = [np.zeros(1) for _ in reference.CARRIES.get(oracle.rule, ())]
    peak = hyper["lr"] if case.kwargs.get("corrected_decay") else 0.0
    getattr(fastopt.kernels, oracle.rule)(q, g, *buffers, *carry, step=1, peak_lr=peak, **hyper, **options)
    assert_same_bits(q, p)


def test_kernels_by_hand():
    p = np.array([1.0, -1.0])
    fastopt.kernels.sgd(p, np.array([1.0, 1.0]), step=1, lr=0.5, decoupled_decay=0.5, peak_lr=1.0, cautious_decay=True)
    assert p.tolist() == [0.5 - 0.125, -1.5]
    buffers = [p, np.ones(2), np.zeros(2), np.zeros(2)]
    hyper = {"step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    with refused("lamb: decay must be 0 with cautious_decay, since this rule mixes it into its step, got 0.5", None, p):
        fastopt.kernels.lamb(*buffers, **hyper, decay=0.5, cautious_decay=True)
    with refused("sgd: peak_lr must be finite and >= 0, got -1.0", None, p):
        fastopt.kernels.sgd(p, np.ones(2), step=1, lr=0.5, peak_lr=-1)
    with refused("sgd: cautious_decay must be True or False, got 1", None, p):
        fastopt.kernels.sgd(p, np.ones(2), step=1, lr=0.5, cautious_decay=1)
