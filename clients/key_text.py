"""CURVE keys as text: what a public key may look like, and the short form by which people compare two of them.

Role: Z85 (ZeroMQ RFC 32) as far as keys need it, and fingerprints; shared by daemon, SDK and commands. Pure, and
importable by every room. Does not: make keys, or read files.
"""

from __future__ import annotations

import base64
import hashlib

KEY_CHARACTERS = 40
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_DIGIT = {character: value for value, character in enumerate(_ALPHABET)}
_BASE = 85


def key_fault(text: str) -> str | None:
    """Why this is no key, without repeating it: it may be a secret one. None when it is."""
    if len(text) != KEY_CHARACTERS:
        return f"a key has {KEY_CHARACTERS} characters of Z85, this has {len(text)}"
    if any(character not in _DIGIT for character in text):
        return "a key is written in Z85 (RFC 32); this has other characters"
    if any(_word(text[start : start + 5]) >= 2**32 for start in range(0, KEY_CHARACTERS, 5)):
        return "these characters are Z85, but no key: a group of five is too large"
    return None


def key_bytes(text: str) -> bytes:
    """The 32 bytes of a key that has no fault."""
    return b"".join(_word(text[start : start + 5]).to_bytes(4, "big") for start in range(0, KEY_CHARACTERS, 5))


def key_text(raw: bytes) -> str:
    """Z85 of 32 bytes."""
    text = ""
    for start in range(0, len(raw), 4):
        word = int.from_bytes(raw[start : start + 4], "big")
        text += "".join(_ALPHABET[word // _BASE**place % _BASE] for place in (4, 3, 2, 1, 0))
    return text


def fingerprint(text: str) -> str:
    """As ssh shows keys: `SHA256:` and the digest of the 32 bytes in base64."""
    digest = base64.b64encode(hashlib.sha256(key_bytes(text)).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _word(group: str) -> int:
    value = 0
    for character in group:
        value = value * _BASE + _DIGIT[character]
    return value
