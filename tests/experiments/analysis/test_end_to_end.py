"""From a space to the layout of the analysis, on a corpus of features that trains in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main

SPACE = """
corpora: {folder}
metric: wa
base:
  encoders: {{audio: features, text: features}}
  projection.dim: 8
  classifier.hidden: [8]
  training.epochs: 3
factors:
  variant:
    concatenation: {{fusion: {{name: concat, layers: 1}}}}
    weighted: {{fusion: {{name: weighted, layers: 1}}}}
    speech_only: {{fusion: {{name: none, modality: audio}}}}
baseline: {{variant: concatenation}}
tune: {{draws: 1}}
studies: 2
"""


def write_corpus(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "features").mkdir(parents=True)
    centres, frames, row = rng.normal(size=(2, 3, 5)), ([], []), 0
    for split, size in (("train", 30), ("valid", 15), ("test", 30)):
        lines = []
        for number in range(size):
            label = number % 3
            lines.append({"utterance_id": f"{split}{number}", "speaker_id": f"{split}s{number % 2}", "row": row,
                          "transcript": f"secret words {number}", "emotion": "xyz"[label]})  # fmt: skip
            for modality in (0, 1):
                frames[modality].append(centres[modality, label] + rng.normal(size=5))
            row += 1
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for name, found in zip(("audio", "text"), frames, strict=True):
        np.save(folder / "features" / f"{name}.npy", np.asarray(found, dtype=np.float32))
    (folder / "corpus.json").write_text(json.dumps({"name": "tiny", "labels": ["x", "y", "z"]}))


@pytest.mark.slow
def test_the_layout_is_complete_and_keeps_transcripts_out(tmp_path: Path) -> None:
    write_corpus(tmp_path / "tiny")
    (tmp_path / "pipeline.yaml").write_text(SPACE.format(folder=tmp_path / "tiny"))
    results = str(tmp_path / "results")
    assert main(["run", "--space", str(tmp_path / "pipeline.yaml"), "--results", results, "--executor", "inline"]) == 0
    run = tmp_path / "results" / "pipeline"
    assert main(["analyze", str(run), "--no-transcripts", "--out", str(tmp_path / "shared")]) == 0
    assert main(["analyze", str(run), "--no-models"]) == 0
    out = tmp_path / "shared"
    expected = [
        "plots/fusion_variants_comparison.png",
        "fusion_variants_comparison.txt",
        "test_results/test_metrics_comparison.txt",
        "test_results/failure_cases_report.txt",
        "separability/fusion_comparison_all.png",
    ]
    for variant in ("concatenation", "weighted", "speech_only"):
        expected += [
            f"plots/{variant}_training_curves.png",
            f"plots/{variant}_confusion_matrix.png",
            f"test_results/{variant}_test_confusion_matrix.png",
            f"separability/{variant}_temporal_tsne.png",
            f"separability/{variant}_fusion_tsne.png",
            f"best_{variant}_model/model.safetensors",
        ]
    assert [name for name in expected if not (out / name).is_file()] == []
    assert (out / "separability" / "weighted_contextual_tsne.png").is_file()
    assert not (out / "separability" / "speech_only_contextual_tsne.png").exists()
    report = "test_results/failure_cases_report.txt"
    assert "secret" not in (out / report).read_text("utf-8")
    assert "secret words" in (run / report).read_text("utf-8")
    assert "speech_only" not in _helped((out / "fusion_variants_comparison.txt").read_text("utf-8"))


def _helped(text: str) -> str:
    """The part that says where fusion helps: it speaks of fused variants alone."""
    return text.split("minus the best single modality")[1].split("One model each")[0]
