"""The text reports: comparisons of variants and failure cases, plain enough for a terminal or an appendix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.analysis.calibration import calibration
from experiments.analysis.failures import Part, by_length, by_speaker, error_overlaps, error_pairs, never_right
from experiments.analysis.variant import FloatArray, Variant
from mer import metrics

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""variant -> metric -> one value per study."""


def title(text: str) -> list[str]:
    return [text, "=" * len(text), ""]


def provenance(variants: Sequence[Variant]) -> list[str]:
    lines = []
    if any(variant.synthetic for variant in variants):
        lines.append("The corpus is synthetic: these numbers say nothing about people.")
    if any(variant.random_weights for variant in variants):
        lines.append("Encoders have random weights: these numbers say nothing about the encoders.")
    return [*lines, ""] if lines else []


def comparison(variants: Sequence[Variant], valid: Scores, test: Scores) -> str:
    """Validation and test scores over studies, per class, and where fusion helps over the best single modality."""
    lines = title("Comparison of variants") + provenance(variants)
    lines += ["Mean over studies ± standard deviation (n studies), percent.", ""]
    lines += [*_score_table("Validation (best epoch; chosen on, hence optimistic)", variants, valid), ""]
    lines += [*_score_table("Test (scored once per study)", variants, test), ""]
    lines += ["F1 per class on test (the model named above each figure)", "-" * 55]
    lines += [*_per_class_f1(variants), ""]
    lines += [*_easiest_and_hardest(variants), ""]
    lines += _where_fusion_helps(variants)
    return "\n".join(lines).rstrip() + "\n"


def test_metrics(variants: Sequence[Variant], test: Scores) -> str:
    """Test scores over studies, then precision, recall, F1 and support per class of each variant's model."""
    lines = title("Test metrics") + provenance(variants)
    lines += _score_table("Mean over studies ± standard deviation (n studies), percent", variants, test)
    for variant in variants:
        view = variant.test
        found = metrics.per_class(view.labels, view.predicted, len(variant.labels))
        ece = calibration(view).error
        lines += ["", f"{variant.name} ({variant.caption})", "-" * len(variant.name)]
        lines += [f"calibration error (ECE, 10 bins) {100 * ece:.1f} %", ""]
        width = max(len(label) for label in variant.labels)
        lines.append(f"{'class':{width}}  precision  recall     F1  support")
        for number, label in enumerate(variant.labels):
            values = [found.precision[number], found.recall[number], found.f1[number]]
            cells = "  ".join(f"{_percent(value):>{w}}" for value, w in zip(values, (9, 6, 5), strict=True))
            lines.append(f"{label:{width}}  {cells}  {found.support[number]:7d}")
    return "\n".join(lines).rstrip() + "\n"


def failure_cases(variants: Sequence[Variant]) -> str:
    """Top error pairs with concrete cases per variant, shared errors, worst speakers and lengths."""
    lines = title("Failure cases on the test split") + provenance(variants)
    for variant in variants:
        view = variant.test
        wrong = int(view.wrong.sum())
        lines += title(f"{variant.name} ({variant.caption})")
        lines += [f"{wrong} of {len(view.ids)} utterances misclassified ({100 * wrong / len(view.ids):.1f} %)", ""]
        for rank, pair in enumerate(error_pairs(variant, variants), 1):
            lines.append(f"{rank}. {pair.true} taken for {pair.predicted}: {pair.count} of {pair.support}")
            for case in pair.cases:
                name = case.file or case.utterance
                lines.append(f"   - {name}  (speaker {case.speaker})")
                if case.transcript:
                    lines.append(f'     "{case.transcript}"')
                sure = f"p({pair.predicted}) = {case.probability_predicted:.2f}"
                sure += f", p({pair.true}) = {case.probability_true:.2f}"
                others = ", ".join(case.right) if case.right else "none"
                lines.append(f"     {sure}; right in: {others}")
            lines.append("")
        lines += _parts("Worst speakers", by_speaker(view)[:5]) + _parts("By length", by_length(view))
    lines += _shared_errors(variants)
    return "\n".join(lines).rstrip() + "\n"


