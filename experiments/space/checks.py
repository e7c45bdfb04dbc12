"""Which cells a corpus cannot carry, and why; what stands for `weights: auto`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.space.fields import level_table
from experiments.space.plan import CorpusRef, Plan
from mer import levels
from mer.encoders import WITHOUT_WEIGHTS
from mer.errors import UserError, inside
from mer.recipe import MissingConfig, Recipe

if TYPE_CHECKING:
    from mer.data.corpus import Utterance


def corpus_ref(folder: Path, address: str | None = None) -> CorpusRef:
    """Read a corpus as far as a plan needs it."""
    from mer.data.check import caveats
    from mer.data.corpus import SPLITS, load_corpus

    with inside(folder):
        corpus = load_corpus(folder)
    splits = {split: getattr(corpus, split) for split in SPLITS}
    offers = {f"features/{modality}" for modality in corpus.info.features}
    beside = {modality: folder / "features" / f"{modality}.offsets.npy" for modality in corpus.info.features}
    offers |= {f"vectors/{modality}" for modality, file in beside.items() if not file.exists()}
    if any(utterance.wav for utterance in corpus.train):
        offers.add("audio")
    if any(utterance.transcript for utterance in corpus.train):
        offers.add("text")
    return CorpusRef(
        name=corpus.info.name,
        folder=folder,
        fingerprint=corpus.fingerprint(),
        modalities=corpus.modalities,
        has_dialogues=corpus.has_dialogues,
        synthetic=corpus.info.synthetic,
        sizes={split: len(getattr(corpus, split)) for split in ("train", "valid", "test")},
        offers=frozenset(offers),
        address=address,
        labels=tuple(corpus.info.labels),
        utterances=digest_of(utterance.id for utterance in corpus.test),
        shared=_shared(splits),
        caveats=tuple(f"{split} split: {text}" for split, _, text in caveats(splits, corpus.info.labels)),
    )


def _shared(splits: Mapping[str, Sequence[Utterance]]) -> dict[str, int]:
    """Speakers and dialogues of the test split that are in train or valid too; speakers of two sessions."""
    from mer.data.check import overlap
    from mer.data.folds import session_of

    found = {
        kind: counts.get("train-test", 0) + counts.get("valid-test", 0)
        for kind, counts in overlap(splits).items()
        if kind != "sentences"
    }
    pairs = {(utterance.speaker, session_of(utterance)) for utterances in splits.values() for utterance in utterances}
    return {**found, "sessions": len(pairs) - len({speaker for speaker, _ in pairs})}


def digest_of(ids: Iterable[str]) -> str:
    """A digest of some utterances, in whatever order."""
    return hashlib.blake2b("\n".join(sorted(ids)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def obstacle(recipe: Mapping[str, Any], corpus: CorpusRef) -> str | None:
    """The rule by which a corpus cannot carry a recipe, or None."""
    for field in ("fusion", "context"):
        level = recipe.get(field)
        if level is not None:
            needs = _requires(field, level["name"])
            if "dialogue" in needs and not corpus.has_dialogues:
                return f"{field} {level['name']} needs dialogues, which corpus {corpus.name} has not"
            if "two_modalities" in needs and len(recipe["encoders"]) < 2:
                return f"{field} {level['name']} needs two modalities"
    fusion = recipe.get("fusion") or {}
    if fusion.get("name") == "none" and len(recipe["encoders"]) > 1 and fusion.get("modality") is None:
        named = ", ".join(recipe["encoders"])
        return f"fusion none takes one modality: give it one encoder, or say which of {named} (`modality:`)"
    for modality, encoder in recipe["encoders"].items():
        needs = _requires("encoders", encoder["name"])
        offers = f"features/{modality}" if "features" in needs else next(iter(needs & {"audio", "text"}), None)
        if modality not in corpus.modalities:
            return f"corpus {corpus.name} has no modality {modality}"
        if offers is not None and offers not in corpus.offers:
            what = {"audio": "wavs", "text": "transcripts"}.get(offers, f"features of {modality}")
            return f"encoder {encoder['name']} needs {what}, which corpus {corpus.name} has not"
    return None


def _requires(field: str, name: str) -> frozenset[str]:
    return levels.declaration(levels.target(level_table(field), name, field)).requires


def check_corpora(plan: Plan) -> None:
    """Refuse a corpus of which a recording or an array that a cell reads is broken behind a sound header. A run does so
    before its first trial; a plan does not, for it takes decoding every recording."""
    from mer.data.check import refuse_unsound

    for corpus in plan.corpora.values():
        recipes: list[Any] = [cell.recipe for cell in plan.cells if cell.corpus == corpus.name and cell.skip is None]
        used = {(name, encoder["name"]) for recipe in recipes for name, encoder in recipe["encoders"].items()}
        audio = any("audio" in _requires("encoders", level) for _, level in used)
        features = {name for name, level in used if "features" in _requires("encoders", level)}
        refuse_unsound(corpus.folder, corpus.fingerprint, audio=audio, features=features)


def apply_weights(recipe: dict[str, Any], weights: str, corpus: CorpusRef) -> list[str]:
    """Say what `weights` means for each encoder that leaves it open; returns the encoders that become random.

    `auto` is tiny random weights on a synthetic corpus, and the released ones on any other.
    """
    random = []
    for encoder in recipe["encoders"].values():
        if encoder["name"] in WITHOUT_WEIGHTS or encoder.get("weights") is not None or ":" in encoder["name"]:
            continue
        if weights == "tiny" or (weights == "auto" and corpus.synthetic):
            encoder["weights"] = "tiny"
            random.append(encoder["name"])
        elif weights == "scratch":
            encoder["weights"] = "scratch"
    return random


def outside_levels(recipe: Recipe) -> list[str]:
    """Levels that a recipe takes from outside this project (`mylab.gate:DeepGate`), each of its kind or refused."""
    outside = [(kind, name) for _, kind, name in recipe.named_levels() if ":" in name]
    for kind, name in outside:
        levels.target({}, name, kind)
    return [name for _, name in outside]


def fold_count(by: str, count: int | None, corpora: list[CorpusRef]) -> int:
    """How many outer folds each corpus has: as asked, or one for each group."""
    from mer.data.corpus import load_corpus
    from mer.data.folds import folds

    found = {ref.name: len(folds(load_corpus(ref.folder), by, count)) for ref in corpora}  # type: ignore[arg-type]
    if len(set(found.values())) > 1:
        raise UserError(f"corpora have different numbers of folds by {by}: {found}", hint="Give folds a `count`.")
    return next(iter(found.values()))


def check_masks(plan: Plan) -> None:
    """Look up every mask that a file holds for the utterances that will be asked for, before anything is trained."""
    asked: dict[tuple[str, ...], tuple[MissingConfig, str]] = {}
    for cell in plan.cells:
        missing: Any = cell.recipe["missing"]
        stages = [("train", missing["train"], "missing.train")]
        stages += [("valid", missing["valid"] or missing["train"], "missing.valid")]
        stages += [("test", condition.missing, f"condition {condition.name!r}") for condition in plan.conditions]
        for split, given, whose in stages:
            if cell.skip is None and given.get("protocol") == "file":
                config = MissingConfig.model_validate(dict(given), strict=False)
                modalities: Any = cell.recipe["encoders"]
                key = (cell.corpus, split, config.model_dump_json(), *modalities)
                asked.setdefault(key, (config, f"{whose} of cell {cell.name!r}"))
    if not asked:
        return
    from mer.data.corpus import load_corpus
    from mer.data.mask_files import masks_for

    corpora = {name: load_corpus(plan.corpora[name].folder) for name in {key[0] for key in asked}}
    for (name, split, _, *modalities), (config, whose) in asked.items():
        corpus = corpora[name]
        if plan.folds.by is not None:
            known = tuple(corpus.utterances())
        elif plan.resplit and split != "test":
            known = (*corpus.train, *corpus.valid)
        else:
            known = getattr(corpus, split)
        try:
            masks_for(config, [utterance.id for utterance in known], modalities, corpus.info.folder)
        except UserError as error:
            hint = f"Asked for by {whose}, of the utterances of {split} of corpus {name}."
            raise UserError(
                error.problem, where=error.where, expected=error.expected, nearest=error.nearest, hint=hint
            ) from None
