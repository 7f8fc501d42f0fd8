"""Mathematics as MathML, which browsers set by themselves: no script, no fonts and nothing to download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils.nodes import SkipNode, math, math_block
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


def visit_math(self: HTML5Translator, node: math) -> None:
    """Write a formula within a line."""
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def visit_math_block(self: HTML5Translator, node: math_block) -> None:
    """Write a formula of its own, which scrolls where the page is narrower."""
    self.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
