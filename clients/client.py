"""The blocking client: ask the daemon from any number of threads, wait or take futures.

Role: the socket, the clock and the threads around `connection.Connection`. Flow of `infer` in one thread: check input
-> open a call -> send -> wait on the socket -> read -> result; no other thread takes part. With several threads, the
one that holds `_leading` works the socket for all; the others wait until their call ended or the lead is handed to
them. Futures need somebody who reads while nobody waits: one background thread, started by the first `submit`.

Does not: know the protocol's rules (connection.py), speak asyncio (async_client.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from .asking import now_us
from .calls import Call, reply_of, result_of
from .endpoints import locate
from .errors import Cancelled, DelenError
from .info import NetworkInfo
from .inputs import BoundArguments, InferArguments, InputLike
from .line import READ_COUNT_MAX, Line
from .results import Result
from .verbs import Told, Verbs
from .wire import Ping, Welcome

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .pending import PendingResult


class Client(Verbs):
    """A blocking, thread-safe client of one daemon as one tenant.

    Args:
        tenant: who asks; default $DELEN_TENANT, else `default`.
        endpoint: ZeroMQ endpoint or path of a socket, instead of looking for the tenant's.
        key_file: for tcp, what `delen keys new` made; default $DELEN_KEY_FILE. It may name tenant and endpoint too.
        server_key: the daemon's public key, if not the one in the key file; default $DELEN_SERVER_KEY.
        client: name of the session; give a stable one to keep default bounds through a restart of this process.
        timeout_s: how long a call may take when it says nothing else.
        bounds: the session's default bounds, see `bounds.Bounds`.
    Raises:
        Unreachable: there is no socket of this tenant, or no right to use it.
        BadRequest: bounds or names that cannot be.
    """

    def __init__(
        self,
        tenant: str | None = None,
        *,
        endpoint: str | None = None,
        key_file: str | Path | None = None,
        server_key: str | None = None,
        client: str | None = None,
        timeout_s: float = 5.0,
        **bounds: Unpack[BoundArguments],
    ) -> None:
        located = locate(tenant, endpoint, key_file=key_file, server_key=server_key)
        super().__init__(located, client=client, timeout_s=timeout_s, bounds=bounds)
        # `_state` guards the connection, for microseconds; `_leading` the line, for as long as one waits on it.
        self._state = threading.Lock()
        self._leading = threading.Lock()
        self._followers: list[Call] = []
        self._due: deque[Call] = deque()
        self._background: threading.Thread | None = None
        self._background_event = threading.Event()
        self._submitted_count = 0
        self._line = Line(self._connect(zmq.Context.instance().socket(zmq.DEALER)))

    def infer(
        self, network: str, x: InputLike, *, timeout_s: float | None = None, **bounds: Unpack[InferArguments]
    ) -> Result:
        """Ask for one answer and wait for it.

        Args:
            network: its name, as `networks` lists it.
            x: one input of the network's exact shape, without batch.
            timeout_s: how long to wait at most; a latency bound is not a time-out, late answers come marked.
            bounds: what this request overrides of the session's bounds; and `traceparent`, its place in a W3C trace.
        Raises:
            DelenError: one of its kinds in errors.py.
        """
        call = self._infer_call(self._info(network), x, bounds, timeout_s, keep=False)
        self._start(call)
        self._wait(call)
        return result_of(call)

    def submit(
        self, network: str, x: InputLike, *, timeout_s: float | None = None, **bounds: Unpack[InferArguments]
    ) -> PendingResult:
        """As `infer`, but returns a future at once. `x` is copied.

        Callbacks run in a background thread, or in one that waits; they may ask again.
        """
        from .pending import PendingResult  # Brings concurrent.futures and logging: 10 ms that only futures need.

        call = self._infer_call(self._info(network), x, bounds, timeout_s, keep=True)
        future = PendingResult(call.message.id)

        def settle(ended: Call) -> None:
            with self._state:
                self._submitted_count -= 1
            try:
                result = result_of(ended)
            except DelenError as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        call.on_end = settle
        self._start(call, submitted=True)
        self._start_background()
        if self._leading.acquire(blocking=False):
            try:
                with self._state:
                    self._flush(now_us())
            finally:
                self._leading.release()
            self._background_event.set()
        else:
            self._wake()
        return future

    def begin(
        self,
        network: str,
        x: InputLike,
        on_end: Callable[[Result | DelenError], None],
        *,
        timeout_s: float | None = None,
        **bounds: Unpack[InferArguments],
    ) -> bytes:
        """Open one request to be worked by `turn`, without any thread; its id. `x` must not change meanwhile."""
        call = self._infer_call(self._info(network), x, bounds, timeout_s, keep=False)
        call.on_end = lambda ended: on_end(ended.error or result_of(ended))
        self._start(call)
        return call.message.id

    def turn(self, wait_us: int = 0) -> None:
        """Send what waits, read what came or comes within `wait_us`, and tell the ends of begun requests."""
        self._check_process()
        with self._leading:
            self._check_open()
            now = now_us()
            with self._state:
                blocked = self._flush(now)
            if self._line.wait(min(wait_us, self._connection.wake_at_us - now), to_send=blocked):
                self._read(None)
            now = now_us()
            with self._state:
                if now >= self._connection.wake_at_us:
                    self._tick(now, self._line.socket)
                self._settle()
        self._deliver()

    def ping(self) -> int:
        """Round trip to the daemon's front, in microseconds."""
        call = self._call(Ping)
        self._start(call)
        self._wait(call)
        reply_of(call)
        return call.received_us - call.sent_us

    def session(self) -> Welcome:
        """Who the daemon says we are, and the limits that apply."""
        if self._connection.welcome is None:
            self.ping()
        welcome = self._connection.welcome
        if welcome is None:
            raise self._no_welcome()
        return welcome

    def cancel(self, request: PendingResult | bytes) -> bool:
        """Take one request back: it ends with Cancelled at once. False: it had ended before."""
        request_id = request if isinstance(request, bytes) else request.request_id
        with self._state:
            call = self._connection.find(request_id)
            cancelled = call is not None and self._connection.cancel(call)
        if cancelled:
            self._work_or_wake()
        return cancelled

    def close(self) -> None:
        """End everything that waits with Cancelled, and the connection. A second call does nothing."""
        if self._forked():
            return
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._connection.end_all(Cancelled("the client was closed", code="cancelled"))
            self._line.wake()
        with self._leading, self._state:
            self._settle()
            self._line.close()
        self._deliver()
        self._background_event.set()
        if self._background is not None and self._background is not threading.current_thread():
            self._background.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- calls, from the asking thread

    def _ask(self, _expected: type[Told], kind: type[Any], *fields: Any) -> Told:
        call = self._call(kind, *fields)
        self._start(call)
        self._wait(call)
        reply: Told = reply_of(call)
        return reply

    def _info(self, network: str) -> NetworkInfo:
        info = self._connection.networks.get(network)
        if info is not None:
            return info
        self.networks()
        return self._known(network)

    def _start(self, call: Call, *, submitted: bool = False) -> None:
        self._check_process()
        with self._state:
            self._check_open()
            self._connection.open(call, call.created_us)
            self._submitted_count += submitted

    def _wait(self, call: Call) -> None:
        """Return once `call` ended: as the one who works the socket, or as one who is told by that one."""
        try:
            while not call.ended:
                if self._leading.acquire(blocking=False):
                    try:
                        self._lead(call)
                    finally:
                        self._leading.release()
                        self._hand_over()
                    self._deliver()
                elif call.event is None:
                    # First become known as a follower, then try again: who leaves the lead in between tells us.
                    call.event = threading.Event()
                    with self._state:
                        self._followers.append(call)
                    self._wake()
                else:
                    call.event.wait()
                    call.event.clear()
        except BaseException:
            with self._state:
                self._connection.cancel(call)
            raise
        finally:
            if call.event is not None:
                with self._state:
                    self._followers.remove(call)
                self._hand_over()

    def _hand_over(self) -> None:
        """Wake one who may take the lead, after it was left."""
        if not (self._followers or self._submitted_count):
            return
        with self._state:
            waiting = next((call for call in self._followers if not call.ended), None)
            if waiting is not None:
                waiting.event.set()
            elif self._submitted_count:
                self._background_event.set()

    def _deliver(self) -> None:
        """Tell the ends of calls to those who gave a function for it; holds no lock, since they may ask again."""
        while self._due:
            try:
                call = self._due.popleft()
            except IndexError:  # Another thread was faster.
                return
            if call.on_end is not None:
                call.on_end(call)

    def _start_background(self) -> None:
        if self._background is not None:
            return
        with self._state:
            if self._background is None:
                self._background = threading.Thread(target=self._receive, name="delen-client", daemon=True)
                self._background.start()

    def _receive(self) -> None:
        """The background thread: leads while futures wait and nobody else does."""
        while not self._closed:
            if self._submitted_count and self._leading.acquire(blocking=False):
                try:
                    self._lead(None)
                finally:
                    self._leading.release()
                    self._hand_over()
                self._deliver()
            else:
                self._background_event.wait()
                self._background_event.clear()

    # ---- the line, by the one who leads

    def _lead(self, call: Call | None) -> None:
        """Work the socket until `call` ended (None: until no future waits) or until there is an end to tell."""
        connection = self._connection
        while not self._closed:
            now = now_us()
            due_us = connection.wake_at_us if call is None else min(connection.wake_at_us, call.give_up_us)
            with self._state:
                if now >= due_us:
                    self._tick(now, self._line.socket)
                blocked = self._flush(now)
                self._settle()
            if self._due or (call.ended if call is not None else not self._submitted_count):
                return
            if self._line.wait(due_us - now, to_send=blocked):
                self._read(call)

    def _flush(self, now: int) -> bool:
        """Send what waits; True when the socket takes no more now. Within `_state`."""
        while not self._closed:
            frames = self._connection.outgoing(now)
            if frames is None:
                break
            if not self._line.send(frames):
                return True
            self._connection.sent(now)
        return False

    def _read(self, call: Call | None) -> None:
        """Take in replies while there are any, or until `call` ended."""
        for _ in range(READ_COUNT_MAX):
            frames = self._line.receive()
            if frames is None:
                return
            now = now_us()
            with self._state:
                self._connection.receive(frames, now)
            if call is not None and call.ended:
                return

    def _settle(self) -> None:
        """Wake those whose calls ended; those with a function to call are told later. Within `_state`."""
        for call in self._connection.take_ended():
            if call.on_end is not None:
                self._due.append(call)
            elif call.event is not None:
                call.event.set()

    def _work_or_wake(self) -> None:
        if self._leading.acquire(blocking=False):
            try:
                with self._state:
                    self._flush(now_us())
                    self._settle()
            finally:
                self._leading.release()
                self._hand_over()
            self._deliver()
        else:
            self._wake()

    def _wake(self) -> None:
        # The line is closed under the same lock, so that no byte goes to a descriptor that was reused.
        with self._state:
            self._line.wake()
