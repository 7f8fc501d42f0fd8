"""The documentation site: equations of docstrings as formulas, and the C API from its header."""

import inspect
import re
import sys
from pathlib import Path

import pytest

import fastopt
from support.registry import CLASSES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
pytest.importorskip("sphinx", reason="needs the packages of the extra docs")


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "extensions"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("m = beta1 * m + (1 - beta1) * g", r"m & \leftarrow \beta_{1}\, m + (1 - \beta_{1})\, g & "),
        ("m_hat = m / (1 - beta1^t)", r"\hat{m} & = \frac{m}{1 - \beta_{1}^{t}} & "),
        ("p = p - lr * |p| / |u| * u", r"p & \leftarrow p - \frac{\text{lr}\, \left|p\right|}{\left|u\right|}\, u & "),
        ("s = d / a / b", r"s & = \frac{d}{a\, b} & "),
        ("e = -a^2 * (b + c / d)", r"e & = -a^{2}\, \left(b + \frac{c}{d}\right) & "),
        ("x = lr * size", r"x & = \text{lr} \cdot \text{size} & "),
        ("a = mean of g^2 over each row", r"a & = \text{ mean of }\, g^{2}\, \text{ over each row } & "),
        (
            "p = 0      where |z| <= lambda1, else",
            r"p & = 0 & \text{ where }\left|z\right| \le \lambda_{1}\text{,}\text{ else }",
        ),
        ("b = momentum      momentum > 0", r"b & = \text{momentum} & \text{momentum} > 0"),
        ("r = <g, p0 - p>", r"r & = \langle g,\; p_{0} - p \rangle & "),
        ("q = mu_(t+1) / etas[1]", r"q & = \frac{\mu_{t + 1}}{\text{etas}_{1}} & "),
    ],
)
def test_equations(text, tex):
    from extensions.equations import to_tex

    assert to_tex(text) == f"\\begin{{aligned}}{tex}\\end{{aligned}}"


@pytest.mark.parametrize(
    "text",
    ['with opt.swapped("x"):', "opt.step(grads)", "lr = schedules.cosine(0.1, 10)", "a = b +", "a = (b", "x = y ) z"],
)
def test_code_is_no_equation(text):
    from extensions.equations import NoEquationError, to_tex

    with pytest.raises(NoEquationError):
        to_tex(text)


@pytest.mark.parametrize("name", CLASSES)
def test_every_rule_has_equations(name):
    from docutils.utils.math.latex2mathml import tex2mathml
    from extensions.equations import to_tex

    before = inspect.getdoc(getattr(fastopt, name)).partition("\nParameters\n")[0]
    blocks = re.findall(r"::\n\n((?:(?:    .*)?\n)+)", before)
    assert blocks
    assert "<math" in tex2mathml(to_tex(inspect.cleandoc(f"\n{blocks[0]}")), as_block=True)


def test_the_header_is_whole():
    from extensions.c_header import blocks

    header = (ROOT / "csrc" / "include" / "fastopt.h").read_text(encoding="utf-8")
    found = list(blocks(header))
    functions = " ".join(function for block in found for function in block.functions)
    types = [name for block in found for role, name in block.names if role == "type"]
    assert "fastopt_status fastopt_step(" in functions
    assert "fastopt_isa(void)" in functions
    assert {"fastopt_tensor", "fastopt_rule", "fastopt_dtype", "fastopt_status"} <= set(types)
    assert len(set(types)) == len(types) == len(re.findall(r"^typedef ", header, re.MULTILINE))
    names = set(re.findall(r"\b(fastopt_\w+)\(", re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", header, flags=re.DOTALL)))
    assert names - set(re.findall(r"\b(fastopt_\w+)\(", functions)) - set(types) == set()
