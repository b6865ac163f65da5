"""The simulated core behind the real front desk: what tenants send are messages, and so is what they get.

Role: `DeskSimulation` adds connections, retries, ids used twice and cancels to `Simulation`, and watches what the desk
promises beside the core: whoever asked is answered once on every connection it asked on, a retry never runs twice
within the window, and a kept answer is the one that was first given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from delen.clients.bounds import Bounds, merge
from delen.clients.info import NetworkInfo, Preprocessing
from delen.clients.wire import VERSION, Answer, Cancel, Failure, Fetch, Hello, Infer, Refusal, encode
from delen.daemon.behaviour import payload_of
from delen.daemon.config import TenantConfig
from delen.daemon.desk import Desk, Outgoing
from delen.daemon.records import Effect, ExitDone, RunFailed, RunReturned
from delen.daemon.simulate import Simulation
from delen.policies.exits import asked
from delen.policies.view import Served

Asker = tuple[str, bytes, bytes]
# From so many kept answers on, no script makes a tenant's window close early.
KEPT_ALL = 1024


def info(served: Served) -> NetworkInfo:
    """A network as tenants are told of it: one float in, four classes out."""
    return NetworkInfo(
        name=served.name,
        version=served.version,
        classes=("a", "b", "c", "d"),
        dtype="float32",
        shape=(1,),
        preprocessing=Preprocessing(),
        exits=served.costs.exit_infos(),
        batch_max=served.batch_max,
        engine="replay",
        profile="full",
    )


class DeskSimulation(Simulation):
    """A `Simulation` whose requests come in at the desk."""

    def __init__(self, networks: Sequence[Served], defaults: dict[str, Bounds], **options: Any) -> None:
        """`defaults`: every tenant, and the bounds of its session."""
        super().__init__(networks, **options)
        self.desk = Desk(self.server, [TenantConfig(name) for name in defaults], self.limits, "boot")
        self.desk.networks.update({served.name: info(served) for served in networks})
        self.defaults = defaults
        self._waiting: set[Asker] = set()
        self._first: dict[tuple[str, bytes], Answer | Failure] = {}
        self._accepted: dict[tuple[str, bytes], int] = {}
        self.returned = 0
        # How often a worker says that a run is over and nothing of its rows.
        self.forgetful = 0.0
        for tenant, bounds in defaults.items():
            for route in (b"r", b"s"):
                self.desk.handle(0, tenant, route, encode(Hello(VERSION, b"h", "client", bounds)))

    # ---- what a script may ask for

    def send(self, when_us: int, tenant: str, infer: Infer, route: bytes = b"r") -> None:
        """This request on one of the tenant's two connections, `r` and `s`."""
        self.at(when_us, self._send, tenant, route, infer)

    def take_back(self, when_us: int, tenant: str, request_id: bytes, route: bytes = b"r") -> None:
        """Cancel it, if it is still there."""
        self.at(when_us, self._message, tenant, route, Cancel(VERSION, request_id))

    def fetch(self, when_us: int, tenant: str, request_id: bytes, route: bytes = b"r") -> None:
        """Ask for its end."""
        self.at(when_us, self._message, tenant, route, Fetch(VERSION, request_id))

    def jump(self, when_us: int, by_us: int) -> None:
        """The clock goes on by so much while nobody looks, as after suspend."""
        self.at(when_us, self._jump, by_us)

    def stale(self, when_us: int) -> None:
        """A report comes of a run that was lost or is long over; it must change nothing."""
        self.at(when_us, self._stale)

    def nudge(self, when_us: int) -> None:
        """What the device has is asked to yield, though nobody did."""
        self.at(when_us, self._nudge)

    def settled(self) -> None:
        """Whoever asked has been answered."""
        assert not self._waiting, f"seed {self.seed}: never answered: {sorted(self._waiting)[:5]}"

    # ---- messages

    def _send(self, tenant: str, route: bytes, infer: Infer) -> None:
        account, key = self.server.ledger.account(tenant), (tenant, infer.id)
        before = account.accepted, account.refused
        outgoing, effects = self._handle(tenant, route, infer, (payload_of(infer.id),))
        wanted = asked(merge(self.defaults[tenant], infer.bounds))
        if account.accepted > before[0]:
            again_us = self._accepted.get(key)
            window_us = self.limits.answer_window_ms * 1000
            closed = again_us is None or self.now_us - again_us >= window_us
            assert closed or self.limits.answers_kept_max < KEPT_ALL, f"seed {self.seed}: {infer.id!r} ran twice"
            self._accepted[key] = self.now_us
            self._first.pop(key, None)
            self._judged(tenant, infer, wanted, self.server._tickets)
        elif account.refused > before[1]:
            [refused] = outgoing
            assert isinstance(refused.reply, Refusal)
            self._judged(tenant, infer, wanted, refused.reply)
        self._take(effects)

    def _message(self, tenant: str, route: bytes, message: Cancel | Fetch) -> None:
        _, effects = self._handle(tenant, route, message)
        self._take(effects)

    def _handle(
        self, tenant: str, route: bytes, message: Infer | Cancel | Fetch, tensors: tuple[bytes, ...] = ()
    ) -> tuple[list[Outgoing], list[Effect]]:
        asker = (tenant, message.id, route)
        before = asker in self._waiting
        self._waiting.add(asker)
        outgoing, effects = self.desk.handle(self.now_us, tenant, route, encode(message, tensors))
        self._told(outgoing)
        if before and any(isinstance(told.reply, Refusal) for told in outgoing):
            # That was about this message; what was asked before under the same id still runs.
            self._waiting.add(asker)
        return outgoing, effects

    def _take(self, effects: Iterable[Effect]) -> None:
        effects = list(effects)
        super()._take(effects)
        self._told(self.desk.settle(self.now_us, effects))
        self.desk.learn(self.now_us)

    def _told(self, outgoing: Sequence[Outgoing]) -> None:
        for tenant, route, reply, tensor in outgoing:
            said = f"seed {self.seed}, at {self.now_us} us: {tenant} on {route!r} is told {reply}"
            assert isinstance(reply, Answer | Failure | Refusal), said
            assert (tenant, reply.id, route) in self._waiting, f"{said}, and did not ask"
            self._waiting.discard((tenant, reply.id, route))
            if isinstance(reply, Refusal):
                continue
            assert (tensor is not None) == isinstance(reply, Answer), said
            plain = structs.replace(reply, replayed=False) if isinstance(reply, Answer) else reply
            first = self._first.setdefault((tenant, reply.id), plain)
            assert plain == first, f"{said}, and was told {first} before"

    # ---- faults

    def _jump(self, by_us: int) -> None:
        self.now_us += by_us
        assert self._watch is not None
        self._watch.now(self.now_us)

    def _advance(self, done: ExitDone | RunFailed | RunReturned, generation: int) -> None:
        """A forgetful worker says of some runs that they are over, and nothing of their rows."""
        if isinstance(done, ExitDone) and done.finished and self._forgets():
            steps = tuple(step for step in done.steps if not step.head)
            done = structs.replace(done, rows=(), steps=steps, logits=b"")
        self.returned += isinstance(done, RunReturned)
        super()._advance(done, generation)

    def _forgets(self) -> bool:
        return self.forgetful > 0 and self.random.random() < self.forgetful

    def _nudge(self) -> None:
        self._yields.update(run.id for run in (self._running, self._posted) if run is not None)

    def _stale(self) -> None:
        assert self._watch is not None
        gone = [run for run in self.runs if not self._watch.has(run.id)]
        for run in gone[-1:]:
            for report in (ExitDone(run.id, 0, (), (), b"", True), RunFailed(run.id, "engine", "too late")):
                assert self.server.advance(self.now_us, report) == [], f"seed {self.seed}: {report} had an effect"
