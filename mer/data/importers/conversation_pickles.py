"""The conversation pickles that the field passes around, as a corpus folder.

    MMGCN, MM-DFN, DialogueRNN   IEMOCAP_features.pkl, MELD_features_raw.pkl, MELD_features_raw1.pkl
    M3Net, MultiEMO, SDT         iemocap_multimodal_features.pkl, meld_multimodal_features.pkl (four RoBERTa layers)
    GCNet                        its label pickle, with a folder of .npy files for each modality

They are tuples without names, told apart by their length and by what stands where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.data.arrays import load_array
from mer.data.corpus import Utterance
from mer.data.folds import choose, session_of
from mer.data.importers.restricted_pickle import load_pickle
from mer.data.importers.writing import Array, Draft, refuse_full, write_corpus
from mer.errors import UserError
from mer.names import fault
from mer.streams import derive

_ROBERTA = ("ids", "speakers", "labels", "text", "text2", "text3", "text4", "audio", "visual", "sentences")

LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test"),
    ("ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test", "_"),
    ("ids", "speakers", "labels", "text", "audio", "sentences", "train", "test", "_"),
    (*_ROBERTA, "train", "test"),
    (*_ROBERTA, "train", "test", "_"),
    ("ids", "labels", "speakers", "sentences", "train", "test"),
    ("ids", "labels", "speakers", "sentences", "train", "valid", "test"),
)  # fmt: skip

LABELS = {
    "iemocap6": ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
    "iemocap4": ("happy", "sad", "neutral", "angry"),
    "meld": ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
}
"""The order of the labels in the pickles, by the comments of the loaders that read them."""

POLARITY = ("negative", "positive")
_SPLIT_ROLES = ("train", "valid", "test")
_FEATURES = ("text", "text2", "text3", "text4", "audio", "visual")
_ALLOWED: dict[str, tuple[Any, str]] = {
    "ids": (str | int, "strings or numbers"),
    "sentences": (str, "strings"),
    "labels": (int | float, "numbers"),
    "speakers": (str | int | float | list | tuple | np.ndarray, "names, numbers or one-hot vectors"),
}
"""What each value of a role may be; of every other role, a vector of numbers."""


def import_conversation(
    source: Path | str,
    folder: Path | str,
    *,
    labels: Sequence[str] | None = None,
    features: Mapping[str, Path | str] | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
    name: str | None = None,
) -> Path:
    """Read a conversation pickle and write a corpus folder.

    labels        names of the labels 0, 1, ...; by default recognised as IEMOCAP's six or four or MELD's seven.
                  Float labels (MOSI, MOSEI) become negative and positive; exact zeros are left out, as the field does
    features      modality to folder of `<utterance id>.npy` (GCNet's pickles hold no features)
    valid_share   share of the training utterances that become valid, in whole dialogues, where the pickle names none
    """
    source, folder = Path(source), Path(folder)
    refuse_full(folder)
    parts = _recognise(load_pickle(source), source)
    dialogues = {split: _names(parts[split], source) for split in _SPLIT_ROLES if split in parts}
    numbers = [value for vids in dialogues.values() for vid in vids for value in _of(parts, "labels", vid, source)]
    if not numbers:
        raise UserError("the pickle names no utterance", where=str(source))
    polarity = any(isinstance(value, float) and value != int(value) for value in numbers)
    names = POLARITY if polarity else _label_names(labels, parts, numbers, source)
    if polarity and labels:
        raise UserError("the pickle's labels are sentiment scores; they are not named", where=str(source))
    draft = Draft(name or source.stem, names, note=f"imported from {source.name}")
    unique = _unique_ids(parts, dialogues, source)
    dropped = 0
    for split, vids in dialogues.items():
        for vid in vids:
            for turn, values in enumerate(_turns(parts, vid, source)):
                uid, label = str(values["ids"]), values["labels"]
                line: dict[str, Any] = {
                    "utterance_id": uid if unique else f"{vid}_{uid}",
                    "speaker_id": _speaker(values["speakers"], vid, uid, f"{source}: speaker of {uid}"),
                    "dialogue_id": str(vid),
                    "turn": turn,
                    "transcript": str(values["sentences"]),
                }
                if polarity and float(label) == 0.0:
                    dropped += 1
                    continue
                if polarity:
                    line |= {"sentiment": float(label), "emotion": POLARITY[float(label) > 0]}
                else:
                    line["emotion"] = names[int(label)]
                arrays: dict[str, Array | None] = {
                    role: _vector(value, f"{source}: {role} of {uid}")
                    for role, value in values.items()
                    if role in _FEATURES
                }
                for modality, root in (features or {}).items():
                    arrays[modality] = _from_folder(Path(root), uid, str(values["speakers"]))
                if arrays:
                    draft.add_row(line, arrays)
                draft.splits[split].append(line)
    if dropped:
        draft.note += f"; {dropped} utterances of sentiment 0 left out"
    if "valid" not in dialogues:
        _carve_valid(draft, valid_share, seed, str(source))
    return write_corpus(draft, folder)


def _turns(parts: Mapping[str, Any], vid: Any, source: Path) -> list[dict[str, Any]]:
    """Role to value for each turn of a dialogue."""
    count = len(_of(parts, "ids", vid, source))
    roles = [role for role in parts if role not in (*_SPLIT_ROLES, "_")]
    columns = {role: _of(parts, role, vid, source, count) for role in roles}
    return [{role: column[turn] for role, column in columns.items()} for turn in range(count)]


def _recognise(content: Any, source: Path) -> dict[str, Any]:
    """The parts of the tuple by role."""
    if not isinstance(content, tuple | list):
        raise UserError(f"the pickle holds a {type(content).__name__}", where=str(source), expected="a tuple of parts")
    for layout in LAYOUTS:
        if len(layout) == len(content) and all(_fits(role, part) for role, part in zip(layout, content, strict=True)):
            return {role: part for role, part in zip(layout, content, strict=True) if role != "_"}
    kinds = ", ".join(type(part).__name__ for part in content)
    raise UserError(
        f"the pickle's {len(content)} parts ({kinds}) are of no known layout",
        where=str(source),
        expected="; or ".join(", ".join(layout) for layout in LAYOUTS),
    )


def _fits(role: str, part: Any) -> bool:
    """Could this part have the role? Its first dialogue says it; `_of` looks at every one."""
    if role == "_":
        return True
    if role in _SPLIT_ROLES:
        return _is_list(part) or isinstance(part, set | frozenset)
    if not isinstance(part, dict) or not part:
        return False
    first = next(iter(part.values()))
    if not _is_list(first):
        return False
    if role == "sentences":
        return len(first) == 0 or isinstance(first[0], str)
    if role in _FEATURES:
        return len(first) > 0 and _is_list(first[0])
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _names(part: Any, source: Path) -> list[Any]:
    """Dialogue names in a fixed order: as listed, or sorted where the pickle holds a set."""
    names = sorted(part, key=str) if isinstance(part, set | frozenset) else [_plain(item) for item in part]
    for name in names:
        if not isinstance(name, str | int):
            raise UserError(f"a dialogue is called {_shown(name)}", where=str(source), expected="a string or a number")
    return names


def _shown(value: Any) -> str:
    """A value in an error: whole where it is short and plain, else its type."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _of(parts: Mapping[str, Any], role: str, vid: Any, source: Path, count: int | None = None) -> list[Any]:
    """One column of a dialogue: as long as the dialogue, and each value of a kind that its role allows."""
    where, dialogue = str(source), f"dialogue {_shown(vid)}"
    column = parts[role].get(vid)
    values = [_plain(item) for item in column] if _is_list(column) else None
    if values is None:
        raise UserError(f"{dialogue} has {'no' if column is None else _shown(column) + ' as'} {role}", where=where)
    if count is not None and len(values) != count:
        raise UserError(f"{dialogue} has {len(values)} {role}", where=where, expected=str(count))
    allowed, words = _ALLOWED.get(role, (list | tuple | np.ndarray, "vectors of numbers"))
    for turn, value in enumerate(values):
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise UserError(f"{role} of turn {turn} of {dialogue}: {_shown(value)}", where=where, expected=words)
        if role == "labels" and not abs(value) < 2**31:  # NaN is not
            raise UserError(
                f"labels of turn {turn} of {dialogue}: {_shown(value)}", where=where, expected="finite numbers"
            )
    return values


def _label_names(
    given: Sequence[str] | None, parts: Mapping[str, Any], numbers: Sequence[Any], source: Path
) -> tuple[str, ...]:
    top = max(int(number) for number in numbers)
    if given is None:
        vids = [str(vid) for vid in parts["ids"]]
        if all(vid.startswith("Ses") for vid in vids):
            given = LABELS["iemocap4" if top < 4 else "iemocap6"]
        elif top == 6:
            given = LABELS["meld"]
        else:
            raise UserError(f"what the labels 0 to {top} mean is not known", where=str(source), hint="give --labels")
    names = tuple(given)
    if top >= len(names) or min(int(number) for number in numbers) < 0:
        raise UserError(
            f"labels go up to {top}", where=str(source), expected=f"0 to {len(names) - 1}: {', '.join(names)}"
        )
    return names


def _unique_ids(parts: Mapping[str, Any], dialogues: Mapping[str, Sequence[Any]], source: Path) -> bool:
    counts = Counter(str(uid) for vids in dialogues.values() for vid in vids for uid in _of(parts, "ids", vid, source))
    return max(counts.values(), default=1) == 1


def _speaker(value: Any, vid: Any, uid: str, where: str) -> str:
    """`M` of Ses01 is Ses01_M; a one-hot vector counts the speakers within its dialogue; nothing means the video."""
    if isinstance(value, str):
        session = session_of(Utterance(uid, value, "", "", dialogue=str(vid)))
        return f"{session or vid}_{value}" if value else str(vid)
    if not isinstance(value, int | float):
        vector = _vector(value, where) if len(value) else np.empty(0)
        value = int(np.argmax(vector)) if vector.size else ""  # [[]] holds nothing either
    return f"{vid}_speaker{value}"


def _vector(value: Any, where: str) -> Array:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"elements of type {array.dtype}")
    except ValueError as error:  # lists of different lengths
        raise UserError(f"is no array of numbers: {error}", where=where) from None
    if array.ndim not in (1, 2):
        raise UserError(f"has shape {array.shape}", where=where, expected="[d] or [T, d]")
    with np.errstate(over="ignore"):  # infinity is found where the corpus is checked
        return array.astype(np.float32)


