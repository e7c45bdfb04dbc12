"""What CADGL and its parts are worth, through the project's own trainer. Everything is chosen on validation.

    python -m benchmarks.check_cadgl mosi [--data FOLDER] [--seeds 8]     accuracy, and what training for gaps brings
    python -m benchmarks.check_cadgl meld [--data FOLDER]                 the dialogue graph against none, text alone
    python -m benchmarks.check_cadgl demo                                 each part on the task that is declared for it
    python -m benchmarks.check_cadgl ablation                             each part switched off on the demo corpus
    python -m benchmarks.check_cadgl guide                                context by a language model, on the same

Seeds are paired: arm and arm share data order, initialisation streams and masks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.cadgl_tasks import PARTS, TASKS, both_parts, effect
from mer.data.conditions import conditions
from mer.data.corpus import Corpus, load_corpus
from mer.data.demo import DemoParams, demo_corpus, make_demo
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.evaluation import predict
from mer.metrics import NAMES as METRICS
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer, split_loader

Scores = dict[str, float]
"""`condition metric` to points."""
UNDER = ["complete", "random 0.2", "random 0.4", "only audio", "only text"]
"""Conditions on the demo corpus; all but the first have gaps."""
PLAIN, SWAP = (0.0, 0.0, 0.0), (0.95, 0.95, 0.5)
"""MOSI: shares of audio, visual and text that are swapped in training."""


def train_and_score(
    corpus: Corpus, recipe: Mapping[str, Any], seed: int, under: list[str], masks: int, store: FeatureStore
) -> tuple[Scores, float]:
    """Test scores of the best validation epoch under each condition, and the validation value it was chosen by.

    Random conditions are the mean over so many masks, the same for every arm.
    """
    parsed = Recipe.model_validate(recipe)
    seeds = streams(0, corpus.info.name, seed, 0, "confirm")
    trainer = Trainer(parsed, corpus.train_valid(), seeds, store=store, device="cpu")
    for _ in trainer.run():
        pass
    model = trainer.best_model()
    test = split_loader(store, trainer.device)(corpus.info, corpus.test_set().test, model)
    found: Scores = {}
    for condition in conditions(under, test.modalities):
        drawn = []
        for number in range(masks if condition.missing.protocol == "random" else 1):
            mask = availability(
                condition.missing, test.ids, test.modalities, seeds.masks + number, present=test.present
            )
            drawn.append(predict(model, test, mask, dialogues=trainer.dialogues).scores())
        for metric in METRICS:
            found[f"{condition.name} {metric}"] = 100 * float(np.mean([scores[metric] for scores in drawn]))
    for metric in METRICS:
        gaps = [value for name, value in found.items() if name.endswith(f" {metric}") and "complete" not in name]
        if len(gaps) > 1:
            found[f"gaps {metric}"] = float(np.mean(gaps))
    return found, 100 * trainer.best_value


@dataclass(frozen=True)
class Run:
    """How many paired seeds, which arms by number (None: all), and what is known already."""

    seeds: int
    arms: list[int] | None
    kept: Kept


class Kept:
    """Scores by corpus, recipe and seed. What is in the file is not computed again, so processes can share the work."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.store = file, FeatureStore()
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self.known = {str(line["key"]): line for line in map(json.loads, lines)}

    def get(
        self, corpus: Corpus, recipe: Mapping[str, Any], seed: int, under: list[str], masks: int
    ) -> tuple[Scores, float]:
        said = json.dumps([corpus.info.folder.name, recipe, seed, under, masks], sort_keys=True)
        key = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        if key not in self.known:
            scores, valid = train_and_score(corpus, recipe, seed, under, masks, self.store)
            self.known[key] = {"key": key, "scores": scores, "valid": valid}
            if self.file is not None:
                with self.file.open("a") as out:
                    out.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]["scores"], self.known[key]["valid"]


def compare(
    corpus: Corpus,
    arms: Mapping[str, Mapping[str, Any]],
    run: Run,
    under: list[str],
    metrics: list[str],
    masks: int = 1,
) -> None:
    """Print a Markdown table: mean over seeds for each arm, and the paired difference to the first arm."""
    results: dict[str, list[Scores]] = {name: [] for name in arms}
    columns = [f"{name} {metric}" for name in [*under, *(["gaps"] if len(under) > 2 else [])] for metric in metrics]
    chosen = [name for number, name in enumerate(arms) if run.arms is None or number in run.arms]
    print(f"| arm | valid | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}", flush=True)
    for name in chosen:
        valid = []
        for seed in range(run.seeds):
            scores, value = run.kept.get(corpus, arms[name], seed, under, masks)
            results[name].append(scores)
            valid.append(value)
        cells = [cell(results[name], results[chosen[0]], column) for column in columns]
        print(f"| {name} | {np.mean(valid):.2f} | {' | '.join(cells)} |", flush=True)


