"""What tests of the orchestrator share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.space.plan import Plan
from tests.experiments.small_run import make_plan


@pytest.fixture
def small_plan() -> Callable[..., Plan]:
    return make_plan
