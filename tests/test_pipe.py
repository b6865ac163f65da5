"""The pipe between front and worker: messages arrive whole, a peer that is gone is noticed, and nobody waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from delen.daemon import pipe as pipes
from delen.daemon.arena import Need
from delen.daemon.pipe import Attach, Begin, Drop, Failed, Load, Loaded, Measure, Measured, Pipe, PipeClosed, Post, Up
from delen.daemon.records import ExitDone, RowDone, RunFailed, RunReturned, StepDone
from delen.policies.view import Row, Run
from delen.tests.sample_profile import device

TO_WORKER: list[pipes.ToWorker] = [
    Begin("onnx", "auto", 1, 500),
    Attach(4096),
    Load("net", "/bundle", "0" * 64, 8, Need(256, 3, 10, 8), ""),
    Measure("net", None),
    Post(Run(1, "net", 0, (Row(1, 2, (0, 1), (0.9, 0.8), keep=True, audit=True),), 5_000, (100, 200, 400), 700)),
    Drop((1, 2, 3)),
]
TO_FRONT: list[pipes.ToFront] = [
    Up(device()),
    Loaded("net"),
    Measured("net", b"{}"),
    Failed("net", "unsupported", "no"),
    ExitDone(1, 2, (RowDone(1, 7, 0.5, left=True, gated=False),), (StepDone(True, 2, 1, 10),), b"", finished=True),
    RunFailed(1, "output", "NaN"),
    RunReturned(2),
]


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    front, theirs = Pipe.pair()
    worker = Pipe(theirs)
    yield front, worker
    front.close()
    worker.close()


def test_every_message_arrives_as_it_was_sent(ends: tuple[Pipe, Pipe]) -> None:
    front, worker = ends
    assert {type(message) for message in TO_WORKER} == set(get_args(pipes.ToWorker))
    assert {type(message) for message in TO_FRONT} == set(get_args(pipes.ToFront))
    for message in TO_WORKER:
        front.send(message)
        assert worker.receive_at_worker() == message
    for report in TO_FRONT:
        worker.send(report)
        assert front.receive_at_front() == report
    assert front.receive_at_front() is None


def test_a_descriptor_travels_beside_its_message(ends: tuple[Pipe, Pipe]) -> None:
    front, worker = ends
    read_fd, write_fd = os.pipe()
    front.send(Attach(1), write_fd)
    os.close(write_fd)
    attach, received = worker.receive_attach()
    assert attach == Attach(1)
    os.write(received, b"x")
    assert os.read(read_fd, 1) == b"x"
    os.close(received)
    os.close(read_fd)


def test_either_side_notices_that_the_other_is_gone() -> None:
    front, theirs = Pipe.pair()
    theirs.close()
    with pytest.raises(PipeClosed):
        front.receive_at_front()
    with pytest.raises(PipeClosed):
        front.send(Drop(()))
    front.close()
    front, theirs = Pipe.pair()
    worker = Pipe(theirs)
    front.close()
    with pytest.raises(PipeClosed):
        worker.receive_attach()
    with pytest.raises(PipeClosed):
        worker.receive_at_worker()
    worker.close()


@pytest.mark.parametrize(
    "packet", [b"\xc1", b"not msgpack", msgspec.msgpack.encode(["loaded"]), msgspec.msgpack.encode(["attach", 1])]
)
def test_a_worker_that_talks_nonsense_is_taken_for_gone(packet: bytes) -> None:
    front, theirs = Pipe.pair()
    theirs.send(packet)
    with pytest.raises(PipeClosed):
        front.receive_at_front()
    front.close()
    theirs.close()


def test_the_front_never_waits_for_a_worker_that_does_not_read() -> None:
    front, theirs = Pipe.pair()

    def flood() -> None:
        for _ in range(100_000):
            front.send(Drop((1,)))

    assert not os.get_blocking(front.fileno()), "or the flood would never end"
    with pytest.raises(PipeClosed):
        flood()
    front.close()
    theirs.close()


def test_the_largest_message_fits_into_a_packet(ends: tuple[Pipe, Pipe]) -> None:
    front, worker = ends
    big = Measured("net", bytes(pipes.PACKET_BYTES_MAX - 100))
    worker.send(big)
    assert front.receive_at_front() == big
    assert front.receive_at_front() is None, "packets keep their borders: nothing of it is left"
