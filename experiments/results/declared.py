"""When what was declared: contrasts, metric, studies and draws, against the time of the first test score.

    ledger/_declared/<space>/<time>-<unique>.json     appended before a run computes anything

What is declared or changed after the first confirm result of any of the plan's trials is post hoc; studies and draws
added after it are a second look. Both are facts of record, kept with the ledger: deleting tables does not undo them.

`space.yaml` is the space as run, with these times:

    format, space, document             what the user wrote, includes merged
    metric, baseline, factors, studies, folds, resplit, root_seed, tuning, resources, keep
    conditions, corpora, cells          each cell: corpus, name, levels, skip, tuning, hypers, recipe
    contrasts                           each with all its fields, `declared` (time) and `post_hoc`
    declared                            metric: {declared, post_hoc}; first_result: time or null;
                                        second_look: {studies_before, draws_before} or null
    notices
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from experiments.results.identity import canonical, digest
from experiments.slots import Slot, Stage
from mer.faults import visit
from mer.metrics import metric
from mer.storage import Store

if TYPE_CHECKING:
    from experiments.space.plan import Contrast, Plan

FOLDER = "ledger/_declared"


@dataclass(frozen=True)
class Declaration:
    """What a plan declared at one time."""

    time: str
    contrasts: frozenset[str]
    metric: str
    studies: int
    draws: int
    corpora: str = ""
    """JSON: corpus to fingerprint and sizes, to say later what has changed."""


@dataclass(frozen=True)
class History:
    """All declarations of a space, oldest first."""

    declarations: tuple[Declaration, ...]

    def contrast_time(self, contrast: Contrast) -> str | None:
        key = contrast_key(contrast)
        return next((known.time for known in self.declarations if key in known.contrasts), None)

    def metric_time(self, metric: str) -> str | None:
        return next((known.time for known in self.declarations if known.metric == metric), None)

    def before(self, first_result: str | None) -> tuple[int, int] | None:
        """Studies and draws that were declared before the first test score; None if there is none yet."""
        if first_result is None:
            return None
        earlier = [known for known in self.declarations if known.time <= first_result]
        if not earlier:
            return 0, 0
        return max(known.studies for known in earlier), max(known.draws for known in earlier)


def declare(plan: Plan, store: Store, now: datetime | None = None) -> History:
    """Record what a plan declares, if it is new; to be called before the run computes anything."""
    history = read_history(store, plan.space)
    found = Declaration(
        time=(now or datetime.now(UTC)).isoformat(timespec="microseconds"),
        contrasts=frozenset(contrast_key(contrast) for contrast in plan.contrasts),
        metric=metric_key(plan),
        studies=plan.studies,
        draws=plan.tuning.draws,
        corpora=canonical({name: [ref.fingerprint, dict(ref.sizes)] for name, ref in plan.corpora.items()}),
    )
    if any(dataclasses.replace(known, time=found.time) == found for known in history.declarations):
        return history
    visit("declared.before")
    content = {**dataclasses.asdict(found), "contrasts": sorted(found.contrasts)}
    stamp = found.time.replace(":", "").replace("+", "Z")
    store.put(f"{FOLDER}/{plan.space}/{stamp}-{uuid.uuid4().hex[:6]}.json", json.dumps(content).encode())
    return History((*history.declarations, found))


def changed_corpora(plan: Plan, history: History) -> list[str]:
    """A notice for each corpus that was another one when this space ran before, saying what is known to differ."""
    notices = []
    for name, ref in plan.corpora.items():
        earlier = [json.loads(known.corpora).get(name) for known in history.declarations if known.corpora]
        others = [known for known in earlier if known and known[0] != ref.fingerprint]
        if not others:
            continue
        old, now = others[-1][1], dict(ref.sizes)
        sizes = [f"{split} {old.get(split)} -> {now.get(split)}" for split in now if old.get(split) != now.get(split)]
        what = f"utterances: {', '.join(sizes)}" if sizes else "as many utterances as before, with other content"
        notices.append(
            f"corpus {name} has changed since an earlier run of this space ({what}). "
            "The earlier trials stay in the ledger and are not mixed in."
        )
    return notices


def read_history(store: Store, space: str) -> History:
    found = []
    for entry in store.list(f"{FOLDER}/{space}"):
        try:
            content = json.loads(store.read(f"{FOLDER}/{space}/{entry.name}"))
            found.append(Declaration(**{**content, "contrasts": frozenset(content["contrasts"])}))
        except (ValueError, TypeError, KeyError):
            continue
    return History(tuple(sorted(found, key=lambda known: known.time)))


def contrast_key(contrast: Contrast) -> str:
    """What a contrast claims, apart from what it is called."""
    fields = dataclasses.asdict(contrast)
    del fields["name"]
    return digest(canonical(fields))


def metric_key(plan: Plan) -> str:
    return f"{plan.metric} {metric(plan.metric).direction}"


def is_second_look(plan: Plan, slot: Slot, before: tuple[int, int] | None) -> bool:
    """Was this slot added after the first test score? A confirm slot is, too, if its winner had further draws."""
    if before is None:
        return False
    studies, draws = before
    if slot.study >= studies:
        return True
    if slot.stage is Stage.TUNE:
        return slot.draw >= draws
    return len(plan.draws(plan.group(slot))) > draws if plan.cell_of(slot).skip is None else False


def space_document(plan: Plan, history: History, first_result: str | None) -> dict[str, Any]:
    """`space.yaml` as plain data."""

    def late(time: str | None) -> bool:
        return first_result is not None and (time is None or time > first_result)

    contrasts = []
    for contrast in plan.contrasts:
        time = history.contrast_time(contrast)
        contrasts.append({**dataclasses.asdict(contrast), "declared": time, "post_hoc": late(time)})
    metric_time = history.metric_time(metric_key(plan))
    before = history.before(first_result)
    looked = None
    if before is not None and (plan.studies > before[0] or plan.tuning.draws > before[1]):
        looked = {"studies_before": before[0], "draws_before": before[1]}
    document: dict[str, Any] = _plain(
        {
            "format": 1,
            "space": plan.space,
            "metric": plan.metric,
            "baseline": plan.baseline,
            "factors": plan.factors,
            "studies": plan.studies,
            "folds": dataclasses.asdict(plan.folds),
            "resplit": plan.resplit,
            "root_seed": plan.root_seed,
            "tuning": dataclasses.asdict(plan.tuning),
            "resources": dataclasses.asdict(plan.resources),
            "keep": plan.keep,
            "conditions": [dataclasses.asdict(condition) for condition in plan.conditions],
            "corpora": {name: {**dataclasses.asdict(ref), "folder": None} for name, ref in plan.corpora.items()},
            "contrasts": contrasts,
            "declared": {
                "metric": {"declared": metric_time, "post_hoc": late(metric_time)},
                "first_result": first_result,
                "second_look": looked,
            },
            "cells": [
                {
                    "corpus": cell.corpus,
                    "name": cell.name,
                    "levels": cell.levels,
                    "skip": cell.skip,
                    "tuning": cell.tuning,
                    "hypers": [dataclasses.asdict(hyper) for hyper in plan.hypers.get((cell.corpus, cell.name), ())],
                    "recipe": cell.recipe,
                }
                for cell in plan.cells
            ],
            "notices": list(plan.notices),
            "document": plan.document,
        }
    )
    return document


def space_yaml(document: Mapping[str, Any]) -> bytes:
    import yaml

    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100)
    return text.encode()


def _plain(value: Any) -> Any:
    """Mappings, lists and scalars of YAML alone."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
