"""report/index.html: one self-contained file. Everything from the run is escaped; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.reporting.numbers import signed_interval
from experiments.reporting.prose import checklist, protocol, provenance, warnings
from experiments.reporting.tables.claims import VERDICTS
from experiments.reporting.tables.plain import to_html

if TYPE_CHECKING:
    from experiments.reporting.run import Run

TEMPLATES = Path(__file__).with_name("templates")
#: Beyond this many, the page carries the confirm stage and what has no result; trials.parquet has the rest.
MOST_TRIALS = 3000


@dataclass(frozen=True)
class Picture:
    name: str
    caption: str
    svg: str
    wide: bool = False


def trial_rows(run: Run) -> tuple[list[str], list[list[Any]], int]:
    """Column names, rows and the number of slots left out, for the details on demand."""
    t = run.own
    shown = t
    if len(t) > MOST_TRIALS:
        shown = t[(t["stage"] == "confirm") | ~t["status"].isin(["complete", "pruned"])].head(MOST_TRIALS)
    measures = [c for c in (f"valid_{run.spec.metric}", f"test_{run.spec.metric}") if c in t.columns]
    hypers = list(dict.fromkeys(h.name for hs in run.spec.tuned.values() for h in hs if h.name in t.columns))
    wanted = [
        "trial", "corpus", *(run.factors or ["cell"]), "study", "fold", "stage", "draw", "status", "reason", *hypers,
        *measures, "epochs", "device_s", "peak_memory_mb", "hardware", "host", "commit",
    ]  # fmt: skip
    columns = [c for c in dict.fromkeys(wanted) if c in t.columns and t[c].notna().any()]
    constant = {"corpus", "fold", "hardware", "host", "commit"}
    columns = [c for c in columns if c not in constant or t[c].nunique() > 1]
    rows = shown[columns].astype(object).where(shown[columns].notna(), None).to_numpy().tolist()
    return columns, [[_cell(v) for v in row] for row in rows], len(t) - len(shown)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def render(run: Run, pictures: list[Picture], files: Mapping[str, list[str]]) -> str:
    """The page. `files`: names of the files beside it, by kind."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(str(TEMPLATES)), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["interval"] = lambda s: signed_interval(s.mean, s.low, s.high, run.spec.level, run.scale)
    tables = run.tables
    top = ("accounting", "reasons", "claims")
    columns, rows, left_out = trial_rows(run)
    order = {name: i for i, name in enumerate(VERDICTS)}
    return environment.get_template("index.html.j2").render(
        title=run.spec.name,
        metric=run.metric_name(),
        warnings=warnings(run),
        claims=sorted(run.claims, key=lambda c: (c.contrast.post_hoc, order[c.verdict])),
        verdicts=VERDICTS,
        accounting=[Markup(to_html(tables[name])) for name in ("accounting", "reasons") if name in tables],
        claims_table=Markup(to_html(tables["claims"])) if "claims" in tables else "",
        tables=[(name, table.title, Markup(to_html(table))) for name, table in tables.items() if name not in top],
        pictures=[(p.name, p.caption, Markup(p.svg), p.wide) for p in pictures],
        protocol=protocol(run),
        checklist=checklist(run),
        provenance=provenance(run),
        trials=Markup(script_json({"columns": columns, "rows": rows})),
        trial_count=len(rows),
        left_out=left_out,
        files=files,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
    )
