"""The conditions under which a trained model is scored, named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.space.model import Space
from experiments.space.plan import COMPLETE, Condition, CorpusRef
from experiments.space.yaml_text import Document
from mer.errors import UserError, unknown


def conditions_of(space: Space, document: Document, corpora: Mapping[str, CorpusRef]) -> tuple[Condition, ...]:
    found = {COMPLETE.name: COMPLETE}
    modalities = {modality for corpus in corpora.values() for modality in corpus.modalities}
    for index, given in enumerate(space.conditions):
        where = document.where("conditions", index)
        missing = given.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        for modality in given.available or ():
            if modality not in modalities:
                raise unknown("modality", modality, modalities, where)
        name = given.name or condition_name(missing)
        if name in found and (missing or name != COMPLETE.name):
            raise UserError(f"two conditions are called {name!r}", where=where)
        found[name] = Condition(name, missing)
    return tuple(found.values())


def condition_name(missing: Mapping[str, Any]) -> str:
    """How a condition without a name is called: by all that it means.

    >>> condition_name({"protocol": "random", "rate": 0.3}), condition_name({"protocol": "random", "rate": 1 / 3})
    ('random 0.3', 'random 0.3333333333333333')
    """
    if not missing:
        return COMPLETE.name
    if "available" in missing:
        return f"only {' '.join(missing['available'])}"
    if missing["protocol"] in ("random", "sample"):
        # A rate of 0 is the default, and is left out of what is written down.
        return (
            f"{missing['protocol']} {_number(missing['rate'])}" if missing.get("rate") else f"{missing['protocol']} 0.0"
        )
    rest = [
        _number(value) if isinstance(value, float) else str(value)
        for key, value in missing.items()
        if key != "protocol"
    ]
    return " ".join([str(missing["protocol"]), *rest])


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
