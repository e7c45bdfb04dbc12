"""Entry point: what the trained models of a run do. `mer analyze` is the same program.

python experiments/analyze.py results/fusion_pipeline

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
    sys.argv.insert(1, "analyze")
    script()
