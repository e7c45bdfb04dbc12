"""Code that was declared equal: `mer accept-code OLD NEW`, after a sample of trials has proven it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from experiments.results.identity import chain
from mer.errors import UserError
from mer.storage import Store

FOLDER = "ledger/_code"


def read(store: Store) -> Mapping[str, str]:
    """New digest to the digest that it counts as."""
    pairs = []
    for entry in store.list(FOLDER):
        name = f"{FOLDER}/{entry.name}"
        try:
            found = json.loads(store.read(name))
            old, new = str(found["old"]), str(found["new"])
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, LookupError, RecursionError):
            old = new = ""
        if entry.name != f"{new}-{old}.json":
            raise UserError(
                "not what `mer accept-code` wrote: damaged, or of something else",
                where=store.path(name),
                hint="Take it away. If it was a record, accept that code again: mer accept-code OLD NEW "
                "(its name is NEW-OLD.json).",
            )
        pairs.append((old, new))
    return chain(pairs)


def write(store: Store, old: str, new: str, proof: Mapping[str, str]) -> None:
    """Record that `new` counts as `old`. `proof`: the trials that were run again, and what was compared."""
    if not proof:
        raise UserError("equality is recorded only with the trials that prove it")
    content = {"old": old, "new": new, "proof": dict(proof), "accepted": datetime.now(UTC).isoformat()}
    store.put(f"{FOLDER}/{new}-{old}.json", json.dumps(content, indent=1, sort_keys=True).encode())
