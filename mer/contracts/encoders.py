"""The checks for encoders: from the files of a small corpus, through a feature store, to sequences."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mer import levels
from mer.batch import Sequence
from mer.contracts.report import Report, Result, Violation
from mer.data.corpus import Corpus, load_corpus
from mer.data.ragged import Ragged
from mer.data.store import FeatureStore
from mer.encoders import LEVELS, WITHOUT_WEIGHTS
from mer.encoders.base import AudioEncoder, Encoder
from mer.layers import set_generator
from mer.recipe import EncoderConfig

OWN = ("weights", "checkpoint", "revision", "train", "last_k")
WIDTH = 6
NOISE = 1e-3
"""Frozen features are stored in half precision, and a batch sums in another order than one utterance alone."""

SENTENCES = (
    "Trời ơi, đẹp quá!", "Vâng.", "Hôm nay mưa cả ngày, tôi không ra ngoài.", "Sao anh lại nói thế?",
    "Tôi nghe rồi, tôi nghe rồi.", "Không!",
)  # fmt: skip


@dataclass
class Subject:
    """An encoder under test, with the corpus that it reads and what it made of it."""

    target: str
    modality: str
    config: EncoderConfig
    corpus: Corpus
    kind: type[Encoder]
    stores: list[FeatureStore] = field(default_factory=list)

    def build(self) -> Encoder:
        torch.manual_seed(0)
        encoder = self.kind(self.modality, self.config, self.corpus.info, **self.config.params)
        set_generator(encoder, torch.Generator().manual_seed(0))
        return encoder.eval()

    def store(self) -> FeatureStore:
        """An empty store, so that nothing is found that another check has left."""
        folder = self.corpus.info.folder / f"_store-{len(self.stores)}"
        self.stores.append(FeatureStore(folder))
        return self.stores[-1]

    def arrays(self, encoder: Encoder) -> Ragged:
        return encoder.arrays(self.corpus.info, self.corpus.train, self.store())

    def ready(self) -> tuple[Encoder, Sequence]:
        """The encoder, fitted, and its frontend's output for all utterances as one batch."""
        encoder = self.build()
        arrays, rows = self.arrays(encoder), np.arange(len(self.corpus.train))
        encoder.fit(arrays, rows)
        return encoder, arrays.gather(rows)


def run(target: str, options: dict[str, Any]) -> Report:
    """Every check on an encoder. Encoders with released weights are checked with `tiny` ones unless told otherwise."""
    path = levels.target(LEVELS, target, "encoder")
    requires = levels.declaration(path).requires
    modality = next((name for name in ("audio", "text") if name in requires), "visual")
    own = {name: value for name, value in options.items() if name in OWN}
    params = {name: value for name, value in options.items() if name not in OWN}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        corpus = small_corpus(Path(folder))
        if not own and target in LEVELS and target not in WITHOUT_WEIGHTS:
            own = {"weights": "tiny"}
        config = EncoderConfig.model_validate({"name": target, **own, **params})
        subject = Subject(path, modality, config, corpus, levels.load(path))
        subject.build()  # options that make no encoder are the user's mistake, not a broken promise
        results = [Result(name, meaning, _problem(test, subject)) for name, meaning, test in CHECKS]
    return Report(target, "encoder", tuple(results))


def _problem(test: Callable[[Subject], None], subject: Subject) -> str | None:
    try:
        test(subject)
    except Violation as violation:
        return str(violation)
    except Exception as error:  # an encoder that raises has broken the promise, whatever it raised
        return f"{type(error).__name__}: {error}"
    return None


