"""The tables of a run, made from the plan and the ledger; see `experiments.results.schema` for their columns.

They are a function of the plan, the ledger and the verdicts (how the protocol says that each slot ended, which is
itself a function of the two): the same input gives the same bytes. Every file is replaced atomically, so that a
reader sees the old table or the new one at any moment.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments.results.decisions import DecisionRow, decision_table
from experiments.results.declared import (
    before_look,
    is_second_look,
    read_chain,
    space_document,
    space_yaml,
    standing_of,
)
from experiments.results.identity import condition_key
from experiments.results.ledger import Ledger
from experiments.results.records import encode
from experiments.results.schema import (
    COMPLETE,
    COST,
    EPOCHS,
    METRICS,
    PREDICTIONS,
    PROVENANCE,
    SCORES,
    as_type,
    column_type,
    trials_schema,
)
from experiments.results.snapshot import Snapshot
from experiments.slots import Scalar, Slot, Stage, Status
from experiments.space.plan import Plan
from mer import sealed
from mer.faults import visit
from mer.metrics import metric
from mer.sealed import Damaged
from mer.storage import Store, open_store


@dataclass(frozen=True)
class Verdict:
    """How a slot stands: by what trial it is filled and how the protocol says it ended."""

    slot: Slot
    trial: str | None
    status: Status
    reason: str | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)
    selected: bool | None = None
    rung: int | None = None
    rung_value: float | None = None
    cutoff: float | None = None
    bundle: str | None = None
    bundle_size: int | None = None


def write_tables(
    plan: Plan, ledger: Ledger, out: str | Store, verdicts: Sequence[Verdict], decisions: Sequence[DecisionRow]
) -> None:
    """Write all tables of a run into a folder. `verdicts`: one for each slot of the plan, in its order."""
    store = open_store(out) if isinstance(out, str) else out
    snapshot = ledger.refresh()
    first = first_result(plan, snapshot, verdicts)
    found = standing_of(plan, read_chain(ledger.store, snapshot), snapshot, first, ledger.equal_code())
    used = sorted({verdict.trial for verdict in verdicts if verdict.trial is not None and verdict.trial in snapshot})
    scores = scores_table(plan, snapshot, used)
    _replace(store, "epochs.parquet", encode(epochs_table(snapshot, used)))
    _replace(store, "scores.parquet", encode(scores))
    visit("tables.some")
    _replace(store, "decisions.parquet", encode(decision_table(decisions)))
    write_predictions(plan, ledger, snapshot, store, verdicts)
    _replace(store, "trials.parquet", encode(trials_table(plan, snapshot, verdicts, scores, before_look(found, first))))
    _replace(store, "space.yaml", space_yaml(space_document(plan, found, first)))


def _replace(store: Store, name: str, data: bytes) -> None:
    """Write a file unless it is there already, byte for byte: readers and backups see no needless change."""
    try:
        if store.read(name) == data:
            return
    except FileNotFoundError:
        pass
    store.put(name, data)


def first_result(plan: Plan, snapshot: Snapshot, verdicts: Sequence[Verdict]) -> str | None:
    """When the first test score of any of the plan's trials was committed; None if there is none."""
    confirms = [v.trial for v in verdicts if v.slot.stage is Stage.CONFIRM and v.trial in snapshot]
    if not confirms:
        return None
    done = snapshot.table.filter(
        pc.and_(
            pc.is_in(snapshot.table["trial"], pa.array(confirms, pa.string())),
            pc.equal(snapshot.table["status"], Status.COMPLETE.value),
        )
    )
    earliest = pc.min(done["ended"]).as_py()
    return None if earliest is None else str(earliest.isoformat(timespec="microseconds"))


# ---- trials --------------------------------------------------------------------------------------------------


