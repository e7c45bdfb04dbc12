"""A small language model that knows the demo corpus's language: trained here on further made-up conversations.

A stand-in for a pretrained one, which needs a network: the level `llm_context` with random weights knows nothing, so it
cannot show what context by a language model is worth. No label is used, and no dialogue of the demo corpus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mer.data.demo import DemoParams, written_dialogue
from mer.data.text import normalise

TEMPLATE = "{history}\n{speaker} : {text}"
"""The prompt, in the form of what the model was trained on."""
LENGTH = 96


def train(folder: Path, *, dialogues: int = 1500, steps: int = 1500, width: int = 64, seed: int = 1000) -> float:
    """Write a two-layer Llama with a vocabulary of words to `folder`; returns its last losses' mean."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    params = DemoParams(seed=seed)
    texts = [
        "\n".join(f"{speaker} : {normalise(text)}" for speaker, text in written_dialogue(params, number))
        for number in range(dialogues)
    ]
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>"]))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    streams = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    losses = []
    for _ in range(steps):
        rows = [_piece(streams[i]) for i in torch.randint(len(streams), (16,)).tolist()]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
        labels = torch.where(ids == 0, -100, ids)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(losses[-50:]) / len(losses[-50:])


def _piece(ids: torch.Tensor) -> torch.Tensor:
    start = int(torch.randint(max(1, len(ids) - LENGTH), ()))
    return ids[start : start + LENGTH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    print(f"loss {train(given.folder, steps=given.steps):.3f} nats a word")


if __name__ == "__main__":
    main()
