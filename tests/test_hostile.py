"""Arrays and sequences that lie, change or call back: misuse of an optimizer beyond wrong arguments."""

import copy
import inspect
import os
import pickle
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

import fastopt
from support.asserts import assert_same_bits, refused, stepped

GRADS = {"w": np.ones((2, 3)), "b": np.ones(3)}


class Claims(np.ndarray):
    """An array that says of itself what is not so."""

    shape = property(lambda self: (2, 3))
    ndim = property(lambda self: 2)
    size = property(lambda self: 6)
    nbytes = property(lambda self: 48)
    strides = property(lambda self: (24, 8))

    def __len__(self):
        return 2


# ---- Arrays that are not what they say ----


def test_a_parameter_that_lies():
    """State is as large as the parameter is."""
    p, like = np.ones(50_000).view(Claims), np.ones(50_000)
    for array in (p, like):
        opt = fastopt.Adam(array, ema_decay=0.5)
        opt.step(np.full(50_000, 0.5))
        opt.accumulate(np.full(50_000, 0.5))
        opt.step()
    assert opt.state[0]["m"].shape == (50_000,)
    assert_same_bits(np.asarray(p), like)


def test_a_gradient_that_lies():
    opt = stepped()
    g = np.ones(5).view(Claims)
    with refused("its parameter's shape (2, 3), got", opt):
        opt.step({**GRADS, "w": g})


def test_rows_that_lie():
    table = np.ones((4, 3000))
    opt = fastopt.SGD(table)
    with refused("its parameter's shape per row (3000,), got", opt, table):
        opt.step(fastopt.RowGrad([0, 1], np.ones((2, 3)).view(Claims)))


def test_a_state_that_lies():
    opt = stepped()
    saved = {**opt.state_dict(), "step_count": 9}
    saved["state"]["w"]["v"] = np.ones(5).view(Claims)
    with refused("must have shape (2, 3)", opt):
        opt.load_state_dict(saved)


def test_a_number_that_fails():
    """As the last of what is loaded: what comes before it must not have been taken."""

    class Number(int):
        def __float__(self):
            raise ValueError("no float")

    opt = fastopt.NAdam({"w": np.ones(3)})
    opt.step({"w": np.ones(3)})
    saved = {**opt.state_dict(), "step_count": 9}
    saved["state"]["w"].update(m=np.full(3, 5.0), mu_product=Number(1))
    with refused("no float", opt):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("cls", [np.matrix, np.recarray, np.memmap])
def test_subclasses_of_arrays(cls, tmp_path):
    values = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    if cls is np.memmap:
        p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(4, 5))
        p[...] = values
    else:
        p = values.copy().view(cls)
    opts = [fastopt.Adam(p), fastopt.Adam(values)]
    for _ in range(3):
        for opt in opts:
            opt.step(np.full((4, 5), 0.5, np.float32).view(cls if cls is not np.memmap else np.ndarray))
    assert_same_bits(np.asarray(p), values)


# ---- Sequences that are not what they say ----


class Claimed(Sequence):
    """A sequence with a length of its own."""

    def __init__(self, length, entries):
        self.length, self.entries = length, entries

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.entries[i]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_length_that_lies(count):
    p = [np.ones(3), np.ones(3)]
    opt = fastopt.SGD(p)
    with refused(f"must be 2, one per parameter, got {count}", opt):
        opt.step(Claimed(2, [np.ones(3)] * count))
    groups = fastopt.SGD([{"params": array} for array in p])
    with refused(f"must have one entry for each of the 2 groups, got {count}", groups):
        groups.step(Claimed(2, [np.ones(3)] * count))


def test_a_sequence_that_steps():
    """The step within comes first, whole."""

    class Stepping(dict):
        def __getitem__(self, key):
            opt.step(GRADS)
            return super().__getitem__(key)

    opt = fastopt.SGD({"w": np.zeros((2, 3)), "b": np.zeros(3)}, lr=1.0)
    opt.step(Stepping(GRADS))
    assert opt.step_count == 3
    assert (opt.groups[0]["params"][1] == -3).all()


# ---- Arrays that change ----


