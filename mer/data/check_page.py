"""The page of `mer data check`, as plain text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mer.data.corpus import SPLITS

if TYPE_CHECKING:
    from mer.data.check import Check, SplitSummary

SHOWN = 8
"""Problems of one kind that are spelt out; the rest are counted (`--json` has them all)."""


def page(check: Check) -> str:
    lines = [_title(check)]
    if check.note:
        lines += [check.note]
    lines += ["", *_table(check)]
    if check.overlap:
        lines += ["", *_overlap(check)]
    if check.features:
        lines += ["", "features (train)"]
        for name, facts in check.features.items():
            frames = f"{facts['frames_median']:g} frames (median)" if facts["frames_median"] != 1 else "one row each"
            spread = f"spread of columns {facts['std_smallest']:.2g} to {facts['std_largest']:.2g}"
            lines.append(f"  {name:<14} {facts['dim']:g} wide, {frames}, {spread}")
    if check.audio:
        lines += ["", "audio            " + ", ".join(f"{count} at {rate}" for rate, count in check.audio.items())]
    lines += ["", *_problems(check), "", _verdict(check)]
    return "\n".join(lines) + "\n"


def _title(check: Check) -> str:
    facts = [fact for fact in (check.language, "SYNTHETIC" if check.synthetic else None) if fact]
    return f"{check.name}" + (f" ({', '.join(facts)})" if facts else "") + f"    {check.folder}"


def _table(check: Check) -> list[str]:
    parts = [check.splits[split] for split in SPLITS if split in check.splits]
    rows: list[tuple[str, list[str]]] = [("", list(check.splits))]
    rows.append(("utterances", [str(part.utterances) for part in parts]))
    labels = dict.fromkeys(label for part in parts for label in part.labels)
    for label in labels:
        rows.append((f"  {label}", [_share(part.labels.get(label, 0), part.utterances) for part in parts]))
    rows.append(("majority (WA)", [f"{part.majority:.1%}" for part in parts]))
    rows.append(("speakers", [str(part.speakers) for part in parts]))
    if any(part.dialogues for part in parts):
        rows.append(("dialogues", [str(part.dialogues) for part in parts]))
        rows.append(("  turns", [_spread(part.turns, 0) for part in parts]))
    if any(part.seconds for part in parts):
        rows.append(("audio", [f"{part.hours:.2f} h" for part in parts]))
        rows.append(("  seconds", [_spread(part.seconds, 1) for part in parts]))
    if any(part.words for part in parts):
        rows.append(("words", [_spread(part.words, 0) for part in parts]))
    for name in dict.fromkeys(name for part in parts for name in part.modalities):
        rows.append((f"has {name}", [_presence(part, name) for part in parts]))
    first = max(len(name) for name, _ in rows) + 2
    widths = [max(len(cells[column]) for _, cells in rows) + 3 for column in range(len(parts))]
    table = [
        name.ljust(first) + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]
    if any(part.turns or part.seconds or part.words for part in parts):
        table.append("(turns, seconds and words: smallest | 5 % | median | 95 % | largest)")
    return table


def _overlap(check: Check) -> list[str]:
    lines = ["shared by splits"]
    for kind, counts in check.overlap.items():
        lines.append(f"  {kind:<14} " + "   ".join(f"{pair} {count}" for pair, count in counts.items()))
    return lines


def _problems(check: Check) -> list[str]:
    if not check.problems:
        return ["no problems found"]
    totals = Counter((problem.severity, problem.code) for problem in check.problems)
    shown: Counter[tuple[str, str]] = Counter()
    lines = []
    for problem in check.problems:
        kind = (problem.severity, problem.code)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            text = str(problem).replace("\n", "\n         ")
            lines.append(f"{problem.severity:<8} {text}")
        if shown[kind] == totals[kind] > SHOWN:
            lines.append(f"{problem.severity:<8} ... and {totals[kind] - SHOWN} more of this kind ({problem.code})")
    return lines


def _verdict(check: Check) -> str:
    counts = Counter(problem.severity for problem in check.problems)
    found = ", ".join(f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}" for kind in counts)
    verdict = "cannot be trained on" if check.has_errors else "can be trained on"
    return f"{check.name} {verdict}" + (f": {found}" if found else "")


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:6.1%})" if total else "0"


def _spread(values: tuple[float, ...] | None, digits: int) -> str:
    return " | ".join(f"{value:.{digits}f}" for value in values) if values else "-"


def _presence(part: SplitSummary, name: str) -> str:
    count = part.modalities.get(name, 0)
    return "all" if count == part.utterances else f"{count} ({count / max(1, part.utterances):.1%})"
