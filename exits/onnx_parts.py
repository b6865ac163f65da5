"""Take a piece out of an ONNX graph, with its weights inside and its batch open.

Role: what `import_delen.py` does to graphs that others exported. Flow: `read_model(path)` -> `piece(model, start, end)`
-> the bytes of a part. External weights are read here, not by onnx, and only from plain files beside the graph.

Does not: run anything, or convert operators.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

from .bundle import FILE_BYTES_MAX, INPUT, OUTPUT
from .bundle_writer import Part
from .manifest import TensorShape

IR_VERSION = 8  # as `export.py` writes
BATCH = "batch"


class GraphError(ValueError):
    """A graph that cannot become part of a bundle: which, what was expected, what to do."""


def read_model(path: Path) -> Any:
    """An ONNX model with all its weights inside. Raises GraphError, or OSError where the file cannot be read."""
    try:
        model = onnx.load_model_from_string(_read_plain(path, 0, None))
    except DecodeError as error:
        raise GraphError(f"{path} is not an ONNX file, or it is damaged: export it again") from error
    if not model.graph.node:
        raise GraphError(f"{path} holds no graph; it is damaged or not ONNX: export it again")
    if model.functions or any(attribute.HasField("g") or attribute.graphs for attribute in _attributes(model)):
        raise GraphError(f"{path} holds functions, If or Loop; export plain inference graphs")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            _bring_in(tensor, path)
    return model


def piece(model: Any, start: str, end: str, taken: tuple[int, ...], what: str) -> Part:
    """What lies between two tensors, as a graph of its own with ports `input` and `output`.

    Args:
        taken: shape of `start` without its batch; float32.
        what: how messages call it.
    Raises:
        GraphError: `end` needs something else than `start` and constants, or its shape depends on the batch.
    """
    nodes = _between(model, start, end, what)
    names = {start: INPUT, end: OUTPUT, "": ""}
    used = {name for node in nodes for name in node.input}
    if start == end:
        nodes, names = [helper.make_node("Identity", [INPUT], [OUTPUT])], {INPUT: INPUT, OUTPUT: OUTPUT}
    # Whatever else is called `input` or `output` in there must not meet the ports.
    named = [_renamed(node, names) for node in nodes]
    constants = []
    for tensor in model.graph.initializer:
        if tensor.name in used:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names.get(tensor.name, f"in.{tensor.name}")
            constants.append(copy)
    _open_batch(named, constants)
    port = helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        named, "part", [port(INPUT, float32, [BATCH, *taken])], [port(OUTPUT, float32, None)], constants
    )
    domains = {node.domain for node in named}
    imports = [entry for entry in model.opset_import if entry.domain in domains]
    made = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="delen")
    return _settled(made, what)


def _between(model: Any, start: str, end: str, what: str) -> list[Any]:
    """The nodes that `end` needs, back to `start`, in their order."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    constants = {tensor.name for tensor in model.graph.initializer}
    needed: set[int] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name in (start, "") or name in constants:
            continue
        if name not in makers:
            raise GraphError(
                f"{what} needs {name!r} besides {start!r}; one tensor only may cross from part to part: "
                "export heads so that they start from the features"
            )
        node = makers[name]
        if id(node) not in needed:
            needed.add(id(node))
            waiting.extend(node.input)
    # makers keeps every node alive, so no two have one id.
    return [node for node in model.graph.node if id(makers.get(_first(node))) in needed]


def _first(node: Any) -> str:
    return next((name for name in node.output if name), "")


def _renamed(node: Any, names: dict[str, str]) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for field in ("doc_string", "metadata_props"):
        copy.ClearField(field)
    for ends in (copy.input, copy.output):
        for index, name in enumerate(ends):
            ends[index] = names.get(name, f"in.{name}")
    return copy


def _open_batch(nodes: list[Any], constants: list[Any]) -> None:
    """A Reshape to [1, ...] was traced with a batch of one: 0 there takes the batch of what comes in.

    Where that is not what was meant, running the part at several batch sizes shows it (`import_delen.py`).
    """
    shapes = {tensor.name: tensor for tensor in constants}
    for node in nodes:
        if node.op_type == "Reshape" and node.input[1] in shapes:
            sides = numpy_helper.to_array(shapes[node.input[1]])
            if (
                len(sides) > 1
                and sides[0] == 1
                and not any(entry.name == "allowzero" and entry.i for entry in node.attribute)
            ):
                opened = numpy_helper.from_array(np.array([0, *sides[1:]], np.int64), f"{node.output[0]}.shape")
                constants.append(opened)
                node.input[1] = opened.name


def _settled(model: Any, what: str) -> Part:
    """Check the graph and let onnx say what shape it gives."""
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GraphError(f"{what} is not a valid graph with an open batch: {reason}") from error
    kind = inferred.graph.output[0].type.tensor_type
    sides = tuple(side.dim_value for side in kind.shape.dim)
    if kind.elem_type != onnx.TensorProto.FLOAT or len(sides) < 2 or min(sides[1:]) < 1:
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise GraphError(
            f"{what} gives {dtype}{list(sides)} (0: open); expected FLOAT, an open "
            "batch and known other sides: export it with fixed sides"
        )
    if sides[0] != 0:
        raise GraphError(
            f"{what} gives a batch of {sides[0]} whatever comes in; export it with dynamic_axes for axis 0"
        )
    given = TensorShape(dtype="float32", shape=sides[1:])
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH, *sides[1:]]))
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"{what} is not a valid graph: {' '.join(str(error).split())[:200]}") from error
    return Part(model.SerializeToString(deterministic=True), given)


def _attributes(model: Any) -> Iterator[Any]:
    return (attribute for node in model.graph.node for attribute in node.attribute)


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _bring_in(tensor: Any, path: Path) -> None:
    """Replace a reference to another file by its bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    if name in ("", ".", "..") or Path(name).name != name:
        raise GraphError(
            f"{path}: weights {tensor.name[:80]!r} lie at {name[:120]!r}; expected a plain file name beside the graph: "
            "put the file there and export again"
        )
    try:
        offset, length = int(entries.get("offset", "0")), int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise GraphError(f"{path}: weights {tensor.name[:80]!r} have an offset or length that is no number") from None
    data = _read_plain(path.parent / name, offset, length)
    try:
        wanted = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise GraphError(f"{path}: weights {tensor.name[:80]!r} are of no type that ONNX defines") from None
    if len(data) != wanted:
        raise GraphError(
            f"{path}: weights {tensor.name[:80]!r} need {wanted} bytes, {name[:120]} has {len(data)} there; it is cut "
            "short or another export's: copy it again"
        )
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = data


def _read_plain(path: Path, offset: int, length: int | None) -> bytes:
    """Bytes of a plain file; a link or special file is refused."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES_MAX:
            raise GraphError(f"{path} is no plain file of at most {FILE_BYTES_MAX} bytes; put the file itself there")
        if not 0 <= offset <= found.st_size or (length is not None and not 0 <= length <= found.st_size - offset):
            raise GraphError(
                f"{path} has {found.st_size} bytes; {length} from {offset} on were expected: it is cut short"
            )
        stream.seek(offset)
        return stream.read() if length is None else stream.read(length)