@pytest.mark.filterwarnings("ignore:Setting the")  # in place, which NumPy is about to forbid
def test_a_parameter_that_changes():
    p = np.ones((4, 6))
    opt = fastopt.Adagrad(p, catch_up=True)
    opt.step(fastopt.RowGrad([1], np.ones((1, 6))))
    for change in ({"shape": (6, 4)}, {"strides": (8, 32)}, {"dtype": np.int64}):
        (name, value), before = change.popitem(), (p.shape, p.strides, p.dtype)
        setattr(p, name, value)
        for call in (lambda: opt.step(np.ones((4, 6))), lambda: opt.step(np.ones((6, 4))), opt.catch_up):
            with refused("must stay the writable array", opt):
                call()
        p.dtype = before[2]
        p.shape, p.strides = before[:2]
    opt.step(np.ones((4, 6)))
    opt.catch_up()


@pytest.mark.filterwarnings("ignore:Setting the")
def test_a_bound_gradient_that_changes():
    p, g = np.ones((4, 6)), np.ones((4, 6))
    opt = fastopt.Adam(p)
    opt.bind(g)
    opt.step()
    g.shape = (24,)
    with refused("shape (4, 6), got (24,)", opt):
        opt.step()
    g.resize((1, 1), refcheck=False)
    with refused("got (1, 1)", opt):
        opt.step()
    g.resize((4, 6), refcheck=False)
    g.dtype = np.int64
    with refused("got '<i8'", opt):
        opt.step()
    g.dtype = np.float64
    opt.step()


@pytest.mark.parametrize("row", [-1, -100_000, 4, 2**62])
def test_rows_that_change(row):
    table = np.ones((4, 3))
    opt = fastopt.Adam(table)
    gradient = fastopt.RowGrad([0, 1], np.ones((2, 3)))
    gradient.rows[1] = row
    with refused(f"must be >= 0 and < 4, as many as its parameter has, got {row}", opt, table):
        opt.step(gradient)


def test_values_of_rows_that_change():
    table = np.ones((400, 300))
    opt = fastopt.Adam(table)
    gradient = fastopt.RowGrad(np.arange(400), np.ones((400, 300)))
    gradient.values.resize((1, 300), refcheck=False)
    with refused("must have one entry for each of its 400 rows, got shape (1, 300)", opt, table):
        opt.step(gradient)


def test_rows_of_a_gradient_that_is_set_to_zero():
    """The rows are read as they were before the step, whichever tensor comes first."""
    for order in (1, -1):
        arrays, g = [np.zeros((2, 3)), np.zeros((2, 3))], np.ones((2, 3))
        opt = fastopt.SGD(arrays, lr=1.0, zero_grads=True)
        opt.step([g, fastopt.RowGrad([0, 1], g)][::order])
        assert (np.array(arrays) == -1).all()
        assert (g == 0).all()


def test_gradients_in_the_state():
    """Also where the state is no array of its parameter's shape."""
    p = np.ones(())
    opt = fastopt.NAdam(p)
    with refused("must not share memory with the optimizer's state", opt, p):
        opt.step(opt.state[0]["mu_product"])
    table = np.ones((3, 1))
    opt = fastopt.SGD(table, momentum=0.9, catch_up=True)
    with refused("must not share memory with the optimizer's state", opt, table):
        opt.step(opt.state[0]["last_step"].view(np.float64).reshape(3, 1))


def test_state_and_groups_cannot_be_replaced():
    """Arrays put in their place would take no part in a step."""
    opt = stepped()
    for change in (
        lambda: opt.state["w"].__setitem__("m", np.zeros((2, 3))),
        lambda: opt.state["w"].update(m=np.zeros((2, 3))),
        lambda: opt.state.pop("w"),
        lambda: opt.state.clear(),
        lambda: opt.groups.__setitem__(0, {"lr": 0.5}),
        lambda: opt.groups[0]["params"].__setitem__(0, np.zeros((2, 3))),
    ):
        before = opt.state_dict()
        with pytest.raises((TypeError, AttributeError)):
            change()
        np.testing.assert_equal(opt.state_dict(), before)
    opt.state["w"]["m"][...] = 7  # which is how to set it
    assert (opt.state_dict()["state"]["w"]["m"] == 7).all()
    assert type(copy.deepcopy(opt.state)) is dict


# ---- Calls from within ----


