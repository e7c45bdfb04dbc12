"""A large ledger: how long until a run can go on, how long pandas takes, what a driver holds.

    python -m benchmarks.bench_ledger [--trials 10000]

Beside it: what one would do otherwise, a folder of one JSON file per trial (as Ray Tune and many home-made runners
leave behind) read into pandas.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.made_up_plan import CELLS, DRAWS, made_up_plan
from experiments.protocol.actions import Unit
from experiments.results.ledger import Ledger
from experiments.results.records import Cost, EpochRow, Provenance, ScoreRow, TrialRecord, record_table
from experiments.results.schema import METRICS
from experiments.schedule.naming import Names
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.slots import Stage, Status
from experiments.space.plan import Plan, Tuning

EPOCHS = 20


def make_plan(trials: int) -> Plan:
    """About that many trials, without pruning."""
    studies = max(1, trials // (CELLS * (DRAWS + 1)))
    return made_up_plan("bench", studies, EPOCHS, Tuning(draws=DRAWS, pruner="none"))


def records(plan: Plan) -> list[TrialRecord]:
    """A complete record for each slot; confirm slots get the parameters of draw 0, the best of each group."""
    names = Names(plan)
    where = Provenance("0" * 40, False, "numpy 2; python 3.11; torch 2", "a processor", "host")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = []
    for slot in plan.slots():
        draw = slot if slot.stage is Stage.TUNE else plan.draws(plan.group(slot))[0]
        key, text = names.key(slot, Unit((slot,), (plan.params(draw),)))
        best = 0.9 - 0.01 * max(slot.draw, 0)
        rows = [
            EpochRow(epoch, "valid", metric, best * epoch / EPOCHS)
            for epoch in range(1, EPOCHS + 1)
            for metric in METRICS
        ]
        rows += [
            EpochRow(epoch, "train", name, 1.0 / epoch) for epoch in range(1, EPOCHS + 1) for name in ("loss", "lr")
        ]
        confirm = slot.stage is Stage.CONFIRM
        scores = [ScoreRow("complete", metric, best, 100) for metric in METRICS] if confirm else []
        found.append(
            TrialRecord(
                key=key,
                recipe=text,
                status=Status.COMPLETE,
                space=plan.space,
                cell=slot.cell,
                draw=slot.draw,
                valid=dict.fromkeys(METRICS, best),
                best_epoch=EPOCHS,
                curve=rows,
                cost=Cost(1.0, 1.0, EPOCHS, 100.0),
                scores=scores,
                provenance=where,
                random_weights=False,
                synthetic=True,
                parameters=1000,
                started=now,
                ended=now,
            )
        )
    return found


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    plan = make_plan(args.trials)
    all_records = records(plan)
    count = len(all_records)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root / "ours", all_records)
        (root / "json").mkdir()
        for record in all_records:
            row = record.row()
            row["started"] = row["ended"] = "2026-01-01"
            (root / "json" / f"{record.trial}.json").write_text(json.dumps(row))
        before = rss_mb()
        resume = [timed(lambda: Session(plan, Ledger(str(root / "ours")))) for _ in range(args.repeats)]
        session = Session(plan, Ledger(str(root / "ours")))
        held = rss_mb() - before
        tables = [
            timed(lambda: publish(plan, session.ledger, str(root / "ours" / "bench"), session))
            for _ in range(args.repeats)
        ]
        import pandas as pd

        table = root / "ours" / "bench" / "trials.parquet"
        pd.read_parquet(table)
        read = [timed(lambda: pd.read_parquet(table)) for _ in range(args.repeats)]
        files = sorted((root / "json").iterdir())
        plain = timed(lambda: pd.DataFrame([json.loads(file.read_text()) for file in files]))
    done = sum(session.state.status(slot) is Status.COMPLETE for slot in session.state.order)
    print(
        f"{count} trials of {EPOCHS} epochs on record, {done} recognised; "
        f"medians of {args.repeats}, processor seconds\n"
    )
    print("| what | value | for comparison |")
    print("|---|---|---|")
    print(f"| resume decision: read the ledger, replay the protocol | {statistics.median(resume):.2f} s | aim 5 s |")
    print(f"| driver memory for it, per trial | {held / count * 1e3:.1f} KB | aim 60 KB |")
    print(f"| all tables from the ledger | {statistics.median(tables):.2f} s | |")
    print(
        f"| `pd.read_parquet(trials.parquet)` | {statistics.median(read):.3f} s "
        f"| {plain:.2f} s from one JSON file a trial ({plain / statistics.median(read):.0f} x) |"
    )


def fill(root: Path, all_records: list[TrialRecord]) -> None:
    """A ledger as a long run leaves it: compacted, with some loose parts."""
    ledger = Ledger(str(root))
    loose = all_records[-100:]
    for start in range(0, len(all_records) - 100, 250):
        chunk = all_records[start : min(start + 250, len(all_records) - 100)]
        table = record_table(chunk)
        ledger._put_compact(lambda table=table: iter([table]))  # type: ignore[misc]
    for record in loose:
        ledger.append(record)


def timed(call: Callable[[], object]) -> float:
    """Processor seconds of this process: on a shared machine they say more than the clock; nothing here waits long."""
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
