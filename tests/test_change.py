"""Networks are changed beside those that serve: nothing moves until the new are there, nothing ends before its time."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Hello, Infer, Manage, Managed, Refusal, TensorSpec, encode
from delen.daemon import hosting
from delen.daemon.change import LOOK_US, Changes
from delen.daemon.config import Config, Limits
from delen.daemon.crew import Crew
from delen.daemon.desk import Desk, Outgoing, WorkerState
from delen.daemon.pipe import Failed, Load, Loaded, Measured, Post, Up
from delen.daemon.records import Ended, ExitDone, RowDone, StepDone, Wanted
from delen.daemon.rights import TenantConfig
from delen.daemon.server import Server
from delen.tests.sample_profile import device, sample_profile
from delen.tests.test_supervisor import FakeWorker, Spawns
from delen.tests.versions import version

PAYLOAD = bytes(256)


class Day(Spawns):
    """A daemon without sockets: the crew's workers are fakes that a test has speak."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *tenants: TenantConfig) -> None:
        super().__init__(monkeypatch)
        self.folder, self.now_us = folder, 0
        limits = Limits(batch_max=8, start_ms_max=5_000)
        tenants = tenants or (TenantConfig("a", manages=True), TenantConfig("b"))
        self.config = Config(networks=("digits",), tenants=tenants, limits=limits)
        self.server = Server(limits)
        self.desk = Desk(self.server, tenants, limits, "boot")
        self.crew = Crew(self.config, folder, hosting.host(self.config, folder))
        self.changes = Changes(self.config, folder, self.crew, self.server, self.desk)
        self.crew.start(0)
        for lane, worker in zip(self.crew.lanes, list(self.workers), strict=True):
            self.load(worker)
            while (message := lane.receive()) is not None:
                self.crew.arrange(0, lane, message, self.server, self.desk)
        for tenant in tenants:
            self.desk.handle(0, tenant.name, b"r", encode(Hello(VERSION, b"h", "client", Bounds())))

    def close(self) -> None:
        self.changes.stop()
        self.crew.stop()
        for worker in self.workers:
            worker.pipe.close()

    def load(self, worker: FakeWorker) -> None:
        """This worker does what it was told."""
        worker.pipe.receive_attach()
        worker.pipe.send(Up(device()))
        while isinstance(message := self.next_of(worker), Load):
            worker.pipe.send(Loaded(message.name))
            profile = msgspec.structs.replace(sample_profile(), network=message.name.split("#")[0].split("@")[0])
            worker.pipe.send(Measured(message.name, msgspec.json.encode(profile)))

    def next_of(self, worker: FakeWorker) -> Any:
        try:
            return worker.pipe.receive_at_worker(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def ask(self, action: str, network: str | Path, tenant: str = "a", request_id: bytes = b"m") -> list[Outgoing]:
        message = Manage(VERSION, request_id, action, str(network))
        outgoing, effects = self.desk.handle(self.now_us, tenant, b"r", encode(message))
        for effect in effects:
            assert isinstance(effect, Wanted)
            outgoing += self.changes.begin(self.now_us, effect)
        return outgoing

    def go_on(self) -> list[Outgoing]:
        """One look later, and what the thread does is done."""
        now = self.changes._now
        if now is not None and now.work is not None:
            now.work.exception()
        self.now_us += LOOK_US
        for lane, reason in self.crew.tick(self.now_us):
            raise AssertionError(f"{lane.tenant}: {reason}")
        return self.changes.tick(self.now_us)

    def until_told(self, before: int) -> Any:
        """Let the newcomers load, and wait for the end of the change."""
        for _ in range(20):
            for worker in self.workers[before:]:
                if worker.returncode is None and not getattr(worker, "loaded", False):
                    worker.loaded = True  # type: ignore[attr-defined]
                    self.load(worker)
            told = self.go_on()
            if told:
                [outgoing] = told
                return outgoing.reply
        raise AssertionError("no end")

    def change(self, action: str, network: str | Path) -> Any:
        """All of it."""
        before = len(self.workers)
        refused = self.ask(action, network)
        return refused[0].reply if refused else self.until_told(before)

    def infer(self, request_id: bytes, tenant: str = "b", network: str = "digits") -> list[Outgoing]:
        infer = Infer(VERSION, request_id, network, (TensorSpec("float32", (1, 8, 8)),))
        outgoing, effects = self.desk.handle(self.now_us, tenant, b"r", encode(infer, (PAYLOAD,)))
        assert effects == []
        return outgoing

    def run(self) -> dict[bytes, str]:
        """Everything that waits is run; by id, which version answered."""
        answered = {}
        while (run := self.server.next(self.now_us)) is not None:
            worker = self.crew.lane_of(run.network)
            self.crew.post(run, self.server.payloads(run))
            rows = tuple(RowDone(row.ticket, 1, 0.5, left=True, gated=False) for row in run.rows)
            steps = tuple(StepDone(False, index, len(rows), 10) for index in range(run.first, 3))
            done = ExitDone(run.id, 2, rows, (*steps, StepDone(True, 2, len(rows), 5)), b"", True)
            done = worker.with_logits(done, run.network)
            effects = self.server.advance(self.now_us, done)
            self.desk.settle(self.now_us, effects)
            for effect in effects:
                if isinstance(effect, Ended) and isinstance(effect.reply, Answer):
                    answered[effect.id] = effect.reply.network_version
        return answered


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Day]:
    made = Day(monkeypatch, tmp_path)
    yield made
    made.close()


