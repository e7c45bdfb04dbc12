"""report.json: everything that the report says, for machines."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from experiments.reporting.prose import checklist, protocol, provenance, warnings
from mer.metrics import metric

if TYPE_CHECKING:
    from experiments.reporting.run import Run

FORMAT = 1


def plain(value: Any) -> Any:
    """Plain JSON: no NaN, no infinity, no numpy."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def document(run: Run, figures: list[dict[str, str]]) -> dict[str, Any]:
    counts = run.own.groupby(["stage", "status"], sort=True).size().reset_index(name="slots")
    tables = {
        name: {
            "title": table.title,
            "columns": [{"key": c.key, "header": c.header, "group": c.group} for c in table.columns],
            "rows": [
                {
                    key: {
                        "text": v.text + (f" ± {v.half}" if v.half else ""),
                        "value": v.raw,
                        **v.more,
                        "marks": v.mark,
                    }
                    for key, v in row.items()
                }
                for row in table.rows
            ],
            "notes": [dataclasses.asdict(note) for note in table.notes],
        }
        for name, table in run.tables.items()
    }
    return {
        "format": FORMAT,
        "space": run.spec.name,
        "metric": run.spec.metric,
        "direction": metric(run.spec.metric).direction,
        "accounting": counts.to_dict("records"),
        "warnings": warnings(run),
        "claims": run.claims,
        "protocol": protocol(run),
        "checklist": [{"question": q, "answer": a} for q, a in checklist(run)],
        "provenance": dict(provenance(run)),
        "tables": tables,
        "figures": figures,
    }


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(plain(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
