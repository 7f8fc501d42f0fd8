"""The races against other libraries: targets can be met by what is raced, and traffic is what a step moves."""

import dataclasses

import numpy as np
import pytest

from support.registry import CLASSES

NOT_HERE = "bench is not a part of what is installed"
contenders = pytest.importorskip("bench.peers.contenders", reason=NOT_HERE)
CONTENDERS = contenders.CONTENDERS
targets = pytest.importorskip("bench.peers.targets", reason=NOT_HERE)
workloads = pytest.importorskip("bench.peers.workloads", reason=NOT_HERE)
races = pytest.importorskip("bench.peers.races", reason=NOT_HERE)
RULES, WORKLOADS, Workload = races.RULES, races.WORKLOADS, workloads.Workload
TOLERANCE = pytest.importorskip("bench.peers.results", reason=NOT_HERE).TOLERANCE


def test_bars_have_races():
    for race, group, _ in targets.RATIOS:
        assert set(group) & set(WORKLOADS[race].peers), race
    for race, contender, _ in targets.SECONDS:
        assert contender == "fastopt" or contender in WORKLOADS[race].peers
    assert set(races.QUICK) | set(targets.ROW_RACES) <= set(WORKLOADS)
    assert {f"{rule}-32M" for rule in RULES if RULES[rule].one_pass} <= set(targets.LIMIT_RACES)


@pytest.mark.parametrize(
    ("race", "raced", "bars"),
    [
        ("adamax-32M", {"torch": 5.9, "numpy": 9.0}, [("torch / fastopt", False)]),
        ("adamax-32M", {"torch-foreach": 6.1, "torch": 7.0}, [("torch, foreach / fastopt", True)]),
        ("nesterov-32M", {"torch": 2.0, "torch-fused": 1.0}, []),
        ("momentum-32M", {"torch": 2.0, "torch-fused": 1.06}, [("torch, fused / fastopt", True)]),
        ("lion-32M", {"numpy": 9.0, "optax": 0.9}, [("optax, jit / fastopt", False)]),
        ("lion-31M", {"optax": 0.9}, []),
    ],
)
def test_bars_of_rules(race, raced, bars):
    """Without a bar of its own a rule has that of torch where torch has no fused form, else of optax alone."""
    results = pytest.importorskip("bench.peers.results", reason=NOT_HERE)
    rows = {
        name: results.Row(name, turns=[results.Turn(0, {"step": [time]})])
        for name, time in {"fastopt": 1.0, **raced}.items()
    }
    of_race = results.Race(race, "", "", 1, 1, 28, loop="", busy_cpus=0.0, rows=rows)
    assert [(verdict.what, verdict.passed) for verdict in targets.judge_race(of_race)] == bars


def test_pictures_draw_every_contender(tmp_path):
    results = pytest.importorskip("bench.peers.results", reason=NOT_HERE)
    picture = pytest.importorskip("bench.peers.picture", reason="needs matplotlib")
    rows = {name: results.Row(name, turns=[results.Turn(0, {"step": [1e-3]})]) for name in CONTENDERS}
    race = results.Race("adam-1M", "Adam", "", 1, 1, 28, loop="", busy_cpus=0.0, rows=rows)
    machine = {"cpu": "a CPU", "threads": 2}
    drawn = list(
        picture.draw(results.Results(machine=machine, versions={}, settings={}, races=[race]), tmp_path / "peers.png")
    )
    assert [path.name for path in drawn] == ["peers.png", "peers-limit.png"]


def test_peers_are_contenders():
    for workload in WORKLOADS.values():
        assert set(workload.peers) <= set(CONTENDERS)


def test_every_rule_of_another_library_is_raced():
    """Except those of the lecture's that Adam's races stand for, and Muon's products, which are NumPy's."""
    raced = {workload.rule.optimizer for workload in WORKLOADS.values()}
    assert raced == {name for name, cls in CLASSES.items() if (cls.torch or "" in cls.optax) and not cls.for_matrices}


def test_the_tables_of_rules_by_hand_are_complete():
    numpy_out = pytest.importorskip("bench.peers.numpy_out", reason=NOT_HERE)
    assert set(numpy_out.RULES) == set(races.BY_HAND)
    for name, (_, state) in numpy_out.RULES.items():
        assert len(state) == RULES[name].states
    pytest.importorskip("numba")
    numba_rules = pytest.importorskip("bench.peers.numba_rules", reason=NOT_HERE)
    assert set(numba_rules.FUNCTIONS) == set(races.BY_HAND)


