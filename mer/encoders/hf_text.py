"""Text encoders from Hugging Face: PhoBERT, ViDeBERTa, any other by name. The full token sequence, not only `[CLS]`.

Sources: Nguyen and Nguyen 2020 (PhoBERT, arXiv 2003.00744); Tran et al. 2023 (ViDeBERTa, arXiv 2301.10439).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mer import weights
from mer.batch import Sequence
from mer.data.text import segment, segmenter_identity
from mer.encoders.base import mask_of
from mer.encoders.pretrained import LazyBody, Pretrained, StoreType, check_layer, hidden, pack
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

BUDGET = {"cpu": 1024, "cuda": 32_768}
"""Padded tokens per batch of extraction."""


class HfText(Pretrained):
    """Any Hugging Face text encoder, by `checkpoint`: the full token sequence, not only `[CLS]`.

    Equation:
        h = Transformer(tokens)              hidden state `layer` of the released model

    Shapes: tokens `[B, T]` -> `[B, T, hidden_size]`. Special tokens are part of the sequence, so that `cls` pooling
        finds the first one at position 0. Texts of more than `max_length` tokens are cut at the end.
    When to choose: transcripts in a language with a pretrained encoder.
    Cost: base models 86 to 135 M parameters; frozen, each text is encoded once for all trials.
    Source: the checkpoint's own paper; BERT, Devlin et al. 2019, arXiv 1810.04805.

    Args:
        layer: which hidden state to use, -1 the last.
        max_length: longest sequence of tokens, the special ones included; at most what the model has positions for.
        segmenter: `none`, `pyvi`, `underthesea`, or `presegmented`; part of the features' identity.
        dtype: how frozen features are stored.
        bf16: extract in bfloat16 (about twice as fast on a GPU; part of the features' identity).
        unfreeze_every: epochs per layer, for `train: gradual`.
    """

    requires = frozenset({"text"})
    kind = "text"
    level = "hf_text"
    unused: ClassVar[tuple[str, ...]] = ("pooler",)

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        layer: int = -1,
        max_length: int = 256,
        segmenter: str = "none",
        dtype: StoreType = "float16",
        bf16: bool = False,
        unfreeze_every: int = 1,
    ) -> None:
        super().__init__(modality, config, info, unfreeze_every=unfreeze_every)
        self._setup(layer, max_length, segmenter, dtype, bf16)

    def _setup(self, layer: int, max_length: int, segmenter: str, dtype: str, bf16: bool) -> None:
        made = self.architecture
        if not hasattr(made, "hidden_size") or not hasattr(made, "vocab_size"):
            raise UserError(
                f"checkpoint {self.config.checkpoint!r} is a {made.model_type} model", expected="a text encoder"
            )
        check_layer(layer, made.num_hidden_layers, self.config.name)
        limit = positions(made)
        if not 3 <= max_length <= limit:
            raise UserError(f"encoder {self.config.name!r}: max_length {max_length}", expected=f"3 to {limit}")
        segmenter_identity(segmenter)  # refuses an unknown or absent one now, not at the first text
        self.out_dim, self.layer = made.hidden_size, layer
        self.max_length, self.segmenter = max_length, segmenter
        self.pad_id = int(made.pad_token_id or 0)
        self.tokenizer = self._tokenizer()
        if self.trained:
            self.frontend = Tokens(self)
            self.train_body()
        else:
            self.frontend = TextFrontend(self, dtype, bf16)

    def tokens(self, texts: Items[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included."""
        segmented = [segment(text, self.segmenter) for text in texts]
        found = self.tokenizer(segmented, truncation=True, max_length=self.max_length)
        ids: list[list[int]] = found["input_ids"]
        return ids

    def text_identity(self) -> dict[str, object]:
        return {
            **self.weights_identity(),
            "segmenter": segmenter_identity(self.segmenter),
            "max_length": self.max_length,
        }

    def forward(self, x: Sequence) -> Sequence:
        if self.body is None:
            return x
        present = x.present
        values = torch.zeros(*x.mask.shape, self.out_dim, device=x.mask.device)
        if bool(present.any()):
            mask = x.mask[present]
            ids = torch.where(mask, x.values[present].long(), self.pad_id)
            with self.draws.forked(ids.device):
                found = hidden(self.body, self.layer, input_ids=ids, attention_mask=mask.long())
            values = values.to(found.dtype).index_put((present,), found)
        return Sequence(values, x.mask)

    # The body.

    def _part(self, model: Any) -> Any:
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        return model

    def _layers(self) -> Items[nn.Module]:
        stack = self.body.encoder if hasattr(self.body, "encoder") else self.body.transformer
        return list(stack.layer if hasattr(stack, "layer") else stack.layers)

    def _never_trained(self) -> None:
        for name, parameter in self.body.named_parameters():  # a key's bias changes no attention weight
            if name.endswith(("self.key.bias", "k_lin.bias")):
                parameter.requires_grad_(False)

    def _tokenizer(self) -> Any:
        if self.source is None:
            return HashTokenizer(self.architecture.vocab_size)
        from transformers import AutoTokenizer

        return weights.load_part(self.source, AutoTokenizer, "its tokenizer")

    def _tiny_architecture(self) -> Any:
        from transformers import RobertaConfig

        return RobertaConfig(
            vocab_size=2048,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=258,
            type_vocab_size=1,
            pad_token_id=1,
        )


class PhoBert(HfText):
    """PhoBERT base v2: RoBERTa for Vietnamese.

    It was trained on word-segmented text (`Chúng_tôi là ...`), so `segmenter` is `pyvi` unless the transcripts are
    segmented already, and at most 256 tokens. The licence of v2 is AGPL-3.0.

    Shapes: tokens `[B, T]` -> `[B, T, 768]`, T at most 256.
    When to choose: Vietnamese transcripts.
    Cost: 135 M parameters; frozen, each text is encoded once for all trials.
    Source: Nguyen and Nguyen 2020, arXiv 2003.00744; `vinai/phobert-base-v2`.
    """

    level = "phobert"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        layer: int = -1,
        max_length: int = 256,
        segmenter: str = "pyvi",
        dtype: StoreType = "float16",
        bf16: bool = False,
        unfreeze_every: int = 1,
    ) -> None:
        Pretrained.__init__(self, modality, config, info, unfreeze_every=unfreeze_every)
        self._setup(layer, max_length, segmenter, dtype, bf16)


