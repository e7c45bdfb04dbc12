"""The shortest honest script that a student would write for the quickstart's grid: one process, plain loops.

    python benchmarks/student.py CORPUS [--studies 8] [--on-the-fly]

The same cells, studies, draws, epochs, conditions and metric as `search_spaces/quickstart.yaml`, models of the same
sizes. Features are computed once and kept in memory, as a careful student does; `--on-the-fly` computes them whenever
an utterance is read, as most published training scripts do. No resuming, no ledger, no statistics, no report.
"""

import argparse
import itertools
import json
import re
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

MELS = torch.zeros(64, 257)
EDGES = torch.linspace(4, 240, 66)
for band in range(64):
    low, mid, high = EDGES[band : band + 3]
    freqs = torch.arange(257)
    MELS[band] = torch.minimum((freqs - low) / (mid - low), (high - freqs) / (high - mid)).clamp(min=0)


class Utterances(Dataset):
    def __init__(self, folder, split, labels, on_the_fly):
        lines = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
        self.folder, self.lines, self.labels = (
            folder,
            sorted(lines, key=lambda u: (u["dialogue_id"], u["turn"])),
            labels,
        )
        self.items = None if on_the_fly else [self.read(number) for number in range(len(self.lines))]

    def read(self, number):
        line = self.lines[number]
        words = [1 + zlib.crc32(w.encode()) % 1024 for w in re.findall(r"\w+", line["transcript"].lower())] or [0]
        info = soundfile.info(self.folder / line["wav_path"])
        start, end = (round(line.get(key, 0) * info.samplerate) for key in ("start", "end"))
        wave, _ = soundfile.read(self.folder / line["wav_path"], start=start, stop=end or None, dtype="float32")
        spectrum = torch.stft(torch.from_numpy(wave), 512, 160, window=torch.hann_window(512), return_complex=True)
        mel = (MELS @ spectrum.abs() + 1e-2).log().T
        mel = nn.functional.avg_pool1d(mel.T[None], 4, ceil_mode=True)[0].T
        return torch.tensor(words), mel, self.labels.index(line["emotion"]), line["dialogue_id"]

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, number):
        return self.items[number] if self.items else self.read(number)


def collate(batch):
    words, mels, labels, dialogues = zip(*batch, strict=True)
    return pad_sequence(words, True), pad_sequence(mels, True, -99.0), torch.tensor(labels), dialogues


class Net(nn.Module):
    def __init__(self, modalities, pooling, context, classes, mean, std):
        super().__init__()
        self.modalities, self.pooling, self.mean, self.std = modalities, pooling, mean, std
        self.words = nn.Embedding(1025, 64, padding_idx=0)
        self.project = nn.ModuleDict({m: nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32)) for m in ("text", "audio")})
        self.lstm = nn.LSTM(32, 64, batch_first=True, bidirectional=True) if context == "bilstm" else None
        self.back = nn.Linear(128, 32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes))
        self.drop, self.drop_words = nn.Dropout(0.1), nn.Dropout(0.3)

    def forward(self, words, mels, dialogues, seen):
        frames, masks = [], []
        if "text" in self.modalities:
            frames.append(self.drop(self.project["text"](self.drop_words(self.words(words)))))
            masks.append((words > 0) & ("text" in seen))
        if "audio" in self.modalities:
            frames.append(self.drop(self.project["audio"]((mels - self.mean) / self.std)))
            masks.append((mels[..., 0] > -99) & ("audio" in seen))
        x, mask = torch.cat(frames, 1), torch.cat(masks, 1)[..., None]
        if self.pooling == "mean":
            z = (x * mask).sum(1) / mask.sum(1).clamp(min=1)
        else:
            z = x.masked_fill(~mask, 1e9).amin(1).masked_fill(~mask.any(1), 0)
        if self.lstm is not None:
            runs = [len(list(run)) for _, run in itertools.groupby(dialogues)]
            h = [self.lstm(part[None])[0][0] for part in z.split(runs)]
            z = z + self.back(torch.cat(h))
        return self.head(z)


def batches(data, context, seed):
    if context == "none":
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate, generator=generator)
    found = [list(run) for _, run in itertools.groupby(range(len(data)), lambda n: data.lines[n]["dialogue_id"])]
    np.random.default_rng(seed).shuffle(found)
    grouped, batch = [], []
    for run in found:
        batch += run
        if len(batch) >= 16:
            grouped, batch = [*grouped, batch], []
    return DataLoader(data, batch_sampler=[*grouped, batch] if batch else grouped, collate_fn=collate)


def evaluate(model, data, seen=("text", "audio")):
    model.eval()
    with torch.no_grad():
        found = [
            (model(words, mels, dialogues, seen).argmax(1), labels)
            for words, mels, labels, dialogues in DataLoader(data, batch_size=128, collate_fn=collate)
        ]
    predicted, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return balanced_accuracy_score(labels, predicted)


def train(cell, lr, seed, train_set, valid_set, classes, stats):
    torch.manual_seed(seed)
    model = Net(*cell, classes, *stats)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    loader, best, kept = batches(train_set, cell[2], seed), -1.0, None
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12 * len(loader))
    for _ in range(12):
        model.train()
        for words, mels, labels, dialogues in loader:
            optimizer.zero_grad()
            logits = model(words, mels, dialogues, ("text", "audio"))
            nn.functional.cross_entropy(logits, labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        value = evaluate(model, valid_set)
        if value > best:
            best, kept = value, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(kept)
    return best, model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--studies", type=int, default=8)
    parser.add_argument("--on-the-fly", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    labels = json.loads((args.corpus / "corpus.json").read_text("utf-8"))["labels"]
    data = {split: Utterances(args.corpus, split, labels, args.on_the_fly) for split in ("train", "valid", "test")}
    frames = torch.cat([data["train"][number][1] for number in range(len(data["train"]))])
    stats = frames.mean(0), frames.std(0)
    both = ("text", "audio")
    cells = [(both, "mean", "none"), (("text",), "mean", "none"), (("audio",), "mean", "none"),
             (both, "min", "none"), (both, "mean", "bilstm")]  # fmt: skip
    rows = []
    for cell, study in itertools.product(cells, range(args.studies)):
        rates = 4e-3 * 4 ** np.random.default_rng(study).random(2)
        scores = [train(cell, lr, 1000 + study, data["train"], data["valid"], len(labels), stats)[0] for lr in rates]
        _, model = train(cell, rates[int(np.argmax(scores))], study, data["train"], data["valid"], len(labels), stats)
        for seen in (both, ("text",), ("audio",)):
            if set(seen) & set(cell[0]):
                rows.append((*cell, study, "+".join(seen), evaluate(model, data["test"], seen)))
    table = pd.DataFrame(rows, columns=["modalities", "pooling", "context", "study", "condition", "ua"])
    complete = table[table.condition == "text+audio"]
    print(complete.groupby(["modalities", "pooling", "context"]).ua.agg(["mean", "std"]).round(3))
    print(f"{len(cells) * args.studies * 3} trials in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
