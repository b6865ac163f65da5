"""As much of HTTP as a scrape needs: GET and HEAD, one request per connection, everything bounded.

Role: `serve` listens and answers with what a handler makes of path and query. Connections, header size and time to
send it are limited, so that who connects can hold up a scrape and nothing more. Does not: TLS, bodies, keep-alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

HEADER_BYTES_MAX = 8 * 1024
CONNECTIONS_MAX = 32
# To send a request, and to take the reply.
REQUEST_S_MAX, REPLY_S_MAX = 5.0, 30.0
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Reply(NamedTuple):
    """Status, body and what the body is."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Handler: TypeAlias = Callable[[str, Mapping[str, str]], Awaitable[Reply]]


async def serve(host: str, port: int, handler: Handler) -> asyncio.Server:
    """Listen; the handler gets the path and the query of each request. Raises OSError: the address cannot be used."""
    room = asyncio.Semaphore(CONNECTIONS_MAX)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # So that `drain` is over only when all is out.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            if not room.locked():
                async with room:
                    await _answer(reader, writer, handler)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            # Gone, too slow, or ended in the middle: there is nobody to tell.
            pass
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            writer.close()

    return await asyncio.start_server(connected, host, port, limit=HEADER_BYTES_MAX, backlog=CONNECTIONS_MAX)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    try:
        header = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S_MAX)
    except asyncio.LimitOverrunError:
        reply, method = Reply(431, b"headers of more than 8 KiB\n"), "GET"
    else:
        method, target = request_line(header)
        reply = await _reply(method, target, handler)
    head = (
        f"HTTP/1.1 {reply.status} {REASONS[reply.status]}\r\nContent-Type: {reply.content_type}\r\n"
        f"Content-Length: {len(reply.body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    writer.write(head.encode() + (b"" if method == "HEAD" else reply.body))
    await asyncio.wait_for(writer.drain(), REPLY_S_MAX)


def request_line(header: bytes) -> tuple[str, str]:
    """Method and target of a request; both empty where there is no such line."""
    parts = header.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not header.isascii():
        return "", ""
    return parts[0].decode(), parts[1].decode()


async def _reply(method: str, target: str, handler: Handler) -> Reply:
    if not method:
        return Reply(400, b"not a request of HTTP/1.1\n")
    if method not in ("GET", "HEAD"):
        return Reply(405, b"GET and HEAD only\n")
    try:
        asked = urlsplit(target)
        query = dict(parse_qsl(asked.query, max_num_fields=8))
    except ValueError as error:
        return Reply(400, f"{error}\n".encode())
    return await handler(asked.path, query)