class ViDeBerta(HfText):
    """ViDeBERTa base: DeBERTa-v3 for Vietnamese, 128 000 SentencePiece tokens.

    Its pretraining text was segmented with PyVi, so `segmenter` is `pyvi`.

    Shapes: tokens `[B, T]` -> `[B, T, 768]`.
    When to choose: Vietnamese transcripts, beside PhoBERT. No commit of its weights is pinned here: write the one that
        you downloaded into the YAML as `revision`.
    Cost: 86 M parameters beside the embeddings; frozen, each text is encoded once for all trials.
    Source: Tran et al. 2023, arXiv 2301.10439; `Fsoft-AIC/videberta-base`.
    """

    level = "videberta"
    unused: ClassVar[tuple[str, ...]] = ("pooler", "lm_predictions", "mask_predictions")

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        layer: int = -1,
        max_length: int = 256,
        segmenter: str = "pyvi",
        dtype: StoreType = "float16",
        bf16: bool = False,
        unfreeze_every: int = 1,
    ) -> None:
        Pretrained.__init__(self, modality, config, info, unfreeze_every=unfreeze_every)
        self._setup(layer, max_length, segmenter, dtype, bf16)

    def _tiny_architecture(self) -> Any:
        from transformers import DebertaV2Config

        settings: dict[str, Any] = {
            "vocab_size": 2048,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 512,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pad_token_id": 1,
        }
        return DebertaV2Config(**settings)


def positions(architecture: Any) -> int:
    """Longest sequence that a model has positions for.

    RoBERTa's positions begin behind the padding id, hence PhoBERT's table of 258 for 256 tokens; DeBERTa's relative
    positions have no limit, but it was trained up to `max_position_embeddings`.
    """
    table = int(getattr(architecture, "max_position_embeddings", 512))
    begins = architecture.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer")
    return table - (int(architecture.pad_token_id) + 1 if begins else 0)


class HashTokenizer:
    """Words to ids by hashing: what tiny weights need, which know no vocabulary. 0 begins, 2 ends, 1 pads.

    >>> HashTokenizer(100)(["một hai một"])["input_ids"]
    [[0, 57, 79, 57, 2]]
    """

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, texts: Items[str], truncation: bool = True, max_length: int = 256) -> dict[str, list[list[int]]]:
        ids = [[3 + bucket(word, self.vocabulary - 3) for word in text.split()][: max_length - 2] for text in texts]
        return {"input_ids": [[0, *found, 2] for found in ids]}


def bucket(text: str, buckets: int) -> int:
    """A number in [0, buckets) for a string, the same everywhere and for ever."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % buckets


class Tokens:
    """Texts -> token ids `[T]`: what a trained text encoder reads each epoch."""

    def __init__(self, encoder: HfText) -> None:
        self.dim, self.dtype = 0, "int32"
        self.kind: Literal["audio", "text"] = "text"
        self.encoder = [encoder]

    def identity(self) -> dict[str, object]:
        return {"frontend": "tokens", "version": 1, **self.encoder[0].text_identity()}

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        return [np.asarray(ids, dtype=np.int32) for ids in self.encoder[0].tokens([str(item) for item in items])]


class TextFrontend:
    """Texts -> token vectors of a frozen encoder."""

    def __init__(self, encoder: HfText, dtype: str, bf16: bool) -> None:
        self.dim, self.dtype = encoder.out_dim, dtype
        self.kind: Literal["audio", "text"] = "text"
        self.encoder, self.body = [encoder], LazyBody(encoder, bf16)

    def identity(self) -> dict[str, object]:
        encoder = self.encoder[0]
        return {
            "frontend": "text encoder",
            "version": 1,
            **encoder.text_identity(),
            "layer": encoder.layer,
            "bf16": self.body.bf16,
        }

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        encoder, body, device = self.encoder[0], self.body.get(), self.body.device
        ids = [torch.tensor(found) for found in encoder.tokens([str(item) for item in items])]
        found: list[npt.NDArray[np.generic]] = [np.empty(0)] * len(ids)
        with torch.inference_mode(), self.body.autocast():
            for batch in pack([len(row) for row in ids], BUDGET[device.type]):
                padded = pad_sequence([ids[i] for i in batch], batch_first=True, padding_value=encoder.pad_id)
                mask = mask_of(torch.tensor([len(ids[i]) for i in batch])).long()
                values = hidden(body, encoder.layer, input_ids=padded.to(device), attention_mask=mask.to(device))
                array = values.float().cpu().numpy()
                for row, i in enumerate(batch):
                    found[i] = array[row, : len(ids[i])]
        return found
