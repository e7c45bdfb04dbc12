#!/bin/sh
# One table of what a GPU makes of this project, within 8 minutes. Needs the wheels of torch, torch-geometric, torchdiffeq,
# transformers, numpy, pandas, pyarrow, scipy, scikit-learn and pydantic; pytest for its last row.
#     sh benchmarks/gpu_check.sh [--device cpu] [--tiny]
cd "$(dirname "$0")/.." || exit
if [ -z "$PYTHON" ]; then PYTHON=python3; [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; fi
exec timeout 480 "$PYTHON" -m benchmarks.gpu_check "$@"
