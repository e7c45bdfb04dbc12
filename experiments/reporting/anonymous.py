"""A copy of a run, or of a results folder, that does not say who made it: for double-blind review.

Every text in every table, setting and page goes through `Mask.text`: host and user names, paths, addresses, commits,
e-mail addresses and time zones become `host1`, `path2`, ...; the same name becomes the same word everywhere, so that
the tables still join. Clock times are moved so that the first one is the start of the year 2000: how long things took
stays. The report is made anew from the copy. What cannot be made anonymous is left out: the ledger, TensorBoard's
files, resume states.
"""

from __future__ import annotations

import datetime as dt
import getpass
import io
import platform
import re
import shutil
import uuid
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mer.contracts.subjects import TABLES as TABLES_OF_LEVELS
from mer.errors import UserError
from mer.files import commit_folder, data_file, make_folder, read_data
from mer.recipe import Recipe
from mer.yaml_text import dump_yaml, read_yaml

START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
NOTICE = (
    "Anonymous copy: names of hosts and users, paths, addresses, commits, e-mail addresses and time zones were "
    "replaced, and clock times moved."
)
LEFT_OUT = (
    "Left out: the ledger, TensorBoard's files, models. Kept as you wrote them: names of spaces, levels, corpora, "
    "speakers and modules of your own; look through them."
)
SETTINGS = ("tuning", "folds", "resources", "declared")
"""Parts of space.yaml whose keys are this project's words."""

TABLES = ("*.parquet", "predictions/*.parquet", "imported/*.parquet")

GENERIC = frozenset(
    re.findall(
        r"\S+",
        "root user users ubuntu debian admin administrator runner ray mer home work data localhost nobody jovyan "
        "vagrant ec2-user centos slurm student lab guest test demo train valid text audio visual video",
    )
)
"""Accounts and hosts that tell nothing about anybody, and words of the field that must not be rewritten."""

_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?")
_EMAIL = re.compile(r"[^\s@<>()\[\]'\",;:=]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"\b[a-zA-Z][\w+.-]*://[^\s'\"<>]+")
_PATH = re.compile(
    r"""(?<=['"`])(?:~[\w.-]*)?/[^'"`\n]*(?=['"`])"""  # quoted: may hold spaces
    r"""|(?<![\w/.~])(?:~[\w.-]*)?/[^\s'"`<>|,;()]*[^\s'"`<>|,;:.()]"""
    r"""|(?<![A-Za-z])[A-Za-z]:[\\/][^\s'"`<>|,;]*|\\\\[\w.-]+\\[^\s'"`<>|,;]*"""
)
_WHOLE_PATH = re.compile(r"(?:~[\w.-]*)?/.*|[A-Za-z]:[\\/].*|\\\\.*", re.DOTALL)
_HOME = re.compile(
    r"(?:/home|/Users|\\Users|/export/home|/mnt/home|/scratch|/net/home)[\\/]+([^\\/'\"`\n]+)", re.IGNORECASE
)
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])")
_COMMIT = re.compile(r"(?<![0-9a-zA-Z])(?:[+.]?g)?[0-9a-f]{40}(?![0-9a-zA-Z])|\+g[0-9a-f]{7,}(?:\.d\d+)?")
_ZONES = re.compile(
    r"\b(?:"
    + "|".join(sorted((re.escape(z) for z in zoneinfo.available_timezones() if "/" in z), key=len, reverse=True))
    + r")\b"
)


_IP6 = re.compile(  # and the addresses of network cards
    r"(?<![\w:.])(?:(?:[0-9a-f]{1,4}:){5,7}[0-9a-f]{1,4}|[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*::(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?)"
    r"(?:%\w+)?(?![\w:])",
    re.IGNORECASE,
)
_DAY = re.compile(  # dates that are not stamps, as ctime, logs and people write them
    r"(?<![\w.-])(?:\d{4}[-/]\d\d?[-/]\d\d?(?!T\d\d:\d\d)|\d\d?[./]\d\d?[./]\d{4}|20\d{6}[T_-]?\d{6}Z?)(?![\d.-]*\d)"
    r"|\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\w*,? +)?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\w* +\d\d?,?"
    r"(?: +\d\d?:\d\d(?::\d\d)?)?(?: +\w{3,4})? +\d{4}\b"
)
_OFFSET = re.compile(r"\b(?:UTC|GMT) ?[+-] ?\d\d?(?::?\d\d)?\b")

KINDS = (
    (_URL, "address"), (_EMAIL, "email"), (_PATH, "path"), (_IP, "host"), (_IP6, "host"), (_COMMIT, "commit"),
    (_ZONES, "zone"), (_OFFSET, "zone"), (_DAY, "date"),
)  # fmt: skip


