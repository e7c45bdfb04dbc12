"""A table as LaTeX: booktabs, nothing else required. `\\input` it into a paper, or compile the file alone.

Numbers of a column have equally many decimals and stand flush right, so decimal points align without siunitx; `±`
has a column of its own. Wide tables become `table*`, longer ones are continued.
"""

from __future__ import annotations

import re
import unicodedata

from experiments.reporting.tables.model import Column, Table, Value

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}",
    "|": r"\textbar{}", "\"": r"\textquotedbl{}", "'": "'", "`": r"\textasciigrave{}",
}  # fmt: skip
_UNICODE = {
    "−": r"\ensuremath{-}", "±": r"\ensuremath{\pm}", "×": r"\ensuremath{\times}", "–": "--", "—": "---",
    "·": r"\ensuremath{\cdot}", "Δ": r"\ensuremath{\Delta}", "ω": r"\ensuremath{\omega}", "²": r"\ensuremath{^2}",
    "τ": r"\ensuremath{\tau}", "η": r"\ensuremath{\eta}", "≥": r"\ensuremath{\geq}", "≤": r"\ensuremath{\leq}",
    "α": r"\ensuremath{\alpha}", "β": r"\ensuremath{\beta}", "√": r"\ensuremath{\surd}", "…": r"\ldots{}",
    "→": r"\ensuremath{\rightarrow}", "†": r"\ensuremath{\dagger}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,", "°": r"\ensuremath{^\circ}", "ß": r"\ss{}", "æ": r"\ae{}",
    "ø": r"\o{}", "å": r"\aa{}", "đ": r"\dj{}", "Đ": r"\DJ{}", "ł": r"\l{}", "Ł": r"\L{}", "Æ": r"\AE{}", "Ø": r"\O{}",
    "ı": r"\i{}", "œ": r"\oe{}",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def escape(value: str) -> str:
    """Text that LaTeX sets as it reads. Letters that its standard fonts lack lose what cannot be set (ơ becomes o).

    >>> print(escape("90 % of a_b & c: −1 < 2"), escape("Việt"), escape("\\\\input{x}"))
    90 \\% of a\\_b \\& c: \\ensuremath{-}1 \\ensuremath{<} 2 Vi\\^{\\d{e}}t \\textbackslash{}input\\{x\\}
    """
    out = []
    for char in unicodedata.normalize("NFC", value):
        if char in _SPECIAL:
            out.append(_SPECIAL[char])
        elif char in _UNICODE:
            out.append(_UNICODE[char])
        elif char.isascii():
            out.append(char if char.isprintable() else " ")
        else:
            out.append(_composed(char))
    return "".join(out)


def _composed(char: str) -> str:
    parts = unicodedata.normalize("NFD", char)
    base, marks = parts[0], parts[1:]
    if not base.isascii():
        return _UNICODE.get(base, "?")
    found = base
    for mark in marks:
        if mark in _ACCENTS:
            found = f"\\{_ACCENTS[mark]}{{{found}}}"
    return found


def _entry(value: Value, column: Column) -> str:
    shown = escape(value.text)
    if value.bold:
        shown = f"\\textbf{{{shown}}}"
    if value.underline:
        shown = f"\\underline{{{shown}}}"
    mark = f"\\rlap{{\\textsuperscript{{{escape(value.mark)}}}}}" if value.mark else ""
    if column.kind == "spread":
        return f"{shown} & {escape(value.half)}{mark}" if value.half else f"{shown}{mark} &"
    return shown + mark


def _spec(column: Column) -> str:
    return {"text": "l", "number": "r", "spread": r"r@{\,$\pm$\,}l"}[column.kind]


def _width(table: Table) -> float:
    """Estimated width at \\normalsize, in inches: about 0.066 inch a character and 0.11 between columns."""
    total = 0.0
    for column in table.columns:
        entries = [table.value(i, column.key) for i in range(len(table.rows))]
        widest = max(
            [len(v.text) + len(v.mark) / 2 + (len(v.half) + 3 if v.half else 0) for v in entries] + [len(column.header)]
        )
        total += 0.066 * widest + 0.11
    return total


_SIZES = ((1.0, "\\normalsize"), (0.9, "\\small"), (0.8, "\\footnotesize"), (0.7, "\\scriptsize"))
COLUMN, PAGE = 3.25, 6.75
ROWS_A_PAGE = 42


def _layout(table: Table) -> tuple[str, str]:
    """Environment and font size."""
    width = _width(table)
    for factor, size in _SIZES[:3]:
        if width * factor <= COLUMN and len(table.rows) <= 30:
            return "table", size
    for factor, size in _SIZES:
        if width * factor <= PAGE:
            return "table*", size
    return "table*", "\\scriptsize"


def _header(table: Table) -> list[str]:
    cells, groups, position = [], [], 1
    rules: list[str] = []
    spans: list[tuple[str, int, int]] = []
    for column in table.columns:
        width = 2 if column.kind == "spread" else 1
        name = escape(column.header)
        align = "l" if column.kind == "text" else "c" if width == 2 else "r"
        cells.append(f"\\multicolumn{{{width}}}{{{align}}}{{{name}}}" if width == 2 else name)
        if spans and column.group and spans[-1][0] == column.group:
            spans[-1] = (column.group, spans[-1][1], position + width - 1)
        else:
            spans.append((column.group, position, position + width - 1))
        position += width
    lines = []
    if any(group for group, _, _ in spans):
        for group, first, last in spans:
            groups.append(f"\\multicolumn{{{last - first + 1}}}{{c}}{{{escape(group)}}}")
            if group:
                rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
        lines += [" & ".join(groups) + r" \\", "".join(rules)]
    return [*lines, " & ".join(cells) + r" \\"]


def _notes(table: Table) -> list[str]:
    lines = []
    for note in table.notes:
        mark = f"\\textsuperscript{{{escape(note.mark)}}}~" if note.mark else ""
        lines.append(mark + escape(note.text))
    return lines


_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"


def to_latex(table: Table) -> str:
    """The file's text; the same table gives the same bytes."""
    environment, size = _layout(table)
    starts = list(range(0, max(1, len(table.rows)), ROWS_A_PAGE))
    label = re.sub(r"[^a-z0-9]+", "-", table.name.lower()).strip("-")
    out = [
        f"% {re.sub(r'[^ -~]', '?', table.title)}",
        "% Needs: \\usepackage{booktabs,graphicx}. \\input it, or compile it alone.",
        "\\expandafter\\ifx\\csname @classoptionslist\\endcsname\\relax",
        "  \\documentclass[twocolumn,10pt]{article}",
        "  \\usepackage[T1]{fontenc}\\usepackage[utf8]{inputenc}\\IfFileExists{lmodern.sty}{\\usepackage{lmodern}}{}",
        "  \\usepackage{booktabs,graphicx}\\usepackage[margin=0.75in]{geometry}",
        "  \\def\\merend{\\end{document}}",
        "  \\begin{document}",
        "\\else\\def\\merend{}\\fi",
    ]
    for number, start in enumerate(starts):
        rows = range(start, min(start + ROWS_A_PAGE, len(table.rows)))
        continued = " (continued)" if number else ""
        out += [f"\\begin{{{environment}}}[t]", "\\centering", f"\\caption{{{escape(table.title)}{continued}}}"]
        if not number:
            out.append(f"\\label{{tab:{label}}}")
        out += [size, "\\setlength{\\tabcolsep}{4pt}"]
        # The width was an estimate: what turns out too wide is scaled to fit.
        out.append("\\sbox0{%")
        out += ["\\begin{tabular}{@{}" + "".join(_spec(c) for c in table.columns) + "@{}}", "\\toprule"]
        out += [*_header(table), "\\midrule"]
        for i in rows:
            if i in table.rules and i > start:
                out.append("\\midrule")
            out.append(" & ".join(_entry(table.value(i, c.key), c) for c in table.columns) + r" \\")
        out += ["\\bottomrule", "\\end{tabular}}%", _FIT]
        if table.notes and start == starts[-1]:
            width = "\\linewidth" if environment == "table" else "0.95\\linewidth"
            out += ["\\par\\smallskip", f"\\begin{{minipage}}{{{width}}}\\footnotesize\\raggedright"]
            out += [line + "\\par" for line in _notes(table)]
            out.append("\\end{minipage}")
        out.append(f"\\end{{{environment}}}")
    return "\n".join([*out, "\\merend", ""])
