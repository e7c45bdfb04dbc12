"""What a language model answers about an utterance, as text, and that text as a text encoder reads it."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mer.encoders.hf_text import HashTokenizer, HfText
from mer.encoders.pretrained import LazyBody
from mer.errors import UserError
from mer.recipe import EncoderConfig

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.encoders.llm_context import LlmContext

TEMPLATE = """A conversation:
{history}
Now {speaker} says: {text}
{future}In one sentence: what does {speaker} feel while saying this, and why?"""


def build_reader(modality: str, config: EncoderConfig, info: CorpusInfo, checkpoint: str) -> HfText:
    """The frozen text encoder that reads answers; tiny (random) where the language model is."""
    if config.weights == "tiny":
        if checkpoint:
            raise UserError(f"encoder {config.name!r}: reader {checkpoint!r} with weights: tiny", expected="no reader")
        return HfText(modality, EncoderConfig(name="hf_text", weights="tiny"), info)
    if not checkpoint:
        raise UserError(
            f"encoder {config.name!r}: answers, and nothing to read them with", expected="reader: a text encoder"
        )
    name, _, revision = checkpoint.partition("@")
    return HfText(modality, EncoderConfig(name="hf_text", checkpoint=name, revision=revision or None), info)


class AnswerFrontend:
    """Prompts -> the reader's token vectors of what the language model answers, `[T, dim]`.

    Greedy: the most probable token each time, so an answer is a function of the prompt and the weights. One prompt at
    a time, so no prompt's answer depends on another's length.
    """

    def __init__(self, encoder: LlmContext, reader: HfText, tokens: int, dtype: str, bf16: bool) -> None:
        assert reader.frontend is not None
        self.dim, self.dtype = reader.out_dim, dtype
        self.kind: Literal["audio", "text"] = "text"
        self.encoder, self.body = [encoder], LazyBody(encoder, bf16)
        self.reader, self.count = reader.frontend, tokens

    def identity(self) -> dict[str, object]:
        return {
            "frontend": "language model answer",
            "version": 1,
            **self.encoder[0].text_identity(),
            "answer": self.count,
            "bf16": self.body.bf16,
            "reader": self.reader.identity(),
        }

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        found: list[npt.NDArray[np.generic]] = self.reader.extract(self.answers([str(item) for item in items]))
        return found

    def answers(self, prompts: Items[str]) -> list[str]:
        """The answers as text."""
        encoder, body = self.encoder[0], self.body.get()
        with torch.inference_mode(), self.body.autocast():
            return [
                text_of(encoder.tokenizer, greedy(body, row, self.count, self.body.device))
                for row in encoder.tokens(prompts)
            ]


def greedy(body: Any, prompt: list[int], tokens: int, device: torch.device) -> list[int]:
    """At most `tokens` token ids that follow a prompt, the most probable one each time, up to the end of the text."""
    ends = body.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    ids, cache, found = torch.tensor([prompt], device=device), None, []
    for _ in range(tokens):
        output = body(input_ids=ids, past_key_values=cache, use_cache=True)
        token, cache = int(output.logits[0, -1].argmax()), output.past_key_values
        if token in ends:
            break
        found.append(token)
        ids = torch.tensor([[token]], device=device)
    return found


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """Token ids as text. A tiny model's vocabulary is numbers."""
    if isinstance(tokenizer, HashTokenizer):
        return " ".join(str(token) for token in ids)
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()
