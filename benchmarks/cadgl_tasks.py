"""A task for each part of CADGL: one whose known structure dictates that the part must help.

The demo corpus's emotions persist from turn to turn, each modality errs on its own, and all that two modalities of an
utterance share is its emotion. On plain training data a part may have nothing to add to the others; on its task it has.
The model is `mer.graph.CADGL` itself, in a loop that anybody could write. SYNTHETIC data: `mer.data.demo`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer.data.conditions import conditions
from mer.data.corpus import Corpus, Utterance
from mer.data.demo import LABELS, PRIOR
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.data.text import normalise
from mer.encoders import build_encoder
from mer.graph import CADGL
from mer.layers import set_generator
from mer.metrics import ua
from mer.recipe import EncoderConfig

MODALITIES = ("audio", "visual", "text")
GAPS = ("random 0.2", "random 0.4", "only audio", "only text")
PARTS = ("graph", "similarity_edges", "reconstruction", "alignment", "ode", "consistency")
Scores = dict[str, float]
"""`condition metric` to points."""
RATE = 3e-3
SETTINGS: dict[str, Any] = {
    "hidden_dim": 32,
    "num_classes": len(LABELS),
    "layers": 1,
    "window_past": 3,
    "window_future": 3,
    "dropout": 0.1,
    "step": 0.5,
    "drop_rate": 0.5,
}
HEIGHT = 20.0
"""Seconds between the heights of emotions in the task `ode`."""


@dataclass(frozen=True)
class Dialogues:
    """Utterances in dialogue order: `audio [N, 64]`, `text [N, words]`, `labels [N]`, who spoke where and when."""

    audio: Tensor
    text: Tensor
    labels: Tensor
    dialogue: NDArray[np.str_]
    speaker: NDArray[np.str_]
    time: Tensor

    def select(self, index: NDArray[np.int64]) -> Dialogues:
        where = torch.from_numpy(index)
        tensors = (self.audio[where], self.text[where], self.labels[where])
        return Dialogues(*tensors, self.dialogue[index], self.speaker[index], self.time[where])

    def rows(self, index: NDArray[np.int64]) -> dict[str, Any]:
        """Keyword arguments for CADGL; nothing was filmed."""
        return {
            "audio": self.audio[index],
            "visual": None,
            "text": self.text[index],
            "dialogue_ids": self.dialogue[index].tolist(),
            "speaker_ids": self.speaker[index].tolist(),
            "timestamps": self.time[index],
        }


@dataclass(frozen=True)
class Task:
    """What a part is tried on: one model with it against the same without.

    expected   the condition under which having it must raise UA
    others     settings of both models
    labelled   training dialogues with labels; those without are there for the other losses
    unlabelled further training dialogues
    clock      whether the clock decides what is felt, see `by_the_clock`
    """

    part: str
    expected: str
    why: str
    others: Mapping[str, Any] = field(default_factory=dict)
    labelled: int = 36
    unlabelled: int = 0
    clock: bool = False


TASKS = (
    Task("graph", "gaps", "emotions persist, so the neighbours know what an utterance lacks"),
    Task(
        "similarity_edges",
        "gaps",
        "what informs lies beyond the window, which is 0: nothing else reaches an utterance",
        {"graph": True, "window_past": 0, "window_future": 0},
    ),
    Task(
        "ode",
        "gaps",
        "a clock decides what is felt, turns come at irregular times, and only the ODE is told the time",
        {"graph": True, "time": "given"},
        clock=True,
    ),
    Task(
        "alignment",
        "gaps",
        "hardly any labels, each utterance alone: its emotion is all that its text and its audio share",
        {"lambda_alignment": 20.0, "temperature": 2.0},
        labelled=4,
        unlabelled=236,
    ),
    Task(
        "reconstruction",
        "gaps",
        "few labels: what is hidden can only be imagined by who feels what, which unlabelled dialogues teach",
        {"graph": True, "lambda_reconstruction": 2.0},
        labelled=8,
        unlabelled=232,
    ),
    Task(
        "consistency",
        "gaps",
        "few labels: what is left of an utterance should say what all of it says",
        {"graph": True, "lambda_consistency": 1.0},
        labelled=32,
        unlabelled=208,
    ),
)


def dialogues(corpus: Corpus, utterances: Sequence[Utterance], words: Mapping[str, int]) -> Dialogues:
    """Mean log-mels and counts of words; times are those of the recording, in seconds."""
    ordered = sorted(utterances, key=lambda u: (u.dialogue, u.turn))
    mels = build_encoder("audio", EncoderConfig(name="logmel"), corpus.info).arrays(
        corpus.info, ordered, FeatureStore()
    )
    audio = np.stack([np.asarray(mels.row(i), np.float32).mean(0) for i in range(len(ordered))])
    text = np.zeros((len(ordered), len(words)), np.float32)
    for row, utterance in enumerate(ordered):
        for word in tokens(utterance):
            if word in words:
                text[row, words[word]] += 1
    return Dialogues(
        torch.from_numpy(audio),
        torch.from_numpy(np.log1p(text)),
        torch.tensor([LABELS.index(u.emotion) for u in ordered]),
        np.array([u.dialogue for u in ordered]),
        np.array([u.speaker for u in ordered]),
        torch.tensor([float(u.start or 0.0) for u in ordered]),
    )


def tokens(utterance: Utterance) -> list[str]:
    return normalise(utterance.transcript or "").lower().replace(",", " ").replace(".", " ").split()


def both_parts(corpus: Corpus) -> tuple[Dialogues, Dialogues]:
    """Training and test part, audio standardised and the vocabulary taken on training."""
    train = corpus.train_valid().train
    words = {word: i for i, word in enumerate(sorted({word for u in train for word in tokens(u)}))}
    first, second = (dialogues(corpus, part, words) for part in (train, corpus.test_set().test))
    mean, deviation = first.audio.mean(0), first.audio.std(0)
    return (
        replace(first, audio=(first.audio - mean) / deviation),
        replace(second, audio=(second.audio - mean) / deviation),
    )


def by_the_clock(data: Dialogues, seed: int, turns: int = 10) -> Dialogues:
    """The same utterances in new dialogues, in which the clock decides what is felt.

    Turns come at irregular times (exponential pauses of 8 seconds on average). Emotion k is at its height 20 k seconds
    into a conversation: odds of its prior times exp(-((t - 20 k) / 20)^2). Somebody says an utterance of the drawn
    emotion.
    """
    random = np.random.default_rng(seed)
    heights = HEIGHT * np.arange(len(LABELS))
    pool = [np.flatnonzero(data.labels.numpy() == k) for k in range(len(LABELS))]
    picked, times, names = [], [], []
    for number in range(len(data.labels) // turns):
        clock = 0.0
        for _ in range(turns):
            odds = np.array(PRIOR) * np.exp(-(((clock - heights) / HEIGHT) ** 2))
            picked.append(int(random.choice(pool[random.choice(len(LABELS), p=odds / odds.sum())])))
            times.append(clock)
            names.append(f"c{number}")
            clock += float(random.exponential(8.0))
    there = data.select(np.array(picked))
    return replace(there, dialogue=np.array(names), time=torch.tensor(times))


def fit(data: Dialogues, task: Task, seed: int, on: bool) -> CADGL:
    """Train on whole dialogues, 12 at a time, in 200 steps (400 with many dialogues), the last step's model."""
    torch.manual_seed(seed)
    parts = dict.fromkeys(PARTS, False) | dict(task.others) | {task.part: on}
    dims = {"audio_dim": data.audio.shape[1], "visual_dim": 1, "text_dim": data.text.shape[1]}
    model = CADGL(SETTINGS | dims | parts).train()
    set_generator(model, torch.Generator().manual_seed(seed))
    random = np.random.default_rng(seed)
    names = np.unique(data.dialogue)
    labelled = random.permutation(names)[: task.labelled].tolist()
    labels = torch.where(torch.from_numpy(np.isin(data.dialogue, labelled)), data.labels, -1)
    steps = 200 if len(names) < 100 else 400
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    order: list[str] = []
    for _ in range(steps):
        order = order or random.permutation(names).tolist()
        chosen, order = order[:12], order[12:]
        if task.unlabelled:
            chosen = chosen + labelled
        index = np.flatnonzero(np.isin(data.dialogue, chosen))
        loss = torch.stack(list(model(**data.rows(index), labels=labels[index]).losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: CADGL, data: Dialogues, seed: int) -> Scores:
    """UA in points, complete and as the mean over gaps, under masks that all arms share."""
    ids = [f"{name} {i}" for i, name in enumerate(data.dialogue)]
    there = np.array([[True, False, True]] * len(ids))
    found: Scores = {}
    for condition in conditions(["complete", *GAPS], MODALITIES):
        masks = availability(condition.missing, ids, MODALITIES, seed, present=there)
        output = model(**data.rows(np.arange(len(ids))), modality_masks=torch.from_numpy(masks))
        found[f"{condition.name} ua"] = 100 * ua(data.labels.numpy(), output.logits.argmax(1).numpy(), len(LABELS))
    found["gaps ua"] = float(np.mean([found[f"{name} ua"] for name in GAPS]))
    return found


def effect(task: Task, train: Dialogues, test: Dialogues, seeds: int) -> tuple[list[Scores], list[Scores]]:
    """Scores without and with the part, by seed: the same labelled dialogues, batches, masks and initialisation."""
    names = list(dict.fromkeys(train.dialogue.tolist()))[: task.labelled + task.unlabelled]
    some = train.select(np.flatnonzero(np.isin(train.dialogue, names)))
    found: tuple[list[Scores], list[Scores]] = ([], [])
    for seed in range(seeds):
        first, second = (by_the_clock(d, seed + k) if task.clock else d for d, k in ((some, 0), (test, 1000)))
        for on in (False, True):
            found[on].append(score(fit(first, task, seed, on), second, seed))
    return found
