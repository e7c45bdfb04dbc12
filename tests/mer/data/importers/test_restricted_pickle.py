"""Arrays and containers come out as they went in; anything else is refused before it can run."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer.data.importers.restricted_pickle import load_pickle
from mer.errors import UserError


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        if one.dtype != two.dtype or one.shape != two.shape:
            return False
        return (
            all(same(a, b) for a, b in zip(one.flat, two.flat, strict=True))
            if one.dtype == object
            else bool(np.array_equal(one, two))
        )
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


CONTENT = {
    "float": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big endian": np.arange(4, dtype=">i4"),
    "empty": np.zeros((0, 5)),
    "zero": np.array(3.5),
    "bool": np.array([True, False]),
    "text": np.array(["ab", "c"]),
    "objects": np.array([np.arange(2), "x", None], dtype=object),
    "plain": [1, 2.5, "Ses01F_impro01", None, True, (1, 2), {"a"}, frozenset({"b"}), b"\xff"],
    "scalar": np.float32(1.5),
    "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", CONTENT)
def test_what_went_in_comes_out(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps((CONTENT[name],), protocol))
    assert same((CONTENT[name],), load_pickle(tmp_path / "a.pkl"))


def test_old_and_new_names_of_numpy(tmp_path: Path) -> None:
    new = pickle.dumps(CONTENT["float"], 2)
    assert b"numpy._core" in new or b"numpy.core" in new
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        content = content.replace(b"numpy.core.multiarray", module)
        (tmp_path / "a.pkl").write_bytes(content)
        assert same(CONTENT["float"], load_pickle(tmp_path / "a.pkl"))


def test_written_by_python_2(tmp_path: Path) -> None:
    """Byte strings where Python 3 has text: read as latin-1, ids and array contents alike."""
    values = np.array([1.0, -2.0, 300.5])
    raw = values.tobytes()
    stream = b"(S'Ses01F'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    stream += b"(I1\n(I3\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
    stream += b"S" + repr(raw)[1:].encode() + b"\ntbt."
    (tmp_path / "a.pkl").write_bytes(stream)
    name, array = load_pickle(tmp_path / "a.pkl")
    assert name == "Ses01F"
    np.testing.assert_array_equal(array, values)


class _Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    import os

    attacks = [
        _Runs(os.system, f"touch {trap}"),
        _Runs(eval, f"open({str(trap)!r}, 'w')"),
        _Runs(exec, f"open({str(trap)!r}, 'w')"),
        _Runs(open, str(trap), "w"),
        _Runs(subprocess.run, ["touch", str(trap)]),
        _Runs(getattr, "text", "format"),
        _Runs(np.save, str(trap), np.zeros(1)),
        _Runs(np.load, str(trap)),
        _Runs(pickle.loads, pickle.dumps(_Runs(os.system, f"touch {trap}"))),
    ]
    for attack in attacks:
        for wrapped in (attack, [CONTENT["float"], {"a": (attack,)}], np.array([attack], dtype=object)):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                (tmp_path / "a.pkl").write_bytes(pickle.dumps(wrapped, protocol))
                with pytest.raises(UserError, match="the pickle is refused: it names ") as caught:
                    load_pickle(tmp_path / "a.pkl")
                assert str(tmp_path / "a.pkl") in str(caught.value)
                assert not trap.exists()
    pickle.loads(pickle.dumps(attacks[0]))  # the same bytes do spring where they are trusted
    assert trap.exists()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb.", None),
        (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "the array type 'V8' is not plain"),
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.", "a number without"),
        (b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.", "anything but latin1"),
        (b"cnumpy\nndarray\n(tR.", "an array without content"),
        (b"P0\n.", "cannot be read|refused"),
        (b"\x82\x01.", "cannot be read|refused"),
        (b"]" * 5000 + b"a" * 4999 + b".", "nested too deeply"),
    ],
    ids=["object type", "void", "object scalar", "zip", "no state", "persistent", "extension", "deep"],
)
def test_forged_streams(tmp_path: Path, stream: bytes, message: str | None) -> None:
    (tmp_path / "a.pkl").write_bytes(stream)
    if message is None:
        assert load_pickle(tmp_path / "a.pkl") == np.dtype("O")
        return
    with pytest.raises(UserError, match=message):
        load_pickle(tmp_path / "a.pkl")


def test_an_array_whose_bytes_do_not_fill_its_shape(tmp_path: Path) -> None:
    content = pickle.dumps(np.zeros((3, 4)), 2)
    forged = content.replace(b"K\x03K\x04\x86", b"K\x03K\x7f\x86")
    assert forged != content
    (tmp_path / "a.pkl").write_bytes(forged)
    with pytest.raises(UserError, match="does not fit its shape"):
        load_pickle(tmp_path / "a.pkl")


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    whole = pickle.dumps(list(CONTENT.values()))
    for size in range(0, len(whole), 37):
        (tmp_path / "a.pkl").write_bytes(whole[:size])
        with pytest.raises(UserError):
            load_pickle(tmp_path / "a.pkl")
    with pytest.raises(UserError, match="does not exist"):
        load_pickle(tmp_path / "none.pkl")


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_flipped_bytes_never_raise_anything_but_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    stream = io.BytesIO(pickle.dumps([CONTENT["float"], {"a": ["b", 1]}, CONTENT["objects"]], 2)).getvalue()
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.pkl").write_bytes(changed)
    with contextlib.suppress(UserError):
        load_pickle(tmp_path / "a.pkl")
