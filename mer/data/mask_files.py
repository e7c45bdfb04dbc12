"""Masks in files: frozen ones with their hash, and arrays that others publish."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mer.data.arrays import load_array
from mer.data.reading.json_text import parse
from mer.errors import UserError, unknown
from mer.files import data_file, read_data, state_of, write
from mer.recipe import MissingConfig

FORMAT = "mer masks 1"
Mask = npt.NDArray[np.bool_]


def freeze(
    path: Path,
    ids: Sequence[str],
    modalities: Sequence[str],
    available: Mask,
    about: Mapping[str, object] | None = None,
) -> str:
    """Write masks `[N, M]` (True = available) as JSON, whole or not at all; returns their hash.

    about    where they come from (protocol, rate, seed), for readers
    """
    _check(available, ids, modalities, str(path))
    content = _content(ids, modalities, available)
    found = {"format": FORMAT, "about": dict(about or {}), "digest": _digest(content), **content}
    write(path, json.dumps(found, ensure_ascii=False, indent=0).encode())
    return str(found["digest"])


def file_digest(config: MissingConfig, root: Path | None = None) -> str | None:
    """Hash of the masks that a configuration names (content, not path), or None where it names no file."""
    if config.protocol != "file":
        return None
    return _digest(_content(*_table(config, root)))


def masks_for(config: MissingConfig, ids: Sequence[str], names: Sequence[str], root: Path | None = None) -> Mask:
    """`[N, M]` of these utterances and modalities, looked up by id and by name."""
    known, modalities, masks = _table(config, root)
    where = str(_path(config.file, root))
    for name in names:
        if name not in modalities:
            raise unknown("modality of the masks", name, modalities, where)
    rows = {name: row for row, name in enumerate(known)}
    absent = [name for name in ids if name not in rows]
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise UserError(f"{len(absent)} of {len(ids)} utterances have no mask: {shown}", where=where)
    columns = [modalities.index(name) for name in names]
    found: Mask = masks[np.array([rows[name] for name in ids], np.int64)][:, columns]
    return found


Table = tuple[tuple[str, ...], tuple[str, ...], Mask]
"""Utterance ids, modalities, `[N, M]` True = available."""


def _table(config: MissingConfig, root: Path | None) -> Table:
    path = _path(config.file, root)
    state = state_of(path)
    if path.suffix == ".json":
        if config.axis or config.polarity or config.order or config.ids:
            raise UserError(
                "axis, polarity, order and ids belong to .npy masks; frozen masks say so themselves", where=str(path)
            )
        return _frozen(path, state)
    if path.suffix != ".npy":
        raise UserError("masks of an unknown kind", where=str(path), expected="frozen masks (.json) or an array (.npy)")
    settings = {"axis": config.axis, "polarity": config.polarity, "order": config.order, "ids": config.ids}
    unset = [key for key, value in settings.items() if not value]
    if unset:
        raise UserError(
            f"masks in .npy without {', '.join(unset)}",
            where=str(path),
            expected="axis: utterances | modalities (the first axis); polarity: available | missing (what 1 means); "
            "order: [audio, text, visual] (of modalities); ids: a text file with an utterance id per line",
        )
    listing = _path(config.ids, root)
    state += state_of(listing)
    return _foreign(path, state, config.axis == "modalities", config.polarity == "missing", config.order or (), listing)


@functools.lru_cache(maxsize=8)
def _frozen(path: Path, state: tuple[int, ...]) -> Table:
    where = str(path)
    try:
        found = parse(read_data(path).decode("utf-8"))
        content = {"modalities": found["modalities"], "masks": found["masks"]}
        ids, modalities = tuple(content["masks"]), tuple(content["modalities"])
        rows = list(content["masks"].values())
        if found["format"] != FORMAT or not all(isinstance(name, str) for name in modalities):
            raise ValueError
        if any(len(row) != len(modalities) or set(row) - {"0", "1"} for row in rows):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError("not a file of frozen masks", where=where) from None
    if found.get("digest") != _digest(content):
        raise UserError("the masks were changed after they were frozen: their hash is another", where=where)
    available = np.array([[bit == "1" for bit in row] for row in rows], bool).reshape(len(ids), len(modalities))
    _check(available, ids, modalities, where)
    return ids, modalities, available


@functools.lru_cache(maxsize=8)
def _foreign(
    path: Path, state: tuple[int, ...], turned: bool, inverted: bool, modalities: tuple[str, ...], listing: Path
) -> Table:
    where = str(path)
    try:
        lines = read_data(listing).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8", where=str(listing), expected="an id a line") from None
    ids = tuple(line.strip() for line in lines if line.strip())
    if len(set(ids)) != len(ids):
        raise UserError("an utterance id occurs twice", where=str(listing))
    try:
        array = load_array(path, "biuf")
    except UserError as error:
        problem = f"the masks cannot be read: {error.problem.removeprefix('cannot be read: ')}"
        raise UserError(problem, where=where, expected="0 and 1, or False and True") from None
    odd = np.unique(array[~np.isin(array, (0, 1))])
    if odd.size:
        raise UserError(f"masks with the values {odd[:3].tolist()}", where=where, expected="0 and 1, or False and True")
    wanted = (len(modalities), len(ids)) if turned else (len(ids), len(modalities))
    if array.shape != wanted:
        hint = "The shape is that of the other axis." if array.shape == wanted[::-1] else None
        raise UserError(
            f"masks of shape {array.shape}",
            where=where,
            expected=f"{wanted}: {len(ids)} utterances, {len(modalities)} modalities",
            hint=hint,
        )
    available: Mask = (array.T if turned else array).astype(bool) ^ inverted
    _check(available, ids, modalities, where)
    return ids, modalities, available


def _check(available: Mask, ids: Sequence[str], modalities: Sequence[str], where: str) -> None:
    if available.shape != (len(ids), len(modalities)):
        raise UserError(f"masks of shape {available.shape}", where=where, expected=f"{(len(ids), len(modalities))}")
    if len(set(ids)) != len(ids):
        raise UserError("an utterance id occurs twice", where=where)
    bare = np.flatnonzero(~available.any(axis=1))
    if len(bare):
        other = (
            "" if (~available).any(axis=1).sum() < len(ids) else "; read with the other polarity, each would have one"
        )
        raise UserError(
            f"{len(bare)} of {len(ids)} utterances have no modality at all, {ids[bare[0]]!r} first{other}",
            where=where,
            expected="at least one each",
        )


def _path(name: str | None, root: Path | None) -> Path:
    if not name:
        raise UserError("missing protocol 'file' without a file", expected="file: masks.json")
    return data_file(Path(name) if root is None else root / name)


def _content(ids: Sequence[str], modalities: Sequence[str], available: Mask) -> dict[str, object]:
    masks = {name: "".join("1" if yes else "0" for yes in row) for name, row in zip(ids, available, strict=True)}
    return {"modalities": list(modalities), "masks": masks}


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
