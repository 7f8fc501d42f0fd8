"""The blocks of the pages in docs/ that are a guide, run one after another, and the session at the top of README.md."""

import doctest
import os
import re
from pathlib import Path

import numpy as np
import pytest

import fastopt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# The libraries that the blocks of each page need.
PAGES = {
    "training-step": ["ml_dtypes"],
    "schedules": ["matplotlib"],
    "formats": ["ml_dtypes", "safetensors"],
    "torch": ["ml_dtypes", "torch"],
    "rows": [],
    "checkpoints": ["safetensors"],
    "threads": [],
    "migrating": [],
}


def names_of(page, folder):
    """The names that the blocks of a page leave, run one after another in a folder."""
    for module in PAGES[page]:
        pytest.importorskip(module, reason=f"docs/{page}.md needs {module}")
    if "matplotlib" in PAGES[page]:
        import matplotlib

        matplotlib.use("agg")
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    names = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(block, f"docs/{page}.md", "exec"), names)
    finally:
        os.chdir(before)
    return names


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return names_of("training-step", tmp_path_factory.mktemp("page"))


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
    assert page["grown"]._table.steps() == [0, 1]
    assert page["grown"].lr[0] == 0.1 > page["grown"].lr[1]
    assert (page["ema"] < 1).all()
    assert (page["ema"] < page["mean"]).all()  # it follows closely
    assert page["layers"].step_count == 1


def test_the_page_of_schedules(tmp_path):
    from fastopt import schedules

    names = names_of("schedules", tmp_path)
    assert (names["rate"](0), names["rate"](500), names["rate"](10_500)) == (0.0, 3e-4, 0.0)
    assert len(names["ax"].lines) == 2
    assert names["saved"]["groups"][0]["lr"]["state"] == [names["plateau"].state_dict()]
    assert names["plateau"].best == 0.7
    page = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert not [name for name in schedules.__all__ if f"`{name}`" not in page and name != "plot"]


def test_the_page_of_rows(tmp_path):
    assert (names_of("rows", tmp_path)["lazy"].state[0]["last_step"] == 20).all()


def test_the_page_of_checkpoints(tmp_path):
    names = names_of("checkpoints", tmp_path)
    assert names["loaded"].missing == ("b",)
    assert names["other"].lr == 1e-4
    assert names["opt"].step_count == 10


def test_the_page_of_threads(tmp_path):
    names_of("threads", tmp_path)


def test_the_page_of_other_libraries(tmp_path):
    assert isinstance(names_of("migrating", tmp_path)["opt"], fastopt.SGD)


def test_the_page_of_formats(tmp_path):
    names = names_of("formats", tmp_path)
    assert (names["opt16"].nbytes + names["w16"].nbytes) / names["w16"].size == 7.125
    for letter, values in names["opt"].state["w"].items():
        np.testing.assert_allclose(values, names["other"].state["w"][letter], rtol=2**-8)
    assert (fastopt.storage.values_of(names["halves"]["w"], names["continued"].state["w"]) == names["w"]).all()


def test_the_page_of_torch(tmp_path):
    names = names_of("torch", tmp_path)
    assert names["opt"].step_count == 10
    assert names["loss"] < names["y"].var()


def test_the_session_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"^```pycon\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(session, {}, "README.md", None, None)
    assert doctest.DocTestRunner().run(example) == (0, 5)
