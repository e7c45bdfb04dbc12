"""wav2vec 2.0 and its family (XLSR-53, WavLM, HuBERT): speech models on raw audio, 50 frames a second.

Sources: Baevski et al. 2020 (arXiv 2006.11477), Conneau et al. 2020 (XLSR, 2006.13979), Chen et al. 2021 (WavLM,
2110.13900), Hsu et al. 2021 (HuBERT, 2106.07447).

Two kinds of feature encoder, two rules. With `feat_extract_norm = group` the first convolution is normalised over
time, padding included: a padded batch differs from a single utterance by whole units even with an attention mask.
Such models are extracted in batches of equal lengths, and trained with statistics over valid frames alone. With
`layer` (XLSR-53, *-large-lv60) batches are exact provided that the attention mask is passed.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mer import weights
from mer.batch import Sequence
from mer.encoders.base import AudioEncoder, column, mask_of
from mer.encoders.mel import waves
from mer.encoders.pretrained import LazyBody, Pretrained, StoreType, check_layer, hidden, stream
from mer.encoders.raw import Samples
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

BUDGET = {"cpu": 30 * 16_000, "cuda": 320 * 16_000}
"""Padded samples per batch of extraction."""


class SpeechModel(Pretrained, AudioEncoder):
    """A model of the wav2vec 2.0 family by checkpoint.

    Equation:
        h = Transformer(conv(x))             hidden state `layer` of the released model

    Shapes: samples `[B, T]` -> `[B, T', hidden_size]` with T' = repeated floor((T - k) / s) + 1 over the convolutions:
        49 frames for a second of 16 kHz. Under 400 samples (one frame) a clip is padded with silence.
    When to choose: the strongest audio features where pretrained weights can be had.
    Cost: base 95 M parameters, large 315 M; frozen, each utterance is encoded once for all trials.

    Args:
        layer: which hidden state to use, -1 the last; emotion is often best read from a middle layer.
        dtype: how frozen features are stored.
        bf16: extract in bfloat16 (about twice as fast on a GPU; part of the features' identity).
        unfreeze_every: epochs per layer, for `train: gradual`.
    """

    requires = frozenset({"audio"})
    kind = "audio"
    unused = ("masked_spec_embed",)
    norm: Literal["group", "layer"] = "group"

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
        if not hasattr(made, "conv_kernel") or not hasattr(made, "feat_extract_norm"):
            raise UserError(
                f"checkpoint {config.checkpoint!r} is a {made.model_type} model",
                expected="one of the wav2vec 2.0 family: wav2vec2, hubert, wavlm ...",
            )
        self.out_dim = getattr(made, "output_hidden_size", None) or made.hidden_size
        if layer != -1:
            check_layer(layer, made.num_hidden_layers, config.name)
            self.out_dim = made.hidden_size
        self.speech_dim = self.out_dim
        self.layer, self.grouped = layer, made.feat_extract_norm == "group"
        self.adapted = bool(getattr(made, "add_adapter", False)) and layer == -1
        self.sample_rate, self.normalised = self._preprocessing()
        self.min_samples = self._receptive_field()
        if self.trained:
            self.frontend = Samples(self.sample_rate, self.min_samples)
            self.train_body()
        else:
            self.frontend = SpeechFrontend(self, dtype, bf16)

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        return self._pooled(self._convolved(samples))

    def _convolved(self, samples: Tensor, layers: int | None = None) -> Tensor:
        """Frames after the first `layers` convolutions (default all)."""
        strides = list(zip(self.architecture.conv_kernel, self.architecture.conv_stride, strict=True))
        for kernel, stride in strides[:layers]:
            samples = (torch.div(samples - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
        return samples

    def _pooled(self, frames: Tensor) -> Tensor:
        """Frames after the adapter, which few models have."""
        for _ in range(self.architecture.num_adapter_layers if self.adapted else 0):
            frames = torch.where(frames > 0, (frames - 1) // self.architecture.adapter_stride + 1, 0)
        return frames

    def _receptive_field(self) -> int:
        field, step = 1, 1
        for kernel, stride in zip(self.architecture.conv_kernel, self.architecture.conv_stride, strict=True):
            field, step = field + (kernel - 1) * step, step * stride
        return field

    def _preprocessing(self) -> tuple[int, bool]:
        if self.source is None or self.weights_kind == "scratch":
            return 16_000, True
        from transformers import AutoFeatureExtractor

        found = weights.load_part(self.source, AutoFeatureExtractor, "its preprocessor_config.json")
        return int(found.sampling_rate), bool(found.do_normalize)

    def prepare(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Zero mean and unit variance over the valid samples, where the model was trained so; zeros elsewhere."""
        if not self.normalised:
            return samples * mask
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (samples * mask).sum(dim=1, keepdim=True) / count
        centred = (samples - mean) * mask
        return centred / (centred.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()

    def encode(self, body: Any, samples: Tensor, mask: Tensor) -> Sequence:
        """`[B, T]` prepared samples -> `[B, T', D]` at the body's time-scale. Every row has at least one frame."""
        lengths = mask.sum(dim=1)
        attended = None if bool(mask.all()) else mask.long()
        if attended is not None and self.grouped:
            body.feature_extractor.conv_layers[0].layer_norm.lengths = self._convolved(lengths, 1)
        try:
            values = hidden(body, self.layer, input_values=samples, attention_mask=attended)
        finally:
            if attended is not None and self.grouped:
                body.feature_extractor.conv_layers[0].layer_norm.lengths = None
        return Sequence(values, mask_of(self.get_feat_lengths(lengths), values.shape[1]))

    def forward(self, x: Sequence) -> Sequence:
        if self.body is None:
            return x
        return self._speech(x)

    def _speech(self, x: Sequence) -> Sequence:
        """Samples through the trained body; clips under one frame end in silence, as in the frontend."""
        present, lengths = x.present, x.lengths.clamp(min=self.min_samples)
        samples = nn.functional.pad(column(x), (0, max(0, self.min_samples - x.mask.shape[1])))
        frames = torch.where(present, self.get_feat_lengths(lengths), 0)
        size = int(self.get_feat_lengths(torch.tensor(samples.shape[1])))
        values = torch.zeros(len(present), size, self.speech_dim, device=samples.device)
        if bool(present.any()):
            mask = mask_of(lengths[present], samples.shape[1])
            with self.draws.forked(samples.device):
                found = self.encode(self.body, self.prepare(samples[present], mask), mask)
            values = values.to(found.values.dtype).index_put((present,), found.values)
        return Sequence(values, mask_of(frames, size))

    # The body.

    def _quieten(self, architecture: Any) -> None:
        architecture.mask_time_prob = architecture.mask_feature_prob = architecture.layerdrop = 0.0
        architecture.apply_spec_augment = False

    def make_body(self) -> Any:
        body = super().make_body()
        if self.grouped:
            first = body.feature_extractor.conv_layers[0]
            first.layer_norm = ValidGroupNorm(first.layer_norm)
        return body

    def _layers(self) -> Items[nn.Module]:
        return list(self.body.encoder.layers)

    def _head(self) -> Items[nn.Module]:
        stable = getattr(self.architecture, "do_stable_layer_norm", False)
        after = [self.body.encoder.layer_norm] if stable else []
        return [*after, self.body.adapter] if getattr(self.body, "adapter", None) is not None else after

    def _tiny_architecture(self) -> Any:
        from transformers import Wav2Vec2Config

        return Wav2Vec2Config(**tiny_speech(self.norm))


class Wav2Vec2(SpeechModel):
    """wav2vec 2.0 base (English, 95 M parameters; group norm), or any checkpoint of the family.

    When to choose: English speech; or, with `checkpoint`, any model of the family.
    Source: Baevski et al. 2020, arXiv 2006.11477; `facebook/wav2vec2-base`.
    """

    level = "wav2vec2"


class Xlsr(SpeechModel):
    """wav2vec 2.0 XLSR-53 (53 languages, 315 M parameters; layer norm).

    When to choose: languages other than English; MER-VN's audio encoder.
    Cost: 315 M parameters; frozen, each utterance is encoded once for all trials.
    Source: Conneau et al. 2020, arXiv 2006.13979; `facebook/wav2vec2-large-xlsr-53`.
    """

    level, norm = "xlsr", "layer"


class WavLm(SpeechModel):
    """WavLM base+ (English, 95 M parameters; group norm).

    When to choose: English speech, above all noisy or overlapping: it was trained on mixtures.
    Source: Chen et al. 2021, arXiv 2110.13900; `microsoft/wavlm-base-plus`.
    """

    level = "wavlm"

    def _tiny_architecture(self) -> Any:
        from transformers import WavLMConfig

        return WavLMConfig(**tiny_speech(self.norm))


class Hubert(SpeechModel):
    """HuBERT base (English, 95 M parameters; group norm).

    When to choose: English speech, beside wav2vec 2.0 and WavLM.
    Source: Hsu et al. 2021, arXiv 2106.07447; `facebook/hubert-base-ls960`.
    """

    level = "hubert"

    def _tiny_architecture(self) -> Any:
        from transformers import HubertConfig

        return HubertConfig(**tiny_speech(self.norm))


def tiny_speech(norm: str) -> dict[str, Any]:
    """The convolutions of the real models (so the same frames), everything else small."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "conv_bias": norm == "layer",
    }


class ValidGroupNorm(nn.Module):
    """Normalisation over time (GroupNorm, one group per channel) that counts valid frames alone.

    `[B, C, T] -> [B, C, T]`. With `lengths` None, every frame is valid: then it is the module that it replaces.
    """

    def __init__(self, original: nn.GroupNorm) -> None:
        super().__init__()
        if original.num_groups != original.num_channels:
            raise UserError("a feature encoder with several channels per group", expected="one group per channel")
        self.weight, self.bias, self.eps = original.weight, original.bias, original.eps
        self.lengths: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            return nn.functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        wide = x.float()
        valid = mask_of(self.lengths, x.shape[2]).unsqueeze(1)
        count = self.lengths[:, None, None].clamp(min=1)
        mean = (wide * valid).sum(dim=2, keepdim=True) / count
        variance = ((wide - mean).square() * valid).sum(dim=2, keepdim=True) / count
        scaled = (wide - mean) * (variance + self.eps).rsqrt()
        return (scaled * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class SpeechFrontend:
    """Audio clips -> frames of a frozen speech model."""

    def __init__(self, encoder: SpeechModel, dtype: str, bf16: bool) -> None:
        self.dim, self.dtype = encoder.out_dim, dtype
        self.kind: Literal["audio", "text"] = "audio"
        self.encoder, self.body = [encoder], LazyBody(encoder, bf16)

    def identity(self) -> dict[str, object]:
        encoder = self.encoder[0]
        return {
            "frontend": "wav2vec2 family",
            "version": 1,
            **encoder.weights_identity(),
            "layer": encoder.layer,
            "rate": encoder.sample_rate,
            "do_normalize": encoder.normalised,
            "bf16": self.body.bf16,
        }

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        encoder, body, device = self.encoder[0], self.body.get(), self.body.device
        # Group norm over padded batches is made right (`ValidGroupNorm`), at a price that only a GPU does not notice.
        alike = encoder.grouped and device.type == "cpu"
        clips = waves(items, encoder.sample_rate, encoder.min_samples)
        found: list[npt.NDArray[np.generic]] = [np.empty(0)] * len(items)
        with torch.inference_mode(), self.body.autocast():
            for batch in stream(clips, BUDGET[device.type], equal=alike):
                lengths = torch.tensor([len(clip) for _, clip in batch], device=device)
                samples = pad_sequence([clip for _, clip in batch], batch_first=True).to(device)
                mask = mask_of(lengths, samples.shape[1])
                frames = encoder.encode(body, encoder.prepare(samples, mask), mask)
                values = frames.values.float().cpu().numpy()
                for row, ((i, _), length) in enumerate(zip(batch, frames.lengths.tolist(), strict=True)):
                    found[i] = values[row, :length]
        return found