def small_corpus(folder: Path) -> Corpus:
    """Six utterances of very different length in two dialogues: wavs, transcripts, and features of a few frames."""
    import soundfile

    rng = np.random.default_rng(0)
    (folder / "wavs").mkdir()
    (folder / "features").mkdir()
    lines, frames = [], []
    for number, text in enumerate(SENTENCES):
        seconds = (0.4, 1.0, 0.7, 2.1, 1.3, 0.5)[number]
        samples = 0.1 * rng.standard_normal(round(16_000 * seconds))
        soundfile.write(folder / "wavs" / f"{number}.wav", samples, 16_000)
        frames.append(rng.normal(size=(number + 1, WIDTH)).astype(np.float32))
        lines.append(
            {
                "utterance_id": f"u{number}", "speaker_id": f"s{number % 2}", "emotion": ("calm", "glad")[number % 2],
                "transcript": text, "wav_path": f"wavs/{number}.wav", "start": 0.0, "end": seconds,
                "dialogue_id": f"d{number // 3}", "turn": number % 3, "row": number,
            }
        )  # fmt: skip
    np.save(folder / "features" / "visual.npy", np.concatenate(frames))
    np.save(folder / "features" / "visual.offsets.npy", np.cumsum([0, *map(len, frames)]).astype(np.int64))
    for split in ("train", "valid", "test"):
        renamed = [{**line, "utterance_id": f"{split}-{line['utterance_id']}"} for line in lines]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in renamed)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
    described = {"name": "contract", "labels": ["calm", "glad"], "features": {"visual": WIDTH}, "synthetic": True}
    (folder / "corpus.json").write_text(json.dumps(described), "utf-8")
    return load_corpus(folder)


# --- checks ------------------------------------------------------------------------------------------------------


def _declared(subject: Subject) -> None:
    declared = levels.declaration(subject.target)
    for parameter in declared.parameters.values():
        if parameter.default is levels.REQUIRED:
            raise Violation(f"option {parameter.name!r} has no default")
    if declared.requires != subject.kind.requires or not declared.requires & {"audio", "text", "features"}:
        raise Violation(
            f"`requires` read from the source is {sorted(declared.requires)}: write it as a literal that names audio, "
            "text or features"
        )


def _identity(subject: Subject) -> None:
    found = []
    for _ in range(2):
        frontend = subject.build().frontend
        if frontend is None:
            return  # reads the corpus's own arrays: there is nothing to find again
        found.append(json.dumps(frontend.identity(), sort_keys=True, allow_nan=False))
    if found[0] != found[1]:
        raise Violation(
            "two encoders of the same configuration have different identities: nothing would be found again"
        )


def _frames(subject: Subject) -> None:
    arrays = subject.arrays(subject.build())
    empty = [number for number, length in enumerate(arrays.lengths.tolist()) if not length]
    if empty:
        raise Violation(f"utterances {empty} have the modality but no frame")


def _frontend_alone(subject: Subject) -> None:
    encoder = subject.build()
    together = subject.arrays(encoder)
    for number, utterance in enumerate(subject.corpus.train):
        if encoder.transcripts_read(subject.corpus.train) is not None:
            return  # a prompt holds neighbours on purpose
        alone = encoder.arrays(subject.corpus.info, [utterance], subject.store())
        one, other = _numbers(alone, 0), _numbers(together, number)
        if one.shape != other.shape or not torch.allclose(one, other, atol=NOISE, rtol=NOISE):
            raise Violation(f"utterance {number} has other frames alone than among others")


def _shape(subject: Subject) -> None:
    encoder, batch = subject.ready()
    out = encoder(batch)
    if not isinstance(out, Sequence) or out.values.dim() != 3 or out.values.shape[2] != encoder.out_dim:
        shape = tuple(getattr(getattr(out, "values", out), "shape", ()))
        raise Violation(f"returned {shape}, expected Sequence [B, T, {encoder.out_dim}]: out_dim is {encoder.out_dim}")
    if out.mask.dtype != torch.bool or out.mask.shape != out.values.shape[:2]:
        raise Violation(f"mask {tuple(out.mask.shape)} {out.mask.dtype}, expected {tuple(out.values.shape[:2])} bool")
    if not bool(out.present.all()) or not bool(torch.isfinite(out.filled()).all()):
        raise Violation("an utterance that is there has no frame, or one that is not finite")


