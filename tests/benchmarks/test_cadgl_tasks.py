"""The tasks that CADGL's parts are tried on: every part has one, and a task's data are what it says."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import cadgl_tasks as tasks


def utterances(size: int = 400):
    """Audio and text say which utterance it is; ten turns a dialogue."""
    number = torch.arange(float(size))[:, None]
    names = np.array([f"d{i // 10}" for i in range(size)])
    speakers = np.array([f"{i // 10}{'AB'[i % 2]}" for i in range(size)])
    return tasks.Dialogues(number, number + 0.5, torch.arange(size) % 5, names, speakers, number[:, 0])


def test_every_part_has_a_task_that_names_its_condition() -> None:
    assert {task.part for task in tasks.TASKS} == set(tasks.PARTS)
    assert {task.expected for task in tasks.TASKS} <= {"complete", "gaps"}


def test_the_clock_decides_what_is_felt_and_moves_whole_utterances() -> None:
    data = utterances()
    clocked = tasks.by_the_clock(data, 0)
    origin = clocked.audio[:, 0].long()
    assert torch.equal(clocked.text[:, 0], clocked.audio[:, 0] + 0.5)
    assert torch.equal(clocked.labels, data.labels[origin])
    for k in range(5):
        times = clocked.time[clocked.labels == k]
        assert abs(float(times.median()) - 20 * k) < 12
    for name in np.unique(clocked.dialogue):
        times = clocked.time[torch.from_numpy(clocked.dialogue == name)]
        assert times[0] == 0
        assert (times.diff() > 0).all()


def test_both_models_of_a_pair_differ_in_the_part_alone() -> None:
    data, task = utterances(40), tasks.Task("ode", "gaps", "", {"graph": True}, labelled=4)
    without, having = (tasks.fit(data, task, 0, on).settings for on in (False, True))
    differing = [name for name in type(without).__slots__ if getattr(without, name) != getattr(having, name)]
    assert differing == ["ode"]
