"""A page for every level, from what its source says of itself; a level that is added has its page by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from docs.tools.words import bounds, default_words, source_words, type_words
from experiments.space.fields import level_table
from mer import levels
from mer.bundle.declared import WHOLE_DIALOGUES
from mer.described import described
from mer.recipe import Loss, MissingConfig, Sampler

REQUIRES = {
    "audio": "recordings",
    "text": "transcripts",
    "features": "feature arrays of its modality",
    "dialogue": "dialogues",
    "two_modalities": "two modalities",
}


@dataclass(frozen=True)
class Kind:
    """A kind of level: its table, and how a space names one.

    use      YAML that uses the level `{name}`
    section  the recipe's section that its options are fields of; None: they are parameters of its class
    """

    title: str
    text: str
    table: str
    use: str
    section: type[BaseModel] | None = None


KINDS = {
    "encoder": Kind(
        "Encoders",
        "One modality of an utterance to a sequence of vectors with a mask at its own time-scale. What they have "
        "in common (weights, training, the feature store) is in [](../../encoders.md).",
        "mer.encoders",
        "encoders:\n  {modality}: {name}",
    ),
    "fusion": Kind(
        "Fusions",
        "One sequence from several, any number of modalities. Every modality comes projected to a common width D "
        "(`projection.dim`), with a mask; M is the number of modalities, B that of utterances, T_m that of "
        "frames. A modality that an utterance lacks has no frame, and what stands there instead cannot change the "
        "result.",
        "mer.fusion",
        "fusion: {name}",
    ),
    "pooling": Kind(
        "Poolings",
        "One vector from the fused sequence. Only real frames count; an utterance without any gets zeros, with "
        "zero gradient. Fusions that end in one frame (`concat`, `gated`, `weighted`, `cross_attention` without "
        "`axis: time`, `cadgl`) make every pooling but `attn` the same.",
        "mer.pooling",
        "pooling: {name}",
    ),
    "context": Kind(
        "Contexts",
        "A pass over the utterances of a dialogue, after pooling; it applies to any fusion. A corpus needs "
        "`dialogue_id`, and batches are whole dialogues.",
        "mer.context",
        "context: {name}",
    ),
    "sampler": Kind(
        "Samplers",
        "Which utterances form the batches of an epoch: functions of the seed and the epoch's number, so that "
        "stopping and going on needs no state.",
        "mer.data.sampling",
        "sampler: {{name: {name}, batch_size: 32}}",
        Sampler,
    ),
    "loss": Kind(
        "Losses",
        "With logits z, p = softmax(z), class weights a, the smoothed target q_c = (1 - e) [c = y] + e / C, and "
        "t_c(p) as each page says: loss = sum_c q_c a_c t_c(p). The mean over a batch divides by the sum of its "
        "labels' weights, as torch does.",
        "mer.losses",
        "loss: {{name: {name}, label_smoothing: 0.05}}",
        Loss,
    ),
    "missing": Kind(
        "Missing protocols",
        "Which modalities an utterance is left with, in training, in validation and at test time. What holds for "
        "all of them is in [](../../missing.md).",
        "mer.data.missing",
        "missing:\n  train: {{protocol: {name}{example}}}",
        MissingConfig,
    ),
}

MORE = {("fusion", "cadgl"): "cadgl.md", ("context", "graph"): "cadgl.md", ("encoder", "llm_context"): "cadgl.md"}
"""Levels that a page was written about."""

EXAMPLES = {
    "random": ", rate: 0.3",
    "sample": ", rate: 0.3",
    "per_modality": ", rates: {audio: 0.5, text: 0.1}",
    "pattern": ", available: [text]",
    "file": ", file: masks.json",
}


def pages() -> dict[str, str]:
    """Path below docs/ to text, for every kind and every level."""
    found = {"levels/index.md": _index()}
    for kind, about in KINDS.items():
        found[f"levels/{kind}/index.md"] = _kind_index(kind, about)
        for name, target in level_table(about.table).items():
            found[f"levels/{kind}/{name}.md"] = level_page(kind, name, target)
    return found


def _index() -> str:
    lines = [
        "# Levels", "",
        "A level is a value of a factor: what a space compares. Each page is made from its source, so that it says "
        "what the code does; `mer levels` shows the same in a terminal, and `help()` in Python.", "",
        "```{toctree}", ":maxdepth: 2", "", *(f"{kind}/index" for kind in KINDS), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _kind_index(kind: str, about: Kind) -> str:
    table = level_table(about.table)
    rows = [f"| [{name}]({name}.md) | {described(target).summary} |" for name, target in table.items()]
    lines = [
        f"# {about.title}", "", about.text, "", "| name | |", "|---|---|", *rows, "",
        "Another one, in this project or in a file of yours: [](../../adding_a_level.md).", "",
        "```{toctree}", ":hidden:", "", *table, "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def level_page(kind: str, name: str, target: str) -> str:
    """One level: use, equation, shapes, when, cost, source, options."""
    about, said = KINDS[kind], described(target)
    lines = [f"# {name}", "", said.summary, "", "```yaml", use(kind, name, target), "```", ""]
    if "Equation" in said.sections:
        lines += ["```text", said.sections["Equation"], "```", ""]
    if said.text:
        lines += [said.text, ""]
    for section in ("Shapes", "When to choose", "Cost", "Source"):
        if section in said.sections:
            text = " ".join(said.sections[section].split())
            lines += [f"**{section}.** {text[:1].upper()}{text[1:]}", ""]
    lines += _options(about, target, said.options)
    module, _, attr = target.partition(":")
    if (kind, name) in MORE:
        lines += [f"More about it: [](../../{MORE[kind, name]}).", ""]
    lines += [f"`{attr}` in `{module.replace('.', '/')}.py`.{_needs(kind, target)}", ""]
    return "\n".join(lines)


def use(kind: str, name: str, target: str) -> str:
    """The YAML that uses a level."""
    return KINDS[kind].use.format(name=name, modality=modality_of(kind, target), example=EXAMPLES.get(name, ""))


def modality_of(kind: str, target: str) -> str:
    """The modality that an encoder is usually given."""
    needs = levels.declaration(target).requires if kind == "encoder" else frozenset()
    return "context" if "dialogue" in needs else next((name for name in ("audio", "text") if name in needs), "visual")


def _needs(kind: str, target: str) -> str:
    if kind in ("missing", "loss", "sampler"):
        return ""
    declared = levels.declaration(target)
    needs = sorted(REQUIRES[name] for name in declared.requires)
    found = f" Needs a corpus with {' and '.join(needs)}." if needs else ""
    alone = declared.unbundled or (WHOLE_DIALOGUES if "dialogue" in declared.requires and kind != "encoder" else "")
    return found + (f" Its trials are trained one by one: {alone}." if alone else "")


def _options(about: Kind, target: str, texts: Mapping[str, str]) -> list[str]:
    rows = [
        f"| `{name}` | {kind} | {default_words(default)} | {text} |"
        for name, kind, default, text in options_of(about, target, texts)
    ]
    return ["| option | type | default | |", "|---|---|---|---|", *rows, ""] if rows else ["No options.", ""]


def options_of(about: Kind, target: str, texts: Mapping[str, str]) -> list[tuple[str, str, Any, str]]:
    """Name, type, default and meaning of what a space may set."""
    if about.section is None:
        declared = levels.declaration(target).parameters.values()
        return [(p.name, source_words(p.annotation), p.default, texts.get(p.name, "")) for p in declared]
    fields = about.section.model_fields
    return [
        (name, type_words(fields[name].annotation) + bounds(fields[name]), fields[name].default, text)
        for name, text in texts.items()
        if name in fields
    ]