class Mask:
    """Replaces what identifies people and machines, each name by one word of its own.

    >>> Mask(hosts={"gpu7"}, users={"jdoe"}).text("gpu7: cannot read /home/jdoe/a.wav (mail jdoe@uni.edu)")
    'host1: cannot read path1 (mail email1)'
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        users: Iterable[str] = (),
        commits: Iterable[str] = (),
        offset: dt.timedelta | None = None,
    ) -> None:
        self.offset = offset or dt.timedelta()
        self._words: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._known: dict[str, str] = {}
        for kind, names in (("commit", commits), ("host", hosts), ("user", users)):
            for name in sorted(names):
                self._known.setdefault(name.lower(), kind)
        for name in sorted(self._known):
            self.word(self._known[name], name)
        self._tokens = self._pattern()
        self._seen: dict[str, str] = {}

    def word(self, kind: str, name: str) -> str:
        key = (kind, name.lower())
        while key not in self._words:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            found = f"{kind}{self._counts[kind]}"
            if found not in self._known:  # there are hosts that are called host1
                self._words[key] = found
        return self._words[key]

    def _pattern(self) -> re.Pattern[str] | None:
        """Long names are found wherever they stand, short ones as words of their own."""
        found = []
        for name in sorted(self._known, key=lambda name: (-len(name), name)):
            kind, escaped = self._known[name], re.escape(name)
            if kind == "commit":
                found.append(rf"(?<![0-9a-f]){re.escape(name[:7])}[0-9a-f]*(?![0-9a-z])")
            elif len(name) >= 4:
                found.append(escaped)
            else:
                found.append(rf"(?<![^\W_]){escaped}(?![^\W_])")
        return re.compile("|".join(found), re.IGNORECASE) if found else None

    def text(self, value: str) -> str:
        if value not in self._seen:
            self._seen[value] = self._masked(value)
        return self._seen[value]

    def _masked(self, value: str) -> str:
        value = _STAMP.sub(self._moved, value)
        if _WHOLE_PATH.fullmatch(value) and len(value) > 1:
            return self.word("path", value)
        for pattern, kind in KINDS:
            value = pattern.sub(lambda match, kind=kind: self.word(kind, match[0]), value)  # type: ignore[misc]
        return value if self._tokens is None else self._tokens.sub(self._token, value)

    def _token(self, match: re.Match[str]) -> str:
        name = match[0].lower()
        if name in self._known:
            return self.word(self._known[name], name)
        whole = next((known for known in sorted(self._known) if known.startswith(name[:7])), name)
        return self.word("commit", whole)

    def _moved(self, match: re.Match[str]) -> str:
        text = match[0].replace("UTC", "").strip()
        try:
            found = dt.datetime.fromisoformat(text)
        except ValueError:
            return match[0]
        found = found if found.tzinfo else found.replace(tzinfo=dt.UTC)
        return self.time(found.astimezone(dt.UTC)).isoformat()

    def time(self, value: dt.datetime) -> dt.datetime:
        return value - self.offset

    # ---- structures ------------------------------------------------------------------------------------------

    def plain(self, value: Any) -> Any:
        """The same for all texts in a mapping or list, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.plain(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if isinstance(value, dt.datetime):
            return self.time(value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat()
        return value

    def table(self, table: pa.Table) -> pa.Table:
        columns = [self._column(name, table[name]) for name in table.column_names]
        fields = [field.with_name(self.text(field.name)) for field in table.schema]
        own = {
            k.decode(): self.text(v.decode()) for k, v in (table.schema.metadata or {}).items() if k.startswith(b"mer.")
        }
        return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=own or None))

    def _column(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        if pa.types.is_timestamp(kind):
            moved = [None if value is None else self.time(value) for value in column.to_pylist()]
            return pa.chunked_array([pa.array(moved, kind)])
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            distinct = [value for value in pc.unique(column).to_pylist() if value is not None]
            whole = name if name in ("host", "commit") else None
            masked = {value: self.word(whole, value) if whole else self.text(value) for value in distinct}
            if all(key == value for key, value in masked.items()):
                return column
            return pa.chunked_array([pa.array([masked.get(value) for value in column.to_pylist()], kind)])
        if pa.types.is_nested(kind):
            if pa.types.is_list(kind) and not (
                pa.types.is_nested(kind.value_type) or pa.types.is_string(kind.value_type)
            ):
                return column
            return pa.chunked_array([pa.array(self.plain(column.to_pylist()), kind)])
        return column


# ---- folders ---------------------------------------------------------------------------------------------------


def anonymous_copy(source: Path, target: Path) -> list[Path]:
    """Copy a run, or every run of a results folder, without what identifies its makers; returns the runs' reports."""
    from experiments.reporting.build import build_report

    single = (source / "trials.parquet").is_file()
    runs = [source] if single else sorted(path.parent for path in source.glob("*/trials.parquet"))
    if not runs:
        raise UserError(
            "neither a run nor a results folder", where=str(source), expected="a folder with trials.parquet"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            "there is something already", where=str(target), expected="a new or empty folder for the copy",
            hint="Remove it, or name another with --out DIR.",
        )  # fmt: skip
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError("the copy would lie inside what is copied", where=str(target), expected="a folder beside it")
    mask = _mask_for(runs)
    staging = target.with_name(f"_{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        for run in runs:
            place = staging if single else staging / _folder_name(mask.text(run.name))
            _copy_run(run, make_folder(place), mask)
            build_report(place)
        commit_folder(staging, target)
    except OSError as error:
        raise UserError(f"the copy cannot be written: {error.strerror or error}", where=str(target)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sorted(target.glob("report/index.html" if single else "*/report/index.html"))


def _copy_run(run: Path, place: Path, mask: Mask) -> None:
    for pattern in TABLES:
        for number, path in enumerate(sorted(p for p in run.glob(pattern) if not p.name.startswith("_"))):
            name = path.name if pattern == "*.parquet" else f"{path.parent.name}/{number:04d}.parquet"
            sink = io.BytesIO()
            pq.write_table(mask.table(_table(path)), sink, compression="zstd", version="2.6")
            (make_folder((place / name).parent) / Path(name).name).write_bytes(sink.getvalue())
    document = mask.plain(read_yaml(run / "space.yaml"))
    document["notices"] = [*(document.get("notices") or []), NOTICE]
    text = dump_yaml(document)
    (place / "space.yaml").write_text(text, "utf-8")


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-._") or "run"


def _mask_for(runs: list[Path]) -> Mask:
    """What must not be seen in a copy: the names of this machine and account, and those that the tables hold."""
    hosts, users = {platform.node()}, set(_accounts())
    commits: set[str] = set()
    first: dt.datetime | None = None
    for run in runs:
        table = _table(run / "trials.parquet")
        for name, kept in (("host", hosts), ("commit", commits)):
            if name in table.column_names:
                kept |= {value for value in pc.unique(table[name]).to_pylist() if value}
        if "started" in table.column_names and table["started"].null_count < len(table):
            started = pc.min(table["started"]).as_py()
            first = started if first is None else min(first, started)
        for text in _texts(run):
            users |= set(_HOME.findall(text)) | {match.partition("@")[0] for match in _EMAIL.findall(text)}
    hosts |= {part for name in hosts for part in _host_parts(name)}
    own = GENERIC | _own_words(runs)
    keep = {name for name in hosts | users if len(name) > 1 and name.lower() not in own and not name.isdecimal()}
    offset = dt.timedelta() if first is None else first - START
    return Mask(hosts & keep, (users & keep) - hosts, commits, offset)


def _own_words(runs: Iterable[Path]) -> frozenset[str]:
    """Words of recipes and settings: an account called `grace` must not rename what a table or a report reads."""
    found: set[str] = set()
    left: list[Any] = [Recipe.model_json_schema(), *(list(table) for table in TABLES_OF_LEVELS.values())]
    for run in runs:
        document = read_yaml(run / "space.yaml")
        found |= set(document)
        left += [list(document[name]) for name in SETTINGS if isinstance(document.get(name), Mapping)]
        left += [list(one) for name in ("contrasts", "conditions") for one in document.get(name) or ()]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            found |= set(part)
            left += part.values()
        elif isinstance(part, list):
            left += part
        elif isinstance(part, str) and part.isidentifier():
            found.add(part)
    return frozenset(word.lower() for word in found)


def _host_parts(name: str) -> Iterator[str]:
    """Of `gpu7.lab.uni.edu`: the machine, and each domain that it is in."""
    first, _, domain = name.partition(".")
    yield first
    while "." in domain:
        yield domain
        domain = domain.partition(".")[2]


def _accounts() -> Iterator[str]:
    for find in (getpass.getuser, lambda: Path.home().name):
        try:
            yield find()
        except (OSError, KeyError, RuntimeError):
            continue


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(data_file(path))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"damaged: {str(error).splitlines()[0]}", where=str(path)) from None


def _texts(run: Path) -> Iterator[str]:
    """Every text of a run that may name somebody."""
    yield read_data(run / "space.yaml").decode("utf-8", "replace")
    for pattern in TABLES:
        for path in run.glob(pattern):
            table = _table(path)
            for name in table.column_names:
                if pa.types.is_string(table[name].type):
                    yield from (value for value in pc.unique(table[name]).to_pylist() if value)
