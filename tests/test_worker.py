"""The worker's loop, in this process: what the front says, in the order it said it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from delen.daemon import worker
from delen.daemon.arena import Arena
from delen.daemon.execute import Executor, Network
from delen.daemon.pipe import Attach, Drop, Measure, Pipe, PipeClosed, Post
from delen.daemon.worker import Settings, Worker
from delen.exits.bundle import load_bundle, shipped_directory
from delen.policies.view import Row, Run
from delen.tests.test_execute import NEED, Clock, Marks

FIRST = tuple([Row(ticket, 0, (), (), keep=True) for ticket in (1, 2, 3)])


class Front:
    """The other side of a worker whose one network, `net`, computes nothing."""

    def __init__(self, end: socket.socket, worker: Worker, executor: Executor) -> None:
        self._end = end
        self._worker = worker
        self._executor = executor

    def say(self, *messages: Post | Drop) -> None:
        """All of it, and then nothing any more."""
        pipe = Pipe(self._end)
        for message in messages:
            pipe.send(message)
        self._end.shutdown(socket.SHUT_WR)
        with pytest.raises(PipeClosed):
            self._worker.serve()

    def holds(self, ticket: int) -> bool:
        """Whether this request could go on from its second segment."""
        try:
            list(self._executor.run(run(9, Row(ticket, 1, (), (), keep=True), first=1)))
        except KeyError:
            return False
        return True


def run(run_id: int, *rows: Row, first: int = 0) -> Run:
    return Run(run_id, "net", first, rows, 0, (), 0)


@pytest.fixture
def front() -> Iterator[Front]:
    fd, size = Arena.create([NEED])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(Pipe(theirs), Settings("replay", "cpu", 1, 0))
    worker.attach(Attach(size), os.dup(fd))
    executor = worker._attached()
    executor.clock_us = Clock()
    executor.networks["net"] = Network(load_bundle(shipped_directory() / "digits"), Marks(), NEED)
    arena = Arena(fd, size)
    for run_id in (1, 2):
        for index in range(len(FIRST)):
            arena.write_input(run_id, NEED, index, np.full(64, index, np.float32).tobytes())
    yield Front(ours, worker, executor)
    ours.close()
    theirs.close()
    os.close(fd)


def test_what_a_run_leaves_behind_is_kept_until_the_front_says_otherwise(front: Front) -> None:
    front.say(Post(run(1, *FIRST)), Drop((2,)))
    assert [front.holds(ticket) for ticket in (1, 2, 3)] == [True, False, True]


def test_what_a_run_says_may_be_forgotten_is_forgotten_before_it_runs(front: Front) -> None:
    # The first of them starts anew in that very run, and keeps what it has then.
    front.say(Post(run(1, *FIRST)), Post(run(2, FIRST[0]), drop=(1, 2)))
    assert [front.holds(ticket) for ticket in (1, 2, 3)] == [True, False, True]


def test_a_start_does_not_wait_for_a_meter_of_long_windows() -> None:
    slow = worker._meter(Measure("net", None, "command: echo 5"), "cpu")
    assert slow.source == "modelled"
    assert slow.window_s_min == 0
    assert "wants windows of 4 s, too long for a start" in slow.model
    assert "no meter" in worker._meter(Measure("net", None, "none"), "cpu").model
