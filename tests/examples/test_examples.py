"""The examples do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.import_corpus import EMOTIONS, import_ravdess
from mer.contracts import check_fusion
from mer.data.check import check_corpus
from mer.data.corpus import load_corpus

ROOT = Path(__file__).parents[2]


def test_the_fusion_keeps_its_contract() -> None:
    report = check_fusion("examples.deep_gate:DeepGate")
    assert report.passed, f"\n{report}"


def test_the_fusion_gets_its_row(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "deep_gate.py")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "examples.deep_gate:DeepGate" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("difference ")


def test_the_importer_writes_a_corpus_that_can_be_trained_on(tmp_path: Path) -> None:
    import soundfile

    source = tmp_path / "Audio_Speech_Actors_01-24"
    rng = np.random.default_rng(0)
    for actor in range(1, 25):
        (source / f"Actor_{actor:02}").mkdir(parents=True)
        for emotion in EMOTIONS:
            name = f"03-01-{emotion}-01-{1 + actor % 2:02}-01-{actor:02}.wav"
            soundfile.write(source / f"Actor_{actor:02}" / name, 0.1 * rng.standard_normal(8000), 16_000)
    corpus = load_corpus(import_ravdess(source, tmp_path / "ravdess"))
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [18 * 8, 2 * 8, 4 * 8]
    assert {u.speaker for u in corpus.test} == {f"actor{n}" for n in range(21, 25)}
    assert corpus.train[4].emotion == "angry"
    assert not check_corpus(corpus.info.folder).has_errors


@pytest.mark.slow
def test_the_notebook_runs_and_draws(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "from_trials_to_figure.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the notebook's outputs before committing"
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "differences.pdf").stat().st_size > 5000
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "display_data"
    ]
    assert len(pictures) == 1
