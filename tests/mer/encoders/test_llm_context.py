"""Context by a language model, with a tiny random one that the test makes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.data.corpus import CorpusInfo, Utterance
from mer.data.loading import prepare_split
from mer.data.store import FeatureStore
from mer.encoders import build_encoder
from mer.encoders.llm_answer import AnswerFrontend, greedy
from mer.encoders.llm_context import LlmContext, build_prompts
from mer.errors import UserError
from mer.recipe import EncoderConfig

INFO = CorpusInfo(Path("."), "toy", ("joy", "anger"))
WORDS = ("one", "two", "three", "four", "five", "six")


def utterance(number: int, **changed: Any) -> Utterance:
    dialogue, turn = ("d1", number) if number < 4 else ("d2", number - 4)
    given: dict[str, Any] = {
        "id": f"u{number}",
        "speaker": "AB"[number % 2],
        "emotion": "joy",
        "source": f"train.jsonl:{number + 1}",
        "transcript": WORDS[number],
        "dialogue": dialogue,
        "turn": float(turn),
    }
    return Utterance(**given | changed)


UTTERANCES = [utterance(number) for number in range(6)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "A", "B", ":", ".", "?", *WORDS, "says", "feel"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def build(checkpoint: Path | None, **options: Any) -> LlmContext:
    given: dict[str, Any] = {"weights": "tiny"} if checkpoint is None else {"checkpoint": str(checkpoint)}
    if checkpoint is not None:
        options.setdefault("max_length", 128)
    encoder = build_encoder("context", EncoderConfig(name="llm_context", **given, **options), INFO)
    assert isinstance(encoder, LlmContext)
    return encoder


def test_a_prompt_holds_speaker_text_and_the_past() -> None:
    prompts = build_prompts(UTTERANCES, window=2)
    assert prompts.texts[3] == (
        "A conversation:\nB: two\nA: three\nNow B says: four\nWhat does B feel while saying this? Answer in one word."
    )
    assert prompts.texts[4].startswith("A conversation:\n(the conversation begins)\nNow A says: five\n")
    assert prompts.sources == ((0,), (0, 1), (0, 1, 2), (1, 2, 3), (4,), (4, 5))


def test_the_whole_dialogue_reads_the_future_and_the_default_does_not() -> None:
    assert "four" not in build_prompts(UTTERANCES, window=9).texts[1]
    whole = build_prompts(UTTERANCES, whole=True)
    assert "Later:\nA: three\nB: four\n" in whole.texts[1]
    assert whole.sources[1] == (0, 1, 2, 3)


def test_order_of_rows_does_not_matter() -> None:
    order = [5, 2, 0, 3, 4, 1]
    shuffled = build_prompts([UTTERANCES[i] for i in order])
    plain = build_prompts(UTTERANCES)
    assert list(shuffled.texts) == [plain.texts[i] for i in order]


def test_labels_never_enter_a_prompt() -> None:
    others = [utterance(number, emotion="anger") for number in range(6)]
    assert build_prompts(others) == build_prompts(UTTERANCES)


@pytest.mark.parametrize("whole", [False, True])
def test_a_missing_transcript_enters_no_prompt(whole: bool) -> None:
    mask = np.array([True, False, True, True, True, False])
    secret = [utterance(n, transcript=WORDS[n] if mask[n] else "SECRET") for n in range(6)]
    masked = build_prompts(secret, whole=whole, text_available=mask)
    assert not any("SECRET" in text for text in masked.texts)
    assert "B: (not transcribed)" in masked.texts[2]
    assert all(1 not in rows and 5 not in rows for rows in masked.sources)
    lacking = [utterance(n, **({} if mask[n] else {"lacks": frozenset({"text"})})) for n in range(6)]
    assert build_prompts(lacking, whole=whole) == masked


def test_vectors_are_those_of_the_model_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Through the store, in batches, against transformers one prompt at a time."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    for pool in ("last", "mean"):
        encoder = build(checkpoint, pool=pool, dtype="float32")
        found = encoder.arrays(INFO, UTTERANCES, FeatureStore(tmp_path))
        for number, text in enumerate(encoder.prompts(UTTERANCES).texts):
            with torch.no_grad():
                states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected = states[-1] if pool == "last" else states.mean(0)
            vector = torch.from_numpy(np.asarray(found.row(number), dtype=np.float32))
            torch.testing.assert_close(vector, expected[None], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A random text encoder, its words those of the language model."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("reader")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=260,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def test_an_answer_is_what_transformers_generates_as_the_reader_reads_it(
    checkpoint: Path, reader: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    encoder = build(checkpoint, answer=6, reader=str(reader), dtype="float32")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    expected = []
    for prompt in encoder.prompts(UTTERANCES).texts:
        ids = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        expected.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    assert isinstance(encoder.frontend, AnswerFrontend)
    assert encoder.frontend.answers(encoder.prompts(UTTERANCES).texts) == expected
    assert len(set(expected)) > 1
    found = encoder.arrays(INFO, UTTERANCES, FeatureStore(tmp_path))
    body = AutoModel.from_pretrained(reader)
    for number, answer in enumerate(expected):
        with torch.no_grad():
            states = body(**tokenizer(answer, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(torch.from_numpy(np.asarray(found.row(number))), states, atol=1e-5, rtol=1e-4)
    assert encoder.out_dim == found.row(0).shape[1] == 12


def test_an_answer_ends_where_the_model_ends_it(checkpoint: Path, reader: Path) -> None:
    encoder = build(checkpoint, answer=6, reader=str(reader))
    assert isinstance(encoder.frontend, AnswerFrontend)
    body, prompt = encoder.frontend.body.get(), encoder.tokens(encoder.prompts(UTTERANCES).texts)[0]
    whole = greedy(body, prompt, 6, torch.device("cpu"))
    assert len(whole) == 6
    ended = copy.deepcopy(body)
    ended.generation_config.eos_token_id = [whole[3]]
    assert greedy(ended, prompt, 6, torch.device("cpu")) == whole[: whole.index(whole[3])]


def test_answers_of_a_tiny_model_leak_no_withheld_transcript(tmp_path: Path) -> None:
    encoders = {
        "text": build_encoder("text", EncoderConfig(name="hf_text", weights="tiny"), INFO),
        "context": build(None, window=1, answer=4),
    }
    data = prepare_split(INFO, UTTERANCES, encoders, FeatureStore(tmp_path))
    available = np.ones((6, 2), dtype=bool)
    available[1, 0] = False
    batch = data.batch(np.arange(6), available, dialogues=True)
    assert batch.modalities["context"].present.tolist() == [True, False, False, True, True, True]


def test_a_long_prompt_keeps_its_end(checkpoint: Path) -> None:
    encoder = build(checkpoint, max_length=8)
    text = encoder.prompts(UTTERANCES).texts[3]
    assert encoder.tokens([text]) == [encoder.tokenizer(text)["input_ids"][-8:]]


def test_everything_that_changes_a_vector_is_in_the_key(checkpoint: Path, reader: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"window": 2}, {"future": True}, {"pool": "mean"}, {"layer": 1}]
    changes += [{"max_length": 64}, {"template": "{speaker} {text}"}]
    changes += [{"answer": 4, "reader": str(reader)}, {"answer": 5, "reader": str(reader)}]
    changes += [{"answer": 4, "reader": str(reader), "template": "{speaker} {text}"}]
    identities = [str(build(checkpoint, **change).frontend.identity()) for change in changes]
    assert len(set(identities)) == len(changes)
    assert build(checkpoint).frontend.identity() == build(checkpoint).frontend.identity()
    assert "reads the future" in identities[0]


def test_a_context_made_from_a_withheld_transcript_is_withheld(tmp_path: Path) -> None:
    encoders = {
        "text": build_encoder("text", EncoderConfig(name="hf_text", weights="tiny"), INFO),
        "context": build(None, window=1),
    }
    data = prepare_split(INFO, UTTERANCES, encoders, FeatureStore(tmp_path))
    available = np.ones((6, 2), dtype=bool)
    everything = data.batch(np.arange(6), available, dialogues=True).modalities["context"]
    assert everything.present.all()
    available[1, 0] = False  # the transcript of u1, which the prompts of u1 and u2 hold
    batch = data.batch(np.arange(6), available, dialogues=True)
    assert batch.modalities["context"].present.tolist() == [True, False, False, True, True, True]
    assert batch.modalities["text"].present.tolist() == [True, False, True, True, True, True]
    some = data.batch(np.array([2, 3]), available, dialogues=True)
    assert some.modalities["context"].present.tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": -1}, "window is -1"),
        ({"pool": "max"}, "pool is 'max'; expected last or mean"),
        ({"template": "{speaker} {label}"}, "template with the fields"),
        ({"train": "full"}, "frozen"),
        ({"answer": -1}, "answer is -1; expected a whole number, 0"),
        ({"answer": 5}, "nothing to read them with"),
        ({"reader": "roberta-base"}, "answer 0 with reader roberta-base"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(checkpoint, **options)
