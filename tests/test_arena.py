"""The memory that front and worker share: neither side can pull it away, and rows land where the other looks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from delen.daemon.arena import Arena, Need

SMALL = Need(input_bytes=16, exit_count=3, class_count=5, batch_max=4)
LARGE = Need(input_bytes=10_000, exit_count=2, class_count=7, batch_max=8)


@pytest.fixture
def sides() -> Iterator[tuple[Arena, Arena]]:
    """The same memory, mapped by front and worker."""
    fd, size = Arena.create([SMALL, LARGE])
    try:
        yield Arena(fd, size), Arena(fd, size)
    finally:
        os.close(fd)


def row(value: int, need: Need) -> bytes:
    return np.full(need.input_bytes // 4, value, np.float32).tobytes()


def logits(run: int, exit_index: int) -> npt.NDArray[np.float32]:
    return np.full((LARGE.batch_max, LARGE.class_count), 10 * run + exit_index, np.float32)


def test_the_memory_can_be_neither_shrunk_nor_grown_nor_unsealed() -> None:
    fd, size = Arena.create([SMALL])
    try:
        for other in (0, size - 1, size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, other)
    finally:
        os.close(fd)


@pytest.mark.parametrize("need", [SMALL, LARGE])
def test_a_full_batch_arrives_as_one_array_in_row_order(sides: tuple[Arena, Arena], need: Need) -> None:
    front, worker = sides
    for index in range(need.batch_max):
        front.write_input(1, need, index, row(index, need))
    arrived = worker.inputs(1, need, "float32", (need.input_bytes // 4,), need.batch_max)
    assert arrived.shape == (need.batch_max, need.input_bytes // 4)
    assert arrived[:, 0].tolist() == list(range(need.batch_max))
    assert arrived[:, -1].tolist() == list(range(need.batch_max))


def test_two_runs_in_turn_do_not_touch_each_other(sides: tuple[Arena, Arena]) -> None:
    front, worker = sides
    for run in (1, 2):
        for index in range(LARGE.batch_max):
            front.write_input(run, LARGE, index, row(run, LARGE))
        for exit_index in range(LARGE.exit_count):
            worker.write_logits(run, LARGE, exit_index, logits(run, exit_index).tobytes())
    for run in (1, 2):
        assert (worker.inputs(run, LARGE, "float32", (2500,), LARGE.batch_max) == run).all()
        for exit_index in range(LARGE.exit_count):
            found = front.logits(run, LARGE, exit_index, LARGE.batch_max)
            assert found == logits(run, exit_index).tobytes()


def test_logits_of_an_exit_are_a_row_per_request(sides: tuple[Arena, Arena]) -> None:
    front, worker = sides
    given = np.arange(15, dtype=np.float32).reshape(3, 5)
    worker.write_logits(7, SMALL, 2, given.tobytes())
    assert front.logits(7, SMALL, 2, 3) == given.tobytes()
    assert front.logits(7, SMALL, 2, 1) == given[:1].tobytes()


def test_only_the_run_that_is_meant_is_asked_to_yield(sides: tuple[Arena, Arena]) -> None:
    front, worker = sides
    assert not worker.yield_asked(5)
    front.ask_yield(5)
    assert worker.yield_asked(5)
    assert not worker.yield_asked(3)
    assert not worker.yield_asked(7)


def test_a_run_and_the_one_posted_behind_it_can_both_be_asked_to_yield(sides: tuple[Arena, Arena]) -> None:
    front, worker = sides
    front.ask_yield(5)
    front.ask_yield(6)
    assert worker.yield_asked(5)
    assert worker.yield_asked(6)


def test_an_input_of_another_size_is_not_written(sides: tuple[Arena, Arena]) -> None:
    front, worker = sides
    front.write_input(1, SMALL, 1, row(9, SMALL))
    with pytest.raises(ValueError, match=r"size|structure"):
        front.write_input(1, SMALL, 0, bytes(17))
    assert worker.inputs(1, SMALL, "float32", (4,), 2)[1].tolist() == [9, 9, 9, 9]
