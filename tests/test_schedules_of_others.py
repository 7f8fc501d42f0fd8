"""Schedules against those of the same name in torch and optax."""

import itertools
import json
import math
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from fastopt import schedules as s
from support.scheduled import assert_close, values

try:
    import torch
    from torch.optim import lr_scheduler as of_torch
except ImportError:
    torch = of_torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch to compare with")


# ---- torch ----


def torch_values(make, lr, steps, key="lr", **options):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, **options)
    scheduler = make(opt)
    found = []
    for _ in range(steps):
        found.append(float(opt.param_groups[0][key]))
        opt.step()
        scheduler.step()
    return found


@needs_torch
def test_of_torch_constant():
    for lr in (0.0, 0.1):
        assert values(s.constant(lr), 5) == torch_values(lambda o: of_torch.LambdaLR(o, lambda t: 1), lr, 5)
    for steps in (1, 4):
        ours = s.join([s.constant(0.03), s.constant(0.1)], [steps])
        assert_close(values(ours, 9), torch_values(lambda o: of_torch.ConstantLR(o, 0.3, steps), 0.1, 9))  # noqa: B023


@pytest.mark.parametrize(("start", "end", "steps"), [(0.25, 1.0, 7), (1.0, 0.0, 10), (0.5, 0.5, 1), (1.0, 0.1, 1)])
@needs_torch
def test_of_torch_linear(start, end, steps):
    theirs = torch_values(lambda o: of_torch.LinearLR(o, start, end, steps), 0.1, 2 * steps + 3)
    assert_close(values(s.linear(0.1 * start, 0.1 * end, steps), 2 * steps + 3), theirs)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5, 3.7])
@pytest.mark.parametrize("steps", [1, 2, 13])
@needs_torch
def test_of_torch_polynomial(power, steps):
    theirs = torch_values(lambda o: of_torch.PolynomialLR(o, steps, power), 0.1, 2 * steps + 3)
    assert_close(values(s.polynomial(0.1, 0.0, power, steps), 2 * steps + 3), theirs)


@pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0, 1.3])
@needs_torch
def test_of_torch_exponential(gamma):
    assert_close(
        values(s.exponential(0.1, gamma), 300), torch_values(lambda o: of_torch.ExponentialLR(o, gamma), 0.1, 300)
    )


@pytest.mark.parametrize(("size", "gamma"), [(1, 0.5), (7, 0.1), (30, 0.9)])
@needs_torch
def test_of_torch_step(size, gamma):
    assert_close(values(s.step(0.1, size, gamma), 95), torch_values(lambda o: of_torch.StepLR(o, size, gamma), 0.1, 95))
    assert s.step(0.1, size)(size) == pytest.approx(0.01)


@pytest.mark.parametrize("milestones", [[1], [3, 4, 20], []])
@needs_torch
def test_of_torch_multi_step(milestones):
    theirs = torch_values(lambda o: of_torch.MultiStepLR(o, milestones, 0.3), 0.1, 40)
    assert_close(values(s.multi_step(0.1, milestones, 0.3), 40), theirs)


@pytest.mark.parametrize(("steps", "end"), [(1, 0.0), (10, 0.0), (1000, 0.02), (7, 0.5)])
@needs_torch
def test_of_torch_cosine(steps, end):
    """Up to its end: torch's goes up again from there, ours stays."""

    def make(o):
        return of_torch.CosineAnnealingLR(o, steps, end)

    ours = values(s.cosine(0.1, steps, end), steps + 5)
    np.testing.assert_allclose(ours[: steps + 1], torch_values(make, 0.1, steps + 1), rtol=1e-9, atol=1e-16)
    assert ours[steps:] == [end] * 5


@pytest.mark.parametrize(("steps", "mult", "end"), [(1, 1, 0.0), (10, 1, 0.01), (3, 2, 0.0), (5, 3, 0.2)])
@needs_torch
def test_of_torch_cosine_restarts(steps, mult, end):
    theirs = torch_values(lambda o: of_torch.CosineAnnealingWarmRestarts(o, steps, mult, end), 0.1, 150)
    assert_close(values(s.cosine_restarts(0.1, steps, mult, end), 150), theirs)


