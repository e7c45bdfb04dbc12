"""What names a trial and what does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.results.closure import closure, code_digest
from experiments.results.identity import (
    Identifier,
    TrialKey,
    canonical,
    chain,
    digest,
    level_targets,
    recipe_text,
    resolve_equal,
)
from mer.errors import UserError
from mer.recipe import Recipe

DIGEST = "2afb9b83f9314e5d029766197f539792"
KEY = TrialKey("r", "c", "d", "demo", 0, 0, "tune", 0)


def test_the_name_of_a_trial_is_pinned() -> None:
    """A change here makes every trial that anyone has run a stranger: raise `VERSION` and mean it."""
    assert KEY.trial == "4caba1c05006c953"
    assert canonical({"b": 1e-4, "a": [True, None, "ă", 0.1 + 0.2]}) == (
        '{"a":[true,null,"ă",0.30000000000000004],"b":0.0001}'
    )
    assert digest("{}") == DIGEST


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": "x"}, {"code": "x"}, {"data": "x"}, {"corpus": "x"}, {"study": 1}, {"fold": 1},
        {"stage": "confirm"}, {"root": 1}, {"version": 2},
    ],
)  # fmt: skip
def test_everything_in_the_key_names(other: dict[str, object]) -> None:
    import dataclasses

    assert dataclasses.replace(KEY, **other).trial != KEY.trial  # type: ignore[arg-type]


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.integers()))
def test_canonical_text_has_one_spelling_and_reads_back(value: dict[str, float]) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(dict(reversed(list(value.items())))) == text


def test_not_a_number_names_nothing() -> None:
    with pytest.raises(UserError, match="finite"):
        canonical({"lr": float("nan")})


def test_defaults_and_their_absence_are_one_recipe() -> None:
    short = Recipe.model_validate({"encoders": {"text": "words"}})
    long = Recipe.model_validate({"encoders": {"text": {"name": "words"}}, "optimizer": {"lr": 1e-3}})
    assert recipe_text(short) == recipe_text(long)
    assert recipe_text(short) != recipe_text(Recipe.model_validate({"encoders": {"text": "words"}, "replica": 1}))


# ---- code ----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside the project: two levels with a table, a helper of one of them, and a lazy import."""
    root = tmp_path / "lab"
    root.mkdir()
    (root / "__init__.py").write_text('"""A lab."""\n__version__ = "1"\n')
    (root / "table.py").write_text('LEVELS = {"a": "lab.a:A"}\nlimit = 3\n')
    (root / "a.py").write_text(
        "from . import helper\nfrom lab.table import limit\nclass A:\n    def go(self): return helper.f(limit)\n"
    )
    (root / "b.py").write_text("class B: ...\n")
    (root / "helper.py").write_text("import math\ndef f(x):\n    from lab.late import g\n    return g(x)\n")
    (root / "late.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lab import b\ng = abs\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


def lab(*modules: str) -> str:
    return code_digest(modules, frozenset({"lab"}))


def rewrite(file: Path, old: str, new: str) -> None:
    import os

    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    state = file.stat()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))


def test_the_closure_follows_lazy_imports_and_leaves_type_checking_out(package: Path) -> None:
    assert closure(["lab.helper"], frozenset({"lab"})) == {("lab.helper", "f"), ("lab.late", "g")}
    assert "lab" not in sys.modules  # read, not run


def test_a_digest_changes_with_what_it_runs_alone(package: Path) -> None:
    a, b = lab("lab.a"), lab("lab.b")
    rewrite(package / "late.py", "g = abs", "g = round")
    assert lab("lab.a") != a
    assert lab("lab.b") == b


def test_comments_docstrings_tables_and_versions_do_not_count(package: Path) -> None:
    before = lab("lab.a")
    rewrite(package / "__init__.py", '"""A lab."""\n__version__ = "1"', '"""Another."""\n__version__ = "2"')
    rewrite(package / "table.py", '{"a": "lab.a:A"}', '{"a": "lab.a:A", "b": "lab.b:B"}')
    rewrite(package / "helper.py", "def f(x):", "# why\ndef f(x):\n    'Says what.'")
    rewrite(package / "a.py", "def go(self): return", "def go(self):\n        return")
    assert lab("lab.a") == before
    rewrite(package / "table.py", "limit = 3", "limit = 4")
    assert lab("lab.a") != before


def test_a_constant_counts_by_its_type(package: Path) -> None:
    """1 and 1.0 and True are equal to Python, and not the same program."""
    digests = set()
    for value in ("1", "1.0", "True", "'1'", "b'1'"):
        (package / "late.py").write_text(f"g = {value}\n")
        rewrite(package / "late.py", f"g = {value}", f"g = {value}")
        digests.add(lab("lab.late"))
    assert len(digests) == 5


def test_source_that_is_not_there_or_does_not_parse_is_said(package: Path) -> None:
    with pytest.raises(UserError, match=r"cannot find the source of module 'lab\.none'"):
        lab("lab.none")
    (package / "b.py").write_text("class B(:\n")
    with pytest.raises(UserError, match=r"b\.py:1: does not parse"):
        lab("lab.b")


def test_a_level_from_outside_is_part_of_the_code(package: Path) -> None:
    recipe = Recipe.model_validate({"encoders": {"text": "words"}, "fusion": "lab.a:A"})
    assert "lab.a:A" in level_targets(recipe)
    before = Identifier().code(recipe)
    plain = Identifier().code(Recipe.model_validate({"encoders": {"text": "words"}}))
    rewrite(package / "helper.py", "return g(x)", "return g(x) + 1")
    assert Identifier().code(recipe) != before
    assert Identifier().code(Recipe.model_validate({"encoders": {"text": "words"}})) == plain


def test_accepted_code_is_named_as_it_was() -> None:
    equal = chain([("one", "two"), ("two", "three")])
    assert resolve_equal("three", equal) == resolve_equal("two", equal) == "one"
    assert resolve_equal("other", equal) == "other"
    assert resolve_equal("x", {"x": "y", "y": "x"}) in ("x", "y")


def test_a_folder_without_an_init_file_is_a_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user makes: `mylab/gate.py` and nothing else."""
    (tmp_path / "bare_lab").mkdir()
    (tmp_path / "bare_lab" / "gate.py").write_text("from bare_lab.help import g\ndef f(): return g(1)\n")
    (tmp_path / "bare_lab" / "help.py").write_text("g = abs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = code_digest(("bare_lab.gate",), frozenset({"bare_lab"}))
    assert closure(["bare_lab.gate"], frozenset({"bare_lab"})) == {("bare_lab.gate", "f"), ("bare_lab.help", "g")}
    rewrite(tmp_path / "bare_lab" / "help.py", "abs", "max")
    assert code_digest(("bare_lab.gate",), frozenset({"bare_lab"})) != found
