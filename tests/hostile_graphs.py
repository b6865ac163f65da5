"""ONNX files that nobody should load, written byte by byte: each is the same small good graph with one thing wrong.

Flow: `good()` loads; every entry of `GRAPHS` is its bytes changed in one way, and the words its refusal must have.
Made without the onnx package, which would not write most of them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

FLOAT, INT64 = 1, 7
WIDTH = 4


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(*sides: int, raw: bytes | None = None, kind: int = FLOAT, name: str = "weight", more: bytes = b"") -> bytes:
    body = b"".join(number(1, side) for side in sides) + number(2, kind) + part(8, name)
    return body + (b"" if raw is None else part(9, raw)) + more


def external(location: str, *more: tuple[str, str]) -> bytes:
    """The fields of a tensor that lies somewhere else."""
    pairs = [("location", location), *more]
    return b"".join(part(13, part(1, key) + part(2, value)) for key, value in pairs) + number(14, 1)


def port(name: str, *sides: int | str, kind: int = FLOAT) -> bytes:
    shape = b"".join(part(1, part(2, side) if isinstance(side, str) else number(1, side)) for side in sides)
    return part(1, name) + part(2, part(1, number(1, kind) + part(2, shape)))


def node(operator: str = "Identity", more: bytes = b"", domain: str = "") -> bytes:
    return part(1, "input") + part(2, "output") + part(4, operator) + (part(7, domain) if domain else b"") + more


def attribute(more: bytes) -> bytes:
    return part(5, part(1, "value") + more)


def graph(nodes: bytes | None = None, ports: bytes | None = None, more: bytes = b"") -> bytes:
    if ports is None:
        ports = part(11, port("input", "batch", WIDTH)) + part(12, port("output", "batch", WIDTH))
    return (part(1, node()) if nodes is None else nodes) + part(2, "part") + ports + more


def model(body: bytes | None = None, more: bytes = b"") -> bytes:
    opset = part(8, part(1, "") + number(2, 18))
    return number(1, 8) + opset + part(7, graph() if body is None else body) + more


def good() -> bytes:
    return model(graph(more=part(5, tensor(2, 2, raw=struct.pack("<4f", 1, 2, 3, float("inf"))))))


def holding(found: bytes) -> bytes:
    """A graph with this tensor among its weights."""
    return model(graph(more=part(5, found)))


def nested(depth: int, inner: bytes) -> bytes:
    """A graph within an attribute of a node of a graph, and so on."""
    for _ in range(depth):
        inner = part(1, node("If", attribute(part(6, inner))))
    return model(graph(nodes=inner))


def oversized() -> bytes:
    """Half a megabyte that becomes half a million nodes."""
    return model(graph(nodes=part(1, b"") * 510_000))


OUTSIDE = {
    "a file above": external("../../../etc/passwd"),
    "an absolute path": external("/etc/passwd"),
    "a path with dots": external("a/../../b"),
    "a file of the bundle": external("head0.onnx"),
    "a directory's link": external("link/weights"),
    "the process's memory": external("/proc/self/mem", ("offset", "4194304"), ("length", "16")),
    "a device": external("/dev/zero", ("length", "99999999999")),
    "an address": external("*/_ORT_MEM_ADDR_/*", ("offset", "140737488355328"), ("length", "16")),
    "an offset of 2^63": external("w.bin", ("offset", str(2**63))),
    "a negative offset": external("w.bin", ("offset", "-1")),
    "a name with a zero": external("a\0b"),
    "an empty name": external(""),
    "only a mark": number(14, 1),
    "only a name": part(13, part(1, "location") + part(2, "/etc/passwd")),
    "a mark beyond 32 bits": number(14, 2**32 + 1),
    "an unknown mark": number(14, 7),
}
_BAD = tensor(2, more=external("/etc/passwd"))
_FOUR = struct.pack("<4f", 1, 2, 3, 4)
_SPARSE = part(1, tensor(2, raw=_FOUR[:8])) + part(2, _BAD)
_SEQUENCE = part(1, "input") + part(2, part(4, part(1, b"")))

GRAPHS: Mapping[str, tuple[bytes, str]] = {
    **{f"external data: {name}": (holding(tensor(2, more=where)), "another file") for name, where in OUTSIDE.items()},
    "external data: in an attribute": (model(graph(part(1, node("C", attribute(part(5, _BAD)))))), "another file"),
    "external data: in a list": (model(graph(part(1, node("C", attribute(part(10, _BAD)))))), "another file"),
    "external data: in a branch": (nested(3, graph(more=part(5, _BAD))), "another file"),
    "external data: in branches": (
        model(graph(part(1, node("If", attribute(part(11, graph(more=part(5, _BAD)))))))),
        "another file",
    ),
    "external data: sparse": (model(graph(more=part(15, _SPARSE))), "another file"),
    "external data: sparse attribute": (model(graph(part(1, node("C", attribute(part(22, _SPARSE)))))), "another file"),
    "two graphs, the first with external data": (
        number(1, 8) + part(7, graph(more=part(5, _BAD))) + part(7, graph()),
        "stands twice",
    ),
    "two graphs, the second empty": (model(more=part(7, b"")), "stands twice"),
    "a graph under a key that 32 bits cut": (model(more=varint(2**32 + (7 << 3 | 2)) + varint(0)), "longer than 32"),
    "a graph as a number": (number(1, 8) + number(7, 1), "wire type"),
    "no graph": (number(1, 8), "no graph"),
    "nothing": (b"", "no graph"),
    "one byte": (b"\x3a", "cut short"),
    "zeros": (bytes(1000), "none that is known"),
    "ones": (b"\xff" * 1000, "longer than"),
    "text": (b"not a graph at all, but words\n" * 9, "not ONNX"),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", "not ONNX"),
    "a zip": (b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(40), "not ONNX"),
    "an ELF file": (b"\x7fELF\x02\x01\x01" + bytes(57), "ONNX"),
    "a TensorRT plan": (b"ftrt" + bytes(60), "not ONNX"),
    "a GGUF file": (b"GGUF" + bytes(60), "not ONNX"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(60), "ONNX"),
    "ONNX Runtime's format": (b"\x18\x00\x00\x00ORTM" + bytes(60), "own format"),
    "both formats at once": (part(6, b"xxORTM"[0:2] + b"ORTM") + model(), "own format"),
    "training info": (model(more=part(20, b"")), "training"),
    "functions": (model(more=part(25, part(1, "f"))), "functions"),
    "a plan for devices": (model(more=part(26, b"")), "devices"),
    "settings for the engine": (model(more=part(14, part(1, "ort_config") + part(2, "{}"))), "settings"),
    "an unknown field": (model(more=part(99, b"")), "none that is known"),
    "field 0": (model(more=b"\x02\x00"), "none that is known"),
    "a group": (model(more=b"\x13\x14"), "wire type"),
    "wire type 7": (model(more=b"\x17"), "wire type"),
    "a number of eleven bytes": (model(more=b"\x28" + b"\x80" * 11 + b"\x01"), "longer than"),
    "a length beyond the end": (model(more=b"\x32\x7f"), "cut short"),
    "a length of 2^64-1": (model(more=varint(14 << 3 | 2) + varint(2**64 - 1)), "cut short"),
    "a length over 2^64": (model(more=varint(14 << 3 | 2) + b"\xff" * 9 + b"\x7f"), "longer than"),
    "nested twenty deep": (nested(20, graph()), "nested"),
    "nested ten thousand deep": (nested(1500, graph()), "nested"),
    "half a million nodes": (oversized(), "fields"),
    "a node's operator twice": (model(graph(part(1, node(more=part(4, "Loop"))))), "stands twice"),
    "a name that is not UTF-8": (model(graph(ports=part(11, part(1, b"\xff\xfe")))), "UTF-8"),
    "a loop": (model(graph(part(1, node("Loop")))), "as long as"),
    "a scan": (model(graph(part(1, node("Scan")))), "as long as"),
    "a compiled engine by path": (model(graph(part(1, node("EPContext", domain="com.microsoft")))), "compiled"),
    "a call of Python": (model(graph(part(1, node("PythonOp", domain="com.microsoft")))), "Python"),
    "a loop in a branch": (nested(2, graph(part(1, node("Loop")))), "as long as"),
    "an operator of somebody's": (model(graph(part(1, node("Run", domain="evil.test")))), "evil.test"),
    "an operator of a plug-in": (model(graph(part(1, node("X", domain="trt.plugins")))), "trt.plugins"),
    "a function's attribute": (model(graph(part(1, node("C", attribute(part(21, "x")))))), "function"),
    "a sequence for an input": (model(graph(ports=part(11, _SEQUENCE))), "not a tensor"),
    "a map for an input": (model(graph(ports=part(11, part(2, part(5, b""))))), "not a tensor"),
    "an optional for an input": (model(graph(ports=part(11, part(2, part(9, b""))))), "not a tensor"),
    "a sparse input": (model(graph(ports=part(11, part(1, "input") + part(2, part(8, b""))))), "sparse"),
    "no ports": (model(graph(ports=b"")), "inputs are none"),
    "two inputs": (
        model(graph(ports=part(11, port("input", "batch", WIDTH)) + part(11, port("more", "batch", WIDTH)))),
        "exactly one",
    ),
    "two outputs": (model(graph(more=part(12, port("also", "batch", WIDTH)))), "exactly one"),
    "an input that is a weight": (model(graph(more=part(5, tensor(raw=_FOUR[:4], name="input")))), "inputs are none"),
    "a fixed batch": (
        model(graph(ports=part(11, port("input", 1, WIDTH)) + part(12, port("output", 1, WIDTH)))),
        "manifest says",
    ),
    "a huge port": (
        model(graph(ports=part(11, port("input", "batch", 2**62)) + part(12, port("output", "batch", 4)))),
        "manifest says",
    ),
    "doubles for inputs": (
        model(graph(ports=part(11, port("input", "batch", 4, kind=11)) + part(12, port("output", "batch", 4)))),
        "manifest says",
    ),
    "a tensor of 2^40 values": (holding(tensor(2**20, 2**20, raw=_FOUR)), "at most"),
    "a tensor whose size is 0 in 64 bits": (holding(tensor(2**32, 2**32, raw=b"")), "at most"),
    "a negative side": (holding(tensor(2**64 - 1, raw=_FOUR)), "at most"),
    "a tensor of rank 100": (holding(tensor(*[1] * 100, raw=_FOUR[:4])), "sides"),
    "a packed shape that breaks off": (holding(part(1, b"\x80") + number(2, FLOAT) + part(9, b"")), "ends within"),
    "too little data": (holding(tensor(5, raw=_FOUR)), "more or less"),
    "too much data": (holding(tensor(3, raw=_FOUR)), "more or less"),
    "no data": (holding(tensor(3)), "expected one"),
    "data twice": (holding(tensor(4, raw=_FOUR, more=part(4, _FOUR))), "expected one"),
    "data of another type": (holding(tensor(4, more=part(7, b"\1\1\1\1"))), "expected one"),
    "packed data cut off": (holding(tensor(4, kind=INT64, more=part(7, b"\1\1\1"))), "more or less"),
    "text as bytes": (holding(tensor(1, kind=8, raw=b"abcd")), "more or less"),
    "a tensor in pieces": (holding(tensor(4, raw=_FOUR, more=part(3, number(1, 0)))), "pieces"),
    "type 0": (holding(tensor(4, kind=0, raw=_FOUR)), "type number 0"),
    "type 99": (holding(tensor(4, kind=99, raw=_FOUR)), "type number 99"),
    "NaN among the weights": (holding(tensor(2, raw=struct.pack("<2f", 1, float("nan")))), "NaN"),
    "NaN in half precision": (holding(tensor(2, kind=10, raw=b"\x00\x3c\x00\x7e")), "NaN"),
    "NaN as floats": (holding(tensor(2, more=part(4, struct.pack("<2f", 1, float("nan"))))), "NaN"),
    "NaN in double precision": (holding(tensor(1, kind=11, more=part(10, struct.pack("<d", float("nan"))))), "NaN"),
    **{f"cut after {share} %": (good()[: len(good()) * share // 100], "") for share in (1, 10, 25, 50, 75, 90, 99)},
}
