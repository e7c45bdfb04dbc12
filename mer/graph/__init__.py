"""CADGL: conversations with missing modalities. `from mer.graph import CADGL`.

Imported lazily, so that reading a level's declaration needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mer.graph.cadgl import CADGL as CADGL

__all__ = ["CADGL"]


def __getattr__(name: str) -> Any:
    if name == "CADGL":
        from mer.graph.cadgl import CADGL

        return CADGL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
