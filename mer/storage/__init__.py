"""Where bytes lie: a folder or an object store, behind one interface; and claims on work, across machines."""

from mer.storage.base import (
    LISTED_S,
    PROBES,
    Entry,
    Store,
    check_writable,
    free_bytes,
    is_address,
    open_store,
    parent_of,
)
from mer.storage.local import LocalStore
from mer.storage.objects import ObjectStore, StoreUnreachable

__all__ = [
    "LISTED_S",
    "PROBES",
    "Entry",
    "LocalStore",
    "ObjectStore",
    "Store",
    "StoreUnreachable",
    "check_writable",
    "free_bytes",
    "is_address",
    "open_store",
    "parent_of",
]
