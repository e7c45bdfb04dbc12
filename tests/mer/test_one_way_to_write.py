"""Files are written by `mer.files`, which makes them whole and durable; by hand in the few places named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.mer.one_way import check

WRITES = {
    "write_text", "write_bytes", "savefig", "to_csv", "to_parquet", "to_json", "to_pickle", "save_file", "copytree",
    "write_table", "touch",
}  # fmt: skip
"""Methods and functions that write a file whatever their arguments."""
INTO = {"save", "savez", "dump"}
"""Those that write into what they are given: a path, or a stream that somebody makes whole and durable."""
SAVERS = {"np", "numpy", "torch", "json", "pickle", "yaml"}
OF_OS = {"replace", "rename", "renames", "link", "symlink", "open", "write", "truncate"}
OF_SHUTIL = {"copy", "copy2", "copyfile", "move"}

ALLOWED = {
    "mer/files.py": "the one way",
    "mer/checkpoint.py": "into a building folder, for commit_folder",
    "mer/data/demo.py": "into a building folder, for commit_folder",
    "mer/data/demo_speech.py": "into a building folder, for commit_folder",
    "mer/data/importers/writing.py": "into a building folder, for commit_folder",
    "mer/data/fetching.py": "parts of a download, into a building folder, for commit_folder",
    "mer/commandline.py": "what is left for a closed standard output",
    "mer/fit.py": "into a stream of replacing",
    "mer/sealed.py": "into memory",
    "mer/yaml_text.py": "into memory",
    "mer/contracts/encoders.py": "a corpus for a check, thrown away",
    "experiments/analysis/figures.py": "into a stream of replacing",
    "experiments/analysis/write.py": "into a building folder, for commit_folder",
    "experiments/reporting/build.py": "into a building folder, for commit_folder",
    "experiments/reporting/anonymous.py": "into a building folder, for commit_folder",
    "experiments/reporting/figures/style.py": "into memory",
    "experiments/schedule/training_work.py": "into memory",
    "experiments/schedule/pinning.py": "locks of this machine's workers",
    "experiments/schedule/interrupt.py": "a word on stderr, from a signal handler; what is left for a closed terminal",
}


def writes(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that write, rename or link a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            name, owner, opens = node.func.id, None, node.func.id == "open" and mode_of(node, 1)
        elif isinstance(node.func, ast.Attribute):
            name = node.func.attr
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            opens = name == "open" and owner != "os" and mode_of(node, 0)
        else:
            continue
        saves = name in INTO and owner in SAVERS
        system = (owner == "os" and name in OF_OS) or (owner == "shutil" and name in OF_SHUTIL)
        moves = name in ("rename", "replace") and owner not in (None, "os", "dataclasses", "pc") and is_move(node)
        if name in WRITES or opens or saves or system or moves:
            yield node


def mode_of(node: ast.Call, position: int) -> bool:
    """Is it opened to be written?"""
    found = [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
    found += node.args[position : position + 1]
    return any(isinstance(mode, ast.Constant) and set("wax+") & set(str(mode.value)) for mode in found)


def is_move(node: ast.Call) -> bool:
    """`path.rename(target)`; `text.replace(a, b)` and a table's `rename(columns=...)` have other arguments."""
    return len(node.args) == 1 and not node.keywords


def test_nobody_writes_by_hand() -> None:
    check(writes, ALLOWED, "use mer.files.write, replacing or commit_folder")


def test_it_sees_what_writes() -> None:
    source = """
open("a", "w"); open("a", mode="ab"); path.open("x"); path.write_text("a"); os.replace(a, b); a.rename(b); a.replace(b)
np.save(path, x); shutil.move(a, b); os.open(a, os.O_CREAT); save_file(tensors, path); figure.savefig(path)
"""
    quiet = 'open("a"); path.open("rb"); text.replace("a", "b"); frame.rename(columns=names); replace(record, x=1)'
    assert len(list(writes(ast.parse(source)))) == 12
    assert not list(writes(ast.parse(quiet)))
