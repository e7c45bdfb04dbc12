"""A table as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
from html import escape

from experiments.reporting.tables.model import Table, Value


def _markdown(text: str) -> str:
    for char in "\\`*_[]<>|":
        text = text.replace(char, "\\" + char)
    return text.replace("\n", " ")


def _md_value(value: Value) -> str:
    shown = _markdown(value.text)
    if value.bold:
        shown = f"**{shown}**"
    elif value.underline:
        shown = f"<u>{shown}</u>"
    if value.half:
        shown += f" ± {_markdown(value.half)}"
    return shown + (f"<sup>{_markdown(value.mark)}</sup>" if value.mark else "")


def to_markdown(table: Table) -> str:
    """GitHub's Markdown."""
    heads = [f"{c.group} {c.header}".strip() if c.group else c.header for c in table.columns]
    lines = [f"**{_markdown(table.title)}**", "", "| " + " | ".join(map(_markdown, heads)) + " |"]
    lines.append("|" + "|".join(":--" if c.kind == "text" else "--:" for c in table.columns) + "|")
    for i in range(len(table.rows)):
        lines.append("| " + " | ".join(_md_value(table.value(i, c.key)) for c in table.columns) + " |")
    for note in table.notes:
        mark = f"<sup>{_markdown(note.mark)}</sup> " if note.mark else ""
        lines += ["", mark + _markdown(note.text)]
    return "\n".join([*lines, ""])


def _safe(value: str) -> str:
    """Text that a spreadsheet does not take for a formula (the guard that OWASP advises)."""
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _csv_value(raw: float | int | str | None) -> str:
    if raw is None:
        return ""
    return _safe(raw) if isinstance(raw, str) else repr(raw)


def to_csv(table: Table) -> str:
    """Raw numbers at full precision; half-widths and interval ends in columns of their own; of the notes only what must
    stand beside every number, in a last column `cautions`."""
    extra = {
        c.key: list(dict.fromkeys(k for row in table.rows for k in row.get(c.key, Value("")).more))
        for c in table.columns
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shown = [c for c in table.columns if any(row.get(c.key, Value("")).raw is not None for row in table.rows)]
    heads = [
        _safe(name)
        for c in table.columns
        for name in [*([c.key] if c in shown else []), *(f"{c.key}_{k}" for k in extra[c.key])]
    ]
    cautions = [" ".join(table.cautions)] if table.cautions else []
    writer.writerow([*heads, *(["cautions"] if cautions else [])])
    for row in table.rows:
        line: list[str] = []
        for c in table.columns:
            value = row.get(c.key, Value(""))
            if c in shown:
                line.append(_csv_value(value.raw))
            line += [_csv_value(value.more.get(k)) for k in extra[c.key]]
        writer.writerow([*line, *cautions])
    return out.getvalue()


def _html_value(value: Value) -> str:
    shown = escape(value.text)
    if value.bold:
        shown = f"<strong>{shown}</strong>"
    elif value.underline:
        shown = f"<u>{shown}</u>"
    if value.half:
        shown += f'<span class="half"> ± {escape(value.half)}</span>'
    return shown + (f"<sup>{escape(value.mark)}</sup>" if value.mark else "")


def to_html(table: Table) -> str:
    """A table element with a caption, sortable by the page's script through `data-sort`."""
    lines = [
        f'<table class="data" id="table-{escape(table.name)}">',
        f"<caption>{escape(table.title)}</caption>",
        "<thead>",
    ]
    groups = [c.group for c in table.columns]
    if any(groups):
        cells, i = [], 0
        while i < len(groups):
            span = 1
            while groups[i] and i + span < len(groups) and groups[i + span] == groups[i]:
                span += 1
            scope = 'scope="colgroup"' if groups[i] else ""
            tag = "th" if groups[i] else "td"
            cells.append(f'<{tag} colspan="{span}" {scope}>{escape(groups[i])}</{tag}>'.replace(" >", ">"))
            i += span
        lines.append(f'<tr class="groups">{"".join(cells)}</tr>')
    heads = "".join(
        f'<th scope="col" class="{c.kind}"><button type="button">{escape(c.header)}</button></th>'
        for c in table.columns
    )
    lines += [f"<tr>{heads}</tr>", "</thead>", "<tbody>"]
    for i in range(len(table.rows)):
        rule = ' class="rule"' if i in table.rules else ""
        cells = []
        for j, c in enumerate(table.columns):
            value = table.value(i, c.key)
            raw = next((x for x in (value.raw, value.more.get("low")) if x is not None), "")
            tag = 'th scope="row"' if j == 0 and c.kind == "text" else "td"
            cells.append(
                f'<{tag} class="{c.kind}" data-sort="{escape(str(raw))}">{_html_value(value)}</{tag.split()[0]}>'
            )
        lines.append(f"<tr{rule}>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    if table.notes:
        notes = "".join(
            f"<li>{f'<sup>{escape(n.mark)}</sup> ' if n.mark else ''}{escape(n.text)}</li>" for n in table.notes
        )
        lines.append(f'<ul class="notes">{notes}</ul>')
    return "\n".join(lines)
