"""What stands around a training: its log, which survives interruptions, and what is told to whoever watches."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from delen.exits.predict import as_tensor
from delen.exits.training import Notes, Progress, Task, follow
from delen.tests.small_training import PLAN, small_data, small_network

TASK_PARTS = (PLAN, as_tensor)


def task() -> Task:
    return Task(small_network(), small_data(), *TASK_PARTS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_has_one_line_per_epoch(tmp_path: Path) -> None:
    clock = count()
    log = tmp_path / "train.jsonl"
    notes = Notes(None, log, clock=lambda: next(clock))
    seen: list[Progress] = []
    follow(task(), notes, seen.append)
    written = lines(log)
    assert [line["epoch"] for line in written] == [1, 2, 3]
    assert all(len(line["losses"]) == len(line["accuracies"]) == 3 and line["seconds"] == 1 for line in written)
    assert written[0]["rate"] > written[2]["rate"]
    assert [(step.stage, step.done) for step in seen] == [("train", done) for done in range(1, 16)]
    assert seen[-1].note.startswith("epoch 3 of 3, loss ")


def test_an_interrupted_training_goes_on_with_its_log_and_says_so(tmp_path: Path) -> None:
    whole, log = tmp_path / "whole.jsonl", tmp_path / "train.jsonl"
    follow(task(), Notes(None, whole, clock=lambda: 0.0), lambda _: None)
    place = tmp_path / "c.npz"

    class KilledError(Exception):
        pass

    def killed_late(step: Progress) -> None:
        # In the second epoch's last report, whose line is in the log already, though not its checkpoint.
        if step.done == 10:
            raise KilledError

    with pytest.raises(KilledError):
        follow(task(), Notes(place, log, clock=lambda: 0.0), killed_late)
    assert len(lines(log)) == 2
    seen: list[Progress] = []
    notes = Notes(place, log, clock=lambda: 0.0)
    follow(task(), notes, seen.append)
    assert lines(log) == lines(whole)
    assert seen[0] == Progress("resume", 1, 3, "going on after 1 of 3 epochs and 0 steps of an interrupted run")
    notes.forget()
    assert not place.exists()


def test_restarting_forgets_what_was_done(tmp_path: Path) -> None:
    place, log = tmp_path / "c.npz", tmp_path / "train.jsonl"
    follow(task(), Notes(place, log, clock=lambda: 0.0), lambda _: None)
    seen: list[Progress] = []
    follow(task(), Notes(place, log, restart=True, clock=lambda: 0.0), seen.append)
    assert {step.stage for step in seen} == {"train"}
    assert len(lines(log)) == 3
