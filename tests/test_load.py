"""The load generator on a virtual clock: when it sends, what it counts, and that lateness is never hidden."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from delen.clients.errors import BadRequest, DeadlineExceeded, DelenError, QueueFull
from delen.clients.info import NetworkInfo
from delen.clients.inputs import BoundArguments, InputLike
from delen.clients.load import Outcome, Questions, Run, multi_stream, offline, server, single_stream
from delen.clients.load_report import LoadReport, latencies, report
from delen.clients.results import Result
from delen.clients.wire import Answer
from delen.tests.fake_daemon import TOY

if TYPE_CHECKING:
    from typing_extensions import Unpack

INPUTS = [np.eye(3, 4, dtype=np.float32)[index].reshape(1, 2, 2) for index in range(3)]


class FakeAsker:
    """A client of one server that takes `service_us` per request, one at a time, on a clock of its own."""

    def __init__(self, service_us: int, *, send_us: int = 0) -> None:
        self.now_us = 5_000_000
        self.service_us = service_us
        self.send_us = send_us
        self.free_us = 0
        self.sent_us: list[int] = []
        self.outstanding_most = 0
        self.end: Callable[[int], DelenError | None] = lambda index: None
        self.broken: Callable[[int], tuple[str, ...]] = lambda index: ()
        self._events: list[tuple[int, int, Callable[[], None]]] = []

    def clock(self) -> int:
        return self.now_us

    def networks(self) -> tuple[NetworkInfo, ...]:
        self.now_us += 1000
        return (TOY,)

    def begin(
        self,
        network: str,
        x: InputLike,
        on_end: Callable[[Result | DelenError], None],
        *,
        timeout_s: float | None = None,
        **bounds: Unpack[BoundArguments],
    ) -> bytes:
        index = len(self.sent_us)
        sent_us = self.now_us
        self.sent_us.append(sent_us)
        self.now_us += self.send_us
        self.free_us = max(self.free_us, self.now_us) + self.service_us
        ended_us = self.free_us
        error = self.end(index)
        if isinstance(error, BadRequest | QueueFull):
            raise error
        result = Result(_answer(x, self.broken(index)), bytes(12), None, sent_us, ended_us)
        heapq.heappush(self._events, (ended_us, index, lambda: on_end(error or result)))
        self.outstanding_most = max(self.outstanding_most, len(self._events))
        return b""

    def turn(self, wait_us: int) -> None:
        until_us = self.now_us + wait_us
        if self._events and self._events[0][0] <= until_us:
            ended_us, _, tell = heapq.heappop(self._events)
            self.now_us = max(self.now_us, ended_us)
            tell()
        else:
            self.now_us = max(until_us, self.now_us + 1)


def _answer(x: InputLike, broken: tuple[str, ...]) -> Answer:
    return Answer(
        version=1,
        id=b"1",
        network="toy",
        network_version="1",
        tensors=(),
        label=int(np.asarray(x).argmax()),
        exit=1,
        confidence=0.5,
        expected_accuracy=0.9,
        certificate="none",
        queue_us=0,
        compute_us=0,
        total_us=700,
        batches=(1,),
        energy_mj=2.0,
        energy_source="modelled",
        broken=broken,
        stop="bound",
    )


def run(asker: FakeAsker, **more: Any) -> Run:
    arguments = more.pop("arguments", {})
    return Run(asker, Questions("toy", INPUTS, more.pop("labels", None), arguments), clock=asker.clock, **more)


def test_the_open_loop_sends_when_requests_are_due_whatever_the_server_does() -> None:
    asker = FakeAsker(service_us=10_000)
    arrivals_us = np.arange(0, 100_000, 1000)
    outcomes = server(run(asker), arrivals_us)
    start_us = asker.sent_us[0]
    np.testing.assert_array_equal(np.array(asker.sent_us) - start_us, arrivals_us)
    assert len(outcomes) == 100


def test_latency_counts_from_when_a_request_was_due() -> None:
    asker = FakeAsker(service_us=100, send_us=2000)
    summed = report(server(run(asker), np.arange(0, 50_000, 1000)))
    # Sending takes twice as long as requests are apart, so the generator falls behind by 1 ms at each.
    assert summed.lag.max_us == pytest.approx(49_000, abs=2000)
    assert summed.latency.max_us >= 50_000
    assert summed.from_send.p50_us < 5000


def test_counts_accuracy_exits_energy_and_codes_add_up() -> None:
    asker = FakeAsker(service_us=10)
    errors = {3: DeadlineExceeded("late", code="deadline"), 5: QueueFull("full", code="queue_full")}
    asker.end = errors.get
    summed = report(server(run(asker, labels=[0, 1, 0]), np.arange(0, 10_000, 1000)))
    assert (summed.requests, summed.answered, summed.refused, summed.failed) == (10, 8, 1, 1)
    assert summed.codes == {"deadline": 1, "queue_full": 1}
    # Answered are 0, 1, 2, 4, 6, 7, 8, 9; inputs go round, and the third label is wrong on purpose.
    assert summed.accuracy == pytest.approx(6 / 8)
    assert summed.exits == {1: 8}
    assert (summed.energy_mj, summed.energy_source) == (16.0, "modelled")
    assert summed.expected_accuracy == pytest.approx(0.9)
    assert summed.daemon.p50_us == 700


def test_a_bound_is_judged_by_the_clients_clock_and_the_daemons_word_stands_beside_it() -> None:
    asker = FakeAsker(service_us=3000)
    asker.broken = lambda index: ("energy_mj",) if index == 0 else ()
    # Ends come at 3, 6, 9 and 12 ms: with 10 ms the last is late for the client, the first over its energy.
    summed = report(server(run(asker, arguments={"latency_ms": 10}), np.zeros(4, np.int64)))
    assert summed.met == 0.5
    assert summed.met_daemon == 0.75


def test_a_late_generator_is_not_held_against_the_bound() -> None:
    asker = FakeAsker(service_us=100, send_us=2000)
    summed = report(server(run(asker, arguments={"latency_ms": 5}), np.arange(0, 50_000, 1000)))
    assert summed.latency.p50_us > 5000
    assert summed.met == 1.0


def test_a_session_bound_is_judged_by_the_daemons_word() -> None:
    asker = FakeAsker(service_us=10)
    asker.broken = lambda index: ("latency_ms",) if index == 0 else ()
    assert report(server(run(asker), np.arange(0, 4000, 1000))).met == 0.75


def test_a_bad_request_is_the_callers_error() -> None:
    asker = FakeAsker(service_us=10)
    asker.end = lambda index: BadRequest("no", code="shape")
    with pytest.raises(BadRequest):
        server(run(asker), np.zeros(1, np.int64))


def test_single_stream_waits_for_each_answer_and_is_judged_by_p90() -> None:
    asker = FakeAsker(service_us=500)
    summed = report(single_stream(run(asker), count=20), "SingleStream")
    assert asker.outstanding_most == 1
    assert (summed.requests, summed.score_name, summed.score) == (20, "p90_us", 500)


def test_single_stream_goes_on_until_its_time_is_over() -> None:
    asker = FakeAsker(service_us=500)
    assert len(single_stream(run(asker), count=1, duration_s=0.01)) == 20


def test_multi_stream_judges_whole_queries() -> None:
    asker = FakeAsker(service_us=100)
    summed = report(multi_stream(run(asker), count=5), "MultiStream")
    assert asker.outstanding_most == 8
    assert (summed.requests, summed.score_name) == (40, "p99_us")
    assert summed.query.n == 5
    assert summed.score == 800


def test_a_query_with_a_request_unanswered_has_no_latency() -> None:
    asker = FakeAsker(service_us=100)
    asker.end = lambda index: DeadlineExceeded("late", code="deadline") if index == 9 else None
    assert report(multi_stream(run(asker), count=5), "MultiStream").query.n == 4


def test_offline_keeps_the_queue_full_but_not_over_full() -> None:
    asker = FakeAsker(service_us=100)
    summed = report(offline(run(asker), count=200, outstanding_max=16), "Offline")
    assert asker.outstanding_most == 16
    assert summed.score_name == "answered_hz"
    assert summed.score == pytest.approx(10_000)


def test_progress_tells_every_outcome_once_in_its_second() -> None:
    asker = FakeAsker(service_us=10)
    told: dict[int, list[Outcome]] = {}
    arrivals_us = np.array([0, 500_000, 1_200_000, 3_100_000])
    outcomes = server(run(asker, on_second=told.__setitem__), arrivals_us)
    assert {second: len(some) for second, some in told.items()} == {0: 2, 1: 1, 2: 0, 3: 1}
    assert [outcome for some in told.values() for outcome in some] == outcomes


def test_percentiles_are_values_that_occurred() -> None:
    of_hundred = latencies(range(1, 101))
    assert (of_hundred.p50_us, of_hundred.p90_us, of_hundred.p99_us, of_hundred.max_us) == (50, 90, 99, 100)
    assert latencies([7]).p99_us == 7
    assert latencies([]).n == 0


def test_a_run_without_answers_has_a_report_without_shares() -> None:
    asker = FakeAsker(service_us=10)
    asker.end = lambda index: DeadlineExceeded("late", code="deadline")
    summed = report(server(run(asker), np.arange(3)))
    assert (summed.answered, summed.failed, summed.met, summed.accuracy, summed.energy_mj) == (0, 3, None, None, None)
    assert report([]).requests == 0


def test_the_report_survives_json() -> None:
    summed = report(server(run(FakeAsker(service_us=10)), np.arange(3)))
    assert msgspec.json.decode(msgspec.json.encode(summed), type=LoadReport) == summed
