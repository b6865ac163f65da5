"""Phases of the process: what signals make of it, on a clock of the test's own. The real one: test_daemon_lifecycle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Failure, Fetch, Hello, Infer, Offer, Ping, Pong, Refusal, TensorSpec, encode
from delen.daemon.config import Limits
from delen.daemon.desk import Desk, WorkerState
from delen.daemon.lifecycle import Lifecycle
from delen.daemon.notify import Notifier
from delen.daemon.records import Ended
from delen.daemon.rights import TenantConfig
from delen.daemon.server import Server
from delen.policies.view import NEVER_US
from delen.tests.desk_simulation import info
from delen.tests.simulation import served

SECOND_US = 1_000_000


class Heard(Notifier):
    """A way to a manager that keeps what it was told."""

    def __init__(self, watchdog_us: int | None = None) -> None:
        super().__init__("", watchdog_us)
        self.said: list[str] = []

    @property
    def listening(self) -> bool:
        return True

    def _send(self, *lines: str) -> None:
        self.said.append(" ".join(line for line in lines if line))


class Idle:
    """A worker with nothing due."""

    def wake_at(self) -> int | None:
        return None


class Life:
    """A core with a desk, one tenant, and its life cycle."""

    def __init__(self, watchdog_us: int | None = None) -> None:
        self.limits = Limits(drain_ms_max=1000)
        self.server = Server(self.limits)
        self.server.networks["net"] = served(gates=False)
        self.server.worker_ready(0)
        self.desk = Desk(self.server, [TenantConfig(name="a")], self.limits, "boot")
        self.desk.networks["net"] = info(self.server.networks["net"])
        self.desk.worker = WorkerState("ready", 0)
        self.notes: list[str] = []
        self.manager = Heard(watchdog_us)
        self.cycle = Lifecycle(self.manager, self.limits, self.notes.append)
        self.cycle.ready(self.server, self.desk)
        self.manager.said.clear()
        self.ask(Hello(VERSION, b"h", "cam"))

    def ask(self, message: Any) -> Any:
        tensors = (b"\0\0\0\0",) if isinstance(message, Infer) else ()
        outgoing, _ = self.desk.handle(0, "a", b"r", list(encode(message, tensors)))
        return outgoing[0].reply if outgoing else None

    def infer(self, request_id: bytes) -> Any:
        return self.ask(Infer(VERSION, request_id, "net", (TensorSpec("float32", (1,)),), Bounds()))

    def turn(self, now_us: int) -> str:
        self.cycle.turn(now_us, self.server, self.desk)
        return self.cycle.phase


@pytest.fixture
def life() -> Life:
    return Life()


def test_without_work_the_first_signal_is_the_end(life: Life) -> None:
    assert life.turn(0) == "serving"
    life.cycle.end()
    assert life.turn(0) == "over"
    assert life.notes == []
    said = "ending; 0 requests to finish, for at most 1000 ms (limits.drain_ms_max)"
    assert life.manager.said == [f"STOPPING=1 STATUS={said}"]


def test_work_is_finished_first_and_nothing_new_comes_in(life: Life) -> None:
    life.infer(b"1")
    life.cycle.end()
    assert life.turn(0) == "draining"
    refused = life.infer(b"2")
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.offer) == ("shutting_down", Offer(retry_after_ms=1000.0))
    # What is no new work is answered as ever: the request itself again, its end, a sign of life.
    assert life.infer(b"1") is None
    assert life.ask(Fetch(VERSION, b"1")) is None
    assert isinstance(life.ask(Ping(VERSION, b"p")), Pong)
    assert life.turn(999_000) == "draining"
    life.server.cancel(1)
    assert life.turn(999_000) == "over"


def test_after_its_time_the_rest_is_cut_off(life: Life) -> None:
    life.infer(b"1")
    life.infer(b"2")
    life.cycle.end()
    life.turn(5 * SECOND_US)
    assert life.cycle.wake_at() == 6 * SECOND_US
    assert life.turn(6 * SECOND_US) == "over"
    effects = life.desk.cut_off("shutting_down", "too late")
    ends = [effect for effect in effects if isinstance(effect, Ended)]
    assert [end.id for end in ends] == [b"1", b"2"]
    assert {cast(Failure, end.reply).code for end in ends} == {"shutting_down"}
    (one, two) = life.desk.settle(0, effects)
    assert {one.route, two.route} == {b"r"}
    assert life.server.pending_count == 0
    assert life.server.ledger.account("a").failed == 2


def test_a_second_signal_ends_at_once(life: Life) -> None:
    life.infer(b"1")
    life.cycle.end()
    assert life.turn(0) == "draining"
    assert "said again, at once" in life.notes[0]
    life.cycle.end()
    assert life.turn(1) == "over"


def test_a_wish_to_reload_wakes_the_loop_and_is_carried_out_once(life: Life) -> None:
    assert life.cycle.wake_at() == NEVER_US
    life.cycle.reload()
    assert life.cycle.wake_at() == 0
    life.cycle.reloading(7)
    assert not life.cycle.reload_wanted
    life.cycle.ready(life.server, life.desk)
    assert life.manager.said == ["RELOADING=1 MONOTONIC_USEC=7", "READY=1"]


def test_a_hang_up_is_a_reload_as_long_as_there_is_a_terminal(life: Life) -> None:
    master, terminal = os.openpty()
    kept = os.dup(0)
    try:
        os.dup2(terminal, 0)
        life.cycle.hang_up(True)
        assert life.cycle.reload_wanted, "`kill -HUP` of a daemon in the foreground"
        assert not life.cycle.ending
        os.close(master)
        life.cycle.hang_up(True)
        assert life.cycle.ending, "the window was closed"
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(terminal)


def test_without_a_terminal_a_hang_up_is_a_reload(life: Life) -> None:
    life.cycle.hang_up(False)
    assert life.cycle.reload_wanted
    assert not life.cycle.ending


def test_a_reload_does_not_undo_the_end(life: Life) -> None:
    life.infer(b"1")
    life.cycle.reload()
    life.cycle.end()
    life.cycle.reload()
    assert not life.cycle.reload_wanted
    life.turn(0)
    life.cycle.ready(life.server, life.desk)
    assert life.cycle.phase == "draining"


def test_the_watchdog_hears_of_a_daemon_that_is_well_and_not_of_one_that_is_not() -> None:
    life = Life(watchdog_us=4 * SECOND_US)
    for second in range(3):
        life.cycle.watch(second * SECOND_US, life.server, Idle(), 0)
        life.cycle.watch(second * SECOND_US + 1, life.server, Idle(), 0)
    assert life.manager.said == ["WATCHDOG=1"] * 3
    assert life.cycle.wake_at() == 3 * SECOND_US
    life.server.ledger.account("a").accepted += 1
    for second in range(3, 6):
        life.cycle.watch(second * SECOND_US, life.server, Idle(), 0)
    assert life.manager.said == ["WATCHDOG=1"] * 3
    assert life.notes == ["the watchdog is not told that all is well: the books have 1 requests pending, the core 0"], (
        "said once, not at every look"
    )
    life.cycle.tell(6 * SECOND_US, life.server, life.desk)
    assert life.manager.said[-1].startswith("STATUS=NOT WELL: the books have 1 requests pending")


def test_the_status_is_told_once_a_second_and_only_when_it_changed(life: Life) -> None:
    life.cycle.tell(0, life.server, life.desk)
    life.infer(b"1")
    life.cycle.tell(1, life.server, life.desk)
    life.cycle.tell(SECOND_US, life.server, life.desk)
    life.cycle.tell(2 * SECOND_US, life.server, life.desk)
    # The first would have said what came with `ready`.
    assert life.manager.said == ["STATUS=serving net to 1 tenants; 0 answered, 0 refused, 1 pending; worker ready"]


def test_a_long_start_asks_for_more_time_once_a_second(tmp_path: Path) -> None:
    manager = Heard()
    cycle = Lifecycle(manager, Limits(), lambda _text: None)
    for tenth in range(21):
        cycle.starting(tenth * SECOND_US // 10, "loading net")
    assert manager.said.count("EXTEND_TIMEOUT_USEC=15000000") == 3
    assert manager.said.count("STATUS=loading net") == 1
    cycle.end()
    assert cycle.ending
    assert cycle.phase == "starting", "the loop ends it where it is"
