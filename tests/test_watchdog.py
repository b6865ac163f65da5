"""The watchdog: an honest day never alarms it, and each thing that can stop in a loop that still turns does."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon.behaviour import PAYLOAD
from delen.daemon.config import Limits
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Simulation
from delen.daemon.watchdog import LATE_US_MAX, Watchdog
from delen.policies.exits import asked
from delen.policies.policy import make_policy
from delen.policies.pools import View
from delen.policies.view import Choice
from delen.tests.simulation import served

PATIENCE_US = 10_000_000


class FakeWorker:
    """A supervisor, as far as the watchdog sees it."""

    def __init__(self, due_us: int | None = None) -> None:
        self.due_us = due_us

    def wake_at(self) -> int | None:
        return self.due_us


class Day:
    """A core with one network, asked as told, and a watchdog that looks at it."""

    def __init__(self, policy: str = "stage-edf", **options: object) -> None:
        self.server = Server(Limits(), make_policy(policy, options))
        self.server.networks["net"] = served(gates=False)
        self.server.worker_ready(0)
        self.watchdog = Watchdog(PATIENCE_US)
        self.worker = FakeWorker()

    def ask(self, now_us: int, bounds: Bounds) -> None:
        infer = Infer(VERSION, b"%d" % now_us, "net", TENSORS, bounds)
        ticket, _ = self.server.submit(now_us, "a", infer, asked(bounds), PAYLOAD)
        assert isinstance(ticket, int)

    def look(self, now_us: int, run_count: int = 0) -> str | None:
        return self.watchdog.look(now_us, self.server, self.worker, run_count)


@pytest.fixture
def day() -> Day:
    return Day()


def test_it_looks_often_enough_that_a_lost_message_does_no_harm(day: Day) -> None:
    assert day.look(1_000) is None
    assert day.watchdog.wake_at() == 1_000 + PATIENCE_US // 4


def test_a_hard_day_is_no_reason_for_alarm() -> None:
    simulation = Simulation([served(gates=False)], seed=1, check=False)
    # As much as the device can do, half of it with deadlines, and a worker that dies under it.
    simulation.poisson("a", Bounds(latency_ms=20.0), 1_000.0, 0, 800_000)
    simulation.poisson("b", Bounds(), 1_000.0, 0, 800_000)
    simulation.kill_worker(300_000)
    watchdog, said = Watchdog(PATIENCE_US // 100), []

    def look() -> None:
        said.append(watchdog.look(simulation.now_us, simulation.server, FakeWorker(), simulation.server._runs))

    for now_us in range(0, 800_000, PATIENCE_US // 400):
        simulation.at(now_us, look)
    simulation.run()
    assert len(said) == 32
    assert set(said) == {None}


def test_nothing_to_do_is_no_reason_for_alarm(day: Day) -> None:
    for second in range(100):
        assert day.look(second * 1_000_000) is None


def test_work_left_lying_beside_an_idle_device_is(day: Day) -> None:
    day.ask(0, Bounds())
    late_us = 2 * LATE_US_MAX
    assert day.look(late_us) is None, "one look may fall between two turns"
    said = day.look(late_us + 2_500_000)
    assert said is not None
    assert "the device idle and ready" in said
    # Something ran in between: slow is not stuck.
    assert day.look(late_us + 5_000_000, run_count=1) is None


def test_work_waiting_for_a_worker_is_not_left_lying(day: Day) -> None:
    day.ask(0, Bounds())
    day.server.worker_lost(1, 60_000_000)
    day.worker.due_us = 60_000_000
    for second in (10, 20, 30):
        assert day.look(second * 1_000_000) is None


def test_a_policy_may_hold_work_if_it_says_until_when(monkeypatch: pytest.MonkeyPatch, day: Day) -> None:
    held = Choice(None, (), wake_us=3_600_000_000)
    monkeypatch.setattr(day.server.policy, "choose", lambda _view, _now_us, _run: held)
    day.ask(0, Bounds())
    for second in (10, 20, 30):
        assert day.look(second * 1_000_000) is None

    def forgets(_view: View, _now_us: int, _run: int) -> None:
        return None

    monkeypatch.setattr(day.server.policy, "choose", forgets)
    assert day.look(40_000_000) is not None


def test_a_deadline_that_nobody_acts_on_is(day: Day) -> None:
    day.ask(0, Bounds(latency_ms=100.0))
    day.server.next(0)
    said = day.look(100_000 + LATE_US_MAX)
    assert said is not None
    assert "what was due at the core is" in said


def test_a_worker_that_nobody_starts_is(day: Day) -> None:
    day.worker.due_us = 5_000_000
    assert day.look(5_000_000) is None
    said = day.look(5_000_000 + LATE_US_MAX)
    assert said is not None
    assert "what was due at the worker is 1000 ms late" in said


@pytest.mark.parametrize(("accepted", "answered", "says"), [(1, 0, "pending"), (0, 1, "ends more")])
def test_books_that_do_not_balance_are(day: Day, accepted: int, answered: int, says: str) -> None:
    account = day.server.ledger.account("a")
    account.accepted += accepted
    account.answered += answered
    said = day.look(0)
    assert said is not None
    assert says in said
