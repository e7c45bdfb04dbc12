"""Masks frozen to files, masks of others, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mer.data.mask_files import file_digest, freeze
from mer.data.missing import availability
from mer.errors import UserError
from mer.recipe import MissingConfig

AVT = ("audio", "visual", "text")
IDS = [f"u{i}" for i in range(40)]
MASK = availability(MissingConfig(protocol="random", rate=0.5), IDS, AVT, 0)


def _load(config: MissingConfig, root: Path, ids: list[str] = IDS, names: tuple[str, ...] = AVT) -> np.ndarray:
    return availability(config, ids, names, seed=99, root=root)


def _frozen(tmp_path: Path) -> tuple[MissingConfig, str]:
    digest = freeze(tmp_path / "masks.json", IDS, AVT, MASK, {"protocol": "random", "rate": 0.5, "seed": 0})
    return MissingConfig(protocol="file", file="masks.json"), digest


def test_frozen_masks_come_back_by_id_and_name(tmp_path: Path) -> None:
    config, digest = _frozen(tmp_path)
    np.testing.assert_array_equal(_load(config, tmp_path), MASK)
    np.testing.assert_array_equal(_load(config, tmp_path, IDS[::-2], ("text", "audio"))[0], MASK[-1, [2, 0]])
    assert file_digest(config, tmp_path) == digest
    assert file_digest(MissingConfig()) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks.json"]
    assert json.loads((tmp_path / "masks.json").read_text())["about"]["rate"] == 0.5


def test_epochs_do_not_change_frozen_masks(tmp_path: Path) -> None:
    config, _ = _frozen(tmp_path)
    np.testing.assert_array_equal(availability(config, IDS, AVT, 1, 7, root=tmp_path), MASK)


def test_what_the_corpus_lacks_stays_missing(tmp_path: Path) -> None:
    config, _ = _frozen(tmp_path)
    present = np.ones_like(MASK)
    present[:, 0] = False
    found = availability(config, IDS, AVT, 0, present=present, root=tmp_path)
    assert not found[:, 0].any()
    assert found.any(axis=1).all()
    both = (MASK & present).any(axis=1)
    np.testing.assert_array_equal(found[both], (MASK & present)[both])


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    _, digest = _frozen(tmp_path)
    assert freeze(tmp_path / "other.json", IDS, AVT, MASK) == digest
    turned = MASK.copy()
    turned[0] = ~turned[0] | [True, False, False]
    assert freeze(tmp_path / "third.json", IDS, AVT, turned) != digest


@pytest.mark.parametrize("axis", ["utterances", "modalities"])
@pytest.mark.parametrize("polarity", ["available", "missing"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_arrays_of_others(tmp_path: Path, axis: str, polarity: str, dtype: type) -> None:
    array = MASK if polarity == "available" else ~MASK
    np.save(tmp_path / "m.npy", (array if axis == "utterances" else array.T).astype(dtype))
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    config = MissingConfig(protocol="file", file="m.npy", axis=axis, polarity=polarity, order=AVT, ids="ids.txt")  # type: ignore[arg-type]
    np.testing.assert_array_equal(_load(config, tmp_path), MASK)
    np.testing.assert_array_equal(_load(config, tmp_path, IDS[5:9], ("text",))[:, 0], True)  # its only modality
    assert file_digest(config, tmp_path) == freeze(tmp_path / "f.json", IDS, AVT, MASK)


def _foreign(tmp_path: Path, array: np.ndarray, **changes: object) -> MissingConfig:
    np.save(tmp_path / "m.npy", array)
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    settings = {"axis": "utterances", "polarity": "available", "order": AVT, "ids": "ids.txt", **changes}
    return MissingConfig(protocol="file", file="m.npy", **settings)  # type: ignore[arg-type]


def test_bad_arrays_are_refused(tmp_path: Path) -> None:
    def refused(message: str, array: np.ndarray, **changes: object) -> None:
        with pytest.raises(UserError, match=message):
            _load(_foreign(tmp_path, array, **changes), tmp_path)

    refused(r"m.npy: masks of shape \(3, 40\); expected \(40, 3\).*\n.*other axis", MASK.T)
    refused(r"masks of shape \(39, 3\); expected \(40, 3\): 40 utterances, 3 modalities", MASK[1:])
    refused(r"masks of shape \(40, 3\); expected \(40, 2\)", MASK, order=("audio", "text"))
    refused(r"values \[-1, 2\]; expected 0 and 1", np.where(MASK, 2, -1))
    refused(r"masks with the values \[nan\]", np.where(MASK, 1.0, np.nan))
    refused(r"the masks cannot be read: has shape \(40, 3\), <U21; expected 0 and 1", MASK.astype(int).astype(str))
    refused(r"have no modality at all, 'u\d+' first; expected at least one each", MASK * (np.arange(40) % 2)[:, None])
    refused(r"read with the other polarity, each would have one", np.zeros((40, 3)))
    refused(r"40 of 40 utterances have no modality", np.ones((40, 3)), polarity="missing")
    refused("masks in .npy without axis, polarity", MASK, axis=None, polarity=None)
    refused("masks in .npy without order", MASK, order=None)
    refused("masks in .npy without ids", MASK, ids=None)
    refused("nowhere.txt: the file does not exist", MASK, ids="nowhere.txt")


def test_pickles_are_refused(tmp_path: Path) -> None:
    config = _foreign(tmp_path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        _load(config, tmp_path)


def test_truncated_arrays_are_refused(tmp_path: Path) -> None:
    config = _foreign(tmp_path, MASK)
    data = (tmp_path / "m.npy").read_bytes()
    for size in (0, 5, len(data) - 7):
        (tmp_path / "m.npy").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"m\.npy: the masks cannot be read"):
            _load(config, tmp_path)


def test_bad_frozen_masks_are_refused(tmp_path: Path) -> None:
    config, _ = _frozen(tmp_path)
    path = tmp_path / "masks.json"
    text = path.read_text()

    def refused(message: str, changed: str) -> None:
        path.write_text(changed)
        with pytest.raises(UserError, match=message):
            _load(config, tmp_path)

    found = json.loads(text)
    found["masks"]["u3"] = "111" if found["masks"]["u3"] != "111" else "110"
    refused("changed after they were frozen", json.dumps(found))
    found["masks"]["u3"] = "11"
    refused("not a file of frozen masks", json.dumps(found))
    refused("not a file of frozen masks", text[:100])
    refused("not a file of frozen masks", "[]")
    path.write_text(text)
    with pytest.raises(UserError, match=r"2 of 3 utterances have no mask: x, y"):
        _load(config, tmp_path, ["u1", "x", "y"])
    with pytest.raises(UserError, match=r"unknown modality of the masks 'vidual'.*did you mean 'visual'"):
        _load(config, tmp_path, IDS, ("vidual",))
    with pytest.raises(UserError, match=r"belong to \.npy masks"):
        _load(config.model_copy(update={"polarity": "missing"}), tmp_path)
    (tmp_path / "m.csv").write_text("")
    with pytest.raises(UserError, match="unknown kind"):
        _load(MissingConfig(protocol="file", file="m.csv"), tmp_path)


def test_bad_masks_are_not_frozen(tmp_path: Path) -> None:
    for ids, mask, message in [
        (IDS[1:], MASK, r"shape \(40, 3\)"),
        (["u1"] * 40, MASK, "occurs twice"),
        (IDS, np.zeros_like(MASK), "no modality at all"),
    ]:
        with pytest.raises(UserError, match=message):
            freeze(tmp_path / "x.json", ids, AVT, mask)
    assert not list(tmp_path.iterdir())
