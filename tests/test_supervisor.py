"""The worker's life as the front sees it: brought to ready, noticed when lost, started again and not too often."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from delen.daemon import hosting
from delen.daemon.arena import Arena
from delen.daemon.config import Config, Limits
from delen.daemon.pipe import Attach, Drop, Failed, Load, Loaded, Measure, Measured, Pipe, PipeClosed, Post, Up
from delen.daemon.records import ExitDone, RowDone, StepDone
from delen.daemon.supervisor import REAP_US, Supervisor, WorkerFailed
from delen.policies.view import Row, Run
from delen.profiles.schema import Profile
from delen.tests.sample_profile import device, sample_profile

LIMITS = Limits(backoff_ms_min=100, backoff_ms_max=1_000, start_ms_max=5_000, batch_max=8)


class FakeWorker:
    """Stands for the process: holds its end of the pipe, and says what a test tells it to."""

    def __init__(self, command: list[str], pass_fds: list[int], **_: Any) -> None:
        self.command = command
        self.pipe = Pipe(socket.socket(fileno=os.dup(pass_fds[0])))
        self.returncode: int | None = None

    pid = 4242
    unkillable = hangs = False

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.returncode = None if self.unkillable else -number
        self.pipe.close()

    def wait(self, timeout: float | None = None) -> int:
        if self.hangs:
            raise subprocess.TimeoutExpired(self.command, timeout or 0)
        self.pipe.close()
        return self.returncode or 0


class Spawns:
    """Has processes be fakes from now on, `workers`; while it is `broken` none can be started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[FakeWorker] = []
        self.broken = False
        monkeypatch.setattr(subprocess, "Popen", self._spawn)

    def _spawn(self, command: list[str], **options: Any) -> FakeWorker:
        if self.broken:
            raise BlockingIOError("no more processes")
        self.workers.append(FakeWorker(command, **options))
        return self.workers[-1]


