"""A corpus of another format as a folder that the project reads: RAVDESS's speech files.

    python examples/import_corpus.py Audio_Speech_Actors_01-24/ data/ravdess
    mer data check data/ravdess

RAVDESS says everything in a file's name, `03-01-05-01-02-01-12.wav`: the third number is the emotion, the fifth the
sentence, the seventh the actor. The split is by actor, so that no voice of the test is heard in training. Any other
format is the same three steps: read what there is, decide who is tested on, write one line per utterance.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgust",
    "08": "surprised",
}  # fmt: skip
SENTENCES = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
ACTORS = {"test": range(21, 25), "valid": range(19, 21), "train": range(1, 19)}


def utterances(source: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Each recording with its line; sorted, so that the same files give the same corpus."""
    for wav in sorted(source.rglob("03-01-*.wav")):
        _, _, emotion, _, sentence, _, actor = wav.stem.split("-")
        yield (
            wav,
            {
                "utterance_id": wav.stem,
                "speaker_id": f"actor{actor}",
                "emotion": EMOTIONS[emotion],
                "transcript": SENTENCES[sentence],
                "wav_path": f"wavs/{wav.name}",
            },
        )


def import_ravdess(source: Path, folder: Path) -> Path:
    """Write the corpus folder; it must not exist yet, so that nothing of it is left from another attempt."""
    (folder / "wavs").mkdir(parents=True)
    lines: dict[str, list[str]] = {split: [] for split in ACTORS}
    for wav, line in utterances(source):
        actor = int(str(line["speaker_id"]).removeprefix("actor"))
        split = next(name for name, actors in ACTORS.items() if actor in actors)
        shutil.copyfile(wav, folder / "wavs" / wav.name)
        lines[split].append(json.dumps(line, ensure_ascii=False))
    for split, found in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    about = {
        "name": "ravdess",
        "language": "en",
        "labels": list(EMOTIONS.values()),
        "note": "RAVDESS speech, Livingstone and Russo 2018, CC BY-NC-SA 4.0; split by actor",
    }
    (folder / "corpus.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(import_ravdess(Path(sys.argv[1]), Path(sys.argv[2])))
