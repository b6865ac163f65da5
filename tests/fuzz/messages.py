"""Good messages for fuzzers to spoil, as plain values: what a client in any language would pack.

Role: `GOOD` is one of every kind, `packed` makes frames of one. Does not: spoil them (mutations.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from delen.clients.wire import VERSION
from delen.tests.fuzz.mutations import spoilt, spoilt_value

SPEC = ["float32", [1]]
ONE = b"\0\0\x80\x3f"
TEST = ["confidence", "greater", 0.7]
CONDITION = {"metric": "confidence", "operator": "greater", "threshold": 0.7}
BOUNDS = {"latency_ms": 40.0, "accuracy": 0.8, "certainty": 0.9, "certificate": "marginal", "objective": "energy"}

GOOD: tuple[list[Any], ...] = (
    ["hello", VERSION, b"id", "client", BOUNDS],
    ["hello", VERSION, b"id", "client"],
    ["networks", VERSION, b"id"],
    ["infer", VERSION, b"id", "net", [SPEC], BOUNDS, ""],
    ["infer", VERSION, b"id", "net", [SPEC], {"conditions": [{"all_of": [CONDITION]}, None, None], "on_miss": "drop"}],
    ["infer", VERSION, b"id", "net", [SPEC], {}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    ["fetch", VERSION, b"id"],
    ["cancel", VERSION, b"id"],
    ["bounds", VERSION, b"id", {"energy_mj": 5.0, "latency_ms": None}],
    ["conditions", VERSION, b"id", "net", [{"any_of": [CONDITION]}, None, None]],
    ["stats", VERSION, b"id", 0],
    ["feedback", VERSION, b"id", b"id", 1],
    ["ping", VERSION, b"id"],
    ["traces", VERSION, b"id", "a", 0],
    ["manage", VERSION, b"id", "swap", "net"],
    ["adapt", VERSION, b"id", None],
    ["adapt", VERSION, b"id", {"policy": "conditions", "conditions": {"net": [{"all_of": [CONDITION]}, None, None]}}],
    ["adapt", VERSION, b"id", {"policy": "load", "energy_j": 5.0, "for_s": 60.0, "power_w": 2.0}],
)
_encode = msgspec.msgpack.Encoder().encode


def packed(message: Sequence[Any], *tensors: bytes) -> list[bytes]:
    """Frames of a message; an `infer` has its tensor if none is given."""
    if message and message[0] == "infer" and not tensors:
        tensors = (ONE,)
    return [_encode(message), *tensors]


def anything(draw: Random) -> list[bytes]:
    """Frames of one message with something wrong with it, most of the time."""
    message: Any = list(draw.choice(GOOD))
    # An id of the last few, so that it may be one that runs, or a new one.
    message[2] = b"id%d" % draw.randrange(200)
    if message[0] == "feedback":
        message[3] = b"id%d" % draw.randrange(200)
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        message = spoilt_value(draw, message)
    frames = packed(message) if isinstance(message, list) else [_encode(message)]
    how = draw.random()
    if how < 0.20:
        frames[0] = spoilt(draw, frames[0], draw.choice([1, 1, 2, 5]))
    elif how < 0.22:
        frames = frames[1:]
    elif how < 0.25:
        frames += [draw.randbytes(draw.choice([0, 1, 4, 100]))] * draw.choice([1, 2, 97])
    elif how < 0.26:
        frames.reverse()
    elif how < 0.28:
        frames = [draw.randbytes(draw.randrange(80)) for _ in range(draw.randrange(5))]
    return frames
