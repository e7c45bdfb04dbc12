"""Writes the analysis of a run into its folder, in the layout that users of the fusion pipeline know."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from experiments.analysis import figures, texts
from experiments.analysis.calibration import calibration
from experiments.analysis.collect import collect, study_scores
from experiments.analysis.separability import Separation, project, sample, separation
from experiments.analysis.variant import FloatArray, Variant, part_name
from mer.files import commit_folder, write

PROJECTIONS = ("tsne", "pca", "umap")


def analyze(
    run: Path,
    *,
    out: Path | None = None,
    data: str | None = None,
    corpus: str | None = None,
    transcripts: bool = True,
    models: bool = True,
    allow_outside: Collection[str] = (),
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Analyse every trained variant of a run. Returns the folder it wrote into (default: the run's own).

    ::

        plots/{variant}_training_curves.png            plots/{variant}_confusion_matrix.png
        plots/fusion_variants_comparison.png           fusion_variants_comparison.txt
        plots/reliability.png                          plots/{variant}_weights.png
        test_results/test_metrics_comparison.txt       test_results/{variant}_test_confusion_matrix.png
        test_results/failure_cases_report.txt
        separability/{variant}_{temporal,contextual,fusion}_{tsne,pca,umap}.png
        separability/fusion_comparison_all.png         best_{variant}_model/

    transcripts  False keeps every transcript out of what is written
    models       copy the model that stands for each variant
    allow_outside  levels from outside that its models may name
    """
    out = out or run
    variants = collect(
        run, data=data, corpus=corpus, transcripts=transcripts, allow_outside=allow_outside, device=device
    )
    valid, test = study_scores(run, variants, "valid"), study_scores(run, variants, "test")
    for variant in variants:
        say(f"{variant.name}: {variant.caption}")
        _one_variant(variant, out)
        if models:
            _copy_model(variant, out / f"best_{variant.name}_model")
    _separability(variants, out / "separability", say)
    _comparisons(variants, valid, test, out)
    return out


def _one_variant(variant: Variant, out: Path) -> None:
    plots, results = out / "plots", out / "test_results"
    figures.save(figures.training_curves(variant), plots / f"{variant.name}_training_curves.png")
    figures.save(figures.confusion_matrix(variant, ("valid", "test")), plots / f"{variant.name}_confusion_matrix.png")
    figures.save(figures.confusion_matrix(variant, ("test",)), results / f"{variant.name}_test_confusion_matrix.png")
    weights = dict(_weights(variant))
    if weights:
        picture = figures.gates(variant.name, weights, variant.test, variant.labels, variant.caption)
        figures.save(picture, plots / f"{variant.name}_weights.png")


def _weights(variant: Variant) -> Iterator[tuple[str, FloatArray]]:
    """Gates and modality weights that are one number in 0..1 per utterance, or one per modality."""
    for name, values in variant.test.aux.items():
        columns = values.reshape(len(values), -1)
        if not np.isfinite(columns).all() or columns.min() < 0 or columns.max() > 1 + 1e-6:
            continue
        if columns.shape[1] == 1:
            yield name, columns[:, 0]
        elif columns.shape[1] == len(variant.modalities):
            for column, modality in enumerate(variant.modalities):
                yield f"{name}: {modality}", columns[:, column]
        else:  # a gate per dimension: its mean says which modality is trusted
            yield f"{name} (mean)", columns.mean(axis=1)


def _copy_model(variant: Variant, target: Path) -> None:
    staging = target.with_name(f"_{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(variant.checkpoint, staging)
    commit_folder(staging, target, replace=True)


def _separability(variants: list[Variant], folder: Path, say: Callable[[str], None]) -> None:
    sheet: list[tuple[Variant, dict[str, tuple[FloatArray, Separation | None]]]] = []
    for variant in variants:
        found: dict[str, tuple[FloatArray, Separation | None]] = {}
        drawn = sample(variant.test.labels)
        for representation, x in variant.test.representations.items():
            part = part_name(representation)
            numbers = separation(x, variant.test.labels)
            for method in PROJECTIONS:
                points = project(x[drawn], method)
                if points is None:
                    continue
                if method == "tsne":
                    found[part] = points, numbers
                picture = figures.embedding(variant, part, {method: points}, numbers)
                figures.save(picture, folder / f"{variant.name}_{part}_{method}.png")
            what = part if part == representation else f"{representation} ({part})"
            say(f"separability of {variant.name}, {what}: {numbers or 'too few utterances for numbers'}")
        if found:
            sheet.append((variant, found))
    if sheet:
        figures.save(figures.embedding_sheet(sheet), folder / "fusion_comparison_all.png")


Scores = Mapping[str, Mapping[str, list[float]]]


def _comparisons(variants: list[Variant], valid: Scores, test: Scores, out: Path) -> None:
    names = [variant.name for variant in variants]
    metrics = {
        metric: [test[name][metric] for name in names]
        for metric in ("wa", "ua", "weighted_f1", "macro_f1")
        if all(test[name][metric] for name in names)
    }
    if metrics:
        note = " (synthetic data)" if variants[0].synthetic else ""
        figures.save(figures.comparison(names, metrics, note), out / "plots" / "fusion_variants_comparison.png")
    reliability = figures.reliability(variants, [calibration(variant.test) for variant in variants])
    figures.save(reliability, out / "plots" / "reliability.png")
    _write(out / "fusion_variants_comparison.txt", texts.comparison(variants, valid, test))
    _write(out / "test_results" / "test_metrics_comparison.txt", texts.test_metrics(variants, test))
    _write(out / "test_results" / "failure_cases_report.txt", texts.failure_cases(variants))


def _write(path: Path, text: str) -> None:
    write(path, text.encode())
