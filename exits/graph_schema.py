"""Protobuf as ONNX uses it, read strictly: the one reading that every parser after this one must share.

Role: engines parse what bundles hold, with parsers that forgive: they merge a message that stands twice, cut numbers
that are too long, skip what they do not know, and take memory for each of a billion empty nodes. A file that two
parsers read differently can show one graph to a check and another to an engine, so all of that is refused here: unknown
fields, wrong wire types, fields twice, numbers out of range, too many fields, too deep.
Flow: `parse(data)` -> a tree of dictionaries, field number -> values; bytes stay views of the file.
Numbers are those of onnx.proto (github.com/onnx/onnx), which never change; a test compares them with the onnx package.

Does not: know what a graph means (`graph_file.py`), or look into weights (`graph_tensors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

# A message: by field number, its values in order: numbers, bytes, or further messages.
Tree: TypeAlias = dict[int, list[Any]]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# A graph of ten thousand nodes has some 300,000; parsing that many takes half a second.
FIELDS_MAX = 500_000
# Each graph nested in an If takes three; protobuf itself stops at 100.
NESTING_MAX = 32
# Protobuf reads a field's key into 32 bits and drops the rest.
KEY_MAX, NUMBER_MAX = 2**32 - 1, 2**64 - 1
DAMAGED = "it is damaged or not ONNX"


class GraphFault(ValueError):
    """The bytes are not a self-contained ONNX graph; the text says what was found."""


class Field(NamedTuple):
    """`wire`: how it is written. `many`: it may stand more than once; numbers also packed. `kind`: of its message."""

    wire: int
    many: bool = False
    kind: str = ""


def _message(
    *,
    numbers: Sequence[int] = (),
    texts: Sequence[int] = (),
    one: Mapping[int, str] = {},
    several: Sequence[int] = (),
    many: Mapping[int, str] = {},
    lists: Mapping[int, int] = {},
) -> dict[int, Field]:
    """`texts` and the messages `one` stand once, `several` and `many` any number of times; `lists`: numbers by wire."""
    return {
        **dict.fromkeys(numbers, Field(VARINT)),
        **dict.fromkeys(texts, Field(BYTES)),
        **dict.fromkeys(several, Field(BYTES, many=True)),
        **{field: Field(BYTES, kind=kind) for field, kind in one.items()},
        **{field: Field(BYTES, many=True, kind=kind) for field, kind in many.items()},
        **{field: Field(wire, many=True) for field, wire in lists.items()},
    }


# What a bundle's graph may hold. Left out on purpose: training (model 20), functions (25), several devices (26 and
# node 10), tensors in pieces (tensor 3), references to a function's attributes (attribute 21), and types other than
# tensors (type 4, 5, 7, 9), which alone could nest without an end.
SCHEMA: dict[str, dict[int, Field]] = {
    "model": _message(numbers=(1, 5), texts=(2, 3, 4, 6), one={7: "graph"}, many={8: "operator set", 14: "pair"}),
    "graph": _message(
        texts=(2, 10),
        many={
            **dict.fromkeys((11, 12, 13), "port"),
            1: "node",
            5: "tensor",
            14: "annotation",
            15: "sparse tensor",
            16: "pair",
        },
    ),
    "node": _message(texts=(3, 4, 6, 7, 8), several=(1, 2), many={5: "attribute", 9: "pair"}),
    "attribute": _message(
        numbers=(3, 20),
        texts=(1, 4, 13),
        several=(9,),
        one={5: "tensor", 6: "graph", 14: "type", 22: "sparse tensor"},
        many={10: "tensor", 11: "graph", 15: "type", 23: "sparse tensor"},
        lists={7: FIXED32, 8: VARINT},
    )
    | {2: Field(FIXED32)},
    "tensor": _message(
        numbers=(2, 14),
        texts=(8, 9, 12),
        several=(6,),
        many={13: "pair", 16: "pair"},
        lists={1: VARINT, 4: FIXED32, 5: VARINT, 7: VARINT, 10: FIXED64, 11: VARINT},
    ),
    "sparse tensor": _message(one={1: "tensor", 2: "tensor"}, lists={3: VARINT}),
    "port": _message(texts=(1, 3), one={2: "type"}, many={4: "pair"}),
    "type": _message(texts=(6,), one={1: "tensor type", 8: "tensor type"}),
    "tensor type": _message(numbers=(1,), one={2: "shape"}),
    "shape": _message(many={1: "side"}),
    "side": _message(numbers=(1,), texts=(2, 3)),
    "annotation": _message(texts=(1,), many={2: "pair"}),
    "pair": _message(texts=(1, 2)),
    "operator set": _message(numbers=(2,), texts=(1,)),
}
# Known to ONNX, refused by us, and worth saying why.
REFUSED = {
    ("model", 20): "training info; export plain inference graphs",
    ("model", 25): "functions; export plain inference graphs, functions inlined",
    ("model", 26): "a plan for several devices; export for one",
    ("node", 10): "a plan for several devices; export for one",
    ("tensor", 3): "a tensor in pieces; export whole tensors",
    ("attribute", 21): "a reference to a function's attribute; export plain inference graphs, functions inlined",
    **dict.fromkeys([("type", number) for number in (4, 5, 7, 9)], "something that is not a tensor; export tensors"),
}


def parse(data: bytes) -> Tree:
    """One ONNX model as a tree. Raises GraphFault."""
    return _Reader().message(memoryview(data), "model", 0)


def text(tree: Tree, field: int) -> str:
    """A text field; empty where it is left out. Raises GraphFault."""
    values = tree.get(field)
    if not values:
        return ""
    try:
        return str(values[0], "utf-8")
    except UnicodeDecodeError as error:
        raise GraphFault(f"a name in it is not UTF-8; {DAMAGED}") from error


def number(tree: Tree, field: int) -> int:
    """A number field; 0 where it is left out."""
    values = tree.get(field)
    return values[0] if values else 0


class _Reader:
    """Counts fields over the whole file, so that no part of it can grow without a bound."""

    def __init__(self) -> None:
        self._left = FIELDS_MAX

    def message(self, data: memoryview, kind: str, depth: int) -> Tree:
        if depth > NESTING_MAX:
            raise GraphFault(f"its graphs are nested more than {NESTING_MAX} messages deep; export without If in If")
        schema, at, end = SCHEMA[kind], 0, len(data)
        tree: Tree = {}
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise GraphFault(f"it has more than {FIELDS_MAX} fields; expected a graph of at most some 10,000 nodes")
            key, at = _varint(data, at, KEY_MAX)
            field = schema.get(key >> 3)
            if field is None:
                raise GraphFault(_stranger(kind, key >> 3))
            values = tree.setdefault(key >> 3, [])
            if values and not field.many:
                raise GraphFault(f"field {key >> 3} of a {kind} stands twice, and parsers differ on which counts")
            value, at = _value(data, at, key & 7, field)
            values.append(self.message(value, field.kind, depth + 1) if field.kind else value)
        return tree


def _value(data: memoryview, at: int, wire: int, field: Field) -> tuple[Any, int]:
    packed = wire == BYTES and field.many
    if wire != field.wire and not packed:
        raise GraphFault(f"wire type {wire} at byte {at}, where {field.wire} belongs; {DAMAGED}")
    if wire == VARINT:
        return _varint(data, at, NUMBER_MAX)
    if wire == BYTES:
        length, at = _varint(data, at, NUMBER_MAX)
    else:
        length = 4 if wire == FIXED32 else 8
    if length > len(data) - at:
        raise GraphFault(f"it is cut short; {DAMAGED}")
    return data[at : at + length], at + length


def _stranger(kind: str, field: int) -> str:
    said = REFUSED.get((kind, field))
    if said is not None:
        return f"it holds {said}"
    return f"field {field} of a {kind} is none that is known; {DAMAGED}, or newer than this delen"


def _varint(data: memoryview, at: int, most: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise GraphFault(f"it is cut short; {DAMAGED}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > most:
                break
            return value, at
    raise GraphFault(f"a number is longer than {most.bit_length()} bits; {DAMAGED}")
