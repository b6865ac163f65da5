"""The last requests as a Chrome trace: JSON that Perfetto and chrome://tracing open.

Role: each tenant is a process, its requests are spans in lanes, with queue and steps inside; the device is a process of
its own, where a step that several requests shared is one span. Pure. Does not: ask the daemon (gateway.py).

Source: "Trace Event Format", Google; complete events (`ph` = X), times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .info import RequestTrace, StepTrace

DEVICE_PID = 1
Event = dict[str, Any]


def chrome_trace(requests: Mapping[str, Sequence[RequestTrace]]) -> dict[str, Any]:
    """All these tenants' requests as one document; times are the daemon's monotonic clock."""
    events = [_named("process_name", DEVICE_PID, 0, "device"), *_device(requests)]
    for pid, (tenant, found) in enumerate(sorted(requests.items()), DEVICE_PID + 1):
        events.append(_named("process_name", pid, 0, f"tenant {tenant}"))
        for lane, request in _lanes(found):
            events += _request(request, pid, lane)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _lanes(requests: Sequence[RequestTrace]) -> Iterator[tuple[int, RequestTrace]]:
    """Each request with the first lane that is free when it comes, so that spans of a lane never overlap."""
    free_us: list[int] = []
    for request in sorted(requests, key=lambda each: each.arrival_us):
        lane = next((i for i, until_us in enumerate(free_us) if until_us <= request.arrival_us), len(free_us))
        if lane == len(free_us):
            free_us.append(0)
        free_us[lane] = request.arrival_us + request.total_us
        yield lane, request


def _request(request: RequestTrace, pid: int, lane: int) -> Iterator[Event]:
    begin_us, end_us = request.arrival_us, request.arrival_us + request.total_us
    told = {
        "id": request.id.hex(),
        "number": request.number,
        "outcome": request.outcome,
        "exit": request.exit,
        "stop": request.stop,
        "broken": ", ".join(request.broken),
        "traceparent": request.traceparent,
    }
    args = {name: value for name, value in told.items() if value not in (None, "")}
    where = {"pid": pid, "tid": lane}
    yield _span(f"{request.network}: {request.outcome}", "request", begin_us, end_us, args, **where)
    queue_us = request.total_us if request.queue_us is None else request.queue_us
    yield _span("queue", "queue", begin_us, begin_us + min(queue_us, request.total_us), {}, **where)
    at_us = begin_us
    for step in request.steps:
        # A report that was read late may reach into the one after it; spans of a lane must not overlap.
        start_us = min(max(at_us, begin_us + step.start_us), end_us)
        at_us = min(start_us + step.took_us, end_us)
        yield _span(_step_name(step), "step", start_us, at_us, {"batch": step.batch}, **where)


def _device(requests: Mapping[str, Sequence[RequestTrace]]) -> Iterator[Event]:
    steps = {
        (request.arrival_us + step.start_us, request.network, step.head, step.index, step.batch, step.took_us)
        for found in requests.values()
        for request in found
        for step in request.steps
    }
    at_us = 0
    for begin_us, network, head, index, batch, took_us in sorted(steps):
        start_us = max(at_us, begin_us)
        at_us = start_us + took_us
        name = f"{network} {_step_name(StepTrace(head, index, batch, 0, took_us))}"
        yield _span(name, "step", start_us, at_us, {"batch": batch}, pid=DEVICE_PID, tid=0)


def _step_name(step: StepTrace) -> str:
    return f"{'head' if step.head else 'segment'} {step.index}"


def _span(
    name: str, category: str, begin_us: int, end_us: int, args: Mapping[str, Any], *, pid: int, tid: int
) -> Event:
    times = {"ts": begin_us, "dur": end_us - begin_us}
    return {"name": name, "cat": category, "ph": "X", **times, "pid": pid, "tid": tid, "args": dict(args)}


def _named(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
