"""Tiny checkpoints saved to disk, so that tests go through the real loading code; a corpus of noise and text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mer.data.corpus import CorpusInfo, Utterance
from mer.data.store import FeatureStore
from mer.encoders import build_encoder
from mer.encoders.base import Encoder
from mer.recipe import EncoderConfig

SAMPLES = (800, 16_000, 12_345, 40_000)
TEXTS = ("tôi yêu em", "hôm nay trời đẹp quá và tôi rất vui", "không !", "buồn")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusInfo, list[Utterance]]:
    """Four utterances with audio and text, a fifth with neither."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    found = []
    for number, (size, text) in enumerate(zip(SAMPLES, TEXTS, strict=True)):
        tone = np.sin(np.arange(size) * (0.05 + 0.03 * number)) * 0.2
        soundfile.write(folder / f"{number}.wav", (tone + rng.normal(size=size) * 0.1).astype("f"), 16_000, "FLOAT")
        found.append(
            Utterance(f"u{number}", "s", "a", f"train.jsonl:{number + 1}", wav=f"{number}.wav", transcript=text)
        )
    found.append(Utterance("u4", "s", "a", "train.jsonl:5"))
    return CorpusInfo(folder, "noise", ("a", "b")), found


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def build(corpus: tuple[CorpusInfo, list[Utterance]]) -> Any:
    def build(name: str, **config: Any) -> Encoder:
        modality = "text" if name in ("phobert", "videberta", "hf_text", "words", "tfidf") else "audio"
        return build_encoder(modality, EncoderConfig(name=name, **config), corpus[0])

    return build


@pytest.fixture(scope="session")
def saved() -> Any:
    """Functions that save tiny, randomly initialised checkpoints: `saved.speech`, `saved.whisper`, `saved.text`."""
    return SimpleNamespace(speech=save_speech, whisper=save_whisper, text=save_text)


def save_speech(folder: Path, kind: str, norm: str) -> Path:
    """A randomly initialised model of the wav2vec 2.0 family with its feature extractor."""
    from transformers import (
        HubertConfig,
        HubertModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
        WavLMConfig,
        WavLMModel,
    )

    from mer.encoders.wav2vec import tiny_speech

    settings, model = {
        "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
        "hubert": (HubertConfig, HubertModel),
        "wavlm": (WavLMConfig, WavLMModel),
    }[kind]
    torch.manual_seed(1)
    made: Any = model(settings(**tiny_speech(norm)))
    for name, parameter in made.named_parameters():  # biases of 0 would hide what padding does
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder)
    extractor: Any = Wav2Vec2FeatureExtractor
    extractor(return_attention_mask=norm == "layer", do_normalize=True).save_pretrained(folder)
    return folder


def save_whisper(folder: Path, positions: int = 1500) -> Path:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=positions,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    made: Any = WhisperModel(config)
    made.save_pretrained(folder)
    extractor: Any = WhisperFeatureExtractor
    extractor(feature_size=80, chunk_length=positions * 320 // 16_000).save_pretrained(folder)
    return folder


def save_text(folder: Path, kind: str) -> Path:
    """A randomly initialised text model with a word tokenizer made of `TEXTS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        DebertaV2Config,
        DebertaV2Model,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaModel,
    )

    words = sorted({word for text in TEXTS for word in text.replace("_", " ").split()})
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
    ).save_pretrained(folder)
    small: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "pad_token_id": 1,
    }
    torch.manual_seed(1)
    made: Any
    if kind == "roberta":
        made = RobertaModel(RobertaConfig(**small, max_position_embeddings=20, type_vocab_size=1))
    else:
        relative: dict[str, Any] = {
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "max_position_embeddings": 64,
            "type_vocab_size": 0,
        }
        made = DebertaV2Model(DebertaV2Config(**small, **relative))
    made.save_pretrained(folder)
    return folder
