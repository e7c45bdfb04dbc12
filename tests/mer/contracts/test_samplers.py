"""Every sampler keeps its contract; samplers that break a promise are caught by the check for it."""

from __future__ import annotations

import numpy as np
import pytest

from mer.contracts import check_sampler
from mer.contracts.samplers import CHECKS
from mer.data.sampling import LEVELS, Plain, Rows


@pytest.mark.parametrize("name", LEVELS)
def test_ours(name: str) -> None:
    report = check_sampler(name, length_power=0.5)
    assert report.passed, f"\n{report}"
    assert len(report.results) == len(CHECKS)


class Tensors(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        return [rows + 0.5 for rows in super().batches(epoch)]  # type: ignore[misc]


class Large(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        return [np.concatenate(super().batches(epoch))]


class Stateful(Plain):
    asked = 0

    def batches(self, epoch: int) -> list[Rows]:
        self.asked += 1
        return super().batches(self.asked)


class Global(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        batches = super().batches(epoch)
        return [batches[i] for i in np.random.permutation(len(batches))]


class Frozen(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        return super().batches(0)


class Picky(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        return [kept for rows in super().batches(epoch) if len(kept := rows[rows > 3])]


class Torn(Plain):
    def batches(self, epoch: int) -> list[Rows]:
        return [rows[::-1] for rows in super().batches(epoch)]


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Tensors, "rows"),
        (Large, "size"),
        (Stateful, "pure"),
        (Global, "pure"),
        (Frozen, "fresh"),
        (Picky, "everyone"),
        (Torn, "dialogues"),
    ],
)
def test_a_broken_one_is_caught(broken: type, check: str) -> None:
    assert check in check_sampler(broken).failed
