"""ONNX operators as PyTorch calls: the table that `torch_runner.py` makes a graph's steps from.

Role: `step_of(node)` gives a function from a node's input tensors to its output tensor; everything that does not depend
on the input (attributes, axes, shapes) is settled once, at load. Semantics: onnx.ai/onnx/operators, opsets 13 to 22.

Does not: support training, control flow, or shapes that are computed at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Step: TypeAlias = "Callable[[Sequence[Any]], Tensor]"


class UnsupportedOperator(ValueError):
    """A node that the table has no PyTorch call for; the text says which and what there is."""


class Node(NamedTuple):
    """One ONNX node. `constants[i]`: the value of input i where it is known at load, else None."""

    op: str
    attributes: dict[str, Any]
    constants: tuple[npt.NDArray[Any] | None, ...]

    def number(self, key: str, default: Any) -> Any:
        return self.attributes.get(key, default)

    def known(self, index: int) -> list[Any] | None:
        """Input `index` as a list of Python numbers; None where the node has no such input."""
        if index >= len(self.constants):
            return None
        value = self.constants[index]
        if value is None:
            raise UnsupportedOperator(f"{self.op} with input {index} computed at run time; export it as a constant")
        listed: list[Any] = np.atleast_1d(value).tolist()
        return listed


def step_of(node: Node) -> Step:
    """The PyTorch call of one node. Raises UnsupportedOperator."""
    make = TABLE.get(node.op)
    if make is None:
        raise UnsupportedOperator(f"operator {node.op}; supported are {', '.join(sorted(TABLE))}")
    return make(node)


def _convolution(node: Node) -> Step:
    before = _padding(node)
    strides, dilations, groups = node.number("strides", 1), node.number("dilations", 1), node.number("group", 1)
    weight = node.constants[1]
    rank = len(node.number("kernel_shape", ())) or (weight.ndim - 2 if weight is not None else 2)
    call = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    pads = before.symmetric

    def run(inputs: Sequence[Any]) -> Tensor:
        images = inputs[0] if pads is not None else functional.pad(inputs[0], before.both)
        bias = inputs[2] if len(inputs) > 2 else None
        return call(images, inputs[1], bias, strides, 0 if pads is None else pads, dilations, groups)

    return run


def _average_pool(node: Node) -> Step:
    kernel = node.number("kernel_shape", None)
    padding = _padding(node)
    if padding.symmetric is None or any(side != 1 for side in node.number("dilations", [1])):
        raise UnsupportedOperator("AveragePool with different padding on two sides, or dilated; use an explicit Pad")
    pads = padding.symmetric
    strides, ceil = node.number("strides", [1] * len(kernel)), bool(node.number("ceil_mode", 0))
    counted = bool(node.number("count_include_pad", 0))
    call = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(kernel)]
    return lambda inputs: call(inputs[0], kernel, strides, pads, ceil, counted)


def _max_pool(node: Node) -> Step:
    kernel = node.number("kernel_shape", None)
    padding = _padding(node)
    strides, dilations = node.number("strides", [1] * len(kernel)), node.number("dilations", [1] * len(kernel))
    ceil = bool(node.number("ceil_mode", 0))
    call = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(kernel)]
    pads = padding.symmetric
    if pads is not None:
        return lambda inputs: call(inputs[0], kernel, strides, pads, dilations, ceil)
    return lambda inputs: call(
        functional.pad(inputs[0], padding.both, value=float("-inf")), kernel, strides, 0, dilations, ceil
    )


class _Padding(NamedTuple):
    """`symmetric`: per axis where both sides are equal, else None; `both`: as torch's pad wants it, last axis first."""

    symmetric: list[int] | None
    both: list[int]


