"""The real daemon while processes around it die or hang: its engine's, its clients', its own.

Every request must still end in exactly one answer or typed error, the books must balance, and the daemon must serve on.
A held engine makes the moment of each fault exact: what was sent before is in flight or waits when it strikes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from delen.clients.client import Client
from delen.clients.exit_codes import ExitCode
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Answer, Cancel, Failure, Fetch, Refusal, Reply
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Images, Plain, delen, held, serving, worker_of

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def codes(ends: dict[bytes, Reply]) -> dict[str, int]:
    """How many requests ended how: `answer`, or the code of the error or refusal."""
    found: dict[str, int] = {}
    for end in ends.values():
        how = end.code if isinstance(end, (Failure, Refusal)) else type(end).__name__.lower()
        found[how] = found.get(how, 0) + 1
    return found


# ---- the engine


def test_what_was_in_flight_when_the_engine_was_killed_runs_again(daemon: PrivateDaemon, plain: Plain) -> None:
    before, restarts = plain.row(), plain.stats().worker_restarts
    worker = worker_of(daemon)
    with held(worker):
        # The first is in flight, the others wait; all have time enough to be run again.
        ids = [plain.infer(), *(plain.infer(latency_ms=60_000.0) for _ in range(20)), plain.infer(accuracy=0.9)]
        assert plain.until_pong() == []
        worker.kill()
        answers = plain.answers(ids)
    assert all(not answer.broken for answer in answers)
    after = plain.row()
    assert (after.accepted - before.accepted, after.answered - before.answered) == (22, 22)
    stats = plain.until_worker_is("ready", restarts + 1)
    assert stats.queued == 0
    assert worker_of(daemon).pid != worker.pid


def test_what_has_no_time_to_run_again_gets_a_typed_error(daemon: PrivateDaemon, plain: Plain) -> None:
    restarts = plain.stats().worker_restarts
    with held(worker := worker_of(daemon)):
        # Starting another engine takes more than this.
        hurried = plain.infer(latency_ms=60.0)
        assert plain.until_pong() == []
        worker.kill()
        (end,) = plain.ends([hurried]).values()
    assert isinstance(end, Failure)
    assert end.code == "engine_crashed"
    plain.until_worker_is("ready", restarts + 1)


def test_what_waits_for_an_engine_that_dies_while_it_starts_waits_for_the_next(
    daemon: PrivateDaemon, plain: Plain
) -> None:
    restarts = plain.stats().worker_restarts
    with held(first := worker_of(daemon)):
        request_id = plain.infer()
        assert plain.until_pong() == []
        first.kill()
    while not (second := [child for child in psutil.Process(daemon.pid).children() if child.pid != first.pid]):
        assert plain.until_pong() == []
    second[0].kill()
    plain.answers([request_id])
    plain.until_worker_is("ready", restarts + 2)


@pytest.mark.parametrize("answered_before", [0, 1, 7, 40, 120])
def test_an_engine_killed_in_full_run_loses_no_request(
    daemon: PrivateDaemon, plain: Plain, images: Images, answered_before: int
) -> None:
    before, restarts = plain.row(), plain.stats().worker_restarts
    bounds: list[dict[str, Any]] = [{}, {"latency_ms": 30_000.0}, {"accuracy": 0.94}, {"latency_ms": 20.0}]
    ids = [plain.infer(images.inputs[n], **bounds[n % 4]) for n in range(200)]
    worker = worker_of(daemon)
    ends: dict[bytes, Reply] = {}
    while len(ends) < 200:
        if len(ends) == answered_before:
            worker.kill()
        reply = plain.receive()
        assert reply.id not in ends
        ends[reply.id] = reply
    assert plain.until_pong() == []
    assert set(ends) == set(ids)
    # Poison is what was running in an earlier death here too, and had no time to be run again since.
    assert set(codes(ends)) <= {"answer", "engine_crashed", "poison", "infeasible", "not_ready"}
    # Without a deadline there is always time to run again.
    assert all(isinstance(ends[request_id], Answer) for n, request_id in enumerate(ids) if n % 4 in (0, 2))
    stats = plain.until_worker_is("ready", restarts + 1)
    after = plain.row()
    assert (stats.queued, after.pending) == (0, 0)
    assert after.accepted + after.refused - before.accepted - before.refused == 200
    plain.answers([plain.infer()])


def test_engines_that_die_one_after_the_other_while_they_start_are_replaced(
    daemon: PrivateDaemon, plain: Plain
) -> None:
    restarts = plain.stats().worker_restarts
    killed: set[int] = set()
    while len(killed) < 3:
        for child in psutil.Process(daemon.pid).children():
            if child.pid not in killed:
                killed.add(child.pid)
                child.kill()
        assert plain.until_pong() == []
    waiting = [plain.infer() for _ in range(10)]
    plain.answers(waiting)
    plain.until_worker_is("ready", restarts + 3)


def test_a_hung_engine_is_killed_and_its_work_done_by_another(folder: Path) -> None:
    with serving(folder, settings=SETTINGS.replace("5000", "300")) as daemon, Plain(daemon) as plain:
        with held(worker := worker_of(daemon)):
            stuck = [plain.infer() for _ in range(3)]
            plain.answers(stuck)
            assert not worker.is_running()
        assert plain.until_worker_is("ready", 1).queued == 0
        daemon.until_said("has taken")
        assert plain.row().answered == 3


def test_a_hung_engine_does_not_hang_the_front_however_much_is_taken_back(daemon: PrivateDaemon, plain: Plain) -> None:
    before = plain.row()
    with held(worker_of(daemon)):
        ids = [plain.infer() for _ in range(1000)]
        for request_id in ids:
            plain.send(Cancel(VERSION, request_id))
        assert codes(plain.ends(ids)) == {"cancelled": 1000}
    plain.answers([plain.infer()])
    after = plain.row()
    assert (after.failed - before.failed, after.answered - before.answered) == (1000, 1)


# ---- clients

CLIENT = """
import sys
import numpy as np
from delen.clients.client import Client
client = Client("b", endpoint=sys.argv[1])
for _ in range(200):
    client.submit("digits", np.zeros((1, 8, 8), np.float32))
