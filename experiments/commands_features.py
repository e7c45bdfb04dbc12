"""`mer features`: the feature store's commands, with spaces to build from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mer.data import store_cli

if TYPE_CHECKING:
    from mer.recipe import EncoderConfig


def add_parser(subparsers: Any) -> None:
    store_cli.add_parser(subparsers, encoders_of_space)


def encoders_of_space(space: str, corpus: str) -> list[tuple[str, EncoderConfig]]:
    """Every encoder that a cell of the space uses on this corpus, each once, with its modality."""
    from experiments.slots import Slot, Stage
    from experiments.space.load import make_plan
    from mer.recipe import Recipe

    plan = make_plan(space, data=[corpus])
    found: dict[str, tuple[str, EncoderConfig]] = {}
    for cell in plan.cells:
        if cell.skip is not None:
            continue
        recipe: Recipe = plan.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {})
        for modality, config in recipe.encoders.items():
            found.setdefault(f"{modality}={config.model_dump_json()}", (modality, config))
    return list(found.values())