def _lengths(subject: Subject) -> None:
    encoder, batch = subject.ready()
    if not isinstance(encoder, AudioEncoder):
        return
    samples = torch.tensor([round(16_000 * ((u.end or 0.0) - (u.start or 0.0))) for u in subject.corpus.train])
    # A clip that is too short for a frame (0) is padded with silence to one.
    expected = encoder.get_feat_lengths(samples).clamp(min=1).tolist()
    found = encoder(batch).lengths.tolist()
    if expected != found:
        raise Violation(f"get_feat_lengths says {expected}, and there are {found} frames")


def _padding(subject: Subject) -> None:
    encoder, batch = subject.ready()
    expected = _rows(encoder(batch))
    blank = batch.mask if batch.values.dim() == 2 else batch.mask.unsqueeze(-1)
    fills = (0.0, float("nan")) if batch.values.is_floating_point() else (0, 7)
    for fill in fills:
        found = _rows(encoder(Sequence(torch.where(blank, batch.values, fill), batch.mask)))
        if not _close(found, expected):
            raise Violation(f"the result changes when the padding holds {fill}")


def _absent(subject: Subject) -> None:
    encoder, batch = subject.ready()
    mask = batch.mask.clone()
    mask[0] = False
    out = encoder(Sequence(batch.values, mask))
    if bool(out.mask[0].any()):
        raise Violation("an utterance without any frame comes out with one")
    if not _close(_rows(out)[1:], _rows(encoder(batch))[1:]):
        raise Violation("other utterances change when one is absent")


def _deterministic(subject: Subject) -> None:
    for training in (False, True):
        found = []
        for seed in (1, 2):
            encoder, batch = subject.ready()
            torch.manual_seed(seed)
            found.append(_rows(encoder.train(training)(batch)))
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            mode = "training" if training else "evaluation"
            raise Violation(f"in {mode} the result depends on torch's global generator: use mer.layers.Dropout")


def _learns(subject: Subject) -> None:
    encoder, batch = subject.ready()
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if bool(trained) and not encoder.trained:
        raise Violation("it has parameters to train, but `trained` is False: its output would be cached")
    if not trained:
        return
    out = encoder.train()(batch).filled()
    projected = torch.tanh(out) * torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    torch.autograd.backward(projected.sum())
    dead = [name for name in trained if (gradient := encoder.get_parameter(name).grad) is None or not gradient.any()]
    if dead:
        raise Violation(f"no gradient in {', '.join(dead)}")


def _saves(subject: Subject) -> None:
    encoder, batch = subject.ready()
    stored = save({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()})
    fresh = subject.build()
    fresh.load_state_dict(load(stored), strict=True)
    if not _close(_rows(fresh(batch)), _rows(encoder(batch))):
        raise Violation("after saving and loading the result is another: something is not in the state dict")


def _numbers(arrays: Ragged, row: int) -> Tensor:
    return arrays.gather(np.array([row])).values[0].float()


def _rows(out: Sequence) -> list[Tensor]:
    return [values[mask].detach().float() for values, mask in zip(out.values, out.mask, strict=True)]


def _close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a, b, atol=NOISE, rtol=NOISE)
        for a, b in zip(found, expected, strict=True)
    )


CHECKS: tuple[tuple[str, str, Callable[[Subject], None]], ...] = (
    ("declared", "options have literal defaults, and what it reads is readable without importing", _declared),
    ("identity", "what names its features is plain data, and the same every time", _identity),
    ("frames", "every utterance that has the modality has a frame", _frames),
    ("batch-mates", "the features of an utterance do not depend on others", _frontend_alone),
    ("shape", "the output has the width it declares, a mask, and only finite numbers", _shape),
    ("lengths", "audio: the number of frames is what get_feat_lengths says", _lengths),
    ("padding", "what stands in the padding cannot matter", _padding),
    ("absent", "an utterance without the modality stays without it, and changes no other", _absent),
    ("deterministic", "randomness comes from the trial's generator alone", _deterministic),
    ("learns", "every parameter that may learn does, and it says whether it has any", _learns),
    ("saves", "saved and loaded, it computes the same", _saves),
)
