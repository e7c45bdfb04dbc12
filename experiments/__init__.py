"""The orchestrator: one YAML space in; a ledger, tables, figures and statistics out.

from experiments import Ledger, execute, load_run, make_plan
execute(make_plan("fusion_vn"), Ledger("results"))
print(load_run("results/fusion_vn").compare("tacfn", "concat"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.reporting.build import build_report
    from experiments.reporting.run import Run, load_run
    from experiments.results.ledger import Ledger
    from experiments.schedule.run import RunResult, execute
    from experiments.space.load import make_plan
    from experiments.space.plan import Plan

__all__ = ["Ledger", "Plan", "Run", "RunResult", "build_report", "execute", "load_run", "make_plan"]

_HOMES = {
    "Ledger": "experiments.results.ledger",
    "Plan": "experiments.space.plan",
    "Run": "experiments.reporting.run",
    "RunResult": "experiments.schedule.run",
    "build_report": "experiments.reporting.build",
    "execute": "experiments.schedule.run",
    "load_run": "experiments.reporting.run",
    "make_plan": "experiments.space.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(_HOMES[name]), name)  # imported when used: `mer --help` needs none of it
