"""Context by a language model: what a small instruction model makes of an utterance and of what was said before it.

CADGL names "LLM-guided context" and publishes no prompt; these are ours. By default the prompt's hidden state is
pooled: no text is generated, which costs one forward pass per utterance, once, through the feature store. With
`answer` the model answers in words, and a text encoder reads them (`mer.encoders.llm_answer`).

A prompt holds transcripts of other utterances. Two rules keep it honest: labels never enter it, and a transcript that
an utterance lacks enters no prompt, its neighbours' included.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mer.data.ragged import Ragged
from mer.data.text import normalise
from mer.encoders import llm_answer
from mer.encoders.hf_text import HashTokenizer, HfText, TextFrontend
from mer.encoders.pretrained import StoreType
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo, Utterance
    from mer.data.store import FeatureStore
    from mer.recipe import EncoderConfig

TEMPLATE = """A conversation:
{history}
Now {speaker} says: {text}
{future}What does {speaker} feel while saying this? Answer in one word."""
NOTHING = "(not transcribed)"
START = "(the conversation begins)"


@dataclass(frozen=True)
class Prompts:
    """The prompts of a split.

    texts    one per utterance
    sources  for each utterance the positions of the transcripts in its prompt, its own included
    """

    texts: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]


def build_prompts(
    utterances: Items[Utterance],
    *,
    window: int = 4,
    whole: bool = False,
    template: str = TEMPLATE,
    text_available: npt.NDArray[np.bool_] | None = None,
) -> Prompts:
    """One prompt per utterance: who speaks, what is said, and the last `window` utterances before it.

    Args:
        utterances: of whole dialogues, in any order; turns decide.
        window: utterances of the past.
        whole: the whole dialogue instead, past and future. It reads what is yet to be said.
        template: with the fields `{history}`, `{speaker}`, `{text}`, `{future}`.
        text_available: `[N]`, the frozen mask of the modality text; False: this transcript enters no prompt.

    >>> from mer.data.corpus import Utterance
    >>> first = Utterance("a", "Anna", "joy", "train.jsonl:1", transcript="We won!", dialogue="d", turn=0)
    >>> second = Utterance("b", "Ben", "joy", "train.jsonl:2", transcript="At last.", dialogue="d", turn=1)
    >>> print(build_prompts([first, second]).texts[1])
    A conversation:
    Anna: We won!
    Now Ben says: At last.
    What does Ben feel while saying this? Answer in one word.
    """
    texts: list[str] = [""] * len(utterances)
    sources: list[tuple[int, ...]] = [()] * len(utterances)
    said = [_transcript(u, text_available is None or bool(text_available[i])) for i, u in enumerate(utterances)]
    for members in _dialogues(utterances):
        for place, row in enumerate(members):
            past = members[:place] if whole else members[max(0, place - window) : place]
            future = members[place + 1 :] if whole else []
            texts[row] = template.format(
                history=_lines(past, utterances, said) or START,
                speaker=utterances[row].speaker,
                text=said[row] or NOTHING,
                future=f"Later:\n{_lines(future, utterances, said)}\n" if future else "",
            )
            sources[row] = tuple(i for i in (*past, row, *future) if said[i] is not None)
    return Prompts(tuple(texts), tuple(sources))


def _transcript(utterance: Utterance, available: bool) -> str | None:
    if not available or "text" in utterance.lacks or not utterance.transcript:
        return None
    return normalise(utterance.transcript) or None


def _lines(rows: Items[int], utterances: Items[Utterance], said: Items[str | None]) -> str:
    return "\n".join(f"{utterances[row].speaker}: {said[row] or NOTHING}" for row in rows)


def _dialogues(utterances: Items[Utterance]) -> list[list[int]]:
    """Positions of each dialogue's utterances in the order of their turns; one without a dialogue stands alone."""
    found: dict[str, list[int]] = {}
    for row, utterance in enumerate(utterances):
        found.setdefault(f"d{utterance.dialogue}" if utterance.dialogue is not None else f"u{row}", []).append(row)
    return [
        sorted(rows, key=lambda row: (turn if (turn := utterances[row].turn) is not None else float(row), row))
        for rows in found.values()
    ]


