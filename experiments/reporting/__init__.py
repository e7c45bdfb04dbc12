"""From a run's tables to the paper: statistics, tables, figures, prose and one HTML page.

    from experiments.reporting import load_run
    run = load_run("results/fusion_vn")
    print(run.compare("tacfn", "concat"))

Reads the files of a run and nothing else: the same tables give the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.reporting.build import build_report
    from experiments.reporting.run import Run, load_run

__all__ = ["Run", "build_report", "load_run"]


def __getattr__(name: str) -> Any:
    # pandas is imported with the first use, not with `mer --help`
    if name == "build_report":
        from experiments.reporting.build import build_report

        return build_report
    if name in ("Run", "load_run"):
        from experiments.reporting import run

        return getattr(run, name)
    raise AttributeError(name)