def trials_table(
    plan: Plan,
    snapshot: Snapshot,
    verdicts: Sequence[Verdict],
    scores: pa.Table,
    before: tuple[int, int] | None = None,
) -> pa.Table:
    """One row for each slot of the plan, in its order."""
    factors = {
        name: column_type([*levels, *(cell.levels.get(name) for cell in plan.cells)])
        for name, levels in plan.factors.items()
    }
    hypers = _hyper_types(plan)
    schema = trials_schema(factors, hypers)
    known = _light_rows(snapshot, {v.trial for v in verdicts if v.trial is not None})
    test = _complete_scores(scores)
    cells = {(cell.corpus, cell.name): cell for cell in plan.cells}
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for verdict in verdicts:
        slot = verdict.slot
        row = known.get(verdict.trial or "", {})
        if verdict.status is Status.PRUNED and verdict.rung is not None:
            row = _cut(row, verdict.rung, plan)
        values: dict[str, Any] = {
            "trial": verdict.trial,
            "cell": slot.cell,
            "corpus": slot.corpus,
            "study": slot.study,
            "fold": slot.fold,
            "stage": slot.stage.value,
            "draw": slot.draw,
            "status": verdict.status.value,
            "reason": verdict.reason,
            "selected": verdict.selected,
            "exempt": plan.exempt(slot) if slot.stage is Stage.TUNE else None,
            "second_look": is_second_look(plan, slot, before),
            "rung": verdict.rung,
            "rung_value": verdict.rung_value,
            "cutoff": verdict.cutoff,
            "bundle": verdict.bundle,
            "bundle_size": verdict.bundle_size,
        }
        levels = cells[slot.corpus, slot.cell].levels
        values |= {name: as_type(levels.get(name), kind) for name, kind in factors.items()}
        values |= {name: as_type(verdict.params.get(name), kind) for name, kind in hypers.items()}
        if verdict.status not in (Status.MISSING, Status.SKIPPED):
            values |= {f"valid_{metric}": row.get("valid", {}).get(metric) for metric in METRICS}
            values |= {field.name: row.get(field.name) for field in [*COST, *PROVENANCE]}
            if verdict.status is Status.COMPLETE and slot.stage is Stage.CONFIRM:
                values |= {f"test_{metric}": test.get((verdict.trial or "", metric)) for metric in METRICS}
        for name, column in columns.items():
            column.append(values.get(name))
    return pa.Table.from_pydict(columns, schema=schema)


def _hyper_types(plan: Plan) -> dict[str, pa.DataType]:
    values: dict[str, list[Scalar | None]] = defaultdict(list)
    for hypers in plan.hypers.values():
        for hyper in hypers:
            if hyper.kind == "choice":
                values[hyper.path] += hyper.choices
            else:
                values[hyper.path].append(0 if hyper.kind in ("int", "logint") else 0.0)
    taken = set(plan.factors)
    return {path: column_type(found) for path, found in sorted(values.items()) if path not in taken}


def _light_rows(snapshot: Snapshot, trials: set[str]) -> dict[str, dict[str, Any]]:
    """The attempts that count, as dictionaries without their nested columns (curves are kept as arrow scalars)."""
    table = snapshot.effective
    wanted = table.filter(pc.is_in(table["trial"], pa.array(sorted(trials), pa.string())))
    flat = [name for name in wanted.column_names if not pa.types.is_nested(wanted.schema.field(name).type)]
    rows = {row["trial"]: row for row in wanted.select(flat).to_pylist()}
    for trial, valid in zip(wanted["trial"].to_pylist(), wanted["valid"].to_pylist(), strict=True):
        rows[trial]["valid"] = {entry["metric"]: entry["value"] for entry in valid or ()}
    for index, trial in enumerate(wanted["trial"].to_pylist()):
        if rows[trial]["status"] == Status.COMPLETE.value:
            rows[trial]["curve"] = wanted["curve"][index]
    return rows


def _cut(row: dict[str, Any], rung: int, plan: Plan) -> dict[str, Any]:
    """A trial that another space trained to its end, as far as this plan counts it."""
    if "curve" not in row or (row.get("epochs") or 0) <= rung:
        return row
    valid = [entry for entry in row["curve"].as_py() if entry["split"] == "valid" and entry["epoch"] <= rung]
    sign = metric(plan.metric).sign
    ranked = [(sign * entry["value"], -entry["epoch"]) for entry in valid if entry["metric"] == plan.metric]
    if not ranked:
        return row
    best = -max(ranked)[1]
    values = {entry["metric"]: entry["value"] for entry in valid if entry["epoch"] == best}
    return {**row, "valid": values, "best_epoch": best, "epochs": rung}


def _complete_scores(scores: pa.Table) -> dict[tuple[str, str], float]:
    complete = scores.filter(pc.equal(scores["condition"], COMPLETE))
    names = [complete[name].to_pylist() for name in ("trial", "metric", "value")]
    return {(trial, metric): value for trial, metric, value in zip(*names, strict=True)}


# ---- epochs, scores ------------------------------------------------------------------------------------------


def epochs_table(snapshot: Snapshot, trials: Sequence[str]) -> pa.Table:
    table = snapshot.effective
    chosen = table.filter(pc.is_in(table["trial"], pa.array(trials, pa.string())))
    return _exploded(chosen, "curve", EPOCHS)


def scores_table(plan: Plan, snapshot: Snapshot, trials: Sequence[str]) -> pa.Table:
    """Scores under the plan's conditions; where a trial was scored again for new ones, the first score of each."""
    table = snapshot.table
    done = table.filter(
        pc.and_(
            pc.is_in(table["trial"], pa.array(trials, pa.string())), pc.equal(table["status"], Status.COMPLETE.value)
        )
    ).sort_by([("trial", "ascending"), ("attempt", "ascending"), ("ended", "ascending")])
    rows = _exploded(done, "scores", SCORES)
    wanted = _conditions(plan)
    seen: set[tuple[str, str, str]] = set()
    keep = []
    for key in zip(*(rows[name].to_pylist() for name in ("trial", "condition", "metric")), strict=True):
        keep.append(key not in seen and key[1] in wanted)
        seen.add(key)
    return _renamed(rows.filter(pa.array(keep, pa.bool_())), wanted)


