"""Reading what an ONNX file says about itself must agree with onnx's own reader, and survive anything."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delen.exits.bundle import shipped_directory
from delen.exits.graph_file import GraphFault, Port, read_facts
from delen.exits.graph_schema import BYTES, FIXED32, FIXED64, REFUSED, SCHEMA, VARINT, Field

SEGMENT = (shipped_directory() / "digits" / "segment2.onnx").read_bytes()


def test_inputs_and_outputs_are_read_without_an_engine() -> None:
    facts = read_facts(SEGMENT)
    assert facts.inputs == (Port("input", "float32", (None, 16, 4, 4)),)
    assert facts.outputs == (Port("output", "float32", (None, 32, 4, 4)),)


def test_every_cut_of_a_graph_is_refused_or_readable_but_never_crashes() -> None:
    for length in range(0, len(SEGMENT), 211):
        with pytest.raises(GraphFault):
            read_facts(SEGMENT[:length])


@settings(max_examples=40)
@given(st.integers(0, len(SEGMENT) - 1), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_but_a_fault(at: int, value: int) -> None:
    damaged = bytearray(SEGMENT)
    damaged[at] = value
    with suppress(GraphFault):
        read_facts(bytes(damaged))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_but_a_fault(data: bytes) -> None:
    with suppress(GraphFault):
        read_facts(data)


def test_external_weights_are_found_wherever_a_tensor_may_be() -> None:
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    helper = onnx.helper
    outside = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "outside")
    outside.data_location = onnx.TensorProto.EXTERNAL
    inside = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "inside")
    info = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch"])
    nested = helper.make_graph([helper.make_node("Constant", [], ["output"], value=outside)], "then", [], [info])
    branch = helper.make_node("If", ["input"], ["output"], then_branch=nested, else_branch=nested)
    sparse = onnx.SparseTensorProto(values=inside, indices=outside)
    hidden = [
        helper.make_graph([], "initializer", [], [info], [outside]),
        helper.make_graph([helper.make_node("Constant", [], ["output"], value=outside)], "attribute", [], [info]),
        helper.make_graph([branch], "nested", [], [info]),
        helper.make_graph([], "sparse", [], [info], sparse_initializer=[sparse]),
    ]
    for graph in hidden:
        with pytest.raises(GraphFault, match="'outside' keeps its data in another file"):
            read_facts(helper.make_model(graph).SerializeToString())
    assert read_facts(helper.make_model(helper.make_graph([], "fine", [], [info], [inside])).SerializeToString())


def test_functions_are_refused_because_tensors_hide_in_them() -> None:
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    helper = onnx.helper
    node = helper.make_node("Identity", ["x"], ["y"])
    function = helper.make_function("delen.test", "Same", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])
    model = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    with pytest.raises(GraphFault, match="functions"):
        read_facts(model.SerializeToString())


def test_the_schema_is_that_of_onnx() -> None:
    onnx = pytest.importorskip("onnx", reason="compares with onnx's own schema: pip install 'delen[torch]'")
    kinds = {
        "model": onnx.ModelProto,
        "graph": onnx.GraphProto,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "tensor": onnx.TensorProto,
        "sparse tensor": onnx.SparseTensorProto,
        "port": onnx.ValueInfoProto,
        "type": onnx.TypeProto,
        "tensor type": onnx.TypeProto.Tensor,
        "shape": onnx.TensorShapeProto,
        "side": onnx.TensorShapeProto.Dimension,
        "annotation": onnx.TensorAnnotation,
        "pair": onnx.StringStringEntryProto,
        "operator set": onnx.OperatorSetIdProto,
    }
    assert kinds.keys() == SCHEMA.keys()
    named = {message.DESCRIPTOR.full_name: kind for kind, message in kinds.items()}
    named["onnx.TypeProto.SparseTensor"] = "tensor type"  # the same two fields
    # google.protobuf.descriptor.FieldDescriptor: TYPE_* by number.
    wires = {1: FIXED64, 2: FIXED32, 3: VARINT, 4: VARINT, 5: VARINT, 14: VARINT, 9: BYTES, 11: BYTES, 12: BYTES}
    for kind, message in kinds.items():
        theirs = {}
        for field in message.DESCRIPTOR.fields:
            if (kind, field.number) not in REFUSED:
                inside = named[field.message_type.full_name] if field.message_type else ""
                theirs[field.number] = Field(wires[field.type], field.is_repeated, inside)
        assert SCHEMA[kind] == theirs, kind


def test_what_two_readers_could_read_differently_is_refused_and_onnx_reads_both_as_one() -> None:
    onnx = pytest.importorskip("onnx", reason="shows how onnx reads it: pip install 'delen[torch]'")
    first = onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node("Loop", [], ["a"])], "g", [], []))
    doubled = first.SerializeToString() + first.SerializeToString()
    assert len(onnx.load_model_from_string(doubled).graph.node) == 2
    with pytest.raises(GraphFault, match="stands twice"):
        read_facts(doubled)
