"""Whatever is read has an end: a file by its path goes through `mer.files.plain`, `data_file` or `read_data`.

A pipe in the place of a file hangs whoever opens it; a device goes on for ever.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.mer.one_way import check

ASKED = {"plain", "data_file"}
METHODS = {"read_bytes", "read_text", "open"}
FUNCTIONS = {"load_file", "safe_open", "read_table", "read_parquet", "memory_map", "open"}

ALLOWED = {
    "mer/described.py": "code of this project and of what it calls",
    "mer/levels.py": "code of this project and of plugins",
    "experiments/results/closure.py": "code of this project and of plugins",
    "experiments/cluster/project.py": "code of this project",
    "experiments/reporting/page.py": "templates of this project",
    "experiments/results/provenance.py": "what the kernel says of itself",
    "experiments/results/lease.py": "what the kernel says of itself",
    "experiments/schedule/cluster.py": "what Ray wrote for its own head",
    "experiments/schedule/tune.py": "an error that Ray wrote down a moment ago",
    "experiments/schedule/worker.py": "a model that this process wrote a moment ago",
    "mer/files.py": "files under temporary names",
    "mer/storage/objects.py": "a file that this process sends",
    "mer/storage/local.py": "a file that this process sends",
    "mer/encoders/vggish.py": "asked whether it is a file",
    "mer/data/audio.py": "asked by whoever names the recording",
    "mer/data/arrays.py": "asked at the top of its function",
    "mer/data/importers/pt.py": "asked before by its only caller",
    "mer/data/fetching.py": "a store's own way to open; a part of a download",
    "mer/data/store/shared.py": "a store's own way to open",
    "experiments/results/ledger.py": "a store's own way to open",
    "experiments/schedule/states.py": "a store's own way to open",
}


def reads(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that open a file to read it, of a path that nothing was asked about."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        path: ast.expr | None = node.args[0] if name in FUNCTIONS and node.args else None
        if isinstance(node.func, ast.Attribute) and name in METHODS:
            path = node.func.value
        if path is None or is_asked(path) or (name == "open" and (writes(node) or is_of_os(path))):
            continue
        yield node


def is_asked(path: ast.expr) -> bool:
    return isinstance(path, ast.Call) and isinstance(path.func, ast.Name) and path.func.id in ASKED


def writes(node: ast.Call) -> bool:
    return any(isinstance(mode, ast.Constant) and set("wax+") & set(str(mode.value)) for mode in node.args)


def is_of_os(owner: ast.expr) -> bool:
    return isinstance(owner, ast.Name) and owner.id == "os"


def test_nobody_reads_what_may_have_no_end() -> None:
    check(reads, ALLOWED, "use mer.files.plain, data_file or read_data")


def test_it_sees_what_reads() -> None:
    loud = 'a.read_bytes(); (a / b).open("rb"); open(a); load_file(a / b); pq.read_table(a); a.read_text("utf-8")'
    quiet = 'plain(a).read_bytes(); a.open("xb"); open(a, "w"); load_file(data_file(a)); os.open(a, 0); read_data(a)'
    assert len(list(reads(ast.parse(loud)))) == 6
    assert not list(reads(ast.parse(quiet)))
