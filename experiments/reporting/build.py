"""The report of a run: tables, figures, prose, one page. Same tables in, same bytes out.

report/index.html
report/report.json
report/protocol.txt, protocol.tex
report/tables/<name>.tex|md|csv
report/figures/<name>.pdf|png
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

from experiments.reporting.data import document, to_json
from experiments.reporting.figures import drawings
from experiments.reporting.figures.style import inline_svg, settle, styled, write
from experiments.reporting.page import Picture, render
from experiments.reporting.prose import as_latex, as_text
from experiments.reporting.run import Run, load_run
from experiments.reporting.tables.latex import to_latex
from experiments.reporting.tables.plain import to_csv, to_markdown
from mer.errors import UserError
from mer.files import commit_folder, make_folder

FOLDER = "report"


def contents(run: Run) -> dict[str, bytes]:
    """Every file of the report, by its path inside the folder."""
    files: dict[str, bytes] = {}
    named: tuple[set[str], set[str]] = set(), set()
    for name, table in run.tables.items():
        plain = _safe(name, named[0])
        for ending, text in (("tex", to_latex(table)), ("md", to_markdown(table)), ("csv", to_csv(table))):
            files[f"tables/{plain}.{ending}"] = text.encode()
    pictures = []
    for drawing in drawings(run):
        with styled():
            figure = drawing.draw()
        if figure is None:
            continue
        settle(figure)
        name = _safe(drawing.name, named[1])
        for kind in ("pdf", "png"):
            files[f"figures/{name}.{kind}"] = write(figure, kind)
        pictures.append(
            Picture(name, drawing.caption, inline_svg(figure, name, drawing.caption), figure.get_figwidth() > 4)
        )
    files["protocol.txt"] = as_text(run).encode()
    files["protocol.tex"] = as_latex(run).encode()
    figures = [{"name": p.name, "caption": p.caption} for p in pictures]
    files["report.json"] = to_json(document(run, figures)).encode()
    files["index.html"] = render(run, pictures, {}).encode()
    return files


def _safe(name: str, used: set[str]) -> str:
    """A file name of its own from a name that may hold anything (a corpus is named by its user)."""
    plain = "".join(c if (c.isalnum() and c.isascii()) or c in "-_" else "-" for c in name) or "unnamed"
    if len(plain) > 100 or plain in used:
        plain = f"{plain[:90]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    used.add(plain)
    return plain


def _may_be_replaced(target: Path) -> bool:
    """A page of this name alone proves nothing: any site has one."""
    if not target.is_dir():
        return False
    return not any(target.iterdir()) or all((target / name).is_file() for name in ("index.html", "report.json"))


def build_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Make the report of a run and return the path of its page.

    Written to a new folder beside the old one, which it then replaces: a reader never sees half a report.
    """
    run = load_run(run_dir)
    target = Path(out) if out is not None else run.folder / FOLDER
    if target.exists() and not _may_be_replaced(target):
        raise UserError(f"{str(target)!r} is not a report", expected="a new or empty folder, or an earlier report")
    files = contents(run)
    staging = target.with_name(f"_{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        for name, content in files.items():
            (make_folder((staging / name).parent) / name.rpartition("/")[2]).write_bytes(content)
        commit_folder(staging, target, replace=True)
    except OSError as error:
        raise UserError(f"the report cannot be written: {error.strerror or error}", where=str(target)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / "index.html"
