"""One client's side of the protocol without a socket or a clock: frames and times in, frames and ended calls out.

Role: ids, the hello, what waits for an answer, and what to say again after silence or a restarted daemon. Both clients
drive it. Flow: `open` a call -> `outgoing` frames -> the socket -> `receive` frames -> `take_ended`; `tick` at
`wake_at_us`. Times are monotonic microseconds given by the driver. Not thread-safe; its driver locks.

A request is said again with the same id, so the daemon never runs it twice. After silence only a hello is sent; its
answer decides: another boot means the daemon forgot everything, so everything is sent again; the same boot means a
reply may be lost, so it is fetched.

Does not: open sockets, read clocks, wait.
"""

from __future__ import annotations

import itertools
from collections import deque

from msgspec import UNSET
from msgspec.structs import replace

from .bounds import Bounds, ConditionSet, merge
from .calls import Call
from .errors import SERVE_HINT, BadReply, Cancelled, DeadlineExceeded, DelenError, Unreachable, error_of
from .info import NetworkInfo
from .wire import (
    VERSION,
    Adapt,
    Adapted,
    Answer,
    BoundsSet,
    Cancel,
    Failure,
    Feedback,
    Fetch,
    Frames,
    Hello,
    Infer,
    Manage,
    Managed,
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
    TraceList,
    Traces,
    Welcome,
    WireError,
    decode_reply,
    encode,
)

NEVER_US = 2**62
TICK_US = 100_000
# After this much silence a hello asks whether the daemon still knows us; doubles while only hellos are answered.
PATIENCE_US = 500_000
PATIENCE_US_MAX = 2_000_000
# An answer that takes longer is asked for again, so many at each tick.
OVERDUE_US = 2_000_000
FETCHES_MAX = 32
# A request that waited this long before it was sent tells the daemon a bound that much smaller.
BUDGET_GRAIN_US = 100
# Calls that may wait for an answer, and hellos that may be asked for in a row before this is called a fault.
CALLS_MAX = 65_536
REJOINS_MAX = 8

_EXPECTED: dict[type, type] = {
    Infer: Answer,
    Networks: NetworkList,
    SetBounds: BoundsSet,
    SetConditions: BoundsSet,
    Stats: StatsReply,
    Feedback: Noted,
    Ping: Pong,
    Traces: TraceList,
    Manage: Managed,
    Adapt: Adapted,
}


