"""The front desk: every message a tenant may send, answered or handed to the core.

Role: between sockets and core. `handle` takes one message of one connection; `settle` takes the core's effects and
finds who waits for them. Checks what only needs the message and the network's manifest; bounds and time are the core's.
Flow: loop -> decode -> `Desk.handle` -> `Server.submit`; `Server.advance` -> `Desk.settle` -> loop.

Does not: touch sockets or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ..clients.info import NetworkInfo
from ..clients.places import name_fault
from ..clients.wire import (
    VERSION,
    Adapt,
    Answer,
    Cancel,
    Failure,
    Feedback,
    Fetch,
    Frames,
    Hello,
    Infer,
    Manage,
    NetworkList,
    Networks,
    Noted,
    Offer,
    Ping,
    Pong,
    Refusal,
    Reply,
    Request,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    Traces,
    Welcome,
    WireError,
    decode_request,
)
from . import partings
from .answers import Answers, Kept, mark_of
from .budget_events import adapted
from .config import Limits, TenantConfig
from .guard import Manners
from .metering import Metering
from .overview import device_energy, stats_reply, trace_list
from .records import Effect, Ended, Wanted
from .server import Server
from .sessions import Sessions, shown
from .traces import TraceRing


class Outgoing(NamedTuple):
    """One message to one connection of one tenant."""

    tenant: str
    route: bytes
    reply: Reply
    tensor: bytes | None = None


class WorkerState(NamedTuple):
    """What `stats` says of the worker: `ready`, `starting` or `waiting`, how often it was started again, its spare."""

    state: str
    restarts: int
    spare: str = ""


class _Tenant:
    """Everything the desk keeps of one tenant."""

    def __init__(self, config: TenantConfig, limits: Limits) -> None:
        self.sessions = Sessions(limits)
        self.answers = Answers(limits)
        self.traces = TraceRing(limits.traces_max)
        self.manners = Manners(
            malformed_max=limits.malformed_max,
            window_us=limits.malformed_window_ms * 1000,
            cool_us=limits.cool_ms * 1000,
        )
        self.configure(config, limits)

    def configure(self, config: TenantConfig, limits: Limits) -> None:
        """What the operator says of it, now or from now on."""
        self.config = config
        self.payload_bytes_max = min(limits.payload_bytes_max, config.payload_bytes_max or limits.payload_bytes_max)


class Desk:
    """All tenants' connections, seen as messages."""

    def __init__(self, server: Server, tenants: Sequence[TenantConfig], limits: Limits, boot: str) -> None:
        self.networks: dict[str, NetworkInfo] = {}
        self.worker = WorkerState("starting", 0)
        self.metering = Metering()
        self._server = server
        self._limits = limits
        self._boot = boot
        self.started_us: int | None = None
        # Nothing new comes in; what was accepted is finished, and everything else answered as ever.
        self.closing = False
        # Likewise while the daemon is short of memory: what it has, and may have.
        self.shedding = ""
        # Of inputs, since somebody looked whether there is memory for them (pressure.py).
        self.taken_bytes = 0
        self._unmarked: list[Kept] = []
        self._untidy: list[Answers] = []
        self._tenants = {tenant.name: _Tenant(tenant, limits) for tenant in tenants}
        for tenant in tenants:
            server.ledger.account(tenant.name)

    def handle(self, now_us: int, tenant: str, route: bytes, frames: Frames) -> tuple[list[Outgoing], list[Effect]]:
        """Take in one message; returns what to send at once, and the core's effects, for `settle`."""
        if self.started_us is None:
            self.started_us = now_us
        outgoing, effects = self._handle(now_us, tenant, route, frames)
        for told in outgoing:
            if isinstance(told.reply, Refusal):
                self._server.ledger.account(tenant).book_refusal(told.reply.code)
        return outgoing, effects

    def _handle(self, now_us: int, tenant: str, route: bytes, frames: Frames) -> tuple[list[Outgoing], list[Effect]]:
        known = self._tenants[tenant]
        try:
            message = decode_request(frames, known.payload_bytes_max)
        except WireError as error:
            self._server.ledger.account(tenant).refused += 1
            return [Outgoing(tenant, route, self._unreadable(now_us, known, error))], []
        if isinstance(message, Infer):
            return self._infer(now_us, known, route, message, frames)
        if isinstance(message, Cancel):
            kept = known.answers.find(message.id, now_us)
            if kept is not None and kept.reply is None and (effects := self._server.cancel(kept.ticket)):
                # Whoever cancels learns the end too, on whichever connection the request came.
                return self._join(known, route, kept), effects
            return self._fetch(now_us, known, route, message.id), []
        if isinstance(message, Fetch):
            return self._fetch(now_us, known, route, message.id), []
        if isinstance(message, Manage):
            if known.config.manages:
                return [], [Wanted(tenant, route, message)]
            said = "this tenant may not change what is served; the operator says who may (manages = true)"
            return [Outgoing(tenant, route, Refusal(VERSION, message.id, "not_allowed", said))], []
        if isinstance(message, Feedback):
            reply, effects = self._feedback(now_us, known, message)
            return [Outgoing(tenant, route, reply)], effects
        return [Outgoing(tenant, route, self._simple(now_us, known, route, message))], []

    def settle(self, now_us: int, effects: Sequence[Effect]) -> list[Outgoing]:
        """Who must be told of these effects."""
        outgoing: list[Outgoing] = []
        for effect in effects:
            if isinstance(effect, Ended):
                known, reply = self._tenants[effect.tenant], effect.reply
                answers = known.answers
                routes = answers.end(effect.id, reply, effect.tensor, now_us)
                if answers not in self._untidy:
                    self._untidy.append(answers)
                if effect.trail is not None:
                    known.traces.add(now_us, reply, effect.trail)
                outgoing += [_ended(effect.tenant, route, reply, effect.tensor) for route in routes]
        return outgoing

    def learn(self, now_us: int) -> None:
        """What nobody waits for: inputs of newcomers leave their marks, and windows close on what is over."""
        if self._unmarked:
            for kept in self._unmarked:
                kept.keep_mark()
            self._unmarked.clear()
        if self._untidy:
            for answers in self._untidy:
                answers.tidy(now_us)
            self._untidy.clear()

    def turned_away(
        self, now_us: int, tenant: str, route: bytes, frames: Frames
    ) -> tuple[list[Outgoing], list[Effect]]:
        """A message of somebody whose rights have ended since the connection was made: nothing of it is done."""
        try:
            request_id = decode_request(frames, self._tenants[tenant].payload_bytes_max).id
        except WireError as error:
            request_id = error.request_id or b"\0"
        account = self._server.ledger.account(tenant)
        account.refused += 1
        account.book_refusal("revoked")
        said = "your right to ask as this tenant has ended; ask the daemon's operator, then connect again"
        return [Outgoing(tenant, route, Refusal(VERSION, request_id, "revoked", said))], self.leave(tenant, route)

    def leave(self, tenant: str, route: bytes) -> list[Effect]:
        """Nobody with rights is on this connection any more: end what only it waits for. Returns what to settle."""
        known = self._tenants.get(tenant)
        if known is None:
            return []
        known.sessions.forget(route)
        tickets = known.answers.left(route)
        return partings.with_reason(
            [effect for ticket in tickets for effect in self._server.cancel(ticket)],
            code="cancelled",
            message="the right to ask as this tenant has ended",
        )

    def change(self, tenants: Sequence[TenantConfig]) -> None:
        """Serve these from now on. Of those that go, everything has been cut off; of those that stay, all is kept."""
        before, self._tenants = self._tenants, {}
        for tenant in tenants:
            known = self._tenants[tenant.name] = before.get(tenant.name) or _Tenant(tenant, self._limits)
            known.configure(tenant, self._limits)
            self._server.ledger.account(tenant.name)

    def configured(self) -> list[TenantConfig]:
        """Whom it serves, as the operator says."""
        return [known.config for known in self._tenants.values()]

    def cooling_until(self, tenant: str) -> int | None:
        """Until when nothing should be read from this tenant, who has sent too much that is malformed."""
        return self._tenants[tenant].manners.until_us

    def visible(self, tenant: TenantConfig) -> list[NetworkInfo]:
        """The networks this tenant may use."""
        allowed = [n for n in self.networks.values() if tenant.networks is None or n.name in tenant.networks]
        return [self.metering.network(network) for network in allowed]

    # ---- requests

    def cut_off(self, code: str, message: str, tenants: Iterable[str] | None = None) -> list[Effect]:
        """End all that has not ended of these tenants, None: of all, with a typed error; returns what to settle."""
        names = self._tenants if tenants is None else tenants
        tickets = [ticket for name in names for ticket in self._tenants[name].answers.running()]
        effects = [effect for ticket in tickets for effect in self._server.cancel(ticket)]
        return partings.with_reason(effects, code=code, message=message)

    def _infer(
        self, now_us: int, known: _Tenant, route: bytes, infer: Infer, frames: Frames
    ) -> tuple[list[Outgoing], list[Effect]]:
        tenant = known.config.name
        session = known.sessions.find(route, now_us)
        if session is None:
            return [Outgoing(tenant, route, partings.stranger(infer.id, self._limits))], []
        kept = known.answers.find(infer.id, now_us)
        if kept is not None:
            if kept.infer != infer or kept.keep_mark() != mark_of(frames[1]):
                said = "this id belongs to another request of yours; ids must be new for every request"
                return [Outgoing(tenant, route, Refusal(VERSION, infer.id, "id_reused", said))], []
            return self._fetch(now_us, known, route, infer.id), []
        fault = (
            partings.closing(infer) if self.closing else partings.short(infer, self.shedding) if self.shedding else None
        )
        fault = fault or self._input_fault(known, infer)
        if fault is not None:
            self._server.ledger.account(tenant).refused += 1
            return [Outgoing(tenant, route, fault)], []
        wanted = session.asked_for(infer.network, infer.bounds)
        deepest = known.config.deepest_exit.get(infer.network)
        if deepest is not None:
            wanted = wanted._replace(deepest=deepest)
        fault = self.metering.refusal(infer, wanted)
        if fault is not None:
            self._server.ledger.account(tenant).refused += 1
            return [Outgoing(tenant, route, fault)], []
        verdict, effects = self._server.submit(now_us, tenant, infer, wanted, frames[1])
        if isinstance(verdict, Refusal):
            return [Outgoing(tenant, route, verdict)], effects
        self.taken_bytes += len(frames[1])
        self._unmarked.append(known.answers.begin(infer, frames[1], verdict, route))
        return [], effects

    def _unreadable(self, now_us: int, known: _Tenant, error: WireError) -> Refusal:
        # An unreadable id is answered with one zero byte, so that the client learns what it did wrong.
        request_id, limits = error.request_id or b"\0", self._limits
        if error.code not in ("malformed", "version") or not known.manners.malformed(now_us):
            return Refusal(VERSION, request_id, error.code, str(error))
        said = f"{limits.malformed_max} malformed messages in {limits.malformed_window_ms} ms (limits.malformed_max in"
        said = f"{said} malformed_window_ms), so nothing of this tenant is read for {limits.cool_ms} ms (cool_ms). The"
        said = f"{said} last: {error}"
        return Refusal(VERSION, request_id, "cooling", said, Offer(retry_after_ms=float(limits.cool_ms)))

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
            return [Outgoing(tenant, route, partings.unknown(request_id, self._limits))]
        if kept.reply is None:
            return self._join(known, route, kept)
        reply = replace(kept.reply, replayed=True) if isinstance(kept.reply, Answer) else kept.reply
        return [_ended(tenant, route, reply, kept.tensor)]

    def _join(self, known: _Tenant, route: bytes, kept: Kept) -> list[Outgoing]:
        """Wait with the others; who makes room for that is told so, for it is told no end."""
        gone = kept.join(route, self._limits.waiting_routes_max)
        return [Outgoing(known.config.name, one, partings.displaced(kept.infer.id, self._limits)) for one in gone]

    def _feedback(self, now_us: int, known: _Tenant, message: Feedback) -> tuple[Reply, list[Effect]]:
        """A label for an answer still in the window: the truth that audits cannot know."""
        kept, name = known.answers.find(message.answered, now_us), known.config.name
        if kept is None or not isinstance(kept.reply, Answer):
            said = "no answer of yours to this id is kept for a label"
            return partings.unknown(message.id, self._limits, said), []
        answered = kept.reply
        network = self.networks.get(answered.network)
        if network is None or network.version != answered.network_version:
            said = f"{answered.network} {answered.network_version} is served no more"
            return Refusal(VERSION, message.id, "unknown_network", said), []
        classes = len(network.classes)
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
        withdrawn = self._server.assurance.withdrawn(name, network.name, network.version)
        return Noted(VERSION, message.id, withdrawn), effects

    # ---- everything else

    def _simple(self, now_us: int, known: _Tenant, route: bytes, message: Request) -> Reply:
        if isinstance(message, Ping):
            return Pong(VERSION, message.id)
        if isinstance(message, Hello):
            return self._hello(now_us, known, route, message)
        session = known.sessions.find(route, now_us)
        if session is None:
            return partings.stranger(message.id, self._limits)
        if isinstance(message, Networks):
            return NetworkList(VERSION, message.id, tuple(self.visible(known.config)))
        if isinstance(message, Stats):
            return self._stats(now_us, known, message)
        if isinstance(message, Traces):
            return self._traces(now_us, known, message)
        if isinstance(message, Adapt):
            return adapted(self._server, now_us, known.config.name, message, self.visible(known.config))
        assert isinstance(message, SetBounds | SetConditions)
        return session.set(message, self.visible(known.config))

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
            payload_bytes_max=known.payload_bytes_max,
            queued_max=min(self._limits.queued_max, known.config.queued_max or self._limits.queued_max),
            bounds=shown(session.bounds),
        )

    def _stats(self, now_us: int, known: _Tenant, message: Stats) -> StatsReply:
        sees_all, own = known.config.sees_all, known.config.name
        names = [name for name in self._server.ledger.accounts if sees_all or name == own]
        uptime_us = now_us - (now_us if self.started_us is None else self.started_us)
        device = (*self.worker, self.metering.info, device_energy(self._server, now_us))
        return stats_reply(message, self._server, names, all_seen=sees_all, uptime_us=uptime_us, device=device)

    def _traces(self, now_us: int, known: _Tenant, message: Traces) -> Reply:
        asked = message.tenant or known.config.name
        of = self._tenants.get(asked) if known.config.sees_all or asked == known.config.name else None
        if of is None:
            return Refusal(VERSION, message.id, "unknown_tenant", f"no tenant {asked!r:.80}")
        return trace_list(message, of.traces, now_us)


def _ended(tenant: str, route: bytes, reply: Answer | Failure, tensor: bytes) -> Outgoing:
    return Outgoing(tenant, route, reply, tensor if isinstance(reply, Answer) else None)