def cell(found: list[Scores], first: list[Scores], column: str) -> str:
    """`mean ± deviation`, or `mean (paired difference [95 % t-interval], seeds above)`."""
    values, base = (np.array([scores[column] for scores in rows]) for rows in (found, first))
    if found is first or len(values) < 2:
        return f"{values.mean():.2f} ± {values.std(ddof=min(1, len(values) - 1)):.2f}"
    low, high = interval(values - base)
    above = f"{(values > base).sum()} of {len(values)} above"
    return f"{values.mean():.2f} ({(values - base).mean():+.2f} [{low:+.2f}, {high:+.2f}], {above})"


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % t-interval of a mean."""
    half = float(stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5)
    return float(differences.mean()) - half, float(differences.mean()) + half


def mosi(folder: Path, run: Run) -> None:
    """Videos as dialogues. One speaker a video, so the relations are past and future.

    The extractors of these features saw the training videos: there text alone is right 98 times in 100 and visual 90,
    elsewhere 73 and 50 (validation). `swap` gives a share of the training utterances another one's features, so that
    each modality is about as often right there as it is elsewhere. All settings were chosen on validation.
    """

    def recipe(swap: tuple[float, float, float] = SWAP, fusion: Any = None, context: str = "none") -> dict[str, Any]:
        names = ("audio", "visual", "text")
        return {
            "encoders": {name: {"name": "features", "swap": share} for name, share in zip(names, swap, strict=True)},
            "projection": {"dim": 128, "dropout": 0.3},
            "fusion": fusion or {"name": "cadgl", "drop_rate": 0.5, "step": 0.5},
            "context": context,
            "classifier": {"hidden": [], "dropout": 0.1},
            "sampler": {"batch_size": 160},
            "missing": {"valid": {}},
            "optimizer": {"lr": 1e-3, "weight_decay": 1e-2},
            "training": {"epochs": 12, "metric": "wa"},
        }

    nothing_hidden = {"name": "cadgl", "drop_rate": 0.0, "step": 0.5}
    no_graph = {"name": "cadgl", "drop_rate": 0.5, "step": 0.5, "graph": False}
    arms = {
        "cadgl, gaps and swap in training": recipe(),
        "no gaps in training": recipe(fusion=nothing_hidden),
        "no swap": recipe(PLAIN),
        "neither gaps nor swap": recipe(PLAIN, nothing_hidden),
        "no graph": recipe(fusion=no_graph),
        "concat + bilstm, swap": recipe(fusion="concat", context="bilstm"),
        "concat + bilstm, neither": recipe(PLAIN, "concat", "bilstm"),
    }
    compare(load_corpus(folder), arms, run, ["complete", "random 0.5"], ["wa"], masks=8)


def meld(folder: Path, run: Run) -> None:
    """Transcripts alone, TF-IDF vectors: what does the dialogue bring?"""

    def recipe(**changed: Any) -> dict[str, Any]:
        return {
            "encoders": {"text": "tfidf"},
            "projection": {"dim": 64, "dropout": 0.3},
            "fusion": "none",
            "sampler": {"batch_size": 128},
            "optimizer": {"lr": 2e-3},
            "training": {"epochs": 8, "metric": "weighted_f1"},
        } | changed

    near = {
        "name": "graph",
        "layers": 1,
        "window_past": 2,
        "window_future": 2,
        "similarity_edges": False,
        "dropout": 0.3,
    }
    parts = dict.fromkeys(("reconstruction", "alignment", "consistency"), False)
    arms = {
        "without a graph": recipe(),
        "context graph": recipe(context=near),
        "fusion cadgl without its graph": recipe(fusion={"name": "cadgl", "graph": False, "ode": False, **parts}),
        "fusion cadgl, graph and ODE": recipe(fusion={"name": "cadgl", **parts}),
    }
    compare(load_corpus(folder), arms, run, ["complete"], ["weighted_f1", "wa"])


def demo(run: Run) -> None:
    """Each part on the task that its effect is declared for, see `benchmarks.cadgl_tasks.TASKS`.

    More of the demo corpus: its own 12 training pairs of speakers first, 80 in all, and 40 to test on. The tasks were
    chosen on corpora of two other seeds.
    """
    train, test = both_parts(load_corpus(more_demo(80)))
    print(f"| part | must help with | complete | with it | gaps | with it | sign |\n|{'---|' * 7}", flush=True)
    for number, task in enumerate(TASKS):
        if run.arms is not None and number not in run.arms:
            continue
        without, having = effect(task, train, test, run.seeds)
        cells = [cell(rows, without, f"{name} ua") for name in ("complete", "gaps") for rows in (without, having)]
        low, high = interval(np.array([b[f"{task.expected} ua"] - a[f"{task.expected} ua"]
                                       for a, b in zip(without, having, strict=True)]))  # fmt: skip
        sign = "shown" if low > 0 else "the opposite" if high < 0 else "not shown"
        print(f"| {task.part} | {task.expected} | {' | '.join(cells)} | {sign} |", flush=True)


def ablation(run: Run) -> None:
    """Each part switched off around the whole model, on the demo corpus as it is; nothing is declared beforehand.

    Trained and chosen on the demo corpus; scored on its test part enlarged from 7 to 40 pairs of speakers, so that an
    effect of a point can be seen. Settings were chosen on a corpus of another seed.
    """
    arms = {"cadgl, all parts": demo_recipe()}
    for part in PARTS:
        arms[f"without {part.replace('_', ' ')}"] = demo_recipe(None, **{part: False})
    arms["nothing hidden"] = demo_recipe(drop_rate=0.0, reconstruction=False, consistency=False)
    compare(load_corpus(larger_demo()), arms, run, UNDER, ["ua"])


def guide(run: Run) -> None:
    """Context by a language model, one that was trained on other made-up conversations, and one with random weights."""
    from benchmarks.demo_language_model import TEMPLATE, train
    from mer.data.fingerprint import cache_root

    folder = cache_root() / "demo-language-model"
    if not (folder / "config.json").exists():
        train(folder)
    knows = {"name": "llm_context", "checkpoint": str(folder), "template": TEMPLATE, "window": 4}
    random = {"name": "llm_context", "weights": "tiny", "window": 4}
    arms = {"without graph": demo_recipe(graph=False)}
    arms["without graph, language model"] = demo_recipe(knows, graph=False)
    arms["without graph, random language model"] = demo_recipe(random, graph=False)
    arms["cadgl, all parts"] = demo_recipe()
    arms["cadgl, all parts, language model"] = demo_recipe(knows)
    compare(load_corpus(larger_demo()), arms, run, UNDER, ["ua"])


def demo_recipe(context: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A small setting: one layer and three utterances each way, so that what is further away is left to other parts."""
    cadgl = {"name": "cadgl", "window_past": 3, "window_future": 3, "layers": 1, "dropout": 0.1, "step": 0.5}
    encoders: dict[str, Any] = {"text": {"name": "tfidf", "dim": 32, "buckets": 1024}, "audio": "logmel"}
    if context is not None:
        encoders["context"], cadgl["guide"] = context, "context"
    return {
        "encoders": encoders,
        "projection": {"dim": 32},
        "fusion": {**cadgl, "drop_rate": 0.5, **options},
        "sampler": {"batch_size": 30},
        "missing": {"valid": {}},
        "optimizer": {"lr": 2e-3},
        "training": {"epochs": 30},
    }


