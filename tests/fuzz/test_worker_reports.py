"""What a worker says that has gone mad, or that a graph has taken over: refused as no report, or it ends its own runs.

The front holds all tenants' requests; a worker holds nothing that matters. So no packet of a worker may make the front
raise, answer somebody twice, or say what no client can read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from delen.daemon.arena import Need
from delen.daemon.pipe import Pipe, PipeClosed
from delen.daemon.records import ExitDone, RowDone, RunFailed, RunReturned, StepDone
from delen.daemon.worker_process import WorkerProcess
from delen.policies.view import Run
from delen.tests.faults.counts import count, randomness
from delen.tests.fuzz.desk_target import Target
from delen.tests.fuzz.messages import SPEC, packed
from delen.tests.fuzz.mutations import spoilt, spoilt_value

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SENT_BYTES_MAX = 100_000
EXITS, CLASSES, BATCH_MAX = 3, 4, 8
# As the worker's process is asked, but for the process: an arena of zeros, and what the network needs.
FRONTS_END: Any = SimpleNamespace(
    _hosted={"net": SimpleNamespace(need=Need(4, EXITS, CLASSES, BATCH_MAX))},
    _arena=SimpleNamespace(logits=lambda _run, need, _exit, rows: bytes(4 * need.class_count * rows)),
)
Report = ExitDone | RunFailed | RunReturned


def good(run: Run, draw: Random) -> Report:
    """What a worker in its right mind says of this run."""
    how = draw.random()
    if how < 0.05:
        return RunReturned(run.id)
    if how < 0.15:
        return RunFailed(run.id, draw.choice(["output", "memory", "unsupported", "device"]), "the engine says why")
    stop = max(row.stop for row in run.rows)
    rows = tuple(RowDone(row.ticket, 1, 0.9, left=True, gated=False) for row in run.rows)
    steps = tuple(StepDone(False, index, len(rows), 100) for index in range(run.first, stop + 1))
    return ExitDone(run.id, stop, rows, steps, b"", finished=True)


def packet(draw: Random, report: Report) -> bytes:
    """The report on its way, with something wrong with it."""
    value = msgspec.msgpack.decode(msgspec.msgpack.encode(report))
    if draw.random() < 0.9:
        return msgspec.msgpack.encode([value[0], *_listed(spoilt_value(draw, value[1:]))])
    return spoilt(draw, msgspec.msgpack.encode(value), draw.choice([1, 2, 4]))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.fixture
def hear() -> Iterator[Callable[[bytes], object]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = Pipe.of(here)

    def heard(said: bytes) -> object:
        # The system refuses a packet larger than its buffer, whoever sends it.
        there.send(said[:SENT_BYTES_MAX])
        return pipe.receive_at_front()

    yield heard
    there.close()
    pipe.close()


def test_no_report_of_a_worker_makes_the_front_raise(hear: Callable[[bytes], object]) -> None:
    draw = randomness("worker's reports")
    target, seen = Target(), {"told": 0, "no report": 0}
    for number in range(count("P10 examples of each property")):
        if number % 200 == 0:
            target = Target()
        for part in range(draw.choice([1, 3])):
            target.feed(packed(["infer", 1, b"%d-%d" % (number, part), "net", [SPEC]]))
        run = target.server.next(target.now_us)
        if run is None:
            # Its last word did not end what it was to run: so the time does, as for any worker that hangs.
            target.run()
            target = Target()
            continue
        try:
            report = hear(packet(draw, good(run, draw)))
            if isinstance(report, ExitDone) and target.server.running(report.run) is not None:
                report = WorkerProcess.with_logits(FRONTS_END, report, "net")
        except PipeClosed:
            seen["no report"] += 1
            target.tell(target.server.worker_lost(target.now_us, target.now_us))
            target.server.worker_ready(target.now_us)
            target.run()
            continue
        if isinstance(report, Report):
            target.tell(target.server.advance(target.now_us, report))
            seen["told"] += 1
        target.feed(packed(["stats", 1, b"s", 0]))
        target.feed(packed(["traces", 1, b"s", "", 0]))
    assert min(seen.values()) > 100, seen
