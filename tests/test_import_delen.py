"""Networks as Dělen released them become bundles that give what the graphs gave, or are refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[train]'")
pytest.importorskip("torch", reason="import shares its checks with export: pip install 'delen[train]'")
pytest.importorskip("onnxruntime", reason="runs them: pip install 'delen[onnx]'")

from delen.clients.info import Preprocessing  # noqa: E402  (after the skips above)
from delen.exits.bundle import load_bundle  # noqa: E402
from delen.exits.export import ExportError  # noqa: E402
from delen.exits.import_delen import ImportOrder, import_delen, read_delen  # noqa: E402
from delen.exits.onnx_parts import GraphError  # noqa: E402
from delen.exits.onnx_runner import OnnxRunner  # noqa: E402

helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT
SIDE, CLASSES = 8, 5


def weight(name: str, *shape: int) -> Any:
    seed = sum(map(ord, name)) + len(shape)
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 4, name)


def stage(channels: int, *, last: bool = False, first_side: int = 1) -> Any:
    """One graph as an exporter traces it for a single image: a convolution, and a head that flattens by Reshape."""
    features = "features" if not last else "inside"
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], [features]),
        helper.make_node("GlobalAveragePool", [features], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["row"]),
        helper.make_node("Gemm", ["row", "v"], ["output"], transB=1),
    ]
    constants = [
        weight("w", 4, channels, 3, 3),
        weight("v", CLASSES, 4),
        numpy_helper.from_array(np.array([first_side, 4], np.int64), "flat"),
    ]
    outputs = [helper.make_tensor_value_info("output", FLOAT, [1, CLASSES])]
    if not last:
        outputs.append(helper.make_tensor_value_info("features", FLOAT, [1, 4, SIDE, SIDE]))
    return model(nodes, constants, outputs, channels)


def model(nodes: list[Any], constants: list[Any], outputs: list[Any], channels: int) -> Any:
    inputs = [helper.make_tensor_value_info("input", FLOAT, [1, channels, SIDE, SIDE])]
    graph = helper.make_graph(nodes, "stage", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def released(folder: Path, *stages: Any, name: str = "small") -> Path:
    for index, made in enumerate(stages or (stage(3), stage(4), stage(4, last=True))):
        onnx.save_model(made, folder / f"{name}_net{index:02}.onnx")
    return folder


def order(folder: Path, exits: int = 3, **more: Any) -> ImportOrder:
    return ImportOrder(
        folder=folder,
        out=folder / "out",
        accuracies=(0.5, 0.6, 0.7)[:exits],
        gmac=(0.1, 0.2, 0.3)[:exits],
        preprocessing=Preprocessing(),
        **more,
    )


def run_as_released(folder: Path, image: np.ndarray) -> list[np.ndarray]:
    """Logits of every exit, by the files themselves, as Dělen's server runs them."""
    import onnxruntime

    given = []
    for path in sorted(folder.glob("*_net*.onnx")):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]
        values = dict(zip(names, session.run(names, {"input": image}), strict=True))
        given.append(values["output"][0])
        image = values.get("features", image)
    return given


def run_bundle(folder: Path, images: np.ndarray) -> list[np.ndarray]:
    bundle = load_bundle(folder)
    loaded = OnnxRunner().load(bundle, len(images))
    features, given = loaded.place(images), []
    for index in range(len(bundle.manifest.exits)):
        features = loaded.segment(index, features)
        given.append(loaded.head(index, features))
    return given


