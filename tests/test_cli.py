"""The command line, and the network that the demo trains."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from fastopt.cli import COMMANDS, demo, main, networks

TINY = ("demo", "--rules", "adam,sgd", "--epochs", "1", "--hidden", "16,16")


def run(*arguments, cwd=None):
    """Run the command line as a user does, with its output in a pipe."""
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS")}
    command = [sys.executable, "-m", "fastopt", *arguments]
    return subprocess.run(command, cwd=cwd, env=plain, capture_output=True, text=True, check=False)


def refusal(capsys, *arguments):
    """Return the one line on stderr of a command line that is refused before anything is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(demo, "run")
        with pytest.raises(SystemExit) as exit:
            main(arguments)
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert not out
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], [*COMMANDS, "COMMAND --help"]),
        (
            ["demo"],
            [*demo.RULES, "--rules", "--epochs", "--hidden", "--threads", "--dtype", "--seed", "--out", "examples"],
        ),
        (["config"], ["threads"]),
    ],
)
def test_help(capsys, arguments, words):
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "--help"])
    out, err = capsys.readouterr()
    assert exit.value.code == 0
    assert not err
    assert all(word in out for word in words)


@pytest.mark.parametrize(
    ("option", "value", "required"),
    [
        ("--rules", "adam,adm", "from sgd, momentum"),
        ("--rules", "adam,adam", "each at most once"),
        ("--rules", "", "from sgd, momentum"),
        ("--epochs", "0", "a whole number from 1"),
        ("--epochs", "-3", "a whole number from 1"),
        ("--epochs", "1.5", "a whole number from 1"),
        ("--hidden", "a,b", "whole numbers from 1 to 8192"),
        ("--hidden", "16,0", "whole numbers from 1 to 8192"),
        ("--hidden", "16,,16", "whole numbers from 1 to 8192"),
        ("--hidden", "1,1,1,1,1,1,1,1,1", "1 to 8 whole numbers"),
        ("--threads", "0", "a whole number from 1"),
        ("--dtype", "float16", "float32"),
        ("--seed", "-1", "a whole number from 0"),
        ("--seed", "x\ny", "a whole number from 0"),
        ("--batch-size", "1501", "a whole number from 1 to 1500"),
        ("--out", "no/such/folder/demo.png", "No such file or directory"),
        ("--out", "demo.jpg", "a folder or a .png file"),
        ("--out", __file__ + "/demo.png", "Not a directory"),
        ("--out", "", "a folder or a .png file"),
    ],
)
def test_a_wrong_value(capsys, option, value, required):
    line = refusal(capsys, "demo", option, value)
    assert line.startswith(f"python -m fastopt demo: {option} ")
    assert required in line
    assert repr(value) in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND"),
        (("dmo",), "'dmo'"),
        (("demo", "--epoch", "3"), "unrecognized arguments: --epoch"),
        (("demo", "--epochs"), "--epochs expected one argument"),
        (("demo", "adam"), "unrecognized arguments: adam"),
        (("config", "adam"), "unrecognized arguments: adam"),
    ],
)
def test_a_wrong_command_line(capsys, arguments, words):
    assert words in refusal(capsys, *arguments)


