"""Levels as a reader wants them."""

from __future__ import annotations

from typing import Any

import numpy as np


def show_level(value: Any, factor: str = "") -> str:
    """A level as a reader wants it; a truth value carries its factor's name.

    >>> show_level(0.1), show_level(True, "fusion.self_attention"), show_level(None)
    ('0.1', 'self_attention', '–')
    """
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool | np.bool_):
        name = factor.rsplit(".", 1)[-1] or "on"
        return name if value else f"no {name}"
    if isinstance(value, float | np.floating):
        return f"{float(value):g}"
    return str(value)


def named_level(value: Any, factor: str) -> str:
    """A level that can stand alone: a number carries its factor's name.

    >>> named_level("tacfn", "fusion"), named_level(0.3, "missing.rate"), named_level(False, "fusion.self_attention")
    ('tacfn', 'rate 0.3', 'no self_attention')
    """
    shown = show_level(value, factor)
    bare = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)
    return f"{factor.rsplit('.', 1)[-1]} {shown}" if bare else shown
