"""How much arithmetic a graph is: the multiply-adds of one input, counted from the ONNX file.

Role: `exit_gmac` gives what each exit of a network costs in GMAC, the unit of Dělen's `computation`; export stores it
in the manifest. Flow: the graph with a batch of one -> ONNX's shape inference -> convolutions and matrix products
summed. Counted as papers count (He et al., CVPR'16, and the tools since): a multiplication and the addition after it
are one; additions of biases, pooling, activations and the like are none.

Does not: run a graph, or guess: an operator that multiplies and is not in the table makes the answer unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import onnx
from onnx import helper, shape_inference

# None: not known from the file alone.
Shapes: TypeAlias = "Mapping[str, tuple[int, ...] | None]"

# They multiply and add, in ways that are not counted here, or hold graphs that may.
UNCOUNTED = frozenset(
    {
        *("Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM", "MatMulInteger", "QLinearConv"),
        *("QLinearMatMul", "RNN", "DFT", "STFT", "If", "Loop", "Scan", "SequenceMap"),
    }
)


def exit_gmac(segments: Sequence[bytes], heads: Sequence[bytes]) -> tuple[float | None, ...]:
    """GMAC of each exit for one input: segments 0..k and head k. None where a part cannot be counted.

    Args:
        segments: contents of the ONNX files, in order; the first side of every input is the batch.
        heads: likewise, as many.
    """
    trunk = accumulate(map(multiply_adds, segments), _sum)
    sums = [_sum(way, multiply_adds(head)) for way, head in zip(trunk, heads, strict=True)]
    return tuple(None if total is None else total / 1e9 for total in sums)


def multiply_adds(data: bytes) -> int | None:
    """Multiply-adds of one ONNX file at batch 1; None where an operator or a shape leaves them unknown."""
    model = onnx.load_model_from_string(data)
    shapes = _shapes(model)
    total: int | None = 0
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in UNCOUNTED:
            return None
        if node.op_type in TABLE:
            total = _sum(total, TABLE[node.op_type](node, shapes))
    return total


def _shapes(model: Any) -> Shapes:
    """Shape by name of every tensor in the graph, for one input."""
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for port in model.graph.input:
        if port.name not in constants and port.type.tensor_type.shape.dim:
            port.type.tensor_type.shape.dim[0].dim_value = 1
    # What the file says of these was said for an open batch.
    for port in model.graph.output:
        port.type.tensor_type.ClearField("shape")
    model.graph.ClearField("value_info")
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    ports = {port.name: _sides(port.type.tensor_type) for port in (*graph.input, *graph.value_info, *graph.output)}
    return {**ports, **constants}


def _sides(kind: Any) -> tuple[int, ...] | None:
    if not kind.HasField("shape") or not all(side.HasField("dim_value") for side in kind.shape.dim):
        return None
    return tuple(side.dim_value for side in kind.shape.dim)


def _convolution(node: Any, shapes: Shapes) -> int | None:
    """Every output value takes one filter: (channels in / groups) x kernel, as the weight is laid out."""
    given, weight = shapes.get(node.output[0]), shapes.get(node.input[1])
    return None if given is None or weight is None else math.prod(given) * math.prod(weight[1:])


def _transposed_convolution(node: Any, shapes: Shapes) -> int | None:
    """Every input value goes through one filter: (channels out / groups) x kernel."""
    taken, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    return None if taken is None or weight is None else math.prod(taken) * math.prod(weight[1:])


def _matrix_product(node: Any, shapes: Shapes) -> int | None:
    """Every output value takes one row of the left side."""
    given, left = shapes.get(node.output[0]), shapes.get(node.input[0])
    return None if given is None or left is None else math.prod(given) * left[-1]


def _general_product(node: Any, shapes: Shapes) -> int | None:
    """Gemm: a matrix product whose left side may lie transposed."""
    given, left = shapes.get(node.output[0]), shapes.get(node.input[0])
    if given is None or left is None:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return math.prod(given) * left[0 if attributes.get("transA") else 1]


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


TABLE: dict[str, Callable[[Any, Shapes], int | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _general_product,
    "MatMul": _matrix_product,
}