def test_a_schedule_that_steps():
    """It would wait for itself; the step that asked for the rate is refused with it."""
    p = np.ones(3)

    def rate(step):
        if step:
            calls[0]()
        return 0.1

    opt = fastopt.Adam(p, lr=rate)
    saved = opt.state_dict()
    calls = []
    opt.step(np.ones(3))
    for call in (
        lambda: opt.step(np.ones(3)),
        lambda: opt.step_one(0, np.ones(3)),
        lambda: opt.load_state_dict(saved),
        lambda: opt.bind(np.ones(3)),
    ):
        calls[:] = [call]
        before, bits = opt.state_dict(), p.copy()
        with pytest.raises(RuntimeError, match="must not change the same optimizer"):
            opt.step(np.ones(3))
        np.testing.assert_equal(opt.state_dict(), before)
        assert_same_bits(p, bits)
    calls[:] = [opt.state_dict]
    opt.step(np.ones(3))
    assert opt.step_count == 2


def test_a_schedule_that_fails_later():
    """load_state_dict tries it once, before anything is changed."""

    def rate(step):
        calls.append(step)
        if len(calls) == failing:
            raise ValueError("not this time")
        return 0.1

    for failing in range(1, 6):
        calls = []
        failing, fails_at = 0, failing
        opt = fastopt.Adam({"w": np.ones(3)}, lr=rate)
        opt.step({"w": np.ones(3)})
        saved = opt.state_dict()
        opt.step({"w": np.ones(3)})
        before, calls, failing = opt.state_dict(), [], fails_at
        try:
            opt.load_state_dict(saved)
        except ValueError:
            expected = before
        else:
            expected = saved
        failing = 0
        np.testing.assert_equal(opt.state_dict(), expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_signal_handler_that_saves():
    """At any moment, even while a save or a step is being made."""
    saved = []
    opt = fastopt.Adam({f"p{i}": np.ones(30) for i in range(30)}, lr=lambda step: 0.1)
    grads = {f"p{i}": np.ones(30) for i in range(30)}
    before = signal.signal(signal.SIGALRM, lambda *_: saved.append(opt.state_dict()))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        end = time.monotonic() + 10
        while len(saved) < 50 and time.monotonic() < end:
            opt.step(grads)
            opt.state_dict()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(saved) >= 50
    for state in saved:
        counts = {entry["step"] for entry in state["state"].values()}
        assert counts == {state["step_count"]}
        assert len({entry["m"].tobytes() for entry in state["state"].values()}) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_after_accumulating():
    """Gradients that were gathered are used by a whole step, or by none."""
    p, g = np.zeros(2_000_000, np.float32), np.ones(2_000_000, np.float32)
    opt = fastopt.SGD(p, lr=1.0, num_threads=1)

    stepping = False

    def interrupt(*_):
        nonlocal stepping
        if stepping:  # a signal that comes late, on a busy machine, interrupts nothing else
            stepping = False
            raise KeyboardInterrupt

    before, interrupted = signal.signal(signal.SIGALRM, interrupt), 0
    opt.accumulate(g)
    try:
        for _ in range(20):
            try:
                stepping = True
                signal.setitimer(signal.ITIMER_REAL, 3e-4)
                opt.step()
                stepping = False
            except KeyboardInterrupt:
                interrupted += 1
            made, now = opt.step_count, p[0]
            opt.accumulate(g)
            opt.step()
            assert now - p[0] == 1, f"after {made} steps, {interrupted} interrupts"
            opt.accumulate(g)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


def test_threads_that_accumulate_first_at_once():
    for _ in range(20):
        p = [np.zeros(3) for _ in range(20)]
        opt = fastopt.SGD(p, lr=1.0)
        barrier = threading.Barrier(8)

        def gather(opt=opt, barrier=barrier):
            barrier.wait()
            opt.accumulate([np.ones(3)] * 20)

        threads = [threading.Thread(target=gather) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        opt.step(accumulated="sum")
        assert (np.array(p) == -8).all()


@pytest.mark.parametrize("other", ["group", "another group", "optimizer", "save"])
def test_threads_that_set_different_hyperparameters(other):
    """One reads all of a group and is held up before it writes; what the other sets meanwhile must stay."""
    opt = fastopt.Adam([{"params": np.ones(3)}, {"params": np.ones(3)}])
    saved = opt.state_dict()
    entered = threading.Event()

    def slow(step):
        entered.set()
        time.sleep(0.05)
        return 0.5

    thread = threading.Thread(target=lambda: opt.groups[0].update(lr=slow))
    thread.start()
    assert entered.wait(10)
    if other == "group":
        opt.groups[0]["weight_decay"] = 0.25
    elif other == "another group":
        opt.groups[1]["weight_decay"] = 0.25
    elif other == "optimizer":
        opt.lr = 0.125
    else:
        assert opt.state_dict()["groups"][0]["lr"] != saved["groups"][0]["lr"]  # it waits for what has begun
    thread.join()
    if other == "optimizer":
        assert opt.groups[0]["lr"] == opt.groups[1]["lr"] == 0.125
    else:
        assert opt.groups[0]["lr"] is slow
        expected = {"group": [0.25, 0.0], "another group": [0.0, 0.25], "save": [0.0, 0.0]}[other]
        assert [group["weight_decay"] for group in opt.groups] == expected


def test_many_threads_that_set_different_hyperparameters():
    opt = fastopt.Adam(np.ones(3))

    def set_again_and_again(key):
        for i in range(1, 300):
            opt.groups[0][key] = i / 1000
            if opt.groups[0][key] != i / 1000:
                reverted.append(key)

    reverted = []
    threads = [threading.Thread(target=set_again_and_again, args=(key,)) for key in ("lr", "eps", "weight_decay")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reverted == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_in_the_middle_of_a_step():
    """It has half of a step: it raises an error, and does not wait for a thread that it does not have."""
    p = np.ones(1_000_000, np.float32)
    opt, idle = fastopt.Adam(p, num_threads=1), fastopt.Adam(np.ones(3))
    stop = threading.Event()

    def step_for_ever():
        while not stop.is_set():
            opt.step(p[::-1].copy())

    thread = threading.Thread(target=step_for_ever)
    thread.start()
    codes = []
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                code = 0
                try:
                    idle.step(np.ones(3))
                    opt.step(p[::-1].copy())
                except RuntimeError as error:
                    code = 1 if "half of a step is missing here" in str(error) else 2
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            time.sleep(0.003)
    finally:
        stop.set()
        thread.join()
    assert set(codes) <= {0, 1}
    assert 1 in codes


# ---- Classes of a user ----


class MyAdagrad(fastopt.Adagrad):
    """A rule under another name."""


@pytest.mark.parametrize("pack", [copy.deepcopy, copy.copy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_class_derived_from_a_rule(pack):
    theirs, mine = fastopt.Adagrad(np.ones(3)), MyAdagrad(np.ones(3))
    for opt in (theirs, mine):
        opt.step(np.full(3, 0.5))
    mine = pack(mine)
    assert type(mine) is MyAdagrad
    assert_same_bits(mine.state[0]["G"], theirs.state[0]["G"])


# ---- Values whose repr fails ----


def deep(kind, depth=5000):
    """A container within a container and so on: its repr has no end that Python can reach."""
    value = kind()
    for _ in range(depth):
        value = {"m": value} if kind is dict else kind([value])
    return value


class NoRepr:
    def __repr__(self):
        raise RuntimeError("not shown")


UNSHOWN = {"deep list": deep(list), "deep tuple": deep(tuple), "deep mapping": deep(dict), "no repr": NoRepr()}
ARGUMENTS = [name for name in inspect.signature(fastopt.AdamW).parameters if name != "params"]


@pytest.mark.parametrize("value", UNSHOWN.values(), ids=UNSHOWN)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_values_whose_repr_fails_are_refused(name, value):
    """As any other wrong value is, wherever it comes from; a NumPy dtype of it, or its repr, is not asked for."""
    with refused(name):
        fastopt.AdamW(np.ones(3), **{name: value})
    opt = stepped()
    state = opt.state_dict()
    if name in opt.groups[0]:
        with refused(name):
            opt.groups[0][name] = value
        state["groups"][0][name] = value
        for hyperparameters in ("saved", "current") if fastopt.Adam._declaration.hyper[name].fixed else ("saved",):
            with refused(name):
                opt.load_state_dict(state, hyperparameters=hyperparameters)


@pytest.mark.parametrize("value", UNSHOWN.values(), ids=UNSHOWN)
def test_orders_and_formats_whose_repr_fails_are_refused(value):
    opt = fastopt.Adam([np.ones((3, 4))], state_dtype="8bit")
    for entry in ({"order": [0, value]}, {"order": value}, {"formats": {"m": value}}, {"formats": value}):
        state = opt.state_dict()
        state["state"][0] |= entry
        with refused("Adam.load_state_dict"):
            opt.load_state_dict(state, convert=True)
    with refused("show_config: mode must be"):
        fastopt.show_config(value)
