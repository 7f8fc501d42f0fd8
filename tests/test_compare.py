"""The comparison of the rules: its tasks, its sweep, and what it writes."""

import csv
import json
import math
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.cli import main
from fastopt.cli.compare import report, sweep
from fastopt.cli.compare.tasks import TASKS, Batch, Text, Words, embedding_gradient, task

SMALL = (
    "--tasks",
    "diabetes,words-rows",
    "--rules",
    "momentum,adam",
    "--rates",
    "1e-5,1e-2",
    "--seeds",
    "2",
    "--quick",
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Matrix products this small are far slower on several threads, where these are busy elsewhere."""
    with threadpool_limits(1):
        yield


def refusal(capsys, *arguments):
    """Return the one line on stderr of a command line that is refused before anything is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(sweep, "train")
        with pytest.raises(SystemExit) as exit:
            main(["compare", *arguments])
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert not out
    assert len(err.splitlines()) == 1
    return err


def dense(gradient, like):
    """Return a gradient as an array."""
    if not isinstance(gradient, fastopt.RowGrad):
        return gradient
    array = np.zeros_like(like)
    np.add.at(array, gradient.rows, gradient.values)
    return array


# ---- Tasks ----


@pytest.mark.parametrize("name", TASKS)
def test_the_gradients(name):
    """Against differences of the loss, in float64, along random directions."""
    chosen, rng = task(name), np.random.default_rng(0)
    params = {key: p.astype(np.float64) for key, p in chosen.start(rng).items()}
    batch = next(chosen.batches(1, rng))
    if batch.x.dtype == np.float32:
        batch = Batch(batch.x.astype(np.float64), batch.y)
    loss, grads = chosen.gradient(params, batch)
    assert loss == pytest.approx(chosen.loss(params, batch), rel=1e-12)
    assert list(grads) == list(params)
    for key, p in params.items():
        direction = rng.standard_normal(p.shape)
        up, down = (chosen.loss({**params, key: p + sign * 1e-6 * direction}, batch) for sign in (1, -1))
        np.testing.assert_allclose((up - down) / 2e-6, (dense(grads[key], p) * direction).sum(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_a_task(name):
    chosen = task(name)
    params = chosen.start(np.random.default_rng(1))
    again, other = (chosen.start(np.random.default_rng(seed)) for seed in (1, 2))
    assert all(np.array_equal(p, again[key]) for key, p in params.items())
    assert any(not np.array_equal(p, other[key]) for key, p in params.items())
    batches = [list(chosen.batches(3, np.random.default_rng(5))) for _ in range(2)]
    for batch, same in zip(*batches, strict=True):
        assert np.array_equal(batch.x, same.x)
        assert np.array_equal(batch.y, same.y)
        assert len(batch.x) == len(batch.y) == (chosen.batch_size or len(chosen.train.y))
    assert chosen.least < chosen.loss(params, chosen.train)
    assert len(chosen.held_out.y) > 50


@pytest.mark.parametrize("name", ["diabetes", "cancer"])
def test_nothing_is_below_the_least_loss(name):
    """The gradient at the minimum is 0, and a step to any side of it goes up."""
    chosen, rng = task(name), np.random.default_rng(0)
    w = chosen.newton() if name == "cancer" else np.linalg.lstsq(*chosen.train, rcond=None)[0]
    np.testing.assert_allclose(chosen.gradient({"w": w}, chosen.train)[1]["w"], 0, atol=1e-9)
    assert chosen.loss({"w": w}, chosen.train) == chosen.least
    for _ in range(20):
        assert chosen.loss({"w": w + 0.01 * rng.standard_normal(w.shape)}, chosen.train) > chosen.least


def test_an_epoch_has_everything_once():
    chosen = task("cancer")
    size = len(chosen.train.y) // chosen.batch_size
    rows = np.concatenate([batch.x for batch in chosen.batches(size, np.random.default_rng(0))])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_texts():
    text, words = task("text"), task("words")
    assert len(text.places.y) > 50_000
    assert text.places.x.max() == text.places.y.max() == text.symbols - 1
    # The next character is the first one of what follows.
    assert np.array_equal(text.places.y[:-1], text.places.x[1:, -1])
    assert words.train.x.max() == words.vocabulary - 1
    assert set(words.train.y) == set(range(words.topics))
    touched = [len(np.unique(batch.x)) for batch in words.batches(20, np.random.default_rng(0))]
    assert max(touched) < 0.1 * words.vocabulary


@pytest.mark.parametrize("task_class", [Words, Text])
def test_rows_and_zeros_are_one_gradient(task_class):
    rng = np.random.default_rng(0)
    rows, values = rng.integers(0, 9, 30), rng.standard_normal((30, 4))
    table = np.zeros((9, 4))
    np.testing.assert_array_equal(
        dense(embedding_gradient(table, rows, values, sparse=True), table),
        embedding_gradient(table, rows, values, sparse=False),
    )


# ---- Rules and trainings ----


def test_the_rules_are_those_of_the_package(monkeypatch):
    class Fresh(fastopt.SGD):
        pass

    class Pair(fastopt.SGD):
        def __init__(self, params, partner, lr=0.1):
            super().__init__(params, lr)

    monkeypatch.setattr(fastopt, "Fresh", Fresh, raising=False)
    monkeypatch.setattr(fastopt, "Pair", Pair, raising=False)
    monkeypatch.setattr(fastopt, "__all__", [*fastopt.__all__, "Fresh", "Pair"])
    found = sweep.find_rules.__wrapped__()
    assert {"sgd", "momentum", "nesterov", "adam", "amsgrad", "signum", "fresh"} <= set(found)
    assert "pair" not in found  # needs more than parameters
    assert found["muon"].matrices_only
    assert not found["adam"].matrices_only
    assert not {"optimizer", "rowgrad"} & set(found)
    assert found["signum"].default == 1e-3
    for rule in found.values():
        params = {"W1": np.zeros((2, 2)), "b1": np.zeros(2), "W2": np.zeros((2, 2))}
        opt = rule.make(params, 0.1)
        for _ in range(10):  # not every rule moves on its first step
            opt.step({key: np.ones_like(p) for key, p in params.items()})
        assert all((p < 0).all() for p in params.values())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("rule", "rate"), [("sgd", 1e-5), ("adam", 1e-2)])
def test_a_training_learns_and_repeats(name, rule, rate):
    if rule == "sgd" and name != "diabetes":
        rate = 0.1
    job = sweep.Job(name, rule, "constant", rate, seed=3, steps=40, points=4)
    run = sweep.train(job)
    assert len(run.curve) == 5
    assert run.loss < run.curve[0]
    assert math.isfinite(run.held_out)
    assert sweep.train(job) == run
    assert sweep.train(sweep.Job(name, rule, "constant", rate, seed=4, steps=40, points=4)) != run


def test_rules_for_matrices_train_hidden_layers():
    rule = sweep.find_rules()["muon"]
    assert [name for name in TASKS if rule.suits(name)] == ["digits", "text"]
    params = task("text").start(np.random.default_rng(0))
    opt = rule.make(params, 0.02)
    assert [list(optimizer.state) for optimizer in opt.optimizers] == [["W1"], ["embedding", "b1", "W2", "b2"]]
    run = sweep.train(sweep.Job("digits", "muon", "constant", 0.02, seed=3, steps=40, points=4))
    assert run.loss < run.curve[0] / 2


def test_options_reach_the_training():
    def train(*options):
        return sweep.train(sweep.Job("cancer", "adamw", "constant", 0.01, seed=0, steps=5, options=options))

    assert train() == train(("weight_decay", 0.01))  # the default
    assert train() != train(("weight_decay", 5.0))


def test_a_training_that_diverges():
    run = sweep.train(sweep.Job("diabetes", "sgd", "constant", 10.0, seed=0, steps=100, points=10))
    assert math.isfinite(run.curve[0])
    assert len(run.curve) == 11
    assert run.loss == run.held_out == math.inf


def test_a_schedule_sets_the_rate(monkeypatch):
    """At a rate of 0 from the third step on, the parameters stay."""
    rates = []

    def two_steps(lr, steps):
        rates.append((lr, steps))
        return lambda t: lr if t < 2 else 0.0

    monkeypatch.setitem(sweep.SCHEDULES, "two_steps", two_steps)
    run = sweep.train(sweep.Job("cancer", "adam", "two_steps", 0.01, seed=0, steps=5, points=5))
    assert rates == [(0.01, 5)]
    assert run.curve[0] > run.curve[1] > run.curve[2] == run.curve[3] == run.curve[5]


def test_rules_with_an_average_are_measured_at_it(monkeypatch):
    class Averaged(fastopt.SGD):
        averages = ("mean",)

        @contextmanager
        def swapped(self, average):
            inside.append(average)
            yield
            inside.append(None)

    inside = []
    monkeypatch.setattr(fastopt, "SGD", Averaged)
    sweep.train(sweep.Job("cancer", "sgd", "constant", 0.1, seed=0, steps=4, points=2))
    assert inside == ["mean", None] * 3


def test_rules_that_need_all_of_a_gradient_take_no_rows(monkeypatch):
    class Whole(fastopt.SGD):
        def step(self, grads=None, **options):
            if isinstance(grads, fastopt.RowGrad):
                raise ValueError("this rule needs all of it")
            super().step(grads, **options)

    assert sweep.Rule("SGD").takes_rows()
    monkeypatch.setattr(fastopt, "SGD", Whole)
    assert not sweep.Rule("SGD").takes_rows()


# ---- The command ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder and the output of a small run, whose page has been rewritten."""
    folder = tmp_path_factory.mktemp("compare")
    page = folder / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("rich.console.Console.print", lambda self, *objects, **_: lines.extend(objects))
        assert main(["compare", *SMALL, "--out", str(folder / "out"), "--page", str(page)]) == 0
    return folder, lines


def test_the_files(small):
    folder, _ = small
    files = {file.name for file in (folder / "out").iterdir()}
    assert files == {"compare.csv", "compare.json", "compare-rates.png", "compare-curves.png"}
    for picture in (folder / "out").glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    content = json.loads((folder / "out" / "compare.json").read_text())
    assert content["settings"] == {"rates": [1e-5, 1e-2], "seeds": 2, "shorter": 5, "options": {}}
    assert len(content["results"]) == 4
    for result in content["results"]:
        assert result["best"]["rate"] in (1e-5, 1e-2)
        assert result["steps"] == task(result["task"]).steps // 5
        assert len(result["best"]["runs"]) == len(result["default"]["runs"]) == 2
        assert [len(run["curve"]) for run in result["best"]["runs"]] == [41, 41]
    momentum = next(r for r in content["results"] if (r["task"], r["rule"]) == ("diabetes", "momentum"))
    assert momentum["sweep"]["losses"][1] is None  # diverged
    assert momentum["best"]["rate"] == 1e-5


def test_the_numbers_in_the_table(small):
    """Those of the trainings themselves, made again here."""
    folder, lines = small
    with (folder / "out" / "compare.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["task"], row["rule"]) for row in table[:2]] == [("diabetes", "adam"), ("diabetes", "momentum")]
    adam = table[0]
    runs = [sweep.train(sweep.Job("diabetes", "adam", "constant", 0.01, seed, 100)) for seed in (2, 3)]
    losses = [run.loss - task("diabetes").least for run in runs]
    assert float(adam["loss"]) == pytest.approx(np.mean(losses), rel=1e-9)
    assert float(adam["spread"]) == pytest.approx(np.std(losses, ddof=1), rel=1e-6)
    assert float(adam["held_out"]) == pytest.approx(np.mean([run.held_out for run in runs]), rel=1e-9)
    assert float(table[1]["default_loss"]) == math.inf

    tables = [line for line in lines if hasattr(line, "columns")]
    assert [len(printed.rows) for printed in tables] == [2, 2]
    cells = [list(column.cells) for column in tables[0].columns]
    assert cells[0] == ["adam", "momentum"]
    assert cells[2][0].startswith(f"{float(adam['loss']):#.3g}")
    assert cells[1] == ["0.01*", "1e-05*"]
    assert cells[4][1] == "diverged (0.001)"


def test_the_page(small):
    folder, _ = small
    text = (folder / "page.md").read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    lines = text.splitlines()
    assert sum(line.startswith("| adam |") for line in lines) == 2  # at the best rate and at the default
    best = next(line for line in lines if line.startswith("| adam |"))
    assert best.count("**") == 4  # the best on both tasks
    assert " at 0.01" in best


def test_decades_and_steps():
    def run(*curve):
        return sweep.Run(list(curve), 0.0)

    name = "digits"  # whose least loss is not known, so that losses are as they are
    good = sweep.Result(100, 2.0, {0.01: 1.0, 0.1: 0.1, 1.0: 0.25}, 0.1, [run(2.0, 0.2, 0.1)], 0.01, [run(2.0, 1.0)])
    poor = sweep.Result(100, 2.0, {0.01: 1.0, 0.1: 0.9, 1.0: math.inf}, 0.1, [run(2.0, 1.5, 0.9)], 0.01, [run(2.0, 1)])
    first, second = report.rows({(name, "constant", "poor"): poor, (name, "constant", "good"): good})
    assert (first.rule, second.rule) == ("good", "poor")
    assert first.decades == pytest.approx(2.0)  # 0.1 and 1.0, each a decade wide
    assert first.steps == 50
    assert second.decades == 0
    assert second.steps is None
    assert not first.at_end


def test_the_numbers_do_not_depend_on_processes():
    rules = {"adam": sweep.find_rules()["adam"]}
    one, two = (sweep.compare(["cancer"], rules, ["constant"], [0.01, 0.1], 2, shorter=20, processes=n) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    ("option", "value", "required"),
    [
        ("--rules", "adam,adm", "from sgd, momentum"),
        ("--rules", "adam,adam", "each at most once"),
        ("--tasks", "digit", "from digits, diabetes"),
        ("--schedules", "never", "from constant, linear"),
        ("--seeds", "0", "a whole number from 1"),
        ("--rates", "0.1,x", "numbers above 0"),
        ("--rates", "0", "numbers above 0"),
        ("--rates", "nan", "numbers above 0"),
        ("--rates", "0.1,0.1", "each at most once"),
        ("--options", "weight_decay", "options as in Python"),
        ("--options", "weight_decay=[0.1]", "options as in Python"),
        ("--options", "weight_decay=lr", "options as in Python"),
        ("--processes", "0", "a whole number from 1"),
        ("--out", "no/such/folder", "a folder to write to"),
        ("--out", __file__, "a folder to write to"),
        ("--out", "", "a folder to write to"),
        ("--page", "no-such-page.md", "a Markdown page"),
        ("--page", __file__, "must have the lines"),
    ],
)
def test_a_wrong_value(capsys, option, value, required):
    line = refusal(capsys, option, value)
    assert line.startswith(f"python -m fastopt compare: {option} ")
    assert required in line
    assert repr(value) in line


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "rich"])
def test_a_missing_library(capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    line = refusal(capsys)
    assert missing in line
    assert "pip install 'fastopt[demo]'" in line


@pytest.mark.parametrize("option", ["weight_decay=-1", "lr=0.1", "decay=1"])
def test_an_option_that_a_rule_does_not_take(capsys, option):
    line = refusal(capsys, "--rules", "adamw", "--options", option)
    assert line.startswith(
        "python -m fastopt compare: --options must be options of every rule that is compared; adamw: "
    )


def test_a_task_that_no_rule_can_train(capsys):
    line = refusal(capsys, "--rules", "muon", "--tasks", "words")
    assert line.startswith("python -m fastopt compare: --tasks must have a task that one of the rules can train")
