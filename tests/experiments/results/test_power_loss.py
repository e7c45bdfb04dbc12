"""Power loss, which SIGKILL cannot show: whatever a disk may hold then, nothing that was told is lost, and the same
command ends with the same tables."""

from __future__ import annotations

import hashlib
import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from experiments.results import ledger as ledger_module
from experiments.results.declared import declare
from experiments.results.ledger import FOLDER, Ledger
from experiments.results.records import TrialRecord
from experiments.schedule import states, worker
from experiments.schedule.fake import FakeWork
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.schedule.work import Spec
from experiments.space.plan import Plan
from mer import sealed
from mer.checkpoint import save_checkpoint
from mer.data.corpus import CorpusInfo
from mer.model import build_model
from mer.recipe import Recipe
from mer.storage import Entry, LocalStore
from tests.experiments.small_run import make_plan, tables
from tests.power import Event, Image, Recorder, images, materialise, unsynced

RECIPE = Recipe.model_validate(
    {
        "encoders": {"audio": {"name": "features"}},
        "fusion": "none",
        "projection": {"dim": 4},
        "classifier": {"hidden": [4]},
        "training": {"epochs": 1},
    }
)
INFO = CorpusInfo(Path("nowhere"), "toy", ("a", "b"), features={"audio": 3})


@dataclass
class RealCheckpoints(FakeWork):
    """Fake trials whose models are real ones, and whose states are as long as some blocks of a disk."""

    def state(self) -> bytes:
        return super().state() + b" " * 4096

    def save_checkpoint(self, member: int, folder: Path, keep: str) -> None:
        save_checkpoint(folder, build_model(RECIPE, INFO, seed=0), RECIPE, INFO, trial=self.specs[member].trial)


