"""What is known of a level without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mer import levels
from mer.errors import UserError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package beside this one, whose modules cannot be imported: only their text may be read."""
    folder = tmp_path / "labtable"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "labtable", raising=False)  # another test's folder
    return folder


def test_a_table_is_read_without_running_its_module(lab: Path) -> None:
    (lab / "some.py").write_text('LEVELS: dict[str, str] = {"a": "labtable.a:A"}\nraise RuntimeError("was run")\n')
    assert levels.table("labtable.some") == {"a": "labtable.a:A"}


def test_a_module_without_a_table_is_named(lab: Path) -> None:
    (lab / "bare.py").write_text("OTHER = {}\n")
    with pytest.raises(UserError, match=r"module 'labtable\.bare' has no table LEVELS"):
        levels.table("labtable.bare")
    with pytest.raises(UserError, match=r"cannot find module 'labtable\.absent'"):
        levels.table("labtable.absent")


def test_what_a_level_declares_is_found_in_its_bases_too(lab: Path) -> None:
    (lab / "base.py").write_text(
        "class Base:\n"
        "    requires = frozenset({'audio'})\n"
        "    unbundled = 'it counts'\n"
        "    def __init__(self, *, dim: int, rate=0.5): ...\n"
        "raise RuntimeError('was run')\n"
    )
    (lab / "gate.py").write_text(
        "from labtable.base import Base\n"
        "class Gate(Base):\n"
        "    one_frame = True\n"
        "class Own(Gate):\n"
        "    requires = frozenset()\n"
        "    def __init__(self, *, depth=2): ...\n"
    )
    gate, own = levels.declaration("labtable.gate:Gate"), levels.declaration("labtable.gate:Own")
    assert list(gate.parameters) == ["dim", "rate"]
    assert gate.parameters["rate"].default == 0.5
    assert gate.parameters["dim"].default is levels.REQUIRED
    assert (gate.requires, gate.unbundled, gate.one_frame) == (frozenset({"audio"}), "it counts", True)
    assert list(own.parameters) == ["depth"]
    assert (own.requires, own.unbundled, own.one_frame) == (frozenset(), "it counts", True)


def test_a_misspelt_class_and_parameter_name_their_nearest(lab: Path) -> None:
    (lab / "deep.py").write_text("class DeepGate:\n    def __init__(self, *, depth=2): ...\n")
    with pytest.raises(UserError) as caught:
        levels.declaration("labtable.deep:DeepGatte")
    assert caught.value.nearest == "DeepGate"
    with pytest.raises(UserError) as caught:
        levels.check_parameters("labtable.deep:DeepGate", {"deph": 3}, "fusion")
    assert caught.value.nearest == "depth"