def test_a_new_version_answers_what_is_asked_after_it_and_the_old_one_what_was_before(day: Day) -> None:
    day.infer(b"1")
    assert day.ask("swap", version(day.folder, "2")) == []
    day.infer(b"2")
    told = day.until_told(1)
    assert told == Managed(VERSION, b"m", "digits", "2")
    day.infer(b"3")
    for _ in range(3):
        day.go_on()
    assert len(day.crew.lanes) == 2, "the old one has something left to do"
    assert day.run() == {b"1": "1", b"2": "1", b"3": "2"}
    day.go_on()
    assert day.workers[0].returncode == -9
    assert list(day.server.networks) == ["digits#2"]
    assert day.desk.networks["digits"].version == "2"


def test_a_run_of_the_old_version_goes_to_the_old_worker(day: Day) -> None:
    day.infer(b"1")
    day.change("swap", version(day.folder, "2"))
    run = day.server.next(day.now_us)
    assert run is not None
    assert run.network == "digits"
    day.crew.post(run, day.server.payloads(run))
    said = [list(iter(partial(day.next_of, worker), None)) for worker in day.workers]
    assert [any(isinstance(message, Post) for message in messages) for messages in said] == [True, False]


@pytest.mark.parametrize(
    "fault", ["no such bundle", "bytes changed", "does not load", "dies", "too late", "no process", "dies when loaded"]
)
def test_whatever_goes_wrong_all_is_served_as_before(day: Day, fault: str) -> None:
    directory = version(day.folder, "2")
    if fault == "bytes changed":
        (directory / "segment0.onnx").write_bytes(b"x")
    day.broken = fault == "no process"
    assert day.ask("swap", day.folder / "nowhere" if fault == "no such bundle" else directory) == []
    told = day.go_on()
    if len(day.workers) > 1:
        newcomer = day.workers[1]
        if fault == "does not load":
            newcomer.pipe.send(Up(device()))
            newcomer.pipe.send(Failed("digits#2", "unsupported", "no such operator"))
        elif fault == "dies":
            newcomer.send_signal(9)
        elif fault == "dies when loaded":
            day.load(newcomer)
            day.go_on()
            newcomer.send_signal(9)
        else:
            day.now_us += 5_000_000
    for _ in range(10):
        told = told or day.go_on()
    [outgoing] = told
    assert isinstance(outgoing.reply, Refusal)
    assert outgoing.reply.code == "bundle"
    assert "served as before" in outgoing.reply.message
    day.infer(b"1")
    assert day.run() == {b"1": "1"}
    assert (list(day.server.networks), len(day.crew.lanes)) == (["digits"], 1)
    assert all(worker.returncode == -9 for worker in day.workers[1:])
    day.broken = False
    shutil.rmtree(directory)
    assert isinstance(day.change("swap", version(day.folder, "2")), Managed), "another try is free to succeed"


def test_one_change_at_a_time_and_the_old_workers_gone_before_the_next(day: Day) -> None:
    day.infer(b"1")
    assert day.ask("swap", version(day.folder, "2")) == []
    [busy] = day.ask("swap", version(day.folder, "3"), request_id=b"n")
    assert isinstance(busy.reply, Refusal)
    assert busy.reply.code == "busy"
    assert isinstance(day.until_told(1), Managed)
    assert day.change("swap", version(day.folder, "3")).code == "busy"
    day.run()
    day.go_on()
    assert isinstance(day.change("swap", version(day.folder, "3")), Managed)


