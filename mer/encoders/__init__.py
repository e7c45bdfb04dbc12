"""Encoders: a corpus's audio, text or ready-made features in, one `Sequence` per utterance and modality out.

Importing this module is free (no torch): a plan reads `LEVELS` and the levels' declarations alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mer.data.corpus import CorpusInfo, Utterance
    from mer.encoders.base import Encoder
    from mer.recipe import EncoderConfig

LEVELS: dict[str, str] = {
    # any modality
    "features": "mer.encoders.features:Features",
    # text
    "phobert": "mer.encoders.hf_text:PhoBert",
    "videberta": "mer.encoders.hf_text:ViDeBerta",
    "hf_text": "mer.encoders.hf_text:HfText",
    "words": "mer.encoders.words:Words",
    "tfidf": "mer.encoders.words:TfIdf",
    "llm_context": "mer.encoders.llm_context:LlmContext",
    # audio
    "xlsr": "mer.encoders.wav2vec:Xlsr",
    "wav2vec2": "mer.encoders.wav2vec:Wav2Vec2",
    "wavlm": "mer.encoders.wav2vec:WavLm",
    "hubert": "mer.encoders.wav2vec:Hubert",
    "whisper": "mer.encoders.whisper:Whisper",
    "phowhisper": "mer.encoders.whisper:PhoWhisper",
    "fourier2vec": "mer.encoders.fourier2vec:Fourier2Vec",
    "logmel": "mer.encoders.logmel:LogMel",
    "vggish": "mer.encoders.vggish:VggishEncoder",
    "dual": "mer.encoders.dual:Dual",
}

WITHOUT_WEIGHTS = frozenset({"features", "words", "tfidf", "fourier2vec", "logmel"})
"""Levels that have no released weights: `weights` says nothing to them."""


def build_encoder(modality: str, config: EncoderConfig, info: CorpusInfo) -> Encoder:
    """The encoder that a recipe names for a modality of a corpus.

    Weights trained from scratch are drawn from torch's global generator, which the caller seeds.

    >>> from pathlib import Path
    >>> from mer.data.corpus import CorpusInfo
    >>> from mer.recipe import EncoderConfig
    >>> info = CorpusInfo(Path("."), "toy", ("a", "b"), features={"audio": 74})
    >>> build_encoder("audio", EncoderConfig(name="features"), info).out_dim
    74
    """
    from mer import levels

    target = levels.target(LEVELS, config.name, "encoder")
    levels.check_parameters(target, config.params, "encoder")
    kind: Any = levels.load(target, "encoder")
    encoder: Encoder = kind(modality, config, info, **config.params)
    return encoder


def inputs(encoder: Encoder, info: CorpusInfo, utterances: Sequence[Utterance]) -> list[Any]:
    """What the frontend reads of each utterance: an `AudioClip`, normalised text, or None where it has none."""
    return [encoder.item(info, utterance) for utterance in utterances]
