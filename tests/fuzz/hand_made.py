"""Messages that were thought up: every way that came to mind in which an envelope or a tensor's header can be wrong.

Role: `ENVELOPES` and `TENSORS`: by name, frames and what must come of them: a code, a reply's kind, or `accepted`. Does
not: send anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delen.clients.wire import DTYPES, HEADER_BYTES_MAX, RANK_MAX, SIDE_MAX, VERSION
from delen.tests.fuzz.desk_target import PAYLOAD_BYTES_MAX
from delen.tests.fuzz.messages import CONDITION, ONE, SPEC, packed
from delen.tests.fuzz.mutations import RAW, Raw

Case = tuple[list[bytes], str]
NAN, INF = float("nan"), float("inf")


def _short(value: Any) -> str:
    """For a test's name."""
    said = repr(value)
    return said if len(said) <= 24 else f"{said[:20]}... of {len(said)}"


def _infer(bounds: Any) -> list[bytes]:
    return packed(["infer", VERSION, b"id", "net", [SPEC], bounds])


def _frames() -> dict[str, Case]:
    ping, infer = packed(["ping", VERSION, b"id"]), packed(["infer", VERSION, b"id", "net", [SPEC]])
    found: dict[str, Case] = {"no frames": ([], "malformed"), "one frame": (ping, "Pong")}
    found |= {f"ping and {n} frames": (ping + [b"x"] * n, "malformed") for n in (1, 2, 3, 50, 100)}
    found |= {f"infer and {n} frames": (infer[:1] + [ONE] * n, "malformed") for n in (0, 2, 3, 50, 100)}
    found |= {
        "an empty frame": ([b""], "malformed"),
        "the tensor first": (infer[::-1], "malformed"),
        "the header twice": (ping * 2, "malformed"),
        "a header as long as may be": ([ping[0].ljust(HEADER_BYTES_MAX, b"\xc0")], "malformed"),
        "a header one longer": ([ping[0].ljust(HEADER_BYTES_MAX + 1, b"\xc0")], "malformed"),
        "a header and more in its frame": ([ping[0] + b"\xc0"], "malformed"),
    }
    return found | {f"cut after {n} bytes": ([infer[0][:n]], "malformed") for n in (1, 2, 6, 7, 8, 10, 15)}


def _heads() -> dict[str, Case]:
    found: dict[str, Case] = {}
    name: Any
    wrong: Any
    for version in (-1, 0, 2, 255, 2**31, 2**63, 2**64 - 1, -(2**63)):
        found[f"version {version}"] = packed(["ping", version, b"id"]), "version"
    for wrong in (1.5, NAN, INF, "1", b"1", None, [], {}, True):
        found[f"version {wrong!r}"] = packed(["ping", wrong, b"id"]), "malformed"
    for name in ("", "sudo", "PING", "ping ", "ping\0", "x" * 1000, b"ping", 0, None, [], {}, True, ["ping"], NAN):
        found[f"name {_short(name)}"] = packed([name, VERSION, b"id"]), "malformed"
    for reply in ("pong", "answer", "refusal", "welcome", "error"):
        found[f"a reply: {reply}"] = packed([reply, VERSION, b"id"]), "malformed"
    for size in (0, 65, 66, 255, 256, 65_000):
        found[f"id of {size} bytes"] = packed(["ping", VERSION, b"x" * size]), "malformed"
    for size in (1, 63, 64):
        found[f"id of {size} bytes"] = packed(["ping", VERSION, b"\0" * size]), "Pong"
    for wrong in ("id", 1, None, [], {}, [1, 2]):
        found[f"id {wrong!r}"] = packed(["ping", VERSION, wrong]), "malformed"
    for client in ("", ".", "..", ".x", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "é", "a b", "x" * 65):
        found[f"client {_short(client)}"] = packed(["hello", VERSION, b"id", client]), "malformed"
    for client in ("x" * 64, "a.b-c_D9", "-"):
        found[f"client {_short(client)}"] = packed(["hello", VERSION, b"id", client]), "Welcome"
    for network in ("", "../net", "net\0", "NET", "\u202eten", "x" * 60_000):
        made = packed(["infer", VERSION, b"id", network, [SPEC]])
        found[f"network {_short(network)}"] = made, "unknown_network"
    for place, raw in enumerate(RAW):
        found[f"raw {place} for the id"] = packed(["ping", VERSION, Raw(raw)]), "malformed"
    return found


def _bounds() -> dict[str, Case]:
    found: dict[str, Case] = {}
    wrong: Any
    word: Any
    for name, most in (("latency_ms", 3.6e6), ("energy_mj", 1e12), ("accuracy", 1.0), ("certainty", 1.0)):
        for value in (NAN, INF, -INF, 0, 0.0, -0.0, -1, -5e-324, 2 * most, 1.8e308, 2**64 - 1, -(2**63)):
            found[f"{name} {value!r}"] = _infer({name: value}), "bounds"
        for wrong in ("5", b"5", True, [], {}, [5.0]):
            found[f"{name} {wrong!r}"] = _infer({name: wrong}), "malformed"
    found |= {f"latency {value!r}": (_infer({"latency_ms": value}), "infeasible") for value in (5e-324, 1e-300, 1e-9)}
    found["certainty 1"] = _infer({"certainty": 1}), "bounds"
    for name in ("latency_us", "", "latency_ms\0", "LATENCY_MS", "__class__", "x" * 60_000):
        found[f"unknown key {_short(name)}"] = _infer({name: 1.0}), "malformed"
    for key in (0, None, b"latency_ms", 1.5, True):
        found[f"key {key!r}"] = _infer({key: 1.0}), "malformed"
    for name in ("objective", "on_miss", "certificate"):
        for word in ("speed", "", "x" * 60_000, 0, b"accuracy", ["accuracy"]):
            found[f"{name} {_short(word)}"] = _infer({name: word}), "malformed"
    for depth in (1, 10, 100, 500, 995, 1_000, 10_000, 60_000):
        nested = Raw(b"\x91" * depth + b"\xc0")
        found[f"bounds {depth} deep"] = _infer(nested), "malformed"
        found[f"a condition {depth} deep"] = _infer({"conditions": nested}), "bounds" if depth == 1 else "malformed"
    for wrong in (None, 1, "x", [], [{}], b""):
        found[f"bounds {wrong!r}"] = _infer(wrong), "malformed"
    return found | _conditions()