@pytest.mark.parametrize("peer", ["numpy", "numpy-out", "torch", "optax"])
@pytest.mark.parametrize("name", RULES)
def test_checked_steps_agree(name, peer):
    """The hyperparameters, state and steps of every rule mean the same to fastopt and to a peer."""
    large = races.of_rule(name)
    if peer not in large.peers:
        pytest.skip(f"{peer} does not have {name}")
    worker = pytest.importorskip("bench.peers.worker", reason=NOT_HERE)
    if peer in ("torch", "optax"):
        pytest.importorskip(peer)
    workload = Workload("", "", RULES[name], ((3, 40),) * 2 if len(large.shapes) > 1 else ((50,),))
    theirs, changes = answer_of(peer, workload, worker.CHECK_FACTORS)
    ours, _ = answer_of("fastopt", workload, worker.CHECK_FACTORS, changes)
    for mine, other, start in zip(ours, theirs, workload.parameters(), strict=True):
        assert np.abs(mine - start).max() > 1e-6
        np.testing.assert_allclose(other, mine, rtol=0, atol=TOLERANCE * np.abs(mine - start).max())


@pytest.mark.parametrize(("name", "floats"), [("adam-32M-clip", 8), ("adamw-32M-clip-zero-ema", 11), ("lamb-32M", 10)])
def test_traffic(name, floats):
    assert WORKLOADS[name].traffic == 4 * floats * 2**25


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("adamw-32M-bf16-state", 20),
        ("adamw-32M-8bit", 16.25),
        ("adamw-32M-split16", 18),
        ("adamw-32M-split8-8bit", 12.25),
        ("adamw-32M-bf16", 14),
    ],
)
def test_traffic_in_fewer_bytes(name, moved):
    assert WORKLOADS[name].traffic == moved * 2**25


@pytest.mark.parametrize("peer", ["fastopt-float32", "torch-bf16", "torchao-8bit", "torchao-bf16", "bitsandbytes"])
@pytest.mark.parametrize("name", [name for name in WORKLOADS if WORKLOADS[name].storage])
def test_steps_in_fewer_bytes_agree(name, peer, tmp_path):
    """To rounding, by the measure of the race."""
    worker = pytest.importorskip("bench.peers.worker", reason=NOT_HERE)
    results = pytest.importorskip("bench.peers.results", reason=NOT_HERE)
    if peer not in WORKLOADS[name].peers:
        pytest.skip(f"{peer} does not race {name}")
    workload = dataclasses.replace(WORKLOADS[name], shapes=((64, 128), (8192,)))
    ours, theirs = worker.Worker("fastopt", 1), worker.Worker(peer, 1)
    try:
        theirs.build(workload)
    except contenders.UnavailableError as error:
        pytest.skip(str(error))
    ours.build(workload)
    ours.save(str(tmp_path / "ours"))
    difference = theirs.difference(str(tmp_path / "ours"))
    assert difference <= results.ROUNDED_TOLERANCE
    assert difference > 0


def test_traffic_of_rows():
    assert {WORKLOADS[name].traffic for name in targets.ROW_RACES} == {4 * 7 * 4096 * 64}


def answer_of(name, workload, factors, changes=None):
    """Make the steps, and return the parameters and the hyperparameters by which the contender must be compared."""
    values = list(workload.parameters()), list(workload.gradients()), workload.hyperparameters(**(changes or {}))
    contender = CONTENDERS[name].make(contenders.Entry(workload, *values, threads=1))
    for factor in factors:
        contender.load_gradients(workload.gradients(factor))
        contender.run(1)
    return [np.array(array) for array in contender.answer()], contender.compared_with


def answer(name, workload):
    """Make three steps and return all that is compared."""
    return answer_of(name, workload, (-0.5, 4.0, 1.0))[0]


@pytest.mark.parametrize("name", ["fastopt", "fastopt-bound", "fastopt-kernel", "numpy", "torch-fused"])
def test_a_single_step_is_one_of_a_run(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    workload, ends = races.adam("", "", ((50,),)), []
    for in_one_run in (True, False):
        values = list(workload.parameters()), list(workload.gradients()), workload.hyperparameters()
        contender = CONTENDERS[name].make(contenders.Entry(workload, *values, threads=1))
        contender.run(2 if in_one_run else 1)
        if not in_one_run:
            contender.single()()
        ends += [array.copy() for array in contender.answer()]
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("name", ["numpy", "numpy-out", "torch", "torch-foreach", "torch-fused"])
def test_whole_steps_agree(name):
    """Parameters, averages and zeroed gradients of a clipped step are the same for everyone."""
    if name.startswith("torch"):
        pytest.importorskip("torch")
    workload = Workload("", "", RULES["adamw"], ((30, 40), (50,)), clip_norm=1.0, zero=True, ema=races.EMA)
    ours, theirs = answer("fastopt", workload), answer(name, workload)
    assert len(ours) == len(theirs) == 6
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other, mine, rtol=0, atol=1e-7)
    assert not any(grad.any() for grad in ours[4:])
    assert all((p != mean).any() for p, mean in zip(ours[:2], ours[2:4], strict=True))


