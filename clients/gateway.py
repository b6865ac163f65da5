"""`delen gateway`: the daemon's state for tools that speak HTTP, from a process that cannot hurt it.

Role: a plain client of the daemon. `/metrics` asks for stats, `/trace` for the last requests, `/healthz` says whether
requests would be served now. One question at a time goes to the daemon, and a reply serves everybody for a second, so
that however often somebody scrapes, the daemon hardly notices.
Flow: gateway_http -> `Gateway.handle` -> AsyncClient -> gateway_metrics or gateway_trace.

Does not: infer, authenticate (bind it where only those who may see it can connect), keep anything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping

from .async_client import AsyncClient
from .errors import DelenError
from .gateway_http import Reply
from .gateway_metrics import CONTENT_TYPE, Board, metrics_page
from .gateway_trace import chrome_trace
from .info import RequestTrace
from .wire import StatsReply

KEPT_S = 1.0
# Requests in one trace, of all tenants: some megabytes of JSON.
REQUESTS_MAX = 4_096
INDEX = b"delen gateway\n\n/metrics  for Prometheus\n/healthz  whether requests are served\n/trace?tenant=NAME&last=N\n"


class Gateway:
    """What is behind each path.

    Args:
        connect: makes the client that asks the daemon; what its tenant may see is what is shown.
        version: of this gateway.
        board: reads the board's own sensors.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], AsyncClient],
        *,
        version: str,
        board: Callable[[], Board] = lambda: Board({}, None),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._client: AsyncClient | None = None
        self._version = version
        self._board = board
        self._clock_s = clock_s
        self._asking = asyncio.Lock()
        self._asked_s = float("-inf")
        self._stats: StatsReply | None = None
        self._fault = ""

    async def handle(self, path: str, query: Mapping[str, str]) -> Reply:
        """The reply to one request."""
        if path == "/metrics":
            page = metrics_page(await self._ask(), version=self._version, board=self._board())
            return Reply(200, page.encode(), CONTENT_TYPE)
        if path == "/healthz":
            return self._health(await self._ask())
        if path == "/trace":
            return await self._trace(query)
        return Reply(200, INDEX) if path == "/" else Reply(404, b"no such page; / lists them\n")

    async def close(self) -> None:
        """End the connection to the daemon."""
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> AsyncClient:
        """The client, made once the daemon is there; from then on it reconnects by itself. Raises Unreachable."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    async def _ask(self) -> StatsReply | None:
        """The daemon's stats, of the last second; None where it does not answer."""
        async with self._asking:
            if self._clock_s() - self._asked_s >= KEPT_S:
                try:
                    self._stats = await self._connected().stats()
                except DelenError as error:
                    self._stats, self._fault = None, str(error)
                self._asked_s = self._clock_s()
        return self._stats

    def _health(self, stats: StatsReply | None) -> Reply:
        if stats is None:
            return Reply(503, f"the daemon does not answer: {self._fault}\n".encode())
        ready = stats.worker == "ready"
        return Reply(200 if ready else 503, f"{'ok' if ready else 'the engine is ' + stats.worker}\n".encode())

    async def _trace(self, query: Mapping[str, str]) -> Reply:
        last = query.get("last", str(REQUESTS_MAX))
        if not (last.isascii() and last.isdecimal() and len(last) <= 9 and 0 < int(last) <= REQUESTS_MAX):
            return Reply(400, f"last: expected 1 to {REQUESTS_MAX}\n".encode())
        stats = await self._ask()
        if stats is None:
            return Reply(503, f"the daemon does not answer: {self._fault}\n".encode())
        names = [row.tenant for row in stats.tenants]
        if "tenant" in query:
            names = [name for name in names if name == query["tenant"]]
        if not names:
            return Reply(404, b"no such tenant\n")
        try:
            async with self._asking:
                found = {name: await self._requests(name, int(last)) for name in names}
        except DelenError as error:
            return Reply(503, f"the daemon does not answer: {error}\n".encode())
        latest = sorted((request.arrival_us for each in found.values() for request in each), reverse=True)[: int(last)]
        since_us = latest[-1] if latest else 0
        kept = {name: [one for one in each if one.arrival_us >= since_us] for name, each in found.items()}
        return Reply(200, json.dumps(chrome_trace(kept)).encode(), "application/json")

    async def _requests(self, tenant: str, last: int) -> list[RequestTrace]:
        page = await self._connected().traces(tenant)
        found, began_us = list(page.requests), page.now_us
        # What comes in after the first page is not waited for: a busy tenant's requests may never come to an end.
        while page.more and found[-1].arrival_us < began_us:
            page = await self._connected().traces(tenant, page.next)
            found = [*found, *page.requests][-last:]
        return found[-last:]
