"""What an ONNX file says about itself, read without an engine: inputs, outputs, and whether it reaches outside itself.

Role: lets the front process refuse a bundle whose graphs cannot fit together, whose weights lie in other files or are
not what their headers say, or that ask an engine for more than arithmetic, before any engine's parser sees them.
Flow: `read_facts(data)` -> `graph_schema.parse` -> every tensor and node is looked at -> inputs and outputs.

Does not: check shapes between nodes (engines do), or trust any length it reads.
"""

from __future__ import annotations

from typing import NamedTuple

from .graph_schema import DAMAGED, Tree, number, parse, text
from .graph_schema import GraphFault as GraphFault
from .graph_tensors import check_tensor

# TensorProto.DataType by number, for what may cross a segment's edge.
ELEMENT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 10: "float16"}
# ONNX's own operators, and ONNX Runtime's, which its quantiser writes. Others would need code from somewhere.
DOMAINS = ("", "ai.onnx", "com.microsoft")
OPERATORS_REFUSED = {
    "EPContext": "takes a compiled engine, by path or as bytes, which runs as it is",
    "PythonOp": "calls Python",
    "PythonOpGrad": "calls Python",
    "PyOp": "calls Python",
    "Loop": "runs as long as its input says, so no bound could be kept",
    "Scan": "runs as long as its input says, so no bound could be kept",
}
# ONNX Runtime takes session options from a model that carries them under this key.
METADATA_REFUSED = "ort_config"
# At this place of a file of its own, ONNX Runtime has its mark: such bytes would be read as something else than ONNX.
ORT_MARK, ORT_MARK_AT = b"ORTM", 4


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
        GraphFault: not an ONNX model, cut short, nested too deep, or it holds something that engines should not see:
            weights in another file or not as large as they say, operators that run code, what two parsers would read
            differently.
    Cost: about 1 us a field; 5 ms for a graph of 200 nodes.
    """
    if data[ORT_MARK_AT:].startswith(ORT_MARK):
        raise GraphFault("it is ONNX Runtime's own format, which only looks like ONNX; export ONNX")
    model = parse(data)
    if 7 not in model:
        raise GraphFault(f"it holds no graph; {DAMAGED}")
    for pair in model.get(14, ()):
        if text(pair, 1) == METADATA_REFUSED:
            raise GraphFault(f"it carries settings for the engine ({METADATA_REFUSED}); export it without them")
    graph: Tree = model[7][0]
    _check_graph(graph)
    constants = {text(tensor, 8) for tensor in graph.get(5, ())}
    constants |= {text(sparse[1][0], 8) for sparse in graph.get(15, ()) if 1 in sparse}
    inputs = [_port(port) for port in graph.get(11, ())]
    return GraphFacts(
        tuple(port for port in inputs if port.name not in constants), tuple(_port(port) for port in graph.get(12, ()))
    )


def _check_graph(graph: Tree) -> None:
    """Look at every tensor: initialisers, sparse ones, and those in attributes of nodes and of nested graphs."""
    for tensor in graph.get(5, ()):
        check_tensor(tensor)
    for sparse in graph.get(15, ()):
        _check_sparse(sparse)
    for node in graph.get(1, ()):
        operator, domain = text(node, 4), text(node, 7)
        if domain not in DOMAINS:
            raise GraphFault(
                f"operator {operator[:80]!r} is of {domain[:80]!r}; expected ONNX's own or com.microsoft: "
                "export with standard operators"
            )
        if operator in OPERATORS_REFUSED:
            raise GraphFault(f"operator {operator} {OPERATORS_REFUSED[operator]}; export without it")
        for attribute in node.get(5, ()):
            _check_attribute(attribute)


def _check_attribute(attribute: Tree) -> None:
    for field in (5, 10):
        for tensor in attribute.get(field, ()):
            check_tensor(tensor)
    for field in (22, 23):
        for sparse in attribute.get(field, ()):
            _check_sparse(sparse)
    for field in (6, 11):
        for graph in attribute.get(field, ()):
            _check_graph(graph)


def _check_sparse(sparse: Tree) -> None:
    for field in (1, 2):
        for tensor in sparse.get(field, ()):
            check_tensor(tensor)


def _port(info: Tree) -> Port:
    name, kinds = text(info, 1), info.get(2, [])
    if kinds and 8 in kinds[0]:
        raise GraphFault(f"{name[:80]!r} is sparse; expected a plain tensor")
    tensor: Tree = kinds[0][1][0] if kinds and 1 in kinds[0] else {}
    code, shapes = number(tensor, 1), tensor.get(2, [])
    sides = shapes[0].get(1, ()) if shapes else ()
    dtype = ELEMENT_TYPES.get(code, f"type number {code}") if code else ""
    return Port(name, dtype, tuple(side[1][0] if 1 in side else None for side in sides))
