"""Seeded ways to spoil bytes and messages, shared by all fuzzers.

Role: `spoilt` changes bytes; `spoilt_value` changes one place of a message before it is packed, by values that parsers
get wrong. The generator is passed in, so a seed says everything. Does not: send or judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

Raw = msgspec.Raw
# What numbers are where parsers count: signs, widths, their neighbours.
INTEGERS = (
    0,
    1,
    -1,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
)
FLOATS = (0.0, -0.0, 5e-324, 1e-300, 1.0, 1.0000001, 1e300, 1.7976931348623157e308, float("inf"), -float("inf"))
NOT_A_NUMBER = float("nan")
TEXTS = (
    *("", " ", "\0", "\n", "a\nb", "\r\x1b[2J", "../../etc/passwd", "/", ".", "..", ".hidden", "%s%n", "${HOME}"),
    *("x" * 64, "x" * 65, "x" * 255, "x" * 256, "x" * 65_000, "\u202egnp.exe", "\u2028", "\ufeff", "é", "\U0010ffff"),
)
BYTES = (b"", b"\0", b"\0" * 64, b"x" * 65, b"\xff" * 255, b"id")
# What a packer of values would not write: bad text, keys twice, keys that are no text, more announced than sent, types
# of extensions, times out of range, depth.
RAW = (
    *(b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xc1", b"\xd9\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xd6\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12),
    *(
        b"\xd4\x05\x00",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x02",
        b"\x81\xc0\x02",
        b"\x81\x80\x01",
        b"\x81\x91\x80\x01",
    ),
    *(b"\x82\xaalatency_ms\x05\xaalatency_ms\xff", b"\x91" * 50 + b"\x90", b"\x91" * 990 + b"\xc0"),
    *(b"\x91" * 10_000, b"\x81\xa1a" * 300 + b"\xc0", b"\x81\xa1a" * 5_000),
)


def odd_value(draw: Random, instead: Any = None) -> Any:
    """Something that does not belong where it is put, most of the time; mostly of the kind that does."""
    if draw.random() < 0.75:
        for kind, values in ((bool, (True, False)), (int, INTEGERS), (str, TEXTS), (bytes, BYTES)):
            if isinstance(instead, kind):
                return draw.choice(values)
        if isinstance(instead, float):
            return draw.choice((*FLOATS, *INTEGERS, NOT_A_NUMBER))
    pools: tuple[Sequence[Any], ...] = (INTEGERS, FLOATS, TEXTS, BYTES, (None, True, False, NOT_A_NUMBER, [], {}, [[]]))
    if draw.random() < 0.25:
        return Raw(draw.choice(RAW))
    return draw.choice(draw.choice(pools))


def spoilt_value(draw: Random, value: Any) -> Any:
    """The same message with one place of it changed, taken away, doubled or exchanged."""
    if isinstance(value, list) and value and draw.random() < 0.95:
        place, changed = draw.randrange(len(value)), list(value)
        how = draw.random()
        if how < 0.85:
            changed[place] = spoilt_value(draw, value[place])
        elif how < 0.90:
            del changed[place]
        elif how < 0.95:
            changed.insert(place, odd_value(draw))
        else:
            changed += [changed[place]] * draw.choice([1, 1, 2, 70, 5_000])
        return changed
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key, others = draw.choice(list(value)), dict(value)
        if draw.random() < 0.8:
            others[key] = spoilt_value(draw, value[key])
        else:
            others[draw.choice(TEXTS)] = others.pop(key)
        return others
    return odd_value(draw, value)


def spoilt(draw: Random, data: bytes, times: int = 1) -> bytes:
    """The same bytes with a few of them flipped, cut, doubled, exchanged or put in."""
    changed = bytearray(data)
    for _ in range(times):
        place = draw.randrange(len(changed) + 1)
        how = draw.randrange(8)
        if how == 0 and changed:
            changed[place % len(changed)] ^= 1 << draw.randrange(8)
        elif how == 1 and changed:
            changed[place % len(changed)] = draw.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)])
        elif how == 2:
            del changed[place:]
        elif how == 3:
            del changed[place : place + draw.choice([1, 2, 4, 16, 64])]
        elif how == 4:
            changed[place:place] = draw.randbytes(draw.choice([1, 2, 4, 8, 64]))
        elif how == 5:
            changed[place:place] = changed[place : place + draw.choice([1, 4, 16, 256])]
        elif how == 6:
            number = draw.choice(INTEGERS) & (2**64 - 1)
            width = draw.choice([1, 2, 4, 8])
            changed[place : place + width] = (number & (256**width - 1)).to_bytes(width, draw.choice(["big", "little"]))
        else:
            other = draw.randrange(len(changed) + 1)
            changed[place : place + 8] = changed[other : other + 8]
    return bytes(changed)
