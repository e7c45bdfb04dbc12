"""The command line: it answers at once, says what was wrong without a traceback, and its exit codes mean something."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.cli import _explained, build_parser, main
from mer.commandline import JSON

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
        ("levels",),
        ("schema",),
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


def test_each_of_several_mistakes_is_an_error_and_names_its_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"utterance_id": "a"}\n[\n')
    for command in (["run", "--space", "quickstart", "--data"], ["train", "examples/train.yaml", "--data"]):
        assert main([*command, str(tmp_path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 5
        assert all(line.startswith(f"error: {tmp_path}/") for line in lines), lines


def test_a_hint_names_options_that_the_command_has() -> None:
    parser, denied = build_parser(), OSError(errno.EACCES, "Permission denied", "/there")
    for command, option in (
        (["run", "--space", "s"], "--results"),
        (["train", "r.yaml"], "--output"),
        (["levels"], ""),
    ):
        hint = _explained(denied, parser.parse_args(command))
        assert [word for word in hint.split() if word.startswith("--")] == ([option] if option else []), hint


def test_several_factors_are_kept_one_option_each(capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "modalities=both", "--only", "pooling=mean,min"]
    assert main(["plan", *only, "--set", "studies=2", "--set", "tune.draws=1", "--no-smoke", "quickstart"]) == 0
    shown = capsys.readouterr().out
    assert "\n2 studies" in shown
    assert "\n3 cells" in shown
    with pytest.raises(SystemExit) as ended:
        main(["run", "--space", "quickstart", "--only", "modalities=both", "pooling=mean"])
    assert ended.value.code == 2
    assert "did you mean '--set pooling=mean' or '--only pooling=mean'?" in capsys.readouterr().err


def test_a_plan_counts_the_contrasts_that_were_declared_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.results.declared import declare
    from experiments.results.ledger import Ledger
    from experiments.space.load import make_plan

    whole = make_plan("quickstart")
    words = ["plan", "quickstart", "--no-smoke", "--results", str(tmp_path), "--only", "modalities=both,text"]
    assert main(words) == 0
    alone = capsys.readouterr().out
    assert "declared for this question before" not in alone
    declare(whole, Ledger(str(tmp_path)))
    assert main(words) == 0
    shown = capsys.readouterr().out
    size = int(re.findall(r"Holm over the family: (\d+), with what was declared", shown)[0])
    assert size > len(whole.contrasts) - 1
    assert shown != alone


def test_missing_weights_stop_a_run_before_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    Path("x.yaml").write_text("weights: pretrained\nbase:\n  encoders: {text: {name: hf_text, checkpoint: no/such}}\n")
    assert main(["run", "--space", "x.yaml", "--executor", "inline"]) == 2
    assert "cannot load checkpoint 'no/such'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


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


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from leaves(child)
            return
    yield parser


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{parser.prog} {action.dest}"
        for parser in leaves(build_parser())
        for action in parser._actions
        if not (action.help or "").strip()
    ]
    assert not silent


def test_json_is_described_alike_everywhere() -> None:
    said = {action.help for parser in leaves(build_parser()) for action in parser._actions if action.dest == "json"}
    assert said == {JSON}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runn"], "error: unknown command 'runn'; expected run, plan, .*; did you mean 'run'?"),
        (["run", "--space", "x", "--bugdet", "2h"], "error: unknown option '--bugdet'; did you mean '--budget'?"),
        (["run"], "error: --space must be given"),
        (["data", "chek"], "error: unknown command 'chek'; .*did you mean 'check'?"),
        (["run", "--space", "x", "--workers", "many"], "'many' is not a whole number from 1 on"),
        (["run", "--space", "x", "--executor", "rays"], "unknown value of --executor 'rays'; expected ray, inline"),
    ],
)
def test_mistakes_on_the_command_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown)
    assert "usage:" not in shown
    assert shown.rstrip().endswith("--help`.")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_levels_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["levels"]) == 0
    everything = capsys.readouterr().out
    assert "\n  tacfn " in everything
    assert everything.startswith("encoder\n")
    assert main(["levels", "pooling"]) == 0
    assert "tacfn" not in capsys.readouterr().out
    assert main(["levels", "gated"]) == 0
    page = capsys.readouterr().out
    assert "g_m = sigmoid(U2 tanh(U1 v_m))" in page
    assert "heads: attention heads of a block. (default: 4)" in page
    assert main(["levels", "none"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.endswith(" none")] == [
        "fusion none", "context none", "missing none",
    ]  # fmt: skip
    assert main(["levels", "gatd"]) == 2
    assert "did you mean 'gated'?" in capsys.readouterr().err


COMPLETED = [
    ("mer contr", "contract"),
    ("mer run --sp", "--space"),
    ("mer run --space quick", "quickstart"),
    ("mer levels tac", "tacfn"),
    ("mer evaluate --split te", "test"),
]


@pytest.mark.parametrize(("typed", "expected"), COMPLETED)
def test_bash_completes(typed: str, expected: str, tmp_path: Path) -> None:
    words = typed.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f'source "{completion("bash", tmp_path)}"; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; '
        '_shtab_mer mer "${COMP_WORDS[COMP_CWORD]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert expected in done.stdout.split(), done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("typed", "expected"), COMPLETED)
def test_fish_completes(typed: str, expected: str, tmp_path: Path) -> None:
    script = f'source "{completion("fish", tmp_path)}"; complete -C "{typed}"'
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=False)
    assert expected in done.stdout.split(), done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(tmp_path: Path) -> None:
    script = f'autoload -U compinit; compinit -u; source "{completion("zsh", tmp_path)}"; whence -w _shtab_mer'
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "_shtab_mer: function", done.stderr


def completion(shell: str, folder: Path) -> Path:
    """The script that `mer completion` prints, in a file."""
    path = folder / f"mer.{shell}"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["completion", shell]) == 0
    path.write_text(printed.getvalue(), "utf-8")
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("run", "--help"),
        ("levels",),
        ("plan", "quickstart", "--no-smoke"),
        ("data", "check", "demo", "--no-audio"),
        ("run", "--space", "quickstar"),
    ],
    ids=" ".join,
)
def test_no_colours_where_nobody_sees_them(command: tuple[str, ...]) -> None:
    """Not a terminal: plain text, so that it can go into files and mails."""
    done = subprocess.run([sys.executable, "-m", "experiments.cli", *command], capture_output=True, check=False)
    assert b"\x1b" not in done.stdout + done.stderr


def test_a_machine_that_does_not_let_us_write_is_said_in_a_sentence() -> None:
    """A container's user has no name, no home; a home may be read-only."""
    code = "import pwd, sys; pwd.getpwuid = lambda user: {}[user]\nfrom experiments.cli import main; sys.exit(main())"
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "MER_CACHE", "XDG_CACHE_HOME")}
    for settings, said in (
        ({}, "error: this user has no home folder"),
        ({"MER_CACHE": "/sys/mer"}, "error: /sys/mer: "),
        ({"MER_CACHE": f"/{'long' * 90}"}, "File name too long"),
    ):
        command = [sys.executable, "-c", code, "data", "check", "demo"]
        done = subprocess.run(command, env={**kept, **settings}, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_odd_places_are_refused_in_a_sentence(tmp_path: Path) -> None:
    code = "import sys; from experiments.cli import main; sys.exit(main())"
    latin = os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr")
    os.mkdir(latin)
    (tmp_path / "gone").mkdir()
    gone = "import os; os.rmdir(os.getcwd()); " + code
    for folder, program, arguments, said in (
        (latin, code, ["plan", "quickstart"], "a name that is not UTF-8"),
        (str(tmp_path), code, ["plan", latin], "a name that is not UTF-8"),
        (str(tmp_path / "gone"), gone, ["plan", "quickstart"], "the current folder is gone or closed to you"),
    ):
        done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_locale_without_utf8_does_not_matter(tmp_path: Path) -> None:
    """Python's own cure for it (the C locale's coercion) does not hold for Latin-1, and can be switched off."""
    folder = tmp_path / "Prüfung ü"
    folder.mkdir()
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    code = "import sys; from experiments.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "status", str(folder)]
    done = subprocess.run(command, env={**os.environ, **odd}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Pr\\xfcfung \\xfc: neither a run nor a results folder" in done.stderr
    assert done.stdout == ""


def test_a_program_ends_with_its_own_code_whatever_libraries_do_at_the_end() -> None:
    """A thread of a C++ library that still runs when the process ends has turned 0 into 134."""
    code = (
        "import ctypes, sys\n"
        "c = ctypes.CDLL(None)\n"
        "assert getattr(c, '__cxa_atexit')(ctypes.cast(c.abort, ctypes.c_void_p), None, None) == 0\n"
        "from experiments.cli import script\n"
        "sys.argv = ['mer', *sys.argv[1:]]\n"
        "script()\n"
    )
    for command, expected in ((["--version"], 0), (["levels"], 0), (["levels", "nothing"], 2), (["nothing"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        assert done.stdout or done.stderr


WORKS = """
import sys
from pathlib import Path
from experiments import cli, commands_editor

def work(args):
    print("begun", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        print("a line", flush=True)
        print("a note", file=sys.stderr, flush=True)
    Path("done").touch()
    return 3

commands_editor.print_schema = work
sys.argv = ["mer", "schema"]
cli.script()
"""


@pytest.mark.parametrize("way", ["a pipe", "a terminal", "closed from the start"])
def test_a_command_works_on_where_nobody_listens_any_more(way: str, tmp_path: Path) -> None:
    """`mer train ... | head -1` ended with 0 and without a model."""
    end, other = pty.openpty() if way == "a terminal" else os.pipe()
    command = [sys.executable, "-c", WORKS]
    if way == "closed from the start":
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=other, stderr=other, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.close(other)
        if way != "closed from the start":
            assert os.read(end, 5) == b"begun"
        os.close(end)
        process.communicate(b"\n")
    assert process.returncode == 3
    assert (tmp_path / "done").exists()
