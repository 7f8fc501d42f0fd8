"""Gradients of rows: the rows that are named take the step, the others stay; and the averages of such a table."""

import copy
import math

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from support import reference
from support.arrays import DTYPES
from support.asserts import assert_run_like, assert_same_bits, ids
from support.cases import BY_ROW, PLAIN, RULES, Oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("case", BY_ROW, ids=ids)
def test_rows(case, dtype, isas):
    """Touched rows take the step of their own, duplicates summed in order; the others stay to the bit."""
    rng = np.random.default_rng(1)
    table = rng.standard_normal((500, 130)).astype(dtype)
    oracle, steps = Oracle(case, table), []
    touched = np.zeros(len(table), bool)
    for _ in range(3):
        rows = rng.integers(0, 400, 300)
        values = rng.standard_normal((300, 130)).astype(dtype)
        if case.rule == "nadam":  # its carried product would count the rows' calls
            rows = np.arange(300)
        steps.append(fastopt.RowGrad(rows, values))
        unique = np.unique(rows)
        dense = np.zeros_like(table)
        np.add.at(dense, rows, values)
        kept = {letter: buffer.copy() for letter, buffer in oracle.buffers.items()} | {"p": oracle.p.copy()}
        oracle.step(dense)
        others = np.setdiff1d(np.arange(len(table)), unique)
        for letter, buffer in {**oracle.buffers, "p": oracle.p}.items():
            buffer[others] = kept[letter][others]
        touched[unique] = True
    assert (~touched).any()
    assert_same_bits(oracle.p[~touched], table[~touched])
    for _ in isas:
        assert_run_like(case, table, steps, oracle)


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


def test_rows_that_do_not_fit():
    good = fastopt.RowGrad([1], np.ones((1, 4), np.float32))
    for array in (np.ones((4, 10), np.float32).T, np.ones((10, 8), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="must be C-contiguous"):
            fastopt.Adam(array).step(good)
    with pytest.raises(TypeError, match="dtype"):
        fastopt.Adam(np.ones((10, 4))).step(fastopt.RowGrad([1], np.ones((1, 4), np.int64)))
    for case in (case for case in RULES if case not in BY_ROW):
        with pytest.raises(ValueError, match="this rule needs all of it"):
            case.make(np.ones((10, 4), np.float32)).step(good)
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


# ---- Averages ----


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
def test_bits_of_averages_of_rows(dtype, threads, isas):
    """Long rows, cut by blocks and by threads: each has the bits of the oracle's closed form."""
    for _ in isas:
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
        ({"ema_decay": schedules.ema_warmup(0.9)}, "averages of rows have no closed form with a"),
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
