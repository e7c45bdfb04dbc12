from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mer.errors import UserError
from mer.yaml_text import MAX_DEPTH, dump_yaml, parse_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
DEEP = {
    "lists": "[" * 2_000_000,
    "mappings": "{" * 100_000,
    "keys": "{a: " * 100_000,
    "dashes": "- " * 100_000,
    "marks": "? " * 100_000,
    "lines": "\n".join(" " * n + "a:" for n in range(2000)),
}


@pytest.mark.parametrize("name", DEEP)
def test_however_deep_a_text_is_the_process_lives_on(name: str, tmp_path: Path) -> None:
    """In a process of its own: what this is about ends one without a word."""
    (tmp_path / "deep.yaml").write_text(DEEP[name])
    code = "import sys, pathlib, mer.yaml_text as y\ny.read_yaml(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "deep.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    assert f"nested deeper than {MAX_DEPTH} levels" in done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "more than .* values"),
        ("a: &a [1, *a]", r"x:1: .*contains itself"),
        ("a: &a\n  b: {c: [*a]}", r"x:2: .*contains itself"),
        ("a: 2020-13-01", "month"),
        ("{[1]: 2}", "unhashable"),
        ("a: *b", "undefined alias"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_yaml(text, "x")


def test_what_another_parser_reads_comes_back_the_same() -> None:
    draw = random.Random(0)

    def value(depth: int) -> Any:
        kind = draw.randrange(6 if depth < 12 else 4)
        if kind == 4:
            return [value(depth + 1) for _ in range(draw.randrange(4))]
        if kind == 5:
            return {f"k{n}": value(depth + 1) for n in range(draw.randrange(4))}
        return [draw.random(), draw.randrange(100), "text: [", None][kind]

    for _ in range(300):
        shared = value(0)
        data = {"first": shared, "again": shared, "other": value(0)}  # the same object twice: an alias in the text
        assert parse_yaml(yaml.safe_dump(data), "x") == data
        assert yaml.safe_load(dump_yaml(data)) == data


def test_every_character_comes_back() -> None:
    """The emitter in C escapes what that in Python does not, and folds lines in other places."""
    names = [
        "Trời ơi, đẹp quá!",
        "日本語",
        "🙂" * 60,
        "a: b #c",
        " x ",
        "no",
        "1e3",
        "\t\u0085\u2028",
        "'",
        '"',
        "x" * 300,
    ]
    data = {name: [name, f"{name} {name}"] for name in names}
    assert parse_yaml(dump_yaml(data), "x") == data == yaml.safe_load(dump_yaml(data))
    assert list(yaml.safe_load(dump_yaml(data))) == names
