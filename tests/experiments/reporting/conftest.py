from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.reporting.run import Run, load_run


def _synthetic() -> ModuleType:
    """Test modules have no package to import from (`--import-mode=importlib`)."""
    name = "reporting_synthetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("synthetic.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """make_run(**fields of World) -> an opened made-up run, written once for equal fields."""
    made: dict[str, Path] = {}

    def make(**options: Any) -> Run:
        synthetic = _synthetic()
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = synthetic.write_run(tmp_path_factory.mktemp("run"), synthetic.World(**options))
        return load_run(made[key])

    return make
