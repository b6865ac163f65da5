"""Play a journal again: the same events into a fresh core must give the same decisions and ends.

Role: `replay` reads a journal and does to a `Server` what was done then; what it decides and says is compared with what
was recorded, event by event, up to the first difference. Flow: file -> `read_journal` -> core -> `Replayed`, whose
outcomes are those of then. Does not: simulate a device (`what_if.py`), or add up outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..clients.bounds import Bounds
from ..clients.wire import VERSION, Infer, Refusal, TensorSpec
from ..policies.certificates import Certifier
from ..policies.correction_rivals import correction
from ..policies.exits import Asked
from ..policies.policy import PolicyError, make_policy
from ..policies.view import Guard, Run, Served
from ..profiles.costs import Costs
from .budget_events import tell
from .canary import Canaries
from .journal import read_journal
from .journal_records import (
    Advanced,
    AskedNoted,
    Cancelled,
    Chosen,
    ClockConfirmed,
    Closed,
    EnergyRecord,
    Event,
    Expired,
    Heard,
    JournalError,
    Labelled,
    Lost,
    NetworkNoted,
    Opened,
    Ready,
    Reclocked,
    Record,
    Retired,
    Setup,
    Spared,
    Submitted,
    heard,
)
from .reclock import confirm, reclock
from .records import Effect, Ended
from .server import Server
from .simulate import Outcome

TENSORS = (TensorSpec("float32", (1,)),)
# The part of a made-up input that tells it from others.
INPUT_NOTED_BYTES = 4
# A refused request gets no ticket; what it ended with is known at once.
_Open = tuple[str, str, int, Bounds]


class Difference(NamedTuple):
    """The first event whose outcome was another this time: which, when, what it was, and both outcomes."""

    event: int
    now_us: int
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"event {self.event}, {self.what}, at {self.now_us} us: recorded {self.then}; now {self.now}"


class Replayed(NamedTuple):
    """A journal played again. `ended`: why it ends. `difference`: None if everything was as recorded.

    `networks`: by key, those that were served no more in the end among them.
    """

    opened: Opened
    networks: dict[str, NetworkNoted]
    server: Server
    outcomes: list[Outcome]
    events: int
    decisions: int
    span_us: int
    ended: str
    difference: Difference | None


def replay(path: Path, each: Callable[[Event, Asked | None], None] | None = None) -> Replayed:
    """Play a journal again.

    Args:
        each: is shown every event before it is played, a request with what was asked.
    Raises:
        OSError: the file. JournalError: it is not a journal, or this delen knows its policy or correction no more.
    """
    records = read_journal(path)
    opened = next(records)
    assert isinstance(opened, Opened), "read_journal gives it first"
    player = _Player(opened, each)
    difference = player.play(records)
    return Replayed(
        opened=opened,
        networks=player.networks,
        server=player.server,
        outcomes=player.outcomes,
        events=player.events,
        decisions=player.decisions,
        span_us=player.span_us,
        ended=player.ended,
        difference=difference,
    )


def served_of(noted: NetworkNoted, setup: Setup) -> Served:
    """A network as it was served, fresh from its load. Raises JournalError."""
    costs = Costs.of_tables(noted.costs)
    served = Served(
        noted.name,
        noted.version,
        costs,
        None if noted.gates is None else Certifier(noted.gates, costs),
        noted.batch_max,
        noted.hop_us,
        gmac=noted.gmac,
        guard=Guard(*noted.guard),
        key=noted.known_as,
    )
    try:
        served.correction = correction(
            setup.correction, miss_target=setup.miss_target, p95_over_p50=max(1.0, 1 + noted.margin)
        )
    except ValueError as error:
        raise JournalError(f"the journal's correction: {error}") from error
    if served.correction.margin != noted.margin:
        raise JournalError(
            f"network {noted.name} was not served with correction {setup.correction!r}: its margin was {noted.margin}"
        )
    return served


def core_of(setup: Setup) -> Server:
    """A fresh core. Raises JournalError."""
    try:
        policy = make_policy(setup.policy, setup.options)
    except PolicyError as error:
        raise JournalError(f"the journal's {error}") from error
    server = Server(setup.limits, policy, ahead_us=setup.ahead_us, tenants=setup.tenants)
    server.idle.canaries = Canaries(setup.canary_ms * 1000)
    return server


def bounds_of(asked: Asked) -> Bounds:
    """Bounds that ask for exactly this."""
    return Bounds(
        latency_ms=asked.latency_ms,
        accuracy=asked.accuracy,
        energy_mj=asked.energy_mj,
        objective=asked.objective,
        on_miss=asked.on_miss,
        conditions=asked.conditions,
    )


class _Player:
    """A core that is told what a journal says."""

    def __init__(self, opened: Opened, each: Callable[[Event, Asked | None], None] | None) -> None:
        self.server = core_of(opened.setup)
        self.networks: dict[str, NetworkNoted] = {}
        self.outcomes: list[Outcome] = []
        self.events = self.decisions = 0
        self.ended = ""
        self._each = each
        self._asked: list[Asked] = []
        self._setup = opened.setup
        self._start_us: int | None = None
        self._now_us = opened.now_us
        self._open: dict[tuple[str, bytes], _Open] = {}
        # Inputs are not kept; the core only asks how long they are.
        self._payload = memoryview(bytes(opened.setup.limits.payload_bytes_max))

    @property
    def span_us(self) -> int:
        """From the first request to the last event."""
        return 0 if self._start_us is None else self._now_us - self._start_us

    def play(self, records: Iterator[Record]) -> Difference | None:
        """Everything, or up to the first difference."""
        for record in records:
            if isinstance(record, NetworkNoted):
                self._note(record)
            elif isinstance(record, AskedNoted):
                self._asked.append(record.asked)
            elif isinstance(record, Reclocked):
                reclock(self.server, record, self._setup)
            elif isinstance(record, ClockConfirmed):
                confirm(self.server, record)
            elif isinstance(record, EnergyRecord):
                tell(self.server, record)
            elif isinstance(record, Retired):
                self.server.forget(record.keys)
            elif isinstance(record, Spared):
                self.server.spare(record.keys, warm=record.warm)
            elif isinstance(record, Closed):
                self.ended = record.reason
            elif isinstance(record, Opened):
                raise JournalError("the journal is opened twice")
            else:
                difference = self._event(record)
                if difference is not None:
                    return difference
        return None

    def _note(self, noted: NetworkNoted) -> None:
        key = noted.known_as
        self.networks[key] = noted
        # Workers are changed beside each other: this one is there while the one that it goes on for still is.
        like = self.server.networks.get(noted.like)
        if like is None:
            self.server.networks[key] = served_of(noted, self._setup)
        else:
            moved = replace(like, key=key, hop_us=noted.hop_us, ran_us=noted.ran_us, away_until_us=0)
            self.server.networks[key] = moved

    def _event(self, event: Event) -> Difference | None:
        if not isinstance(event, Cancelled):
            self._now_us = event.now_us
        self.events += 1
        if self._each is not None:
            self._each(event, self._asked_by(event) if isinstance(event, Submitted) else None)
        if isinstance(event, Chosen):
            self.decisions += event.run is not None
            run = self.server.next(event.now_us)
            return None if run == event.run else self._differs(event, _run(event.run), _run(run))
        if isinstance(event, Ready):
            self.server.worker_ready(event.now_us, event.keys)
            return None
        said, effects = self._submit(event) if isinstance(event, Submitted) else ("", self._effects(event))
        for effect in effects:
            if isinstance(effect, Ended):
                self._end(effect)
        now: tuple[Heard, ...] = heard(effects)
        if isinstance(event, Submitted) and said != event.said:
            return self._differs(event, event.said, said)
        return None if now == event.heard else self._differs(event, _said(event.heard), _said(now))

    def _effects(self, event: Advanced | Cancelled | Expired | Lost | Labelled) -> list[Effect]:
        if isinstance(event, Advanced):
            return self.server.advance(event.now_us, event.done)
        if isinstance(event, Expired):
            return self.server.expire(event.now_us)
        if isinstance(event, Cancelled):
            return self.server.cancel(event.ticket)
        if isinstance(event, Labelled):
            told = event.tenant, self._led(event.tenant, event.network), event.proof
            return self.server.labelled(event.now_us, *told, wrong=event.wrong)
        return self.server.worker_lost(event.now_us, event.ready_us, event.keys, blame=event.blame)

    def _submit(self, event: Submitted) -> tuple[str, list[Effect]]:
        wanted = self._asked_by(event)
        bounds = bounds_of(wanted)
        self._start_us = event.now_us if self._start_us is None else self._start_us
        name = self._led(event.tenant, event.network)
        infer = Infer(VERSION, event.id, name, TENSORS, bounds)
        payload = _payload(event, self._payload)
        verdict, effects = self.server.submit(event.now_us, event.tenant, infer, wanted, payload)
        if isinstance(verdict, Refusal):
            self.outcomes.append(Outcome(event.tenant, name, event.now_us, event.now_us, bounds, verdict, None))
            return verdict.code, effects
        self._open[event.tenant, event.id] = event.tenant, name, event.now_us, bounds
        return "accepted", effects

    def _led(self, tenant: str, key: str) -> str:
        """The name by which this tenant meant the network with this key; what it says leads there, as it did then."""
        name = self.networks[key].name if key in self.networks else key
        self.server.routes.lead(name, key, tenant)
        return name

    def _asked_by(self, event: Submitted) -> Asked:
        if event.network in self.networks and 0 <= event.asked < len(self._asked):
            return self._asked[event.asked]
        raise JournalError(
            f"event {self.events}: a request to network {event.network!r} with bounds {event.asked}; "
            f"noted so far are {', '.join(self.networks) or 'no networks'} and {len(self._asked)} bounds"
        )

    def _end(self, ended: Ended) -> None:
        tenant, network, sent_us, bounds = self._open.pop((ended.tenant, ended.id))
        self.outcomes.append(Outcome(tenant, network, sent_us, self._now_us, bounds, ended.reply, None))

    def _differs(self, event: Event, then: str, now: str) -> Difference:
        return Difference(self.events, self._now_us, _what(event), then, now)


def _payload(event: Submitted, zeros: memoryview) -> bytes | memoryview:
    """An input as long as that one was, and like others where it was like them."""
    size = event.payload_bytes
    if size < INPUT_NOTED_BYTES:
        return zeros[:size]
    return event.input.to_bytes(INPUT_NOTED_BYTES, "little") + bytes(size - INPUT_NOTED_BYTES)


def _what(event: Event) -> str:
    """An event in words."""
    if isinstance(event, Submitted):
        return f"request {event.id.hex()} of tenant {event.tenant} to {event.network}"
    if isinstance(event, Advanced):
        return f"{type(event.done).__name__} of run {event.done.run}"
    if isinstance(event, Cancelled):
        return f"cancel of ticket {event.ticket}"
    return {Chosen: "decision", Expired: "what was due", Lost: "loss of the worker"}.get(type(event), "event")


def _run(run: Run | None) -> str:
    if run is None:
        return "no run"
    rows = ", ".join(f"{row.ticket} to {row.stop}" + (" gated" if row.gates else "") for row in run.rows[:8])
    more = f" and {len(run.rows) - 8} more" if len(run.rows) > 8 else ""
    return f"run {run.id} of {run.network} from segment {run.first}, {run.predicted_us} us: {rows}{more}"


def _said(said: tuple[Heard, ...]) -> str:
    lines = [" ".join([line.what, line.id.hex(), *map(str, line.numbers)]) for line in said[:8]]
    return "; ".join(lines) or "nothing"
