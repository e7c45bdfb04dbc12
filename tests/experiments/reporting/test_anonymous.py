"""What a reviewer may be given: nothing in it says who made it, and every number is the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments import cli
from experiments.reporting.anonymous import Mask, anonymous_copy
from experiments.reporting.run import Run

COMMIT = "3f9a1c0d7be24c55a1e09b7bb1d0a7c4e6f8d921"
names = st.text("abcdefghijklmnopqrstuvwxyzäéßABCDEFG0123456789-_.", min_size=2, max_size=12).filter(
    lambda name: re.search(r"[a-zA-Zäéß]{2}", name) is not None and name.strip("-_.") == name and ".." not in name
)


def texts_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Every text that a reader of a folder can come upon: names and contents of files, columns and cells of tables."""
    for path in sorted(folder.rglob("*")):
        yield "a file's name", str(path.relative_to(folder))
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield f"{path.name}: metadata", repr(table.schema.metadata)
            yield from ((f"{path.name}: {name}", repr(table[name].to_pylist())) for name in table.column_names)
        elif path.is_file():
            yield path.name, path.read_bytes().decode("utf-8", "replace")


def plant(run: Path, host: str, user: str) -> list[str]:
    """Write somebody's traces into every table and setting of a run; returns what must not be found again."""
    home = f"/home/{user}/mer lab"
    trials = pq.read_table(run / "trials.parquet")
    traces = [
        f"cannot read '{home}/a.wav' on {host}", f"{user}@{host}.uni-x.edu wrote", f"C:\\Users\\{user}\\x.wav",
        f"file:///{user}/data", f"at 2026-11-27 14:05:31+05:45 in Asia/Kathmandu, commit {COMMIT[:10]}",
        "10.23.4.17:6379",
    ]  # fmt: skip
    columns = {
        "host": [f"{host}.uni-x.edu" if i % 2 else host for i in range(len(trials))],
        "commit": [COMMIT] * len(trials),
        "reason": [traces[i % len(traces)] for i in range(len(trials))],
        "versions": [f"mer-ablation 0.1.0+g{COMMIT[:8]}; torch 2.13.0"] * len(trials),
    }
    for name, values in columns.items():
        at = trials.column_names.index(name)
        trials = trials.set_column(at, trials.schema.field(name), pa.array(values, pa.string()))
    pq.write_table(trials, run / "trials.parquet")
    document = yaml.safe_load((run / "space.yaml").read_text("utf-8"))
    document["description"] = f"{user}'s runs ({user}@{host}.uni-x.edu), from ~{user}/runs"
    document["notices"] = [f"weights from {home}/phobert", f"see https://{host}.uni-x.edu/{user}"]
    document["document"] = {"corpora": {"demo": {"folder": f"{home}/demo"}}, f"/home/{user}/k": [user, {"x": host}]}
    (run / "space.yaml").write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False), "utf-8")
    return [host, user, COMMIT[:7], "uni-x", "mer lab", "kathmandu", "05:45", "10.23.4.17"]


def assert_silent(folder: Path, secrets: list[str]) -> None:
    for where, text in texts_of(folder):
        for secret in secrets:
            assert secret.lower() not in text.lower(), (secret, where)


def numbers(value: object) -> object:
    """A report without its texts."""
    if isinstance(value, dict):
        return [numbers(item) for item in value.values()]
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return value if isinstance(value, int | float) or value is None else "text"


