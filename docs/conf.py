"""The site: Sphinx with MyST reads these pages, `make docs` builds it in docs/_build/html."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
from docutils import nodes
from docutils.parsers.rst import Directive
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import nonlocalnet as nl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from notebooks import make_notebook  # noqa: E402

project = "nonlocalnet"
author = "the nonlocalnet authors"
version = release = nl.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "nonlocalnet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
highlight_language = "text"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "py:obj"  # `name` in a docstring is a link if the reference has the name
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_custom_sections = [("Source", "returns_style")]

# Pages outside of docs/ that the site has under another name.
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

# Last part of a name in the reference -> the name.
REFERENCE = {
    name.rpartition(".")[2]: name
    for page in (HERE / "reference").glob("*.md")
    for name in re.findall(r"^\.\. auto\w+:: (\S+)", page.read_text("utf-8"), re.MULTILINE)
}


class Help(Directive):
    """The help of commands of `nonlocalnet`, as they print it."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        from nonlocalnet.cli import main

        os.environ |= {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*self.arguments[0].split(), "--help"])
        return [nodes.literal_block(text=text.getvalue(), language="text")]


def math(self: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw themselves."""
    block = isinstance(node, nodes.math_block)
    text = convert(node.astext(), display="block" if block else "inline")
    self.body.append(f'<div class="math">{text}</div>' if block else text)
    raise nodes.SkipNode


def change_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave out notes to the tests, lead links to pages of the site, and offer notebooks."""
    source[0] = re.sub(r"^<!-- (test|needs): .* -->\n", "", source[0], flags=re.MULTILINE)
    for name, ours in OUTSIDE.items():
        source[0] = re.sub(rf"\]\((?:\.\./)+{name}", f"](/{ours}", source[0])
    if page.startswith("tutorials/") and page != "tutorials/index":
        notebook = HERE / "_build" / "notebooks" / f"{Path(page).name}.ipynb"
        notebook.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(make_notebook(HERE / f"{page}.md"), notebook)
        link = f"{{download}}`This page as a notebook </_build/notebooks/{notebook.name}>`"
        source[0] = re.sub(r"^(# .*)$", rf"\1\n\n{link}", source[0], count=1, flags=re.MULTILINE)


def change_docstring(
    app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Read docstrings as plain English, in which only names in backticks mean something."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|]|_(?=\W))", r"\\\1", words) for words in parts[::2]]
        parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", words) for words in parts[2::2]]  # `Block`s
        parts[1::2] = [link(code) for code in parts[1::2]]
        lines[i] = re.sub(r"\bdocs/(\w+)\.md", r":doc:`/\1`", "".join(parts))
        if line == "Returns:" and i + 1 < len(lines):  # a colon in the text is not that of a type
            lines[i], lines[i + 1] = "", ":returns: " + lines[i + 1].lstrip()


def link(code: str) -> str:
    """Lead a name in backticks to its place in the reference, if it has one."""
    name = code[1:-1]
    place = REFERENCE.get(name.rpartition(".")[2])
    ours = place and (
        place == f"nonlocalnet.{name.removeprefix('nl.')}" or place.endswith(f".{name}")
    )
    return f":py:obj:`{name} <{place}>`" if ours else code


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("help", Help)
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.connect("source-read", change_source)
    app.connect("autodoc-process-docstring", change_docstring, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