ONE_CYCLE = [
    {"total_steps": 100},
    {"total_steps": 100, "anneal_strategy": "linear", "pct_start": 0.45},
    {"total_steps": 73, "three_phase": True, "pct_start": 0.2},
    {"total_steps": 73, "three_phase": True, "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 10.0},
    {"total_steps": 50, "pct_start": 0.31},  # a phase that ends between two steps
    {"total_steps": 10, "pct_start": 1.0},
]


@pytest.mark.parametrize("options", ONE_CYCLE, ids=str)
@needs_torch
def test_of_torch_one_cycle(options):
    total = options["total_steps"]

    def make(o):
        return of_torch.OneCycleLR(o, 0.4, **options | {"anneal_strategy": options.get("anneal_strategy", "cos")})

    ours = values(s.one_cycle(0.4, **options), total + 5)
    assert_close(ours[: total - 1], torch_values(make, 0.4, total - 1, momentum=0.9))
    last = 0.4 if options.get("pct_start") == 1.0 else ours[0] / options.get("final_div_factor", 1e4)
    assert ours[total - 1 :] == pytest.approx([last] * 6)
    momentum = s.one_cycle(0.85, **{**options, "div_factor": 0.85 / 0.95, "final_div_factor": 1.0})
    assert_close(values(momentum, total - 1), torch_values(make, 0.4, total - 1, "momentum", momentum=0.9))


@needs_torch
def test_of_torch_warmup():
    def make(o):
        parts = of_torch.LinearLR(o, 0.2, 1.0, 8), of_torch.CosineAnnealingLR(o, 30, 0.01)
        return of_torch.SequentialLR(o, parts, [8])

    ours = values(s.warmup(s.cosine(0.1, 30, 0.01), 8, 0.02), 38)
    np.testing.assert_allclose(ours, torch_values(make, 0.1, 38), rtol=1e-9)


@needs_torch
def test_of_torch_join():
    def make(o):
        parts = [of_torch.ConstantLR(o, 0.5, 100), of_torch.StepLR(o, 4, 0.5), of_torch.ExponentialLR(o, 0.9)]
        return of_torch.SequentialLR(o, parts, [5, 20])

    ours = s.join([s.constant(0.05), s.step(0.1, 4, 0.5), s.exponential(0.1, 0.9)], [5, 20])
    assert_close(values(ours, 40), torch_values(make, 0.1, 40))


PLATEAU = {
    "patience": [0, 2, 5],
    "threshold_mode": ["rel", "abs"],
    "mode": ["min", "max"],
    "cooldown": [0, 3],
    "min_value": [0.0, 0.02],
    "threshold": [0.0, 0.05],
}


@pytest.mark.parametrize("options", list(itertools.product(*PLATEAU.values())), ids=str)
@needs_torch
def test_of_torch_reduce_on_plateau(options):
    options = dict(zip(PLATEAU, options, strict=True))
    rng = np.random.default_rng(7)
    losses = np.exp(-np.arange(80) / 20) + 0.2 * rng.standard_normal(80)
    losses[[11, 40]] = math.nan
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = {"min_lr" if key == "min_value" else key: value for key, value in options.items()}
    peer = of_torch.ReduceLROnPlateau(opt, factor=0.4, **theirs)
    ours = s.reduce_on_plateau(0.1, factor=0.4, **options)
    # Above 0: with a relative threshold torch takes no loss below 0 for a plateau.
    for loss in 2 + losses if options["mode"] == "min" else 2 - losses:
        ours.report(loss)
        peer.step(loss)
        assert ours(0) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-12)
        assert ours.best == peer.best
        assert ours.bad_reports == peer.num_bad_epochs
        assert ours.cooldown_left == peer.cooldown_counter
    assert ours(0) < 0.1


# ---- optax ----