def _padding(node: Node) -> _Padding:
    if node.number("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedOperator(f"{node.op} with auto_pad; export explicit pads")
    pads = list(node.number("pads", []))
    rank = len(pads) // 2
    starts, ends = pads[:rank], pads[rank:]
    both = [side for axis in reversed(range(rank)) for side in (starts[axis], ends[axis])]
    if starts != ends:
        return _Padding(None, both)
    return _Padding(starts or [0] * max(1, len(node.number("kernel_shape", [0]))), both)


def _pad(node: Node) -> Step:
    if node.number("mode", b"constant") != b"constant":
        raise UnsupportedOperator(f"Pad in mode {node.number('mode', b'').decode()}; pad with a constant")
    pads = node.known(1) or []
    filled = (node.known(2) or [0.0])[0] if _given(node, 2) else 0.0
    axes = node.known(3) if _given(node, 3) else None

    def run(inputs: Sequence[Any]) -> Tensor:
        rank = inputs[0].ndim
        # torch wants both sides of every axis, the last axis first.
        sides = [0] * (2 * rank)
        for place, axis in enumerate(range(rank) if axes is None else axes):
            at = 2 * (rank - 1 - axis % rank)
            sides[at], sides[at + 1] = pads[place], pads[place + len(pads) // 2]
        return functional.pad(inputs[0], sides, value=filled)

    return run


def _gemm(node: Node) -> Step:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    left, right = bool(node.number("transA", 0)), bool(node.number("transB", 0))

    def run(inputs: Sequence[Any]) -> Tensor:
        first = inputs[0].mT if left else inputs[0]
        second = inputs[1].mT if right else inputs[1]
        if len(inputs) < 3 or inputs[2] is None:
            product: Tensor = alpha * (first @ second)
            return product
        return torch.addmm(inputs[2], first, second, beta=beta, alpha=alpha)

    return run


# Numbers of TensorProto.DataType, from onnx.proto.
_TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
_TYPES |= {10: torch.float16, 11: torch.float64, 16: torch.bfloat16}


def _cast(node: Node) -> Step:
    dtype = _TYPES.get(node.number("to", 0))
    if dtype is None:
        raise UnsupportedOperator(f"Cast to type {node.number('to', 0)}; supported are {sorted(_TYPES)}")
    return lambda inputs: inputs[0].to(dtype)


def _clip(node: Node) -> Step:
    low, high = (node.known(index) if _given(node, index) else None for index in (1, 2))
    return lambda inputs: torch.clamp(inputs[0], low[0] if low else None, high[0] if high else None)


def _mean(node: Node) -> Step:
    # Axes are an attribute up to opset 17 and an input from 18 on.
    axes = node.number("axes", None) or (node.known(1) if _given(node, 1) else None)
    keep = bool(node.number("keepdims", 1))
    if not axes and node.number("noop_with_empty_axes", 0):
        return lambda inputs: inputs[0]
    return lambda inputs: torch.mean(inputs[0], tuple(axes) if axes else tuple(range(inputs[0].ndim)), keep)


def _reshape(node: Node) -> Step:
    shape = node.known(1) or []
    literal = bool(node.number("allowzero", 0))
    if not literal and 0 in shape:
        copied = [index for index, side in enumerate(shape) if side == 0]

        def run(inputs: Sequence[Any]) -> Tensor:
            sides = list(shape)
            for index in copied:
                sides[index] = inputs[0].shape[index]
            return torch.reshape(inputs[0], sides)

        return run
    return lambda inputs: torch.reshape(inputs[0], shape)


def _flatten(node: Node) -> Step:
    axis = node.number("axis", 1)
    if axis == 1:
        return lambda inputs: torch.flatten(inputs[0], 1)

    def run(inputs: Sequence[Any]) -> Tensor:
        lead = int(np.prod(inputs[0].shape[:axis])) if axis else 1
        return torch.reshape(inputs[0], (lead, -1))

    return run


def _slice(node: Node) -> Step:
    starts, ends = node.known(1) or [], node.known(2) or []
    axes = node.known(3) if _given(node, 3) else list(range(len(starts)))
    steps = node.known(4) if _given(node, 4) else [1] * len(starts)
    cuts = list(zip(axes or [], starts, ends, steps or [], strict=True))
    if any(step < 1 for *_, step in cuts):
        raise UnsupportedOperator("Slice with a negative step; torch has no such view")

    def run(inputs: Sequence[Any]) -> Tensor:
        index = [slice(None)] * inputs[0].ndim
        for axis, start, end, step in cuts:
            index[axis] = slice(start, end, step)
        part: Tensor = inputs[0][tuple(index)]
        return part

    return run


def _squeeze(node: Node) -> Step:
    axes = node.known(1) if _given(node, 1) else None
    # Without axes a batch of 1 would lose its batch; ONNX says so, but no network wants it.
    if not axes:
        raise UnsupportedOperator("Squeeze without axes; name them")
    return lambda inputs: torch.squeeze(inputs[0], tuple(axes))


def _unsqueeze(node: Node) -> Step:
    axes = node.known(1) or []

    def run(inputs: Sequence[Any]) -> Tensor:
        rank = inputs[0].ndim + len(axes)
        output: Tensor = inputs[0]
        for axis in sorted(axis % rank for axis in axes):
            output = torch.unsqueeze(output, axis)
        return output

    return run


def _norm(node: Node) -> Step:
    epsilon = node.number("epsilon", 1e-5)
    if node.number("training_mode", 0):
        raise UnsupportedOperator("BatchNormalization in training mode; export the network in eval mode")
    return lambda inputs: functional.batch_norm(
        inputs[0], inputs[3], inputs[4], inputs[1], inputs[2], False, 0.0, epsilon
    )


def _transpose(node: Node) -> Step:
    order = node.number("perm", None)
    return lambda inputs: torch.permute(inputs[0], order or tuple(reversed(range(inputs[0].ndim))))


def _concat(node: Node) -> Step:
    axis = node.number("axis", 0)
    return lambda inputs: torch.cat(list(inputs), axis)


def _softmax(node: Node) -> Step:
    axis = node.number("axis", -1)
    return lambda inputs: torch.softmax(inputs[0], axis)


def _global_average_pool(_: Node) -> Step:
    return lambda inputs: torch.mean(inputs[0], tuple(range(2, inputs[0].ndim)), keepdim=True)


def _given(node: Node, index: int) -> bool:
    """Whether an optional input is there: ONNX leaves a gap as an input without a name, here an empty array."""
    if index >= len(node.constants):
        return False
    value = node.constants[index]
    return value is None or value.size > 0


def _plain(call: Callable[..., Tensor]) -> Callable[[Node], Step]:
    """An operator without attributes."""
    return lambda node: lambda inputs: call(*inputs)


TABLE: dict[str, Callable[[Node], Step]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "Div": _plain(torch.div),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "Identity": lambda node: lambda inputs: inputs[0],
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
