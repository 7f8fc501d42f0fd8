"""Pages of the reference that follow from the catalogue of rules, and directives for their tables.

A page for each rule is written when the site is built, so that no list of rules is kept here.
"""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from docutils import nodes
from numpydoc.docscrape import NumpyDocString
from sphinx.util.docutils import SphinxDirective

import fastopt
from fastopt import _core, schedules
from fastopt.catalogue import classes, variants

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GENERATED = "generated"
SHARED = fastopt.Optimizer._declaration.arguments

PAGE = """\
{name}
{underline}

.. autoclass:: fastopt.{name}

.. rubric:: Hyperparameters

.. hyperparameters:: {name}

.. rubric:: Properties

.. properties:: {name}

.. dropdown:: The rule in plain NumPy

   ``fastopt.optimizers.plain("{name}")`` is this function. A test compares its steps with those of the class.

   .. literalinclude:: {numpy}
      :pyobject: {function}
{loops}"""

LOOP = """
.. dropdown:: The loop in C: csrc/rules/{file}

   .. literalinclude:: {path}
      :language: c
"""


def loops(name: str, root: Path) -> list[Path]:
    """Return the files of the rows that a class runs."""
    rows = {rule.row for rule in variants(name).values()}
    included = re.findall(r'#include "(\w+\.h)"', (root / "csrc/rules/rules.def").read_text(encoding="utf-8"))
    files = [root / "csrc/rules" / file for file in included]
    return [file for file in files if any(f"FN({row})" in file.read_text(encoding="utf-8") for row in rows)]


def pages(root: Path) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each page."""
    for name in classes():
        texts = [LOOP.format(file=file.name, path=f"/../csrc/rules/{file.name}") for file in loops(name, root)]
        numpy = f"/../fastopt/optimizers/{name.lower()}.py"
        line = "=" * len(name)
        yield name, PAGE.format(name=name, underline=line, function=name.lower(), numpy=numpy, loops="".join(texts))


def write_pages(app: Sphinx) -> None:
    """Write the pages that have changed, and remove those of rules that are gone."""
    folder = Path(app.srcdir) / "api" / GENERATED
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{name.lower()}.rst": text for name, text in pages(Path(app.srcdir).parent)}
    for file in set(folder.iterdir()) - {folder / name for name in texts}:
        file.unlink()
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def own(name: str) -> list[str]:
    """Return the hyperparameters that a class declares itself, and its decay where that is not L2."""
    declaration = classes()[name]._declaration
    decays = {"weight_decay"} if declaration.decay_form != "l2" else set()
    found = [key for key, one in declaration.arguments.items() if one is not SHARED.get(key) or key in decays]
    return [key for key in found if key in declaration.hyper]


def signature(app: Sphinx, what: str, name: str, documented: Any, *ignored: Any) -> tuple[str, str] | None:
    """Return the signature of a rule without the options that all rules share, or of the class that has these."""
    if documented is fastopt.Optimizer:
        arguments = [(key, SHARED[key]) for key in SHARED if SHARED[key].init]
    elif documented in classes().values():
        decay = {"weight_decay"} if documented._declaration.decay_form != "l2" else set()
        declared = documented._declaration.arguments.items()
        arguments = [(key, one) for key, one in declared if one is not SHARED.get(key) or key in {"params", *decay}]
    else:
        return None
    kinds = {True: inspect.Parameter.KEYWORD_ONLY, False: inspect.Parameter.POSITIONAL_OR_KEYWORD}
    parameters = [inspect.Parameter(key, kinds[one.kw_only], default=one.default) for key, one in arguments]
    if documented is not fastopt.Optimizer:
        parameters.append(inspect.Parameter("shared", inspect.Parameter.VAR_KEYWORD))
    return str(inspect.Signature(parameters)), ""


def documented_types(name: str) -> dict[str, str]:
    """Return the type and range of each parameter, which tests compare with the declarations."""
    doc = NumpyDocString(inspect.getdoc(classes()[name]) or "")
    return {key: one.type.rpartition(", default")[0] for one in doc["Parameters"] for key in one.name.split(", ")}


class Table(SphinxDirective):
    """A table that is computed."""

    header: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return the cells, in reStructuredText."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [".. list-table::", "   :class: fits"]
        lines += [f"   :header-rows: {int(bool(self.header))}", ""]
        for row in [*([self.header] if self.header else []), *self.rows()]:
            lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
        return self.parse_text_to_nodes("\n".join(lines) + "\n")


class Hyperparameters(Table):
    """The hyperparameters of a class, as it declares them."""

    required_arguments = 1
    header = ("Name", "Default", "Range", "May be a schedule", "Fixed")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each."""
        (name,) = self.arguments
        declared, types = classes()[name]._declaration.hyper, documented_types(name)
        fixed = {"": "no", "layout": "always", "start": "always", "steps": "after the first step"}
        for key in own(name):
            one = declared[key]
            default = f"``{one.default!r}``"
            yield (
                f"``{key}``",
                default,
                types[key],
                "yes" if one.scheduled and not one.fixed else "no",
                fixed[one.fixed],
            )


