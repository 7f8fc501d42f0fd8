"""The blocks of the pages in docs/ that are a guide, run one after another, and the session at the top of README.md."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import fastopt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDE, FORMATS, TORCH = DOCS / "training-step.md", DOCS / "formats.md", DOCS / "torch.md"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page():
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib to draw a schedule")
    matplotlib.use("agg")
    from matplotlib import pyplot

    names = {}
    for block in blocks(GUIDE):
        exec(compile(block, str(GUIDE), "exec"), names)
    yield names
    pyplot.close("all")


def test_the_guide_trains(page):
    params, target = page["params"], page["target"]
    loss = np.mean((params["embed.table"] @ params["head.w"] + params["head.bias"] - target) ** 2)
    assert loss < 2  # from about 9 at the start
    assert page["opt"].step_count == 101
    assert page["opt"].skipped_steps == 0
    assert page["scale"].good_steps == 101


def test_what_the_guide_says(page):
    assert (page["both"].step_count, page["both"].skipped_steps) == (1, 0)
    assert (page["shared"].value, page["actor"].groups[0]["params"][0][0]) == (4, 1 - 1e-3)
    assert page["opt"].groups[0]["weight_decay"] == 0
    assert page["small"].nbytes / page["weights"].size == 5.125
    assert [group["name"] for group in page["layered"].groups] == [f"layer {i}" for i in range(4)]
    assert len(page["ax"].lines) == 2
    assert page["saved"]["groups"][0]["lr"]["state"] == [page["plateau"].state_dict()]
    assert page["plateau"].best == 0.7
    assert page["grown"]._table.steps() == [0, 1]
    assert page["grown"].lr[0] == 0.1 > page["grown"].lr[1]
    assert (page["ema"] < 1).all()
    assert (page["ema"] < page["mean"]).all()  # it follows closely
    assert page["layers"].step_count == 1
    assert (page["lazy"].state[0]["last_step"] == 20).all()


def test_the_page_of_formats(monkeypatch, tmp_path):
    for module in ("ml_dtypes", "safetensors"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(FORMATS):
        exec(compile(block, str(FORMATS), "exec"), names)
    assert (names["opt16"].nbytes + names["w16"].nbytes) / names["w16"].size == 7.125
    for letter, values in names["opt"].state["w"].items():
        np.testing.assert_allclose(values, names["other"].state["w"][letter], rtol=2**-8)
    assert (fastopt.storage.values_of(names["halves"]["w"], names["continued"].state["w"]) == names["w"]).all()


def test_the_page_of_torch():
    for module in ("torch", "ml_dtypes"):
        pytest.importorskip(module)
    names = {}
    for block in blocks(TORCH):
        exec(compile(block, str(TORCH), "exec"), names)
    assert names["opt"].step_count == 10
    assert names["loss"] < names["y"].var()


def test_the_session_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"^```pycon\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(session, {}, "README.md", None, None)
    assert doctest.DocTestRunner().run(example) == (0, 5)
