"""Feedback: the right label of an answer, from the message to the alarm; what is wrong with it is said."""

from __future__ import annotations

import pytest
from msgspec import structs

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Feedback, Hello, Infer, Noted, Refusal, TensorSpec, encode
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.desk import Desk
from delen.daemon.records import Alarm, ExitDone, RowDone
from delen.daemon.server import Server
from delen.tests.simulation import served
from delen.tests.test_desk import info

LABEL = 3


class Office:
    """A desk whose device answers everything with LABEL at the last exit."""

    def __init__(self) -> None:
        self.server = Server(Limits())
        self.server.networks["net"] = served()
        self.server.worker_ready(0)
        self.desk = Desk(self.server, [TenantConfig("a"), TenantConfig("b")], Limits(), "boot")
        self.desk.networks["net"] = info("net")
        self.now_us = 0
        self.alarms: list[Alarm] = []
        for tenant in ("a", "b"):
            self.desk.handle(0, tenant, tenant.encode(), encode(Hello(VERSION, b"h", "c")))

    def answered(self, request_id: bytes, bounds: Bounds | None = None, *, exit_index: int | None = None) -> Answer:
        """`exit_index`: where the device stops; None: where it was told to."""
        infer = Infer(VERSION, request_id, "net", (TensorSpec("float32", (1,)),), bounds or Bounds(accuracy=0.93))
        _, effects = self.desk.handle(self.now_us, "a", b"a", encode(infer, (bytes(4),)))
        while (run := self.server.next(self.now_us)) is not None:
            stop = max(row.stop for row in run.rows) if exit_index is None else exit_index
            self.now_us += 450_000 if exit_index is not None else 0
            rows = tuple(RowDone(row.ticket, LABEL, 0.1, left=True, gated=False) for row in run.rows)
            done = ExitDone(run.id, stop, rows, (), bytes(40) * len(rows), finished=True)
            effects += self.server.advance(self.now_us, done)
        [reply] = [outgoing.reply for outgoing in self.desk.settle(self.now_us, effects)]
        assert isinstance(reply, Answer)
        return reply

    def says(self, request_id: bytes, label: int, tenant: str = "a") -> Noted | Refusal:
        message = encode(Feedback(VERSION, b"f", request_id, label))
        [outgoing], effects = self.desk.handle(self.now_us, tenant, tenant.encode(), message)
        self.alarms += [effect for effect in effects if isinstance(effect, Alarm)]
        assert isinstance(outgoing.reply, Noted | Refusal)
        return outgoing.reply


@pytest.fixture
def office() -> Office:
    return Office()


def test_a_label_is_counted_once(office: Office) -> None:
    office.answered(b"1")
    assert office.says(b"1", LABEL + 1) == Noted(VERSION, b"f", withdrawn=False)
    office.says(b"1", LABEL + 1)
    told = office.server.assurance.told("a")["net"]
    assert (told.labels, told.wrong) == (1, 1)


def test_wrong_answers_beyond_what_was_certified_withdraw_the_certificate(office: Office) -> None:
    for number in range(200):
        request_id = number.to_bytes(2, "big")
        if office.answered(request_id).certificate == "withdrawn":
            break
        office.says(request_id, LABEL + (number % 2))
    assert office.alarms == [Alarm("a", "net", "1", office.alarms[0].reason)]
    assert office.says(request_id, LABEL) == Noted(VERSION, b"f", withdrawn=True)
    assert office.answered(b"next").certificate == "withdrawn"
    assert "b" not in {alarm.tenant for alarm in office.alarms}


def test_a_label_that_is_no_class_is_refused_with_those_there_are(office: Office) -> None:
    office.answered(b"1")
    for label in (-1, 10):
        refused = office.says(b"1", label)
        assert isinstance(refused, Refusal)
        assert (refused.code, "0 to 9" in refused.message) == ("label", True)


def test_only_ones_own_answers_can_be_labelled_and_only_for_a_while(office: Office) -> None:
    office.answered(b"1")
    for known, tenant in ((b"2", "a"), (b"1", "b")):
        refused = office.says(known, LABEL, tenant)
        assert isinstance(refused, Refusal)
        assert refused.code == "unknown_id"
    office.now_us = 61_000_000
    late = office.says(b"1", LABEL)
    assert isinstance(late, Refusal)
    assert "60 s" in late.message


def test_labels_of_answers_without_an_accuracy_bound_raise_no_alarm(office: Office) -> None:
    for number in range(100):
        request_id = number.to_bytes(2, "big")
        office.answered(request_id, Bounds(latency_ms=500))
        assert office.says(request_id, LABEL + 1) == Noted(VERSION, b"f", withdrawn=False)


def test_labels_of_answers_that_said_they_broke_their_accuracy_raise_no_alarm(office: Office) -> None:
    for number in range(100):
        request_id = number.to_bytes(2, "big")
        office.answered(request_id, Bounds(accuracy=0.93, latency_ms=500), exit_index=0)
        assert office.says(request_id, LABEL + 1) == Noted(VERSION, b"f", withdrawn=False)
    assert office.server.assurance.told("a")["net"].wrong == 100


def test_a_label_of_an_older_versions_answer_says_nothing_of_the_one_that_is_served(office: Office) -> None:
    office.answered(b"1")
    office.desk.networks["net"] = structs.replace(office.desk.networks["net"], version="2")
    refused = office.says(b"1", LABEL + 1)
    assert isinstance(refused, Refusal)
    assert "net 1 is served no more" in refused.message
    assert office.server.assurance.told("a").get("net") is None or not office.server.assurance.told("a")["net"].labels
