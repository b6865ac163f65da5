"""ZMTP 3 by hand: what a peer says on the wire, right or wrong, as bytes (ZeroMQ RFC 23, RFC 37).

Role: pieces of a conversation, `GREETINGS` and `FRAMES`: those that were thought up, and `conversation`, which spoils a
good one somewhere. Pure: the generator is passed in. Does not: connect (peers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from delen.clients.wire import VERSION, Hello, Ping, encode
from delen.tests.fuzz.mutations import spoilt

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
MORE, LONG, COMMAND = 1, 2, 4


def greeting(
    mechanism: bytes = b"NULL", *, signature: bytes = SIGNATURE, version: bytes = b"\x03\x01", as_server: bytes = b"\0"
) -> bytes:
    return signature + version + mechanism.ljust(20, b"\0") + as_server + bytes(31)


def frame(body: bytes, flags: int = 0, size: int | None = None) -> bytes:
    """One frame; `size`: what it says its size is."""
    size = len(body) if size is None else size
    if flags & LONG or size > 255:
        return bytes([flags | LONG]) + size.to_bytes(8, "big") + body
    return bytes([flags, size]) + body


def command(name: bytes, body: bytes = b"", *, flags: int = COMMAND) -> bytes:
    return frame(bytes([len(name)]) + name + body, flags)


def metadata(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in pairs)


def ready(*more: tuple[bytes, bytes], kind: bytes = b"DEALER") -> bytes:
    return command(b"READY", metadata([(b"Socket-Type", kind), (b"Identity", b""), *more]))


PING = frame(bytes(encode(Ping(VERSION, b"z"))[0]))
HELLO = frame(bytes(encode(Hello(VERSION, b"z", "zmtp"))[0]))
GOOD = (greeting(), ready(), HELLO, PING)


def _greetings() -> Mapping[str, bytes]:
    found = {"nothing": b"", "one byte": b"\xff", "only a signature": SIGNATURE, "no end": greeting()[:-1]}
    found |= {
        f"signature begins with {n:#x}": greeting(signature=bytes([n]) + SIGNATURE[1:]) for n in (0, 1, 2, 127, 254)
    }
    found |= {f"signature ends with {n:#x}": greeting(signature=SIGNATURE[:9] + bytes([n])) for n in (0, 1, 0x7E, 0x80)}
    # Before version 3 the signature was a frame's length and flags, and what follows an identity.
    found |= {f"ZMTP 2, {size} in": SIGNATURE + b"\x01\x05\x00\x00"[:size] for size in (1, 2, 3, 4)}
    found |= {f"ZMTP 1, identity of {n}": bytes([n + 1, 0]) + b"i" * n for n in (0, 1, 100, 253)}
    found |= {
        f"ZMTP 1, {n} bytes long": b"\xff" + n.to_bytes(8, "big") + b"\0" for n in (0, 1, 2**31, 2**63, 2**64 - 1)
    }
    found |= {f"version {a}.{b}": greeting(version=bytes([a, b])) for a in (0, 1, 2, 3, 4, 255) for b in (0, 1, 255)}
    names = (b"", b"null", b"NUL", b"NULLL", b"PLAIN", b"CURVE", b"GSSAPI", b"\xff" * 20, b"NULL\0x", b"N" * 20)
    found |= {f"mechanism {name!r}": greeting(name) for name in names}
    found |= {f"as-server {n}": greeting(as_server=bytes([n])) for n in (1, 2, 255)}
    found |= {"filler": greeting()[:33] + b"\xff" * 31, "twice": greeting() * 2, "HTTP": b"GET / HTTP/1.1\r\n\r\n" * 4}
    found |= {"TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 8, "zeros": bytes(200), "ones": b"\xff" * 200}
    return found


def _frames() -> Mapping[str, bytes]:
    found = {
        "no READY": HELLO,
        "READY cut": ready()[:-3],
        "READY twice": ready() * 2,
        "READY as a message": _as_message(),
    }
    found |= {f"frame flags {n:#04x}": ready() + bytes([n, 3]) + b"abc" for n in (*range(8), 8, 16, 32, 64, 128, 255)}
    sizes = (0, 1, 255, 256, 65_536, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
    for size in sizes:
        for flags in (0, MORE, COMMAND):
            found[f"{size} announced, flags {flags}"] = ready() + frame(b"x", flags | LONG, size)
    found |= {f"command {n} before READY": command(name) for n, name in enumerate((b"PING", b"ERROR", b"", b"x" * 255))}
    for size in (0, 1, 2, 3, 18, 200):
        found[f"PING of {size}"] = ready() + command(b"PING", bytes(size))
        found[f"PONG of {size}"] = ready() + command(b"PONG", bytes(size))
    for name in (b"SUBSCRIBE", b"CANCEL", b"JOIN", b"LEAVE", b"READY", b"HELLO", b"ERROR", b"\0", b"nothing"):
        found[f"command {name!r}"] = ready() + command(name, b"\x05hello")
    found["a command's name longer than it"] = ready() + frame(b"\xffPING", COMMAND)
    found["an empty command"] = ready() + frame(b"", COMMAND)
    found["a command between parts"] = ready() + frame(b"a", MORE) + command(b"PING", bytes(4)) + frame(b"b")
    found["a command with more"] = ready() + command(b"PING", bytes(4), flags=COMMAND | MORE)
    found["a thousand parts"] = ready() + frame(b"", MORE) * 1000 + frame(b"")
    found["parts without end"] = ready() + frame(b"x", MORE) * 1000
    found["empty messages"] = ready() + frame(b"") * 1000
    for kind in (b"", b"ROUTER", b"PUB", b"REQ", b"dealer", b"x" * 255, b"\xff"):
        found[f"socket type {kind!r:.20}"] = ready(kind=kind) + HELLO
    for size in (0, 1, 254, 255, 256, 65_000):
        found[f"identity of {size}"] = command(
            b"READY", metadata([(b"Socket-Type", b"DEALER"), (b"Identity", b"i" * size)])
        )
    found["a property of 2^31"] = command(b"READY", b"\x01a" + (2**31).to_bytes(4, "big"))
    found["a property of 2^32 - 1"] = command(b"READY", b"\x01a\xff\xff\xff\xff")
    found["a property without a name"] = command(b"READY", b"\0\0\0\0\1a")
    found["a thousand properties"] = ready(*[(b"X-%d" % n, b"v" * 20) for n in range(1000)])
    found["User-Id by itself"] = ready((b"User-Id", b"uid:0"), (b"Peer-Address", b"localhost:0:0:1")) + HELLO
    found["ERROR"] = command(b"ERROR", b"\x03bad")
    return found


def _as_message() -> bytes:
    return command(b"READY", metadata([(b"Socket-Type", b"DEALER")]), flags=0)


GREETINGS, FRAMES = _greetings(), _frames()


class Conversation(NamedTuple):
    """What one peer says before it hangs up: at once, and once the daemon has let it in, if it waits for that."""

    opening: bytes
    then: bytes | None = None


def told(said: bytes) -> Conversation:
    """As one says it who waits to be let in where the handshake is good: what comes before that is no message."""
    good = greeting() + ready()
    return Conversation(good, said[len(good) :]) if said.startswith(good) else Conversation(said)


def conversation(draw: Random) -> Conversation:
    """Good but for one or a few places."""
    how = draw.random()
    if how < 0.40:
        # A greeting is refused at once: the cheapest part of the library to try, and what it looks at first.
        named = greeting(draw.choice([b"NULL", b"NULL", b"CURVE", b"PLAIN"]))
        return Conversation(spoilt(draw, named, draw.choice([1, 1, 2, 4])))
    if how < 0.65:
        return Conversation(greeting() + spoilt(draw, ready(*_properties(draw)), draw.choice([1, 1, 2])) + PING)
    if how < 0.90:
        frames = b"".join(_frame(draw) for _ in range(draw.choice([1, 2, 4])))
        return Conversation(greeting() + ready(*_properties(draw)), frames + PING)
    if how < 0.98:
        return told(spoilt(draw, b"".join(GOOD), draw.choice([1, 2, 4, 8])))
    return Conversation(draw.randbytes(draw.choice([1, 10, 64, 300])))


def _properties(draw: Random) -> list[tuple[bytes, bytes]]:
    return [
        (draw.choice([b"", b"X-a", b"Identity"]), draw.randbytes(draw.choice([0, 1, 30])))
        for _ in range(draw.choice([0, 0, 1, 4]))
    ]


def _frame(draw: Random) -> bytes:
    how = draw.random()
    if how < 0.3:
        return command(
            draw.choice([b"PING", b"PONG", b"ERROR", b"READY", b"HELLO", b""]), draw.randbytes(draw.randrange(24))
        )
    if how < 0.6:
        size = draw.choice([0, 1, 2, 3, 255, 256, 2**16, 2**31, 2**63, 2**64 - 1])
        return frame(
            draw.randbytes(draw.choice([0, 1, 3, 40])),
            draw.randrange(256) if draw.random() < 0.3 else draw.randrange(8),
            size,
        )
    return spoilt(draw, frame(bytes(PING[2:]), draw.choice([0, 0, MORE])))
