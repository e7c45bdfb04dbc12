"""Sphinx configuration: Markdown by MyST; warnings are errors in CI."""

import re

from mer import __version__

project = "mer"
author = "the mer developers"
copyright = "the mer developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"mer {__version__}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
exclude_patterns = ["_build", "tools"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
suppress_warnings = ["misc.highlighting_failure"]


def docstring_as_rst(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """Docstrings are plain text with Markdown's backticks; what is lined up in columns stays so."""
    found: list[str] = []
    columns = False
    for line in lines:
        lined_up = re.match(r"^\s*[\w`.:, \[\]*]+?\S {2,}\S", line) is not None
        belongs = columns and line.startswith("    ")
        if (lined_up or belongs) and not columns:
            found += ["", "::", ""]
        columns = lined_up or belongs
        text = line if columns else re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        if not columns and found and found[-1].startswith("    ") and text and not text.startswith(" "):
            found.append("")
        found.append(f"    {text}" if columns else text)
    lines[:] = found


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("autodoc-process-docstring", docstring_as_rst, priority=400)  # before napoleon