def _conditions(plan: Plan) -> dict[str, str]:
    """The plan's conditions: what the ledger calls each, to what the plan does."""
    folders = [ref.folder for ref in plan.corpora.values()]
    return {condition_key(one, folder): one.name for one in plan.conditions for folder in folders}


def _renamed(rows: pa.Table, conditions: Mapping[str, str]) -> pa.Table:
    names = pa.array([conditions[key] for key in rows["condition"].to_pylist()], pa.string())
    return rows.set_column(rows.schema.get_field_index("condition"), rows.schema.field("condition"), names)


def _exploded(table: pa.Table, column: str, schema: pa.Schema) -> pa.Table:
    """A nested column as rows of their own, beside their trial."""
    pieces = []
    for batch in table.select(["trial", column]).to_batches():
        nested = batch.column(1)
        owner = batch.column(0).take(pc.list_parent_indices(nested))
        fields = nested.flatten().flatten()
        pieces.append(pa.Table.from_arrays([owner, *fields], schema=schema))
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


# ---- predictions ---------------------------------------------------------------------------------------------


def write_predictions(
    plan: Plan, ledger: Ledger, snapshot: Snapshot, store: Store, verdicts: Iterable[Verdict]
) -> None:
    """One file for each cell with confirmed trials; a file whose trials have not changed is left alone."""
    conditions = _conditions(plan)
    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in verdicts:
        complete = verdict.slot.stage is Stage.CONFIRM and verdict.status is Status.COMPLETE
        if complete and verdict.trial is not None and verdict.trial in snapshot:
            cells[verdict.slot.corpus, verdict.slot.cell].append(verdict.trial)
    names = {predictions_file(corpus, cell): (corpus, cell) for corpus, cell in cells}
    for name, key in sorted(names.items()):
        trials = sorted(set(cells[key]))
        state = hashlib.blake2b(
            repr([(trial, snapshot.attempts[trial]) for trial in trials] + [*conditions]).encode(), digest_size=8
        ).hexdigest()
        if _state_of(store, name) == state:
            continue
        table, labels, found = predictions_table(ledger, trials, conditions)
        if not found.issuperset(trials):  # a part was damaged meanwhile: the table is not to be taken for whole
            state = ""
        metadata = {**table.schema.metadata, "mer.labels": "\n".join(labels), "mer.state": state}
        store.put(name, encode(table.replace_schema_metadata(metadata)))
    for entry in store.list("predictions"):
        if f"predictions/{entry.name}" not in names:
            store.remove(f"predictions/{entry.name}")


def predictions_file(corpus: str, cell: str) -> str:
    """`predictions/demo-fusion-tacfn-3f9a1c.parquet`: readable, and unlike any other cell's."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{corpus}-{cell}").strip("-.")[:60]
    return f"predictions/{slug}-{hashlib.blake2b(f'{corpus}|{cell}'.encode(), digest_size=4).hexdigest()}.parquet"


def predictions_table(
    ledger: Ledger, trials: Sequence[str], conditions: Mapping[str, str]
) -> tuple[pa.Table, list[str], set[str]]:
    """Predictions of some trials, sorted by trial and condition; the labels that name their probabilities; and of which
    trials a complete attempt could be read, whether it predicted anything or not."""
    found: dict[tuple[str, int, str], tuple[pa.Table, list[str]]] = {}
    for table in ledger.predictions(trials):
        for index in range(len(table)):
            row = table.slice(index, 1)
            if row["status"][0].as_py() == Status.COMPLETE.value:
                key = (row["trial"][0].as_py(), row["attempt"][0].as_py(), str(row["ended"][0].as_py()))
                found[key] = (_exploded(row, "predictions", PREDICTIONS), row["labels"][0].as_py() or [])
    pieces: dict[tuple[str, int], pa.Table] = {}
    labels: list[str] = []
    order = {name: number for number, name in enumerate(conditions)}
    for (trial, _, _), (rows, names) in sorted(found.items()):
        labels = labels or names
        for condition in pc.unique(rows["condition"]).to_pylist():
            if condition in order and (trial, order[condition]) not in pieces:
                pieces[trial, order[condition]] = rows.filter(pc.equal(rows["condition"], condition))
    parts = [pieces[key] for key in sorted(pieces)]
    whole = pa.concat_tables(parts) if parts else PREDICTIONS.empty_table()
    return _renamed(whole, conditions).combine_chunks(), labels, {trial for trial, _, _ in found}


def _state_of(store: Store, name: str) -> str | None:
    try:
        metadata = sealed.read(store.read(name), name).schema.metadata or {}
    except (FileNotFoundError, Damaged):
        return None
    return metadata.get(b"mer.state", b"").decode() or None
