"""Loading under other circumstances: other hyperparameters, schedules or parameters; with the parameters."""

import copy
import functools
import math
import pickle
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support.arrays import DTYPES, gradients
from support.asserts import assert_same_bits, ids
from support.cases import CASES

pytest.importorskip("safetensors", reason="saving needs safetensors: pip install 'fastopt[checkpoint]'")


def plain(value):
    return (value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


def everything(opt):
    state = opt.state_dict()
    return (
        [plain(p) for group in opt.groups for p in group["params"]],
        state["step_count"],
        [repr(group) for group in opt.groups],
        {name: {key: plain(value) for key, value in entry.items()} for name, entry in state["state"].items()},
    )


@contextmanager
def refused(opt, *texts, error=ValueError):
    """The block raises an error that says all this, and the optimizer does not change."""
    before = everything(opt)
    with pytest.raises(error) as caught:
        yield
    for text in texts:
        assert text in str(caught.value)
    assert everything(opt) == before


@pytest.fixture(params=["state_dict", "file"])
def resume(request, tmp_path):
    """Loads the state of one optimizer into another, by either way."""

    def by_state_dict(opt, other, **options):
        return other.load_state_dict(opt.state_dict(), **options)

    def by_file(opt, other, **options):
        fastopt.save(tmp_path / "state", opt)
        return fastopt.load(tmp_path / "state", other, **options)

    return by_file if request.param == "file" else by_state_dict


def stepped(cls=fastopt.Adam, shapes=None, steps=3, **options):
    shapes = shapes or {"w": (3, 2), "b": (2,)}
    opt = cls({name: np.ones(shape) for name, shape in shapes.items()}, **options)
    for t in range(steps):
        opt.step({name: np.full(shape, 0.5 + t) for name, shape in shapes.items()})
    return opt


def assert_same_state(opt, other, names=None):
    for name in names or opt.state:
        for letter, buffer in opt.state[name].items():
            assert_same_bits(np.asarray(other.state[name][letter]), np.asarray(buffer), f"{name}: {letter}")


# ---- Hyperparameters: those that were saved, or those that are here ----


def test_current_hyperparameters_stay(resume):
    """Everything else is restored; in place of a number a schedule, and the other way round."""
    plateau = schedules.reduce_on_plateau(0.1, patience=0)
    opt = stepped(lr=plateau, betas=(0.8, 0.9), weight_decay=0.1)
    plateau.report(1.0)
    mine = schedules.reduce_on_plateau(0.5, patience=0)
    mine.report(3.0)
    here = {"lr": schedules.scale(mine, 2.0), "betas": (schedules.constant(0.7), 0.95), "eps": 1e-3}
    other = stepped(steps=0, **here)
    loaded = resume(opt, other, hyperparameters="current")
    assert loaded == ((), (), (), ())
    assert {key: other.groups[0][key] for key in here} == here
    assert other.groups[0]["weight_decay"] == 0
    assert mine.best == 3.0
    assert other.step_count == 3
    assert other._table.steps() == [3, 3]
    assert_same_state(opt, other)
    with refused(
        other,
        "lr must be scheduled by scale(schedule=reduce_on_plateau(",
        "as in this optimizer, got reduce_on_plateau(",
        'hyperparameters="current" keeps those of this optimizer',
    ):
        resume(opt, other)
    with refused(opt, 'hyperparameters="current" keeps those of this optimizer'):
        resume(other, opt, hyperparameters="saved")


def test_a_run_goes_on_with_current_hyperparameters(resume):
    """To the bits of a run in which they were set."""
    straight, other = stepped(lr=0.1), stepped(lr=0.1)
    saved = stepped(lr=0.1)
    straight.lr = other.lr = 0.5
    resume(saved, other, hyperparameters="current")
    for opt in (straight, other):
        opt.step({"w": np.ones((3, 2)), "b": np.ones(2)})
    assert_same_state(straight, other)
    for p, q in zip(straight.groups[0]["params"], other.groups[0]["params"], strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize(
    ("cls", "saved", "here", "message"),
    [
        (
            fastopt.SGD,
            {"momentum": 0.9},
            {"momentum": 0.9, "nesterov": True},
            "nesterov must be as it was saved, False",
        ),
        (fastopt.ScheduleFreeSGD, {"momentum": 0.9}, {"momentum": 0.8}, "momentum must be as it was saved, 0.9, since"),
        (fastopt.ScheduleFreeAdamW, {}, {"betas": (0.8, 0.999)}, "betas must be as it was saved, 0.9, since the state"),
        (fastopt.Adam, {"amsgrad": True}, {}, "amsgrad must be as it was saved, True, since"),
    ],
)
def test_hyperparameters_that_the_state_was_made_by(cls, saved, here, message, resume):
    other = stepped(cls, steps=0, **here)
    with refused(other, message):
        resume(stepped(cls, **saved), other, hyperparameters="current")


def test_a_schedule_that_is_over_warns_on_loading(resume):
    other = stepped(steps=0, lr=schedules.cosine(0.1, 2))
    opt = stepped(lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refused(other, "stays the same from step 2 on, but 3 steps have been made", error=UserWarning):
            resume(opt, other, hyperparameters="current")
    with pytest.warns(UserWarning, match="stays the same from step 2 on, but 3 steps have been made") as caught:
        resume(opt, other, hyperparameters="current")
    assert caught[0].filename == __file__
    assert other.step_count == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strict": 1}, TypeError, "strict must be True or False, got 1"),
        ({"hyperparameters": "new"}, ValueError, "hyperparameters must be saved or current, got 'new'"),
        ({"hyperparameters": True}, ValueError, "hyperparameters must be saved or current, got True"),
    ],
)
def test_bad_options(options, error, message, resume):
    opt = stepped()
    with refused(opt, message, error=(error, ValueError)):
        resume(opt, opt, **options)


# ---- Schedules of the user's own ----


def decayed(step, rate=0.5):
    return 0.1 * rate**step


def halved(step):
    return decayed(step)


class Rate:
    """An object with arguments, and something that it remembers for itself."""

    def __init__(self, rate, inner=None):
        self.rate, self.inner, self._calls = rate, inner, 0

    def __call__(self, step):
        self._calls += 1
        return self.rate

    def method(self, step):
        return self.rate / (1 + step)


class Slotted:
    """An object whose arguments are in slots."""

    __slots__ = ("_calls", "rate")

    def __init__(self, rate):
        self.rate, self._calls = rate, 0

    def __call__(self, step):
        return self.rate


class Trainer:
    """An object that is no schedule, but has one among its methods, and holds much besides."""

    def __init__(self, rate, milestones=(3, 5)):
        self.rate, self.milestones = rate, milestones
        self.weights, self.log, self.itself = np.random.default_rng().standard_normal(3), [id(self)], self

    def method(self, step):
        return self.rate * 0.5 ** sum(step >= milestone for milestone in self.milestones)


def of_trainer(trainer, step):
    return trainer.rate


def closure(rate):
    return lambda step: rate


SAME = {
    "function": (decayed, decayed),
    "partial": (functools.partial(decayed, rate=0.9), functools.partial(decayed, rate=0.9)),
    "partial of a partial": (functools.partial(functools.partial(decayed), rate=0.9),) * 2,
    "object": (Rate(0.1), Rate(0.1)),
    "object with an array": (Rate(0.1, np.arange(3)), Rate(0.1, np.arange(3))),
    "object with an object": (Rate(0.1, Rate(0.2)), Rate(0.1, Rate(0.2))),
    "method": (Rate(0.1).method, Rate(0.1).method),
    "slots": (Slotted(0.1), Slotted(0.1)),
    "method of what is no schedule": (Trainer(0.1).method, Trainer(0.1).method),
    "partial with what is no schedule": tuple(functools.partial(of_trainer, Trainer(0.1)) for _ in range(2)),
    "in a schedule": (schedules.warmup(decayed, 3), schedules.warmup(decayed, 3)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_schedule_of_ones_own_is_accepted(name, resume):
    here, there = SAME[name]
    other = stepped(lr=there, steps=0)
    resume(stepped(lr=here), other)
    assert other.step_count == 3
    for again in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert again.step_count == 3
        resume(other, again)


OTHER = {
    "function": (
        decayed,
        halved,
        "lr must be scheduled by test_resuming.halved, as in this optimizer, got test_resuming.decayed",
    ),
    "partial": (
        functools.partial(decayed, rate=0.9),
        functools.partial(decayed, rate=0.8),
        "functools.partial(func=test_resuming.decayed, args=[], keywords=dict(['rate']=0.8)), as in this optimizer",
    ),
    "partial of another": (functools.partial(decayed), functools.partial(halved), "func=test_resuming.halved, args=[]"),
    "object": (
        Rate(0.1),
        Rate(0.2),
        "test_resuming.Rate(.rate=0.2, .inner=None), as in this optimizer, got test_resuming.Rate(",
    ),
    "object with an array": (Rate(0.1, np.arange(3)), Rate(0.1, np.ones(3)), ".inner=array(shape=[3], dtype="),
    "object with an object": (
        Rate(0.1, Rate(0.2)),
        Rate(0.1, Rate(0.3)),
        ".inner=test_resuming.Rate(.rate=0.3, .inner=",
    ),
    "nan": (Rate(math.nan), Rate(math.inf), ".rate=inf"),
    "method": (Rate(0.1).method, Rate(0.2).method, "test_resuming.Rate.method(self=test_resuming.Rate(.rate=0.2"),
    "slots": (Slotted(0.1), Slotted(0.2), "test_resuming.Slotted(.rate=0.2), as in this optimizer, got"),
    "method of what is no schedule": (
        Trainer(0.1).method,
        Trainer(0.2).method,
        "test_resuming.Trainer.method(self=test_resuming.Trainer(.rate=0.2, .milestones=[3, 5])), as in this optimizer",
    ),
    "method with other milestones": (Trainer(0.1).method, Trainer(0.1, (3, 6)).method, ".milestones=[3, 6]"),
    "partial with what is no schedule": (
        functools.partial(of_trainer, Trainer(0.1)),
        functools.partial(of_trainer, Trainer(0.2)),
        "args=[test_resuming.Trainer(.rate=0.2, .milestones=[3, 5])]",
    ),
    "lambda": (
        lambda step: 0.1,
        lambda step: 0.2,
        "lr is scheduled by test_resuming.<lambda>, a function without a name",
    ),
    "the same lambda made twice": (
        closure(0.1),
        closure(0.1),
        "lr is scheduled by test_resuming.closure.<locals>.<lambda>",
    ),
    "partial of a lambda": (
        functools.partial(closure(0.1)),
        functools.partial(closure(0.1)),
        "by functools.partial(func=test_resuming.closure.<locals>.<lambda>, args=[], keywords=dict()), a fun",
    ),
    "in a schedule": (
        schedules.warmup(closure(0.1), 2),
        schedules.warmup(closure(0.1), 2),
        "by warmup(schedule=test_resuming.closure.<locals>.<lambda>, warmup_steps=2, init_value=0.0), a fun",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_schedule_is_named_or_accepted_knowingly(name, resume):
    saved, here, message = OTHER[name]
    if name == "nan":
        saved.rate = 0.1
        opt = stepped(lr=saved)
        here.rate = 0.1
        other = stepped(lr=here, steps=0)
        saved.rate, here.rate = math.nan, math.inf
    else:
        opt, other = stepped(lr=saved), stepped(lr=here, steps=0)
    with refused(other, message, 'hyperparameters="current" keeps those of this optimizer'):
        resume(opt, other)
    if name != "nan":
        resume(opt, other, hyperparameters="current")
        assert other.lr == here(3)
        assert other.step_count == 3


def test_one_and_the_same_lambda_can_be_gone_back_to(resume):
    """To the best state so far, say; also by a copy."""
    opt = stepped(lr=lambda step: 0.1)
    best = opt.state_dict()
    opt.step({"w": np.ones((3, 2)), "b": np.ones(2)})
    opt.load_state_dict(best)
    assert opt.step_count == 3
    again = copy.deepcopy(opt)
    resume(opt, again)


def test_a_lambda_of_another_process(tmp_path):
    code = """if True:
        import sys, numpy as np, fastopt
        opt = fastopt.Adam({"w": np.ones(2)}, lr=lambda step: 0.1)
        fastopt.save(sys.argv[1], opt) if sys.argv[2] == "save" else fastopt.load(sys.argv[1], opt)
    """
    path = tmp_path / "state"
    for way, code_expected in (("save", 0), ("load", 1)):
        command = [sys.executable, "-c", code, str(path), way]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(fastopt.__file__).parents[1]
        )
        assert done.returncode == code_expected, done.stderr
    assert "lr is scheduled by __main__.<lambda>, a function without a name of its own" in done.stderr


# ---- What fits ----


def test_what_fits_is_loaded_and_the_rest_is_told(resume):
    opt = stepped(shapes={"w": (3, 2), "head": (2, 4), "old": (5,)}, lr=0.25)
    other = stepped(shapes={"w": (3, 2), "head": (2, 7), "new": (6,)}, lr=0.1, steps=1)
    before = {name: {letter: buffer.copy() for letter, buffer in state.items()} for name, state in other.state.items()}
    loaded = resume(opt, other, strict=False)
    assert loaded.missing == ("new",)
    assert loaded.unexpected == ("old",)
    assert loaded.mismatched == ("head",)
    assert loaded.groups == ()
    assert type(loaded).__name__ == "Loaded"
    assert other.lr == 0.25
    assert other.step_count == 3
    assert other._table.steps() == [3, 1, 1]
    assert_same_state(opt, other, ["w"])
    for name in ("head", "new"):
        for letter, buffer in before[name].items():
            assert_same_bits(other.state[name][letter], buffer)
    other.step({name: np.ones(p.shape) for name, p in zip(other.state, other.groups[0]["params"], strict=True)})
    with refused(other, "'head'"):
        resume(opt, other)


def test_all_of_what_fits_is_what_strict_loads(resume):
    opt, other, strict = stepped(lr=0.25), stepped(steps=0), stepped(steps=0)
    assert resume(opt, other, strict=False) == resume(opt, strict) == ((), (), (), ())
    for one in (other, strict):
        np.testing.assert_equal(one.state_dict(), opt.state_dict())


def test_other_buffers_do_not_fit(resume):
    """A state with another average, or without one, is no state of that parameter."""
    other = stepped(fastopt.SGD, steps=0, momentum=0.9)
    assert resume(stepped(fastopt.SGD, momentum=0.0), other, strict=False, hyperparameters="current").missing == ()
    averaged = stepped(steps=0, ema_decay=0.9)
    assert resume(stepped(), averaged, strict=False).mismatched == ("w", "b")
    assert averaged._table.steps() == [0, 0]
    dtype = fastopt.Adam({"w": np.ones((3, 2), np.float32), "b": np.ones(2)})
    assert resume(stepped(), dtype, strict=False).mismatched == ("w",)


def test_a_rule_without_state_tells_shapes_in_a_file(tmp_path):
    fastopt.save(tmp_path / "state", fastopt.SGD({"w": np.ones(3), "b": np.ones(2)}))
    opt = fastopt.SGD({"w": np.ones(4), "b": np.ones(2)})
    loaded = fastopt.load(tmp_path / "state", opt, strict=False)
    assert loaded == ((), (), ("w",), ())


def test_groups_that_are_another_way(resume):
    """A group takes the hyperparameters of the one saved group with parameters of it, wherever it stands."""

    def made(*groups):
        return fastopt.SGD([{"params": {n: np.ones(2) for n in names}, "lr": lr, "tag": lr} for names, lr in groups])

    opt = made(("ab", 0.1), ("c", 0.2), ("x", 0.3))
    other = made(("c", 1.0), ("bd", 2.0), ("ax", 3.0), ("e", 4.0))
    loaded = resume(opt, other, strict=False)
    assert other.lr == (0.2, 0.1, 3.0, 4.0)
    assert [group["tag"] for group in other.groups] == [0.2, 0.1, 3.0, 4.0]
    assert loaded == (("d", "e"), (), (), (2, 3))
    fresh = made(("c", 1.0), ("bd", 2.0), ("ax", 3.0), ("e", 4.0))
    assert resume(opt, fresh, strict=False, hyperparameters="current").groups == (2, 3)
    assert fresh.lr == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.update(rule="SGD"), ValueError, "rule must be 'Adam', got 'SGD'"),
        (lambda d: d.update(state=3), TypeError, "state must be a mapping, got int"),
        (lambda d: d["state"].update(w=3), TypeError, "state of 'w' must be a mapping, got int"),
        (
            lambda d: d["state"]["w"].update(step=-1),
            ValueError,
            "step in the state of 'w' must be an integer >= 0, got -1",
        ),
        (lambda d: d["state"]["w"].update(m=[1.0]), TypeError, "'m' in the state of 'w' must be an array, got list"),
        (lambda d: d.update(groups=3), ValueError, "groups must be a list of 1, got 3"),
        (lambda d: d.update(groups=[3]), TypeError, "groups[0] must be a mapping, got int"),
        (lambda d: d["groups"][0].update(params=3), ValueError, "params of groups[0] must be a list of names, got 3"),
        (
            lambda d: d["groups"][0].update(params=[[]]),
            ValueError,
            "params of groups[0] must be a list of names, got [[]]",
        ),
        (lambda d: d["groups"][0].update(lr=-1.0), ValueError, "lr must be finite and >= 0, got -1.0"),
        (lambda d: d["groups"][0].update(wd=1.0), ValueError, "did you mean 'weight_decay'?"),
    ],
)
def test_damage_is_refused_all_the_same(change, error, message):
    opt = stepped()
    state = opt.state_dict()
    change(state)
    for strict in (True, False):
        with refused(opt, message, error=error):
            opt.load_state_dict(state, strict=strict)


# ---- Parameters and optimizer in one file ----


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_parameters_in_the_file(case, dtype, tmp_path):
    """A run that is resumed from nothing but the file goes on to the same bits."""
    start = {
        "w": np.linspace(-2, 2, 35, dtype=dtype).reshape(5, 7).T,
        "b": np.array(0.5, dtype),
        "e": np.ones((0, 2), dtype),
    }
    sources = {name: gradients(i, p.shape, dtype) for i, (name, p) in enumerate(start.items())}
    params = {name: p.copy() for name, p in start.items()}
    opt = case.make(params)
    for _ in range(3):
        opt.step({name: next(source) for name, source in sources.items()})
    fastopt.save(tmp_path / "run", opt, parameters=True)
    resumed = {name: np.zeros(p.shape, dtype) for name, p in start.items()}
    other = case.make(resumed)
    fastopt.load(tmp_path / "run", other, parameters=True)
    for _ in range(3):
        grads = {name: next(source) for name, source in sources.items()}
        for each in (opt, other):
            each.step(grads)
    for name, p in params.items():
        assert_same_bits(resumed[name], p, name)
    assert_same_state(opt, other)
    untouched = {name: p.copy() for name, p in start.items()}
    fastopt.load(tmp_path / "run", case.make(untouched))  # the optimizer alone
    for name, p in start.items():
        assert_same_bits(untouched[name], p)


def test_parameters_that_cannot_be_loaded(tmp_path):
    with_them, without = tmp_path / "with", tmp_path / "without"
    opt = stepped(ema_decay=0.9)
    fastopt.save(with_them, opt, parameters=True)
    fastopt.save(without, opt)
    with refused(opt, str(without), "must hold the parameters, as save(..., parameters=True) writes them"):
        fastopt.load(without, opt, parameters=True)
    with refused(opt, "load: parameters must be True or False, got 1", error=TypeError):
        fastopt.load(with_them, opt, parameters=1)
    with refused(opt, "save: parameters must be True or False, got 1", error=TypeError):
        fastopt.save(with_them, opt, parameters=1)
    with opt.swapped("ema"):
        with refused(opt, "must wait until the parameters are back"):
            fastopt.save(with_them, opt, parameters=True)
        with refused(opt, "must wait until the parameters are back"):
            fastopt.load(with_them, opt, parameters=True)
    other = stepped(ema_decay=0.9, shapes={"w": (3, 2), "b": (3,)})
    with refused(other, "'b' must have dtype float64 and shape [3], got float64 and [2]"):
        fastopt.load(with_them, other, parameters=True)
    before = other.groups[0]["params"][1].copy()
    assert fastopt.load(with_them, other, strict=False, parameters=True) == ((), (), ("b",), ())
    assert_same_bits(other.groups[0]["params"][0], opt.groups[0]["params"][0])
    assert_same_bits(other.groups[0]["params"][1], before)
    params = {"w": np.ones((3, 2)), "b": np.ones(2)}
    watched = fastopt.Adam(params, ema_decay=0.9)
    params["b"].flags.writeable = False
    with refused(watched, "'b' must be writable, got a read-only array"):
        fastopt.load(with_them, watched, parameters=True)
    params["b"].flags.writeable = True
    kept, params["b"] = params["b"], np.ones(2)
    with refused(watched, "'b'"):
        fastopt.load(with_them, watched, parameters=True)
    params["b"] = kept
    fastopt.load(with_them, watched, parameters=True)


def combined(value=1.0, lr=0.1, shape=(2,)):
    hidden, rest = {"h": np.full((3, 2), value)}, {"b": np.full(shape, value)}
    return fastopt.Combined([fastopt.Muon(hidden, lr=lr), fastopt.AdamW(rest, lr=lr, ema_decay=0.9)])


def test_several_that_step_as_one(tmp_path):
    """One file, with the parameters; other hyperparameters, and what fits."""
    opt = combined()
    opt.step([{"h": np.ones((3, 2))}, {"b": np.ones(2)}])
    fastopt.save(tmp_path / "run", opt, parameters=True)
    other = combined(value=5.0, lr=0.3)
    assert fastopt.load(tmp_path / "run", other, parameters=True, hyperparameters="current") == (((), (), (), ()),) * 2
    for mine, theirs in zip(opt.optimizers, other.optimizers, strict=True):
        assert theirs.lr == 0.3
        assert theirs.step_count == 1
        assert_same_state(mine, theirs)
        for p, q in zip(mine.groups[0]["params"], theirs.groups[0]["params"], strict=True):
            assert_same_bits(p, q)
    larger = combined(shape=(4,))
    before = [everything(one) for one in larger.optimizers]
    with pytest.raises(ValueError, match="'b' must have dtype float64 and shape"):
        fastopt.load(tmp_path / "run", larger, parameters=True)
    assert [everything(one) for one in larger.optimizers] == before
    loaded = fastopt.load(tmp_path / "run", larger, strict=False, parameters=True)
    assert [one.mismatched for one in loaded] == [(), ("b",)]
    assert larger.optimizers[0].step_count == larger.optimizers[1].step_count == 1
    assert_same_bits(larger.optimizers[1].groups[0]["params"][0], np.ones(4))
    assert larger.load_state_dict(larger.state_dict()) == (((), (), (), ()),) * 2
    with (
        larger.optimizers[1].swapped("ema"),
        pytest.raises(ValueError, match="must wait until the parameters are back"),
    ):
        fastopt.load(tmp_path / "run", larger, strict=False, parameters=True)


README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="needs the source tree")
def test_the_readme_saves_and_resumes(tmp_path, monkeypatch):
    """Its block, as it stands there, twice: at first from the beginning, then from the file."""
    text = README.read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "fastopt.load(" in b)
    monkeypatch.chdir(tmp_path)
    runs = []
    for _ in range(2):
        names = {"fastopt": fastopt, "w": np.ones((3, 2)), "b": np.ones(2), "batches": [(1.0, 2.0)] * 3}
        names["gradients"] = lambda x, y, of=names: {"w": np.full((3, 2), x), "b": np.full(2, y)}
        exec(block, names)
        runs.append(names)
    straight = {"w": np.ones((3, 2)), "b": np.ones(2)}
    opt = fastopt.AdamW(straight, lr=3e-4)
    for _ in range(6):
        opt.step({"w": np.full((3, 2), 1.0), "b": np.full(2, 2.0)})
    assert runs[1]["opt"].step_count == 6
    for name, p in straight.items():
        assert_same_bits(runs[1][name], p)