def test_a_bundle_gives_for_five_images_at_once_what_the_released_graphs_give_one_by_one(tmp_path: Path) -> None:
    bundle = import_delen(order(released(tmp_path)))
    images = np.random.default_rng(5).normal(size=(5, 3, SIDE, SIDE)).astype(np.float32)
    given = run_bundle(tmp_path / "out", images)
    for row, image in enumerate(images):
        for logits, wanted in zip(given, run_as_released(tmp_path, image[None]), strict=True):
            np.testing.assert_allclose(logits[row], wanted, rtol=1e-4, atol=1e-5)
    manifest = bundle.manifest
    assert manifest.name == "small"
    assert [(entry.accuracy, entry.gmac) for entry in manifest.exits] == [(0.5, 0.1), (0.6, 0.2), (0.7, 0.3)]
    assert manifest.calibration is None
    # A head not asked for costs nothing: the segment's graph holds none of it.
    segment = onnx.load_model_from_string(bundle.read(manifest.segments[0].file))
    assert [node.op_type for node in segment.graph.node] == ["Conv", "Relu"]


def test_weights_in_a_file_of_their_own_are_brought_inside(tmp_path: Path) -> None:
    released(tmp_path)
    wanted = run_as_released(tmp_path, np.ones((1, 3, SIDE, SIDE), np.float32))
    for path in sorted(tmp_path.glob("*.onnx")):
        made = onnx.load_model(path)
        onnx.save_model(made, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=0)
    bundle = import_delen(order(tmp_path))
    given = run_bundle(bundle.directory, np.ones((1, 3, SIDE, SIDE), np.float32))
    np.testing.assert_allclose([rows[0] for rows in given], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "folder/weights", "..", ""])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    made = stage(3)
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "small_net00.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(GraphError, match="expected a plain file name beside the graph"):
        read_delen(folder)


def test_a_link_and_a_file_cut_short_are_refused(tmp_path: Path) -> None:
    made = stage(3)
    onnx.save_model(
        made, tmp_path / "small_net00.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    data = (tmp_path / "weights").read_bytes()
    (tmp_path / "weights").write_bytes(data[:100])
    with pytest.raises(GraphError, match="cut short"):
        read_delen(tmp_path)
    (tmp_path / "weights").unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    (tmp_path / "weights").symlink_to("elsewhere")
    with pytest.raises((GraphError, OSError)):
        read_delen(tmp_path)


def test_a_graph_written_for_one_image_only_is_refused(tmp_path: Path) -> None:
    """Its Reshape takes 4 values whatever comes in, and gives the first image's for all."""
    made = stage(3)
    made.graph.node[3].CopyFrom(helper.make_node("Slice", ["pooled", "zero", "one", "axis"], ["sliced"]))
    made.graph.node.insert(4, helper.make_node("Reshape", ["sliced", "flat"], ["row"]))
    for name, value in (("zero", 0), ("one", 1), ("axis", 0)):
        made.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    with pytest.raises(ExportError, match="one image at a time"):
        import_delen(order(released(tmp_path, made), exits=1))
    assert not (tmp_path / "out").exists()


def test_a_head_that_needs_more_than_the_features_is_refused(tmp_path: Path) -> None:
    made = stage(3)
    made.graph.node[2].input[0] = "c"
    with pytest.raises(GraphError, match=r"net00\.onnx, 'output' from 'features', needs 'input' besides 'features'"):
        read_delen(released(tmp_path, made))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "small_net01.onnx").unlink(), "net01 is missing"),
        (lambda folder: (folder / "small_net01.onnx").write_bytes(b"\xff\xfenot a graph"), "is not an ONNX file"),
        (lambda folder: (folder / "small_net01.onnx").write_bytes(b""), "holds no graph"),
        (lambda folder: released(folder, stage(3), name="other"), "holds other, small; say which one"),
        (
            lambda folder: released(folder, stage(3), stage(3)),
            r"takes \[3, 8, 8\], small_net00.onnx gives \[4",
        ),
    ],
)
def test_what_cannot_be_taken_over_is_named(tmp_path: Path, spoil: Any, said: str) -> None:
    spoil(released(tmp_path))
    with pytest.raises(GraphError, match=said):
        read_delen(tmp_path)


def test_a_profile_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="3 exits and 5 classes; its profile has 2 exits"):
        import_delen(order(released(tmp_path), exits=2))


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\*_net00\.onnx"):
        read_delen(tmp_path)
