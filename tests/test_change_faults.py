"""What goes wrong while networks are changed: nobody waits for ever, nobody is moved to others' workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.clients.wire import Failure, Managed, Refusal
from delen.daemon.config import Config
from delen.daemon.rights import TenantConfig
from delen.tests.test_change import Day
from delen.tests.versions import version


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Day]:
    made = Day(monkeypatch, tmp_path)
    yield made
    made.close()


def lost(day: Day, lane: int = 0) -> None:
    """The worker of this lane is found dead."""
    day.crew.lost(day.now_us, day.crew.lanes[lane], "it ended", day.server)


def test_the_old_worker_may_die_just_before_the_new_one_takes_over(day: Day) -> None:
    day.infer(b"1")
    assert day.ask("swap", version(day.folder, "2")) == []
    day.go_on()
    day.load(day.workers[1])
    lost(day)
    assert day.until_told(2) == Managed(1, b"m", "digits", "2")
    day.infer(b"2")
    assert day.run() == {b"2": "2"}, "the other waits for a worker that has the old version"
    old = day.crew.lanes[1]
    while (message := old.receive()) is not None:
        day.crew.arrange(day.now_us, old, message, day.server, day.desk)
    assert day.run() == {b"1": "1"}


def test_who_asked_an_old_version_that_no_worker_can_load_again_is_told(day: Day) -> None:
    directory = version(day.folder, "2")
    assert isinstance(day.change("swap", directory), Managed)
    day.go_on()
    day.infer(b"1")
    assert isinstance(day.change("swap", version(day.folder, "3")), Managed)
    shutil.rmtree(directory)
    lost(day, 1)
    assert day.go_on() == [], "another worker tries first"
    lost(day, 1)
    [told] = day.go_on()
    assert isinstance(told.reply, Failure)
    assert (told.reply.id, told.reply.code) == (b"1", "engine_crashed")
    day.go_on()
    assert day.crew.lanes == [day.crew.lanes[0]], "and the way is free for the next change"
    assert isinstance(day.change("swap", version(day.folder, "4")), Managed)


def test_a_tenant_has_a_worker_of_its_own_again_after_a_time_without_networks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = TenantConfig("b", isolation="tenant", networks=("digits",))
    day = Day(monkeypatch, tmp_path, TenantConfig("a", manages=True), own)
    for action, network in (("add", version(tmp_path, "1", "letters")), ("remove", "digits"), ("add", "digits")):
        assert isinstance(day.change(action, network), Managed)
        day.go_on()
        day.go_on()
    day.infer(b"1", "a")
    day.infer(b"2", "b")
    run = day.server.next(day.now_us)
    assert run is not None
    assert len(run.rows) == 1, "no batch is shared"
    day.close()


def test_old_workers_keep_no_spare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("delen.tests.test_change.Config", lambda **said: Config(**said, spare=True))
    day = Day(monkeypatch, tmp_path)
    day.now_us += 1_000_000
    day.crew.tick(day.now_us)
    assert [worker.returncode for worker in day.workers] == [None, None], "one and its spare"
    day.infer(b"1")
    assert isinstance(day.change("swap", version(tmp_path, "2")), Managed)
    assert [worker.returncode for worker in day.workers[:3]] == [None, -9, None]
    day.close()


def test_it_is_told_whether_a_spare_stands_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("delen.tests.test_change.Config", lambda **said: Config(**said, spare=True))
    day = Day(monkeypatch, tmp_path)
    assert day.crew.told().spare == "starting"
    day.now_us += 1_000_000
    day.crew.tick(day.now_us)
    day.load(day.workers[1])
    day.crew.tick(day.now_us)
    assert day.crew.told().spare == "ready"
    day.crew.lost(day.now_us, day.crew.lanes[0], "it ended", day.server)
    assert day.crew.told() == ("ready", 1, "starting"), "it has taken over, and there is to be another"
    day.close()


def test_what_was_learnt_of_a_version_goes_with_it_whatever_tenants_are_called(day: Day) -> None:
    served = day.server.networks["digits"]
    day.server.assurance._standing("a", served).skipped()
    day.server.assurance.withdraw("b", "digits", served.version)
    assert isinstance(day.change("swap", version(day.folder, "2")), Managed)
    day.go_on()
    assert day.server.assurance.told("a") == {}
    assert day.server.assurance.withdrawn("b", "digits", served.version), "it may come back"
    assert not day.server.assurance.withdrawn("b", "digits", "2")


def test_poison_stays_poison_when_another_network_is_added(day: Day) -> None:
    for number in range(2):
        day.infer(b"%d" % number)
        assert day.server.next(day.now_us) is not None
        day.server.worker_lost(day.now_us, day.now_us, ["digits"])
        day.server.worker_ready(day.now_us, ["digits"])
    assert isinstance(day.change("add", version(day.folder, "1", "letters")), Managed)
    day.go_on()
    assert list(day.server.networks) == ["digits#2", "letters#2"]
    [refused] = day.infer(b"9")
    assert isinstance(refused.reply, Refusal)
    assert refused.reply.code == "poison"


@pytest.mark.parametrize("said", ["~nobody-of-that-name/x", "x\0/", "y" * 5000 + "/"])
def test_a_strange_place_is_refused_in_words(day: Day, said: str) -> None:
    assert day.ask("add", said) == []
    told = day.go_on() or day.go_on()
    [outgoing] = told
    assert isinstance(outgoing.reply, Refusal)
    assert "served as before" in outgoing.reply.message
    day.infer(b"1")
    assert day.run() == {b"1": "1"}
