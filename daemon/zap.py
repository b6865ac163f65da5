"""ZAP (ZeroMQ RFC 27): the library asks who may connect, and this says so.

Role: frames of one request to frames of its reply, by `Rights`; and a log of denials that a flood cannot fill: one line
per tenant and peer in ten seconds, with a count. Answers leave in the daemon's one loop, so there is no thread that
could hang apart from it. For the audit log, which nobody must be able to fill, there are fewer still: of each endpoint
one, and the next after twice the time. Does not: touch sockets or clocks.

Runs once per connection: what is revoked later is noticed at its next message, by `Rights.allows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .rights import Rights

ADDRESS = "inproc://zeromq.zap.01"
VERSION = b"1.0"
# Peers that are told apart in the log; all others share a line.
DENIED_MAX = 256
QUIET_US = 10_000_000
# Between two lines of audit of one endpoint; an hour at the most, and as much of calm makes it begin anew.
AUDIT_US_MAX = 3_600_000_000
# [identity] [empty] version, request id, domain, address, routing id, mechanism, credentials...
_FRAMES_MIN = 8


class Denials:
    """Lines about who was turned away, few enough to be read."""

    def __init__(self) -> None:
        self._said_us: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], int] = {}

    def note(self, now_us: int, domain: str, reason: str) -> str | None:
        """A line to be logged now, or None: the same was said within ten seconds, and is counted."""
        key = domain, reason
        if key not in self._said_us and len(self._said_us) >= DENIED_MAX:
            self._forget(now_us)
            if len(self._said_us) >= DENIED_MAX:
                key = "", "various reasons"
        said_us = self._said_us.get(key)
        if said_us is not None and now_us - said_us < QUIET_US:
            self._held[key] = self._held.get(key, 0) + 1
            return None
        self._said_us[key] = now_us
        again = self._held.pop(key, 0)
        repeated = f", and {again} more times since that was last said" if again else ""
        return f"connection denied at {key[0] or 'several endpoints'}: {key[1]}{repeated}"

    def _forget(self, now_us: int) -> None:
        old = [key for key, said_us in self._said_us.items() if now_us - said_us >= QUIET_US]
        for key in old:
            del self._said_us[key]
            self._held.pop(key, None)


class Rejected(NamedTuple):
    """Somebody was turned away at an endpoint, with `times` others since that was last told."""

    endpoint: str
    reason: str
    times: int


class Rejections:
    """Who was turned away where, for the audit log: of an endpoint that is knocked at all day a few lines a day."""

    def __init__(self) -> None:
        self._due_us: dict[str, int] = {}
        self._gap_us: dict[str, int] = {}
        self._held: dict[str, int] = {}

    def note(self, now_us: int, domain: str, reason: str) -> Rejected | None:
        """What to tell now; None: it is counted. Endpoints are the operator's, so there are not too many of them."""
        due_us = self._due_us.get(domain)
        if due_us is not None and now_us < due_us:
            self._held[domain] = self._held.get(domain, 0) + 1
            return None
        again = due_us is not None and now_us < due_us + AUDIT_US_MAX
        gap_us = min(2 * self._gap_us[domain], AUDIT_US_MAX) if again else QUIET_US
        self._gap_us[domain], self._due_us[domain] = gap_us, now_us + gap_us
        return Rejected(domain, reason, 1 + self._held.pop(domain, 0))


class Doorkeeper:
    """Answers handshakes."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self._denials = Denials()
        self._rejections = Rejections()
        self._rejected: list[Rejected] = []
        self.admitted = self.denied = 0

    def answer(self, now_us: int, frames: Sequence[bytes]) -> tuple[list[bytes] | None, str | None]:
        """The reply to one request, None where it is not one; and a line to log, or None."""
        if len(frames) < _FRAMES_MIN or frames[2] != VERSION:
            return None, "the library asked for a handshake in a way this version does not know"
        route, request_id = frames[:2], frames[3]
        domain, address, mechanism = (frames[place].decode("utf-8", "replace") for place in (4, 5, 7))
        credentials = frames[8] if len(frames) == 9 else b""
        verdict = self._rights.judge(domain, address, mechanism, credentials)
        if verdict.user:
            self.admitted += 1
            return [*route, VERSION, request_id, b"200", b"OK", verdict.user.encode(), b""], None
        self.denied += 1
        line = self._denials.note(now_us, domain, verdict.reason)
        rejected = self._rejections.note(now_us, domain, verdict.reason)
        if rejected is not None:
            self._rejected.append(rejected)
        # The reason is the operator's to read; a stranger learns nothing from it.
        return [*route, VERSION, request_id, b"400", b"denied", b"", b""], line

    def take_rejected(self) -> list[Rejected]:
        """What there is for the audit log since this was asked last."""
        rejected = self._rejected
        if rejected:
            self._rejected = []
        return rejected
