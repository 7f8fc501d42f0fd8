"""Configuration of the documentation site: `make docs` builds it into build/docs."""

import ast
import importlib.util
import multiprocessing
import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

import fastopt  # noqa: E402

project = "fastopt"
author = "The fastopt developers"
copyright = author
release = version = fastopt.__version__

extensions = [
    "extensions.c_header",
    "extensions.equations",
    "extensions.mathml",
    "extensions.pictures",
    "extensions.rules",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["extensions"]

# ---- Python ----

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have them
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
toc_object_entries_show_parents = "hide"

# ---- Pages in Markdown ----

myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 4
html_math_renderer = "mathml"


def adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """List the pages that neither index.md nor guide.md names in the guide; let links to /SECURITY.md find its page."""
    source[0] = re.sub(r"\]\(\.\./([A-Z]+)\.md", lambda found: f"]({found[1].lower()}.md", source[0])
    if page == "guide":
        named = (DOCS / "index.md").read_text(encoding="utf-8") + source[0]
        others = (path.stem for path in sorted(DOCS.glob("*.md")))
        others = [
            name for name in others if name != "index" and not re.search(rf"^(.* <)?{name}>?$", named, re.MULTILINE)
        ]
        source[0] = source[0].replace("(other pages)", "\n".join(others))


# ---- Examples ----

EXAMPLES = ROOT / "build" / "examples"
SLOW = re.compile(r"^import argparse|^from argparse", re.MULTILINE)  # programs with options, which take longer


def write_examples() -> list[str]:
    """Copy the examples as pages of the gallery, and return the names of those that can run here.

    The first sentence of an example's docstring is its title.
    """
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "examples").glob("*.py"))
    for file in EXAMPLES.glob("*.py"):
        if file.name not in {path.name for path in sources}:
            file.unlink()
    header = (ROOT / "examples" / "README.md").read_text(encoding="utf-8").removeprefix("# ")
    title, text = header.split("\n\n")[:2]  # the table that follows is the gallery
    (EXAMPLES / "GALLERY_HEADER.rst").write_text(f"{title}\n{'=' * len(title)}\n\n{text}\n", encoding="utf-8")
    runnable = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        opening, _, rest = text.partition("\n")
        title = opening.strip('"').partition(": ``")[0].rstrip(".")
        (EXAMPLES / path.name).write_text(f'"""\n{title}\n{"=" * len(title)}\n{rest}', encoding="utf-8")
        if not SLOW.search(text) and all(importlib.util.find_spec(name) for name in imported(text)):
            runnable.append(path.name)
    return runnable


def imported(text: str) -> set[str]:
    """Return the names of the packages that a program imports at its top."""
    body = ast.parse(text).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


# Other processes cannot import a program that the gallery runs: they are forked from it.
multiprocessing.set_start_method("fork", force=True)

sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(map(re.escape, write_examples()))})$",  # others are shown and not run
    "ignore_pattern": r"^$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "copyfile_regex": "",
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1000,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib",),
}

# ---- HTML ----

html_theme = "pydata_sphinx_theme"
html_title = "fastopt"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}
html_css_files = ["fastopt.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navigation_depth": 2,
    "show_nav_level": 1,
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search",
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {
    page: [] for page in re.findall(r"^(?:.* <)?([\w-]+)>?$", (DOCS / "index.md").read_text(), re.MULTILINE)
}
html_sidebars |= {"index": [], "search": [], "guide": ["sidebar-nav-bs"]}
if "GITHUB_REPOSITORY" in os.environ:
    html_theme_options["github_url"] = f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"


def setup(app: Sphinx) -> None:
    """Register the change of pages; the guide is read anew in every build, since it lists other pages."""
    app.connect("env-get-outdated", lambda *ignored: ["guide"])
    app.connect("source-read", adapt)