def _score_table(heading: str, variants: Sequence[Variant], scores: Scores) -> list[str]:
    names = list(metrics.NAMES)
    width = max(len("variant"), *(len(variant.name) for variant in variants))
    lines = [heading, "-" * len(heading)]
    lines.append(f"{'variant':{width}}" + "".join(f"{metrics.metric(name).printed:>21}" for name in names))
    for variant in variants:
        cells = [_mean_and_spread(scores.get(variant.name, {}).get(name, ())) for name in names]
        lines.append(f"{variant.name:{width}}" + "".join(f"{cell:>21}" for cell in cells))
    return lines


def _mean_and_spread(values: Sequence[float]) -> str:
    if not len(values):
        return "-"
    shown = 100 * np.asarray(values, dtype=float)
    spread = f"{shown.std(ddof=1):.1f}" if len(shown) > 1 else "-"
    return f"{shown.mean():.1f} ± {spread} ({len(shown)})"


def _percent(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{100 * value:.1f}"


def _f1(variant: Variant) -> FloatArray:
    view = variant.test
    return metrics.per_class(view.labels, view.predicted, len(variant.labels)).f1


def _per_class_f1(variants: Sequence[Variant]) -> list[str]:
    labels = variants[0].labels
    width = max(len("variant"), *(len(variant.name) for variant in variants))
    columns = [max(7, len(label)) + 2 for label in labels]
    lines = [f"{'variant':{width}}" + "".join(f"{label:>{w}}" for label, w in zip(labels, columns, strict=True))]
    for variant in variants:
        cells = (f"{_percent(value):>{w}}" for value, w in zip(_f1(variant), columns, strict=True))
        lines.append(f"{variant.name:{width}}" + "".join(cells))
    return lines


def _easiest_and_hardest(variants: Sequence[Variant]) -> list[str]:
    mean = np.nanmean([_f1(variant) for variant in variants], axis=0)
    order = np.argsort(-mean)
    labels = variants[0].labels
    return [
        f"Easiest emotion over the variants: {labels[order[0]]} (mean F1 {100 * mean[order[0]]:.1f})",
        f"Hardest emotion over the variants: {labels[order[-1]]} (mean F1 {100 * mean[order[-1]]:.1f})",
    ]


def _where_fusion_helps(variants: Sequence[Variant]) -> list[str]:
    single = [variant for variant in variants if len(variant.modalities) == 1]
    fused = [variant for variant in variants if len(variant.modalities) > 1]
    if not single or not fused:
        return ["No single-modality variant beside a fused one: where fusion helps cannot be said."]
    best = np.nanmax([_f1(variant) for variant in single], axis=0)
    heading = "F1 per class of each fused variant minus the best single modality's (points)"
    lines = [heading, "-" * len(heading)]
    for variant in fused:
        gains = 100 * (np.asarray(_f1(variant)) - best)
        shown = ", ".join(f"{label} {gain:+.1f}" for label, gain in zip(variant.labels, gains, strict=True))
        most = variant.labels[int(np.nanargmax(gains))]
        lines.append(f"{variant.name}: {shown}; helps most for {most}")
    lines += ["", "One model each: the report's intervals over studies say which differences can be relied on."]
    return lines


def _parts(heading: str, parts: Sequence[Part]) -> list[str]:
    lines = [f"{heading} (accuracy, Wilson 95 % interval)"]
    for part in parts:
        interval = f"[{100 * part.low:.0f}, {100 * part.high:.0f}]"
        lines.append(f"   {part.name}: {100 * part.accuracy:.0f} % {interval}, n = {part.n}")
    return [*lines, ""]


def _shared_errors(variants: Sequence[Variant]) -> list[str]:
    if len(variants) < 2:
        return []
    lines = title("Errors that variants share")
    lines.append("errors in both, of errors in either (Jaccard); expected in both if errors were independent")
    for overlap in error_overlaps(variants):
        lines.append(
            f"   {overlap.first} and {overlap.second}: {overlap.both} of {overlap.either}"
            f" ({overlap.jaccard:.2f}); expected {overlap.expected:.1f}"
        )
    hopeless = never_right(variants)
    lines += ["", f"Wrong in every variant: {len(hopeless)} utterances" + (":" if hopeless else "")]
    lines += [f"   {name}" for name in hopeless[:20]]
    if len(hopeless) > 20:
        lines.append(f"   and {len(hopeless) - 20} more")
    return lines