def larger_demo() -> Path:
    """The demo corpus with a larger test part. Its training and validation parts are the same, byte for byte."""
    folder = more_demo(DemoParams().pairs[0])
    for split in ("train", "valid"):
        assert (folder / f"{split}.jsonl").read_bytes() == (demo_corpus() / f"{split}.jsonl").read_bytes()
    return folder


def more_demo(pairs: int) -> Path:
    """The demo corpus with so many pairs of speakers in training, and 40 in the test part."""
    from mer.data.fingerprint import cache_root

    params = DemoParams(pairs=(pairs, DemoParams().pairs[1], 40))
    folder = cache_root() / "corpora" / f"demo-{params.digest()}"
    return folder if folder.exists() else make_demo(folder, params=params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mosi", "meld", "demo", "ablation", "guide"))
    default = Path(os.environ.get("MER_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder that holds mosi and meld")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--arms", type=int, nargs="*", help="these rows of the table alone, by number from 0")
    parser.add_argument("--keep", type=Path, help="file of scores: what is in it is not computed again")
    given = parser.parse_args()
    run = Run(given.seeds, given.arms, Kept(given.keep))
    if given.what in ("mosi", "meld"):
        {"mosi": mosi, "meld": meld}[given.what](given.data / given.what, run)
    else:
        {"demo": demo, "ablation": ablation, "guide": guide}[given.what](run)


if __name__ == "__main__":
    main()