@pytest.fixture
def saved(tmp_path):
    """A file with two optimizers, of which one has two groups, a schedule and stored state."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is ml_dtypes'")
    pytest.importorskip("safetensors", reason="files are safetensors")
    table = np.ones((100, 8), ml_dtypes.bfloat16)
    groups = [{"params": {"table": table}, "state_dtype": "8bit"}, {"params": {"[b]": np.ones(3)}, "lr": 0.5}]
    schedule = fastopt.schedules.cosine(0.125, 10)
    opt = fastopt.Combined([fastopt.AdamW(groups, lr=schedule), fastopt.SGD([np.ones(2)], momentum=0.5)])
    opt.step([[{"table": table.copy()}, {"[b]": np.ones(3)}], [np.ones(2)]])
    fastopt.save(tmp_path / "state", opt, parameters=True)
    return tmp_path / "state"


def test_inspect(saved):
    shown = run("inspect", str(saved))
    assert (shown.returncode, shown.stderr) == (0, "")
    for words in (
        "in the file",
        "0/AdamW, step 1: 2 parameters with 803 elements",
        "groups[0], 1 parameter: lr=cosine(init_value=0.125, decay_steps=10, end_value=0, exponent=1), state_dtype=",
        "groups[1], 1 parameter: lr=0.5, state_dtype=None",
        "1/SGD, step 1: 1 parameter with 2 elements, 32 bytes in the file",
        "momentum=0.5",
        "codes_nonnegative",
        "'[b]'",
    ):
        assert words in " ".join(shown.stdout.split()), words
    (checksum,) = (line.split()[1].rstrip(",") for line in shown.stdout.splitlines() if line.startswith("SHA-256"))
    assert checksum.encode() in saved.read_bytes()
    brief = run("inspect", str(saved), "--no-parameters").stdout
    assert "codes_nonnegative" not in brief
    assert brief.splitlines()[:4] == shown.stdout.splitlines()[:4]


def test_inspect_damaged_and_other_files(saved, tmp_path, capsys):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    (tmp_path / "other").write_text("other")
    for name, words in (("damaged", "got a damaged one"), ("other", "must be a whole file"), ("none", "No such file")):
        line = refusal(capsys, "inspect", str(tmp_path / name))
        assert line.startswith("python -m fastopt inspect: ")
        assert words in line
        assert name in line


def test_a_size_beyond_the_memory(capsys, monkeypatch):
    monkeypatch.setattr("fastopt.cli.bench.memory", lambda: 2**20)
    line = refusal(capsys, "bench", "--rules", "sgd,adam", "--size", "100000")
    assert line == (
        "python -m fastopt bench: --size must leave room for 4 arrays in the machine's 1 MiB of memory, "
        "got 100000, which takes 2\n"
    )


def test_the_check_of_the_picture_leaves_nothing(capsys, tmp_path):
    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    for file in (tmp_path / "new.png", old):
        refusal(capsys, "demo", "--out", str(file), "--epochs", "0")
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "rich"])
def test_a_missing_library(capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    line = refusal(capsys, "demo")
    assert missing in line
    assert "pip install 'fastopt[demo]'" in line


def test_config(capsys):
    assert main(["config"]) == 0
    assert fastopt.__version__ in capsys.readouterr().out


def test_an_interrupt(monkeypatch, tmp_path):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo", "--out", str(tmp_path)]) == 130


def test_a_small_run(tmp_path):
    done = run(*TINY, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert (tmp_path / "fastopt-demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "fastopt-demo.png"]
    table = done.stdout.partition("ms per step")[2]
    for name in ("adam", "sgd"):
        (cells,) = (line.split() for line in table.splitlines() if line.split()[:1] == [name])
        assert len(cells) == 7
        assert float(cells[5]) > 0
    assert "momentum" not in table


def test_the_seed_decides(capsys, tmp_path):
    def accuracies(seed):
        assert main([*TINY, "--seed", seed, "--threads", "1", "--out", str(tmp_path)]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if " lr " in line]

    first = accuracies("1")
    assert len(first) == 2
    assert accuracies("1") == first
    assert accuracies("2") != first


@pytest.mark.parametrize("name", demo.RULES)
def test_both_trainings_agree_in_float64(name):
    options = demo.parser().parse_args(["--dtype", "float64", "--hidden", "16", "--epochs", "1"])
    result = demo.race(demo.RULES[name], demo.load("float64", 0), options, lambda: None)
    assert result.difference < 1e-9
    assert result.accuracy == result.numpy_accuracy
    assert result.losses[-1] < result.losses[0]


def test_backprop():
    rng = np.random.default_rng(0)
    params = networks.network([64, 7, 5, 10], "float64", rng)
    x, y = rng.random((9, 64)), rng.integers(0, 10, 9)
    _, grads, _ = networks.backprop(params, x, y)
    for p, g in zip(params, grads, strict=True):
        direction = rng.standard_normal(p.shape)
        up, down = ([q + sign * 1e-6 * direction if q is p else q for q in params] for sign in (1, -1))
        slope = (networks.backprop(up, x, y)[0] - networks.backprop(down, x, y)[0]) / 2e-6
        np.testing.assert_allclose(slope, (g * direction).sum(), rtol=1e-6)


def test_the_gradient_of_the_valley():
    point = np.array([0.7, -0.4])
    for i in range(2):
        step = 1e-6 * np.eye(2)[i]
        slope = (demo.beale(*(point + step)) - demo.beale(*(point - step))) / 2e-6
        np.testing.assert_allclose(demo.beale_gradient(point)[i], slope, rtol=1e-7)
    np.testing.assert_allclose(demo.beale_gradient(np.array(demo.MINIMUM)), 0, atol=1e-12)


@pytest.mark.parametrize("name", demo.RULES)
def test_the_way_down_the_valley(name):
    path = demo.descend(demo.RULES[name])
    assert demo.beale(*path[-1]) < 1e-3 * demo.beale(*demo.START)
