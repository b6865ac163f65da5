"""The Chrome trace: JSON that viewers read, spans of a lane nested and never overlapping, shared steps once."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from delen.clients.gateway_trace import DEVICE_PID, chrome_trace
from delen.clients.info import RequestTrace, StepTrace

SHARED = StepTrace(False, 0, 2, 100, 50)


def request(number: int, arrival_us: int, total_us: int, *steps: StepTrace, **more: Any) -> RequestTrace:
    return RequestTrace(number, b"\x01%d" % number, "net", "answered", arrival_us, total_us, 40, steps=steps, **more)


def spans(document: dict[str, Any], pid: int | None = None) -> list[dict[str, Any]]:
    return [event for event in document["traceEvents"] if event["ph"] == "X" and pid in (None, event["pid"])]


def test_a_request_holds_its_queue_and_steps() -> None:
    document = chrome_trace({"a": [request(1, 1_000, 400, SHARED, exit=1, stop="gate", broken=("latency_ms",))]})
    outer, queue, step = spans(document, DEVICE_PID + 1)
    assert (outer["name"], outer["ts"], outer["dur"]) == ("net: answered", 1_000, 400)
    assert outer["args"] == {"id": "0131", "number": 1, "outcome": "answered", "exit": 1, "stop": "gate"} | {
        "broken": "latency_ms"
    }
    assert (queue["name"], queue["ts"], queue["dur"]) == ("queue", 1_000, 40)
    assert (step["name"], step["ts"], step["dur"], step["args"]) == ("segment 0", 1_100, 50, {"batch": 2})
    names = {event["args"]["name"] for event in document["traceEvents"] if event["ph"] == "M"}
    assert names == {"device", "tenant a"}


def test_a_step_that_tenants_shared_ran_once_on_the_device() -> None:
    second = StepTrace(True, 0, 2, 150, 10)
    document = chrome_trace({"a": [request(1, 0, 400, SHARED, second)], "b": [request(1, 0, 400, SHARED)]})
    assert [(span["name"], span["ts"], span["dur"]) for span in spans(document, DEVICE_PID)] == [
        ("net segment 0", 100, 50),
        ("net head 0", 150, 10),
    ]


def test_nothing_traced_is_a_document_too() -> None:
    assert spans(chrome_trace({})) == []


STEPS = st.builds(
    StepTrace, st.booleans(), st.integers(0, 3), st.integers(1, 8), st.integers(-50, 600), st.integers(0, 90)
)
REQUESTS = st.builds(
    lambda number, arrival, total, steps: request(number, arrival, total, *steps),
    *(st.integers(1, 99), st.integers(0, 1_000), st.integers(0, 500), st.lists(STEPS, max_size=5)),
)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(REQUESTS, max_size=8), max_size=3))
def test_spans_of_a_lane_nest_or_follow_each_other(requests: dict[str, list[RequestTrace]]) -> None:
    document = json.loads(json.dumps(chrome_trace(requests)))
    lanes: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for span in spans(document):
        assert span["dur"] >= 0
        lanes.setdefault((span["pid"], span["tid"]), []).append(span)
    for (pid, _), found in lanes.items():
        outer = [span for span in found if pid == DEVICE_PID or span["cat"] == "request"]
        for before, after in pairwise(sorted(outer, key=lambda span: (span["ts"], span["ts"] + span["dur"]))):
            assert before["ts"] + before["dur"] <= after["ts"]
        for span in found:
            inside = [o for o in outer if o["ts"] <= span["ts"] and span["ts"] + span["dur"] <= o["ts"] + o["dur"]]
            assert inside, span
