"""CurveZMQ's handshake by hand (ZeroMQ RFC 26): boxes that open, and one field of one of them that is wrong.

Role: `Curve` makes a client's commands for one daemon: `opening`, and once the daemon's WELCOME is here `closing`, each
spoilt in one place or not at all. The library that libzmq uses makes the boxes. Pure but for its keys. Does not:
connect (peers.py).
"""

from __future__ import annotations

import os
from random import Random
from typing import NamedTuple

import pytest

from delen.clients.key_text import key_bytes
from delen.clients.keys import KeyFile
from delen.tests.fuzz.mutations import spoilt
from delen.tests.fuzz.zmtp import MORE, PING, command, frame, greeting, metadata

nacl = pytest.importorskip("nacl.bindings", reason="makes CurveZMQ's boxes: pip install 'delen[dev]'")

GREETING = greeting(b"CURVE")
# 64 of greeting, then a command of "\7WELCOME", nonce and box.
WELCOME_AT, WELCOME_BYTES = 64, 2 + 8 + 16 + 144
_PAIRS = metadata([(b"Socket-Type", b"DEALER"), (b"Identity", b"")])
SIZES = (0, 1, 2, 15, 16, 17, 32, 79, 80, 81, 95, 96, 144, 192, 200, 201, 255, 256, 257, 1024, 65_535, 65_536)


class Welcome(NamedTuple):
    """What the daemon said: its key for this connection, and the cookie that it must get back."""

    public: bytes
    cookie: bytes


class Curve:
    """A client of one daemon, with the key that it lets in, and one short pair for all its connections."""

    def __init__(self, key: KeyFile) -> None:
        assert key.server_key is not None
        self._server = key_bytes(key.server_key)
        self._public, self._secret = key_bytes(key.pair.public), key_bytes(key.pair.secret)
        self._short_public, self._short_secret = nacl.crypto_box_keypair()
        self._to_server = nacl.crypto_box_beforenm(self._server, self._short_secret)
        self._hello_box = nacl.crypto_box_afternm(bytes(64), b"CurveZMQHELLO---" + bytes(7) + b"\1", self._to_server)
        self._old: Welcome | None = None

    def opening(self, draw: Random) -> tuple[bytes, bool]:
        """Greeting and HELLO, and whether they are good; half of them are not."""
        parts = [b"\1\0", bytes(72), self._short_public, bytes(7) + b"\1", self._hello_box]
        good = draw.random() < 0.5
        return GREETING + _sent(draw, b"HELLO", parts, 0.0 if good else 1.0), good

    def welcome(self, said: bytes) -> Welcome | None:
        """What the daemon said, if it did; a box that does not open would be a fault of its own."""
        body = said[WELCOME_AT + 2 : WELCOME_AT + WELCOME_BYTES]
        if len(body) < WELCOME_BYTES - 2 or not body.startswith(b"\7WELCOME"):
            return None
        plain = nacl.crypto_box_open_afternm(body[24:], b"WELCOME-" + body[8:24], self._to_server)
        return Welcome(plain[:32], plain[32:])

    def closing(self, draw: Random, welcome: Welcome) -> tuple[bytes, bytes | None]:
        """INITIATE, and the messages to say once it is answered; None where it is spoilt, and they follow at once."""
        how = draw.random()
        known, self._old = (self._old or welcome), welcome
        # Another connection's cookie is one replayed.
        cookie = known.cookie if how < 0.1 else welcome.cookie
        key = nacl.crypto_box_beforenm(welcome.public, self._short_secret)
        vouched = os.urandom(32) if 0.1 <= how < 0.2 else self._short_public
        for_whom = vouched if 0.2 <= how < 0.25 else self._server
        nonce = os.urandom(16)
        vouch = nacl.crypto_box(vouched + for_whom, b"VOUCH---" + nonce, welcome.public, self._secret)
        pairs = _pairs(draw) if 0.25 <= how < 0.5 else _PAIRS
        inner = self._public + nonce + vouch + pairs
        if 0.5 <= how < 0.6:
            inner = spoilt(draw, inner)
        box = nacl.crypto_box_afternm(inner, b"CurveZMQINITIATE" + bytes(7) + b"\2", key)
        parts = [cookie, bytes(7) + b"\2", box]
        good = how >= 0.6 and draw.random() < 0.7
        said = _sent(draw, b"INITIATE", parts, 1.0 if how >= 0.6 and not good else 0.0)
        messages = _messages(draw, key)
        return (said, messages) if good else (said + messages, None)


def _pairs(draw: Random) -> bytes:
    """Metadata whose lengths lie (as in CVE-2019-13132, where they were believed)."""
    names = [(b"Socket-Type", b"DEALER"), (b"Identity", bytes(draw.choice([0, 1, 255, 256, 4000])))]
    said = metadata(names)
    if draw.random() < 0.5:
        said += (
            b"\x01a" + draw.choice([1, 2**16, 2**31, 2**32 - 1]).to_bytes(4, "big") + bytes(draw.choice([0, 1, 600]))
        )
    return spoilt(draw, said)


def _messages(draw: Random, key: bytes) -> bytes:
    """A few messages in boxes; their numbers must rise, and the boxes open."""
    said, number = b"", 3
    for _ in range(draw.choice([0, 1, 1, 3])):
        how = draw.random()
        number = draw.choice([0, 1, number, 2**64 - 1]) if how < 0.2 else number + 1
        counted = (number % 2**64).to_bytes(8, "big")
        plain = bytes([draw.choice([0, 0, 0, MORE, 2, 4, 255])]) + (spoilt(draw, PING[2:]) if how < 0.5 else PING[2:])
        box = nacl.crypto_box_afternm(plain, b"CurveZMQMESSAGEC" + counted, key)
        body = b"\7MESSAGE" + counted + box
        said += frame(spoilt(draw, body) if 0.5 < how < 0.7 else body)
    return said


def _sent(draw: Random, name: bytes, parts: list[bytes], spoil: float) -> bytes:
    """A command of these fields; with this chance one of them is wrong: in its bytes, its length, or the whole's."""
    if draw.random() >= spoil:
        return command(name, b"".join(parts))
    how, place = draw.random(), draw.randrange(len(parts))
    if how < 0.5:
        parts[place] = spoilt(draw, parts[place])
    elif how < 0.7:
        parts[place] = draw.randbytes(draw.choice(SIZES))
    elif how < 0.8:
        return command(name, draw.randbytes(draw.choice(SIZES)))
    elif how < 0.9:
        return spoilt(draw, command(name, b"".join(parts)))
    else:
        return command(name, b"".join(parts), flags=draw.choice([0, 1, 2, 5, 255]))
    return command(name, b"".join(parts))