def test_a_copy_says_nothing_of_its_makers_and_keeps_every_number(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "results" / "kilroy_study"
    shutil.copytree(make_run(studies=4).folder, run)
    assert cli.main(["report", str(run)]) == 0
    before = json.loads((run / "report/report.json").read_text("utf-8"))
    secrets = plant(run, "gpu-kilroy7", "kilroy")
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events.gpu-kilroy7").write_bytes(b"kilroy")
    assert cli.main(["report", str(run.parent), "--anonymous"]) == 0
    target = tmp_path / "results-anonymous"
    assert f"{target}" in capsys.readouterr().out
    assert_silent(target, secrets)
    (copy,) = target.iterdir()
    after = json.loads((copy / "report/report.json").read_text("utf-8"))
    assert numbers(after["claims"]) == numbers(before["claims"])
    assert numbers(after["tables"]["main"]) == numbers(before["tables"]["main"])
    assert "Anonymous copy" in (copy / "report/index.html").read_text("utf-8")
    trials = pq.read_table(copy / "trials.parquet")
    original = pq.read_table(run / "trials.parquet")
    assert trials["trial"].to_pylist() == original["trial"].to_pylist()
    assert len(set(trials["host"].to_pylist())) == 2  # how many machines there were is still known
    for one, other in zip(trials.select(["started", "ended"]).to_pylist(), original.to_pylist(), strict=True):
        if one["started"] is not None:
            assert one["ended"] - one["started"] == other["ended"] - other["started"]
    assert trials["started"].to_pylist()[0].year == 2000


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(host=names, user=names)
@example(host="gpu", user="li")
@example(host="node-1", user="jane.doe")
@example(host="cluster", user="cluster")
@example(host="tacfn", user="fusion")
@example(host="AA", user="Aß")
@example(host="host2", user="host1")
@example(host="DEFAult", user="AA")
def test_whatever_they_are_called(
    make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory, host: str, user: str
) -> None:
    from experiments.reporting import anonymous

    folder = tmp_path_factory.mktemp("fuzz")
    run = folder / "run"
    shutil.copytree(make_run(studies=2, utterances=8, dialogues=2, rates=()).folder, run)
    clean = "\n".join(text for _, text in texts_of(run)).lower()
    kept = anonymous.GENERIC | anonymous._own_words([run])  # a table or a report reads them
    secrets = [s for s in plant(run, host, user) if s.lower() not in clean and s.lower() not in kept]
    mask = anonymous._mask_for([run])
    place = folder / "copy"
    place.mkdir()
    anonymous._copy_run(run, place, mask)
    for where, text in texts_of(place):
        for secret in secrets:
            word = rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])" if len(secret) < 4 else re.escape(secret)
            assert not re.search(word, text, re.IGNORECASE), (secret, where, text[:400])
    shutil.rmtree(folder)


def test_one_name_is_one_word_and_two_are_two() -> None:
    mask = Mask(hosts={"gpu7"}, users={"jdoe"})
    assert mask.text("/data/a") == mask.text("/data/a") != mask.text("/data/b")
    assert mask.text("GPU7 or gpu7") == "host1 or host1"
    assert mask.text("fusion=tacfn pooling=mean, n/a, 1/2, and/or") == "fusion=tacfn pooling=mean, n/a, 1/2, and/or"


def test_a_copy_is_refused_where_something_is_or_within_itself(make_run: Callable[..., Run], tmp_path: Path) -> None:
    from mer.errors import UserError

    run = tmp_path / "run"
    shutil.copytree(make_run(studies=4).folder, run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    for target, found in (
        (tmp_path / "full", "something already(.|\n)*--out DIR"),
        (run / "copy", "inside"),
        (tmp_path / "full/file", ""),
    ):
        with pytest.raises(UserError, match=found):
            anonymous_copy(run, target)
    with pytest.raises(UserError, match="neither a run nor"):
        anonymous_copy(tmp_path / "full", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "run"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("[fe80::1ff:fe23:4567:890a]:6379", "[host1]:6379"),
        ("2001:db8::1 and 02:42:ac:11:00:02", "host1 and host2"),
        ("Fri Nov 27 08:15:02 2026", "date1"),
        ("on 2026-11-27, 27.11.2026, 2026/11/27 and 20261127T081502", "on date1, date2, date3 and date4"),
        ("Nov 27, 2026 (UTC+2)", "date1 (zone1)"),
        *((kept, kept) for kept in ("torch 2026.1.1", "took 00:15:02", "tests/x.py::test_a", "std::vector", "lr 1e-3")),
        ("at 2026-11-27T08:15:00", "at 2026-11-27T08:15:00+00:00"),
    ],
)
def test_addresses_days_and_offsets_of_every_form(text: str, masked: str) -> None:
    assert Mask().text(text) == masked


@pytest.mark.parametrize("name", ["grace", "Max", "draws", "concat", "f0"])
def test_an_account_that_is_called_like_a_setting_renames_none(
    name: str, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    source = make_run().folder
    file = source / "space.yaml"
    document = yaml.safe_load(file.read_text("utf-8"))
    before = (document["tuning"], [cell["recipe"] for cell in document["cells"]])
    document["notices"] = [f"features are in /home/{name}/x"]
    file.write_text(yaml.safe_dump(document), "utf-8")
    anonymous_copy(source, tmp_path / "copy")
    text = (tmp_path / "copy" / "space.yaml").read_text("utf-8")
    copied = yaml.safe_load(text)
    assert f"/home/{name}" not in text
    assert (copied["tuning"], [cell["recipe"] for cell in copied["cells"]]) == before