class Connection:
    """The state of one session with one daemon, through any number of connections."""

    def __init__(self, *, endpoint: str, client: str, bounds: Bounds, nonce: bytes) -> None:
        self.endpoint = endpoint
        self.client = client
        self.bounds = bounds
        self.welcome: Welcome | None = None
        self.networks: dict[str, NetworkInfo] = {}
        self.wake_at_us = NEVER_US
        self._nonce = nonce
        self._counter = itertools.count(1)  # Its `next` is atomic: ids are made outside the driver's lock.
        # So that many clients of one restarted daemon do not knock at once.
        self._patience_us_first = int(PATIENCE_US * (0.75 + nonce[0] / 512))
        self._patience_us = self._patience_us_first
        self._calls: dict[bytes, Call] = {}
        self._outbox: deque[Call | Request] = deque()
        self._ended: list[Call] = []
        self._conditions: dict[str, tuple[ConditionSet | None, ...]] = {}
        self._hello_id = b""
        self._hello_sent_us = 0
        self._hello_due = True
        self._hello_asked = False
        self._conditions_said = False
        self._rejoin_count = 0
        self._heard_us = 0

    def __len__(self) -> int:
        """How many calls wait for their end."""
        return len(self._calls)

    def silent_since_us(self) -> int | None:
        """Since when a call waits and nothing was heard; None when none waits."""
        oldest = next(iter(self._calls.values()), None)
        return None if oldest is None else max(self._heard_us, oldest.created_us)

    def new_id(self) -> bytes:
        """16 bytes: 8 random ones of this client, and a counter."""
        return self._nonce + next(self._counter).to_bytes(8, "big")

    def open(self, call: Call, now_us: int) -> None:
        """Take a call; it goes out with the next `outgoing`. The first one is preceded by a hello."""
        if self._hello_due:
            self._ask_hello(now_us)
        self._calls[call.message.id] = call
        self._outbox.append(call)
        if self.wake_at_us == NEVER_US:
            self.wake_at_us = now_us + TICK_US

    def outgoing(self, now_us: int) -> Frames | None:
        """The frames to send next, None when there are none. Call `sent` once the socket took them."""
        while self._outbox:
            item = self._outbox[0]
            if not isinstance(item, Call):
                return encode(item)
            if not item.ended:
                message = self._within_budget(item, now_us)
                if message is not None:
                    return encode(message, () if item.fetching else item.tensors)
                self._end(item, error=_spent(item))
            self._outbox.popleft()
        return None

    def sent(self, now_us: int) -> None:
        """The socket took the frames that `outgoing` gave last."""
        item = self._outbox.popleft()
        if isinstance(item, Call):
            item.sent_us = item.sent_us or now_us
            item.resent_us = now_us
        elif isinstance(item, Hello):
            self._hello_sent_us = now_us

    def receive(self, frames: Frames, now_us: int) -> None:
        """Read one message of the daemon's; what it ends is in `take_ended`. Late and double replies are dropped."""
        self._heard_us = now_us
        try:
            reply = decode_reply(frames)
        except WireError as error:
            broken = self._calls.get(error.request_id)
            if broken is not None:
                self._end(broken, error=BadReply(str(error), request_id=error.request_id))
            return
        call = self._calls.get(reply.id)
        if call is None:
            if reply.id == self._hello_id:
                self._on_hello(reply, now_us)
            return
        self._patience_us = self._patience_us_first
        if isinstance(reply, Refusal):
            self._on_refusal(call, reply, now_us)
            return
        self._rejoin_count = 0
        call.received_us = now_us
        call.frames = frames
        if isinstance(reply, Failure):
            self._end(call, error=error_of(reply))
        elif type(reply) is _EXPECTED[type(call.message)]:
            if not isinstance(reply, Answer):
                self._remember(call, reply)
            self._end(call, reply=reply)
        else:
            fault = f"{type(reply).__name__} is no reply to {type(call.message).__name__}"
            self._end(call, error=BadReply(fault, request_id=reply.id))

    def tick(self, now_us: int) -> None:
        """Give up calls whose time is over, and ask after the daemon when it has been silent. Due at `wake_at_us`."""
        self.wake_at_us = now_us + TICK_US if self._calls else NEVER_US
        for call in [call for call in self._calls.values() if now_us >= call.give_up_us]:
            self._end(call, error=self._timed_out(call))
            self._take_back(call)
        if not self._calls:
            return
        self._fetch_overdue(now_us)
        oldest = next(iter(self._calls.values()))
        quiet_since_us = max(self._heard_us, oldest.resent_us, self._hello_sent_us)
        if oldest.resent_us and now_us - quiet_since_us >= self._patience_us:
            self._patience_us = min(2 * self._patience_us, PATIENCE_US_MAX)
            self._ask_hello(now_us)

    def _fetch_overdue(self, now_us: int) -> None:
        """Ask for answers that are long in coming: the daemon drops an answer when its reader is too slow."""
        late = (c for c in self._calls.values() if c.sent_us and now_us - c.resent_us >= OVERDUE_US)
        for call in [c for c in itertools.islice(late, FETCHES_MAX) if isinstance(c.message, Infer)]:
            self._say_again(call, forgotten=False, now_us=now_us)

    def cancel(self, call: Call, error: DelenError | None = None) -> bool:
        """End this call now and tell the daemon, which may be too late to save the work. False: it had ended."""
        if call.ended:
            return False
        self._end(
            call, error=error or Cancelled("taken back by its sender", code="cancelled", request_id=call.message.id)
        )
        self._take_back(call)
        return True

    def end_all(self, error: DelenError) -> None:
        """End every call with `error`; nothing is sent any more for them."""
        self._outbox.clear()
        for call in list(self._calls.values()):
            self._end(call, error=error)

    def find(self, request_id: bytes) -> Call | None:
        """The call of this id while it waits."""
        return self._calls.get(request_id)

    def take_ended(self) -> list[Call]:
        """Calls that ended since this was asked last."""
        ended = self._ended
        if ended:
            self._ended = []
        return ended

    def _end(self, call: Call, reply: Reply | None = None, error: DelenError | None = None) -> None:
        del self._calls[call.message.id]
        call.reply, call.error = reply, error
        call.ended = True
        self._ended.append(call)

    def _take_back(self, call: Call) -> None:
        if isinstance(call.message, Infer) and call.sent_us:
            self._outbox.append(Cancel(VERSION, call.message.id))

    def _ask_hello(self, now_us: int) -> None:
        self._outbox = deque(item for item in self._outbox if not isinstance(item, Hello))
        self._hello_id = self.new_id()
        self._hello_sent_us = now_us
        self._outbox.appendleft(Hello(VERSION, self._hello_id, self.client, self.bounds))
        self._hello_due = False
        self._hello_asked = True
        self._conditions_said = False

    def _on_hello(self, reply: Reply, now_us: int) -> None:
        self._hello_asked = False
        if isinstance(reply, (Refusal, Failure)):
            self._hello_due = True
            self.end_all(error_of(reply))
            return
        if not isinstance(reply, Welcome):
            self._hello_due = True
            self.end_all(BadReply(f"{type(reply).__name__} is no reply to Hello", request_id=reply.id))
            return
        restarted = self.welcome is not None and self.welcome.boot != reply.boot
        self.welcome = reply
        self.bounds = reply.bounds
        if restarted:
            self.networks.clear()
            self._say_conditions()
        for call in self._calls.values():
            if 0 < call.resent_us < self._hello_sent_us:
                self._say_again(call, forgotten=restarted, now_us=now_us)

    def _say_again(self, call: Call, *, forgotten: bool, now_us: int) -> None:
        call.resent_us = now_us
        call.forgotten = call.forgotten or forgotten
        call.fetching = isinstance(call.message, Infer) and not forgotten
        self._outbox.append(call)

    def _on_refusal(self, call: Call, refusal: Refusal, now_us: int) -> None:
        if refusal.code == "hello_required":
            self._rejoin(call, refusal, now_us)
        elif call.fetching:
            # Whatever the reason, the daemon will not give the answer; asking in full gives one, or the true refusal.
            self._say_again(call, forgotten=True, now_us=now_us)
        elif refusal.code == "unknown_id" and isinstance(call.message, Infer):
            return  # Of a fetch said before that: the request is on its way in full since.
        else:
            if refusal.code in ("shape", "dtype", "unknown_network") and isinstance(call.message, Infer):
                self.networks.pop(call.message.network, None)
            self._end(call, error=error_of(refusal))

    def _rejoin(self, refused: Call, refusal: Refusal, now_us: int) -> None:
        """A new connection, or a daemon that forgot us: say hello and everything unanswered once more."""
        if self._hello_asked:
            return  # This reply is to something sent before that hello, and said again since.
        self._rejoin_count += 1
        if self._rejoin_count > REJOINS_MAX:
            self.end_all(error_of(refusal))
            return
        self._outbox.clear()
        self._ask_hello(now_us)
        self._say_conditions()
        # Only this call is sure to be unknown there. Those sent before are asked for first, which never runs them
        # twice nor says them again with a smaller bound, which would be another request to the daemon.
        refused.forgotten = True
        for call in self._calls.values():
            call.fetching = isinstance(call.message, Infer) and call.sent_us > 0 and not call.forgotten
            self._outbox.append(call)

    def _say_conditions(self) -> None:
        """Once per hello: a session may have been forgotten."""
        if not self._conditions_said:
            self._conditions_said = True
            for name, sets in self._conditions.items():
                self._outbox.append(SetConditions(VERSION, self.new_id(), name, sets))

    def _remember(self, call: Call, reply: Reply) -> None:
        if isinstance(reply, NetworkList):
            self.networks = {info.name: info for info in reply.networks}
        elif isinstance(reply, BoundsSet):
            self.bounds = reply.bounds
            if isinstance(call.message, SetConditions):
                self._conditions.pop(call.message.network, None)
                if call.message.conditions is not None:
                    self._conditions[call.message.network] = call.message.conditions

    def _within_budget(self, call: Call, now_us: int) -> Request | None:
        """The message to send for this call now, with the latency bound that remains; None when none does."""
        message = call.message
        waited_us = now_us - call.created_us
        if not isinstance(message, Infer):
            return message
        if call.fetching:
            return Fetch(VERSION, message.id)
        if waited_us < BUDGET_GRAIN_US:
            return message
        latency_ms = merge(self.bounds, message.bounds).latency_ms
        if latency_ms is None or latency_ms is UNSET:
            return message
        left_ms = latency_ms - waited_us / 1000
        if left_ms > 0:
            return replace(message, bounds=replace(message.bounds, latency_ms=left_ms))
        if call.sent_us and not call.forgotten:
            call.fetching = True
            return Fetch(VERSION, message.id)
        return None

    def _timed_out(self, call: Call) -> DelenError:
        waited_s = (call.give_up_us - call.created_us) / 1e6
        if self._heard_us >= call.created_us:
            return DeadlineExceeded(
                f"no answer within the time-out of {waited_s:g} s, though the daemon is there",
                code="timeout",
                request_id=call.message.id,
                hint="set a latency bound, or wait longer with timeout_s",
            )
        keys = "is a daemon there, and does it know this key? compare fingerprints: delen keys fingerprint KEY_FILE"
        # Whom a daemon does not let in hears nothing of it.
        users = f"{SERVE_HINT}; if one is, may this user ask as this tenant? its log says who was denied"
        return Unreachable(
            f"nobody answered at {self.endpoint} within {waited_s:g} s",
            endpoint=self.endpoint,
            request_id=call.message.id,
            hint=keys if self.endpoint.startswith("tcp://") else users,
        )


def _spent(call: Call) -> DeadlineExceeded:
    return DeadlineExceeded(
        "the latency bound passed before the request could be sent",
        code="deadline",
        request_id=call.message.id,
        hint="the daemon was away or this client is overloaded",
    )
