"""A directive that shows the public C API from its header: the comments as text, the declarations as they are written.

``.. c-header:: ../csrc/include/fastopt.h`` describes every function, type and macro of the header in its order.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

IDENTIFIER = re.compile(r"(?<![\w`/.])((?:fastopt|FASTOPT)_\w+)(\(\))?")


COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
FUNCTION = re.compile(r"^(?!typedef|enum|#)\w[^;{}]*?\b(\w+)\([^;]*\);", re.MULTILINE)
FRAME = re.compile(r'#\s*(?:ifn?def|if|else|endif|include)\b.*|extern "C" \{|\}|#\s*define \w+_H')


@dataclass
class Block:
    """Declarations that stand together, without a blank line between them, and the comment above them."""

    comment: str
    code: str

    @property
    def plain(self) -> str:
        """The code without comments and without anything in braces: prototypes, and heads of types."""
        plain, before = COMMENT.sub("", self.code), ""
        while plain != before:
            before = plain
            plain = re.sub(r"(\)\s*)?\{[^{}]*\}", lambda found: ");" if found[1] else "", plain)
        return plain

    @property
    def functions(self) -> list[str]:
        """The prototypes of functions."""
        found = FUNCTION.finditer(self.plain)
        return [" ".join(one[0].rstrip(";").split()).removeprefix("static inline ") for one in found]

    @property
    def names(self) -> list[tuple[str, str]]:
        """The types and macros, each with its role in Sphinx's domain of C."""
        of_functions = re.findall(r"^typedef [^;(]*?(?:\(\*\s*)?(\w+)\)?\s*\(", self.plain, re.MULTILINE)
        types = re.findall(r"^typedef [^;()]*?(\w+)\s*;", self.plain, re.MULTILINE)
        macros = re.findall(r"^#\s*define (\w+)", self.plain, re.MULTILINE)
        return [*(("type", name) for name in (*of_functions, *types)), *(("macro", name) for name in macros)]


def blocks(header: str) -> Iterator[Block]:
    """Return the blocks of a header in their order, without the frame that every header has."""
    lines: list[str] = []
    for line in [*header.splitlines(), ""]:
        text = "\n".join(lines)
        code = COMMENT.sub("", text)
        is_inside = "/*" in code or code.count("{") > code.count("}")
        if is_inside or line.strip():
            if is_inside or not FRAME.fullmatch(line):
                lines.append(line)
        elif lines:
            comment = re.match(COMMENT.pattern + r"(?=\n|$)", text, re.DOTALL)
            end = comment.end() if comment else 0
            yield Block(text[:end], text[end:].strip())
            lines = []


def prose(comment: str) -> str:
    """Return a comment as reStructuredText: indented lines are code, and names of the API are references."""
    body = re.sub(r"^/\*+ ?|\s*\*+/$", "", comment)
    if heading := re.fullmatch(r"-+ (.*) -+", body):
        return f".. rubric:: {heading[1]}"
    lines = [re.sub(r"^ \* ?|^ {3}", "", line) for line in body.splitlines()]
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    text = []
    for block in blocks:
        inside = block.splitlines()
        if not inside:
            continue
        if re.match(r"[A-Z_]+  ", block):
            text.append(".. code-block:: text\n\n" + textwrap.indent(block, "   "))
        elif all(line.startswith("    ") for line in inside):
            text.append("::\n\n" + textwrap.indent(textwrap.dedent(block), "   "))
        else:
            text.append(IDENTIFIER.sub(reference, block.replace("*", r"\*").replace("|", r"\|")))
    return "\n\n".join(text)


def reference(found: re.Match[str]) -> str:
    """Return a reference to a name of the API."""
    role = "func" if found[2] else "type" if found[1].islower() else ""
    return f":c:{role}:`{found[1]}`" if role else f"``{found[1]}``"


class CHeader(SphinxDirective):
    """Describe the declarations of a header."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        lines: list[str] = []
        for block in blocks(Path(path).read_text(encoding="utf-8")):
            body = prose(block.comment)
            if block.plain.count(";") > len(block.functions) or block.names or "/*" in block.code:
                body += f"\n\n.. code-block:: c\n\n{textwrap.indent(block.code, '   ')}"
            heads = [f".. c:function:: {head}" for head in block.functions]
            heads += [f".. c:{role}:: {name}" for role, name in block.names]
            for head in heads[:-1]:
                lines += [head, "   :no-contents-entry:", ""]
            lines += [*heads[-1:], "", *textwrap.indent(body, "   " if heads else "").splitlines(), ""]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("c-header", CHeader)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
