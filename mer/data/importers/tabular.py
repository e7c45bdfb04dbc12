"""CSV files with the columns that are needed, or an error that names what is there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.errors import UserError, nearest
from mer.files import read_data


@dataclass(frozen=True)
class Row:
    """One record of a CSV file and the line it ends on."""

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]


def read_csv(path: Path | str, needed: Sequence[str]) -> list[Row]:
    """Every record, with all of the needed columns."""
    path = Path(path)
    try:
        text = read_data(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8", where=str(path), expected="UTF-8") from None
    reader = csv.DictReader(text.splitlines(keepends=True))
    rows = []
    try:
        columns = reader.fieldnames or []
        for column in needed:
            if columns.count(column) != 1:
                many = "no" if column not in columns else "more than one"
                raise UserError(
                    f"there is {many} column {column!r} among {', '.join(columns) or 'none'}",
                    where=f"{path}:1",
                    expected=", ".join(needed),
                    nearest=nearest(column, columns),
                )
        for record in reader:
            short = [column for column in needed if record[column] is None]
            if short:
                raise UserError(f"no value for {', '.join(short)}", where=f"{path}:{reader.line_num}")
            rows.append(Row(reader.line_num, {key: value or "" for key, value in record.items() if key is not None}))
    except csv.Error as error:
        raise UserError(f"is not a csv: {error}", where=f"{path}:{reader.line_num}") from None
    return rows


def whole(text: str) -> int | None:
    """The number that a cell of a table holds, where it is a whole one of 64 bits at most (`3`, `3.0`).

    >>> whole("3"), whole("3.0"), whole("3.5"), whole("inf"), whole("1e400"), whole("")
    (3, 3, None, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if abs(value) < 2**63 and value == int(value) else None
