"""What a run or a ledger has done so far, read from files alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from experiments.results.lease import drivers, drivers_text
from experiments.results.ledger import FOLDER, Ledger, is_there
from experiments.slots import Status
from mer import sealed
from mer.errors import UserError
from mer.storage import Store, open_store, parent_of

Table = dict[str, list[Any]]


def status(folder: str) -> dict[str, Any]:
    """Who is at work. Of a run: slots by status, what has come since its tables were written, failures. Of a folder:
    its runs."""
    text = str(folder).rstrip("/")
    store = open_store(text)
    if _has(store, "trials.parquet"):
        ledger = Ledger(parent_of(store.root)[0])
        return {**_run(store, ledger), "drivers": drivers(ledger.store)}
    runs = {}
    ledger = Ledger(text)
    for name in store.folders(""):
        inner = open_store(store.path(name))
        if _has(inner, "trials.parquet"):
            runs[name] = _run(inner, ledger)
    snapshot = ledger.refresh()
    if not runs and not is_there(store):
        raise UserError(
            "neither a run nor a results folder",
            where=text,
            expected="a folder with trials.parquet (results/<space>) or with ledger/",
            hint=_no_tables_yet(store),
        )
    attempts = len(snapshot.table)
    return {
        "folder": text,
        "runs": runs,
        "drivers": drivers(store),
        "ledger": {
            "trials": len(snapshot),
            "attempts": attempts,
            "files": len(store.list(FOLDER)),
            "damaged": len(store.list(f"{FOLDER}/_corrupt")),
            "notices": ledger.notices,
        },
    }


def _no_tables_yet(store: Store) -> str | None:
    """What to say of a run that was ended before its first tables, half a minute after its start."""
    parent, name = parent_of(store.root)
    if name not in open_store(parent).folders(""):
        return None
    ledger = Ledger(parent)
    trials, working = len(ledger.refresh()), drivers(ledger.store)
    if working:
        return "\n  ".join([*drivers_text(working), "Tables are written half a minute after its start."])
    if not trials:
        return None
    return f"{parent} has {trials} trials on record; tables of {name} are written with the next `mer run`."


def _has(store: Store, name: str) -> bool:
    return any(entry.name == name for entry in store.list(""))


def _run(store: Store, ledger: Ledger) -> dict[str, Any]:
    columns = ["trial", "cell", "corpus", "study", "fold", "stage", "draw", "status", "reason"]
    data = store.read("trials.parquet")
    table: Table = sealed.of_a_run(data, store.path("trials.parquet"), columns, only=True).to_pydict()
    snapshot = ledger.refresh()
    light = snapshot.effective.select(["trial", "status"]).to_pydict()
    recorded = dict(zip(light["trial"], light["status"], strict=True))
    found: Counter[str] = Counter()
    since = 0
    reasons: Counter[str] = Counter()
    for trial, was, reason in zip(table["trial"], table["status"], table["reason"], strict=True):
        now = was
        if was == Status.MISSING.value and trial in recorded:
            now = recorded[trial]
            since += 1
        found[now] += 1
        if now in (Status.FAILED.value, Status.OOM.value, Status.DIVERGED.value):
            reasons[f"{now}: {reason}"] += 1
    return {
        "run": parent_of(store.root)[1],
        "planned": len(table["status"]),
        "counts": dict(sorted(found.items())),
        "since_tables": since,
        "running": len([e for e in ledger.store.list("_state") if e.name in set(table["trial"])]),
        "failures": dict(reasons.most_common(5)),
    }


def status_text(found: dict[str, Any]) -> str:
    """For people."""
    if "runs" not in found:
        return "\n".join([*drivers_text(found["drivers"]), *_run_lines(found)])
    lines = drivers_text(found["drivers"])
    for run in found["runs"].values():
        lines += _run_lines(run)
    ledger = found["ledger"]
    lines.append(
        f"ledger: {ledger['trials']} trials, {ledger['attempts']} attempts, {ledger['files']} files"
        + (f", {ledger['damaged']} damaged files set aside" if ledger["damaged"] else "")
    )
    return "\n".join([*lines, *ledger["notices"]])


def _run_lines(run: dict[str, Any]) -> list[str]:
    left = run["counts"].get(Status.MISSING.value, 0)
    details = ", ".join(f"{count} {name}" for name, count in run["counts"].items() if name != Status.MISSING.value)
    lines = [f"{run['run']}: {run['planned'] - left}/{run['planned']} ({details or 'nothing yet'}), {left} missing"]
    if run["since_tables"]:
        lines.append(f"  {run['since_tables']} of them since the tables were written")
    if run["running"]:
        lines.append(f"  {run['running']} trials have a saved state to go on from")
    lines += [f"  {count} x {reason}" for reason, count in run["failures"].items()]
    return lines
