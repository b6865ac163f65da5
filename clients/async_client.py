"""The asyncio client: the same verbs as `client.Client`, as coroutines.

Role: `connection.Connection` on `zmq.asyncio`. Flow: a coroutine opens a call and sends; one task reads replies and
wakes the coroutines; a timer asks the connection what is overdue. A cancelled coroutine takes its request back.
Does not: know the protocol's rules (connection.py), use threads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, SupportsIndex

import zmq
import zmq.asyncio

from .asking import Asking, class_index, now_us, whole
from .calls import Call, reply_of, result_of
from .connection import TICK_US
from .endpoints import locate
from .errors import Cancelled
from .info import NetworkInfo
from .inputs import adaptation_of, bounds_of
from .wire import (
    Adapt,
    Adapted,
    Feedback,
    Manage,
    Managed,
    Networks,
    Ping,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    TraceList,
    Traces,
    Welcome,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .adaptation import Adapts
    from .bounds import Bounds
    from .inputs import AdaptArguments, BoundArguments, Conditions, InferArguments, InputLike
    from .results import Result


class AsyncClient(Asking):
    """An asyncio client of one daemon as one tenant; for one event loop. Arguments and errors as `client.Client`."""

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
        self._socket = self._connect(zmq.asyncio.Context.instance().socket(zmq.DEALER))
        self._tasks: list[asyncio.Task[None]] = []
        self._blocked = asyncio.Event()

    async def infer(
        self, network: str, x: InputLike, *, timeout_s: float | None = None, **bounds: Unpack[InferArguments]
    ) -> Result:
        """Ask for one answer; see `client.Client.infer`. Cancelling the coroutine takes the request back."""
        call = self._infer_call(await self._info(network), x, bounds, timeout_s, keep=True)
        await self._run(call)
        return result_of(call)

    async def networks(self) -> tuple[NetworkInfo, ...]:
        """The networks that this tenant may use, with what their exits cost on this device."""
        found: tuple[NetworkInfo, ...] = (await self._ask(Networks)).networks
        return found

    async def bounds(self, **bounds: Unpack[BoundArguments]) -> Bounds:
        """Set all default bounds of this session: those left out are taken back.

        Returns: the bounds in force, acknowledged by the daemon.
        """
        effective: Bounds = (await self._ask(SetBounds, bounds_of(bounds))).bounds
        return effective

    async def conditions(self, network: str, conditions: Conditions | None) -> None:
        """Set this session's default conditions for one network, one set or None per exit; None takes them back."""
        await self._ask(SetConditions, network, None if conditions is None else tuple(conditions))

    async def stats(self) -> StatsReply:
        """The daemon's state and this tenant's row of its ledger."""
        pages: list[StatsReply] = [await self._ask(Stats)]
        while pages[-1].next:
            pages.append(await self._ask(Stats, pages[-1].next))
        return whole(pages)

    async def traces(self, tenant: str = "", after: int = 0) -> TraceList:
        """How a tenant's last requests went (default: this one's), those with numbers above `after`; a page of them."""
        reply: TraceList = await self._ask(Traces, tenant, after)
        return reply

    async def adapt(self, policy: Adapts | None = None, **said: Unpack[AdaptArguments]) -> Adapted:
        """As `Client.adapt`."""
        reply: Adapted = await self._ask(Adapt, adaptation_of(policy, said))
        return reply

    async def feedback(self, request: Result | bytes, label: SupportsIndex) -> bool:
        """Tell the right label of an answer while its window is open; whether this tenant's certificates stand.

        Raises Refused: no answer of yours with this id is kept. BadRequest: there is no such class.
        """
        answered = request if isinstance(request, bytes) else request.answer.id
        return not (await self._ask(Feedback, answered, class_index(label))).withdrawn

    async def manage(self, action: str, network: str) -> Managed:
        """As `Client.manage`."""
        reply: Managed = await self._ask(Manage, action, network)
        return reply

    async def ping(self) -> int:
        """Round trip to the daemon's front, in microseconds."""
        call = self._call(Ping)
        await self._run(call)
        reply_of(call)
        return call.received_us - call.sent_us

    async def session(self) -> Welcome:
        """Who the daemon says we are, and the limits that apply."""
        if self._connection.welcome is None:
            await self.ping()
        welcome = self._connection.welcome
        if welcome is None:
            raise self._no_welcome()
        return welcome

    async def close(self) -> None:
        """End everything that waits with Cancelled, and the connection. A second call does nothing."""
        if self._closed or self._forked():
            return
        self._closed = True
        self._connection.end_all(Cancelled("the client was closed", code="cancelled"))
        self._flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close(linger=0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, kind: type[Any], *fields: Any) -> Any:
        call = self._call(kind, *fields)
        await self._run(call)
        return reply_of(call)

    async def _info(self, network: str) -> NetworkInfo:
        info = self._connection.networks.get(network)
        if info is not None:
            return info
        await self.networks()
        return self._known(network)

    async def _run(self, call: Call) -> None:
        """Return once `call` ended. Its time-out comes by the timer, so that the daemon is told as well."""
        self._check_process()
        self._check_open()
        self._start_tasks()
        call.event = asyncio.get_running_loop().create_future()
        self._connection.open(call, call.created_us)
        self._flush()
        try:
            await call.event
        except asyncio.CancelledError:
            self._connection.cancel(call)
            self._flush()
            raise

    def _start_tasks(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(work()) for work in (self._receive, self._keep_time, self._unblock)]

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            self._connection.receive(frames, now_us())
            self._flush()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_US / 1e6)
            now = now_us()
            if now >= self._connection.wake_at_us:
                self._tick(now, self._socket)
                self._flush()

    async def _unblock(self) -> None:
        poller = zmq.asyncio.Poller()
        poller.register(self._socket, zmq.POLLOUT)
        while True:
            await self._blocked.wait()
            await poller.poll()
            self._blocked.clear()
            self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as the socket takes it, and wake those whose calls ended."""
        # While `_unblock` waits for room, zmq.asyncio would queue what is sent instead of refusing it.
        while not self._blocked.is_set():
            now = now_us()
            frames = self._connection.outgoing(now)
            if frames is None:
                break
            # Not waiting, this is done when it returns; so nothing can come between sending and noting it.
            sending = self._socket.send_multipart(frames, flags=zmq.NOBLOCK)
            assert isinstance(sending, asyncio.Future)
            fault = sending.exception()
            if isinstance(fault, zmq.Again):
                self._blocked.set()
                break
            if fault is not None:
                raise fault
            self._connection.sent(now)
        for call in self._connection.take_ended():
            if call.event is not None and not call.event.done():
                call.event.set_result(None)
