"""The spaces that ship for IEMOCAP and MELD are planned and run, on made-up corpora of their shape."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.reporting.run import load_run
from experiments.results.ledger import Ledger
from experiments.schedule.run import execute
from experiments.space.load import make_plan
from experiments.space.plan import Plan, Slot, Stage
from mer.data.corpus import load_corpus
from mer.data.store import FeatureStore
from mer.streams import streams
from mer.training import Trainer

SPACES = Path(__file__).parents[3] / "search_spaces"
MODALITIES = ("audio", "visual", "text")
METRICS = ("wa", "ua", "weighted_f1", "macro_f1")
SMALL = ("studies=1", "tune.draws=1", "training.epochs=1", "projection.dim=8")


def write_corpus(folder: Path, name: str, sessions: dict[int, str]) -> Path:
    """Two dialogues a session, six turns each between its woman and its man, with features that know the label."""
    (folder / "features").mkdir(parents=True)
    info = {"name": name, "language": "en", "labels": ["a", "b"], "features": dict.fromkeys(MODALITIES, 4)}
    (folder / "corpus.json").write_text(json.dumps(info))
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    random, labels = np.random.default_rng(0), []
    for session, split in sessions.items():
        for number in range(2):
            dialogue = f"Ses{session:02d}F_impro{number:02d}"
            for turn in range(6):
                label = int(random.random() < 0.5) if turn > 1 else turn
                line = {
                    "utterance_id": f"{dialogue}_{turn:03d}",
                    "speaker_id": f"Ses{session:02d}_{'FM'[turn % 2]}",
                    "dialogue_id": dialogue,
                    "turn": turn,
                    "emotion": "ab"[label],
                    "row": len(labels),
                }
                lines[split].append(json.dumps(line) + "\n")
                labels.append(label)
    for split, found in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(found))
    for modality in MODALITIES:
        values = random.normal(size=(len(labels), 4)) + np.array(labels)[:, None]
        np.save(folder / "features" / f"{modality}.npy", values.astype(np.float32))
    return folder


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is for cannot be seen by a test that does not cut the power; it takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def iemocap(tmp_path: Path) -> str:
    """Five sessions; the last is the published test split."""
    split = {1: "train", 2: "train", 3: "train", 4: "valid", 5: "test"}
    return str(write_corpus(tmp_path / "iemocap", "iemocap", split))


@pytest.fixture
def meld(tmp_path: Path) -> str:
    return str(write_corpus(tmp_path / "meld", "meld", {1: "train", 2: "valid", 3: "test"}))


def run(plan: Plan, folder: Path) -> pd.DataFrame:
    """Run a plan in this process; the test scores of its confirm trials: trial, cell, fold, condition, metric."""
    result = execute(plan, Ledger(str(folder / "results")), executor="inline", progress=False, say=lambda text: None)
    assert result.exit_code == 0, result
    tables = folder / "results" / plan.folder
    trials = pd.read_parquet(tables / "trials.parquet")
    assert set(trials["status"]) == {"complete"}
    confirm = trials[trials["stage"] == "confirm"]
    return pd.read_parquet(tables / "scores.parquet").merge(confirm[["trial", "cell", "fold"]], on="trial")


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_a_space_has_each_part_and_each_condition(name: str, request: pytest.FixtureRequest) -> None:
    plan = make_plan(SPACES / f"cadgl_{name}.yaml", data=[request.getfixturevalue(name)])
    names = {cell.name for cell in plan.cells}
    parts = ("graph", "similarity edges", "reconstruction", "alignment", "ode", "consistency")
    assert {f"parts=no {part}" for part in parts} <= names
    assert all(cell.skip is None for cell in plan.cells)
    patterns = [c for c in plan.conditions if c.missing.get("protocol") == "pattern"]
    kept = {frozenset(c.missing["available"]) for c in patterns}
    assert len(kept) == len(patterns) == 6
    assert frozenset() not in kept
    assert frozenset(MODALITIES) not in kept
    rates = [c.missing.get("rate", 0.0) for c in plan.conditions if c.missing.get("protocol") == "random"]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert len(plan.conditions) == 1 + 6 + 8


def test_sessions_are_left_out_one_at_a_time(iemocap: str, tmp_path: Path) -> None:
    cells = ["parts=all,concat and graph", "train_rate=0.0"]
    plan = make_plan(SPACES / "cadgl_iemocap.yaml", data=[iemocap], sets=SMALL, only=cells)
    scores = run(plan, tmp_path)
    assert sorted(set(scores["fold"])) == [0, 1, 2, 3, 4]
    assert set(scores["n"]) == {12}  # a session's two dialogues, each time
    per_trial = scores.groupby("trial")[["condition", "metric"]].apply(lambda rows: len(rows.drop_duplicates()))
    assert set(per_trial) == {15 * len(METRICS)}
    shown = load_run(tmp_path / "results" / plan.folder).tables["conditions"]
    assert {"average_incomplete", "average_all"} <= {column.key for column in shown.columns}
    tested = pd.concat(
        pd.read_parquet(path) for path in (tmp_path / "results" / plan.folder / "predictions").glob("*.parquet")
    )
    where = tested.merge(scores[["trial", "fold"]].drop_duplicates(), on="trial")
    sessions = where["utterance"].str[:5]
    assert where.groupby("fold")["utterance"].apply(lambda ids: ids.str[:5].nunique()).tolist() == [1] * 5
    assert set(sessions) == {f"Ses{n:02d}" for n in range(1, 6)}


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_one_model_per_condition_is_a_comment_away(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, feature_store: FeatureStore
) -> None:
    """The levels in comments, uncommented: trained and chosen under the condition that they are named after."""
    text = (SPACES / f"cadgl_{name}.yaml").read_text()
    levels = re.findall(r"^    # (.*missing\.train.*)$", text, flags=re.MULTILINE)
    assert len(levels) == 3
    space = tmp_path / "each.yaml"
    space.write_text(re.sub(r"^    # ", "    ", text, flags=re.MULTILINE))
    corpus = request.getfixturevalue(name)
    plan = make_plan(space, data=[corpus], sets=SMALL)
    data = load_corpus(corpus).train_valid()
    kept: dict[str, list[dict[str, float]]] = {}
    for cell in plan.cells:
        if "train_rate" not in cell.name:
            continue
        recipe = plan.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {})
        trainer = Trainer(recipe, data, streams(0, name, 0, 0, "confirm"), store=feature_store, device="cpu")
        for masks in (trainer.train_available(0), trainer.valid_available):
            kept.setdefault(cell.name, []).append(dict(zip(trainer.train.modalities, masks.mean(axis=0), strict=True)))
    for masks in kept["train_rate=only text"]:
        assert masks == {"audio": 0, "visual": 0, "text": 1}
    for masks in kept["train_rate=without text"]:
        assert masks == {"audio": 1, "visual": 1, "text": 0}
    for masks in kept["train_rate=0.5"]:
        assert 0.3 < sum(masks.values()) / 3 < 0.7


def test_every_cell_of_meld_runs(meld: str, tmp_path: Path) -> None:
    plan = make_plan(SPACES / "cadgl_meld.yaml", data=[meld], sets=SMALL)
    scores = run(plan, tmp_path)
    assert set(scores["cell"]) == {cell.name for cell in plan.cells}
    assert set(scores.groupby("trial")["condition"].nunique()) == {15}
    by_condition = scores[scores["metric"] == "ua"].set_index(["trial", "condition"])["value"].unstack()
    # The rate 0.0 takes nothing away, and conditions are other situations than complete.
    assert np.allclose(by_condition["random 0.0"], by_condition["complete"])
    assert not np.allclose(by_condition["only text"], by_condition["complete"])