class Stage(Spawns):
    """A supervisor of `digits` whose workers are fakes, the last of which is `worker`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: Path, **config: Any) -> None:
        super().__init__(monkeypatch)
        self.config = Config(networks=("digits",), **{"limits": LIMITS, **config})
        self.supervisor = Supervisor(self.config, hosting.host(self.config, state), spare=self.config.spare)

    @property
    def worker(self) -> FakeWorker:
        return self.workers[-1]

    def gone(self, now_us: int) -> int:
        """Notice that the killed worker is gone; returns when there is something to do next."""
        self.supervisor._reap(now_us)
        at_us = self.supervisor.wake_at()
        assert at_us is not None
        return at_us

    def heard(self, count: int) -> list[Any]:
        """The next messages at the worker."""
        return [self.worker.pipe.receive_at_worker() for _ in range(count)]

    def ready(self, now_us: int = 0) -> None:
        """Start and bring a worker to ready."""
        self.supervisor.start(now_us)
        self.arrange(Up(device()))
        assert self.arrange(Loaded("digits"), profile=sample_profile())
        self.heard(2)

    def arrange(self, message: Any, profile: Profile | None = None, now_us: int = 0) -> bool:
        return self.supervisor.arrange(message, lambda hosted, at: profile, now_us)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(monkeypatch, tmp_path)
    yield made
    made.supervisor.stop()


def test_a_worker_is_given_its_memory_and_then_its_networks(stage: Stage) -> None:
    stage.supervisor.start(0)
    attach, load = stage.heard(2)
    assert isinstance(attach, Attach)
    assert isinstance(load, Load)
    assert (load.name, load.batch_max, len(load.digest)) == ("digits", 8, 64)
    assert stage.supervisor.state == "starting"


def test_a_network_with_a_profile_is_ready_once_loaded(stage: Stage) -> None:
    stage.supervisor.start(0)
    assert not stage.arrange(Up(device()))
    assert stage.arrange(Loaded("digits"), profile=sample_profile())
    assert stage.supervisor.state == "ready"


def test_a_network_without_a_profile_is_measured_first(stage: Stage) -> None:
    stage.supervisor.start(0)
    stage.arrange(Up(device()))
    assert not stage.arrange(Loaded("digits"))
    assert stage.heard(3)[-1] == Measure("digits", None)
    assert stage.arrange(Measured("digits", msgspec.json.encode(sample_profile())))
    assert stage.supervisor.profiles == {"digits": sample_profile()}


def test_where_profiles_are_required_a_network_without_one_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage(monkeypatch, tmp_path, profile="require")
    stage.supervisor.start(0)
    stage.arrange(Up(device()))
    with pytest.raises(WorkerFailed, match="delen profile digits"):
        stage.arrange(Loaded("digits"))
    stage.supervisor.stop()


def test_a_network_that_does_not_load_is_named(stage: Stage) -> None:
    stage.supervisor.start(0)
    with pytest.raises(WorkerFailed, match="'digits': no such operator"):
        stage.arrange(Failed("digits", "unsupported", "no such operator"))


def test_a_run_is_posted_with_its_inputs_and_its_logits_come_back(stage: Stage) -> None:
    stage.supervisor.start(0)
    attach, fd = stage.worker.pipe.receive_attach()
    memory = Arena(fd, attach.size)
    os.close(fd)
    need = hosting.host(stage.config, Path("/nowhere"))["digits"].need
    run = Run(1, "digits", 0, (Row(1, 0, (), (), keep=False), Row(2, 0, (), (), keep=False)), 0, (), 100)
    stage.supervisor.post(run, [np.full(64, n, np.float32).tobytes() for n in (3, 4)])
    assert stage.heard(2)[-1] == Post(run)
    assert memory.inputs(1, need, "float32", (64,), 2)[:, 0].tolist() == [3, 4]
    memory.write_logits(1, need, 0, np.repeat(np.array([1, 2], np.float32), 10).tobytes())
    rows = tuple(RowDone(ticket, 0, 0.5, left=True, gated=False) for ticket in (1, 2))
    done = stage.supervisor.with_logits(ExitDone(1, 0, rows, (), b"", finished=True), "digits")
    assert np.frombuffer(done.logits, np.float32).tolist() == [1.0] * 10 + [2.0] * 10


@pytest.mark.parametrize(
    "report",
    [
        ExitDone(1, 3, (), (), b"", finished=True),
        ExitDone(1, -1, (), (), b"", finished=True),
        ExitDone(1, 0, tuple(RowDone(n, 0, 0.5, left=True, gated=False) for n in range(9)), (), b"", finished=True),
        ExitDone(1, 0, (), (StepDone(False, 3, 1, 5),), b"", finished=True),
        ExitDone(1, 0, (), (StepDone(False, 0, 9, 5),), b"", finished=True),
        ExitDone(1, 0, (), (StepDone(False, 0, 0, 5),), b"", finished=True),
        ExitDone(1, 0, (RowDone(1, 0, float("nan"), left=True, gated=False),), (), b"", finished=True),
        ExitDone(1, 0, (RowDone(1, 0, 1.5, left=True, gated=False),), (), b"", finished=True),
        ExitDone(1, 0, (RowDone(1, 10, 0.5, left=True, gated=False),), (), b"", finished=True),
    ],
)
def test_a_report_that_cannot_be_true_costs_the_worker_its_life(stage: Stage, report: ExitDone) -> None:
    stage.ready()
    with pytest.raises(PipeClosed):
        stage.supervisor.with_logits(report, "digits")


def test_one_death_is_followed_at_once_and_deaths_in_a_row_at_doubling_distance(stage: Stage) -> None:
    stage.ready()
    waits_ms, now_us = [], 0
    for started in range(1, 8):
        stage.supervisor.lost(now_us)
        assert stage.supervisor.filenos() == []
        at_us = stage.gone(now_us)
        waits_ms.append((at_us - now_us) // 1000)
        if at_us > now_us:
            stage.supervisor.tick(at_us - 1)
            assert len(stage.workers) == started, "not before its time"
        now_us = at_us
        stage.supervisor.tick(now_us)
        assert len(stage.workers) == started + 1
    assert waits_ms == [0, 100, 200, 400, 800, 1_000, 1_000]
    assert (len(stage.workers), stage.supervisor.restarts) == (8, 7)


def test_a_run_that_succeeds_ends_the_row_of_deaths(stage: Stage) -> None:
    stage.ready()
    stage.supervisor.lost(0)
    stage.supervisor.lost(0)
    stage.ready()
    stage.supervisor.with_logits(ExitDone(1, 0, (), (), b"", finished=True), "digits")
    stage.supervisor.lost(10)
    assert stage.gone(10) == 10


def test_a_lost_worker_is_killed_and_the_next_is_expected_after_what_the_first_took(stage: Stage) -> None:
    stage.supervisor.start(0)
    stage.arrange(Up(device()))
    stage.arrange(Loaded("digits"), profile=sample_profile(), now_us=700_000)
    assert stage.supervisor.lost(1_000_000) == 1_700_000
    assert stage.worker.returncode is not None


def test_a_worker_that_does_not_get_ready_in_time_is_counted_lost(stage: Stage) -> None:
    stage.supervisor.start(0)
    assert stage.supervisor.wake_at() == 5_000_000
    assert not stage.supervisor.tick(4_999_999)
    assert stage.supervisor.tick(5_000_000)


def test_when_no_process_can_be_started_it_is_tried_again_later(stage: Stage) -> None:
    stage.ready()
    stage.supervisor.lost(0)
    stage.broken = True
    assert not stage.supervisor.tick(0)
    assert (stage.supervisor.state, stage.supervisor.filenos()) == ("waiting", [])
    at_us = stage.supervisor.wake_at()
    assert at_us == 100_000
    stage.broken = False
    stage.supervisor.tick(at_us)
    assert stage.supervisor.state == "starting"


def test_a_restarted_worker_keeps_the_profiles_that_are_known(stage: Stage) -> None:
    stage.ready()
    stage.supervisor.lost(0)
    stage.supervisor.tick(0)
    stage.arrange(Up(device()))
    assert stage.arrange(Loaded("digits")), "nothing is measured again"


def test_what_may_be_forgotten_is_said_with_the_next_run(stage: Stage) -> None:
    stage.ready()
    stage.supervisor.drop((1,))
    stage.supervisor.drop((2, 3))
    run = Run(7, "digits", 1, (Row(4, 2, (), (), False),), 0, (), 100)
    stage.supervisor.post(run, [])
    stage.supervisor.post(run, [])
    assert stage.heard(2) == [Post(run, (1, 2, 3)), Post(run)]


def test_a_worker_that_is_not_ready_is_not_told_what_to_forget(stage: Stage) -> None:
    stage.ready()
    stage.supervisor.drop((1,))
    stage.supervisor.tidy()
    stage.supervisor.tidy()
    assert stage.heard(1) == [Drop((1,))]
    stage.supervisor.drop((2,))
    stage.supervisor.lost(0)
    stage.supervisor.tidy()
    stage.supervisor.drop((1,))
    stage.supervisor.ask_yield(1)


# ---- workers that will not go


def test_the_next_worker_waits_until_the_killed_one_is_gone(stage: Stage) -> None:
    stage.ready()
    stage.worker.unkillable = True
    stage.supervisor.lost(1_000)
    for now_us in (1_000, 500_000, 2_000_000):
        assert not stage.supervisor.tick(now_us)
        assert (len(stage.workers), stage.supervisor.wake_at()) == (1, now_us + REAP_US)
    stage.worker.returncode = -9
    stage.supervisor.tick(2_000_500)
    assert (len(stage.workers), stage.supervisor.state) == (2, "starting")
    assert stage.supervisor.take_notes() == ["worker 4242: it was ended by SIGKILL"]


def test_a_worker_that_cannot_be_killed_is_abandoned_and_another_gets_memory_of_its_own(stage: Stage) -> None:
    stage.ready()
    stage.worker.unkillable = True
    stage.supervisor.lost(0)
    stage.supervisor.tick(1_999_999)
    assert (len(stage.workers), stage.supervisor.abandoned) == (1, 0)
    stage.supervisor.tick(2_000_000)
    assert (len(stage.workers), stage.supervisor.abandoned) == (2, 1)
    [note] = stage.supervisor.take_notes()
    assert "cannot be killed" in note
    attach, _ = stage.heard(2)
    assert isinstance(attach, Attach), "memory of its own"
    stage.workers[0].returncode = -9
    stage.supervisor.tick(9_000_000)
    assert stage.supervisor.take_notes() == ["worker 4242: it was ended by SIGKILL"]


def test_the_front_ends_though_its_worker_cannot(stage: Stage) -> None:
    stage.ready()
    stage.worker.unkillable = stage.worker.hangs = True
    stage.supervisor.stop()


# ---- the spare


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """A ready worker, and a spare that is loaded."""
    made = Stage(monkeypatch, tmp_path, spare=True)
    made.ready()
    made.supervisor.tick(0)
    made.worker.pipe.send(Up(device()))
    made.worker.pipe.send(Loaded("digits"))
    assert made.supervisor.spare == "starting"
    made.supervisor.tick(10)
    yield made
    made.supervisor.stop()


def test_a_spare_is_started_once_the_worker_is_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = Stage(monkeypatch, tmp_path, spare=True)
    stage.supervisor.start(0)
    stage.supervisor.tick(0)
    assert len(stage.workers) == 1, "not two at once, which would only make both slower"
    stage.arrange(Up(device()))
    stage.arrange(Loaded("digits"), profile=sample_profile(), now_us=500)
    assert stage.supervisor.wake_at() == 500
    stage.supervisor.tick(500)
    assert len(stage.workers) == 2
    assert len(stage.supervisor.filenos()) == 2
    stage.supervisor.stop()


def test_a_spare_takes_over_at_once_and_another_is_made(pair: Stage) -> None:
    assert pair.supervisor.spare == "ready"
    spare = pair.worker
    assert pair.supervisor.lost(1_000) == 1_000
    assert (pair.supervisor.state, pair.supervisor.restarts) == ("ready", 1)
    run = Run(1, "digits", 0, (Row(1, 0, (), (), keep=False),), 0, (), 100)
    pair.supervisor.post(run, [bytes(256)])
    assert [type(spare.pipe.receive_at_worker()) for _ in range(3)] == [Attach, Load, Post]
    pair.supervisor.tick(1_000)
    assert len(pair.workers) == 3


def test_with_a_crash_loop_the_spare_is_made_later_and_later(pair: Stage) -> None:
    pair.supervisor.lost(0)
    pair.supervisor.tick(0)
    pair.worker.pipe.send(Loaded("digits"))
    pair.supervisor.tick(1)
    pair.supervisor.lost(2)
    assert pair.supervisor.state == "ready"
    started = len(pair.workers)
    pair.supervisor.tick(2)
    assert len(pair.workers) == started
    pair.supervisor.tick(2 + 100_000)
    assert len(pair.workers) == started + 1


def test_a_spare_that_dies_is_replaced_later_and_costs_nothing_else(pair: Stage) -> None:
    pair.worker.send_signal(9)
    pair.supervisor.tick(5_000)
    assert (pair.supervisor.state, pair.supervisor.spare, pair.supervisor.restarts) == ("ready", "waiting", 0)
    started = len(pair.workers)
    pair.supervisor.tick(999_000)
    assert len(pair.workers) == started
    pair.supervisor.tick(1_005_000)
    assert len(pair.workers) == started + 1


def test_a_spare_that_is_not_loaded_yet_does_not_take_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = Stage(monkeypatch, tmp_path, spare=True)
    stage.ready()
    stage.supervisor.tick(0)
    stage.supervisor.lost(10)
    assert stage.supervisor.state == "waiting"
    stage.supervisor.stop()