def _from_folder(root: Path, uid: str, speaker: str) -> Array | None:
    """Features of an utterance below a modality's folder: a file, or a folder of frames; None where there is none.

    In IEMOCAP's folders of faces, those that begin with F and M belong to the two speakers: the utterance's are taken.
    """
    if not root.is_dir():
        raise UserError("the folder of features does not exist", where=str(root))
    if "/" in uid or uid in ("", ".", ".."):
        raise UserError(f"utterance id {uid!r} is no file name", where=str(root))
    if wrong := fault(uid, 200):
        raise UserError(f"utterance id {uid[:40]!r} {wrong}", where=str(root), expected="a file name")
    single = root / f"{uid}.npy"
    if single.exists():
        paths = [single]
    else:
        paths = sorted((root / uid).glob("*.npy"))
        if speaker in ("F", "M") and paths and all(path.name[0] in "FM" for path in paths):
            paths = [path for path in paths if path.name[0] == speaker]
    if not paths:
        return None
    loaded = [load_array(path, "biuf") for path in paths]
    frames = [array.reshape(-1, array.shape[-1]) for array in loaded if array.size and array.ndim]
    widths = {array.shape[1] for array in frames}
    if len(widths) > 1:
        raise UserError(f"its frames are {sorted(widths)} wide", where=str(paths[0].parent), expected="one width")
    return np.concatenate(frames).astype(np.float32) if frames else None


def _carve_valid(draft: Draft, share: float, seed: int, where: str) -> None:
    """Move whole dialogues of train to valid: the pickles name none, and test may not serve as one."""
    if not 0 < share < 1:
        raise UserError(f"valid_share is {share:g}", expected="between 0 and 1")
    units: dict[str, list[Utterance]] = {}
    for number, line in enumerate(draft.splits["train"]):
        utterance = Utterance(line["utterance_id"], line["speaker_id"], line["emotion"], str(number))
        units.setdefault(line["dialogue_id"], []).append(utterance)
    if len(units) < 2:
        raise UserError("one training dialogue cannot be parted into train and valid", where=where, expected="two")
    groups = list(units.values())
    chosen = choose(groups, max(1, round(share * len(draft.splits["train"]))), derive("import", seed))
    ids = {utterance.id for unit in chosen for utterance in groups[unit]}
    lines = draft.splits["train"]
    draft.splits["train"] = [line for line in lines if line["utterance_id"] not in ids]
    draft.splits["valid"] = [line for line in lines if line["utterance_id"] in ids]
    draft.note += f"; valid: {len(chosen)} dialogues of its training part (seed {seed})"
