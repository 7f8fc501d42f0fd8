"""Drawings that take the colours of the page, and the picture of the speed table.

An image that is an SVG is put into the page itself, where its colours are those of the theme, light or dark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LEFT, WIDTH, BAR, GAP = 92, 380, 15, 5
COLOURS = {
    "NumPy": "#8a8f98",
    "NumPy, out=": "#8a8f98",
    "Numba": "#2a9d6f",
    "torch foreach": "#e8762d",
    "torch fused": "#e8762d",
    "optax, jit": "#3f6fd8",
    "DeepSpeed": "#8250c8",
}


class InlineDrawings(SphinxTransform):
    """Put the text of drawings in the place of images of them."""

    default_priority = 450

    def apply(self, **kwargs: Any) -> None:
        """Change the tree."""
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].endswith(".svg"):
                relative, path = self.env.relfn2path(image["uri"], self.env.docname)
                self.env.note_dependency(relative)
                image.replace_self(drawing(Path(path).read_text(encoding="utf-8"), image.get("alt", "")))


def drawing(svg: str, alt: str) -> nodes.raw:
    """Return a node of a drawing, with the words that stand for it."""
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{alt}" ', svg[svg.index("<svg ") :], count=1)
    html = f'<div class="drawing">{svg}</div>'
    return nodes.raw("", html, format="html")


def rows(table: str) -> Iterator[list[str]]:
    """Return the cells of each line of a table of Markdown."""
    for line in table.splitlines():
        if line.startswith("|") and not re.match(r"\|[-|]+$", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


class SpeedPicture(SphinxDirective):
    """The workloads of README.md's table of speed that are named in the content, a chart for each."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the drawing."""
        relative, path = self.env.relfn2path("/../README.md")
        self.env.note_dependency(relative)
        section = Path(path).read_text(encoding="utf-8").partition("\n## Speed\n")[2].partition("\n## ")[0]
        (_, _, *others), *found = rows(section)
        times = {name: (own, dict(zip(others, values, strict=True))) for name, own, *values in found}
        charts = [chart(name, *times[name]) for name in self.content if name]
        words = "Time of a step, in multiples of the time that fastopt takes. The table is in README.md."
        return [
            nodes.raw("", f'<div class="charts" role="img" aria-label="{words}">{"".join(charts)}</div>', format="html")
        ]


def chart(name: str, own: str, others: dict[str, str]) -> str:
    """Return a chart: a bar for each library that has the workload, as long as the logarithm of its ratio."""
    ratios = {"fastopt": 1.0, **{other: float(text) for other, text in others.items() if text != "-"}}
    bars = []
    for i, (other, ratio) in enumerate(sorted(ratios.items(), key=lambda item: item[1])):
        y = 24 + i * (BAR + GAP)
        length = 3 + (WIDTH - LEFT - 75) * math.log(max(ratio, 1.0)) / math.log(170)
        label = own if other == "fastopt" else f"{ratio:g}\N{MULTIPLICATION SIGN}"
        fill = "var(--fastopt-accent)" if other == "fastopt" else COLOURS[other]
        bars.append(
            f'<text x="{LEFT - 6}" y="{y + BAR - 3}" text-anchor="end">{other}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR}" rx="2" fill="{fill}"/>'
            f'<text x="{LEFT + length + 5:.0f}" y="{y + BAR - 3}" class="value">{label}</text>'
        )
    height = 24 + len(ratios) * (BAR + GAP)
    head = f'<text x="{LEFT}" y="13" class="head">{name}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {height}">{head}{"".join(bars)}</svg>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform and the directive."""
    app.add_transform(InlineDrawings)
    app.add_directive("speed-picture", SpeedPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