class Properties(Table):
    """The properties of the rules that a class runs."""

    required_arguments = 1

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each."""
        yield from properties(self.arguments[0]).items()


def properties(name: str) -> dict[str, str]:
    """Return the properties of a class by their names."""
    declaration = classes()[name]._declaration
    first, *others = variants(name).values()
    state = ", ".join(f"``{letter}``" for letter in first.state) or "none"
    more = {letter for rule in others for letter in rule.state} - set(first.state)
    return {
        "State": state
        + (f"; with options also {', '.join(f'``{letter}``' for letter in sorted(more))}" if more else ""),
        "Default form of weight decay": f'``"{declaration.decay_form}"``',
        "Gradients of rows": "yes" if takes_rows(name) else "no",
        "Rows catch up": "yes, with ``catch_up=True``" if _core.Settings(first.row).catch_up is not None else "no",
    }


def takes_rows(name: str) -> bool:
    """Return whether a class steps with a `RowGrad`."""
    optimizer = classes()[name](np.ones((2, 2)))
    try:
        optimizer.step(fastopt.RowGrad([0], np.ones((1, 2))))
    except (TypeError, ValueError):
        return False
    return True


class Rules(Table):
    """All rules, a row for each."""

    header = ("Rule", "State", "Hyperparameters and defaults", "Paper")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each class."""
        for name, cls in sorted(classes().items(), key=lambda item: item[0].lower()):
            declared = cls._declaration.hyper
            hyper = ", ".join(f"``{key}={declared[key].default!r}``" for key in own(name))
            links = re.findall(r"https://\S+?(?=[.,;)]*(?:\s|$))", inspect.getdoc(cls) or "")
            paper = f"`{shown(links[0])} <{links[0]}>`__" if links else ""
            yield f"`~fastopt.{name}`", properties(name)["State"].partition(";")[0], hyper, paper


def shown(link: str) -> str:
    """Return the text of a link to a paper."""
    return link.removeprefix("https://").replace("arxiv.org/abs/", "arXiv ").partition("/")[0]


class Schedules(Table):
    """All schedules, a row for each."""

    header = ("Schedule", "Values")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each name of the module."""
        for name in schedules.__all__:
            summary = NumpyDocString(inspect.getdoc(getattr(schedules, name)) or "")["Summary"]
            yield f"`~fastopt.schedules.{name}`", " ".join(summary)


class TorchClasses(Table):
    """The classes for torch, a row for each."""

    header = ("Class", "State, by torch's names")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each."""
        for name, cls in sorted(classes().items(), key=lambda item: item[0].lower()):
            letters = {letter: None for rule in variants(name).values() for letter in rule.state}
            state = ", ".join(f"``{cls._torch_names.get(letter, letter)}``" for letter in letters)
            yield f"``fastopt.torch.``\\ `~fastopt.{name}`", state or "none"


class Kernels(Table):
    """The functions of `fastopt.kernels`, a row for each."""

    header = ("Function", "Buffers after p and g", "Hyperparameters")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Return a row for each."""
        for name, state, hyper, carried in _core.rules():
            names = [", ".join(f"``{one}``" for one in several) for several in ((*state, *carried), hyper)]
            yield f"``{name}``", *names


class Described(SphinxDirective):
    """Descriptions of public names."""

    def names(self) -> Iterator[str]:
        """Return the names."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        lines = []
        for name in self.names():
            value = pydoc.locate(name)
            kind = "module" if inspect.ismodule(value) else "class" if inspect.isclass(value) else "function"
            lines += [f".. auto{kind}:: {name}", *(["   :members:"] if kind != "function" else []), ""]
        return self.parse_text_to_nodes("\n".join(lines))


class EverySchedule(Described):
    """The schedules."""

    def names(self) -> Iterator[str]:
        """Return the names."""
        yield from (f"fastopt.schedules.{name}" for name in schedules.__all__)


class OtherNames(Described):
    """The public names of fastopt that no page of the reference has in its text."""

    def names(self) -> Iterator[str]:
        """Return the names."""
        folder = Path(self.env.srcdir) / "api"
        written = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.rst"))
        for name in fastopt.__all__:
            is_written = re.search(rf":: fastopt\.{name}(\.\w+)*$", written, re.MULTILINE)
            if not is_written and name not in classes():
                yield f"fastopt.{name}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the pages and directives."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", signature)
    for name, directive in {
        "every-schedule": EverySchedule,
        "kernels": Kernels,
        "other-names": OtherNames,
        "hyperparameters": Hyperparameters,
        "properties": Properties,
        "rules": Rules,
        "schedules": Schedules,
        "torch-classes": TorchClasses,
    }.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
