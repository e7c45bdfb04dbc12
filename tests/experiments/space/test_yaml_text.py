"""Strict YAML: scalars without surprises, mistakes with their line."""

from __future__ import annotations

import pytest

from experiments.space.includes import load_with_includes
from experiments.space.yaml_text import load_recipe_file, parse, read
from mer.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("1.5.2", "1.5.2"),
        ("=", "="),
    ],
)
def test_scalars(text, value):
    found = parse(f"x: {text}").data["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"f.yaml:3: key 'a' stands twice.*\n.*f.yaml:1"),
        ("a:\n\tb: 1", r"f.yaml:2: not valid YAML.*\n.*spaces"),
        ("a: [1, 2", r"f.yaml:\d: not valid YAML"),
        ("a: .nan", r"f.yaml:1: .nan is not a finite number"),
        ("a: -.inf", r"f.yaml:1: -.inf is not a finite"),
        ("a: nan", r"f.yaml:1: nan is not a finite"),
        ("a: 1e999", r"too large"),
        ("a: !!python/object:os.system 1", r"f.yaml:1: tag .* is not allowed"),
        ("a: 1\n---\nb: 2", r"f.yaml:\d: not valid YAML"),
        ("a: &x {<<: *x}", r"merge keys|alias"),
        ("a: &x [*x]", r"contains itself"),
        ("[1, 2]: 3", r"key must be a plain name"),
        ("a: \x07", r"not valid YAML"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        parse(text, "f.yaml")


def test_alias_bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match="more than 50000 values"):
        parse("\n".join(lines))


def test_lines():
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "f")
    assert document.where("a") == "f:1"
    assert document.where("a", "c", 1, "d") == "f:5"
    assert document.where("a", "c", 0, "unknown") == "f:4"
    assert document.part("a", "c").where(1) == "f:5"


def test_not_utf8(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(UserError, match=r"bad.yaml:2: not UTF-8"):
        read(file)


def test_include_merges_and_remembers_lines(tmp_path):
    (tmp_path / "base.yaml").write_text("studies: 3\ntune:\n  draws: 4\n  sampler: tpe\nlist: [1, 2]\ngone: 1\n")
    (tmp_path / "over.yaml").write_text("include: base.yaml\ntune:\n  draws: 8\nlist: [3]\ngone: null\n")
    found = load_with_includes(tmp_path / "over.yaml")
    assert found.data == {"studies": 3, "tune": {"draws": 8, "sampler": "tpe"}, "list": [3]}
    assert found.where("tune", "draws").endswith("over.yaml:3")
    assert found.where("tune", "sampler").endswith("base.yaml:4")
    assert found.where("list", 0).endswith("over.yaml:4")


def test_include_mistakes(tmp_path):
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(UserError, match="include each other"):
        load_with_includes(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("x: 1\ninclude: bb.yaml\n")
    with pytest.raises(UserError, match=r"c.yaml:2: there is no file 'bb.yaml'; did you mean 'b.yaml'"):
        load_with_includes(tmp_path / "c.yaml")


def test_recipe_file(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("corpus: demo\nseed: 3\nencoders: {audio: fourier2vec}\noptimizer: {lr: 1e-4}\nepochs: 2\n")
    recipe, corpus, seed = load_recipe_file(file)
    assert (recipe.optimizer.lr, recipe.training.epochs, corpus, seed) == (1e-4, 2, "demo", 3)
    file.write_text("encoders: {audio: fourier2vec}\noptimizer: {lr: fast}\n")
    with pytest.raises(UserError, match=r"train.yaml:2: optimizer.lr: .*found 'fast'"):
        load_recipe_file(file)
