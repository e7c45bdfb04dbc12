"""What names may hold comes through to figures, LaTeX, CSV and the page as the same text, and as no command."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.reporting.build import _safe, contents
from experiments.reporting.figures.style import canvas, inline_svg, settle, styled, write
from experiments.reporting.run import Run
from experiments.reporting.tables.latex import escape
from mer.names import fault

Text = pytest.importorskip("matplotlib.text").Text
MakeRun = Callable[..., Run]

NAMES = (
    "a$b", "$\\undefined$", "100 % {of} a\\b", "\\input{x}", "<script>alert(1)</script>", "x&y;#~^|`'\"", "=SUM(A1)",
    "\u202eعربي", "việt ơ đ", "日本語 🙂", "e\u0301\u0323", "$\\frac{1}{", "n" * 200,
)  # fmt: skip


SMALL = {"studies": 3, "draws": 2, "epochs": 4, "predictions": False}


class Page(HTMLParser):
    """The tags of a page, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"


def sound_latex(text: str) -> None:
    """Braces are balanced, and nothing of the text is a command or a comment."""
    bare = re.sub(r"\\[\\{}%$&#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert "$" not in bare
    assert "\\input" not in bare
    for line in bare.splitlines():
        assert "%" not in line or line.startswith("%")


LETTERS = pytest.param(NAMES[7:], id="letters", marks=pytest.mark.slow)


@pytest.mark.parametrize("half", [pytest.param(NAMES[:7], id="marks"), LETTERS])
def test_names_come_through_a_report(make_run: MakeRun, half: tuple[str, ...]) -> None:
    assert all(fault(name) is None for name in half)
    run = make_run(factors={"fusion": half}, corpora=(f"c {half[0]}",), **SMALL)
    files = contents(run)
    plain = Page(contents(make_run(**SMALL))["index.html"].decode()).scripts
    assert Page(files["index.html"].decode()).scripts == plain
    assert "<script>alert" not in files["index.html"].decode()
    for name, content in files.items():
        assert len(name.rpartition("/")[2]) <= 120
        if name.endswith(".tex"):
            assert "\\input{x}" not in content.decode()
        if name.endswith(".csv"):
            rows = list(csv.reader(io.StringIO(content.decode())))
            assert len({len(row) for row in rows}) == 1, name
            assert not any(value.startswith("=") for row in rows for value in row)


def test_names_that_look_alike_have_files_of_their_own() -> None:
    used: set[str] = set()
    names = ["search a$b", "search a%b", "search a b", "n" * 300, "n" * 301]
    files = [_safe(name, used) for name in names]
    assert len(set(files)) == len(names)
    assert files[0] == "search-a-b"
    assert all(len(file) <= 100 for file in files)


shown = st.text(max_size=12).filter(lambda text: fault(text) is None)


@settings(deadline=None, max_examples=12)
@given(shown)
@example("$")
@example("$$")
@example("a $x$ b")
@example("$\\undefined$")
@example("\\$")
@example("\u202e$_{")
def test_any_name_in_a_figure(name: str) -> None:
    with styled():
        figure, axes = canvas(3, 2)
        axes.plot([1, 2], [1, 2], label=name)
        axes.set_xlabel(name)
        axes.set_yticks([1, 2], [name, "b"])
        axes.set_title(name)
        figure.legend()
    settle(figure)
    text = inline_svg(figure, "figure", name)
    ElementTree.fromstring(re.sub(r"xlink:href", "href", text))
    assert write(figure, "png")[:4] == b"\x89PNG"
    assert any(found.get_text() == name for found in figure.findobj(Text))


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=20))
def test_any_name_in_latex(name: str) -> None:
    found = escape(name)
    assert "\n" not in found
    sound_latex(found.replace("\\ensuremath", ""))
