"""`mer schema` and `mer completion`: help for editors and shells."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add_parser(subparsers: Any) -> None:
    schema = subparsers.add_parser("schema", help="JSON schema of the space file, for completion in editors")
    schema.set_defaults(func=print_schema)
    completion = subparsers.add_parser("completion", help='shell completion: eval "$(mer completion bash)"')
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(func=print_completion)


def print_schema(args: argparse.Namespace) -> int:
    print(schema_text(), end="")
    return 0


def schema_text() -> str:
    """The schema as shipped in `search_spaces/space.schema.json`; a test keeps the two in step.

    Editors are told a little less than the loader knows: dotted keys (`projection.dim: 32`) and level parameters are
    open there, and checked by the loader.
    """
    from experiments.space.model import Space

    schema = Space.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["include"] = {
        "description": "a base space, or several, that this one overrides",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    schema.pop("required", None)  # an included file may give what this one leaves out
    return json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def print_completion(args: argparse.Namespace) -> int:
    import shtab

    from experiments.cli import build_parser

    sys.stdout.write(shtab.complete(build_parser(), args.shell))
    return 0
