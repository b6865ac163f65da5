"""The gateway: each path shows what the daemon says, the daemon is hardly asked, its absence is told, not raised."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from delen.clients.async_client import AsyncClient
from delen.clients.errors import Unreachable
from delen.clients.gateway import Gateway
from delen.clients.gateway_http import CONNECTIONS_MAX, Reply, serve
from delen.clients.info import RequestTrace
from delen.clients.wire import VERSION, StatsReply, TraceList
from delen.tests.fake_client import STATS
from delen.tests.fake_daemon import FakeDaemon, serving

# Sockets and asyncio's own clock; nobody waits for time to pass.
pytestmark = pytest.mark.e2e
PAGE = 40
# Times nine bytes: more than one piece.
LARGE = 200_000


class FakeAsync:
    """A daemon with a hundred requests of `a`, and those of `b` still coming in while they are read."""

    def __init__(self) -> None:
        self.reply: StatsReply | None = STATS
        self.asked = 0
        self.pages = 0

    async def stats(self) -> StatsReply:
        self.asked += 1
        if self.reply is None:
            raise Unreachable("nobody is there", endpoint="ipc:///nowhere")
        return self.reply

    async def traces(self, tenant: str = "", after: int = 0) -> TraceList:
        self.pages += 1
        last = 100 if tenant == "a" else after + 10 * PAGE
        numbers = range(after + 1, min(after + PAGE, last) + 1)
        found = tuple(RequestTrace(n, b"%d" % n, "net", "answered", n * 100_000, 500) for n in numbers)
        return TraceList(VERSION, b"t", 10_000_000, numbers[-1] if numbers else after, numbers[-1] < last, 0, found)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(cast("Any", work()), 20))


def gateway(daemon: FakeAsync, clock: Clock | None = None) -> Gateway:
    return Gateway(lambda: cast("AsyncClient", daemon), version="1", clock_s=clock or Clock())


def test_the_daemon_is_asked_once_a_second_however_often_somebody_scrapes() -> None:
    async def work() -> None:
        daemon, clock = FakeAsync(), Clock()
        made = gateway(daemon, clock)
        pages = await asyncio.gather(*(made.handle("/metrics", {}) for _ in range(50)))
        assert {page.status for page in pages} == {200}
        assert b'delen_queue_depth{tenant="a"} 0' in pages[0].body
        assert daemon.asked == 1
        clock.now_s = 1.0
        await made.handle("/healthz", {})
        assert daemon.asked == 2

    run(work)


def test_health_is_whether_requests_are_served() -> None:
    async def work() -> None:
        daemon, clock = FakeAsync(), Clock()
        made = gateway(daemon, clock)
        assert (await made.handle("/healthz", {})) == Reply(200, b"ok\n")
        for reply, said in ((replace(STATS, worker="waiting"), b"the engine is waiting"), (None, b"nobody is there")):
            daemon.reply = reply
            clock.now_s += 1
            status, body, _ = await made.handle("/healthz", {})
            assert status == 503
            assert said in body
        page = await made.handle("/metrics", {})
        assert page.status == 200
        assert b"delen_up 0" in page.body
        assert (await made.handle("/trace", {})).status == 503

    run(work)


def test_traces_are_read_to_the_end_as_it_was_when_asked() -> None:
    async def work() -> None:
        daemon = FakeAsync()
        document = json.loads((await gateway(daemon).handle("/trace", {})).body)
        spans = [event for event in document["traceEvents"] if event.get("cat") == "request"]
        # All hundred of `a`, and of `b` those up to the page in which the first came in after it was asked.
        assert len(spans) == 100 + 120
        assert daemon.pages < 10

    run(work)


def test_traces_of_one_tenant_and_the_last_few() -> None:
    async def work() -> None:
        made = gateway(FakeAsync())
        reply = await made.handle("/trace", {"tenant": "a", "last": "7"})
        numbers = [e["args"]["number"] for e in json.loads(reply.body)["traceEvents"] if e.get("cat") == "request"]
        assert numbers == list(range(94, 101))
        assert (await made.handle("/trace", {"tenant": "nobody"})).status == 404
        for wrong in ("0", "-1", "many", "1" * 5_000, "4097", "0" * 8 + "14097", "0" * 8 + "1" * 5_000, "\u0661"):
            assert (await made.handle("/trace", {"last": wrong})).status == 400
        assert (await made.handle("/elsewhere", {})).status == 404
        assert b"/metrics" in (await made.handle("/", {})).body

    run(work)


def test_a_daemon_that_comes_later_is_found(tmp_path: Path) -> None:
    async def work() -> None:
        endpoint = f"ipc://{tmp_path}/t/t/sock"
        clock = Clock()
        made = Gateway(lambda: AsyncClient("t", endpoint=endpoint, timeout_s=5), version="1", clock_s=clock)
        assert (await made.handle("/healthz", {})).status == 503
        with serving(FakeDaemon(), tmp_path):
            clock.now_s = 1.0
            assert (await made.handle("/healthz", {})).body == b"the engine is running\n"
            await made.close()

    run(work)


# ---- HTTP


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def echo(path: str, query: Any) -> Reply:
    return Reply(200, f"{path} {sorted(query.items())}".encode() * (LARGE if path == "/large" else 1))


def test_replies_are_of_http() -> None:
    async def work() -> None:
        async with await serve("127.0.0.1", 0, echo) as server:
            port = server.sockets[0].getsockname()[1]
            reply = await ask(port, b"GET /trace?tenant=a%20b&last=3 HTTP/1.1\r\nHost: x\r\n\r\n")
            head, body = reply.split(b"\r\n\r\n", 1)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == b"/trace [('last', '3'), ('tenant', 'a b')]"
            assert b"Content-Length: %d\r\n" % len(body) in head
            large = await ask(port, b"GET /large HTTP/1.0\r\n\r\n")
            assert len(large.split(b"\r\n\r\n", 1)[1]) == LARGE * len(b"/large []")
            assert (await ask(port, b"HEAD / HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")

    run(work)


def test_who_reads_slowly_gets_all_of_it() -> None:
    async def work() -> None:
        async with await serve("127.0.0.1", 0, echo) as server:
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect(server.sockets[0].getsockname())
                slow.sendall(b"GET /large HTTP/1.1\r\n\r\n")
                found = await asyncio.to_thread(read_all, slow)
        assert len(found.split(b"\r\n\r\n", 1)[1]) == LARGE * len(b"/large []")

    run(work)


def read_all(slow: socket.socket) -> bytes:
    found = bytearray()
    while piece := slow.recv(4096):
        found += piece
    return bytes(found)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        ("GET /\u00fc HTTP/1.1\r\n\r\n".encode(), b"400"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /?" + b"&".join(b"%d=1" % n for n in range(50)) + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"431"),
    ],
)
def test_what_is_wrong_is_told(request_bytes: bytes, status: bytes) -> None:
    async def work() -> None:
        async with await serve("127.0.0.1", 0, echo) as server:
            try:
                reply = await ask(server.sockets[0].getsockname()[1], request_bytes)
            except ConnectionResetError:
                # It was told while more came in, which the kernel answers with a reset.
                assert status == b"431"
                return
            assert reply.split(b" ")[1] == status or (status == b"431" and not reply)

    run(work)


def test_connections_that_say_nothing_have_a_limit_and_hold_up_nobody_later() -> None:
    async def work() -> None:
        async with await serve("127.0.0.1", 0, echo) as server:
            port = server.sockets[0].getsockname()[1]
            silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS_MAX)]
            while True:
                try:
                    if not await ask(port, b"GET / HTTP/1.1\r\n\r\n"):
                        break
                except ConnectionResetError:
                    break
            for each in silent:
                each.close()
            while True:
                try:
                    if await ask(port, b"GET / HTTP/1.1\r\n\r\n"):
                        break
                except ConnectionResetError:
                    pass

    run(work)
