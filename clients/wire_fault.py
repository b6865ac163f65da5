"""What is wrong with a message: the error, and how a header that cannot be read is explained.

Role: `WireError` for the codec (wire.py), and `explained` from a codec's fault to one. Pure, and importable by every
room. Does not: decode messages.
"""

from __future__ import annotations

import msgspec

ID_BYTES_MAX = 64


class WireError(ValueError):
    """A message that breaks the protocol: `code` is stable, the text says what was wrong and what was expected."""

    def __init__(self, code: str, message: str, request_id: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class _Head(msgspec.Struct, array_like=True):
    """How any message begins, known or not. What follows is passed over: to make objects of it takes milliseconds."""

    name: str
    version: int
    id: bytes


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def explained(header: bytes | memoryview, error: Exception, version: int) -> WireError:
    """Why a header could not be read: another version, or the fault the codec names; with the id if it is legible."""
    try:
        head = _decode_head(header)
    except msgspec.ValidationError:
        return WireError("malformed", "the header is not an array [name, version, id, ...] of msgpack")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return WireError("malformed", f"the header is not msgpack: {error!s:.300}")
    request_id = head.id if 0 < len(head.id) <= ID_BYTES_MAX else b""
    if head.version != version:
        return WireError("version", f"protocol version {head.version}; this side speaks {version}", request_id)
    return WireError("malformed", f"message {head.name[:40]!r}: {error!s:.300}", request_id)
