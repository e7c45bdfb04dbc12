"""Damage of every kind to every file below a results folder: a reader shows the truth, or says what is wrong."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.reporting.run import load_run
from experiments.results import accepted, ledger
from experiments.results.decisions import read_decisions
from experiments.results.garbage import find_garbage
from experiments.results.ledger import FOLDER, Ledger
from experiments.results.records import EpochRow, checksum
from experiments.results.status import status
from experiments.schedule import states
from experiments.schedule.fake import MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from mer.errors import UserError
from mer.storage import LocalStore
from tests.experiments.small_run import make_plan

GROUP = 4


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
    monkeypatch.setattr(ledger, "GROUP", GROUP)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a file of every kind: loose and compacted parts, decisions, code, a state, tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
        patch.setattr(ledger, "GROUP", GROUP)
        root = tmp_path_factory.mktemp("sound")
        plan = make_plan(cells=2, studies=2, draws=3)
        for trials in (9, None):
            run_inline(session := Session(plan, Ledger(str(root)), trials=trials), MakeFake(), str(root))
            session.compact_decisions()
            if trials:
                session.ledger.compact()
        publish(plan, Ledger(str(root)), str(root / "small"))
        store = LocalStore(root)
        accepted.write(store, "old", "new", {"trial": "curve"})
        part = states.Part([EpochRow(1, "valid", "ua", 0.5)], 1.0, 1.0)
        states.save(store, "0123456789abcdef", states.Saved([part], 3.0, bytes(range(256)) * 20))
    return root


# ---- reading everything ----------------------------------------------------------------------------------------


def told(read: Callable[[], Any], complaints: list[str]) -> Any:
    """What a reader shows; None where it refuses in words. Anything else that it raises fails the test."""
    try:
        return read()
    except UserError as error:
        complaints.append(str(error))
        return None


def rows_of(table: pa.Table) -> dict[Any, Any]:
    return {(row["trial"], row["attempt"]): row for row in table.to_pylist()}


def readers(root: Path) -> dict[str, Callable[[], Any]]:
    run = root / "small"

    def predictions() -> Any:
        found = load_run(run)
        return [found.predictions("demo", cell).to_dict("records") for cell in found.trials["cell"].unique()]

    return {
        "trials": lambda: load_run(run).trials.to_csv(),
        "epochs": lambda: load_run(run).epochs.to_csv(),
        "scores": lambda: load_run(run).scores.to_csv(),
        "decided": lambda: load_run(run).decisions.to_csv(),
        "predictions": predictions,
        "code": lambda: dict(Ledger(str(root)).equal_code()),
        "state": lambda: states.load(LocalStore(root), "0123456789abcdef"),
    }


def whole_rows(root: Path, reader: Ledger) -> dict[Any, Any]:
    """Every attempt with its predictions."""
    found: dict[Any, Any] = {}
    for table in reader.predictions(reader.refresh()):
        found |= rows_of(table)
    return found


@pytest.fixture(scope="module")
def truth(sound: Path) -> dict[str, Any]:
    reader = Ledger(str(sound))
    found = {name: read() for name, read in readers(sound).items()}
    found |= {"rows": whole_rows(sound, reader), "light": rows_of(reader.refresh().table)}
    found["decisions"] = read_decisions(reader.store, "small")
    assert len(found["rows"]) == 16
    assert found["decisions"]
    assert found["predictions"][0]
    return found


def examine(root: Path, truth: dict[str, Any], caplog: pytest.LogCaptureFixture) -> tuple[int, list[str]]:
    """Let every reader loose on a damaged folder. Returns how many attempts are left, and what was said."""
    said: list[str] = []
    reader = Ledger(str(root))
    light = told(lambda: rows_of(reader.refresh().table), said)
    if light is None:
        return 0, said
    rows = told(lambda: whole_rows(root, reader), said)
    for key, row in light.items():
        assert row == truth["light"][key]
    for key, row in rows.items():
        assert row == truth["rows"][key]
    said += reader.notices
    fresh = Ledger(str(root))
    assert rows_of(fresh.refresh().table).keys() == rows.keys()  # what is set aside is so for everybody, and at once
    decisions = told(lambda: read_decisions(fresh.store, "small"), said)
    assert set(decisions) <= set(truth["decisions"])
    for name, read in readers(root).items():
        shown = told(read, said)
        assert shown is None or shown == truth[name], name
    told(lambda: status(str(root)), said)
    told(lambda: status(str(root / "small")), said)
    told(lambda: find_garbage(str(root)), said)
    fresh.compact(everything=True)
    assert whole_rows(root, Ledger(str(root))) == rows
    said += [record.getMessage() for record in caplog.records]
    lost = rows != truth["rows"] or len(decisions) < len(truth["decisions"])
    assert said or not lost, "something is gone, and nobody was told"
    return len(rows), said


# ---- damage ----------------------------------------------------------------------------------------------------


def flip(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def flip_end(data: bytes, draw: random.Random) -> bytes:
    """In the footer, its length or the magic number, where a small file has few bytes."""
    at = len(data) - 1 - draw.randrange(min(len(data), draw.choice([8, 40, 12_000])))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def zeros(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    size = draw.choice([16, 512, 4096])
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def foreign(data: bytes, draw: random.Random) -> bytes:
    table = draw.choice(
        [
            pa.table({"x": [1, 2]}),
            pa.table({"trial": [None, "a"], "status": [1, 2]}),
            pa.table({"trial": ["a"]}).replace_schema_metadata({"mer.schema": "new"}),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip,
    "flip_end": flip_end,
    "cut": lambda data, draw: data[: draw.randrange(len(data))],
    "zeros": zeros,
    "garbage": lambda data, draw: data + draw.randbytes(draw.choice([1, 8, 5000])),
    "other": lambda data, draw: draw.choice(
        [b"", b"PAR1", b"{}", b"[" * 100_000, b"\xff\xfe", b"null", b'{"old": []}']
    ),
    "foreign": foreign,
}


def hurt(root: Path, seed: int) -> tuple[str, str, list[Path]]:
    """Damage one file, or exchange two. Every kind of file is as likely as another."""
    draw = random.Random(seed)
    kinds: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".yaml":
            folder = path.parent.relative_to(root).as_posix()
            kind = f"{folder}/compact" if path.name.startswith("compact-") else folder
            kinds.setdefault(path.name if folder == "small" else kind, []).append(path)
    kind = draw.choice(sorted(kinds))
    path = draw.choice(kinds[kind])
    how = draw.choice(["swap", *DAMAGES])
    if how == "swap":
        other = draw.choice([p for files in kinds.values() for p in files])
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        return kind, how, [path, other]
    data = DAMAGES[how](path.read_bytes(), draw)
    path.write_bytes(data)
    if how == "foreign" and kind == FOLDER and draw.random() < 0.7:  # with a name that fits it
        path.rename(path.with_name(f"0123456789abcdef-000-x.{checksum(data)}.parquet"))
    return kind, how, [path]


@pytest.mark.parametrize("seed", range(120))
def test_what_is_shown_is_true_and_what_is_lost_is_said(
    seed: int, sound: Path, truth: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "results"))
    kind, how, _ = hurt(root, seed)
    left, _ = examine(root, truth, caplog)
    if not kind.startswith(FOLDER) and how != "swap":
        assert left == len(truth["rows"])
    elif how in ("flip", "flip_end"):  # one bit costs one row group, and in the footer none
        assert left >= len(truth["rows"]) - GROUP
        if how == "flip_end" and kind.endswith("compact"):
            assert left == len(truth["rows"])


def test_a_bit_anywhere_in_the_end_of_a_compacted_part_costs_nothing(
    sound: Path, truth: dict[str, Any], tmp_path: Path
) -> None:
    """The footer, its length, the magic number: where one bit crashed every reader."""
    (part,) = (sound / FOLDER).glob("compact-*.parquet")
    whole, draw = part.read_bytes(), random.Random(0)
    length = int.from_bytes(whole[-8:-4], "little") + 8
    for number, back in enumerate([1, 4, 5, 6, 8, *draw.sample(range(9, length + 24), 40)]):
        root = tmp_path / str(number)
        (root / FOLDER).mkdir(parents=True)
        data = bytearray(whole)
        data[len(whole) - back] ^= 1 << draw.randrange(8)
        (root / FOLDER / part.name).write_bytes(bytes(data))
        reader = Ledger(str(root))
        rows = whole_rows(root, reader)
        assert len(rows) == pq.read_metadata(part).num_rows
        assert rows == {key: truth["rows"][key] for key in rows}
        assert f"{len(rows)} attempts saved" in reader.notices[0]


def test_who_may_only_read_is_told_of_damage_too(sound: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "results"))
    for part in (root / FOLDER).glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:-1])

    class ReadOnly(LocalStore):
        def put(self, name: str, data: bytes) -> None:
            raise UserError("cannot write there")

    reader = Ledger(ReadOnly(root))
    assert len(reader.refresh()) == 0
    assert len(reader.notices) == len(list((root / FOLDER).glob("*.parquet")))
    assert "could not be moved away" in reader.notices[0]


def test_a_disk_that_cannot_be_read_is_not_taken_for_damage(sound: Path, tmp_path: Path, monkeypatch: Any) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "results"))
    before = sorted(path.name for path in (root / FOLDER).iterdir())

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalStore, "open", lambda self, name: Broken(b"x" * 1000))
    with pytest.raises(UserError, match="Input/output error"):
        Ledger(str(root)).refresh()
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == before


def test_a_compacted_part_of_an_earlier_version_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """Its pages have checksums, their headers have none: one bit there showed other values."""
    (part,) = (Path(__file__).parents[2] / "data" / "schema_1" / FOLDER).glob("compact-*.parquet")
    expected = pq.read_table(part)
    names = [name for name in ledger.LIGHT if name in expected.column_names]
    truth = sorted(expected.select(names).to_pylist(), key=str)
    whole, draw = part.read_bytes(), random.Random(0)
    for number in range(40):
        root = tmp_path / str(number)
        (root / FOLDER).mkdir(parents=True)
        (root / FOLDER / part.name).write_bytes(flip(whole, draw) if number else whole)
        reader = Ledger(str(root))
        shown = reader.refresh().table.select(names).to_pylist()
        assert sorted(shown, key=str) == ([] if number else truth)
        assert len(reader.notices) == bool(number)
