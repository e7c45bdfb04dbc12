"""Sphinx configuration: Markdown by MyST, warnings are errors in CI."""

from mer import __version__

project = "mer"
author = "the mer developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "mer"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_mock_imports: list[str] = []
suppress_warnings = ["misc.highlighting_failure"]
