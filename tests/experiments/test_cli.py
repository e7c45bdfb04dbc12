"""The command line: it answers at once, says what was wrong without a traceback, and its exit codes mean something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import build_parser, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "pandas", "transformers", "matplotlib", "scipy", "optuna", "sklearn")


def imported_by(*command: str) -> set[str]:
    """Which heavy packages a command imports, asked of a fresh interpreter."""
    code = (
        "import sys\n"
        "from experiments.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('\\nIMPORTED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("IMPORTED"))
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("run", "--help"),
        ("run", "--space", "no_such_space"),
        ("status", "no_such_folder"),
        ("data", "check", "no_such_folder"),
        ("completion", "bash"),
    ],
)
def test_answers_at_once(command: tuple[str, ...]) -> None:
    assert imported_by(*command) == set()


def test_a_bad_space_is_refused_without_heavy_imports(tmp_path: Path) -> None:
    space = tmp_path / "x.yaml"
    space.write_text("corpora: demo\nfactors:\n  fusion: [concat, tacfm]\n")
    assert imported_by("run", "--space", str(space)) <= {"scipy"}


def test_user_mistakes_end_in_two_and_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "--space", "quickstar"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "did you mean 'quickstart'?" in message
    assert "Traceback" not in message
    assert main(["run", "--space", "quickstart", "--budget", "soon"]) == 2
    assert main(["predict", str(tmp_path)]) == 2
    assert main(["analyze", str(tmp_path)]) == 2
    assert main(["evaluate", str(tmp_path), "demo"]) == 2


def test_a_class_in_the_current_folder_is_found(tmp_path: Path) -> None:
    """By the installed command, which unlike `python -m` does not look there by itself."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "pool.py").write_text("from mer.pooling import Mean\n\n\nclass Again(Mean):\n    pass\n")
    mer = Path(sys.executable).with_name("mer")
    done = subprocess.run(
        [str(mer), "contract", "mylab.pool:Again"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "pooling mylab.pool:Again: 13 of 13 checks hold" in done.stdout, done.stderr


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import commands_editor

    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands_editor, "print_schema", interrupted)
    assert main(["schema"]) == 130


@pytest.mark.parametrize("script", ["run_ablation.py", "report.py", "analyze.py"])
def test_scripts_run_from_any_folder_and_copied_alone(script: str, tmp_path: Path) -> None:
    copied = tmp_path / script
    copied.write_text((ROOT / "experiments" / script).read_text("utf-8"), "utf-8")
    for path in (ROOT / "experiments" / script, copied):
        done = subprocess.run(
            [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "usage: mer" in done.stdout


def test_every_command_has_help() -> None:
    help_text = build_parser().format_help()
    for command in ("run", "plan", "status", "report", "analyze", "data", "features", "train", "predict", "contract"):
        assert f"\n    {command}" in help_text


def test_the_shipped_schema_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    shipped = (ROOT / "search_spaces" / "space.schema.json").read_text("utf-8")
    assert capsys.readouterr().out == shipped, "write it anew: mer schema > search_spaces/space.schema.json"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "analyze" in capsys.readouterr().out
