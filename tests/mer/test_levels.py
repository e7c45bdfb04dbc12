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


def test_values_are_of_the_types_that_a_level_declares(lab: Path) -> None:
    """Of one from outside too, in whatever way its annotations are written; its sizes are its own."""
    (lab / "kinds.py").write_text("from typing import Literal\nSize = Literal['s', 'm']\n")
    (lab / "own.py").write_text(
        "from __future__ import annotations\n"
        "import typing\n"
        "from labtable.kinds import Size as Width\n"
        "from elsewhere import Tensor\n"
        "Alias = int | None\n"
        "class Own:\n"
        "    def __init__(self, *, size: Width = 's', axis: Alias = -1, widths: tuple[int, ...] = (8,),\n"
        "        pair: 'tuple[float, str]' = (1, 'a'), some: typing.Optional[list[str]] = None,\n"
        "        one: typing.Union[bool, float] = 1, weight: Tensor | None = None, dropout: float = 9, free=1): ...\n"
    )
    sound = {
        "size": ["s", "m"], "axis": [None, -7], "widths": [[], [1, 2], (3,)], "pair": [[1, "b"]], "some": [None, ["a"]],
        "one": [True, 2, 0.5], "weight": [None, "anything"], "dropout": [9, -3], "free": ["x"],
    }  # fmt: skip
    wrong = {
        "size": ["l", 1], "axis": ["x", 1.0, True], "widths": [8, [1.5], [True], "12"], "pair": [[1], ["b", 1]],
        "some": [[1], "a"], "one": ["x", None], "dropout": ["9", True, None, float("nan")],
    }  # fmt: skip
    for name, values in sound.items():
        for value in values:
            levels.check_parameters("labtable.own:Own", {name: value}, "fusion")
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UserError, match=rf"fusion labtable\.own:Own: {name} is ") as caught:
                levels.check_parameters("labtable.own:Own", {name: value}, "fusion", "a.yaml:1", {name: "a.yaml:2"}.get)
            assert (caught.value.where, bool(caught.value.expected)) == ("a.yaml:2", True)


def test_the_defaults_of_every_level_are_sound() -> None:
    for kind in ("encoder", "fusion", "pooling", "context"):
        for target in levels.table(levels.KINDS[kind][0]).values():
            defaults = {name: found.default for name, found in levels.declaration(target).parameters.items()}
            levels.check_parameters(target, defaults, kind)
