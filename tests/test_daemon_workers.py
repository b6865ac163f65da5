"""The real daemon and its workers: poison, spares, canaries, a tenant with its own worker, networks changed live."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from delen.clients.client import Client
from delen.clients.errors import DelenError, Refused
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Failure, Manage, Managed, Refusal
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Plain, delen, held, serving, worker_of
from delen.tests.sample_profile import sample_profile
from delen.tests.versions import version

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def image(value: float) -> npt.NDArray[np.float32]:
    return np.full((1, 8, 8), value, np.float32)


def workers_of(daemon: PrivateDaemon) -> list[psutil.Process]:
    return [child for child in psutil.Process(daemon.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


# ---- poison


def test_an_input_that_is_running_in_two_deaths_costs_no_third_worker(folder: Path) -> None:
    # An engine that takes its time, so that a death can be made to strike a given input.
    profile = sample_profile(segments_us=(400_000, 1_000, 1_000))
    file = folder / "slow.json"
    file.write_bytes(msgspec.json.encode(profile))
    settings = f'engine = "replay"\nreplay_profiles = ["{file}"]\n{SETTINGS}batch_max = 2\n'
    with serving(folder, settings=settings) as daemon, Plain(daemon) as plain:
        bad = image(0.5)
        request_id = plain.infer(bad)
        for restarts, number in enumerate((signal.SIGSEGV, signal.SIGKILL), start=1):
            assert plain.until_pong() == []
            os.kill(worker_of(daemon).pid, number)
            plain_ends = plain.ends([request_id]) if restarts == 2 else {}
            plain.until_worker_is("ready", restarts)
        end = plain_ends[request_id]
        assert isinstance(end, Failure)
        assert end.code == "poison"
        (again,) = plain.ends([plain.infer(bad)]).values()
        assert isinstance(again, Refusal)
        assert again.code == "poison"
        plain.answers([plain.infer(image(0.25))])
        assert plain.stats().worker_restarts == 2
        daemon.until_said("poison")


def test_an_input_that_is_not_finite_is_its_senders_fault(plain: Plain) -> None:
    for _ in range(5):
        (end,) = plain.ends([plain.infer(image(float("nan")))]).values()
        assert isinstance(end, Failure)
        assert end.code == "input"
    plain.answers([plain.infer()])


# ---- the spare


def test_a_spare_takes_over_within_a_tenth_of_a_second(folder: Path) -> None:
    with serving(folder, settings=f"spare = true\n{SETTINGS}") as daemon, Plain(daemon) as plain:
        gaps_us = []
        for restarts in range(1, 4):
            while plain.stats().spare != "ready":
                assert plain.until_pong() == []
            # The younger one is the spare.
            first = min(workers_of(daemon), key=lambda child: child.create_time())
            with held(first):
                ids = [plain.infer() for _ in range(10)]
                assert plain.until_pong() == []
                first.kill()
                answers = plain.answers(ids)
            gaps_us.append(max(answer.total_us for answer in answers))
            assert plain.stats().worker_restarts == restarts
        daemon.until_said("the spare takes over")
        assert sorted(gaps_us)[1] < 100_000, gaps_us


# ---- canaries


def test_an_idle_engine_that_hangs_is_found_out_by_its_canary(folder: Path) -> None:
    settings = SETTINGS.replace("5000", "300") + "canary_ms = 200\n"
    with serving(folder, settings=settings) as daemon, Plain(daemon) as plain:
        with held(worker := worker_of(daemon)):
            plain.until_worker_is("waiting", 1)
            worker.wait(WAIT_S_MAX)
        plain.until_worker_is("ready", 1)
        daemon.until_said("has taken")
        assert plain.row().accepted == 0


# ---- a tenant by itself


def test_a_tenant_with_a_worker_of_its_own_is_not_touched_by_anothers_death(folder: Path) -> None:
    settings = f'{SETTINGS}\n[[tenants]]\nname = "a"\n\n[[tenants]]\nname = "b"\nisolation = "tenant"\n'
    with serving(folder, (), settings) as daemon, Plain(daemon) as plain, Plain(daemon, "b") as other:
        shared, own = sorted(workers_of(daemon), key=lambda child: child.create_time())
        with held(shared):
            waiting = [plain.infer() for _ in range(3)]
            assert plain.until_pong() == []
            shared.kill()
            # While the one is replaced, the other serves on.
            other.answers([other.infer() for _ in range(50)])
            plain.answers(waiting)
        plain.until_worker_is("ready", 1)
        assert own.is_running()
        with held(own):
            mine = [other.infer() for _ in range(3)]
            assert other.until_pong() == []
            own.kill()
            plain.answers([plain.infer() for _ in range(50)])
            other.answers(mine)
        plain.until_worker_is("ready", 2)


# ---- networks changed under load


def manage(plain: Plain, action: str, network: str) -> Managed | Refusal:
    message = Manage(VERSION, plain.new_id(), action, network)
    plain.send(message)
    reply = plain.receive()
    assert isinstance(reply, (Managed, Refusal)), reply
    assert reply.id == message.id
    return reply


class Load:
    """Somebody who asks without pause, from a thread of its own."""

    def __init__(self, daemon: PrivateDaemon, **bounds: Any) -> None:
        self.versions: list[str] = []
        self.failed: list[str] = []
        self._client = Client("b", endpoint=daemon.endpoint("b"), timeout_s=WAIT_S_MAX)
        self._bounds = bounds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT_S_MAX)
        self._client.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            pending = [self._client.submit("digits", image(0.1 * n), **self._bounds) for n in range(8)]
            for each in pending:
                try:
                    self.versions.append(each.result(WAIT_S_MAX).answer.network_version)
                except DelenError as error:
                    self.failed.append(error.code)


def test_versions_are_swapped_under_load_and_every_answer_names_its_own(folder: Path) -> None:
    # Two, twice: what is measured of a version is kept for the next time.
    versions = [version(folder, f"9.{n % 2}") for n in range(4)]
    with serving(folder) as daemon, Plain(daemon) as plain:
        with Load(daemon) as load:
            for directory in versions:
                done = manage(plain, "swap", str(directory))
                assert isinstance(done, Managed), done
                assert f"digits-{done.network_version}" == directory.name
                (answer,) = plain.answers([plain.infer()])
                assert answer.network_version == done.network_version
                while manage(plain, "remove", "digits").code == "busy":  # type: ignore[union-attr]
                    assert plain.until_pong() == []
        assert load.failed == []
        changed = [now for before, now in itertools.pairwise(["", *load.versions]) if now != before]
        assert [now for now in changed if now.startswith("9.")] == ["9.0", "9.1", "9.0", "9.1"], changed
        while len(workers_of(daemon)) > 1:
            assert plain.until_pong() == []


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(daemon: PrivateDaemon, plain: Plain, folder: Path) -> None:
    broken = folder / "broken"
    shutil.copytree(version(folder, "8"), broken)
    (broken / "segment0.onnx").write_bytes(b"no graph")
    worker = worker_of(daemon)
    for said in (str(broken), "/nowhere", "nonesuch"):
        refused = manage(plain, "swap", said)
        assert isinstance(refused, Refusal)
        assert refused.code == "bundle"
        plain.answers([plain.infer()])
    assert worker_of(daemon).pid == worker.pid


def test_a_network_is_added_and_taken_away_again_from_the_command_line(daemon: PrivateDaemon, plain: Plain) -> None:
    asked = ("--endpoint", daemon.endpoint("a"))
    added = delen("network", "add", "fashion", *asked)
    assert added.returncode == 0, added.stderr
    assert "fashion" in delen("networks", *asked).stdout
    removed = delen("network", "remove", "fashion", *asked)
    assert removed.returncode in (0, 3), removed.stderr
    while removed.returncode == 3:
        removed = delen("network", "remove", "fashion", *asked)
    assert "fashion" not in delen("networks", *asked).stdout
    last = delen("network", "remove", "digits", *asked)
    assert last.returncode == 3
    plain.answers([plain.infer()])


def test_what_is_no_change_is_said_to_be_none(daemon: PrivateDaemon) -> None:
    with Client("a", endpoint=daemon.endpoint("a")) as client, pytest.raises(Refused, match="expected add, swap"):
        client.manage("explode", "digits")


# ---- memory


def test_an_engine_without_memory_costs_no_request_its_answer_for_good(daemon: PrivateDaemon, plain: Plain) -> None:
    worker = worker_of(daemon)
    before = worker.rlimit(psutil.RLIMIT_AS)
    # As much as it has, and not a page more: whatever it asks for now it does not get.
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms, before[1]))
    ends = plain.ends([plain.infer(image(n / 64)) for n in range(64)])
    codes = {end.code if isinstance(end, (Failure, Refusal)) else "answer" for end in ends.values()}
    assert codes <= {"answer", "engine_memory", "engine_crashed", "poison"}
    if worker.is_running():
        worker.rlimit(psutil.RLIMIT_AS, before)
    plain.answers([plain.infer(image(0.9)) for _ in range(20)])
    row = plain.row()
    assert row.pending == 0