@pytest.mark.parametrize("name", ["numpy-rows", "torch-sparse"])
def test_rows_agree(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    workload = Workload("", "", RULES["adam"], ((100, 8),), rows=10, hyper={"eps": 1e-12})
    (ours,), (theirs,) = answer("fastopt", workload), answer(name, workload)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-7)
    (start,) = workload.parameters()
    assert np.count_nonzero((ours != start).any(axis=1)) == 10


def test_the_torch_loop():
    """Gradients of the stack lie in the arrays given, which are torch's own of the same network, and stay there."""
    torch = pytest.importorskip("torch")
    training = pytest.importorskip("bench.peers.training", reason=NOT_HERE)
    workload = Workload("", "", RULES["adamw"], workloads.stack(16, 2), blocks=2)
    assert (workload.loop, len(workload.shapes)) == ("torch", 8)
    params, grads = list(workload.parameters()), list(workload.gradients())
    stack = training.network(workload, params, grads, threads=1)
    addresses = [array.ctypes.data for array in grads]
    chosen = []
    stack.chosen = lambda draw=stack.chosen: chosen.append(draw()) or chosen[-1]
    for _ in range(2):
        stack.backpropagate()
        leaves = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
        x = stack.inputs[chosen[-1]]
        for w, b, scale, shift in zip(*(leaves[i::4] for i in range(4)), strict=True):
            x = torch.nn.functional.gelu(x @ w.T + b)
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt() * scale + shift
        ((x - stack.targets[chosen[-1]]) ** 2).mean().backward()
        for leaf, g in zip(leaves, grads, strict=True):
            np.testing.assert_allclose(g, leaf.grad.numpy(), rtol=1e-3, atol=1e-6)
        params[0] -= 0.5 * grads[0]  # a step in NumPy, which the network sees
    assert addresses == [tensor.grad.data_ptr() for tensor in stack.model.parameters()]


@pytest.mark.parametrize("name", ["fastopt", "torch-shared"])
def test_steps_in_the_torch_loop_agree(name):
    pytest.importorskip("torch")
    workload = Workload("", "", RULES["adamw"], workloads.stack(16, 2), blocks=2)
    for mine, other in zip(answer("fastopt", workload), answer(name, workload), strict=True):
        np.testing.assert_allclose(other, mine, rtol=0, atol=1e-7)


def test_means_and_tails():
    """By hand: 0.1 and 0.9 alternate, 98 in a hundred are 1 and two are 6."""
    results = pytest.importorskip("bench.peers.results", reason=NOT_HERE)
    row = results.Row("a", turns=[results.Turn(0, {"step": [1.0] * 98 + [6.0] * 2, "iteration": [0.1, 0.9]})])
    other = results.Row("b", turns=[results.Turn(0, {"step": [0.5], "iteration": [1.0]})])
    assert (row.median(), row.mean(), row.percentile(99)) == (1.0, pytest.approx(1.1), 6.0)
    assert row.mean(results.ITERATION) == pytest.approx(0.5)
    assert results.ratio(row, other) == 2
    assert results.ratio(row, other, of=results.fmean) == pytest.approx(2.2)


def test_options_that_are_not_offered():
    with pytest.raises(contenders.UnavailableError, match="has no way to do clip_norm and zero"):
        answer("numba", Workload("", "", RULES["adam"], ((3,),), clip_norm=1.0, zero=True))


@pytest.mark.parametrize(("shares", "faster_enough"), [((1.0, 1.2, 1.01), True), ((0.9, 1.03, 1.1), False)])
def test_builds_are_compared_by_pairs_of_processes(shares, faster_enough):
    """A pair whose arrays lie badly does not decide, and no round is compared with one of another pair."""
    pytest.importorskip("rich")
    against = pytest.importorskip("bench.against", reason=NOT_HERE)
    from bench.peers.results import Race, Row, Turn, ratio

    def race(share, scale):
        ours, theirs = ([Turn(i, {"step": [time * scale]}) for i in range(3)] for time in (share, 1.0))
        rows = {"fastopt": Row("fastopt", turns=ours), "fastopt-another": Row("fastopt-another", turns=theirs)}
        return Race("adam-1M", "", "adam", 1, 1, 28, loop="", busy_cpus=0.0, rows=rows)

    races = [race(share, scale) for share, scale in zip(shares, (1.0, 5.0, 25.0), strict=True)]
    text, passed = against.verdict(races)
    assert passed == faster_enough
    assert text.startswith(f"{sorted(shares)[1]:.3f} times")
    rows = against.together(races).rows
    assert [turn.round for turn in rows["fastopt"].turns] == list(range(9))
    assert ratio(rows["fastopt"], rows["fastopt-another"]) == pytest.approx(sorted(shares)[1])
