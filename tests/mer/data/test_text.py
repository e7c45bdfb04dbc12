"""One form for every string; segmenters and their identities."""

from __future__ import annotations

import importlib
import sys
import unicodedata
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.data.text import SEGMENTERS, normalise, segment, segmenter_identity
from mer.errors import UserError


def test_vietnamese_typed_both_ways_is_the_same_text() -> None:
    text = "Tiếng Việt rất đẹp"
    assert unicodedata.normalize("NFD", text) != text
    assert normalise(unicodedata.normalize("NFD", text)) == text
    assert normalise("\u00a0 Tiếng\t\n Việt \u3000rất đẹp \r\n") == text


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(unicodedata.normalize("NFD", text)) == once


@pytest.mark.parametrize("segmenter", ["none", "presegmented"])
def test_text_that_is_not_cut(segmenter: str) -> None:
    assert segment(" học_sinh  Hà Nội ", segmenter) == "học_sinh Hà Nội"
    assert segmenter_identity(segmenter) == segmenter


@pytest.mark.parametrize("segmenter", ["pyvi", pytest.param("underthesea", marks=pytest.mark.slow)])
def test_words_are_joined(segmenter: str) -> None:
    try:
        importlib.import_module(segmenter)
    except ImportError:
        pytest.skip(f"{segmenter} is not installed")
    assert segment(unicodedata.normalize("NFD", "học sinh  Việt Nam"), segmenter) == "học_sinh Việt_Nam"
    assert segment("", segmenter) == ""
    assert segmenter_identity(segmenter) == f"{segmenter}=={metadata.version(segmenter)}"


def test_a_segmenter_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "underthesea", None)
    from mer.data import text

    text._module.cache_clear()
    with pytest.raises(UserError, match=r"'underthesea' is not installed\n  pip install"):
        segment("học sinh", "underthesea")


def test_unknown_segmenters() -> None:
    for call in (segment, lambda _, name: segmenter_identity(name)):
        with pytest.raises(UserError, match=r"unknown segmenter 'pyvy'.*did you mean 'pyvi'"):
            call("a", "pyvy")
    assert SEGMENTERS == ("none", "pyvi", "underthesea", "presegmented")
