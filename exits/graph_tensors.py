"""The weights of an ONNX file: inside it, as large as they say, and numbers.

Role: the check of every tensor before an engine allocates what its header asks for. Flow: `graph_file.py` finds them,
`check_tensor(tree)` refuses: data kept in another file (or at an address in memory, which ONNX Runtime takes for one),
shapes that their data do not fill, unknown types, NaN.

Does not: judge values otherwise; infinity is what masks are made of.
"""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from .graph_schema import GraphFault, Tree, number, text

# An ONNX file ends at 2 GiB, so no more four-bit values fit into one.
ELEMENTS_MAX = 2**32
RANK_MAX = 64
# Fields of a tensor: its shape, and where its data may be.
DIMS, FLOATS, INT32S, STRINGS, INT64S, RAW, DOUBLES, UINT64S = 1, 4, 5, 6, 7, 9, 10, 11
STORES = (FLOATS, INT32S, STRINGS, INT64S, RAW, DOUBLES, UINT64S)
EXTERNAL_DATA, DATA_LOCATION = 13, 14


class Type(NamedTuple):
    """An element type. `store`: where its values are if not raw; `per_entry`: how many of them in one entry there."""

    name: str
    bits: int
    store: int
    per_entry: float = 1


# By number, as TensorProto.DataType and the comments on its fields have them.
TYPES = {
    1: Type("float32", 32, FLOATS),
    2: Type("uint8", 8, INT32S),
    3: Type("int8", 8, INT32S),
    4: Type("uint16", 16, INT32S),
    5: Type("int16", 16, INT32S),
    6: Type("int32", 32, INT32S),
    7: Type("int64", 64, INT64S),
    8: Type("string", 0, STRINGS),
    9: Type("bool", 8, INT32S),
    10: Type("float16", 16, INT32S),
    11: Type("float64", 64, DOUBLES),
    12: Type("uint32", 32, UINT64S),
    13: Type("uint64", 64, UINT64S),
    14: Type("complex64", 64, FLOATS, 0.5),
    15: Type("complex128", 128, DOUBLES, 0.5),
    16: Type("bfloat16", 16, INT32S),
    **dict.fromkeys((17, 18, 19, 20, 24), Type("float8", 8, INT32S)),
    **dict.fromkeys((21, 22, 23), Type("four bits", 4, INT32S, 2)),
    **dict.fromkeys((25, 26), Type("two bits", 2, INT32S, 4)),
}
_FLOATING = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}


def check_tensor(tensor: Tree) -> None:
    """Refuse a tensor that an engine should not see. Raises GraphFault."""
    name = f"tensor {text(tensor, 8)[:80]!r}"
    if EXTERNAL_DATA in tensor or number(tensor, DATA_LOCATION):
        raise GraphFault(f"{name} keeps its data in another file; export again with all weights inside")
    kind = TYPES.get(number(tensor, 2))
    if kind is None:
        raise GraphFault(f"{name} has type number {number(tensor, 2)}; expected one that ONNX defines")
    sides = integers(tensor.get(DIMS, []))
    if len(sides) > RANK_MAX or any(side >= ELEMENTS_MAX for side in sides) or math.prod(sides) > ELEMENTS_MAX:
        raise GraphFault(f"{name} has shape {sides!s:.80}; expected at most {RANK_MAX} sides, {ELEMENTS_MAX} values")
    count, stores = math.prod(sides), [field for field in STORES if field in tensor]
    if not stores and count == 0:
        return
    if stores not in ([RAW], [kind.store]):
        raise GraphFault(f"{name} keeps its {kind.name} values in fields {stores}; expected one, {kind.store} or {RAW}")
    values = tensor[stores[0]]
    if not _fills(values, stores[0], kind, count):
        raise GraphFault(
            f"{name} of shape {sides!s:.80} has more or less data than its {count} {kind.name} values take"
        )
    # Float16 may stand among integers; what engines give is looked at as well.
    if kind.name in _FLOATING and stores[0] != INT32S and any(map(_has_nan, values, repeat(_FLOATING[kind.name]))):
        raise GraphFault(f"{name} holds NaN; train or export it again")


def integers(values: list[Any]) -> list[int]:
    """Numbers that may stand one by one or packed. Negative ones come as large as they would be without a sign."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        if len(value) > 10 * RANK_MAX:
            raise GraphFault(f"a shape of {len(value)} bytes; expected at most {RANK_MAX} sides")
        current = shift = 0
        for byte in value:
            current |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(current)
                current = shift = 0
        if shift:
            raise GraphFault("a shape that ends within a number; it is damaged")
    return found


def _fills(values: list[Any], store: int, kind: Type, count: int) -> bool:
    """Whether a tensor's data are that many values; the last byte or entry may be filled in part."""
    if store == STRINGS:
        return len(values) == count
    if store == RAW:
        return kind.bits > 0 and len(values[0]) == -(-count * kind.bits // 8)
    if store in (FLOATS, DOUBLES):
        return sum(map(len, values)) * kind.per_entry == count * (4 if store == FLOATS else 8)
    entries = sum(1 if isinstance(value, int) else _varints(value) for value in values)
    return entries == -(-count // int(kind.per_entry))


def _varints(packed: memoryview) -> int:
    """How many numbers are packed here: each ends with a byte below 128."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 0x80))


def _has_nan(part: memoryview, dtype: str) -> bool:
    """Such weights make every answer NaN. The least of values with a NaN among them is NaN; no mask in memory."""
    return len(part) > 0 and math.isnan(np.minimum.reduce(np.frombuffer(part, dtype)))
