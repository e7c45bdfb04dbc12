"""What fails around the training never ends a trial: it blocks the run, or the trial runs again."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from experiments.results.ledger import Ledger
from experiments.schedule import run as running
from experiments.schedule.fake import FakeWork, MakeFake
from experiments.schedule.run import execute
from experiments.schedule.worker import Worker
from mer.errors import UnfitMachine, UserError
from mer.storage import LocalStore, StoreUnreachable
from tests.experiments.small_run import make_plan, tables

NUMBERS = [
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT,
]  # fmt: skip
ERRORS: list[Callable[[], Exception]] = [
    *(lambda number=number: OSError(number, os.strerror(number)) for number in NUMBERS),  # type: ignore[misc]
    lambda: StoreUnreachable("the object store has not answered for 300 s"),
    lambda: SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    lambda: MemoryError("while writing"),
]


def quiet(root: Path, **options: Any) -> Any:
    settings = {"executor": "inline", "progress": False, "make_work": MakeFake(), "say": lambda text: None, **options}
    return execute(make_plan(cells=2, studies=2, draws=3), Ledger(str(root)), **settings)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are saved, decisions written and tables published as often as can be."""
    monkeypatch.setattr("experiments.schedule.worker.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("experiments.results.decisions.EVERY_S", 0.0)
    monkeypatch.setattr("experiments.schedule.run.PUBLISH_EVERY_S", 0.2)
    monkeypatch.setattr("experiments.schedule.run.PUBLISH_SHARE", 1.0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
        root = tmp_path_factory.mktemp("undisturbed")
        assert quiet(root).exit_code == 0
        return tables(root / "small")


@contextmanager
def faulty(fail: Callable[[int, str], Exception | None]) -> Iterator[list[str]]:
    """A disk whose n-th act (open, write, sync, rename, listing, removal) may fail; all acts by name."""
    acts: list[str] = []

    def wrapped(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*words: Any, **named: Any) -> Any:
            acts.append(name)
            error = fail(len(acts), name)
            if isinstance(error, SafetensorError) and name != "checkpoint":
                error = OSError(errno.ENOSPC, "what the library would have met")
            if error is not None:
                raise error
            return act(*words, **named)

        return tried

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(f"os.{name}", wrapped(name, getattr(os, name)))
        for name in ("put", "read", "open", "list", "remove", "_replacing"):
            patch.setattr(LocalStore, name, wrapped(name, getattr(LocalStore, name)))
        patch.setattr(FakeWork, "save_checkpoint", wrapped("checkpoint", FakeWork.save_checkpoint))
        patch.setattr("experiments.schedule.session.states.sweep", wrapped("sweep", lambda store, done: 0))
        yield acts


def check(root: Path, fail: Callable[[int, str], Exception | None], undisturbed: dict[str, Any]) -> int:
    """Run into a fault, see that no verdict was written, run again. How many acts there were up to the fault's end."""
    with faulty(fail) as acts:
        try:
            code = quiet(root).exit_code
        except UserError as error:
            code = error.exit_code
    found = Ledger(str(root)).refresh().table["status"].to_pylist()
    assert set(found) <= {"complete", "pruned"}
    rows = tables(root / "small")["trials"] if (root / "small" / "trials.parquet").exists() else []
    assert {row["status"] for row in rows} <= {"complete", "pruned", "missing"}
    assert (code == 0) == (bool(rows) and all(row["status"] != "missing" for row in rows)) or code == 2
    assert quiet(root).exit_code == 0
    assert tables(root / "small") == undisturbed
    return len(acts)


def once(at: int, make: Callable[[], Exception]) -> Callable[[int, str], Exception | None]:
    return lambda number, name: make() if number == at else None


@pytest.mark.parametrize("kind", range(len(ERRORS)))
def test_an_error_at_any_act_of_the_disk(kind: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    draw = random.Random(kind)
    with faulty(lambda number, name: None) as acts:
        assert quiet(tmp_path / "count").exit_code == 0
    for at in draw.sample(range(1, len(acts) + 1), 2):
        check(tmp_path / str(at), once(at, ERRORS[kind]), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_an_error_at_every_act_of_the_disk(part: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    for number in itertools.count(part, 4):
        at = 8 * number + 1
        if check(tmp_path / str(at), once(at, ERRORS[number % len(ERRORS)]), undisturbed) < at:
            break


@pytest.mark.parametrize("kind", [0, 2, len(ERRORS) - 2, len(ERRORS) - 1])
@pytest.mark.parametrize("what", ["put", "replace", "checkpoint", "open"])
def test_a_disk_that_stays_broken(what: str, kind: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """From some moment on everything of a kind fails, as on a full disk, and then the disk is mended."""
    seen = Counter[str]()

    def fail(number: int, name: str) -> Exception | None:
        seen[name] += 1
        return ERRORS[kind]() if name == what and seen[name] > 12 * (what != "checkpoint") else None

    check(tmp_path, fail, undisturbed)


class Unreadable(FakeWork):
    """Its corpus or feature store cannot be read for a while."""

    left = 0
    error: Callable[[], Exception]

    def epoch(self) -> list[Any]:
        if Unreadable.left and self.epochs_done == 2:
            Unreadable.left -= 1
            raise Unreadable.error()
        return super().epoch()

    def finish(self, member: int) -> Any:
        if Unreadable.left:
            Unreadable.left -= 1
            raise Unreadable.error()
        return super().finish(member)


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as cause:
            raise error from cause
    except Exception as found:
        return found


@pytest.mark.parametrize("left", [1, 2, 50])
@pytest.mark.parametrize(
    "make",
    [
        lambda: OSError(errno.ESTALE, "Stale file handle"),
        lambda: FileNotFoundError(errno.ENOENT, "No such file", "clip.wav"),
        lambda: wrapped(RuntimeError("cannot decode")),
        lambda: wrapped(UserError("the audio file does not exist")),
        lambda: UserError("the audio cannot be decoded: System error.", where="clip.wav"),
        lambda: UnfitMachine("cannot write features: no space left on device"),
        lambda: StoreUnreachable("the object store has not answered for 300 s"),
    ],
)
def test_a_corpus_that_cannot_be_read_for_a_while(
    left: int, make: Callable[[], Exception], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    Unreadable.left, Unreadable.error = left, staticmethod(make)  # type: ignore[assignment]
    with suppress(UserError):
        quiet(tmp_path, make_work=Unreadable)
    Unreadable.left = 0
    assert set(Ledger(str(tmp_path)).refresh().table["status"].to_pylist()) <= {"complete", "pruned"}
    assert quiet(tmp_path).exit_code == 0
    assert tables(tmp_path / "small") == undisturbed


def test_what_the_training_itself_raises_is_a_verdict(tmp_path: Path) -> None:
    class Wrong(FakeWork):
        def epoch(self) -> list[Any]:
            raise ValueError("shapes do not match")

    result = quiet(tmp_path, make_work=Wrong)
    assert result.exit_code == 3
    assert result.counts["failed"] == 10


def test_what_an_earlier_version_took_for_failed_is_run_again_when_asked(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("experiments.schedule.worker.without_verdict", lambda error: None)
        Unreadable.left, Unreadable.error = 2, staticmethod(lambda: OSError(errno.EIO, "i/o"))  # type: ignore[assignment]
        assert quiet(tmp_path, make_work=Unreadable).counts["failed"] == 2
    assert quiet(tmp_path).exit_code == 3
    assert quiet(tmp_path, retry=True).exit_code == 0
    assert tables(tmp_path / "small") == undisturbed


# ---- side outputs ----------------------------------------------------------------------------------------------

SIDE = {
    "experiments.schedule.tensorboard.Board.write": "curves for TensorBoard cannot be written",
    "experiments.schedule.progress.Progress.update": "progress cannot be shown",
    "experiments.schedule.progress.Progress.close": "progress cannot be shown",
    "experiments.results.provenance.energy_j": "energy cannot be read",
    "experiments.results.provenance.here": "source and machine cannot be looked up",
    "experiments.schedule.fake.FakeWork.memory_mb": "memory cannot be read",
    "experiments.results.ledger.Ledger.compact_if_needed": "the ledger's files cannot be merged",
    "experiments.schedule.states.drop": "saved states of finished trials cannot be removed",
    "experiments.schedule.states.sweep": "saved states of finished trials cannot be removed",
    "experiments.schedule.run._Publisher.now_and_then": "tables cannot be written on the way",
}
MEASURED = {"energy_j", "commit", "dirty", "versions", "hardware", "host", "peak_memory_mb"}


def unmeasured(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        for name, rows in found.items()
    }


@pytest.mark.parametrize("error", [OSError(5, "broken"), MemoryError("broken"), ValueError("broken")])
@pytest.mark.parametrize("target", SIDE)
def test_a_side_output_that_fails_is_said_once_and_changes_nothing(
    target: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    def broken(*words: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(target, broken)
    monkeypatch.setattr(running, "_boards", lambda *words: str(tmp_path / "boards"))
    said: list[str] = []
    assert quiet(tmp_path, say=said.append, progress=True).exit_code == 0
    assert [line for line in said if "and the run goes on without" in line] == [
        f"note: {SIDE[target]}, and the run goes on without: {type(error).__name__}: {error}"
    ]
    assert unmeasured(tables(tmp_path / "small")) == unmeasured(undisturbed)


def test_final_tables_that_cannot_be_written_are_an_error_and_the_ledger_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    for error in (OSError(errno.EIO, "Input/output error"), MemoryError("tables"), ValueError("tables")):
        with monkeypatch.context() as patch:
            patch.setattr("experiments.schedule.publish.write_tables", lambda *words, error=error: broken(error))
            with pytest.raises(UserError, match=r"the tables cannot be written: .*(Input/output|tables)"):
                quiet(tmp_path)
        assert len(Ledger(str(tmp_path)).refresh()) == len(undisturbed["trials"])
    assert quiet(tmp_path).done == {}
    assert tables(tmp_path / "small") == undisturbed


def broken(error: Exception) -> None:
    raise error


def test_a_run_that_can_do_nothing_more_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its cause, a slot with no record is never passed over in silence."""
    results = Worker._results
    forgotten: list[object] = []

    def forget(self: Worker, held: Any, verdicts: Any) -> Any:
        if verdicts and not forgotten:
            forgotten.append(verdicts)
            return results(self, held, ())
        return results(self, held, verdicts)

    monkeypatch.setattr(Worker, "_results", forget)
    result = quiet(tmp_path)
    assert (result.exit_code, result.counts.get("missing", 0) > 0) == (3, True)
    assert result.reason