OPTAX = {
    "constant_schedule(0.1)": s.constant(0.1),
    "linear_schedule(0.1, 0.3, 12)": s.linear(0.1, 0.3, 12),
    "linear_schedule(0.1, -0.3, 12, 5)": s.linear(0.1, -0.3, 12, 5),
    "polynomial_schedule(0.1, 0.01, 2.5, 30)": s.polynomial(0.1, 0.01, 2.5, 30),
    "polynomial_schedule(0.0, 1.0, 3, 30, 7)": s.polynomial(0.0, 1.0, 3, 30, 7),
    "exponential_decay(0.1, 10, 0.5)": s.exponential(0.1, 0.5, 10),
    "exponential_decay(0.1, 10, 0.5, 7)": s.exponential(0.1, 0.5, 10, 7),
    "exponential_decay(0.1, 10, 0.5, 7, True)": s.exponential(0.1, 0.5, 10, 7, True),
    "exponential_decay(0.1, 10, 0.5, 0, False, 0.02)": s.exponential(0.1, 0.5, 10, end_value=0.02),
    "exponential_decay(0.1, 10, 1.5, 0, True, 0.3)": s.exponential(0.1, 1.5, 10, staircase=True, end_value=0.3),
    "cosine_decay_schedule(0.1, 40)": s.cosine(0.1, 40),
    "cosine_decay_schedule(0.1, 40, 0.2)": s.cosine(0.1, 40, 0.2 * 0.1),
    "cosine_decay_schedule(0.1, 40, 0.2, 1.7)": s.cosine(0.1, 40, 0.2 * 0.1, 1.7),
    "piecewise_constant_schedule(0.1, {5: 0.3, 17: 0.3})": s.multi_step(0.1, [5, 17], 0.3),
    "warmup_constant_schedule(0.01, 0.1, 9)": s.warmup(s.constant(0.1), 9, 0.01),
    "warmup_cosine_decay_schedule(0.0, 0.1, 10, 50, 0.01, 2.0)": s.warmup(s.cosine(0.1, 40, 0.01, 2.0), 10),
    "warmup_exponential_decay_schedule(0.0, 0.1, 10, 5, 0.8)": s.warmup(s.exponential(0.1, 0.8, 5), 10),
    "join_schedules([linear_schedule(0.0, 0.1, 6), constant_schedule(0.1), linear_schedule(0.1, 0.02, 9)], [6, 20])": (
        s.warmup_stable_decay(0.1, 6, 14, 9, end_value=0.02)
    ),
    "join_schedules([constant_schedule(0.1), cosine_decay_schedule(0.2, 9)], [4])": (
        s.join([s.constant(0.1), s.cosine(0.2, 9)], [4])
    ),
    "sgdr_schedule([{'init_value': 0.0, 'peak_value': 0.1, 'warmup_steps': 4, 'decay_steps': n} for n in (14, 24)])": (
        s.join([s.warmup(s.cosine(0.1, 10), 4), s.warmup(s.cosine(0.1, 20), 4)], [14])
    ),
    # Theirs comes to its end after so many steps, torch's and ours with the last of them.
    "cosine_onecycle_schedule(100, 0.4, 0.3)": s.one_cycle(0.4, 101, 31 / 101),
}
PLATEAUS = [{"patience": 3}, {"patience": 1, "cooldown": 2, "rtol": 0.05}, {"patience": 2, "rtol": 0.0, "atol": 0.1}]
STEPS = 110
LOSSES = (np.exp(-np.arange(60) / 15) + 0.1 * np.random.default_rng(3).random(60)).tolist()

IN_OPTAX = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, optax, optax.contrib
names, steps, plateaus, losses = json.load(sys.stdin)
at = jnp.arange(steps)
found = {name: jax.vmap(lambda t: jnp.asarray(eval(name, vars(optax))(t), float))(at).tolist() for name in names}
scales = []
for options in plateaus:
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, **options)
    def report(state, loss):
        state = plateau.update(jnp.zeros(1), state, value=loss)[1]
        return state, state.scale
    scales.append(jax.lax.scan(report, plateau.init(jnp.zeros(1)), jnp.array(losses))[1].tolist())
print(json.dumps([found, scales]))
"""


@pytest.fixture(scope="module")
def optax():
    """The values of optax.  In another process, since jax has threads and other tests fork this one."""
    if not find_spec("optax"):
        pytest.skip("needs optax to compare with")
    asked = json.dumps([list(OPTAX), STEPS, PLATEAUS, LOSSES])
    run = subprocess.run([sys.executable, "-c", IN_OPTAX], input=asked, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", OPTAX)
def test_of_optax(name, optax):
    assert_close(values(OPTAX[name], STEPS), optax[0][name])


@pytest.mark.parametrize("i", range(len(PLATEAUS)))
def test_of_optax_reduce_on_plateau(i, optax):
    """Theirs reduces by the last report that is tolerated, torch's and ours by the one after."""
    theirs = dict(PLATEAUS[i])
    mode = "abs" if "atol" in theirs else "rel"
    options = {"threshold": theirs.get("atol") or theirs.get("rtol", 1e-4), "cooldown": theirs.get("cooldown", 0)}
    plateau = s.reduce_on_plateau(1.0, 0.5, theirs["patience"] - 1, threshold_mode=mode, eps=0.0, **options)
    scales = []
    for loss in LOSSES:
        plateau.report(loss)
        scales.append(plateau(0))
    assert scales == optax[1][i]
    assert scales[-1] < 1
