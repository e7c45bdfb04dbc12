"""Which cells are bundled: what the space says of `bundle`, and what their levels say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.slots import Cell
from experiments.space.model import BundleModel
from experiments.space.plan import Bundling, CorpusRef
from mer import levels
from mer.bundle.declared import why_not
from mer.encoders import LEVELS
from mer.recipe import Recipe

SEQUENCES = "their encoders give sequences, where a bundle saves little on a processor"


def choose(
    asked: str | BundleModel, cells: Sequence[Cell], corpora: Mapping[str, CorpusRef]
) -> tuple[Bundling, frozenset[tuple[str, str]], Counter[str]]:
    """Settings, the cells (corpus, name) that are bundled, and for the others why not, with how many they are.

    `auto` bundles where it was measured to pay on a processor (benchmarks/README.md, "Bundles"): where every modality
    is one frame an utterance. The answer must not depend on the machine, for a trial of a bundle has an identity of
    its own.
    """
    if asked == "off":
        return Bundling(), frozenset(), Counter()
    settings = BundleModel() if isinstance(asked, str) else asked
    found, reasons = set(), Counter[str]()
    for cell in cells:
        if cell.skip is not None or settings.size < 2:
            continue
        recipe = Recipe.model_validate(dict(cell.recipe), strict=False)
        reason = why_not(recipe)
        if reason is None and asked == "auto" and not vectors_alone(recipe, corpora[cell.corpus]):
            reason = SEQUENCES
        if reason is None:
            found.add((cell.corpus, cell.name))
        else:
            reasons[reason] += 1
    return Bundling(settings.size, settings.studies) if found else Bundling(), frozenset(found), reasons


def vectors_alone(recipe: Recipe, corpus: CorpusRef) -> bool:
    """Does every encoder give one frame for each utterance?"""
    for modality, encoder in recipe.encoders.items():
        declared = levels.declaration(levels.target(LEVELS, encoder.name, "encoder"))
        if not declared.one_frame and not ("features" in declared.requires and f"vectors/{modality}" in corpus.offers):
            return False
    return True
