"""What passes between the core and its driver: events in, effects out, and the state of one request.

Role: the vocabulary of `server.py`. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ..clients.wire import Answer, Failure, Infer, Manage
from ..policies.device_clock import DeviceClock
from ..policies.exits import Asked, ExitPlan
from ..policies.view import NEVER_US, Row, Run, Served, Waiting

Payload = bytes | memoryview


class RowDone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One row's answer at an exit. `left`: it has left the run here; `gated`: because its gate let it go."""

    ticket: int
    label: int
    confidence: float
    left: bool
    gated: bool


class StepDone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One segment or head that ran: on how many rows, how long."""

    head: bool
    index: int
    batch: int
    took_us: int


class ExitDone(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="exit_done"):
    """A run reached an exit where something happened. `steps`: what ran since the last such message.

    `logits`: raw little-endian float32, one row of classes for each of `rows`. `finished`: the run is over.
    """

    run: int
    exit: int
    rows: tuple[RowDone, ...]
    steps: tuple[StepDone, ...]
    logits: bytes
    finished: bool


class RunFailed(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="run_failed"):
    """The engine could not do this run; the worker lives. `kind` is the EngineFault's."""

    run: int
    kind: str
    message: str


class RunReturned(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="run_returned"):
    """A run that was asked to yield before it began: nothing of it ran."""

    run: int


class Ran(NamedTuple):
    """What ran for a request until a report: these steps one after the other, heads only if they `looked` at it."""

    reported_us: int
    looked: bool
    steps: tuple[StepDone, ...]


@dataclass(eq=False, slots=True)
class Request:
    """An accepted request that has not ended: what was asked, where it stands, what it has been charged.

    `suspect`: its input was running when a worker died, and it runs alone; `tried_by_us`: when it ends where that would
    have harmed others all the time.
    """

    tenant: str
    id: bytes
    infer: Infer
    payload: Payload
    asked: Asked
    plan: ExitPlan
    waiting: Waiting
    energy_mj: float | None = 0.0
    compute_us: int = 0
    batches: list[int] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    started_us: int | None = None
    label: int = -1
    confidence: float = 0.0
    logits: bytes = b""
    gated: bool = False
    retries: int = 0
    late: bool = False
    dropped: bool = False
    suspect: bool = False
    tried_by_us: int = NEVER_US


@dataclass(eq=False, slots=True)
class Flight:
    """A run the device has: rows still in it, whose they are, and what it took so far against the profile.

    `ends_us`: when it should be over, nearly always; `likely_us`: when the engine is likely to be done; `must_us`: when
    the part of it that deadlines need should be.
    `overdue_us`: when it has taken far too long. `ask_us`: the earliest time to ask, so that it still does what it
    must; `yield_at_us`: when it will be asked. `looked_ahead`: what could run behind it has been looked at.
    `audit`: its rows are answered already, see `audits.py`; `canary`: nobody's, see `canary.py`.
    `left`: those cancelled while it had them. `clock`: what it sets, where it says a clock; at the highest its segments
    would take `top_us`; `switch_us`: what the change takes first.
    """

    run: Run
    rows: dict[int, Row]
    owners: dict[int, str]
    posted_us: int
    ends_us: int
    likely_us: int
    must_us: int
    ask_us: int
    served: Served
    bounded: bool
    timed: bool
    overdue_us: int
    observed_us: int = 0
    profiled_us: float = 0.0
    yielding: bool = False
    yield_at_us: int | None = None
    looked_ahead: bool = False
    audit: bool = False
    canary: bool = False
    left: list[Request] = field(default_factory=list)
    clock: DeviceClock | None = None
    top_us: float = 0.0
    switch_us: int = 0


class Trail(NamedTuple):
    """The way of a request, for those who look at it later."""

    infer: Infer
    arrival_us: int
    started_us: int | None
    ran: Sequence[Ran]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """Effect: this request has ended so; hand it to whoever waits for it."""

    tenant: str
    id: bytes
    reply: Answer | Failure
    tensor: bytes
    trail: Trail | None = None


class Yield(msgspec.Struct, frozen=True, gc=False):
    """Effect: ask this run to stop at its next exit, or not to begin."""

    run: int


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Effect: the worker may drop the features of these requests."""

    tickets: tuple[int, ...]


class Restart(msgspec.Struct, frozen=True, gc=False):
    """Effect: the worker of the network with this key does not answer; kill it and start another."""

    reason: str
    key: str


class Alarm(msgspec.Struct, frozen=True, gc=False):
    """Effect: this tenant's certificates for this network are withdrawn; somebody should be told."""

    tenant: str
    network: str
    version: str
    reason: str

    @property
    def said(self) -> str:
        """For the operator."""
        said = f"{self.network} for tenant {self.tenant}: certificate withdrawn, {self.reason}"
        return f"{said}; its inputs have changed: recalibrate: delen calibrate {self.network} --data DATA"


class Told(msgspec.Struct, frozen=True, gc=False):
    """Effect: the operator should know this."""

    text: str


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Effect: somebody who may wants other networks served; who is told when they are."""

    tenant: str
    route: bytes
    message: Manage


Effect = Ended | Yield | Forget | Restart | Alarm | Told | Wanted
