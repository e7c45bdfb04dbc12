"""From a run's folder to its variants: which trained model stands for each cell, and what it says of each utterance."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analysis.variant import Curve, SplitView, Variant
from experiments.slots import Stage, Status
from mer import sealed
from mer.errors import UserError
from mer.files import plain
from mer.yaml_text import read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from experiments.results.snapshot import Snapshot
    from mer.checkpoint import Checkpoint
    from mer.data.corpus import Corpus, CorpusInfo, Utterance
    from mer.streams import Streams

PARTS: dict[str, type] = {
    "corpora": dict,
    "cells": list,
    "document": dict,
    "metric": str,
    "folds": dict,
    "root_seed": int,
    "resplit": bool,
}
"""What is read here of the `space.yaml` that a run wrote."""


def collect(
    run: Path,
    *,
    data: str | None = None,
    corpus: str | None = None,
    transcripts: bool = True,
    allow_outside: Collection[str] = (),
    device: str | None = None,
) -> list[Variant]:
    """One variant per cell that has a checkpoint, in the order of the space.

    run     the space's folder beside the ledger: `results/fusion_pipeline`
    data    the corpus's folder, where it is not where the run found it
    corpus  which one, where the run has several
    allow_outside  levels from outside that its models may name
    """

    from experiments.results.ledger import Ledger

    described = _read_space(run)
    name = _one_corpus(described, corpus)
    trials, epochs = _table(run, "trials", "trial", "cell", "corpus"), _table(run, "epochs", "trial", "epoch")
    done = trials[
        (trials["stage"] == Stage.CONFIRM) & (trials["status"] == Status.COMPLETE) & (trials["corpus"] == name)
    ]
    checkpoints = run.parent / "checkpoints"
    done = done[[(checkpoints / str(trial) / "model.safetensors").exists() for trial in done["trial"]]]
    if done.empty:
        raise UserError(
            "no trained model is here",
            where=str(run),
            expected=f"checkpoints in {checkpoints}",
            hint="A run keeps the confirmed models unless its space says `keep: none`.",
        )
    opened, recorded = _open_corpus(described, name, data), Ledger(str(run.parent)).refresh()
    labels = variant_names([cell for cell in described["cells"] if cell["corpus"] == name and not cell["skip"]])
    variants = []
    for cell in described["cells"]:
        rows = done[done["cell"] == cell["name"]]
        if cell["corpus"] == name and len(rows):
            found = _variant(
                run, described, cell, labels[cell["name"]], rows, epochs, opened, transcripts, recorded, allow_outside,
                device,
            )  # fmt: skip
            variants.append(found)
    return variants


def variant_names(cells: list[Mapping[str, Any]]) -> dict[str, str]:
    """Short file-safe names: the level where one factor varies, else the cell's own name.

    >>> variant_names([{"name": "a", "levels": {"fusion": "gated", "pooling": "mean"}},
    ...                {"name": "b", "levels": {"fusion": "concat", "pooling": "mean"}}])
    {'a': 'gated', 'b': 'concat'}
    """
    factors = list(cells[0]["levels"]) if cells else []
    varying = [factor for factor in factors if len({str(cell["levels"].get(factor)) for cell in cells}) > 1]
    names: dict[str, str] = {}
    for cell in cells:
        name = str(cell["levels"][varying[0]]) if len(varying) == 1 else str(cell["name"]).replace("=", "-")
        names[cell["name"]] = re.sub(r"[^\w.+-]+", "_", name).strip("_")
    return names


def study_scores(run: Path, variants: list[Variant], split: str) -> dict[str, dict[str, list[float]]]:
    """variant -> metric -> one value per study, from the tables alone (`split`: valid or test)."""

    from mer import metrics

    trials = _table(run, "trials", "trial", "cell", "corpus")
    done = trials[(trials["stage"] == Stage.CONFIRM) & (trials["status"] == Status.COMPLETE)]
    found: dict[str, dict[str, list[float]]] = {}
    for variant in variants:
        rows = done[done["cell"] == variant.cell].sort_values(["study", "fold"])
        found[variant.name] = {name: rows[f"{split}_{name}"].dropna().tolist() for name in metrics.NAMES}
    return found


def _table(run: Path, name: str, *columns: str) -> pd.DataFrame:
    path = run / f"{name}.parquet"
    try:
        frame: pd.DataFrame = sealed.of_a_run(plain(path).read_bytes(), str(path), columns).to_pandas()
    except FileNotFoundError:
        raise UserError("no table of a run is here", where=str(path)) from None
    return frame


def _read_space(run: Path) -> dict[str, Any]:
    if not (run / "space.yaml").exists():
        raise UserError("no run is here", where=str(run), expected="a folder such as results/fusion_vn")
    described = read_yaml(run / "space.yaml")
    if not isinstance(described, dict):
        raise UserError("not the space of a run", where=str(run / "space.yaml"), expected="a mapping")
    wrong = next((name for name, kind in PARTS.items() if not isinstance(described.get(name), kind)), None)
    if not wrong and not all(isinstance(cell, dict) for cell in described["cells"]):
        wrong = "cells"
    if wrong:
        raise UserError(f"not the space of a run: {wrong}", where=str(run / "space.yaml"), expected="what a run wrote")
    return described


def _one_corpus(described: Mapping[str, Any], asked: str | None) -> str:
    names = list(described["corpora"])
    if asked is None and len(names) == 1:
        return str(names[0])
    if asked in names:
        return str(asked)
    problem = f"the run has no corpus {asked!r}" if asked else "the run has several corpora"
    raise UserError(problem, expected=f"--corpus {' or '.join(names)}")


def _open_corpus(described: Mapping[str, Any], name: str, data: str | None) -> Corpus:
    """The corpus the run was made on, checked by its fingerprint."""
    from mer.data.corpus import load_corpus
    from mer.data.places import find_corpus

    declared = described["document"].get("corpora", [name])
    places = [data] if data else [declared] if isinstance(declared, str) else [str(place) for place in declared]
    wanted = described["corpora"][name]["fingerprint"]
    for place in places:
        try:
            found = load_corpus(find_corpus(place))
        except UserError:
            if data:
                raise
            continue
        if found.fingerprint() == wanted:
            return found
        if data:
            raise UserError(f"this is not the corpus of the run: its content is {found.fingerprint()}", where=data,
                            expected=str(wanted))  # fmt: skip
    raise UserError(f"corpus {name!r} is not where the run found it", expected="--data FOLDER")


def _variant(
    run: Path,
    described: Mapping[str, Any],
    cell: Mapping[str, Any],
    name: str,
    rows: pd.DataFrame,
    epochs: pd.DataFrame,
    corpus: Corpus,
    transcripts: bool,
    recorded: Snapshot,
    allow_outside: Collection[str],
    device: str | None,
) -> Variant:
    from mer import metrics
    from mer.checkpoint import load_checkpoint
    from mer.data.folds import folds
    from mer.precision import find_device
    from mer.streams import streams

    metric = described["metric"]
    # Chosen on validation: the test split has no say in which study's model is shown.
    chosen = rows.sort_values(
        [f"valid_{metric}", "study"], ascending=[not metrics.metric(metric).higher_is_better, True]
    ).iloc[0]
    study, fold_number = int(chosen["study"]), int(chosen["fold"])
    trial = str(chosen["trial"])
    checkpoint = load_checkpoint(
        run.parent / "checkpoints" / trial, digests=recorded.models(trial), allow_outside=allow_outside
    )
    checkpoint.model.to(find_device(device))
    seeds = streams(described["root_seed"], cell["corpus"], study, fold_number, "confirm", checkpoint.recipe.replica)
    by = described["folds"]["by"]
    fold = folds(corpus, by, described["folds"]["count"])[fold_number] if by else None
    data = corpus.train_valid(seeds.split if described["resplit"] else None, fold)
    test = corpus.test_set(fold)
    test_view = _view(checkpoint, test.info, test.test, seeds, transcripts)
    return Variant(
        name=name,
        cell=cell["name"],
        trial=str(chosen["trial"]),
        study=study,
        checkpoint=run.parent / "checkpoints" / str(chosen["trial"]),
        labels=checkpoint.info.labels,
        modalities=tuple(name for name in test_view.representations if name != "fused"),
        metric=metric,
        curves=_curves(epochs, rows, metric),
        valid=_view(checkpoint, data.info, data.valid, seeds, transcripts),
        test=test_view,
        synthetic=corpus.info.synthetic,
        random_weights=bool(chosen["random_weights"]),
    )


def _curves(epochs: pd.DataFrame, rows: pd.DataFrame, metric: str) -> tuple[Curve, ...]:
    curves = []
    for trial, study in zip(rows["trial"], rows["study"], strict=True):
        own = epochs[epochs["trial"] == trial].sort_values("epoch")
        loss = own[(own["split"] == "train") & (own["metric"] == "loss")]
        valid = own[(own["split"] == "valid") & (own["metric"] == metric)]
        curves.append(
            Curve(int(study), valid["epoch"].to_numpy(), loss["value"].to_numpy(float), valid["value"].to_numpy(float))
        )
    return tuple(curves)


def _view(
    checkpoint: Checkpoint, info: CorpusInfo, utterances: tuple[Utterance, ...], seeds: Streams, transcripts: bool
) -> SplitView:
    """The model on a split under the complete condition, where it lies and in the precision it was validated in."""
    from mer.data.loading import prepare_split
    from mer.data.store.shared import open_features
    from mer.evaluation import predict
    from mer.model import needs_dialogues

    device = next(checkpoint.model.parameters()).device
    data = prepare_split(info, utterances, checkpoint.model.encoder_table(), open_features(), device)
    everything = np.ones((len(data), len(data.modalities)), dtype=bool)
    found = predict(
        checkpoint.model,
        data,
        everything,
        dialogues=needs_dialogues(checkpoint.recipe),
        precision=checkpoint.recipe.training.precision,
        details=True,
    )
    about = data.sample_info()
    return SplitView(
        ids=data.ids,
        labels=found.labels,
        probabilities=found.probabilities,
        representations=found.representations,
        aux=found.aux,
        speakers=tuple(u.speaker for u in data.utterances),
        files=tuple(u.wav for u in data.utterances),
        transcripts=tuple(u.transcript if transcripts else None for u in data.utterances),
        seconds=about.audio_seconds,
        words=about.text_words,
    )
