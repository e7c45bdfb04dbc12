"""What a level's code digest depends on: all that it runs, and not what stands beside that."""

from __future__ import annotations

import ast
import inspect
import random
import shutil
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from experiments.results import closure as closures
from experiments.results.closure import closure, code_digest
from experiments.results.identity import code_roots, recipe_code
from mer import levels
from mer.data.corpus import load_corpus
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.recipe import MissingConfig, Recipe
from mer.streams import streams
from mer.training import Trainer

ROOT = Path(levels.__file__).parent
FILES = {
    "__init__.py": "",
    "base.py": "class Base:\n    def go(self): return 1\nclass Other: ...\n",
    "deep/__init__.py": "from lab2.deep.thing import thing\n",
    "deep/thing.py": "def thing(): return 1\ndef unused(): return 2\n",
    "help.py": "SCALE = 2\ndef twice(x): return SCALE * x\ndef lonely(x): return x\ndef wrap(f): return f\n"
    "def default(): return 3\nPICK = {'a': 'by_name'}\ndef by_name(): return 4\n",
    "all.py": "def starred(): return 5\n",
    "effects.py": "import math\nmath.tau = 7\ndef nothing(): ...\n",
    "quiet.py": "def nothing(): ...\nVALUE = frozenset({1})\n",
    "level.py": "",
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "lab2"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def write(file: Path, text: str) -> None:
    """With a time of its own: what was read before is read again."""
    import os

    file.write_text(text)
    os.utime(file, ns=(time.time_ns(), time.time_ns() + random.randrange(10**9)))


def digest(root: str = "lab2.level:Level") -> str:
    return code_digest([root], frozenset({"lab2"}))


@pytest.mark.parametrize(
    ("source", "file", "old", "new"),
    [
        ("from lab2.base import Base\nclass Level(Base): ...", "base.py", "return 1", "return 0"),
        ("from lab2 import base\nclass Level(base.Base): ...", "base.py", "return 1", "return 0"),
        ("import lab2.base as b\nclass Level(b.Base): ...", "base.py", "return 1", "return 0"),
        ("import lab2.base\nclass Level(lab2.base.Base): ...", "base.py", "return 1", "return 0"),
        ("from .help import twice\nclass Level:\n    def go(self): return twice", "help.py", "SCALE = 2", "SCALE = 3"),
        ("from lab2.help import wrap\n@wrap\nclass Level: ...", "help.py", "return f", "return None"),
        ("from lab2.help import default\nclass Level:\n    def go(self, x=default()): ...", "help.py", "3", "4"),
        ("from lab2.help import SCALE as S\nclass Level:\n    x = S", "help.py", "SCALE = 2", "SCALE = 3"),
        ("from lab2.all import *\nclass Level:\n    def go(self): return starred()", "all.py", "5", "6"),
        ("class Level:\n    def go(self):\n        from .help import twice\n        return twice", "help.py", "2", "3"),
        ("from lab2 import help\nclass Level:\n    def go(self): return getattr(help, 'a')", "help.py", "4", "5"),
        ("from lab2 import help as h\nclass Level:\n    def go(self): run(h)", "help.py", "return f", "return 0"),
        ("from lab2.deep import thing\nclass Level:\n    def go(self): return thing()", "deep/thing.py", "1", "0"),
        ("import lab2.deep.thing\nclass Level:\n    go = lab2.deep.thing.thing", "deep/thing.py", "1", "0"),
        ("from lab2 import effects\nclass Level: ...", "effects.py", "7", "8"),
        ("from lab2.quiet import nothing\nclass Level:\n    go = nothing", "__init__.py", "", "import lab2.effects"),
        ("class Level:\n    def go(self) -> 'Later': ...\nclass Later:\n    x = 1", "level.py", "x = 1", "x = 2"),
        ("def helper(): return 1\nclass Level:\n    go = helper", "level.py", "return 1", "return 2"),
        ("def helper(): return 1\nclass Level:\n    def go(self): globals()['hel' + 'per']", "level.py", "1", "2"),
        ("from math import exp as f\nclass Level:\n    go = f", "level.py", "exp", "log"),
        ("try:\n    from lab2.help import twice\nexcept ImportError:\n    twice = None\nclass Level:\n    go = twice",
         "help.py", "SCALE = 2", "SCALE = 3"),
        ("X = []\nX.append(1)\nclass Level: ...", "level.py", "append(1)", "append(2)"),
    ],
)  # fmt: skip
def test_what_a_level_uses_changes_its_digest(lab: Path, source: str, file: str, old: str, new: str) -> None:
    write(lab / "level.py", source + "\n")
    before, text = digest(), (lab / file).read_text()
    assert old in text
    write(lab / file, text.replace(old, new) if old else new + "\n")
    assert digest() != before


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("help.py", "def another(x): return x\n"),
        ("help.py", "class Another:\n    x = 1\n"),
        ("help.py", "MORE = {'x': 1}\n"),
        ("level.py", "class Second(Base):\n    '''Another level.'''\n"),
        ("level.py", "LEVELS = {'level': 'lab2.level:Level', 'second': 'lab2.level:Second'}\n"),
        ("base.py", "class Third(Base): ...\n"),
        ("quiet.py", "def more(): ...\n"),
    ],
)
def test_what_stands_beside_it_does_not(lab: Path, file: str, more: str) -> None:
    write(
        lab / "level.py",
        "from lab2.base import Base\nfrom lab2.help import twice\nfrom lab2.quiet import VALUE\n"
        "class Level(Base):\n    def go(self): return twice(VALUE)\n",
    )
    before = digest()
    write(lab / file, (lab / file).read_text() + more)
    assert digest() == before