client.ping()
print("sent", flush=True)
sys.stdin.read()
"""


def test_a_client_killed_with_requests_waiting_leaves_nothing_behind(daemon: PrivateDaemon, plain: Plain) -> None:
    front = psutil.Process(daemon.pid)
    before, descriptors = plain.row("b"), front.num_fds()
    command = [sys.executable, "-c", CLIENT, daemon.endpoint("b")]
    with held(worker_of(daemon)):
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.readline() == b"sent\n"
        assert plain.row("b").pending == 200
        client.kill()
        client.communicate()
        # Answered once the front has seen it go.
        assert any(front.num_fds() <= descriptors for _ in range(100_000) if plain.until_pong() == [])
    plain.answers([plain.infer() for _ in range(50)])
    # Its requests were older, but best effort is served by age, so all of them have run by now.
    after = plain.row("b")
    assert (after.accepted - before.accepted, after.answered - before.answered, after.pending) == (200, 200, 0)
    assert after.undeliverable - before.undeliverable == 200
    assert front.num_fds() <= descriptors
    assert plain.stats().queued == 0


def test_clients_may_come_and_go_without_end(daemon: PrivateDaemon, plain: Plain) -> None:
    front = psutil.Process(daemon.pid)
    for _ in range(300):
        with Plain(daemon, "b", client="cam") as passing:
            passing.infer()
    plain.answers([plain.infer()])
    descriptors = front.num_fds()
    for _ in range(100):
        with Plain(daemon, "b", client="cam") as passing:
            passing.infer()
    plain.answers([plain.infer()])
    assert front.num_fds() <= descriptors + 2
    # Best effort of two tenants: whose last one is answered last is not said.
    assert any(plain.row("b").pending == 0 for _ in range(100_000))


# ---- the front


def test_an_engine_does_not_outlive_its_front_and_the_next_daemon_takes_over(folder: Path) -> None:
    with serving(folder) as daemon:
        first, front = worker_of(daemon), psutil.Process(daemon.pid)
        with Client("a", endpoint=daemon.endpoint("a"), timeout_s=3 * WAIT_S_MAX) as client:
            boot = client.session().boot
            client.infer("digits", [[[0.0] * 8] * 8])
            with held(first):
                waiting = client.submit("digits", [[[0.0] * 8] * 8])
                client.ping()
                front.kill()
                assert daemon.stop() == -signal.SIGKILL
            first.wait(WAIT_S_MAX)
            ended = delen("ps", "--tenant", "a", "--timeout-s", "0.5", environ=daemon.environ)
            assert ended.returncode == ExitCode.UNAVAILABLE
            daemon.start()
            # The client notices by itself, and says again what the first daemon took to its grave.
            assert waiting.result(2 * WAIT_S_MAX).exit == 2
            client.ping()
            assert client.session().boot != boot


def test_a_hung_engine_does_not_keep_the_daemon_from_ending(folder: Path) -> None:
    with serving(folder) as daemon, held(worker := worker_of(daemon)):
        with Plain(daemon) as plain:
            plain.infer()
            assert plain.until_pong() == []
        assert daemon.stop() == 0
        assert not worker.is_running()


def test_an_answer_that_its_reader_never_took_can_be_fetched(daemon: PrivateDaemon, plain: Plain) -> None:
    with held(worker_of(daemon)), Plain(daemon, client="gone") as gone:
        request_id = gone.infer()
        assert gone.until_pong() == []
    plain.answers([plain.infer()])
    assert plain.ask(Fetch(VERSION, request_id), Answer).replayed
