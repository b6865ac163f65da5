"""What an ONNX file says about itself, read without an engine: inputs, outputs, and whether it reaches outside itself.

Role: lets the front process refuse a bundle whose graphs cannot fit together, or whose weights lie in other files,
before any engine's parser sees them. Flow: `read_facts(data)` walks the protobuf fields it knows and skips the rest.
Field numbers are those of onnx.proto3 (github.com/onnx/onnx), which never change.

Does not: check operators or weights (engines do), or trust any length it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

_Value: TypeAlias = "int | memoryview"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEPTH_MAX = 16  # graphs within If and Loop nest; ours do not
# TensorProto.DataType by number, for what may cross a segment's edge.
ELEMENT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 10: "float16"}
EXTERNAL = 1  # TensorProto.DataLocation


class GraphFault(ValueError):
    """The bytes are not a self-contained ONNX graph; the text says what was found."""


class Port(NamedTuple):
    """An input or output of a graph. `shape`: with the batch in front; None where a side is left open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class GraphFacts(NamedTuple):
    """Inputs that must be fed (initialisers left out) and outputs, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_facts(data: bytes) -> GraphFacts:
    """Inputs and outputs of one ONNX model.

    Raises:
        GraphFault: not an ONNX model, cut short, nested too deep, or its weights are kept in another file.
    """
    try:
        return _model_facts(memoryview(data))
    except UnicodeDecodeError as error:
        raise GraphFault("a name in it is not UTF-8; it is damaged or not ONNX") from error


def _model_facts(data: memoryview) -> GraphFacts:
    graph: memoryview | None = None
    for field, value in _fields(data):
        if field == 7:
            graph = _message(value)
        elif field in (20, 25):
            raise GraphFault("it holds training info or functions; export plain inference graphs, functions inlined")
    if graph is None:
        raise GraphFault("it holds no graph; it is damaged or not ONNX")
    _refuse_external(graph, depth=0)
    inputs, outputs, constants = [], [], set()
    for field, value in _fields(graph):
        if field == 11:
            inputs.append(_port(_message(value)))
        elif field == 12:
            outputs.append(_port(_message(value)))
        elif field == 5:
            constants.add(_first_text(_message(value), 8))
    return GraphFacts(tuple(port for port in inputs if port.name not in constants), tuple(outputs))


def _refuse_external(graph: memoryview, *, depth: int) -> None:
    """Look at every tensor: initialisers, sparse ones, and those in attributes of nodes and of nested graphs."""
    if depth > DEPTH_MAX:
        raise GraphFault(f"its graphs are nested more than {DEPTH_MAX} deep")
    for field, value in _fields(graph):
        if field == 5:
            _check_tensor(_message(value))
        elif field == 15:
            _check_sparse(_message(value))
        elif field == 1:
            for node_field, attribute in _fields(_message(value)):
                if node_field == 5:
                    _check_attribute(_message(attribute), depth=depth)


def _check_attribute(attribute: memoryview, *, depth: int) -> None:
    for field, value in _fields(attribute):
        if field in (5, 10):
            _check_tensor(_message(value))
        elif field in (22, 23):
            _check_sparse(_message(value))
        elif field in (6, 11):
            _refuse_external(_message(value), depth=depth + 1)


def _check_sparse(sparse: memoryview) -> None:
    for field, value in _fields(sparse):
        if field in (1, 2):
            _check_tensor(_message(value))


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == 13 or (field == 14 and value == EXTERNAL):
            raise GraphFault(
                f"tensor {_first_text(tensor, 8)[:80]!r} keeps its data in another file; "
                "export again with all weights inside (external_data=False)"
            )


def _port(info: memoryview) -> Port:
    name, dtype = _first_text(info, 1), ""
    shape: list[int | None] = []
    for field, kind in _fields(info):
        if field != 2:
            continue
        for type_field, tensor_type in _fields(_message(kind)):
            if type_field != 1:
                raise GraphFault(f"{name[:80]!r} is not a tensor")
            for tensor_field, value in _fields(_message(tensor_type)):
                if tensor_field == 1 and isinstance(value, int):
                    dtype = ELEMENT_TYPES.get(value, f"type number {value}")
                elif tensor_field == 2:
                    shape = [_side(_message(side)) for number, side in _fields(_message(value)) if number == 1]
    return Port(name, dtype, tuple(shape))


def _side(dimension: memoryview) -> int | None:
    return next((value for field, value in _fields(dimension) if field == 1 and isinstance(value, int)), None)


def _first_text(message: memoryview, wanted: int) -> str:
    return next((str(_message(value), "utf-8") for field, value in _fields(message) if field == wanted), "")


def _message(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise GraphFault("a number stands where a message belongs; it is damaged or not ONNX")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """Field number and value of everything in one protobuf message; fixed-width numbers come as their bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise GraphFault(f"wire type {kind} at byte {at}; it is damaged or not ONNX")
        if length > end - at:
            raise GraphFault("it is cut short")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise GraphFault("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise GraphFault("a number is longer than ten bytes; it is damaged or not ONNX")
