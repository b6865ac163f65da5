"""The codec and the front desk as a fuzzer's target: any frames in, and everything that must hold of what comes out.

Role: `Target.feed` gives frames to `Desk.handle` as the loop does, and checks the reply a client would get: typed, in
WIRE.md, readable by a client, about what was asked. Flow: a test -> `feed` -> now and then `run`, which answers what
was accepted. Does not: make messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from delen.clients import wire
from delen.clients.wire import (
    HEADER_BYTES_MAX,
    VERSION,
    Answer,
    Cancel,
    Failure,
    Feedback,
    Fetch,
    Hello,
    Infer,
    Manage,
    Noted,
    Refusal,
    Request,
    WireError,
    decode_reply,
    decode_request,
    encode,
)
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.desk import Desk, Outgoing
from delen.daemon.records import Effect, ExitDone, RowDone, StepDone
from delen.daemon.server import Server
from delen.tests.desk_simulation import info
from delen.tests.simulation import served

PAYLOAD_BYTES_MAX = 4096
# Of `net`, as `desk_simulation.info` tells it.
CLASSES = 4
# The longest thing that is said to a tenant, whatever it sent.
TEXT_CHARS_MAX = 2000
# Nothing a fuzzer sends is to be cooled down: then it would not be looked at.
LIMITS = Limits(malformed_max=10**9, payload_bytes_max=PAYLOAD_BYTES_MAX)


def _codes() -> dict[str, set[str]]:
    """`refusal` and `error`: the codes that WIRE.md gives them."""
    page = Path(wire.__file__).with_name("WIRE.md").read_text().split("## Codes")[1]
    found: dict[str, set[str]] = {"refusal": set(), "error": set()}
    for names, kinds in re.findall(r"^\| (`[^|]*`) \| ([a-z, ]+) \|", page, re.MULTILINE):
        for kind in kinds.split(", "):
            found[kind] |= set(re.findall(r"`(\w+)`", names))
    return found


CODES = _codes()


def _is_label(message: Request) -> bool:
    return isinstance(message, Feedback) and 0 <= message.label < CLASSES


def _read(frames: Sequence[bytes | memoryview]) -> Request | WireError:
    try:
        return decode_request(frames, PAYLOAD_BYTES_MAX)
    except WireError as error:
        return error


class Target:
    """One desk with tenants `a` and `b`, a network `net` that takes one float, and a connection `r` that said hello."""

    def __init__(self) -> None:
        self.server = Server(LIMITS)
        self.desk = Desk(self.server, [TenantConfig("a"), TenantConfig("b", sees_all=True)], LIMITS, "boot")
        network = served("net", gates=False)
        self.server.networks["net"] = network
        self.desk.networks["net"] = info(network)
        self.server.worker_ready(0)
        self.now_us = 0
        self.feed(encode(Hello(VERSION, b"hi", "client")))

    def feed(self, frames: Sequence[bytes | memoryview], route: bytes = b"r", tenant: str = "a") -> str:
        """What these frames led to: `accepted`, a code, or the name of a reply's kind. Raises AssertionError."""
        self.now_us += 10
        outgoing, effects = self.desk.handle(self.now_us, tenant, route, frames)
        mine = [told for told in outgoing if told.route == route]
        settled = self.desk.settle(self.now_us, effects)
        for told in (*outgoing, *settled):
            self._check(told)
        assert len(mine) == len(outgoing) <= 1, "at most one reply, to who asked"
        message = _read(frames)
        if isinstance(message, WireError):
            [told] = mine
            assert isinstance(told.reply, Refusal)
            # Whether depth at the edge of the stack is legible depends on who asks.
            assert told.reply.id in (message.request_id, b"\0")
            assert not effects
            return told.reply.code
        # An infer waits, and so do those that ask for its end; a tenant that manages nothing is refused.
        waits = isinstance(message, Infer | Fetch | Cancel)
        assert mine or settled or waits, f"{message} is not answered"
        assert not isinstance(message, Manage) or mine
        for told in mine:
            assert told.reply.id == message.id
            assert not isinstance(told.reply, Noted) or _is_label(message)
            return told.reply.code if isinstance(told.reply, Refusal) else type(told.reply).__name__
        return "accepted"

    def tell(self, effects: Sequence[Effect]) -> int:
        """Settle what the core did; how many replies that made."""
        told = self.desk.settle(self.now_us, effects)
        for one in told:
            self._check(one)
        return len(told)

    def run(self) -> int:
        """Let the device take every run there is; how many replies that made."""
        count = 0
        while (run := self.server.next(self.now_us)) is not None:
            stop = max(row.stop for row in run.rows)
            rows = tuple(RowDone(row.ticket, 1, 0.9, left=True, gated=False) for row in run.rows)
            steps = tuple(StepDone(False, index, len(rows), 100) for index in range(run.first, stop + 1))
            done = ExitDone(run.id, stop, rows, steps, bytes(16) * len(rows), finished=True)
            count += self.tell(self.server.advance(self.now_us, done))
        for account in self.server.ledger.accounts.values():
            assert account.accepted == account.answered + account.failed + account.pending
        return count

    def _check(self, told: Outgoing) -> None:
        frames = encode(told.reply, () if told.tensor is None else (told.tensor,))
        assert len(frames[0]) <= HEADER_BYTES_MAX, f"no client reads {len(frames[0])} bytes of header"
        assert decode_reply(frames) == told.reply
        reply = told.reply
        assert isinstance(reply, Answer) == (told.tensor is not None)
        if isinstance(reply, Refusal | Failure):
            assert reply.code in CODES["refusal" if isinstance(reply, Refusal) else "error"], reply
            assert 0 < len(reply.message) <= TEXT_CHARS_MAX, len(reply.message)
