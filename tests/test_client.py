"""The blocking client over a real socket, against the fake daemon in a thread of this process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delen
from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.client import Client
from delen.clients.errors import (
    BadRequest,
    BoundsInfeasible,
    Cancelled,
    DelenError,
    UnknownNetwork,
    Unreachable,
)
from delen.clients.results import Result
from delen.clients.wire import VERSION, Cancel, Feedback, Hello, Infer, Offer, Ping, Refusal, SetConditions
from delen.tests.fake_daemon import FakeDaemon, serving

pytestmark = pytest.mark.e2e

X = np.array([[[0, 3], [1, 0]]], np.float32)
# Longer than any machine needs: a test that waits this long has failed.
PATIENCE_S = 20.0


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def endpoint(daemon: FakeDaemon, tmp_path: Path) -> Iterator[str]:
    with serving(daemon, tmp_path) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: str) -> Iterator[Client]:
    with Client(endpoint=endpoint, timeout_s=PATIENCE_S) as client:
        yield client


def test_an_answer_says_what_was_delivered(client: Client) -> None:
    result = client.infer("toy", X, latency_ms=60_000)
    assert (result.label, result.label_name, result.exit) == (1, "dog", 1)
    assert (result.met, result.broken, result.stop) == (True, (), "last_exit")
    assert (result.confidence, result.expected_accuracy, result.certificate) == (0.75, 0.9, "uncertified")
    assert (result.energy_mj, result.energy_source) == (2.0, "modelled")
    assert result.logits.shape == (3,)
    assert 0 < result.latency_us == result.received_us - result.sent_us


def test_the_session_starts_with_the_bounds_given(daemon: FakeDaemon, endpoint: str) -> None:
    with Client(endpoint=endpoint, client="cam-1", latency_ms=50, objective="energy") as client:
        assert client.session().tenant == "t"
    hello = daemon.log[0]
    assert isinstance(hello, Hello)
    assert (hello.client, hello.bounds) == ("cam-1", Bounds(latency_ms=50.0, objective="energy"))


def test_bounds_and_conditions_are_set_when_the_call_returns(client: Client, daemon: FakeDaemon) -> None:
    assert client.bounds(accuracy=0.9) == Bounds(accuracy=0.9)
    sets = [ConditionSet(all_of=(Condition("energy", "less", 5.0),)), None]
    client.conditions("toy", sets)
    said = daemon.log[-1]
    assert isinstance(said, SetConditions)
    assert said.conditions == tuple(sets)


def test_networks_stats_and_ping_are_answered(client: Client) -> None:
    assert [info.name for info in client.networks()] == ["toy", "photo"]
    assert client.stats().worker == "running"
    assert client.ping() > 0


def test_feedback_names_the_answer_and_tells_whether_certificates_stand(client: Client, daemon: FakeDaemon) -> None:
    result = client.infer("toy", X)
    assert client.feedback(result, 1)
    assert not client.feedback(result.answer.id, 2)
    said = [message for message in daemon.log if isinstance(message, Feedback)]
    assert [(message.answered, message.label) for message in said] == [(result.answer.id, 1), (result.answer.id, 2)]


@pytest.mark.parametrize("label", [-1, 2**64, 1.0, "1", True])
def test_a_label_that_can_be_no_class_is_said_before_it_is_sent(client: Client, daemon: FakeDaemon, label: Any) -> None:
    with pytest.raises(BadRequest, match="index of a class"):
        client.feedback(b"known", label)
    assert not any(isinstance(message, Feedback) for message in daemon.log)


def test_labels_may_come_from_an_array(client: Client, daemon: FakeDaemon) -> None:
    client.feedback(client.infer("toy", X), np.array([1, 2])[1])
    assert [message.label for message in daemon.log if isinstance(message, Feedback)] == [2]


def test_an_unknown_network_names_those_that_may_be_used(client: Client, daemon: FakeDaemon) -> None:
    with pytest.raises(UnknownNetwork, match="photo, toy"):
        client.infer("tyo", X)
    assert not any(isinstance(message, Infer) for message in daemon.log)


def test_a_refusal_is_raised_with_its_offer(client: Client, daemon: FakeDaemon) -> None:
    daemon.refuse = Refusal(VERSION, b"", "infeasible", "too fast", Offer(latency_ms=3.0))
    with pytest.raises(BoundsInfeasible) as caught:
        client.infer("toy", X, latency_ms=60_000)
    assert caught.value.offer == Offer(latency_ms=3.0)


def test_an_input_the_daemons_socket_would_drop_is_refused_here(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delen.tests.fake_daemon.PAYLOAD_BYTES_MAX", 1000)
    client.ping()
    with pytest.raises(BadRequest, match="602112 bytes") as caught:
        client.infer("photo", np.zeros((3, 224, 224), np.float32))
    assert caught.value.code == "too_large"


def test_futures_end_while_nobody_waits_on_them(client: Client) -> None:
    told = threading.Event()
    results: list[int] = []
    future = client.submit("toy", X)

    def done(_: object) -> None:
        # A callback may ask again: it holds up nobody.
        results.append(client.infer("toy", X).label)
        told.set()

    future.add_done_callback(done)
    assert told.wait(PATIENCE_S)
    assert results == [1]


def test_a_submitted_input_may_change_at_once(client: Client) -> None:
    client.networks()
    changing = X.copy()
    futures = []
    # While somebody else works the socket, nothing is sent yet.
    with client._leading:
        for label in (0, 1, 2):
            changing[:] = 0
            changing.flat[label] = 1
            futures.append(client.submit("toy", changing))
    client._hand_over()
    assert [future.result(PATIENCE_S).label for future in futures] == [0, 1, 2]


def test_a_failed_future_raises_what_infer_would(client: Client, daemon: FakeDaemon) -> None:
    daemon.refuse = Refusal(VERSION, b"", "queue_full", "full")
    with pytest.raises(delen.QueueFull):
        client.submit("toy", X).result(PATIENCE_S)


def test_many_threads_each_get_their_own_answers(client: Client) -> None:
    wrong: list[object] = []

    def ask(label: int) -> None:
        x = np.zeros((1, 2, 2), np.float32)
        x.flat[label] = 1
        for index in range(40):
            result = client.submit("toy", x).result(PATIENCE_S) if index % 4 == 0 else client.infer("toy", x)
            if result.label != label:
                wrong.append(result)

    threads = [threading.Thread(target=ask, args=(index % 3,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_begun_requests_end_in_turns_without_any_thread(client: Client) -> None:
    client.networks()
    thread_count = threading.active_count()
    ends: list[Result | DelenError] = []
    for _ in range(10):
        client.begin("toy", X, ends.append)
    while len(ends) < 10:
        client.turn(1_000_000)
    assert threading.active_count() == thread_count
    assert all(isinstance(end, Result) and end.label == 1 for end in ends)


def test_a_cancelled_future_ends_at_once(client: Client, daemon: FakeDaemon) -> None:
    daemon.silent = (Infer,)
    future = client.submit("toy", X)
    assert client.cancel(future)
    with pytest.raises(Cancelled):
        future.result(PATIENCE_S)
    assert not client.cancel(future)


def test_a_begun_request_that_was_sent_is_taken_back_at_the_daemon(client: Client, daemon: FakeDaemon) -> None:
    daemon.silent = (Infer,)
    ends: list[Result | DelenError] = []
    request_id = client.begin("toy", X, ends.append)
    client.turn()
    assert client.cancel(request_id)
    assert isinstance(ends[0], Cancelled)
    client.ping()
    assert [type(message) for message in daemon.log[-3:]] == [Infer, Cancel, Ping]


def test_closing_ends_what_waits_in_other_threads(endpoint: str, daemon: FakeDaemon) -> None:
    daemon.silent = (Infer,)
    client = Client(endpoint=endpoint, timeout_s=PATIENCE_S)
    client.networks()
    ends: list[DelenError] = []

    def ask() -> None:
        with pytest.raises(DelenError) as caught:
            client.infer("toy", X)
        ends.append(caught.value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    future = client.submit("toy", X)
    client.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert isinstance(future.exception(PATIENCE_S), Cancelled)
    assert {end.code for end in ends} <= {"cancelled", "closed"}
    assert len(ends) == 3
    client.close()
    with pytest.raises(DelenError, match="closed"):
        client.infer("toy", X)


def test_a_restarted_daemon_is_found_again_and_answers_what_was_out(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    with contextlib.ExitStack() as stack:
        with serving(daemon, tmp_path) as endpoint:
            client = stack.enter_context(Client(endpoint=endpoint, timeout_s=PATIENCE_S, latency_ms=60_000))
            client.infer("toy", X)
            daemon.silent = (Infer,)
            out = client.submit("toy", X)
            client.ping()
        daemon.restart()
        daemon.silent = ()
        while_away = client.submit("toy", X)
        with serving(daemon, tmp_path):
            assert [future.result(PATIENCE_S).label for future in (out, while_away)] == [1, 1]
            assert client.session().boot == "boot-1-again"


def test_a_client_without_a_daemon_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELEN_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unreachable) as caught:
        Client("cam")
    assert str(tmp_path / "t" / "cam" / "sock") in str(caught.value)
    assert "delen serve" in caught.value.hint


def test_a_socket_nobody_serves_is_unreachable_after_the_time_out(tmp_path: Path) -> None:
    with serving(FakeDaemon(), tmp_path) as endpoint:
        pass
    Path(endpoint.removeprefix("ipc://")).touch()
    with Client(endpoint=endpoint, timeout_s=0.05) as client, pytest.raises(Unreachable, match=r"within 0\.05 s"):
        client.ping()


def test_the_tenants_socket_is_found_by_the_environment(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELEN_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("DELEN_TENANT", "t")
    with Client() as client:
        assert client.endpoint == endpoint
        assert client.infer("toy", X).label == 1


def test_a_client_is_refused_after_a_fork(client: Client) -> None:
    client.ping()
    client._pid += 1
    with pytest.raises(DelenError, match="after a fork") as caught:
        client.ping()
    assert caught.value.code == "forked"
    client._pid -= 1


@pytest.mark.slow
def test_a_process_that_forgets_to_close_its_client_still_ends(endpoint: str) -> None:
    script = (
        "import sys, numpy, delen\n"
        "client = delen.Client(endpoint=sys.argv[1])\n"
        "print(client.submit('toy', numpy.ones((1, 2, 2), 'float32')).result(10).label)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, endpoint], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n", "")


@pytest.mark.slow
def test_asking_for_a_client_imports_no_engine_and_no_room_but_clients() -> None:
    script = (
        "import sys; from delen import Client\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('delen', 'torch', 'onnx', 'asyncio'))))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = ran.stdout.split()
    assert "delen.clients.client" in names
    assert [name for name in names if not name.startswith("delen")] == []
    assert [n for n in names if n.startswith("delen.") and not n.startswith("delen.clients")] == []


def test_every_exported_name_exists() -> None:
    assert [name for name in delen.__all__ if not hasattr(delen, name)] == []
    assert set(delen.__all__) <= set(dir(delen))
    with pytest.raises(AttributeError):
        _ = delen.Clinet


def test_descriptors_are_given_back(endpoint: str) -> None:
    with Client(endpoint=endpoint) as client:
        client.ping()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with Client(endpoint=endpoint) as client:
            client.submit("toy", X).result(PATIENCE_S)
    # The daemon lives in this process too and closes its ends in its own time; a leak would be several for each client.
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 5
