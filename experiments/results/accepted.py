"""Code that was declared equal: `mer accept-code OLD NEW`, after a sample of trials has proven it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments.results.identity import Identifier, chain
from experiments.results.snapshot import Snapshot
from experiments.slots import Status
from mer.errors import UserError
from mer.recipe import read_recipe
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


def recipes_and_codes(table: pa.Table) -> list[dict[str, Any]]:
    """Each `recipe` and `code` of some trials, with their number as `count_all`."""
    found: list[dict[str, Any]] = table.group_by(["recipe", "code"]).aggregate([([], "count_all")]).to_pylist()
    return found


def by_other_code(
    rows: Iterable[Mapping[str, Any]], equal: Mapping[str, str], allow_outside: Collection[str] | None = ()
) -> int:
    """How many of `recipes_and_codes` were made by other code than today's; where that is not known, none.

    allow_outside   as for `mer.recipe.read_recipe`; nothing is imported
    """
    names, count = Identifier(equal), 0
    for row in rows:
        with contextlib.suppress(UserError):  # of a level that is no more, or comes from outside
            if names.code(read_recipe(row["recipe"], "ledger", allow_outside)) != row["code"]:
                count += row["count_all"]
    return count


def changed_code(snapshot: Snapshot, space: str, equal: Mapping[str, str]) -> list[str]:
    """A notice where complete trials of a space were made by other code than today's: they do not count for it."""
    table = snapshot.effective.select(["space", "status", "recipe", "code"])
    mine = pc.and_(pc.equal(table["space"], space), pc.equal(table["status"], Status.COMPLETE.value))
    count = by_other_code(recipes_and_codes(table.filter(mine)), equal)
    if not count:
        return []
    return [
        f"{count} recorded trials of this space were made by other code than today's, or named by an earlier version's "
        "digest of it: they are kept and run again. `mer accept-code` proves them equal on a sample instead."
    ]
