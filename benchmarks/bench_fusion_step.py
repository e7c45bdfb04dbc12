"""Step time of every fusion (forward, backward, update), and of the layers that dominate it against torch's own.

    python benchmarks/bench_fusion_step.py [--device cuda] [--rounds 7]

Batch of 32 utterances, 20 tokens of text and 150 frames of audio (lengths uniform from a third of that), width 128,
random features: the time of the modules, not of a corpus. One round runs every fusion once, so that ratios are paired.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from mer import fusion, levels
from mer.batch import Batch, Dialogues, Sequence
from mer.layers import Attention, MaskedBiLSTM, set_generator

BATCH, DIM, TEXT, AUDIO = 32, 128, 20, 150
Step = Callable[[], object]


def ragged(length: int, device: str) -> Sequence:
    lengths = torch.randint(length // 3, length + 1, (BATCH, 1))
    lengths[0] = length
    return Sequence(torch.randn(BATCH, length, DIM), torch.arange(length) < lengths).to(device)


def batch(device: str) -> Batch:
    index = torch.arange(BATCH) // 8
    dialogue = Dialogues(index, torch.arange(BATCH) % 2 + 2 * index, (torch.arange(BATCH) % 8).float())
    return Batch({"text": ragged(TEXT, device), "audio": ragged(AUDIO, device)}, (), dialogue.to(device))


def fusion_steps(device: str) -> tuple[dict[str, Step], dict[str, int]]:
    """A training step of each level, and its number of parameters."""
    x = batch(device)
    steps: dict[str, Step] = {}
    sizes: dict[str, int] = {}
    for name, target in fusion.LEVELS.items():
        options = {"modality": "audio", "layers": 2} if name == "none" else {}
        module = levels.load(target)(("text", "audio"), DIM, **options).to(device)
        set_generator(module, torch.Generator(device).manual_seed(0))
        optimizer = torch.optim.AdamW(module.parameters())
        sizes[name] = sum(parameter.numel() for parameter in module.parameters())

        def step(module: nn.Module = module, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            fused = module(x)
            loss = fused.sequence.values.square().mean() + sum(fused.losses.values(), torch.zeros((), device=device))
            torch.autograd.backward(loss)
            optimizer.step()

        steps[name] = step
    return steps, sizes


def layer_steps(device: str) -> dict[str, Step]:
    """Our BiLSTM and attention, forward and backward, beside what one would write with torch alone."""
    x = ragged(AUDIO, device)
    ours, theirs = MaskedBiLSTM(DIM, 64).to(device), nn.LSTM(DIM, 64, batch_first=True, bidirectional=True).to(device)
    attention, mha = Attention(DIM, 4).to(device), nn.MultiheadAttention(DIM, 4, batch_first=True).to(device)
    lengths = x.lengths.cpu()

    def packed() -> None:
        p = nn.utils.rnn.pack_padded_sequence(x.values, lengths, batch_first=True, enforce_sorted=False)
        out = nn.utils.rnn.pad_packed_sequence(theirs(p)[0], batch_first=True, total_length=AUDIO)[0]
        torch.autograd.backward(out.sum())

    return {
        "MaskedBiLSTM": lambda: torch.autograd.backward(ours(x.values, x.mask).sum()),
        "nn.LSTM, packed": packed,
        "Attention": lambda: torch.autograd.backward(attention(x.values, x.values, key_mask=x.mask)[0].sum()),
        "nn.MultiheadAttention": lambda: torch.autograd.backward(
            mha(x.values, x.values, x.values, key_padding_mask=~x.mask, need_weights=False)[0].sum()
        ),
    }


def measure(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds per step, one of each per round; the first round is thrown away.

    On a CPU the processor's own time is counted: machines are shared.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = clock()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                found[name].append(1e3 * (clock() - started))
    return found


def table(times: Mapping[str, list[float]], base: str, sizes: Mapping[str, int]) -> str:
    """Medians, and medians of the ratios to `base` within each round."""
    lines = [f"| | ms | x {base} | parameters |", "|---|---:|---:|---:|"]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times[base], strict=True))
        size = f"{sizes[name]:,}" if name in sizes else ""
        lines.append(f"| {name} | {statistics.median(values):.1f} | {ratio:.2f} | {size} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, sizes = fusion_steps(args.device)
    print(table(measure(steps, args.rounds, args.device), "concat", sizes), end="\n\n")
    layers = measure(layer_steps(args.device), args.rounds, args.device)
    print(table({name: layers[name] for name in ("MaskedBiLSTM", "nn.LSTM, packed")}, "MaskedBiLSTM", {}), end="\n\n")
    print(table({name: layers[name] for name in ("Attention", "nn.MultiheadAttention")}, "Attention", {}))


if __name__ == "__main__":
    main()