class LlmContext(HfText):
    """A small causal language model reads each utterance in its conversation; its hidden state is the feature.

    A modality of its own (`encoders: {context: {name: llm_context, checkpoint: ...}}`); as `guide: context` of the
    fusion `cadgl` it is never hidden, imagined or aligned. Runs once per prompt, through the feature store: weights,
    revision, template, window and the texts themselves are in the key.

    Under missing modalities a vector is withheld wherever a transcript that its prompt holds is missing, so nothing
    leaks, whatever the masks. For frozen masks `arrays(..., text_available=mask)` makes new prompts without the missing
    transcripts instead, which keeps the rest of the context.

    Equation:
        z_i = LM(prompt(last `window` utterances, speaker, text))    of the last token, or the mean

    Shapes: prompts -> `[B, 1, hidden_size]`; with `answer` the reader's `[B, T, hidden_size]`.
    When to choose: transcribed conversations, and a model of 0.5 to 8 B parameters at hand.
    Cost: one forward pass of `max_length` tokens per utterance, once; with `answer` one more of a single token for each
        token of the answer.
    Source: CADGL (premiree/CDAGL) names "LLM-guided context" and publishes no prompt; this one is ours. Comparable:
        BiosERC, Xue et al. 2024, arXiv 2407.04279.

    Args:
        window: how many utterances of the past the prompt holds.
        future: `true` puts the whole dialogue into the prompt: it reads the future, and results must say so.
        template: the prompt, with `{history}`, `{speaker}`, `{text}`, `{future}`; null: the built-in one.
        pool: `last` (the state that would produce the answer) or `mean` over the prompt.
        answer: let the model answer in at most so many tokens, and encode that text; 0: pool its hidden state.
        reader: the frozen text encoder of answers, `checkpoint` or `checkpoint@revision`.
        layer: which hidden state to use, -1 the last.
        max_length: longest prompt in tokens; one that is too long loses its beginning.
        dtype: how frozen features are stored.
        bf16: extract in bfloat16 (about twice as fast on a GPU; part of the features' identity).
    """

    requires = frozenset({"text", "dialogue"})
    level = "llm_context"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        window: int = 4,
        future: bool = False,
        template: str | None = None,
        pool: Literal["last", "mean"] = "last",
        answer: int = 0,
        reader: str | None = None,
        layer: int = -1,
        max_length: int = 512,
        dtype: StoreType = "float16",
        bf16: bool = False,
    ) -> None:
        if config.train not in (None, "frozen") or config.weights == "scratch":
            raise UserError(f"encoder {config.name!r} is frozen", hint="Remove the key train, and weights: scratch.")
        if reader and not answer:
            raise UserError(
                f"encoder {config.name!r}: answer {answer} with reader {reader}",
                expected="answer: the most tokens of an answer",
            )
        self.window, self.whole, self.pool, self.answer = window, future, pool, answer
        self.template = _checked(template or (llm_answer.TEMPLATE if answer else TEMPLATE), config.name)
        super().__init__(modality, config, info, layer=layer, max_length=max_length, dtype=dtype, bf16=bf16)
        self.frontend: PromptFrontend | llm_answer.AnswerFrontend = PromptFrontend(self, dtype, bf16)
        if answer:
            read = llm_answer.build_reader(modality, config, info, reader or "")
            self.frontend, self.out_dim = llm_answer.AnswerFrontend(self, read, answer, dtype, bf16), read.out_dim

    def arrays(
        self,
        info: CorpusInfo,
        utterances: Items[Utterance],
        store: FeatureStore,
        text_available: npt.NDArray[np.bool_] | None = None,
    ) -> Ragged:
        """One vector per utterance; `text_available [N]` is a frozen mask of the modality text."""
        return store.get(self.frontend, list(self.prompts(utterances, text_available).texts))

    def prompts(self, utterances: Items[Utterance], text_available: npt.NDArray[np.bool_] | None = None) -> Prompts:
        return build_prompts(
            utterances, window=self.window, whole=self.whole, template=self.template, text_available=text_available
        )

    def transcripts_read(self, utterances: Items[Utterance]) -> tuple[tuple[int, ...], ...]:
        return self.prompts(utterances).sources

    def tokens(self, texts: Items[str]) -> list[list[int]]:
        """Token ids, cut at the beginning: what is said last is what the prompt is about."""
        if isinstance(self.tokenizer, HashTokenizer):
            longest = max((len(text.split()) for text in texts), default=0) + 2
            ids = self.tokenizer(texts, max_length=longest)["input_ids"]
        else:
            ids = self.tokenizer([self._as_chat(text) for text in texts])["input_ids"]
        return [row[-self.max_length :] for row in ids]

    def text_identity(self) -> dict[str, object]:
        reads = {"window": self.window, "reads the future": self.whole, "template": self.template}
        return {**super().text_identity(), **reads, "pool": self.pool}

    def _body_class(self) -> Any:
        """The hidden state needs no head; an answer does."""
        if not self.answer:
            return None
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def _as_chat(self, text: str) -> str:
        """In the form that an instruction model was trained on, where its tokenizer knows one."""
        if not getattr(self.tokenizer, "chat_template", None):
            return text
        message = [{"role": "user", "content": text}]
        found: str = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return found

    def _tiny_architecture(self) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=2048,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            pad_token_id=1,
        )


class PromptFrontend(TextFrontend):
    """Prompts -> one vector each, `[1, dim]`."""

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "frontend": "language model context"}

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        encoder = self.encoder[0]
        assert isinstance(encoder, LlmContext)
        states = super().extract(items)
        if encoder.pool == "last":
            return [state[-1:] for state in states]
        return [state.mean(axis=0, keepdims=True) for state in states]


def _checked(template: str, name: str) -> str:
    import string

    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if not {"text", "speaker"} <= fields <= {"history", "speaker", "text", "future"}:
        raise UserError(
            f"encoder {name!r}: template with the fields {sorted(fields)}",
            expected="{speaker} and {text}, and where wanted {history} and {future}",
        )
    return template
