"""The loop and its workers: none is believed beyond its own runs, and none is blamed for what it never had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zmq

from delen.clients.wire import Answer
from delen.daemon.crew import MESSAGES_MAX
from delen.daemon.desk import Outgoing
from delen.daemon.loop import Loop
from delen.daemon.pipe import Loaded, Measured
from delen.daemon.records import Alarm, ExitDone, RowDone, RunFailed, RunReturned, StepDone
from delen.daemon.rights import TenantConfig
from delen.daemon.wakeups import Wakeups
from delen.tests.test_change import Day


class Turning(Loop):
    """The loop's own steps over a crew of fakes; what would be sent is in `sent`."""

    def __init__(self, day: Day) -> None:
        self._server, self._crew, self._desk, self._config = day.server, day.crew, day.desk, day.config
        self._endpoints: Any = SimpleNamespace()
        self._note: Any = lambda text, **_: self.said.append(text)
        self._run_count, self._seen_through, self._crew_us = 0, None, 0
        self._poller: Any = zmq.Poller()
        self._worker_fds = set()
        self.said: list[str] = []
        self.sent: list[Outgoing] = []

    def _send(self, outgoing: Any) -> None:
        self.sent += outgoing


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Day]:
    made = Day(monkeypatch, tmp_path, TenantConfig("a"), TenantConfig("b", isolation="tenant"))
    monkeypatch.setattr("delen.daemon.loop.clock_us", lambda: made.now_us)
    yield made
    made.close()


def started_again(day: Day, loop: Turning, number: int) -> None:
    """The worker that died last is replaced by this one."""
    day.now_us += 10_000_000
    day.crew.tick(day.now_us)
    day.load(day.workers[number])
    loop._drain_worker(day.now_us)


def test_a_run_that_a_dead_worker_never_had_blames_nobody(day: Day) -> None:
    loop = Turning(day)
    day.infer(b"1", "a")
    for dead, newcomer in ((0, 2), (2, 3), (3, 4)):
        day.workers[dead].send_signal(9)
        loop._post(day.now_us)
        assert not day.server.busy
        assert day.server.quarantine._suspects == {}
        started_again(day, loop, newcomer)
    [request] = day.server._requests.open.values()
    assert (request.retries, request.suspect) == (0, False)
    assert day.run() == {b"1": "1"}


@pytest.mark.parametrize("kind", ["done", "failed", "returned"])
def test_a_worker_that_speaks_of_anothers_run_is_not_believed(day: Day, kind: str) -> None:
    loop = Turning(day)
    day.infer(b"1", "a")
    loop._post(day.now_us)
    run = day.server._device.running
    assert run is not None
    assert run.run.network == "digits"
    rows = tuple(RowDone(ticket, 7, 1.0, left=True, gated=False) for ticket in run.rows)
    forged: Any = {
        "done": ExitDone(run.run.id, 2, rows, (StepDone(False, 0, 1, 10),), b"", True),
        "failed": RunFailed(run.run.id, "input", "no"),
        "returned": RunReturned(run.run.id),
    }[kind]
    day.workers[1].pipe.send(forged)
    loop._drain_worker(day.now_us)
    assert loop.sent == []
    assert day.workers[1].returncode == -9
    assert any("a run that it was not given" in text for text in loop.said)
    day.workers[0].pipe.send(ExitDone(run.run.id, 2, rows, (StepDone(False, 0, 1, 10),), b"", True))
    loop._drain_worker(day.now_us)
    [told] = loop.sent
    assert isinstance(told.reply, Answer)


@pytest.mark.parametrize(
    "message",
    [Loaded("nothing"), Measured("nothing", b"{}"), Measured("digits", b"garbage"), Measured("digits", b"{}")],
)
def test_a_worker_that_says_what_cannot_be_is_replaced_and_takes_nobody_with_it(day: Day, message: Any) -> None:
    loop = Turning(day)
    day.workers[0].pipe.send(message)
    loop._drain_worker(day.now_us)
    assert day.workers[0].returncode == -9
    started_again(day, loop, 2)
    day.infer(b"1", "a")
    assert day.run() == {b"1": "1"}


def test_a_worker_that_never_stops_talking_does_not_keep_the_loop(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, said = Turning(day), 0
    day.infer(b"1", "a")
    loop._post(day.now_us)

    def chatter() -> Any:
        nonlocal said
        said += 1
        return RunReturned(10**6)

    monkeypatch.setattr(day.crew.lanes[0], "receive", chatter)
    loop._drain_worker(day.now_us)
    assert said == MESSAGES_MAX


def test_a_certificate_that_is_withdrawn_is_written_down_for_the_bundle_it_was_of(day: Day) -> None:
    loop, kept = Turning(day), list[Any]()
    loop._keeping = cast(Any, SimpleNamespace(withdraw=lambda *found: kept.append(found)))
    served = day.server.networks["digits"]
    loop._act(day.now_us, [Alarm("b", "digits", served.version, "drift")])
    [(tenant, bundle, reason)] = kept
    assert (tenant, bundle.manifest.version, reason) == ("b", served.version, "drift")
    assert any("recalibrate" in text for text in loop.said)


class _Woken(Wakeups):
    """The process under test keeps its signals."""

    def catch(self, lifecycle: object) -> None:
        """None are to be caught."""


class Starting(Loop):
    """A start that is told to end when it has looked three times; `found`: what it was woken by each time."""

    def __init__(self) -> None:
        self._wakeups = _Woken()
        self._crew: Any = SimpleNamespace(
            state="starting", lanes=[], start=lambda _: None, tick=lambda _: [], filenos=set[int]
        )
        self._config: Any = SimpleNamespace(networks=["net"])
        self._lifecycle: Any = SimpleNamespace(phase="starting", ending=False, starting=self._looked)
        self._poller: Any = SimpleNamespace(poll=self._poll, register=lambda *_: None)
        self._worker_fds = set()
        self.found: list[int] = []

    def _poll(self, _timeout_ms: int) -> list[tuple[int, int]]:
        poller = zmq.Poller()
        poller.register(self._wakeups.fd, zmq.POLLIN)
        ready = poller.poll(0)
        self.found.append(len(ready))
        return ready

    def _looked(self, _now_us: int, _said: str) -> None:
        self._lifecycle.ending = len(self.found) == 3


def test_who_wakes_a_loop_that_waits_for_its_worker_wakes_it_once() -> None:
    """Woken for ever, it took a whole processor from the worker until that was ready."""
    loop = Starting()
    loop._wakeups.rouse()
    loop.start()
    assert loop.found == [1, 0, 0]
    loop._wakeups.close()
