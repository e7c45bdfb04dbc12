"""Text: one form for every string, and word segmentation for models that were trained on segmented text."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

from mer.errors import UserError, unknown

SEGMENTERS = ("none", "pyvi", "underthesea", "presegmented")


def normalise(text: str) -> str:
    """Unicode NFC, and white space of any kind as single blanks, none at the ends.

    Vietnamese is typed both ways (`ế` as one character, or as `e` with two marks): without NFC the same word
    becomes two.

    >>> normalise("  Tie\\u0302\\u0301ng   Vie\\u0323\\u0302t ") == "Tiếng Việt"
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def segment(text: str, segmenter: str = "none") -> str:
    """Normalised text with the syllables of a word joined by `_`, as PhoBERT and ViDeBERTa expect.

    none          the text as it is (models that take raw text)
    pyvi          pyvi's tagger; ViDeBERTa's pretraining text was made with it
    underthesea   underthesea's CRF tagger
    presegmented  the transcripts come already segmented

    >>> segment("tôi  yêu Hà Nội")
    'tôi yêu Hà Nội'
    """
    text = normalise(text)
    if segmenter in ("none", "presegmented") or not text:
        if segmenter not in SEGMENTERS:
            raise unknown("segmenter", segmenter, SEGMENTERS)
        return text
    if segmenter == "pyvi":
        return normalise(_module("pyvi.ViTokenizer").ViTokenizer.tokenize(text))
    if segmenter == "underthesea":
        return normalise(_module("underthesea").word_tokenize(text, format="text"))
    raise unknown("segmenter", segmenter, SEGMENTERS)


def segmenter_identity(segmenter: str = "none") -> str:
    """The segmenter with its version, for every cache key: another version may cut words elsewhere.

    >>> segmenter_identity("none")
    'none'
    """
    if segmenter not in SEGMENTERS:
        raise unknown("segmenter", segmenter, SEGMENTERS)
    if segmenter in ("none", "presegmented"):
        return segmenter
    from importlib import metadata

    try:
        return f"{segmenter}=={metadata.version(segmenter)}"
    except metadata.PackageNotFoundError:
        raise _absent(segmenter) from None


@functools.cache
def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise _absent(name.partition(".")[0]) from None


def _absent(segmenter: str) -> UserError:
    return UserError(
        f"the segmenter {segmenter!r} is not installed",
        hint="pip install 'mer-ablation[segment]', or segmenter: presegmented where the transcripts are segmented",
    )
