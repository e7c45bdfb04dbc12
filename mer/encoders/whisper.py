"""Whisper's encoder (and PhoWhisper's): log-mels of 30 s in, 50 frames a second out, of which the valid are kept.

Sources: Radford et al. 2022 (arXiv 2212.04356); Le et al. 2024 (PhoWhisper, arXiv 2406.02555).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mer import weights
from mer.batch import Sequence
from mer.encoders.base import AudioEncoder, column, mask_of
from mer.encoders.mel import waves
from mer.encoders.pretrained import LazyBody, Pretrained, StoreType, check_layer, hidden
from mer.encoders.raw import Samples
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

CHUNKS = {"cpu": 4, "cuda": 32}
"""Windows of 30 s per batch of extraction."""


class Whisper(Pretrained, AudioEncoder):
    """Whisper's encoder, by default `openai/whisper-small`.

    The encoder takes windows of exactly 30 s and knows no mask, so that batches cannot matter; frames behind an
    utterance's end are dropped, longer utterances are cut into windows whose frames follow one another.

    Equation:
        h = Transformer(conv(log-mel(x)))    hidden state `layer` of the released model

    Shapes: samples `[B, T]` -> `[B, ceil(T / 320), d_model]`.
    When to choose: multilingual speech, noisy recordings; lexical content is strong in it.
    Cost: each utterance costs 30 s of audio (small: 87 M parameters), once for all trials where it is frozen.
    Source: Radford et al. 2022, arXiv 2212.04356; `openai/whisper-small`.

    Args:
        layer: which hidden state to use, -1 the last.
        dtype: how frozen features are stored.
        bf16: extract in bfloat16 (about twice as fast on a GPU; part of the features' identity).
        unfreeze_every: epochs per layer, for `train: gradual`.
    """

    requires = frozenset({"audio"})
    kind = "audio"
    level = "whisper"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        layer: int = -1,
        dtype: StoreType = "float16",
        bf16: bool = False,
        unfreeze_every: int = 1,
    ) -> None:
        super().__init__(modality, config, info, unfreeze_every=unfreeze_every)
        made = self.architecture
        if made.model_type != "whisper":
            raise UserError(
                f"checkpoint {config.checkpoint!r} is a {made.model_type} model", expected="a whisper model"
            )
        check_layer(layer, made.encoder_layers, config.name)
        self.out_dim, self.layer = made.d_model, layer
        extractor = self._extractor()
        self.sample_rate, self.hop, self.n_fft = extractor.sampling_rate, extractor.hop_length, extractor.n_fft
        self.register_buffer("filters", torch.from_numpy(extractor.mel_filters).float(), persistent=False)
        self.stride = 2 * self.hop
        self.window = made.max_source_positions * self.stride
        if self.trained:
            self.frontend = Samples(self.sample_rate)
            self.train_body()
        else:
            self.frontend = WhisperFrontend(self, dtype, bf16)

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        return torch.div(samples + self.stride - 1, self.stride, rounding_mode="floor")

    def log_mel(self, samples: Tensor) -> Tensor:
        """`[B, T]` of whole windows -> `[B, n_mels, T / hop]`, as Whisper was trained: within 8 of the maximum."""
        filters: Tensor = self.get_buffer("filters").to(samples.device)
        window = torch.hann_window(self.n_fft, device=samples.device)
        stft = torch.stft(samples.float(), self.n_fft, self.hop, window=window, return_complex=True)
        power = stft[..., :-1].abs().square().contiguous()
        log = (filters.T @ power).clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0

    def encode(self, body: Any, samples: Tensor) -> Tensor:
        """`[B, window]` samples -> `[B, max_source_positions, D]`."""
        return hidden(body, self.layer, input_features=self.log_mel(samples))

    def forward(self, x: Sequence) -> Sequence:
        if self.body is None:
            return x
        samples, lengths = column(x), x.lengths
        size = max(1, int(self.get_feat_lengths(torch.tensor(samples.shape[1]))))
        found = []
        with self.draws.forked(samples.device):
            for start in range(0, samples.shape[1], self.window):
                part = samples[:, start : start + self.window]
                part = nn.functional.pad(part, (0, self.window - part.shape[1]))
                values = part.new_zeros(len(part), self.window // self.stride, self.out_dim)
                spoken = lengths > start
                if bool(spoken.any()):
                    frames = self.encode(self.body, part[spoken])
                    values = values.to(frames.dtype).index_put((spoken,), frames)
                found.append(values)
        mask = mask_of(self.get_feat_lengths(lengths), size)
        return Sequence(torch.cat(found, dim=1)[:, :size], mask)

    # The body.

    def _quieten(self, architecture: Any) -> None:
        architecture.apply_spec_augment = False
        architecture.encoder_layerdrop = architecture.decoder_layerdrop = 0.0

    def _part(self, model: Any) -> Any:
        return model.get_encoder()

    def _layers(self) -> Items[nn.Module]:
        return list(self.body.layers)

    def _head(self) -> Items[nn.Module]:
        return [self.body.layer_norm]

    def _never_trained(self) -> None:
        self.body.embed_positions.requires_grad_(False)  # sinusoids
        for layer in self.body.layers:  # a key's bias changes no attention weight
            if layer.self_attn.k_proj.bias is not None:
                layer.self_attn.k_proj.bias.requires_grad_(False)

    def _extractor(self) -> Any:
        from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

        if self.source is None or self.weights_kind == "scratch":
            build: Any = WhisperFeatureExtractor
            return build(feature_size=self.architecture.num_mel_bins)
        return weights.load_part(self.source, AutoFeatureExtractor, "its preprocessor_config.json")

    def _tiny_architecture(self) -> Any:
        from transformers import WhisperConfig

        return WhisperConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            vocab_size=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )


class PhoWhisper(Whisper):
    """PhoWhisper: Whisper fine-tuned on Vietnamese speech, by default `vinai/PhoWhisper-small`.

    When to choose: Vietnamese speech. No commit of its weights is pinned here: write the one that you downloaded into
        the YAML as `revision`.
    Source: Le et al. 2024, arXiv 2406.02555; `vinai/PhoWhisper-small`.
    """

    level = "phowhisper"


class WhisperFrontend:
    """Audio clips -> valid frames of a frozen Whisper encoder."""

    def __init__(self, encoder: Whisper, dtype: str, bf16: bool) -> None:
        self.dim, self.dtype = encoder.out_dim, dtype
        self.kind: Literal["audio", "text"] = "audio"
        self.encoder, self.body = [encoder], LazyBody(encoder, bf16)

    def identity(self) -> dict[str, object]:
        encoder = self.encoder[0]
        return {
            "frontend": "whisper encoder",
            "version": 1,
            **encoder.weights_identity(),
            "layer": encoder.layer,
            "rate": encoder.sample_rate,
            "bf16": self.body.bf16,
        }

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        encoder, body, device = self.encoder[0], self.body.get(), self.body.device
        clips = enumerate(waves(items, encoder.sample_rate))
        windows = ((number, part) for number, samples in clips for part in torch.split(samples, encoder.window))
        found: list[list[npt.NDArray[np.generic]]] = [[] for _ in items]
        with torch.inference_mode(), self.body.autocast():
            while batch := list(itertools.islice(windows, CHUNKS[device.type])):
                padded = [nn.functional.pad(part, (0, encoder.window - len(part))) for _, part in batch]
                values = encoder.encode(body, torch.stack(padded).to(device)).float().cpu().numpy()
                for row, (number, part) in enumerate(batch):
                    valid = int(encoder.get_feat_lengths(torch.tensor(len(part))))
                    found[number].append(values[row, :valid].copy())
        return [np.concatenate(parts) for parts in found]
