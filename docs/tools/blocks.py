"""Runs the code blocks of a page, in order, in a fresh copy of the checkout: what a reader would do word for word.

    python -m docs.tools.blocks docs/first_hour.md

What is done with a fenced block depends on its language:

    python    executed in the page's namespace; a comment after a statement that prints is its output, and compared
    sh        run by bash, from the folder of the checkout
    console   lines that start with `$` are run, and what follows is their output (`...` stands for anything)
    yaml      read as a space, as some keys of one, or as fields of a recipe, with every name checked
    json      parsed, one value or several
    diff      applied to the checkout
    latex     written to the file that it names
    text      shown, not run

A block whose first line is a comment that names a file (`# mylab/gate.py`, `% paper.tex`) is written there.

A paragraph before a block may say that it is not run, and why: *Not run in the tests: needs an AWS account.* Or what it
needs: *Needs pdflatex.*; it is then run where that program is.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "sh", "console", "yaml", "json", "diff", "latex", "text")
NOT_RUN, NEEDS = "Not run in the tests:", "Needs "
PARTS_OF_A_CHECKOUT = (
    "mer", "experiments", "search_spaces", "benchmarks", "cluster", "docs", "examples", "tests",
    "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE",
)  # fmt: skip
_FILE = re.compile(r"[#%] ([\w./-]+\.(?:py|yaml|json|toml|tex))")


class Failed(AssertionError):
    """A block that did not do what the page says; the message begins with file and line."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: where it stands, its language, and what the paragraph before it says of it."""

    where: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    needs: str | None = None

    @property
    def file(self) -> str | None:
        """The file that the block is written to, where its first line names one."""
        found = _FILE.fullmatch(self.text.split("\n", 1)[0].strip())
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order. Indented ones have no language and come out as ''."""
    found, before = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text("utf-8")):
        if token.type == "inline":
            before = token.content.strip("*_ ")
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            if token.info.strip().startswith("{"):  # a directive of the page, not code
                before = ""
                continue
            line = token.map[0] + 1
            reason = before.removeprefix(NOT_RUN).strip() if before.startswith(NOT_RUN) else None
            needs = before.removeprefix(NEEDS).strip("`. ") if re.fullmatch(r"Needs `?[\w-]+`?\.", before) else None
            where = f"{page.relative_to(ROOT)}:{line}"
            found.append(Block(where, line, token.info.strip(), token.content, reason, needs))
            before = ""
    return found


class Page:
    """A page being followed: its folder, its environment, and the names that its Python blocks have made.

    `instead` gives other commands for a block of shell commands: another corpus for the page's stand-in.
    """

    def __init__(
        self, page: Path, folder: Path, environment: Mapping[str, str], instead: Mapping[str, str] | None = None
    ) -> None:
        self.page, self.folder, self.instead = page, folder, dict(instead or {})
        self.environment = {**os.environ, **environment, "PYTHONPATH": str(folder), "TERM": "dumb", "COLUMNS": "120"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def follow(self, unfenced: bool = False) -> list[str]:
        """Run every block; returns what was left out for want of a program, in words. `unfenced`: pass over blocks that
        are indented and so have no language."""
        left_out = []
        with self._here():
            for block in blocks(self.page):
                if block.not_run is not None or (unfenced and not block.language):
                    continue
                if block.needs is not None and shutil.which(block.needs) is None:
                    left_out.append(f"{block.where} needs {block.needs}")
                    continue
                self.run(block)
        return left_out

    def run(self, block: Block) -> None:
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        actions = {
            "python": self._python, "sh": self._sh, "console": self._console, "yaml": self._yaml,
            "json": self._json, "diff": self._diff, "latex": self._latex, "text": self._text,
        }  # fmt: skip
        if block.language not in actions:
            raise Failed(f"{block.where}: a block in {block.language or 'no language'}; known: {', '.join(actions)}")
        actions[block.language](block)

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """This process in the page's folder, with its environment and import path; as before afterwards."""
        folder, environment, path, modules = Path.cwd(), dict(os.environ), list(sys.path), set(sys.modules)
        os.chdir(self.folder)
        os.environ.update(self.environment)
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                    del sys.modules[name]

    # ---- what is done with a block ------------------------------------------------------------------------------

    def _python(self, block: Block) -> None:
        source = "\n" * block.line + block.text  # so that a traceback names the page's own lines
        tree = ast.parse(source, block.where)
        if block.file is not None:
            return
        lines = source.split("\n")
        for number, statement in enumerate(tree.body):
            printed = io.StringIO()
            code = compile(ast.Module([statement], []), str(self.page), "exec")
            try:
                with contextlib.redirect_stdout(printed):
                    exec(code, self.names)
            except Exception as error:
                where = f"{self.page.relative_to(ROOT)}:{statement.lineno}"
                raise Failed(f"{where}: {type(error).__name__}: {error}") from error
            until = tree.body[number + 1].lineno if number + 1 < len(tree.body) else len(lines) + 1
            expected = _comment_after(lines, statement, until) if printed.getvalue() else None
            if expected is not None and not _same(expected, printed.getvalue()):
                raise Failed(f"{block.where}: printed\n{printed.getvalue()}\nand the page says\n{expected}")

    def _sh(self, block: Block) -> None:
        script = self.instead.get(block.text.strip(), block.text)
        done = self._bash(f"set -euo pipefail\n{script}")
        if done.returncode:
            raise Failed(f"{block.where}: exit code {done.returncode}\n{block.text}\n{done.stdout[-4000:]}")

    def _console(self, block: Block) -> None:
        for command, expected in _session(block.text):
            done = self._bash(command)
            if not _same(expected, done.stdout):
                raise Failed(f"{block.where}: $ {command}\n{done.stdout}\nand the page says\n{expected}")

    def _bash(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _yaml(self, block: Block) -> None:
        from docs.tools.yaml_blocks import check_yaml
        from mer.errors import UserError

        try:
            check_yaml(block.text, block.where)
        except UserError as error:
            raise Failed(f"{block.where}: {error}") from error

    def _json(self, block: Block) -> None:
        text, decoder = block.text.strip(), json.JSONDecoder()
        while text:
            _, end = decoder.raw_decode(text)
            text = text[end:].strip()

    def _diff(self, block: Block) -> None:
        done = subprocess.run(
            ["git", "apply", "-p0", "-"],
            cwd=self.folder, input=block.text, text=True, check=False, capture_output=True,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{block.where}: the change does not apply\n{done.stdout}{done.stderr}")

    def _latex(self, block: Block) -> None:
        if block.file is None:
            raise Failed(f"{block.where}: LaTeX that is not written to a file")

    def _text(self, block: Block) -> None:
        if re.search(r"^\s*(\$ |mer |python |pip |make |ray |sbatch )", block.text, re.MULTILINE):
            raise Failed(f"{block.where}: commands in a block that is not run; make it sh or console")


def copy_checkout(folder: Path) -> Path:
    """What a clone holds, as far as a page may need it."""
    for name in PARTS_OF_A_CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        elif source.is_file():
            shutil.copy2(source, folder / name)
    return folder


def _comment_after(lines: list[str], statement: ast.stmt, until: int) -> str | None:
    """The comment at the end of a statement's last line, or the comment lines that directly follow it."""
    assert statement.end_lineno is not None
    assert statement.end_col_offset is not None
    rest = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode().strip()
    if rest.startswith("#"):
        return rest.removeprefix("#").strip()
    found = []
    for line in lines[statement.end_lineno : until - 1]:
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(found) or None


def _session(text: str) -> Iterator[tuple[str, str]]:
    """Commands and their output. A line that ends in a backslash goes on in the next."""
    command, output = "", ""
    for line in text.splitlines():
        if command.endswith("\\"):
            command += f"\n{line}"
        elif line.startswith("$ "):
            if command:
                yield command, output
            command, output = line.removeprefix("$ "), ""
        else:
            output += f"{line}\n"
    if command:
        yield command, output


def _same(expected: str, found: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", found.strip() + "\n", flags)


def main() -> int:
    import tempfile

    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            page = Page(Path(name).resolve(), copy_checkout(Path(folder)), {})
            try:
                left_out = page.follow()
            except Failed as failure:
                print(failure, file=sys.stderr)
                return 1
            print(f"{name}: every block does what it says", *left_out, sep="\n  not run: ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
