"""Loss scales: they grow and back off, alone or shared by several optimizers, and are copied and saved."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt


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
