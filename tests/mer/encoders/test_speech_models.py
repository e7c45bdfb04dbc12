"""wav2vec 2.0 family: frame counts, extraction and training against transformers itself, one utterance at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.data.audio import AudioClip
from mer.layers import set_generator

SAMPLES = (800, 16_000, 12_345, 40_000)
KINDS = [
    ("wav2vec2", "group"),
    ("wav2vec2", "layer"),
    ("hubert", "group"),
    ("hubert", "layer"),
    ("wavlm", "group"),
    ("wavlm", "layer"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, saved: Any
) -> tuple[str, str, Path]:
    kind, norm = request.param
    return kind, norm, saved.speech(tmp_path_factory.mktemp("model") / f"{kind}-{norm}", kind, norm)


def alone(folder: Path, info: Any, number: int) -> np.ndarray:
    """The slow, obvious way: transformers on one utterance."""
    import soundfile
    from transformers import AutoFeatureExtractor, AutoModel

    samples, _ = soundfile.read(info.folder / f"{number}.wav", dtype="float32")
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    values = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder).eval()(values).last_hidden_state[0].numpy()


def test_frame_counts_are_the_known_ones(build: Any) -> None:
    samples = torch.tensor([0, 399, 400, 719, 720, 16_000, 16_080, 80_000, 160_000])
    assert build("xlsr", weights="tiny").get_feat_lengths(samples).tolist() == [0, 0, 1, 1, 2, 49, 50, 249, 499]
    assert build("xlsr", weights="tiny").min_samples == 400


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=400, max_value=200_000))
def test_frame_counts_agree_with_transformers(samples: int) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from mer.data.corpus import CorpusInfo
    from mer.encoders import build_encoder
    from mer.recipe import EncoderConfig

    global _MADE
    if _MADE is None:
        encoder: Any = build_encoder(
            "audio", EncoderConfig(name="xlsr", weights="tiny"), CorpusInfo(Path("."), "x", ("a", "b"))
        )
        _MADE = encoder, Wav2Vec2Model._get_feat_extract_output_lengths, Wav2Vec2Config()
    encoder, theirs, config = _MADE
    owner = type("Owner", (), {"config": config})()
    assert int(encoder.get_feat_lengths(torch.tensor(samples))) == int(theirs(owner, torch.tensor(samples)))


_MADE: Any = None


def test_extraction_is_transformers_one_by_one(checkpoint: Any, build: Any, corpus: Any, store: Any) -> None:
    kind, _, folder = checkpoint
    info, utterances = corpus
    encoder = build(kind, checkpoint=str(folder), dtype="float32")
    ragged = encoder.arrays(info, utterances, store)
    assert ragged.lengths.tolist() == [*encoder.get_feat_lengths(torch.tensor(SAMPLES)).tolist(), 0]
    for number in range(4):
        np.testing.assert_allclose(ragged.row(number), alone(folder, info, number), atol=2e-5)
    assert encoder.random_weights is False
    assert list(encoder.parameters()) == []


@pytest.mark.parametrize("mode", ["full", "last_k", "gradual"])
def test_trained_batch_is_transformers_one_by_one(
    checkpoint: Any, mode: str, build: Any, corpus: Any, store: Any
) -> None:
    """The trained path sees padded batches, for group norm as well; an absent utterance stays absent."""
    kind, _, folder = checkpoint
    info, utterances = corpus
    encoder = build(kind, checkpoint=str(folder), train=mode, last_k=1).eval()
    ragged = encoder.arrays(info, utterances, store)
    batch = ragged.gather(np.arange(5))
    batch.values[~batch.mask] = float("nan")
    with torch.no_grad():
        found = encoder(batch)
    assert found.lengths.tolist() == [*encoder.get_feat_lengths(torch.tensor(SAMPLES)).tolist(), 0]
    for number in range(4):
        ours = found.values[number][found.mask[number]].numpy()
        np.testing.assert_allclose(ours, alone(folder, info, number), atol=5e-5)


def test_group_norm_needs_the_rule(build: Any, saved: Any, tmp_path: Path) -> None:
    """What the rule is for: without it, padding changes a group-norm model by far more than float noise."""
    encoder = build("wav2vec2", checkpoint=str(saved.speech(tmp_path, "wav2vec2", "group")), train="full").eval()
    samples, mask = torch.randn(1, 6000), torch.ones(1, 6000, dtype=torch.bool)
    padded, long = torch.nn.functional.pad(samples, (0, 9000)), torch.nn.functional.pad(mask, (0, 9000))
    with torch.no_grad():
        solo = encoder.encode(encoder.body, samples, mask).values
        ours = encoder.encode(encoder.body, padded, long).values[:, : solo.shape[1]]
        norm = encoder.body.feature_extractor.conv_layers[0].layer_norm
        naive = encoder.body(padded, attention_mask=long.long()).last_hidden_state[:, : solo.shape[1]]
    assert norm.lengths is None
    assert float((ours - solo).abs().max()) < 5e-5
    assert float((naive - solo).abs().max()) > 1e-2


def test_short_clips_are_padded_to_one_frame(build: Any, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "short.wav", np.ones(420, "f") * 0.1, 16_000)
    encoder = build("hubert", weights="tiny")
    (found,) = encoder.frontend.extract([AudioClip(tmp_path / "short.wav")])
    assert found.shape == (1, 32)
    assert np.isfinite(found).all()
    soundfile.write(tmp_path / "slow.wav", np.ones(210, "f") * 0.1, 8_000)  # 26 ms, 420 samples at 16 kHz
    (found,) = encoder.frontend.extract([AudioClip(tmp_path / "slow.wav")])
    assert len(found) == 1


def test_layer_selects_a_hidden_state(build: Any, saved: Any, corpus: Any, store: Any, tmp_path: Path) -> None:
    import soundfile
    from transformers import AutoFeatureExtractor, AutoModel

    folder = saved.speech(tmp_path, "wav2vec2", "layer")
    info, utterances = corpus
    ragged = build("xlsr", checkpoint=str(folder), layer=1, dtype="float32").arrays(info, utterances, store)
    samples, _ = soundfile.read(info.folder / "1.wav", dtype="float32")
    values = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(values.input_values, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(ragged.row(1), states[1][0].numpy(), atol=2e-5)


def test_training_draws_from_the_trials_generator(build: Any) -> None:
    """Dropout inside transformers, functional or not: the same generator gives the same numbers, whatever the global
    generator does, and leaves the global one as it was."""
    from mer.batch import Sequence

    encoder = build("wavlm", weights="tiny", train="full").train()
    x = Sequence(torch.randn(2, 4000), torch.ones(2, 4000, dtype=torch.bool))
    results = []
    for seed, other in [(1, 10), (1, 20), (2, 10)]:
        set_generator(encoder, torch.Generator().manual_seed(seed))
        torch.manual_seed(other)
        before = torch.get_rng_state()
        results.append(encoder(x).values.detach())
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    encoder.eval()
    assert torch.equal(encoder(x).values, encoder(x).values)


def test_group_norm_is_extracted_in_equal_lengths(build: Any, corpus: Any, store: Any) -> None:
    """Not even float noise of padding, then: what the store keeps is what one utterance alone would give."""
    seen: dict[str, list[bool]] = {"wav2vec2": [], "xlsr": []}
    for name, masks in seen.items():
        encoder = build(name, weights="tiny")
        encode = encoder.encode

        def record(body: Any, samples: Any, mask: Any, encode: Any = encode, masks: list[bool] = masks) -> Any:
            masks.append(bool(mask.all()))
            return encode(body, samples, mask)

        object.__setattr__(encoder, "encode", record)
        encoder.arrays(*corpus, store)
    assert seen == {"wav2vec2": [True] * 4, "xlsr": [False]}