def test_said_again_it_is_the_same_change(day: Day) -> None:
    assert day.ask("swap", version(day.folder, "2")) == []
    assert day.ask("swap", version(day.folder, "2")) == []
    assert isinstance(day.until_told(1), Managed)
    assert len(day.workers) == 2


def test_a_network_is_added_and_removed(day: Day) -> None:
    other = version(day.folder, "1", "letters")
    assert day.change("swap", other).code == "bundle", "there is none to swap"
    assert day.change("add", other) == Managed(VERSION, b"m", "letters", "1")
    assert day.infer(b"1", network="letters") == []
    assert day.change("remove", "digits").code == "busy"
    assert day.run() == {b"1": "1"}
    day.go_on()
    assert day.change("add", other).code == "bundle", "it is there already"
    assert day.change("remove", "digits") == Managed(VERSION, b"m", "digits", "")
    [refused] = day.infer(b"2")
    assert isinstance(refused.reply, Refusal)
    assert refused.reply.code == "unknown_network"
    assert day.change("remove", "letters").code in ("busy", "bundle")
    day.go_on()
    assert day.change("remove", "letters").code == "bundle", "the last one stays"


def test_what_did_not_change_is_not_measured_again_and_keeps_what_it_has_learnt(day: Day) -> None:
    learnt = day.server.networks["digits"].correction
    day.change("add", version(day.folder, "1", "letters"))
    assert day.server.networks["digits#2"].correction is learnt


def test_deaths_stay_counted_when_those_who_died_serve_no_more(day: Day) -> None:
    [lane] = day.crew.lanes
    day.crew.lost(day.now_us, lane, "it ended", day.server)
    for _ in range(3):
        day.go_on()
    day.load(day.workers[1])
    while (message := lane.receive()) is not None:
        day.crew.arrange(day.now_us, lane, message, day.server, day.desk)
    assert isinstance(day.change("swap", version(day.folder, "2")), Managed)
    day.go_on()
    assert lane not in day.crew.lanes
    assert day.crew.told() == WorkerState("ready", 1)


def test_only_who_may_changes_what_is_served(day: Day) -> None:
    [refused] = day.ask("remove", "digits", tenant="b")
    assert isinstance(refused.reply, Refusal)
    assert refused.reply.code == "not_allowed"
    [refused] = day.ask("explode", "digits")
    assert isinstance(refused.reply, Refusal)
    assert refused.reply.code == "malformed"


def test_a_tenant_with_its_own_worker_gets_the_new_version_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    day = Day(monkeypatch, tmp_path, TenantConfig("a", manages=True), TenantConfig("b", isolation="tenant"))
    assert len(day.workers) == 2
    day.infer(b"1", "a")
    day.infer(b"2", "b")
    assert set(day.server.networks) == {"digits", "digits@b"}
    assert isinstance(day.change("swap", version(tmp_path, "2")), Managed)
    day.infer(b"3", "a")
    day.infer(b"4", "b")
    assert day.run() == {b"1": "1", b"2": "1", b"3": "2", b"4": "2"}
    day.go_on()
    assert set(day.server.networks) == {"digits#2", "digits@b#2"}
    day.close()


@pytest.mark.slow
def test_many_swaps_in_a_row_leave_nobody_without_an_answer(day: Day) -> None:
    for number in range(64):
        day.infer(b"before%d" % number)
        assert isinstance(day.change("swap", version(day.folder, str(2 + number % 2))), Managed)
        day.infer(b"after%d" % number)
        served = day.run()
        assert served[b"after%d" % number] == str(2 + number % 2)
        assert len(served) == 2
        day.go_on()
    day.go_on()
    assert (len(day.crew.lanes), len(day.server.networks), len(day.crew._gone)) == (1, 1, 0)


def test_the_boards_clock_is_looked_after_in_every_turn(day: Day) -> None:
    looks: list[int] = []

    class Watch:
        def turn(self, now_us: int, *_arguments: object) -> None:
            looks.append(now_us)

        def wake_at(self) -> int:
            return 7

        def close(self) -> None:
            """Nothing to give back."""

    day.crew.clocks = Watch()  # type: ignore[assignment]
    # What a thread has just read is taken in the turn it asked for, however soon after the last that is.
    for now_us in (LOOK_US, LOOK_US + 1, LOOK_US + 2):
        day.changes.tick(now_us)
    assert len(looks) == 3
    # When it wants the next look, so does this.
    assert day.changes.wake_at() == 7