def make_work(specs: tuple[Spec, ...]) -> RealCheckpoints:
    return RealCheckpoints(specs)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """States after every epoch, and the ledger merged when eight parts lie about."""
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
    monkeypatch.setattr(worker, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(ledger_module, "LOOSE", 8)


def command(plan: Plan, root: Path, busy: bool = True) -> dict[str, Any]:
    """What `mer run` does to a results folder, in this process; `busy`: with compactions and tables on the way."""
    ledger = Ledger(str(root))
    plan = declare(plan, ledger)
    session = Session(plan, ledger)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += busy
        if busy and ticks % 20 == 0:
            ledger.compact_if_needed()
        if busy and ticks % 150 == 0:
            session.compact_decisions()
            publish(plan, Ledger(str(root)), str(root / plan.space))

    run_inline(session, make_work, str(root), workers=2, tick=tick)
    ledger.compact_if_needed()
    session.compact_decisions()
    publish(plan, Ledger(str(root)), str(root / plan.space))
    session.sweep()
    return tables(root / plan.space)


# ---- an image as the project reads it --------------------------------------------------------------------------


class ImageStore(LocalStore):
    """A disk after the power came back, in memory."""

    def __init__(self, image: Image) -> None:
        super().__init__(Path("image"))
        self.image = image

    def put(self, name: str, data: bytes) -> None:
        self.image[name] = data

    def read(self, name: str) -> bytes:
        if name not in self.image:
            raise FileNotFoundError(name)
        return self.image[name]

    def open(self, name: str) -> Any:
        return io.BytesIO(self.read(name))

    def list(self, folder: str) -> list[Entry]:
        start = f"{folder}/"
        names = (name[len(start) :] for name in self.image if name.startswith(start))
        return [
            Entry(name, 0) for name in sorted(names) if name and "/" not in name and not name.startswith(("_", "."))
        ]

    def remove(self, name: str) -> None:
        self.image.pop(name, None)


@dataclass
class Witness:
    """Knows what was written, and what a reader must find of it."""

    plan: Plan
    events: list[Event]
    rows: dict[tuple[str, int], dict[str, Any]]
    checkpoints: dict[str, dict[str, bytes]]
    expected: dict[str, Any]
    parts: dict[tuple[str, bytes], pa.Table] = field(default_factory=dict)
    whole: dict[tuple[str, bytes], bool] = field(default_factory=dict)
    told: list[frozenset[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        told: set[str] = set()
        for event in self.events:
            if event.act == "told":
                told.add(event.path)
            self.told.append(frozenset(told))

    def complaints(self, number: int, image: Image) -> tuple[list[str], object]:
        """What is wrong with an image of the moment after so many events; and all of it that the same command goes by:
        two images that agree in that are recovered alike."""
        reader = Ledger(ImageStore(dict(image)))
        for name, data in image.items():
            if name.startswith(f"{FOLDER}/") and (name.rpartition("/")[2], _digest(data)) in self.parts:
                part = name.rpartition("/")[2]
                reader._parts[part] = self.parts[part, _digest(data)]
        known = set(reader._parts)
        found = reader.refresh()
        for name in set(reader._parts) - known:
            table = reader._parts[name]
            for row in table.to_pylist():
                if row != self.rows[row["trial"], row["attempt"]]:
                    return [f"{name} shows another attempt than was made"], None
            if f"{FOLDER}/{name}" in image:
                self.parts[name, _digest(image[f"{FOLDER}/{name}"])] = table
        said = [f"{trial} was told to be safe and is lost" for trial in self.told[number - 1] - found.rows.keys()]
        for trial in self.told[number - 1] & self.checkpoints.keys():
            for name, data in self.checkpoints[trial].items():
                if image.get(name) != data:
                    said.append(f"{name} is not what the record of its trial says")
        for name, data in image.items():
            if (
                not name.endswith("/")
                and not name.rpartition("/")[2].startswith("_")
                and not self._is_whole(name, data)
            ):
                said.append(f"{name} is damaged")
        attempts = frozenset(self.rows.keys() & set(zip(*_columns(found.table), strict=True)))
        kept = [
            name
            for name in image
            if name.startswith((f"{states.FOLDER}/", "small/predictions/", f"{FOLDER}/_declared"))
        ]
        return said, (attempts, frozenset((name, _digest(image[name])) for name in kept))

    def _is_whole(self, name: str, data: bytes) -> bool:
        folder = name.rpartition("/")[0]
        if folder == FOLDER or name.startswith("checkpoints/") or "/_corrupt" in folder:
            return True  # seen above
        key = (folder, _digest(data))
        if key not in self.whole:
            try:
                if name.endswith(".parquet"):
                    sealed.read(data, name)
                elif folder == states.FOLDER:
                    assert states.load(ImageStore({name: data}), name.rpartition("/")[2]) is not None
                elif name.endswith(".json"):
                    json.loads(data)
                else:
                    assert data
                self.whole[key] = True
            except (sealed.Damaged, AssertionError, ValueError):
                self.whole[key] = False
        return self.whole[key]


def _columns(table: pa.Table) -> list[list[Any]]:
    return [table["trial"].to_pylist(), table["attempt"].to_pylist()]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()


def below(image: Image) -> Image:
    """The results folder of a disk."""
    return {
        name.removeprefix("results/"): data for name, data in image.items() if name[8:] and name.startswith("results/")
    }


def record(plan: Plan, root: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """An undisturbed run, everything it did to its disk, and everything it was told."""
    append = Ledger.append
    recorder = Recorder(root.parent)

    def telling(self: Ledger, *records: TrialRecord) -> None:
        append(self, *records)
        for found in records:
            recorder.told(found.trial)

    monkeypatch.setattr(Ledger, "append", telling)
    with recorder:
        expected = command(plan, root)
    monkeypatch.setattr(Ledger, "append", append)
    table = Ledger(str(root)).refresh().table
    rows = {(row["trial"], row["attempt"]): row for row in table.to_pylist()}
    checkpoints: dict[str, dict[str, bytes]] = {}
    for path in sorted((root / "checkpoints").rglob("*.*")):
        checkpoints.setdefault(path.parent.name, {})[path.relative_to(root).as_posix()] = path.read_bytes()
    return Witness(plan, recorder.events, rows, checkpoints, expected)


def recovered(witness: Witness, image: Image, root: Path) -> dict[str, Any]:
    """The tables after the same command, on what the disk held."""
    with unsynced():
        return command(witness.plan, materialise(image, root), busy=False)


def sites(witness: Witness) -> list[str]:
    return sorted({event.site for event in witness.events if event.site})


CAUGHT = {
    "files.py:commit (file)",  # a file under its name
    "files.py:commit (folder)",  # its name
    "files.py:make_folder (folder)",  # the name of the folder that it is in
    "files.py:sync_tree (file)",  # a checkpoint's files
    "files.py:sync_tree (folder)",  # their names
    "files.py:commit_folder (folder)",  # the checkpoint's name
}
"""Every place that syncs something, and what would be lost without it."""


def hunt(witness: Witness, each: int, without: str | None = None) -> tuple[int, list[str], dict[object, Image]]:
    """Look at every image: how many differ, what is wrong, and one of each kind that the command would go by."""
    different, said, kinds = set[int](), list[str](), dict[object, Image]()
    for number, whole in images(witness.events, each, without=without):
        image = below(whole)
        different.add(hash(frozenset(image.items())))
        found, decides = witness.complaints(number, image)
        said += found
        if without is not None and said:
            break
        kinds.setdefault(decides, image)
    return len(different), said, kinds


def test_nothing_told_is_lost_and_no_sync_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = record(make_plan(cells=2, studies=1, draws=2), tmp_path / "disk" / "results", monkeypatch)
    count, said, kinds = hunt(witness, 6)
    assert not said
    assert count > 300
    assert set(sites(witness)) == CAUGHT
    for site in sites(witness):
        assert hunt(witness, 6, without=site)[1], f"nobody misses {site}"
    chosen = random.Random(0).sample(sorted(kinds, key=repr), 8)
    for number, key in enumerate(chosen):
        assert recovered(witness, kinds[key], tmp_path / str(number)) == witness.expected


@pytest.mark.slow
def test_ten_thousand_images_of_sixty_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = record(make_plan(cells=3, studies=4, draws=4), tmp_path / "disk" / "results", monkeypatch)
    assert len(witness.rows) == 60
    assert witness.checkpoints
    assert any("compact-" in event.other for event in witness.events)
    count, said, kinds = hunt(witness, 24)
    assert not said
    assert count >= 10_000
    for site in sites(witness):
        assert hunt(witness, 6, without=site)[1], f"nobody misses {site}"
    print(count, len(kinds))
    chosen = random.Random(0).sample(sorted(kinds, key=repr), 60)
    for number, key in enumerate(chosen):
        assert recovered(witness, kinds[key], tmp_path / str(number)) == witness.expected
