"""The spaces that ship for IEMOCAP and MELD can be planned, on corpora of their shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.space.load import make_plan

SPACES = Path(__file__).parents[3] / "search_spaces"
MODALITIES = ("audio", "visual", "text")


def corpus(folder: Path, name: str) -> Path:
    """Three sessions of a dialogue each with random features."""
    (folder / "features").mkdir(parents=True)
    info = {"name": name, "language": "en", "labels": ["a", "b"], "features": dict.fromkeys(MODALITIES, 4)}
    (folder / "corpus.json").write_text(json.dumps(info))
    row = 0
    for session, split in enumerate(("train", "valid", "test"), start=1):
        lines = []
        for turn in range(4):
            dialogue = f"Ses{session:02d}F_impro01"
            lines.append(
                {
                    "utterance_id": f"{dialogue}_{turn:03d}",
                    "speaker_id": f"Ses{session:02d}_{'FM'[turn % 2]}",
                    "dialogue_id": dialogue,
                    "turn": turn,
                    "emotion": "ab"[turn // 2],
                    "row": row,
                }
            )
            row += 1
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for modality in MODALITIES:
        values = np.random.default_rng(0).normal(size=(row, 4)).astype(np.float32)
        np.save(folder / "features" / f"{modality}.npy", values)
    return folder


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_a_space_can_be_planned(name: str, tmp_path: Path) -> None:
    plan = make_plan(SPACES / f"cadgl_{name}.yaml", data=[str(corpus(tmp_path / name, name))])
    names = {cell.name for cell in plan.cells}
    parts = ("graph", "similarity edges", "reconstruction", "alignment", "ode", "consistency")
    assert {f"parts=no {part}" for part in parts} <= names
    assert all(cell.skip is None for cell in plan.cells)
    assert len(plan.conditions) == 7 + 8
