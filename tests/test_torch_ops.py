"""Every operator in PyTorch's table gives what ONNX Runtime gives, attribute by attribute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.clients.info import Preprocessing
from delen.exits.bundle import Bundle
from delen.exits.bundle_writer import Description, Part, write_bundle
from delen.exits.manifest import ExitEntry, TensorShape
from delen.exits.runner import EngineFault, Runner

onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")
pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime: pip install 'delen[onnx]'")

from delen.exits.onnx_runner import OnnxRunner  # noqa: E402  (after the skips above)
from delen.exits.torch_runner import TorchRunner  # noqa: E402

helper = onnx.helper
IMAGE = (2, 6, 5)
DRAW = np.random.default_rng(1)


def floats(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


# operator, constants after the input, attributes, shape of the output without batch
CASES: list[tuple[str, list[Any], dict[str, Any], tuple[int, ...]]] = [
    ("Conv", [floats(4, 2, 3, 3), floats(4)], {"pads": [1, 1, 1, 1]}, (4, 6, 5)),
    ("Conv", [floats(4, 2, 3, 3)], {"strides": [2, 1], "dilations": [1, 2]}, (4, 2, 1)),
    ("Conv", [floats(4, 1, 3, 3)], {"group": 2, "pads": [0, 1, 2, 0]}, (4, 6, 4)),
    ("Conv", [floats(3, 2, 1, 1)], {"kernel_shape": [1, 1]}, (3, 6, 5)),
    ("AveragePool", [], {"kernel_shape": [2, 2]}, (2, 5, 4)),
    ("AveragePool", [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (2, 3, 3)),
    ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, (2, 7, 6)),
    ("AveragePool", [], {"kernel_shape": [4, 3], "strides": [4, 3], "ceil_mode": 1}, (2, 2, 2)),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}, (2, 3, 2)),
    ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [2, 1]}, (2, 3, 4)),
    ("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, (2, 4, 3)),
    ("GlobalAveragePool", [], {}, (2, 1, 1)),
    ("ReduceMean", [ints(2, 3)], {}, (2, 1, 1)),
    ("ReduceMean", [ints(-1, 2)], {"keepdims": 0}, (2,)),
    ("Relu", [], {}, IMAGE),
    ("Sigmoid", [], {}, IMAGE),
    ("Identity", [], {}, IMAGE),
    ("Softmax", [], {"axis": 1}, IMAGE),
    ("Softmax", [], {}, IMAGE),
    ("Clip", [np.float32(-0.5), np.float32(0.5)], {}, IMAGE),
    ("Clip", [None, np.float32(0.5)], {}, IMAGE),
    ("Clip", [np.float32(0)], {}, IMAGE),
    ("Add", [floats(2, 1, 1)], {}, IMAGE),
    ("Sub", [floats(5)], {}, IMAGE),
    ("Mul", [floats(1, 6, 5)], {}, IMAGE),
    ("Div", [np.float32(3)], {}, IMAGE),
    ("MatMul", [floats(5, 3)], {}, (2, 6, 3)),
    ("BatchNormalization", [floats(2), floats(2), floats(2), np.array([0.5, 2], np.float32)], {"epsilon": 1e-3}, IMAGE),
    ("Flatten", [], {}, (60,)),
    ("Reshape", [ints(-1, 12, 5)], {"allowzero": 1}, (12, 5)),
    ("Reshape", [ints(0, -1)], {}, (60,)),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, (6, 5, 2)),
    ("Unsqueeze", [ints(1, -1)], {}, (1, 2, 6, 5, 1)),
    ("Slice", [ints(1, 0), ints(4, 9), ints(2, 3), ints(1, 2)], {}, (2, 3, 3)),
    ("Slice", [ints(-3), ints(2**62), ints(-1)], {}, (2, 6, 3)),
    ("Concat", [], {"axis": 1}, (4, 6, 5)),
    ("Pad", [ints(0, 0, 1, 2, 0, 3, 0, 1)], {}, (5, 7, 8)),
    ("Pad", [ints(1, 0, 0, 2), np.float32(7), ints(-1, 1)], {}, (4, 6, 6)),
]


def test_half_precision_inside_a_graph_is_computed_in_half_precision(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["input"], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "c"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["output"], to=onnx.TensorProto.FLOAT),
    ]
    bundle = bundle_of(tmp_path, nodes, [onnx.numpy_helper.from_array(np.array([1.001], np.float16), "c")], IMAGE)
    batch = np.random.default_rng(2).normal(size=(3, *IMAGE)).astype(np.float32)
    loaded = TorchRunner(device="cpu").load(bundle, 4)
    expected = (batch.astype(np.float16) * np.float16(1.001)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(loaded.segment(0, loaded.place(batch))), expected)


def bundle_of(folder: Path, nodes: list[Any], constants: list[Any], given: tuple[int, ...], opset: int = 18) -> Bundle:
    """A bundle whose segment is these nodes; its head makes two classes of whatever comes, by mean and flatten."""
    first = model(nodes, constants, IMAGE, given, opset)
    axes = onnx.numpy_helper.from_array(ints(*range(1, len(given) + 1)), "axes")
    head = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["output"], axis=1),
    ]
    second = model(head, [axes, onnx.numpy_helper.from_array(ints(1), "one")], given, (2,))
    return write_bundle(
        folder / "op",
        Description(
            name="op",
            version="1",
            licence="Apache-2.0",
            classes=("a", "b"),
            input=TensorShape(dtype="float32", shape=IMAGE),
            preprocessing=Preprocessing(),
            exits=(ExitEntry(accuracy=0.5, temperature=1.0),),
            provenance={},
        ),
        segments=[Part(first, TensorShape(dtype="float32", shape=given))],
        heads=[Part(second, TensorShape(dtype="float32", shape=(2,)))],
    )


def model(
    nodes: list[Any], constants: list[Any], taken: tuple[int, ...], given: tuple[int, ...], opset: int = 18
) -> bytes:
    made = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", *taken])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", *given])],
        constants,
    )
    data: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    ).SerializeToString()
    return data


@pytest.mark.parametrize(("op", "constants", "attributes", "given"), CASES)
def test_an_operator_gives_what_onnx_runtime_gives(
    op: str, constants: list[Any], attributes: dict[str, Any], given: tuple[int, ...], tmp_path: Path
) -> None:
    names = ["" if value is None else f"c{place}" for place, value in enumerate(constants)]
    inputs = ["input", *(["input"] if op == "Concat" else names)]
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names, constants, strict=True)
        if value is not None
    ]
    bundle = bundle_of(tmp_path, [helper.make_node(op, inputs, ["output"], **attributes)], tensors, given)
    batch = np.random.default_rng(2).normal(size=(3, *IMAGE)).astype(np.float32)
    runners: list[Runner] = [OnnxRunner(), TorchRunner(device="cpu")]
    results = []
    for runner in runners:
        loaded = runner.load(bundle, 4)
        results.append(np.asarray(loaded.segment(0, loaded.place(batch))))
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_gemm_follows_all_its_attributes(tmp_path: Path) -> None:
    constants = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in (("weight", floats(7, 60)), ("bias", floats(7)), ("ends", ints(-1, 60)))
    ]
    nodes = [
        helper.make_node("Reshape", ["input", "ends"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["output"], transB=1, alpha=0.5, beta=2.0),
    ]
    bundle = bundle_of(tmp_path, nodes, constants, (7,))
    batch = floats(3, *IMAGE)
    by_onnx, by_torch = OnnxRunner().load(bundle, 4), TorchRunner(device="cpu").load(bundle, 4)
    np.testing.assert_allclose(
        by_onnx.segment(0, by_onnx.place(batch)), np.asarray(by_torch.segment(0, by_torch.place(batch))), atol=1e-5
    )


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Tan", ["input"], ["output"]), "operator Tan; supported are Add, "),
        (
            helper.make_node("AveragePool", ["input"], ["output"], kernel_shape=[1, 1], auto_pad="SAME_UPPER"),
            "auto_pad; export explicit pads",
        ),
        (helper.make_node("Squeeze", ["input"], ["output"]), "name them"),
        (helper.make_node("Reshape", ["input", "input"], ["output"]), "input 1 computed at run time"),
    ],
)
def test_what_the_table_lacks_is_refused_at_load(node: Any, words: str, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, [node], [], IMAGE)
    with pytest.raises(EngineFault, match=words) as caught:
        TorchRunner(device="cpu").load(bundle, 4)
    assert caught.value.kind == "unsupported"


def test_an_opset_without_a_reading_is_refused(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, [helper.make_node("Relu", ["input"], ["output"])], [], IMAGE, opset=9)
    with pytest.raises(EngineFault, match="uses opset 9; expected 13 to 22") as caught:
        TorchRunner(device="cpu").load(bundle, 4)
    assert caught.value.kind == "unsupported"


def test_a_gpu_that_is_not_there_is_said() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineFault, match="sees no GPU") as caught:
        TorchRunner(device="cuda")
    assert caught.value.kind == "device"
