"""Whether the YAML on a page is what the project reads: a space, some keys of one, or fields of a recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.space.layers import Layer, resolve
from experiments.space.load import make_plan
from experiments.space.model import Space
from experiments.space.plan import CorpusRef
from experiments.space.read import read_space
from experiments.space.yaml_text import Document, parse
from mer.errors import UserError

EVERYTHING = CorpusRef(
    name="everything",
    folder=Path(),
    fingerprint="0",
    modalities=("text", "audio", "visual"),
    has_dialogues=True,
    synthetic=True,
    sizes={"train": 100, "valid": 50, "test": 50},
    offers=frozenset({"text", "audio", "features/text", "features/audio", "features/visual"}),
)
"""A corpus that any recipe can be trained on: a page's YAML is checked for what it says, not for what is here."""

ENCODERS = {"text": {"name": "words"}}


def check_yaml(text: str, where: str) -> None:
    """Raise a `UserError` where the project would refuse it."""
    document = parse(text, where)
    if not isinstance(document.data, dict):
        raise UserError("a YAML block that is no mapping", where=where)
    keys = set(document.data)
    if "corpus" in keys or not keys <= {*Space.model_fields, "include"}:
        _check_recipe(document)
    elif keys & {"base", "factors"}:
        _check_space(document, text)
    else:
        document.data.setdefault("base", {})
        read_space(document)


def _check_recipe(document: Document) -> None:
    """Fields of a recipe, as in `base` or in a file for `mer train`."""
    for key in ("corpus", "seed"):
        document.data.pop(key, None)
    document.data.setdefault("encoders", ENCODERS)
    resolve([Layer.of(document, "base")])


def _check_space(document: Document, text: str) -> None:
    if "base" not in document.data:
        text += "\nbase: {encoders: {text: words, audio: logmel}}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(text, "utf-8")
        make_plan(path, data=["everything"], open_corpus=lambda name: EVERYTHING)