def _conditions() -> dict[str, Case]:
    def one(**change: Any) -> list[bytes]:
        return _infer({"conditions": [{"all_of": [{**CONDITION, **change}]}, None, None]})

    return {
        "no conditions": (_infer({"conditions": []}), "bounds"),
        "conditions of nothing": (_infer({"conditions": [None, None, None]}), "bounds"),
        "empty conditions": (_infer({"conditions": [{}, {}, {}]}), "bounds"),
        "65 tests": (_infer({"conditions": [{"all_of": [CONDITION] * 65}, None, None]}), "bounds"),
        "2,000 tests": (_infer({"conditions": [{"any_of": [CONDITION] * 1000}, None, None]}), "bounds"),
        "33 exits": (_infer({"conditions": [None] * 33}), "malformed"),
        "60,000 exits": (_infer({"conditions": [None] * 60_000}), "malformed"),
        "too few exits": (_infer({"conditions": [{"all_of": [CONDITION]}]}), "infeasible"),
        "conditions and accuracy": (
            _infer({"conditions": [{"all_of": [CONDITION]}, None, None], "accuracy": 0.5}),
            "bounds",
        ),
        "threshold NaN": (one(threshold=NAN), "bounds"),
        "threshold infinite": (one(threshold=-INF), "bounds"),
        "threshold of words": (one(threshold="much"), "malformed"),
        "another metric": (one(metric="weight"), "malformed"),
        "another operator": (one(operator="=="), "malformed"),
        "a test too many keys": (one(eval="x"), "malformed"),
    }


ENVELOPES: Mapping[str, Case] = {**_frames(), **_heads(), **_bounds()}


def _tensor(spec: Any, payload: bytes = ONE) -> list[bytes]:
    return packed(["infer", VERSION, b"id", "net", [spec]], payload)


def _tensors() -> dict[str, Case]:
    wrong: Any
    found: dict[str, Case] = {"as it should be": (_tensor(SPEC), "accepted")}
    strangers = ("", "float", "float64", "complex64", "object", "O", "bool", "str", "U4", ">f4", "<f4", "=f4", "|V4")
    for dtype in (*strangers, "datetime64", "float32 ", "FLOAT32", "float32\0", "bfloat16", "int4", "x" * 60_000):
        found[f"dtype {_short(dtype)}"] = _tensor([dtype, [1]]), "dtype"
    for dtype, width in DTYPES.items():
        if dtype != "float32":
            found[f"another dtype: {dtype}"] = _tensor([dtype, [1]], bytes(width)), "dtype"
            found[f"{dtype} one byte long"] = _tensor([dtype, [1]], bytes(width + 1)), "shape"
    for rank in (0, 2, 3, RANK_MAX):
        found[f"rank {rank}"] = _tensor(["float32", [1] * rank]), "shape"
    for rank in (RANK_MAX + 1, 16, 32, 64, 65, 1000, 60_000):
        # So many are not even read.
        found[f"rank {rank}"] = _tensor(["float32", [1] * rank]), "shape" if rank <= 64 else "malformed"
    for side in (0, 2, -1, -4, SIDE_MAX, SIDE_MAX + 1, 2**32, 2**62, 2**63, 2**64 - 1, -(2**31), -(2**63)):
        found[f"side {side}"] = _tensor(["float32", [side]]), "shape"
    # Products that come to 1 or 4 where they are reckoned in 32 or 64 bits, or with signs.
    for shape in ([2**31, 2], [2**31, 2**31, 4], [2**16, 2**16], [-1, -1], [2**30] * 8, [0, 2**31], [2**31, 0]):
        found[f"shape {shape}"] = _tensor(["float32", shape]), "shape"
    for size in (0, 1, 2, 3, 5, 7, 8, 100, PAYLOAD_BYTES_MAX):
        found[f"{size} bytes"] = _tensor(SPEC, bytes(size)), "shape"
    for size in (PAYLOAD_BYTES_MAX + 1, 2 * PAYLOAD_BYTES_MAX):
        found[f"{size} bytes"] = _tensor(SPEC, bytes(size)), "too_large"
        found[f"{size} bytes as it says"] = _tensor(["uint8", [size]], bytes(size)), "too_large"
    for wrong in (
        None,
        [],
        ["float32"],
        ["float32", 1],
        ["float32", [1], 0],
        {"dtype": "float32"},
        "float32",
        [1, [1]],
    ):
        found[f"spec {wrong!r}"] = _tensor(wrong), "malformed"
    odd: Any
    for odd in (1.0, 1.5, "1", None, True, [1], NAN):
        found[f"a side {odd!r}"] = _tensor(["float32", [odd]]), "malformed"
    for count in (0, 2, 100):
        found[f"{count} specs"] = packed(["infer", VERSION, b"id", "net", [SPEC] * count]), "malformed"
    for place, raw in enumerate(RAW):
        found[f"raw {place} for the shape"] = _tensor(["float32", Raw(raw)]), "malformed"
    return found


TENSORS: Mapping[str, Case] = _tensors()
