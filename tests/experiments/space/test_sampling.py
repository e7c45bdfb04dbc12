"""Optuna behind ask/tell: a proposal depends on what is known and on nothing else."""

from __future__ import annotations

import pytest

from experiments.slots import Status
from experiments.space.hyper import Hyper, sobol_value
from experiments.space.plan import Tuning
from experiments.space.sampling import Told, known_before, propose

HYPERS = (
    Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2),
    Hyper("loss.name", "choice", choices=("focal", "cross_entropy")),
    Hyper("fusion.heads", "logint", 1, 16),
)


def told(n):
    found = []
    for draw in range(n):
        params = {hyper.path: sobol_value(hyper, 7, draw) for hyper in HYPERS}
        status = [Status.COMPLETE, Status.PRUNED, Status.COMPLETE, Status.DIVERGED][draw % 4]
        value = 0.5 - abs(params["optimizer.lr"] - 1e-3) if status is Status.COMPLETE else None
        found.append(Told(params, status, value, {1: 0.2} if status is Status.PRUNED else {}))
    return found


def test_batches_wait_for_what_is_before_them():
    tuning = Tuning(sampler="tpe", startup=4, batch=3)
    assert [known_before(tuning, draw) for draw in range(11)] == [0] * 4 + [4] * 3 + [7] * 3 + [10]
    assert known_before(Tuning(sampler="random"), 9) == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_are_pure(sampler):
    tuning = Tuning(sampler=sampler, startup=4, batch=2)
    first = [propose(HYPERS, tuning, 7, draw, told(8)) for draw in range(8)]
    assert first == [propose(HYPERS, tuning, 7, draw, told(8)) for draw in range(8)]
    for params in first:
        assert 1e-4 <= params["optimizer.lr"] <= 1e-2
        assert params["loss.name"] in ("focal", "cross_entropy")
        assert 1 <= params["fusion.heads"] <= 16
    assert len({params["optimizer.lr"] for params in first}) == 8
    assert first != [propose(HYPERS, tuning, 8, draw, told(8)) for draw in range(8)]


def test_tpe_starts_with_the_studys_points_and_then_listens():
    tuning = Tuning(sampler="tpe", startup=4)
    assert propose(HYPERS, tuning, 7, 2, ()) == {hyper.path: sobol_value(hyper, 7, 2) for hyper in HYPERS}
    history = told(12)
    other = [Told(t.params, t.status, None if t.value is None else -t.value, t.reached) for t in history]
    assert propose(HYPERS, tuning, 7, 12, history) != propose(HYPERS, tuning, 7, 12, other)
    assert propose(HYPERS, tuning, 7, 12, history) == propose(HYPERS, tuning, 7, 12, other, direction="min")
    with pytest.raises(ValueError, match="needs the results of 5"):
        propose(HYPERS, tuning, 7, 5, history[:3])


def test_a_draw_of_a_batch_does_not_see_its_mates():
    tuning = Tuning(sampler="tpe", startup=4, batch=4)
    assert propose(HYPERS, tuning, 7, 6, told(4)) == propose(HYPERS, tuning, 7, 6, told(6))
