"""Whisper's encoder: valid frames only, windows for long audio, the same mels as transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.batch import Sequence
from mer.data.audio import AudioClip
from mer.errors import UserError

soundfile = pytest.importorskip("soundfile")

POSITIONS = 150  # windows of 3 s: everything else is Whisper's


@pytest.fixture(scope="module")
def folder(saved: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(saved.whisper(tmp_path_factory.mktemp("whisper"), POSITIONS))


def theirs(folder: Path, samples: np.ndarray) -> np.ndarray:
    """transformers on one utterance of at most a window: extractor, encoder, mask of the extractor."""
    from transformers import AutoFeatureExtractor, WhisperModel

    found = AutoFeatureExtractor.from_pretrained(folder)(
        samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
    )
    valid = found.attention_mask[0, ::2].bool()
    with torch.inference_mode():
        encoder = WhisperModel.from_pretrained(folder).eval().get_encoder()
        frames: np.ndarray = encoder(found.input_features).last_hidden_state[0][valid].numpy()
        return frames


@pytest.mark.parametrize("samples", [400, 16_000, 16_001, 30_123, 48_000])
def test_valid_frames_are_transformers(samples: int, build: Any, folder: Path, tmp_path: Path) -> None:
    wave = np.random.default_rng(samples).normal(size=samples).astype("f") * 0.1
    soundfile.write(tmp_path / "a.wav", wave, 16_000, "FLOAT")
    encoder = build("whisper", checkpoint=str(folder))
    (ours,) = encoder.frontend.extract([AudioClip(tmp_path / "a.wav")])
    expected = theirs(folder, wave)
    assert len(ours) == len(expected) == int(encoder.get_feat_lengths(torch.tensor(samples)))
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_frame_counts_round_up(build: Any) -> None:
    encoder = build("whisper", weights="tiny")
    assert encoder.get_feat_lengths(torch.tensor([1, 320, 321, 80_123, 480_000])).tolist() == [1, 1, 2, 251, 1500]
    assert encoder.window == 480_000


def test_long_audio_is_cut_into_windows(build: Any, folder: Path, tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(size=120_001).astype("f") * 0.1
    soundfile.write(tmp_path / "a.wav", wave, 16_000, "FLOAT")
    encoder = build("whisper", checkpoint=str(folder))
    (ours,) = encoder.frontend.extract([AudioClip(tmp_path / "a.wav")])
    expected = np.concatenate([theirs(folder, wave[at : at + 48_000]) for at in (0, 48_000, 96_000)])
    assert len(ours) == 376 == int(encoder.get_feat_lengths(torch.tensor(120_001)))
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_trained_equals_extracted(build: Any, folder: Path, tmp_path: Path) -> None:
    """A padded batch through the trained body, with an absent row and one longer than a window."""
    rng = np.random.default_rng(3)
    waves = [rng.normal(size=size).astype("f") * 0.1 for size in (5_000, 60_000, 20_001)]
    clips = []
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000, "FLOAT")
        clips.append(AudioClip(tmp_path / f"{number}.wav"))
    expected = build("whisper", checkpoint=str(folder)).frontend.extract(clips)
    encoder = build("whisper", checkpoint=str(folder), train="full").eval()
    values = torch.full((4, 60_000), float("nan"))
    mask = torch.zeros(4, 60_000, dtype=torch.bool)
    for row, wave in enumerate(waves):
        values[row, : len(wave)], mask[row, : len(wave)] = torch.from_numpy(wave), True
    with torch.no_grad():
        found = encoder(Sequence(values, mask))
    assert found.lengths.tolist() == [16, 188, 63, 0]
    for row in range(3):
        np.testing.assert_allclose(found.values[row][found.mask[row]].numpy(), expected[row], atol=2e-4)


def test_only_whisper_checkpoints(build: Any, saved: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wav2vec2 model"):
        build("whisper", checkpoint=str(saved.speech(tmp_path, "wav2vec2", "layer")))
