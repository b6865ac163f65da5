"""The real daemon, with its real engine: what tenants get for bounds on real images, and what they share.

Bad input and bad starts: test_daemon_refusals.py. Dying and hanging processes: test_daemon_faults.py.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.clients.client import Client
from delen.clients.conditions import load_conditions, when
from delen.clients.errors import BoundsInfeasible
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.results import Result
from delen.clients.wire import VERSION, Answer, BoundsSet, Cancel, Failure, Fetch, Refusal, SetBounds
from delen.tests.daemon_fixture import SETTINGS, Images, Plain, held, serving, worker_of

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def client(daemon: PrivateDaemon) -> Iterator[Client]:
    with Client("a", endpoint=daemon.endpoint("a"), timeout_s=20) as client:
        yield client


def right_share(results: list[Result], images: Images) -> float:
    return float(np.mean([result.label == label for result, label in zip(results, images.labels, strict=True)]))


# ---- bounds on real images


def test_without_bounds_the_last_exit_answers_as_accurately_as_its_profile_says(client: Client, images: Images) -> None:
    results = [client.infer("digits", x) for x in images.inputs]
    assert {result.exit for result in results} == {2}
    assert {result.stop for result in results} == {"last_exit"}
    # Three standard errors of 360 images at this accuracy.
    assert right_share(results, images) == pytest.approx(images.exits[2].accuracy, abs=0.03)


def test_an_accuracy_bound_is_kept_by_less_work(client: Client, images: Images) -> None:
    results = [client.infer("digits", x, accuracy=0.94) for x in images.inputs]
    assert right_share(results, images) >= 0.94 - 0.03
    assert all(result.met and result.expected_accuracy >= 0.94 for result in results)
    assert {result.certificate for result in results} == {"certified"}
    depth = float(np.mean([result.exit for result in results]))
    assert depth < 2, "an accuracy bound below the last exit's is met without running it for all"


def test_an_energy_bound_is_never_passed(client: Client, images: Images) -> None:
    first, second = images.exits[0].energy_mj, images.exits[1].energy_mj
    assert first is not None
    assert second is not None
    limit = (first + second) / 2
    results = [client.infer("digits", x, energy_mj=limit) for x in images.inputs[:100]]
    assert {result.exit for result in results} == {0}
    assert {(result.stop, result.energy_source, result.met) for result in results} == {("energy", "modelled", True)}
    assert all(result.energy_mj is not None and 0 < result.energy_mj <= limit for result in results)


def test_a_latency_bound_is_counted_from_request_to_answer(client: Client, images: Images) -> None:
    results = [client.infer("digits", x, latency_ms=2000.0) for x in images.inputs[:100]]
    for result in results:
        assert result.met == (result.answer.total_us <= 2_000_000)
        assert result.answer.queue_us + result.answer.compute_us <= result.answer.total_us <= result.latency_us
    assert sum(result.met for result in results) >= 95


def test_what_cannot_be_met_is_refused_with_an_offer_that_can(client: Client, plain: Plain, images: Images) -> None:
    # Asked without the SDK's clock, which would rather say that such a bound has passed before it could be sent.
    plain.infer(latency_ms=0.01)
    refused = plain.receive()
    assert isinstance(refused, Refusal)
    assert refused.code == "infeasible"
    assert refused.offer is not None
    assert refused.offer.latency_ms is not None
    # Taken, it is admitted; whether it is then met is the machine's business.
    (answer,) = plain.answers([plain.infer(latency_ms=refused.offer.latency_ms)])
    assert answer.exit in (0, 1, 2)
    x = images.inputs[0]
    with pytest.raises(BoundsInfeasible) as raised:
        client.infer("digits", x, accuracy=1.0)
    assert raised.value.offer is not None
    assert client.infer("digits", x, accuracy=raised.value.offer.accuracy).met
    with pytest.raises(BoundsInfeasible) as raised:
        client.infer("digits", x, energy_mj=1e-6)
    assert raised.value.offer is not None
    assert client.infer("digits", x, energy_mj=raised.value.offer.energy_mj).met


def test_a_request_of_several_runs_waits_for_nothing_but_its_runs(client: Client, images: Images) -> None:
    # Three runs each. A front that sleeps between two of them, with nobody else to wake it, does so for up to a second.
    never = [None, None, when("response_time", "greater", 3600)]
    results = [client.infer("digits", x, conditions=never) for x in images.inputs[:60]]
    assert {result.answer.batches for result in results} == {(1, 1, 1)}
    assert sum(result.answer.total_us > 200_000 for result in results) <= 1


def test_delens_conditions_stop_where_they_hold(client: Client, images: Images, tmp_path: Path) -> None:
    file = tmp_path / "conditions.json"
    sure = {"metric": "confidence", "op": "greater_eq", "threshold": 0.9}
    late = {"metric": "response_time", "op": "greater", "threshold": 3600}
    file.write_text(json.dumps([{"and": [sure, {"metric": "exit", "op": "equal", "threshold": 0}]}, None, late]))
    client.conditions("digits", load_conditions(file))
    inputs = images.inputs[:60]
    results = [client.infer("digits", x) for x in inputs]
    client.conditions("digits", None)
    first = [client.infer("digits", x, conditions=[when("exit", "equal", 0), None, None]) for x in inputs]
    assert {result.exit for result in first} == {0}
    for result, at_first in zip(results, first, strict=True):
        expected = (0, "condition") if at_first.confidence >= 0.9 else (2, "last_exit")
        assert (result.exit, result.stop) == expected
    assert len({result.exit for result in results}) == 2, "the images should try both ways"


def test_a_bound_changed_in_the_stream_holds_for_all_that_follows(plain: Plain, images: Images) -> None:
    energies = [one.energy_mj for one in images.exits]
    assert energies[0] is not None
    assert energies[1] is not None
    limit = (energies[0] + energies[1]) / 2
    ids: dict[str, list[bytes]] = {"before": [], "under": [], "after": []}
    for x in images.inputs[:200]:
        ids["before"].append(plain.infer(x))
    tight, loose = SetBounds(VERSION, plain.new_id(), Bounds(energy_mj=limit)), SetBounds(VERSION, b"loose", Bounds())
    plain.send(tight)
    for x in images.inputs[:200]:
        ids["under"].append(plain.infer(x))
    plain.send(loose)
    for x in images.inputs[:200]:
        ids["after"].append(plain.infer(x))
    answers: dict[bytes, Answer] = {}
    acknowledged: list[Bounds] = []
    while len(answers) < 600 or len(acknowledged) < 2:
        reply = plain.receive()
        if isinstance(reply, Answer):
            answers[reply.id] = reply
        else:
            assert isinstance(reply, BoundsSet), reply
            acknowledged.append(reply.bounds)
    assert acknowledged == [Bounds(energy_mj=limit), Bounds()]
    exits = {part: {answers[request_id].exit for request_id in ids[part]} for part in ids}
    assert exits == {"before": {2}, "under": {0}, "after": {2}}
    assert all((answers[request_id].energy_mj or limit + 1) <= limit for request_id in ids["under"])


def test_a_bound_set_on_one_connection_holds_on_the_session_s_others(daemon: PrivateDaemon, images: Images) -> None:
    with (
        Plain(daemon, client="cam") as setter,
        Plain(daemon, client="cam") as asker,
        Plain(daemon, client="x") as other,
    ):
        setter.ask(SetBounds(VERSION, setter.new_id(), Bounds(objective="latency")), BoundsSet)
        assert asker.answers([asker.infer(images.inputs[0])])[0].exit == 0
        assert other.answers([other.infer(images.inputs[0])])[0].exit == 2


# ---- ids, fetching, cancelling


def test_a_request_said_twice_runs_once(plain: Plain, images: Images) -> None:
    before = plain.row()
    request_id = plain.infer(images.inputs[0])
    (first,) = plain.answers([request_id])
    logits = plain.tensors[request_id]
    assert not first.replayed
    (again,) = plain.answers([plain.infer(images.inputs[0], request_id=request_id)])
    assert again.replayed
    assert (again.label, again.total_us, plain.tensors[request_id]) == (first.label, first.total_us, logits)
    after = plain.row()
    assert after.accepted == before.accepted + 1
    assert sum(after.exits["digits"]) == sum(before.exits.get("digits", ())) + 1


def test_a_request_said_twice_while_it_waits_runs_once_for_both(daemon: PrivateDaemon, plain: Plain) -> None:
    before = plain.row()
    with Plain(daemon) as second:
        with held(worker_of(daemon)):
            request_id = plain.infer()
            plain.infer(request_id=request_id)
            assert plain.until_pong() == []
            second.infer(request_id=request_id)
            assert second.until_pong() == []
        (mine,), (theirs,) = plain.answers([request_id]), second.answers([request_id])
    assert mine == theirs
    assert plain.row().accepted == before.accepted + 1


def test_an_id_of_another_request_is_refused(plain: Plain) -> None:
    request_id = plain.infer()
    plain.answers([request_id])
    plain.infer(request_id=request_id, latency_ms=1000.0)
    refused = plain.receive()
    assert isinstance(refused, Refusal)
    assert (refused.id, refused.code) == (request_id, "id_reused")


def test_an_answer_can_be_fetched_from_a_new_connection_but_not_by_another_tenant(daemon: PrivateDaemon) -> None:
    with Plain(daemon) as lost, held(worker_of(daemon)):
        request_id = lost.infer()
        assert lost.until_pong() == []
    with Plain(daemon, client=None) as back:
        back.send(Fetch(VERSION, request_id))
        (answer,) = back.answers([request_id])
        assert answer.exit == 2
    with Plain(daemon, "b") as stranger:
        assert stranger.ask(Fetch(VERSION, request_id), Refusal).code == "unknown_id"


def test_a_cancelled_request_ends_as_cancelled_and_only_once(daemon: PrivateDaemon, plain: Plain) -> None:
    before = plain.row()
    with held(worker_of(daemon)):
        running, waiting = plain.infer(), plain.infer()
        for request_id in (running, waiting):
            plain.send(Cancel(VERSION, request_id))
        ends = plain.ends([running, waiting])
    assert {end.code for end in ends.values() if isinstance(end, Failure)} == {"cancelled"}
    # Too late: the end is sent again, and nothing else happens.
    assert plain.ask(Cancel(VERSION, waiting), Failure).code == "cancelled"
    plain.answers([plain.infer()])
    after = plain.row()
    assert (after.accepted - before.accepted, after.failed - before.failed, after.pending) == (3, 2, 0)
    assert plain.stats().worker_restarts == 0


# ---- sharing


def test_tenants_share_batches_and_nothing_else(tmp_path: Path, images: Images) -> None:
    # Nothing is posted behind what runs, so that all who wait are there when the next run is chosen.
    with (
        serving(tmp_path, settings="ahead_us = 0\n" + SETTINGS) as daemon,
        Plain(daemon, "a") as a,
        Plain(daemon, "b") as b,
    ):
        alone = a.answers([a.infer(x) for x in images.inputs[:1]])
        with held(worker_of(daemon)):
            # The first one occupies the engine, so that the others wait for each other.
            ids_a = [a.infer(images.inputs[0])]
            a.until_pong()
            ids_a += [a.infer(x) for x in images.inputs[:3]]
            ids_b = [b.infer(x) for x in images.inputs[3:6]]
            assert a.until_pong() == b.until_pong() == []
        answers_a, answers_b = a.answers(ids_a), b.answers(ids_b)
        shared = [*answers_a[1:], *answers_b]
        assert alone[0].batches == (1, 1, 1)
        assert answers_a[0].batches[0] == 1
        assert {answer.batches[0] for answer in shared} == {6}
        # Deeper, the first one may have joined them.
        assert all(min(answer.batches) >= 6 for answer in shared)
        labels = [answer.label for answer in shared]
        with Plain(daemon, "a") as later:
            assert labels == [later.answers([later.infer(x)])[0].label for x in images.inputs[:6]]


def test_sockets_are_the_owner_s_alone(daemon: PrivateDaemon) -> None:
    for tenant in ("a", "b"):
        path = Path(daemon.endpoint(tenant).removeprefix("ipc://"))
        assert stat.S_IMODE(path.lstat().st_mode) & 0o177 == 0
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.runtime_dir.stat().st_mode) & 0o066 == 0
    assert daemon.runtime_dir.stat().st_uid == os.getuid()
