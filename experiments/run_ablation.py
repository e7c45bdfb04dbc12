"""Entry point: plan, run, tables, report. `mer run` is the same program.

    python experiments/run_ablation.py --space fusion_vn

Works from any folder, also when this file has been copied alone to a machine where the package is installed
(`ray submit` does that): all it does is hand over.
"""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
# Python puts a script's own folder first; modules of this package must not be importable without their package name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
if (here.parent / "mer" / "recipe.py").exists():
    sys.path.insert(0, str(here.parent))

from experiments.cli import script  # noqa: E402  (the path must be right first)

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    script()
