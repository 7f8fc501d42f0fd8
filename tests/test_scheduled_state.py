"""Schedules in state dicts, files and copies: a run goes on with the same bits, and another schedule is refused."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import schedules as s
from support.asserts import assert_same_bits
from support.scheduled import FALL, RISE, assert_same_run, two_groups


def test_a_pair_by_one_function_in_a_file(files):
    def betas(t):
        return 0.5 + 0.1 * min(t, 4), 0.9

    opt, grads = two_groups(fastopt.Adam, betas=betas)
    fresh, _ = two_groups(fastopt.Adam, betas=betas)
    opt.step(next(grads))
    fastopt.save(files / "state", opt)
    fastopt.load(files / "state", fresh)
    gs = next(grads)
    for one in (opt, fresh):
        one.step(gs)
    assert fresh.step_count == 2
    for name, arrays in opt.state.items():
        assert_same_bits(fresh.state[name]["v"], arrays["v"], name)


def plateaued():
    """An optimizer with a stateful schedule, alone and within others."""
    plateau = s.reduce_on_plateau(0.1, patience=0, factor=0.5, cooldown=1)
    inner = s.reduce_on_plateau(0.3, patience=1)
    opt, grads = two_groups(fastopt.Adam, lr=plateau, lr2=s.warmup(s.join([FALL, inner], [2]), 2), betas=(RISE, 0.99))
    return opt, grads, (plateau, inner)


def reach(opt):
    """The stateful schedules of such an optimizer."""
    return opt.groups[0]["lr"], opt.groups[1]["lr"].schedule.schedules[1]


LOSSES_SEEN = [1.0, 2.0, 0.5, 0.6, 0.7, 0.8, 0.4, 0.5, 0.6, 0.7]


@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_saved_in_the_middle(way, request):
    straight, grads, plateaus = plateaued()
    gs = [next(grads) for _ in LOSSES_SEEN]

    def run(opt, which):
        for g, loss in list(zip(gs, LOSSES_SEEN, strict=True))[which]:
            opt.step(g)
            for plateau in reach(opt):
                plateau.report(loss)

    run(straight, slice(None))
    first, _, _ = plateaued()
    run(first, slice(5))
    if way == "deepcopy":
        second = copy.deepcopy(first)
    elif way == "pickle":
        second = pickle.loads(pickle.dumps(first))
    else:
        second, _, _ = plateaued()
        for mine, theirs in zip(second.groups, first.groups, strict=True):
            for p, q in zip(mine["params"], theirs["params"], strict=True):
                p[...] = q
        if way == "file":
            path = request.getfixturevalue("files") / "state"
            fastopt.save(path, first)
            fastopt.load(path, second)
        else:
            second.load_state_dict(first.state_dict())
    assert [plateau.state_dict() for plateau in reach(second)] == [plateau.state_dict() for plateau in reach(first)]
    run(second, slice(5, None))
    assert_same_run(second, straight)
    assert [plateau.state_dict() for plateau in reach(second)] == [plateau.state_dict() for plateau in plateaus]
    assert plateaus[0].scale < 1
    run(first, slice(5, None))  # which the copy has not touched
    assert_same_run(first, straight)


def changed_state(change):
    opt, grads, _ = plateaued()
    opt.step(next(grads))
    state = opt.state_dict()
    change(state["groups"])
    return opt, state


def set_state(**entries):
    def change(groups):
        groups[0]["lr"]["state"][0].update(entries)

    return change


OTHER = [
    (lambda g: g[0].update(lr=0.1), "groups[0]: lr must be scheduled by reduce_on_plateau(init_value=0.1, factor=0.5"),
    (lambda g: g[0].update(lr=g[1]["lr"]), "as in this optimizer, got warmup(schedule=join(schedules=[linear("),
    (lambda g: g[0].update(eps=g[0]["lr"]), "groups[0]: eps must be a number, as in this optimizer, got a schedule"),
    (lambda g: g[0].update(betas=(0.9, 0.9)), "groups[0]: betas[0] must be scheduled by warmup("),
    (lambda g: g[0]["lr"].update(state=[]), "groups[0]: lr must have the state of 1 schedules, got []"),
    (lambda g: g[0]["lr"].pop("state"), "groups[0]: lr must be scheduled by reduce_on_plateau"),
    (set_state(best="x"), "lr: reduce_on_plateau.load_state_dict: best must be a number, got 'x'"),
    (set_state(best=math.nan), "lr: reduce_on_plateau.load_state_dict: best must be a number or None, got nan"),
    (set_state(scale=1.5), "lr: reduce_on_plateau.load_state_dict: scale must be in [0, 1], got 1.5"),
    (set_state(bad_reports=-1), "bad_reports must be an integer >= 0, got -1"),
    (set_state(cooldown_left=0.5), "cooldown_left must be an integer >= 0, got 0.5"),
    (set_state(more=1), "the state must have best, bad_reports, cooldown_left, scale, got"),
]


@pytest.mark.parametrize(("change", "message"), OTHER, ids=[row[1][:40] for row in OTHER])
def test_loading_what_is_scheduled_otherwise(change, message):
    opt, state = changed_state(change)
    before = repr(opt.state_dict())
    with pytest.raises((TypeError, ValueError)) as raised:
        opt.load_state_dict(state)
    assert message in str(raised.value)
    assert "Adam.load_state_dict" in str(raised.value)
    assert repr(opt.state_dict()) == before


class Halving:
    """A schedule of a user's own, with a state."""

    def __init__(self):
        self.value = 0.4

    def __call__(self, t):
        return self.value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = float(state["value"])


def test_own_functions_and_classes(files):
    own = Halving()
    opt = fastopt.SGD(np.ones(2), lr=own, momentum=s.join([RISE, abs], [1 << 40]))
    assert opt.state_dict()["groups"][0]["lr"]["schedule"].endswith("Halving")
    own.value = 0.2
    fastopt.save(files / "a", opt)
    own.value = 0.1
    fastopt.load(files / "a", opt)
    assert own.value == opt.lr == 0.2
    other = fastopt.SGD(np.ones(2), lr=lambda t: 0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"lr must be scheduled by .*<lambda>, as in this optimizer, got .*Halving"):
        other.load_state_dict(opt.state_dict())


def test_arguments_are_checked_on_loading():
    opt, other = (fastopt.SGD(np.ones(2), lr=s.cosine(0.1, n)) for n in (10, 20))
    with pytest.raises(ValueError, match=r"cosine\(.*decay_steps=20.*as in this optimizer, got .*decay_steps=10"):
        other.load_state_dict(opt.state_dict())


def test_a_load_within_a_schedule_leaves_other_schedules():
    plateau = s.reduce_on_plateau(0.1, factor=0.1, patience=0)
    loads = False

    def momentum(t):
        if loads:
            opt.load_state_dict(saved)
        return 0.9

    opt = fastopt.SGD(np.ones(2), lr=plateau, momentum=momentum)
    saved = opt.state_dict()
    plateau.report(1.0)
    plateau.report(2.0)
    before, loads = plateau.state_dict(), True
    with pytest.raises(RuntimeError, match="must not change the same optimizer"):
        opt.step(np.ones(2))
    assert plateau.state_dict() == before