# ---- this project -----------------------------------------------------------------------------------------------


def make_recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {
        "encoders": {"text": "features", "audio": "features"},
        "projection": {"dim": 4},
        "classifier": {"hidden": [4]},
        "sampler": {"batch_size": 16},
        "training": {"epochs": 1},
    }
    return Recipe.model_validate({**given, **changes})


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("pooling.py", "class Median(Pooling):\n    '''New.'''\n    def forward(self, x): return x.values.median(1)\n"),
        ("losses.py", "class Poly(ClassificationLoss):\n    def terms(self, log_p): return log_p\n"),
        ("context.py", "class Past(Context):\n    def forward(self, pooled, batch): return pooled\n"),
        ("data/sampling.py", "class Backwards(Plain):\n    '''New.'''\n"),
        ("data/missing.py", "def never(asked): return asked.there\n"),
        ("layers.py", "def another(x): return x\n"),
        ("fusion/simple.py", "class Product(Fusion):\n    '''New.'''\n"),
    ],
)
def test_a_new_level_leaves_the_others_as_they_are(
    file: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [
        make_recipe(fusion=fusion, pooling=pooling, context=context, sampler={"name": sampler}, loss={"name": loss})
        for fusion, pooling, context, sampler, loss in (
            ("concat", "mean", "none", "plain", "cross_entropy"),
            ("gated", "attn", "bilstm", "both", "focal"),
        )
    ]
    copy = copied(tmp_path, monkeypatch)
    before = [recipe_code(recipe) for recipe in recipes]
    text = (copy / file).read_text()
    end = text.index("}\n", text.index("LEVELS: dict")) if "LEVELS: dict" in text else None
    if end is not None:  # and its line in the table
        text = f'{text[:end]}    "new": "mer.x:New",\n{text[end:]}'
    write(copy / file, text + "\n\n" + more)
    assert [recipe_code(recipe) for recipe in recipes] == before


def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's source in another folder, which is read in place of its own."""
    copy = tmp_path / "mer"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    find = closures.find_source

    def found(module: str) -> Path | None:
        source = find(module)
        return copy / source.relative_to(ROOT) if source is not None and source.is_relative_to(ROOT) else source

    monkeypatch.setattr(closures, "find_source", found)
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "gated", "pooling": "attn"},
        {"fusion": "tacfn", "pooling": "cls", "context": "bilstm", "loss": {"name": "focal"}},
        {"fusion": "cadgl", "pooling": "max", "sampler": {"name": "both", "batch_size": 16}},
        {"missing": {"train": {"protocol": "random", "rate": 0.3}}},
    ],
)  # fmt: skip
def test_every_function_that_a_training_runs_is_in_its_digest(
    changes: dict[str, Any], tmp_path: Path, tiny_folder: Path
) -> None:
    """An oracle that knows nothing of the source: the interpreter says which functions are called."""
    recipe = make_recipe(**changes)
    ran: set[CodeType] = set()

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function, not the body of a class
            ran.add(frame.f_code)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        corpus = load_corpus(tiny_folder)
        trainer = Trainer(
            recipe, corpus.train_valid(), streams(0, "x", 0, 0, "confirm"), store=FeatureStore(tmp_path), device="cpu"
        )
        trainer.epoch()
        for protocol in ({"protocol": "random", "rate": 0.5}, {"protocol": "sample", "rate": 0.5}):
            availability(MissingConfig.model_validate(protocol), trainer.valid.ids, trainer.valid.modalities, 0)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    covered = closure(*code_roots(recipe))
    executed = {where for code in ran if (where := top_level(code)) is not None}
    assert len(executed) > 40
    assert not {where for where in executed if where not in covered and not where[1].startswith("<")}


def top_level(code: CodeType) -> tuple[str, str] | None:
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT):
        return None
    parts = ["mer", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts), code.co_qualname.split(".")[0]


def test_changing_any_definition_changes_the_digests_that_cover_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(tmp_path, monkeypatch)
    roots = code_roots(make_recipe(fusion="gated", pooling="attn"))
    covered, before = closure(*roots), code_digest(*roots)
    symbols = []
    for file in sorted(copy.rglob("*.py")):
        parts = ["mer", *file.relative_to(copy).with_suffix("").parts]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(file.read_text())
        kinds = ast.FunctionDef | ast.ClassDef
        symbols += [(file, module, node.name) for node in tree.body if isinstance(node, kinds)]
    for file, module, name in random.Random(0).sample(symbols, 80):
        text = file.read_text()
        write(file, mutated(text, name))
        assert (code_digest(*roots) != before) == ((module, name) in covered), f"{module}:{name}"
        write(file, text)
    assert code_digest(*roots) == before


def mutated(text: str, name: str) -> str:
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            node.body.append(ast.parse("mutated = 1").body[0])
    return ast.unparse(tree)


def test_every_level_has_a_digest_of_its_own() -> None:
    for field in ("fusion", "pooling", "context"):
        table = levels.table(levels.KINDS[field][0])
        assert len({recipe_code(make_recipe(**{field: name})) for name in table}) == len(table)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    from tests.mer.conftest import write_tiny_corpus

    folder = tmp_path / "tiny"
    folder.mkdir()
    write_tiny_corpus(folder)
    return folder
