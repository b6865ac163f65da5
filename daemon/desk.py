"""The front desk: every message a tenant may send, answered or handed to the core.

Role: between sockets and core. `handle` takes one message of one connection; `settle` takes the core's effects and
finds who waits for them. Checks what only needs the message and the network's manifest; bounds and time are the core's.
Flow: loop -> decode -> `Desk.handle` -> `Server.submit`; `Server.advance` -> `Desk.settle` -> loop.

Does not: touch sockets or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ..clients.info import NetworkInfo
from ..clients.places import name_fault
from ..clients.wire import (
    VERSION,
    Answer,
    BoundsSet,
    Cancel,
    Failure,
    Feedback,
    Fetch,
    Frames,
    Hello,
    Infer,
    NetworkList,
    Networks,
    Noted,
    Ping,
    Pong,
    Refusal,
    Reply,
    Request,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    Welcome,
    WireError,
    decode_request,
)
from .answers import Answers
from .config import Limits, TenantConfig
from .records import Effect, Ended
from .server import Server
from .sessions import Session, Sessions, shown


class Outgoing(NamedTuple):
    """One message to one connection of one tenant."""

    tenant: str
    route: bytes
    reply: Reply
    tensor: bytes | None = None


class WorkerState(NamedTuple):
    """What `stats` says of the worker: `ready`, `starting` or `waiting`, and how often it was started again."""

    state: str
    restarts: int


class _Tenant:
    """Everything the desk keeps of one tenant."""

    def __init__(self, config: TenantConfig, limits: Limits) -> None:
        self.config = config
        self.sessions = Sessions(limits)
        self.answers = Answers(limits)


class Desk:
    """All tenants' connections, seen as messages."""

    def __init__(self, server: Server, tenants: Sequence[TenantConfig], limits: Limits, boot: str) -> None:
        self.networks: dict[str, NetworkInfo] = {}
        self.worker = WorkerState("starting", 0)
        self._server = server
        self._limits = limits
        self._boot = boot
        self.started_us: int | None = None
        self._tenants = {tenant.name: _Tenant(tenant, limits) for tenant in tenants}
        for tenant in tenants:
            server.ledger.account(tenant.name)

    def handle(self, now_us: int, tenant: str, route: bytes, frames: Frames) -> tuple[list[Outgoing], list[Effect]]:
        """Take in one message; returns what to send at once, and the core's effects, for `settle`."""
        if self.started_us is None:
            self.started_us = now_us
        try:
            message = decode_request(frames, self._limits.payload_bytes_max)
        except WireError as error:
            self._server.ledger.account(tenant).refused += 1
            # An unreadable id is answered with one zero byte, so that the client learns what it did wrong.
            refusal = Refusal(VERSION, error.request_id or b"\0", error.code, str(error))
            return [Outgoing(tenant, route, refusal)], []
        known = self._tenants[tenant]
        if isinstance(message, Infer):
            return self._infer(now_us, known, route, message, frames)
        if isinstance(message, Cancel):
            kept = known.answers.find(message.id, now_us)
            effects = self._server.cancel(kept.ticket) if kept is not None and kept.reply is None else []
            if effects and kept is not None and route not in kept.routes:
                # Whoever cancels learns the end too, on whichever connection the request came.
                kept.routes.append(route)
            return ([] if effects else self._fetch(now_us, known, route, message.id)), effects
        if isinstance(message, Fetch):
            return self._fetch(now_us, known, route, message.id), []
        if isinstance(message, Feedback):
            reply, effects = self._feedback(now_us, known, message)
            return [Outgoing(tenant, route, reply)], effects
        return [Outgoing(tenant, route, self._simple(now_us, known, route, message))], []

    def settle(self, now_us: int, effects: Sequence[Effect]) -> list[Outgoing]:
        """Who must be told of these effects."""
        outgoing: list[Outgoing] = []
        for effect in effects:
            if isinstance(effect, Ended):
                known = self._tenants[effect.tenant]
                routes = known.answers.end(effect.id, effect.reply, effect.tensor, now_us)
                outgoing += [_ended(effect.tenant, route, effect.reply, effect.tensor) for route in routes]
        return outgoing

    def visible(self, tenant: TenantConfig) -> list[NetworkInfo]:
        """The networks this tenant may use."""
        return [n for n in self.networks.values() if tenant.networks is None or n.name in tenant.networks]

    # ---- requests

    def _infer(
        self, now_us: int, known: _Tenant, route: bytes, infer: Infer, frames: Frames
    ) -> tuple[list[Outgoing], list[Effect]]:
        tenant = known.config.name
        session = known.sessions.find(route, now_us)
        if session is None:
            refusal = Refusal(VERSION, infer.id, "hello_required", "say hello first on this connection")
            return [Outgoing(tenant, route, refusal)], []
        kept = known.answers.find(infer.id, now_us)
        if kept is not None:
            if kept.infer != infer:
                said = "this id belongs to another request of yours; ids must be new for every request"
                return [Outgoing(tenant, route, Refusal(VERSION, infer.id, "id_reused", said))], []
            return self._fetch(now_us, known, route, infer.id), []
        fault = self._input_fault(known, infer)
        if fault is not None:
            self._server.ledger.account(tenant).refused += 1
            return [Outgoing(tenant, route, fault)], []
        wanted = session.asked_for(infer.network, infer.bounds)
        verdict, effects = self._server.submit(now_us, tenant, infer, wanted, frames[1])
        if isinstance(verdict, Refusal):
            return [Outgoing(tenant, route, verdict)], effects
        known.answers.begin(infer, verdict, route)
        return [], effects

    def _input_fault(self, known: _Tenant, infer: Infer) -> Refusal | None:
        """What is wrong with the network's name or the input, whoever asks and whatever the load."""
        network = self.networks.get(infer.network)
        allowed = known.config.networks
        if network is None or (allowed is not None and infer.network not in allowed):
            names = ", ".join(sorted(n.name for n in self.visible(known.config))) or "none"
            return Refusal(
                VERSION, infer.id, "unknown_network", f"no network {infer.network!r:.80}; yours are: {names}"
            )
        spec = infer.tensors[0]
        if spec.dtype != network.dtype:
            said = f"{network.name} takes {network.dtype}, not {spec.dtype}"
            return Refusal(VERSION, infer.id, "dtype", said)
        if spec.shape != network.shape:
            said = f"{network.name} takes one input of shape {list(network.shape)}, not {list(spec.shape)}"
            return Refusal(VERSION, infer.id, "shape", said)
        return None

    def _fetch(self, now_us: int, known: _Tenant, route: bytes, request_id: bytes) -> list[Outgoing]:
        """Answer from the window, or wait with the others for the end."""
        tenant = known.config.name
        kept = known.answers.find(request_id, now_us)
        if kept is None:
            said = "no request of yours with this id is running or kept"
            return [Outgoing(tenant, route, Refusal(VERSION, request_id, "unknown_id", said))]
        if kept.reply is None:
            if route not in kept.routes:
                kept.routes.append(route)
            return []
        reply = replace(kept.reply, replayed=True) if isinstance(kept.reply, Answer) else kept.reply
        return [_ended(tenant, route, reply, kept.tensor)]

    def _feedback(self, now_us: int, known: _Tenant, message: Feedback) -> tuple[Reply, list[Effect]]:
        """A label for an answer still in the window: the truth that audits cannot know."""
        kept, name = known.answers.find(message.answered, now_us), known.config.name
        if kept is None or not isinstance(kept.reply, Answer):
            window_s = self._limits.answer_window_ms / 1000
            said = f"no answer of yours to this id is kept; labels are taken for {window_s:g} s after it"
            return Refusal(VERSION, message.id, "unknown_id", said), []
        answered = kept.reply
        classes = len(self.networks[answered.network].classes)
        if not 0 <= message.label < classes:
            said = f"label {message.label}; {answered.network} has classes 0 to {classes - 1}"
            return Refusal(VERSION, message.id, "label", said), []
        effects: list[Effect] = []
        if not kept.labelled:
            # One label per answer: said twice, it is no second proof.
            kept.labelled = True
            wrong = message.label != answered.label
            # Of an answer that broke its accuracy nothing was claimed, so it proves nothing against the certificate.
            proof = None if "accuracy" in answered.broken else answered.proof
            effects = self._server.labelled(now_us, name, answered.network, proof, wrong=wrong)
        return Noted(VERSION, message.id, self._server.assurance.withdrawn(name, answered.network)), effects

    # ---- everything else

    def _simple(self, now_us: int, known: _Tenant, route: bytes, message: Request) -> Reply:
        if isinstance(message, Ping):
            return Pong(VERSION, message.id)
        if isinstance(message, Hello):
            return self._hello(now_us, known, route, message)
        session = known.sessions.find(route, now_us)
        if session is None:
            return Refusal(VERSION, message.id, "hello_required", "say hello first on this connection")
        if isinstance(message, Networks):
            return NetworkList(VERSION, message.id, tuple(self.visible(known.config)))
        if isinstance(message, Stats):
            return self._stats(now_us, known, message)
        assert isinstance(message, SetBounds | SetConditions)
        return self._set(known, session, message)

    def _hello(self, now_us: int, known: _Tenant, route: bytes, message: Hello) -> Reply:
        fault = name_fault("client", message.client)
        if fault:
            return Refusal(VERSION, message.id, "malformed", fault)
        session = known.sessions.open(message.client, route, message.bounds, now_us)
        return Welcome(
            version=VERSION,
            id=message.id,
            tenant=known.config.name,
            boot=self._boot,
            answer_window_ms=self._limits.answer_window_ms,
            payload_bytes_max=self._limits.payload_bytes_max,
            queued_max=self._limits.queued_max,
            bounds=shown(session.bounds),
        )

    def _set(self, known: _Tenant, session: Session, message: SetBounds | SetConditions) -> Reply:
        if isinstance(message, SetBounds):
            # The whole of the session's bounds: what is left out is taken back, and whoever spoke last is obeyed.
            session.bounds = message.bounds
            if isinstance(message.bounds.accuracy, float) or isinstance(message.bounds.energy_mj, float):
                session.conditions.clear()
            return BoundsSet(VERSION, message.id, shown(session.bounds))
        network = self.networks.get(message.network)
        if network is None or network not in self.visible(known.config):
            return Refusal(VERSION, message.id, "unknown_network", f"no network {message.network!r:.80}")
        if message.conditions is None:
            session.conditions.pop(message.network, None)
        elif len(message.conditions) != len(network.exits):
            said = f"conditions for {len(message.conditions)} exits; {network.name} has {len(network.exits)}"
            return Refusal(VERSION, message.id, "bounds", said)
        else:
            session.conditions[message.network] = message.conditions
        return BoundsSet(VERSION, message.id, shown(session.bounds))

    def _stats(self, now_us: int, known: _Tenant, message: Stats) -> StatsReply:
        return StatsReply(
            version=VERSION,
            id=message.id,
            uptime_us=now_us - (now_us if self.started_us is None else self.started_us),
            queued=self._server.pending_count,
            worker=self.worker.state,
            worker_restarts=self.worker.restarts,
            tenants=tuple(
                replace(account.stats(), drift=self._server.assurance.told(name))
                for name, account in self._server.ledger.accounts.items()
                if known.config.sees_all or name == known.config.name
            ),
        )


def _ended(tenant: str, route: bytes, reply: Answer | Failure, tensor: bytes) -> Outgoing:
    return Outgoing(tenant, route, reply, tensor if isinstance(reply, Answer) else None)
